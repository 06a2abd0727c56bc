//! Commands beside the turn.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use ash_wire::frame::Kind;
use ash_wire::words::{Exec, ExecExit};
use rustix::event::PollFlags;

use crate::commands::{self, Command, MAX_COMMANDS};
use crate::spawner::Order;
use crate::turn::Millis;

use super::{Bridge, Got, Source, read};

/// Reads of each stream after a command has ended: more than a pipe holds. What still comes then
/// comes from something that it left behind.
const LAST_READS: usize = 32;

const OUTPUTS: [Kind; 2] = [Kind::ExecStdout, Kind::ExecStderr];

impl Bridge {
    pub(super) fn command_sources<'a>(
        &'a self,
        sources: &mut Vec<(Source, BorrowedFd<'a>, PollFlags)>,
    ) {
        for (id, command) in &self.commands {
            if self.must_wait(command) {
                continue;
            }
            for (kind, output) in OUTPUTS.into_iter().zip([&command.stdout, &command.stderr]) {
                let fd = output.from.as_ref().map(|fd| fd.as_fd());
                sources.extend(fd.map(|fd| (Source::Output(*id, kind), fd, PollFlags::IN)));
            }
        }
    }

    pub(super) fn exec(&mut self, link: u64, number: u64, exec: Exec) -> io::Result<()> {
        let taken = |command: &Command| (command.link, command.number) == (link, number);
        let refusal = match self.closing {
            _ if self.bereft => Some("the sandbox has ended"),
            Some(_) => Some("the sandbox is being ended"),
            None if self.commands.values().any(taken) => Some("the number is taken"),
            None if self.commands.len() >= MAX_COMMANDS => Some("too many commands run"),
            None => None,
        };
        if let Some(refusal) = refusal {
            self.refuse(link, number, refusal.to_owned());
            return Ok(());
        }
        let made = Command::new(number, link, &exec, self.now()).and_then(|(command, outputs)| {
            Ok((command, outputs, commands::program(exec).in_memfd()?))
        });
        let (command, [stdout, stderr], program) = match made {
            Ok(made) => made,
            Err(error) => {
                self.refuse(link, number, error.to_string());
                return Ok(());
            }
        };
        let id = self.next_id();
        let fds = [&program, &self.parts.null, &stdout, &stderr].map(|fd: &OwnedFd| fd.as_fd());
        self.order(&Order::Start { id, group_ends_with_it: false }, &fds)?;
        self.commands.insert(id, command);
        Ok(())
    }

    fn refuse(&mut self, link: u64, number: u64, error: String) {
        let exit = ExecExit {
            code: None,
            signal: None,
            timed_out: false,
            truncated: false,
            error: Some(error),
        };
        self.exited(link, number, &exit);
    }

    fn exited(&mut self, link: u64, number: u64, exit: &ExecExit) {
        let body = serde_json::to_vec(exit).unwrap_or_default();
        self.push(link, Kind::ExecExit, number, &body);
    }

    /// How long commands may run on that there are.
    pub(super) fn commands_ms(&self) -> Millis {
        let now = self.now();
        let running = self.commands.values().filter(|command| !command.is_over());
        // 0 says that there is none.
        running.map(|command| command.until.saturating_sub(now).max(1)).max().unwrap_or(0)
    }

    pub(super) fn kill_command(&mut self, link: u64, number: u64) -> io::Result<()> {
        let is_it = |command: &Command| (command.link, command.number) == (link, number);
        let id = self.commands.iter().find(|(_, command)| is_it(command)).map(|(id, _)| *id);
        id.map_or(Ok(()), |id| self.order(&Order::Kill { id }, &[]))
    }

    pub(super) fn read_output(&mut self, id: u64, kind: Kind) -> Got {
        let Some(command) = self.commands.get_mut(&id) else { return Got::End };
        let got = read(command.output(kind).from.as_ref(), &mut self.buffer);
        match got {
            Got::Bytes(count) => {
                let (link, number) = (command.link, command.number);
                let bytes = command.pass(kind, &self.buffer[..count]).to_vec();
                if !bytes.is_empty() {
                    self.push(link, kind, number, &bytes);
                }
            }
            Got::Nothing => {}
            Got::End => command.output(kind).from = None,
        }
        got
    }

    /// When commands have ended: passes on their last output, and says how they ended.
    pub(super) fn after_the_end_of_commands(&mut self) {
        let over = |(id, command): (&u64, &Command)| {
            (command.is_over() && !self.must_wait(command)).then_some(*id)
        };
        let over: Vec<u64> = self.commands.iter().filter_map(over).collect();
        for id in over {
            for kind in OUTPUTS {
                let read = |_| matches!(self.read_output(id, kind), Got::Bytes(_));
                let _ = (0..LAST_READS).all(read);
            }
            if let Some(command) = self.commands.remove(&id) {
                let (link, number) = (command.link, command.number);
                self.exited(link, number, &command.exit());
            }
        }
    }

    /// Whether more output would only pile up here.
    fn must_wait(&self, command: &Command) -> bool {
        let link = self.link.as_ref().filter(|link| link.serial == command.link);
        link.is_some_and(|link| link.is_crowded())
    }
}

#[cfg(test)]
mod tests {
    use ash_wire::frame;

    use crate::bridge::stage::Stage;
    use crate::spawner::{self, Ending};

    use super::*;

    /// A bridge with a command, number 7, whose time is over.
    fn place() -> Stage {
        let mut place = Stage::set();
        place.exec(7);
        place
    }

    impl Stage {
        fn exec(&mut self, number: u64) {
            let command = "true".to_owned();
            let exec = Exec { command, env: vec![], timeout_ms: 0, output_limit: 10 };
            self.bridge.exec(1, number, exec).unwrap();
        }

        fn order(&self) -> Option<Order> {
            spawner::receive(&self.spawner).unwrap().map(|(order, _)| order)
        }

        /// What `ashd` is told of the next command that is over.
        fn told(&mut self) -> (u64, ExecExit) {
            self.bridge.after_the_end_of_commands();
            self.bridge.write();
            loop {
                let (header, body) = frame::read(&mut self.ashd).unwrap().unwrap();
                if header.kind == Kind::ExecExit {
                    return (header.number, serde_json::from_slice(&body).unwrap());
                }
            }
        }
    }

    #[test]
    fn a_killed_command_of_whose_end_nobody_tells_is_given_up() {
        let mut place = place();
        place.bridge.time_passes().unwrap();
        assert!(matches!(place.order(), Some(Order::Start { id: 1, .. })));
        assert!(matches!(place.order(), Some(Order::Kill { id: 1 })));
        place.bridge.after_the_end_of_commands();
        assert_eq!(place.bridge.commands.len(), 1, "its end is waited for");
        assert!(place.bridge.commands_ms() > 0);
        place.bridge.commands.values_mut().for_each(|command| command.until = 0);
        place.bridge.time_passes().unwrap();
        let (number, exit) = place.told();
        assert_eq!((number, exit.code, exit.signal, exit.timed_out), (7, None, None, true));
        assert_eq!(exit.error, None);
        assert!(place.order().is_none() && place.bridge.commands.is_empty());
    }

    #[test]
    fn a_command_that_has_ended_is_not_late() {
        let mut place = place();
        let ended = Some(Ok(Ending { code: Some(0), signal: None }));
        place.bridge.commands.values_mut().for_each(|command| command.ended.clone_from(&ended));
        // However long its last output waits for whoever reads it.
        place.bridge.time_passes().unwrap();
        assert_eq!(place.bridge.deadline(), None);
        let (_, exit) = place.told();
        assert_eq!((exit.code, exit.timed_out), (Some(0), false));
    }

    #[test]
    fn nothing_is_begun_when_the_agent_is_gone() {
        let mut place = place();
        place.bridge.bereft = true;
        place.exec(8);
        let (number, exit) = place.told();
        assert_eq!((number, exit.error.is_some()), (8, true));
    }
}
