//! How long a fork takes, and how long the parent stands still for it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Ash, Client as _, Options, session_of};
use ash_modelapi::monotonic_ns;

use super::{About, Outcome, Scale};
use crate::files::LARGE;
use crate::report::{Row, Unit};
use crate::stage::{self, Sent};
use crate::stats::Times;

pub(super) const ABOUT: About = About {
    title: "POST fork of a session with 2 GB in 20,000 files, stand-in for the CLI",
    how: "The parent is in the middle of a turn, and a command in its sandbox writes into a file of \
          the workspace every 5 ms, so that it has to be held. POST fork saves it as it is, copies \
          files and history, and answers when the fork can be resumed and would be whole should the \
          machine go down; what it has copied is flushed behind that. On xfs (an image, mounted) \
          blocks are shared; on ext4 (the disk of this machine) `cp -a` and `sync -f` of the parent's \
          directory, before each fork, say what the disk can do, and a `sync -f` behind the answer is \
          counted with the fork where the two are compared. The turn \
          writes a delta with the time (CLOCK_MONOTONIC) every 500 us: how long the parent was held \
          is at most the longest time between two of them while the request was under way; the same \
          in the second before says how much of that is the machine's.",
    measure,
};

/// MiB of the image: twice the workspace, and what is kept of it.
const IMAGE: u32 = 12 * 1024;

/// Deltas of the parent's turn, every 500 us: a minute.
const DELTAS: usize = 120_000;

/// While this is there, the command in the sandbox goes on.
const BUSY: &str = "busy";

/// Nothing but the shell itself: other processes would take time from what is measured.
const WRITER: &str = "exec bash -c 'mkfifo /tmp/never; exec 3<>/tmp/never; \
    while [ -e busy ]; do echo $RANDOM >moving; read -t 0.005 -u 3; done; rm /tmp/never'";

/// How long before the fork the parent's turn is looked at.
const BEFORE: Duration = Duration::from_secs(1);

/// What was measured on one file system.
#[derive(Default)]
struct Measured {
    forks: Times,
    /// The same, and till the disk has them.
    flushed: Times,
    copies: Times,
    held: Times,
    otherwise: Times,
}

fn measure(scale: Scale) -> Result<Outcome> {
    let options = Options { disk: Some(IMAGE), file_system: "xfs", ..Options::stub() };
    let shared = on(options, scale.of(20), scale)?;
    let copied = on(Options::stub(), scale.of(5), scale)?;
    let speed = 100.0 * copied.copies.quantile(0.5) / copied.flushed.quantile(0.5);
    let speed = Row::plain("ext4: speed of a plain copy", copied.forks.n(), Unit::Percent, speed);
    let rows = vec![
        Row::times("xfs: POST fork", &shared.forks).floor(700.0),
        Row::times("xfs: POST fork and sync -f", &shared.flushed),
        Row::times("xfs: cp -a --reflink=always and sync -f", &shared.copies),
        Row::times("xfs: the parent held", &shared.held).floor(20.0),
        Row::times("xfs: the same without a fork", &shared.otherwise),
        speed.floor(90.0),
        Row::times("ext4: POST fork", &copied.forks),
        Row::times("ext4: POST fork and sync -f", &copied.flushed),
        Row::times("ext4: cp -a and sync -f", &copied.copies),
        Row::times("ext4: the parent held", &copied.held).floor(20.0),
        Row::times("ext4: the same without a fork", &copied.otherwise),
    ];
    Ok(Outcome { rows, notes: vec![] })
}

fn on(options: Options, times: usize, scale: Scale) -> Result<Measured> {
    let flags: &[&str] = if options.file_system == "xfs" { &["--reflink=always"] } else { &[] };
    let ash = stage::stub_with(options)?;
    let parent = stage::filled_session(&ash, scale.fill(LARGE))?;
    let mut measured = Measured::default();
    for _ in 0..times.max(2) {
        measured.copies.append(plain_copy(&ash, &parent, flags)?);
        measured.one(&ash, &parent)?;
    }
    ash.api().purge(&parent)?;
    ash.finish()?;
    Ok(measured)
}

/// Copies the parent's directory by the usual means.
fn plain_copy(ash: &Ash, parent: &str, flags: &[&str]) -> Result<Times> {
    let sessions = stage::state(ash)?.join("sessions");
    let to = stage::state(ash)?.join("copy");
    let mut times = Times::default();
    let begin = monotonic_ns();
    run(Command::new("cp").arg("-a").args(flags).arg(sessions.join(parent)).arg(&to))?;
    run(Command::new("sync").arg("-f").arg(&to))?;
    times.add(begin, monotonic_ns());
    std::fs::remove_dir_all(&to)?;
    Ok(times)
}

fn run(command: &mut Command) -> Result<()> {
    ensure!(command.status()?.success(), "{command:?} has failed");
    Ok(())
}

impl Measured {
    fn one(&mut self, ash: &Ash, parent: &str) -> Result<()> {
        let api = ash.api();
        let busy = stage::workspace(ash, parent)?.join(BUSY);
        std::fs::write(&busy, "")?;
        let text = format!("[[stamp]] [[deltas {DELTAS} 64 500us]]");
        let turn = stage::send(&api, parent, &text, true)?;
        let (forked, stamps) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| stamps(turn));
            let writer = scope.spawn(|| api.exec(parent, WRITER));
            let forked = self.fork(ash, parent);
            std::fs::remove_file(&busy)?;
            api.interrupt(parent)?;
            let gone = |_| anyhow::anyhow!("a thread is gone");
            let written = writer.join().map_err(gone)??;
            ensure!(written.code == 0, "the command in the sandbox failed: {written:?}");
            anyhow::Ok((forked, reader.join().map_err(gone)??))
        })?;
        let (begin, fork, end) = forked?;
        self.otherwise.append(longest(&stamps, begin, fork)?);
        self.held.append(longest(&stamps, fork, end)?);
        Ok(())
    }

    /// When it was waited, when the fork was asked for, and when it was there.
    fn fork(&mut self, ash: &Ash, parent: &str) -> Result<(u64, u64, u64)> {
        let api = ash.api();
        let begin = monotonic_ns();
        std::thread::sleep(BEFORE);
        let fork = monotonic_ns();
        let made = stage::verb(&api, parent, "fork")?;
        let end = monotonic_ns();
        self.forks.add(fork, end);
        run(Command::new("sync").arg("-f").arg(stage::state(ash)?))?;
        self.flushed.add(fork, monotonic_ns());
        api.purge(&session_of(&made)?)?;
        Ok((begin, fork, end))
    }
}

/// The times of all deltas of a turn.
fn stamps(turn: Sent) -> Result<Vec<u64>> {
    let mut stamps = vec![];
    turn.each_line(|_, line| {
        if let Some(delta) = line.strip_prefix(r#"data: {"delta":""#) {
            let stamp = delta.split(' ').next().and_then(|stamp| stamp.parse().ok());
            stamps.push(stamp.with_context(|| format!("a delta without a time: {line}"))?);
        }
        Ok(())
    })?;
    Ok(stamps)
}

/// The longest time between two deltas.
fn longest(stamps: &[u64], begin: u64, end: u64) -> Result<Times> {
    let within = stamps.windows(2).filter(|pair| pair[1] >= begin && pair[0] <= end);
    let longest = within.max_by_key(|pair| pair[1] - pair[0]).context("there are no deltas")?;
    let mut times = Times::default();
    times.add(longest[0], longest[1]);
    Ok(times)
}
