//! What is due, and the end.

use std::io;

use crate::cli::{Asker, REPORT};
use crate::link::HELLO_TIMEOUT;
use crate::spawner::Order;
use crate::turn::Millis;

use super::Bridge;

/// How long everything in the sandbox may take to end by itself.
const TERM_TIME: Millis = 1_000;

/// How long the kernel may take to end what was killed.
const KILL_TIME: Millis = 500;

/// The sandbox is being ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closing {
    /// When everything is killed, or given up when it was.
    due: Millis,
    killed: bool,
}

impl Bridge {
    /// The next time at which something is due.
    pub(super) fn deadline(&self) -> Option<Millis> {
        let link = match &self.link {
            Some(link) if link.is_greeted() => None,
            Some(link) => Some(link.since + HELLO_TIMEOUT),
            None => Some(self.orphaned_at()),
        };
        let cli = self.cli.iter().flat_map(|cli| {
            let killed = cli.killed.map(|(_, report_by)| report_by);
            let asked = cli.asked.iter().map(|asked| asked.until);
            cli.end_by.into_iter().chain(killed).chain(asked)
        });
        let running = self.commands.values().filter(|command| !command.is_over());
        let commands = running.map(|command| command.until);
        let closing = self.closing.map(|closing| closing.due);
        link.into_iter()
            .chain(self.turns.deadline())
            .chain(closing)
            .chain(cli)
            .chain(commands)
            .min()
    }

    pub(super) fn time_passes(&mut self) -> io::Result<()> {
        let now = self.now();
        if self
            .link
            .as_ref()
            .is_some_and(|link| !link.is_greeted() && now >= link.since + HELLO_TIMEOUT)
        {
            self.unlink();
        }
        if self.link.is_none() && now >= self.orphaned_at() {
            self.close()?;
        }
        let mut effects = Vec::new();
        self.turns.tick(now, &mut effects);
        self.apply(effects, None, Asker::Nobody)?;
        self.late_cli(now)?;
        self.late_commands(now)?;
        self.late_closing(now)
    }

    /// Ends everything in the sandbox, and then the sandbox.
    pub(super) fn close(&mut self) -> io::Result<()> {
        if self.closing.is_some() {
            return Ok(());
        }
        self.done |= self.bereft;
        self.closing = Some(Closing { due: self.now() + TERM_TIME, killed: false });
        self.next = None;
        self.cli.iter_mut().for_each(|cli| cli.expected = true);
        self.order(&Order::SignalAll { kill: false }, &[])
    }

    fn late_closing(&mut self, now: Millis) -> io::Result<()> {
        let Some(closing) = self.closing.filter(|closing| now >= closing.due) else {
            return Ok(());
        };
        if closing.killed {
            // The kernel ends with us what is left.
            self.done = true;
            return Ok(());
        }
        self.closing = Some(Closing { due: now + KILL_TIME, killed: true });
        self.order(&Order::SignalAll { kill: true }, &[])
    }

    fn late_cli(&mut self, now: Millis) -> io::Result<()> {
        let Some(cli) = &mut self.cli else { return Ok(()) };
        if cli.ended.is_none() && cli.killed.is_some_and(|(_, report_by)| now >= report_by) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it does not obey"));
        }
        let overdue = cli.end_by.is_some_and(|due| now >= due);
        cli.end_by = cli.end_by.filter(|_| !overdue);
        let late: Vec<_> = cli.asked.extract_if(.., |asked| now >= asked.until).collect();
        if overdue {
            self.kill_cli("the CLI did not end in time and was killed")?;
        }
        for asked in late {
            match asked.by {
                Asker::Start => self.kill_cli("the CLI did not become ready in time")?,
                by => self.reply(by, Err("timed out".to_owned())),
            }
        }
        Ok(())
    }

    fn late_commands(&mut self, now: Millis) -> io::Result<()> {
        let late = self.commands.iter_mut().filter_map(|(id, command)| {
            let is_late = !command.is_over() && now >= command.until;
            (is_late && command.time_out(now + REPORT)).then_some(*id)
        });
        let late: Vec<u64> = late.collect();
        late.into_iter().try_for_each(|id| self.order(&Order::Kill { id }, &[]))
    }

    fn orphaned_at(&self) -> Millis {
        if self.closing.is_some() {
            return Millis::MAX;
        }
        let timeout = u64::try_from(self.parts.orphan_timeout.as_millis()).unwrap_or(Millis::MAX);
        self.alone_since.saturating_add(timeout)
    }
}
