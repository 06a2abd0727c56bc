//! Whether everything was heard and sent: `ashd` asks that of an agent that it has stopped, before it
//! notes where the conversation is.
//!
//! What the CLI has written until then lies in its socket, whoever had time to read it. It is read to
//! its end, numbered, and sent, and the answer goes out behind it. When the log is full, the end waits
//! as the CLI does: until `ashd`, which hears and acknowledges meanwhile, has made room.
//!
//! A line that was begun and not ended is not said yet: it comes when the CLI goes on and ends it. There
//! is one when the CLI was stopped while it waited for room in its socket. Its message may be in the
//! transcript already, like one that the CLI was about to write, or has in a buffer of its own: from
//! outside these cannot be told apart. So files may be ahead of history by what the CLI had not handed
//! out yet, and by nothing that it had.

use std::io;

use ash_wire::frame::Kind;

use crate::commands::MAX_COMMANDS;

use super::Bridge;

/// Reports of the spawner that are taken at once: more than the CLI and commands give when they end.
const REPORTS: usize = 2 * MAX_COMMANDS;

impl Bridge {
    /// Hears the agent out, if somebody waits for that, and answers; when the log is full, only as far
    /// as there is room.
    pub(super) fn drain(&mut self) -> io::Result<()> {
        let Some((serial, number)) = self.draining else { return Ok(()) };
        self.hear_reports()?;
        self.after_the_end_of_the_cli()?;
        if !self.hear_out()? {
            return Ok(());
        }
        self.draining = None;
        // What was heard may say that the agent still does something.
        self.tell_tasks();
        let last = self.log.last();
        if let Some(link) = self.link.as_mut().filter(|link| link.serial == serial) {
            link.push_behind(last, Kind::Drained, number);
        }
        Ok(())
    }

    /// That the CLI has ended is an event as well.
    fn hear_reports(&mut self) -> io::Result<()> {
        for _ in 0..REPORTS {
            if self.bereft || !self.hear_spawner()? {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use ash_wire::frame::{self, HEADER};
    use ash_wire::words::{Notice, Permissions};

    use crate::bridge::CHUNK;
    use crate::bridge::stage::Stage;
    use crate::cli::Cli;
    use crate::log::{BUDGET, Log};
    use crate::spawner::{self, Ending, Report};

    use super::*;

    /// A bridge with a CLI, and the other ends of its sockets.
    struct Place {
        bridge: Bridge,
        ashd: UnixStream,
        /// What `ashd` has read and not understood yet.
        unread: Vec<u8>,
        stdout: File,
        spawner: OwnedFd,
        _listener: UnixStream,
    }

    fn place(budget: usize) -> Place {
        let Stage { mut bridge, ashd, spawner, listener: _listener } = Stage::set();
        bridge.log = Log::new(budget);
        ashd.set_nonblocking(true).unwrap();
        let (cli, [_, stdout, _]) = Cli::new(1, Permissions::Allow, 0).unwrap();
        bridge.cli = Some(cli);
        Place { bridge, ashd, unread: vec![], stdout: stdout.into(), spawner, _listener }
    }

    impl Place {
        fn ask(&mut self, kind: Kind, number: u64) {
            frame::write(&mut self.ashd, kind, number, &[]).unwrap();
        }

        /// The CLI writes so many lines that they do not come with one read.
        fn write_lines(&mut self) -> u64 {
            let line = format!("{{\"type\":\"assistant\",\"pad\":\"{}\"}}\n", "x".repeat(970));
            let count = CHUNK / line.len() + 30;
            self.stdout.write_all(line.repeat(count).as_bytes()).unwrap();
            count as u64
        }

        /// One round, which has something to do, and what `ashd` has of it.
        fn round(&mut self) -> Vec<(Kind, u64, Vec<u8>)> {
            self.bridge.round().unwrap();
            match self.ashd.read_to_end(&mut self.unread) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                other => panic!("{other:?}"),
            }
            let mut frames = Vec::new();
            while let Some((header, end)) = frame::first(&self.unread).unwrap() {
                let body = self.unread[HEADER..end].to_vec();
                frames.push((header.kind, header.number, body));
                self.unread.drain(..end);
            }
            frames.retain(|(kind, ..)| *kind != Kind::Welcome);
            frames
        }
    }

    #[test]
    fn the_answer_comes_behind_all_that_was_written() {
        let mut place = place(BUDGET);
        let count = place.write_lines();
        place.stdout.write_all(b"{\"type\":\"assis").unwrap();
        place.ask(Kind::Drain, 7);
        let heard = place.round();
        let (answer, lines) = heard.split_last().unwrap();
        assert_eq!((answer.0, answer.1), (Kind::Drained, 7));
        assert!(lines.iter().all(|(kind, ..)| *kind == Kind::Line));
        assert!(lines.iter().map(|(_, number, _)| *number).eq(1..=count));
        // What was only begun comes when it is ended.
        place.stdout.write_all(b"tant\"}\n").unwrap();
        let heard = place.round();
        assert_eq!(heard, [(Kind::Line, count + 1, br#"{"type":"assistant"}"#.to_vec())]);
    }

    #[test]
    fn a_full_log_is_waited_for_and_only_the_newest_question_is_answered() {
        let mut place = place(20_000);
        let count = place.write_lines();
        place.ask(Kind::Drain, 6);
        place.ask(Kind::Drain, 7);
        let mut heard = place.round();
        assert!(heard.iter().any(|(kind, ..)| *kind == Kind::Notice), "it is not held");
        for _ in 0..100 {
            if heard.iter().any(|(kind, ..)| *kind == Kind::Drained) {
                break;
            }
            let newest = heard.iter().map(|(_, number, _)| *number).max().unwrap();
            place.ask(Kind::Ack, newest);
            heard.extend(place.round());
        }
        let lines = heard.iter().filter(|(kind, ..)| *kind == Kind::Line).count();
        assert_eq!(lines as u64, count);
        let answers: Vec<_> = heard.iter().filter(|(kind, ..)| *kind == Kind::Drained).collect();
        assert!(answers.len() == 1 && answers[0].1 == 7, "{answers:?}");
        assert_eq!(heard.last().map(|(kind, ..)| *kind), Some(Kind::Drained));
    }

    #[test]
    fn an_end_that_was_reported_comes_before_the_answer() {
        let mut place = place(BUDGET);
        place.stdout.write_all(b"{\"type\":\"assistant\"}\n").unwrap();
        let how = Ending { code: Some(3), signal: None };
        // A round by itself hears one report.
        for report in [Report::Ready, Report::Ended { id: 1, how }] {
            spawner::send(&place.spawner, &report, &[]).unwrap();
        }
        place.ask(Kind::Drain, 7);
        let heard = place.round();
        let kinds: Vec<_> = heard.iter().map(|(kind, ..)| *kind).collect();
        assert_eq!(kinds, [Kind::Line, Kind::Notice, Kind::Drained]);
        let notice: Notice = serde_json::from_slice(&heard[1].2).unwrap();
        assert!(matches!(notice, Notice::CliExited { code: Some(3), .. }), "{notice:?}");
    }

    #[test]
    fn what_runs_beside_turns_is_said_behind_its_lines_and_before_the_answer() {
        let mut place = place(BUDGET);
        let started = b"{\"type\":\"system\",\"subtype\":\"task_started\",\"task_id\":\"a\"}\n";
        place.stdout.write_all(started).unwrap();
        place.ask(Kind::Drain, 7);
        let seen = |heard: Vec<(Kind, u64, Vec<u8>)>| {
            heard.into_iter().map(|(kind, number, _)| (kind, number)).collect::<Vec<_>>()
        };
        assert_eq!(seen(place.round()), [(Kind::Delta, 1), (Kind::Tasks, 1), (Kind::Drained, 7)]);
        // What the CLI had begun has ended with it.
        let how = Ending { code: Some(0), signal: None };
        spawner::send(&place.spawner, &Report::Ended { id: 1, how }, &[]).unwrap();
        assert_eq!(seen(place.round()), [(Kind::Notice, 2), (Kind::Tasks, 0)]);
    }

    #[test]
    fn the_answer_is_for_the_connection_that_asked() {
        let mut place = place(BUDGET);
        place.bridge.draining = Some((2, 7));
        place.ask(Kind::Ack, 0);
        assert!(place.round().is_empty());
        assert_eq!(place.bridge.draining, None);
        // Without a CLI there is nothing to hear.
        place.bridge.cli = None;
        place.ask(Kind::Drain, 8);
        assert_eq!(place.round(), [(Kind::Drained, 8, vec![])]);
    }
}
