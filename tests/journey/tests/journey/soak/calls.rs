//! How a client asks: whatever dies meanwhile, and knowing what it may be told then.

use std::io::BufReader;

use anyhow::{Context as _, Error, Result, bail, ensure};
use ash_journey::Api;
use ash_journey::http::{Answer, Connection};
use ash_journey::process::until;
use ash_journey::sse::{Frame, Reader};
use serde_json::Value;

use super::user::User;

/// What came of a call.
pub(super) enum Came {
    Granted(Value),
    /// Truthfully.
    Refused,
    /// The daemon died meanwhile, and another one is there now.
    Lost,
}

/// How far a stream was heard.
pub(super) enum Heard {
    /// To what was enough.
    Enough,
    /// To its end.
    Whole,
    /// It is none.
    Refused(Answer),
    /// It broke off.
    Broken(Error),
}

impl User<'_> {
    /// A client of the daemon that is there now, and how many there were before it.
    pub(super) fn api(&self) -> (usize, Api) {
        let (number, address) = self.shared.daemon();
        (number, Api::new(&address, &self.tenant.key))
    }

    /// The connection to a daemon broke off: waits for the next one.
    pub(super) fn gone(&self, number: usize, error: &Error) -> Result<()> {
        self.shared.wait_behind(number).with_context(|| format!("{error:#}"))
    }

    /// Asks for something; `None` when the daemon died meanwhile.
    pub(super) fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Option<Answer>> {
        let (number, api) = self.api();
        self.unless_gone(number, api.call(method, path, body))
    }

    fn unless_gone(&self, number: usize, answer: Result<Answer>) -> Result<Option<Answer>> {
        match answer {
            Ok(answer) => Ok(Some(answer)),
            Err(error) => self.gone(number, &error).map(|()| None),
        }
    }

    /// What an answer comes to.
    pub(super) fn came(&mut self, answer: Option<Answer>) -> Result<Came> {
        match answer {
            None => Ok(Came::Lost),
            Some(answer) if answer.status < 300 => Ok(Came::Granted(answer.json())),
            Some(answer) => self.check_refusal(&answer).map(|()| Came::Refused),
        }
    }

    pub(super) fn ask(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Came> {
        let answer = self.call(method, path, body)?;
        self.came(answer)
    }

    /// Puts a file.
    pub(super) fn upload(&mut self, path: &str, text: &str) -> Result<Came> {
        let (number, api) = self.api();
        let put = api.open("PUT", path, Some(text.as_bytes())).and_then(Connection::answer);
        let answer = self.unless_gone(number, put)?;
        self.came(answer)
    }

    /// Asks until it is granted.
    pub(super) fn insist(
        &mut self,
        what: &str,
        mut ask: impl FnMut(&mut Self) -> Result<Came>,
    ) -> Result<Value> {
        let mut granted = Ok(None);
        until(what, || {
            granted = ask(self).map(|came| match came {
                Came::Granted(value) => Some(value),
                Came::Refused | Came::Lost => None,
            });
            !matches!(granted, Ok(None))
        })?;
        granted?.context("not granted")
    }

    /// Looks at something, in the next daemon if this one dies meanwhile.
    pub(super) fn look<T>(&self, look: impl Fn(&Api) -> Result<T>) -> Result<T> {
        loop {
            let (number, api) = self.api();
            match look(&api) {
                Err(error) if is_broken(&error) => self.gone(number, &error)?,
                seen => return seen,
            }
        }
    }

    /// Checks that something may be refused like this: for want of room, which says when to try again;
    /// because something else is in the way for a moment; or because something was killed.
    fn check_refusal(&mut self, answer: &Answer) -> Result<()> {
        let text = answer.text();
        let is_truthful = match answer.status {
            503 => answer.header("retry-after").is_some(),
            409 => text.contains("try again"),
            400 | 500 => self.shared.has_killed(),
            _ => false,
        };
        ensure!(is_truthful, "refused with {}: {text}", answer.status);
        self.tally.refused += 1;
        Ok(())
    }

    /// The same of a message whose stream had begun.
    pub(super) fn check_late_refusal(&mut self, frames: &[Frame]) -> Result<()> {
        let told = frames.iter().find(|frame| frame.name == "error");
        let text = told.and_then(|frame| frame.data["error"].as_str()).unwrap_or_default();
        let is_truthful = text.contains("try again") || self.shared.has_killed();
        ensure!(is_truthful && !text.is_empty(), "refused in its stream: {text:?}");
        self.tally.refused += 1;
        Ok(())
    }
}

/// Whether a connection broke off.
fn is_broken(error: &Error) -> bool {
    error.chain().any(|cause| cause.is::<std::io::Error>())
}

/// Hears a stream until there is a frame that is enough.
pub(super) fn hear(
    sent: Result<Connection>,
    frames: &mut Vec<Frame>,
    is_enough: impl Fn(&Frame) -> bool,
) -> Heard {
    listen(sent, frames, is_enough).unwrap_or_else(Heard::Broken)
}

fn listen(
    sent: Result<Connection>,
    frames: &mut Vec<Frame>,
    is_enough: impl Fn(&Frame) -> bool,
) -> Result<Heard> {
    let (status, headers, mut reader) = sent?.body()?;
    if status != 200 {
        let mut body = vec![];
        std::io::Read::read_to_end(&mut reader, &mut body)?;
        return Ok(Heard::Refused(Answer { status, headers, body }));
    }
    let mut reader = Reader::new(BufReader::new(reader));
    while let Some(frame) = reader.read()? {
        let enough = is_enough(&frame);
        frames.push(frame);
        if enough {
            return Ok(Heard::Enough);
        }
    }
    match frames.last() {
        Some(last) if last.name == "done" => Ok(Heard::Whole),
        last => bail!("the stream ended without done, behind {:?}", last.map(|frame| &frame.raw)),
    }
}
