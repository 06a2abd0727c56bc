//! The CLI's side: starting it, hearing it, its end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use ash_wire::frame::Kind;
use ash_wire::words::{Notice, Start};
use serde_json::value::RawValue;

use crate::cli::{self, Asker, Cli, GRACE, REPORT};
use crate::fault;
use crate::lines::{Item, Lines};
use crate::permission;
use crate::spawner::Order;
use crate::speech::{self, Speech};
use crate::turn::PATIENCE;

use super::{Bridge, Got, read};

/// Reads of a stream whose other end has ended or stands still. More than any socket holds; what
/// still comes then comes from something that the CLI left behind.
const LAST_READS: usize = 64;

impl Bridge {
    pub(super) fn start(&mut self, start: Start) -> io::Result<()> {
        if self.closing.is_some() {
            return Ok(());
        }
        let until = self.now() + GRACE;
        let Some(cli) = &mut self.cli else { return self.launch(&start) };
        cli.expected = true;
        cli.close_stdin();
        cli.end_by = Some(until);
        self.turns.ending();
        self.next = Some(start);
        Ok(())
    }

    fn launch(&mut self, start: &Start) -> io::Result<()> {
        let (id, now) = (self.next_id(), self.now());
        let initialize = initialize(&start.initialize);
        let made = initialize.and_then(|initialize| {
            let (cli, streams) = Cli::new(id, start.permissions, now)?;
            Ok((cli, streams, cli::program(start).in_memfd()?, initialize))
        });
        let (mut cli, [stdin, stdout, stderr], program, initialize) = match made {
            Ok(made) => made,
            Err(error) => return self.not_started(&error),
        };
        let fds = [&program, &stdin, &stdout, &stderr].map(|fd: &OwnedFd| fd.as_fd());
        self.order(&Order::Start { id, group_ends_with_it: true }, &fds)?;
        fault::point("cli.ordered");
        cli.tag.clone_from(&start.tag);
        cli.ask(&initialize, Asker::Start, now.saturating_add(start.ready_timeout_ms));
        self.cli = Some(cli);
        let mut effects = Vec::new();
        self.turns.starting(now, &mut effects);
        self.apply(effects, None, Asker::Nobody)
    }

    fn not_started(&mut self, error: &io::Error) -> io::Result<()> {
        self.notice(&Notice::CliExited {
            reason: format!("the CLI could not be started: {error}"),
            code: None,
            signal: None,
            stderr: String::new(),
            expected: false,
        });
        let mut effects = Vec::new();
        self.turns.gone(&mut effects);
        self.apply(effects, None, Asker::Nobody)
    }

    pub(super) fn read_cli(&mut self) -> io::Result<Got> {
        let Some(cli) = &mut self.cli else { return Ok(Got::End) };
        let mut buffer = std::mem::take(&mut self.buffer);
        let got = read(cli.stdout.as_ref(), &mut buffer);
        let mut lines = std::mem::replace(&mut cli.lines, Lines::new(0));
        let mut heard = Ok(());
        let mut hear = |item: Item<'_>| {
            if heard.is_ok() {
                heard = self.hear_item(item);
            }
        };
        match got {
            Got::Bytes(count) => lines.push(&buffer[..count], &mut hear),
            Got::Nothing => {}
            Got::End => lines.finish(&mut hear),
        }
        self.buffer = buffer;
        if let Some(cli) = &mut self.cli {
            cli.lines = lines;
            cli.stdout = cli.stdout.take().filter(|_| got != Got::End);
        }
        heard.map(|()| got)
    }

    fn hear_item(&mut self, item: Item<'_>) -> io::Result<()> {
        match item {
            Item::Line(line) => self.hear_line(line),
            Item::TooLong(length) => {
                let reason = format!("longer than {} bytes", speech::MAX_LINE);
                self.notice(&Notice::BadLine { reason, length });
                Ok(())
            }
        }
    }

    fn hear_line(&mut self, line: &[u8]) -> io::Result<()> {
        match speech::understand(line) {
            Ok(Speech::Said { durable, mark, task }) => {
                task.into_iter().for_each(|task| self.tasks.note(task));
                let mut effects = Vec::new();
                self.turns.line(&mark, self.now(), &mut effects);
                let kind = if durable { Kind::Line } else { Kind::Delta };
                self.apply(effects, Some((kind, line)), Asker::Nobody)
            }
            Ok(Speech::Asks { id, request }) => {
                if let Some(cli) = &mut self.cli {
                    let answer = permission::answer(&id, request, cli.permissions);
                    cli.answer(&answer);
                }
                Ok(())
            }
            Ok(Speech::Answers { id, answer }) => self.answered(&id, answer),
            Ok(Speech::Nothing) => Ok(()),
            Err(reason) => {
                self.notice(&Notice::BadLine { reason, length: line.len() as u64 });
                Ok(())
            }
        }
    }

    fn answered(
        &mut self,
        id: &str,
        answer: Result<Option<&RawValue>, Cow<'_, str>>,
    ) -> io::Result<()> {
        let Some(asked) = self.cli.as_mut().and_then(|cli| cli.asked(id)) else { return Ok(()) };
        match (asked.by, answer) {
            (Asker::Start, Ok(_)) => self.ready(),
            (Asker::Start, Err(_)) => return self.kill_cli("the CLI refused to initialize"),
            (Asker::Nobody, _) => {}
            (by @ Asker::Interrupt(..), Ok(_)) => {
                self.reply(by, Ok(super::ashd::interrupted(true)));
            }
            (by, Ok(response)) => self.reply(by, Ok(response.map(ToOwned::to_owned))),
            (by, Err(error)) => self.reply(by, Err(error.into_owned())),
        }
        Ok(())
    }

    fn ready(&mut self) {
        let Some(cli) = self.cli.as_ref().filter(|cli| !cli.expected) else { return };
        let (now, since) = (self.now(), cli.since);
        fault::point("cli.ready");
        self.notice(&Notice::CliReady { after_ms: now - since });
        self.turns.ready(now);
    }

    pub(super) fn read_cli_stderr(&mut self) {
        let Some(cli) = &mut self.cli else { return };
        let got = read(cli.stderr.as_ref(), &mut self.buffer);
        let link = self.link.as_mut().filter(|link| link.is_greeted() && !link.is_crowded());
        let mut lines = Vec::new();
        match got {
            Got::Bytes(count) => {
                cli.remember(&self.buffer[..count]);
                let keep = |item: Item<'_>| lines.push(cli::stderr_line(&item));
                cli.stderr_lines.push(&self.buffer[..count], keep);
            }
            Got::Nothing => {}
            Got::End => cli.stderr = None,
        }
        let Some(link) = link else {
            cli.stderr_lost += lines.len() as u64;
            return;
        };
        if cli.stderr_lost > 0 && !lines.is_empty() {
            let lost = format!("(lines lost here: {})", std::mem::take(&mut cli.stderr_lost));
            link.push(Kind::Stderr, 0, lost.as_bytes());
        }
        lines.iter().for_each(|line| link.push(Kind::Stderr, 0, line));
    }

    pub(super) fn ask_to_interrupt(&mut self, asker: Asker) {
        let until = self.now() + PATIENCE;
        if let (Some(cli), Ok(request)) =
            (&mut self.cli, RawValue::from_string(r#"{"subtype":"interrupt"}"#.to_owned()))
        {
            cli.ask(&request, asker, until);
        }
    }

    pub(super) fn kill_cli(&mut self, reason: &'static str) -> io::Result<()> {
        let report_by = self.now() + REPORT;
        let Some(cli) = &mut self.cli else { return Ok(()) };
        cli.killed.get_or_insert((reason, report_by));
        let id = cli.id;
        self.order(&Order::Kill { id }, &[])
    }

    /// When the CLI has ended: hears its last words, says so, and starts the next if one waits.
    pub(super) fn after_the_end_of_the_cli(&mut self) -> io::Result<()> {
        if !self.last_words()? {
            return Ok(());
        }
        let Some(mut cli) = self.cli.take() else { return Ok(()) };
        self.tasks.forget();
        self.notice(&cli.obituary());
        for asked in std::mem::take(&mut cli.asked) {
            self.reply(asked.by, Err("the CLI is gone".to_owned()));
        }
        let mut effects = Vec::new();
        self.turns.gone(&mut effects);
        self.apply(effects, None, Asker::Nobody)?;
        self.next.take().map_or(Ok(()), |start| self.launch(&start))
    }

    /// Reads what a CLI had written, if it has ended. Returns whether that is done.
    fn last_words(&mut self) -> io::Result<bool> {
        if self.cli.as_ref().is_none_or(|cli| cli.ended.is_none()) {
            return Ok(false);
        }
        self.hear_out()
    }

    /// Reads what the CLI had written. Returns whether that is done: not while the log is full, or the
    /// CLI leaves too much unread of what it asked for.
    pub(super) fn hear_out(&mut self) -> io::Result<bool> {
        for _ in 0..LAST_READS {
            let is_deaf = |cli: &Cli| cli.ended.is_none() && !cli.may_speak();
            if self.held || self.cli.as_ref().is_some_and(is_deaf) {
                return Ok(false);
            }
            self.read_cli_stderr();
            if !matches!(self.read_cli()?, Got::Bytes(_)) {
                break;
            }
        }
        Ok(true)
    }
}

/// The `initialize` request: what `ashd` gave, with the subtype.
fn initialize(fields: &RawValue) -> io::Result<Box<RawValue>> {
    let mut request: BTreeMap<String, serde_json::Value> = serde_json::from_str(fields.get())?;
    request.insert("subtype".to_owned(), "initialize".into());
    Ok(serde_json::value::to_raw_value(&request)?)
}
