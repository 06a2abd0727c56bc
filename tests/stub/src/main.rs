//! A stand-in for the Claude Code CLI: speaks its stream-json protocol, does what the directives
//! in the prompt say, and needs no model. The README beside it has the table.

mod options;

mod input;

mod output;

mod transcript;

mod stub;

mod turn;

mod acts;

mod model;

mod startup;

use std::io::{self, Write};
use std::process::ExitCode;

use options::Options;
use stub::{Stop, Stub};
use transcript::Transcript;

fn main() -> ExitCode {
    let options = Options::read(std::env::args().skip(1));
    match run(options) {
        Stop::Exit(code) => ExitCode::from(code),
        Stop::Fatal(sentence) => {
            // Nobody is left to tell when standard error is closed too.
            let _ = writeln!(io::stderr(), "{sentence}");
            ExitCode::FAILURE
        }
        Stop::Output(error) => {
            let _ = writeln!(io::stderr(), "cannot go on: {error}");
            ExitCode::FAILURE
        }
        Stop::Interrupted(_) => ExitCode::FAILURE,
    }
}

fn run(options: Options) -> Stop {
    if options.version {
        let _ = writeln!(io::stdout(), "{} (Claude Code)", options::VERSION);
        return Stop::Exit(0);
    }
    if let Err(stop) = startup::misbehave() {
        return stop;
    }
    let transcript = match Transcript::open(&options) {
        Ok(transcript) => transcript,
        Err(refusal) => return refusal.tell(),
    };
    let Err(stop) = Stub::new(options, transcript).live();
    stop
}
