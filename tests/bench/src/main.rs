//! `ash-bench`: measures what is promised of ash's speed and size. `make bench` runs it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use ash_bench::alone;
use ash_bench::figure::{Name, Scale};
use ash_bench::machine;
use ash_bench::report::Report;
use ash_journey::programs;
use clap::Parser;

/// Measures what is promised of ash's speed and size, prints it, and writes bench/RESULTS.md.
///
/// Every figure starts an ashd of its own with what it needs around it: directories, bus, user ids,
/// control group, model API; nothing of it is left afterwards. It runs as root, on a machine that
/// should have nothing else to do. The programs are those in ASH_LIBEXEC_DIR; `turn`, `first`,
/// `primed`, `kept` and `again` need the Claude Code CLI (CLAUDE_CODE_EXECUTABLE), which talks to
/// nobody but a stand-in for the model API.
///
/// What is measured again replaces its older self in bench/RESULTS.md; the rest stays, each with
/// its own date and load. A missed floor is no error: it is written down.
#[derive(Parser)]
#[command(name = "ash-bench", version)]
struct Arguments {
    /// What to measure; all by default
    #[arg(value_enum)]
    figures: Vec<Name>,

    /// Measure a tenth, to see whether it works; nothing is written
    #[arg(long)]
    quick: bool,

    /// Inside a sandbox: drive a CLI for whoever connects to this socket
    #[arg(long, hide = true, value_name = "SOCKET")]
    drive: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.drive {
        Some(socket) => alone::serve(socket),
        None => bench(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

#[expect(clippy::print_stderr, reason = "this is the program's way to say it")]
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("ash-bench: {error:#}");
    ExitCode::FAILURE
}

fn bench(arguments: &Arguments) -> Result<()> {
    let scale = if arguments.quick { Scale::Quick } else { Scale::Full };
    let figures = match &arguments.figures[..] {
        [] => &Name::ALL[..],
        some => some,
    };
    let directory = programs::repository().join("bench");
    let (data, text) = (directory.join("results.json"), directory.join("RESULTS.md"));
    let mut report = Report::load(&data)?;
    machine::take_descriptors()?;
    for name in figures {
        let figure = name.measure(scale)?;
        print(&figure.markdown());
        report.put(figure, &Name::ALL.map(Name::word));
        // At once: an hour's work must not be lost to the next figure.
        if scale == Scale::Full {
            std::fs::create_dir_all(&directory)?;
            report.save(&data, &text)?;
        }
    }
    if figures.len() > 1 {
        print(&report.summary());
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn print(text: &str) {
    println!("{text}");
}
