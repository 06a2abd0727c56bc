//! The bridge itself: one loop around `poll(2)`, no threads.
//!
//! Everything that decides is elsewhere and pure ([`crate::turn`], [`crate::tasks`], [`crate::log`],
//! [`crate::speech`], [`crate::permission`]). Here is who is listened to and who does it:
//!
//! * [`ashd`]: frames from `ashd`;
//! * [`cli`]: lines of the CLI, its start and its end;
//! * [`commands`]: commands beside the turn;
//! * [`drain`]: whether everything was heard and sent;
//! * [`time`]: what is due;
//! * [`last`]: what is left to do when the agent is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use ash_wire::frame::Kind;
use ash_wire::words::{Notice, Start};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::cli::{Asker, Cli};
use crate::commands::Commands;
use crate::link::{self, Link};
use crate::log::{BUDGET, Log};
use crate::spawner::{self, Order, Report};
use crate::tasks::Tasks;
use crate::turn::{Effect, Millis, Turns};

mod ashd;
mod cli;
mod commands;
mod drain;
mod last;
mod time;

#[cfg(test)]
mod stage;

/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;

/// What a bridge is made of.
#[derive(Debug)]
pub struct Parts {
    /// Listens for `ashd`.
    pub listener: OwnedFd,
    /// The socket to the spawner.
    pub spawner: OwnedFd,
    /// `/dev/null`: what commands get as standard input. The bridge can open no file itself.
    pub null: OwnedFd,
    /// The sandbox's id.
    pub sandbox: String,
    /// How long the sandbox lives without an `ashd`.
    pub orphan_timeout: Duration,
}

/// The bridge.
#[derive(Debug)]
pub struct Bridge {
    parts: Parts,
    clock: Instant,
    buffer: Vec<u8>,
    link: Option<Link>,
    links: u64,
    /// Since when no `ashd` was greeted.
    alone_since: Millis,
    log: Log,
    /// The CLI is not heard, because the log is full.
    held: bool,
    turns: Turns,
    tasks: Tasks,
    cli: Option<Cli>,
    /// What starts when the CLI that runs has made room.
    next: Option<Start>,
    commands: Commands,
    /// The connection that waits until everything was sent, and its number for that.
    draining: Option<(u64, u64)>,
    /// The last number given to something that the spawner started.
    last_id: u64,
    closing: Option<time::Closing>,
    /// The spawner is gone: nothing can be started or ended any more.
    bereft: bool,
    done: bool,
}

/// Who has something for us, or takes something from us.
#[derive(Clone, Copy, Debug)]
enum Source {
    Listener,
    Spawner,
    Link,
    CliStdin,
    CliStdout,
    CliStderr,
    Output(u64, Kind),
}

/// What a read came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Got {
    Bytes(usize),
    Nothing,
    End,
}

impl Bridge {
    /// A bridge without a connection and without a CLI.
    pub fn new(parts: Parts) -> Bridge {
        Bridge {
            parts,
            clock: Instant::now(),
            buffer: vec![0; CHUNK],
            link: None,
            links: 0,
            alone_since: 0,
            log: Log::new(BUDGET),
            held: false,
            turns: Turns::default(),
            tasks: Tasks::default(),
            cli: None,
            next: None,
            commands: Commands::new(),
            draining: None,
            last_id: 0,
            closing: None,
            bereft: false,
            done: false,
        }
    }

    /// Serves until it is told to end, or nobody has come for too long.
    ///
    /// # Errors
    /// When the spawner is gone: then nothing of the agent can be started or ended any more. What
    /// the agent had said has been delivered.
    pub fn run(mut self) -> io::Result<()> {
        while !self.done {
            if let Err(error) = self.round() {
                self.deliver_the_rest();
                // Whoever tells it to end may have begun with the spawner.
                return if self.closing.is_some() { Ok(()) } else { Err(error) };
            }
        }
        Ok(())
    }

    /// Waits until something is to be done, and does it.
    fn round(&mut self) -> io::Result<()> {
        for source in self.wait()? {
            self.serve(source)?;
        }
        self.time_passes()?;
        self.drain()?;
        self.after_the_end_of_the_cli()?;
        self.after_the_end_of_commands();
        self.tell_tasks();
        self.write();
        Ok(())
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        let sources = self.sources();
        let mut fds = Vec::with_capacity(sources.len());
        fds.extend(sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        let timeout = self.deadline().map(|due| due.saturating_sub(self.now()));
        match poll(&mut fds, timeout.map(timespec).as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        let ready = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|((source, ..), _)| *source).collect())
    }

    fn sources<'a>(&'a self) -> Vec<(Source, BorrowedFd<'a>, PollFlags)> {
        let mut sources = vec![(Source::Listener, self.parts.listener.as_fd(), PollFlags::IN)];
        if !self.bereft {
            sources.push((Source::Spawner, self.parts.spawner.as_fd(), PollFlags::IN));
        }
        if let Some(link) = &self.link {
            let write = if link.has_work(&self.log) { PollFlags::OUT } else { PollFlags::empty() };
            sources.push((Source::Link, link.socket().as_fd(), PollFlags::IN | write));
        }
        if let Some(cli) = &self.cli {
            let heard = !self.held && cli.may_speak();
            let stdin = cli.stdin.as_ref().filter(|_| cli.has_work());
            let stdout = cli.stdout.as_ref().filter(|_| heard);
            let streams = [
                (Source::CliStdin, stdin, PollFlags::OUT),
                (Source::CliStdout, stdout, PollFlags::IN),
                (Source::CliStderr, cli.stderr.as_ref(), PollFlags::IN),
            ];
            let open = |(source, fd, flags): (_, Option<&'a OwnedFd>, _)| {
                fd.map(|fd| (source, fd.as_fd(), flags))
            };
            sources.extend(streams.into_iter().filter_map(open));
        }
        self.command_sources(&mut sources);
        sources
    }

    fn serve(&mut self, source: Source) -> io::Result<()> {
        match source {
            Source::Listener => self.accept(),
            Source::Spawner => drop(self.hear_spawner()?),
            Source::Link => self.hear_ashd()?,
            Source::CliStdin => {}
            Source::CliStdout => drop(self.read_cli()?),
            Source::CliStderr => self.read_cli_stderr(),
            Source::Output(id, kind) => drop(self.read_output(id, kind)),
        }
        Ok(())
    }

    fn accept(&mut self) {
        if let Some(link) = link::accept(&self.parts.listener, self.links + 1, self.now()) {
            self.links += 1;
            self.alone_since = self.now();
            // The newer one is an ashd that was restarted.
            self.link = Some(link);
        }
    }

    /// Takes the spawner's next report; false when there is none.
    fn hear_spawner(&mut self) -> io::Result<bool> {
        let Some((report, _)) = spawner::receive::<Report>(&self.parts.spawner)? else {
            return Ok(false);
        };
        let (id, how) = match report {
            Report::Ready => return Ok(true),
            Report::Alone => {
                self.done = self.closing.is_some();
                return Ok(true);
            }
            Report::Failed { id, error } => (id, Err(error)),
            Report::Ended { id, how } => (id, Ok(how)),
        };
        if let Some(cli) = self.cli.as_mut().filter(|cli| cli.id == id) {
            cli.ended = Some(how);
        } else if let Some(command) = self.commands.get_mut(&id) {
            command.ended = Some(how);
        }
        Ok(true)
    }

    /// Writes to whoever takes it.
    fn write(&mut self) {
        if let Some(cli) = &mut self.cli {
            cli.write();
        }
        if let Some(link) = &mut self.link
            && link.write(&self.log).is_err()
        {
            self.unlink();
        }
    }

    /// Says how many tasks the CLI runs beside its turns, when that has changed. Once in a round at most,
    /// and only the newest waits to be sent: lines that say so can be made up as fast as one likes.
    fn tell_tasks(&mut self) {
        if let Some(running) = self.tasks.news() {
            let last = self.log.last();
            self.link.iter_mut().for_each(|link| link.tell_tasks(last, running));
        }
    }

    fn unlink(&mut self) {
        self.link = None;
        self.alone_since = self.now();
    }

    /// Carries out what the turns' state machine says. `line` is what [`Effect::Forward`] means,
    /// `asker` wants the answer to an interrupt.
    fn apply(
        &mut self,
        effects: Vec<Effect>,
        line: Option<(Kind, &[u8])>,
        asker: Asker,
    ) -> io::Result<()> {
        for effect in effects {
            match effect {
                Effect::Forward => {
                    line.into_iter().for_each(|(kind, line)| self.record(kind, line))
                }
                Effect::Notice(notice) => self.notice(&notice),
                Effect::Write(turn) => self.cli.iter_mut().for_each(|cli| cli.prompt(&turn)),
                Effect::Interrupt => self.ask_to_interrupt(asker),
                Effect::Kill(reason) => self.kill_cli(reason)?,
            }
        }
        if !self.turns.runs() {
            self.log.turn_ends();
        }
        self.release();
        Ok(())
    }

    fn notice(&mut self, notice: &Notice) {
        if matches!(notice, Notice::TurnBegan { .. } | Notice::SelfTurnBegan) {
            self.log.turn_begins();
        }
        let body = serde_json::to_vec(notice).unwrap_or_default();
        self.record(Kind::Notice, &body);
    }

    fn record(&mut self, kind: Kind, body: &[u8]) {
        self.log.push(kind, body);
        if !self.held && self.log.is_full() {
            self.held = true;
            self.notice(&Notice::Held { bytes: self.log.cost() as u64 });
        }
    }

    fn release(&mut self) {
        if self.held && self.log.has_room() {
            self.held = false;
            self.notice(&Notice::Released);
        }
    }

    fn order(&self, order: &Order, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if self.bereft {
            return Ok(());
        }
        spawner::send(&self.parts.spawner, order, fds)
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn now(&self) -> Millis {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }
}

fn timespec(millis: Millis) -> Timespec {
    // A millisecond more, so that what is due then is due.
    let millis = i64::try_from(millis.saturating_add(1)).unwrap_or(i64::MAX);
    Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 }
}

fn read(from: Option<&OwnedFd>, buffer: &mut [u8]) -> Got {
    match from.map(|from| rustix::io::read(from, buffer)) {
        Some(Ok(count)) if count > 0 => Got::Bytes(count),
        Some(Err(Errno::AGAIN | Errno::INTR)) => Got::Nothing,
        _ => Got::End,
    }
}
