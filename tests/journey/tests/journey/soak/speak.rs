//! Messages, and what comes of them.

use anyhow::{Context as _, Result, bail, ensure};
use ash_journey::sse::Frame;
use serde_json::json;

use super::calls::{Heard, hear};
use super::known::{End, Said};
use super::user::User;
use crate::support::check_ids;

/// How an answer is heard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// To its end.
    Whole,
    /// Interrupted behind its first words.
    Interrupt,
    /// With a pause, in which nobody listens.
    HangUp,
}

impl Way {
    /// Whether this is as far as it is heard at first.
    fn is_enough(self, frame: &Frame) -> bool {
        match self {
            Way::Whole => false,
            Way::Interrupt => frame.name == "text_delta",
            Way::HangUp => frame.name == "session_start",
        }
    }
}

impl User<'_> {
    /// Sends a message and follows its turn to the end. The agent notes it, and tells whose session it is.
    pub(super) fn speak(&mut self, at: usize, rest: &str, way: Way) -> Result<()> {
        let mark = self.word();
        let prompt = format!("{mark} [[exec cat canary; echo {mark} >> log]]{rest}");
        let mut seen = vec![];
        let end = self.send(at, &prompt, (&mut seen, way))?;
        if matches!(end, End::Refused | End::Unknown) {
            seen.clear();
        }
        let heard: String = seen.iter().map(|frame| frame.raw.as_str()).collect();
        let known = &mut self.sessions[at];
        known.check_words(&heard)?;
        let has_told = !matches!(end, End::Answered(_)) || heard.contains(known.canary());
        ensure!(has_told, "session {} does not say whose it is: {heard}", known.id);
        known.add(Said { mark, prompt, seen, end });
        Ok(())
    }

    fn send(
        &mut self,
        at: usize,
        prompt: &str,
        (seen, way): (&mut Vec<Frame>, Way),
    ) -> Result<End> {
        let message = json!({ "content": prompt, "includePartialMessages": true }).to_string();
        let (number, api) = self.api();
        let sent = api.open("POST", &self.path(at, "/messages"), Some(message.as_bytes()));
        match hear(sent, seen, |frame| way.is_enough(frame)) {
            Heard::Refused(answer) => return self.came(Some(answer)).map(|_| End::Refused),
            Heard::Broken(error) => self.gone(number, &error)?,
            Heard::Whole | Heard::Enough => {}
        }
        if !seen.iter().any(|frame| frame.name == "session_start") {
            if !is_over(seen) {
                return Ok(End::Unknown);
            }
            self.check_late_refusal(seen)?;
            return Ok(End::Refused);
        }
        if way == Way::Interrupt {
            let path = self.path(at, "/interrupt");
            self.insist("the interrupt", |user| user.ask("POST", &path, None))?;
        }
        self.follow(at, seen)?;
        self.judge(seen, way)
    }

    /// Hears the rest of a turn, behind what was heard, from as many daemons as it takes.
    fn follow(&mut self, at: usize, seen: &mut Vec<Frame>) -> Result<()> {
        let path = self.path(at, "/stream?until=done");
        while !is_over(seen) {
            let last =
                seen.iter().rev().find_map(|frame| frame.id).context("no frame has an id")?;
            let (number, api) = self.api();
            let sent = api.with("last-event-id", &last.to_string()).open("GET", &path, None);
            match hear(sent, seen, |_| false) {
                Heard::Whole | Heard::Enough => {}
                Heard::Broken(error) => self.gone(number, &error)?,
                Heard::Refused(answer) => bail!("{} instead of the rest", answer.text()),
            }
        }
        Ok(())
    }

    /// What a turn has come to that was heard to its end.
    fn judge(&mut self, seen: &[Frame], way: Way) -> Result<End> {
        check_ids(seen)?;
        let newest = |name: &str| seen.iter().rev().find(|frame| frame.name == name);
        if let Some(error) = newest("error") {
            if way == Way::Interrupt && error.data.to_string().contains("Interrupted") {
                return Ok(End::Cut);
            }
            ensure!(self.shared.inside() > 0, "a turn has failed: {}", error.data);
            self.tally.failed += 1;
            return Ok(End::Failed);
        }
        if way == Way::Interrupt {
            return Ok(End::Cut);
        }
        self.tally.answered += 1;
        let result = newest("turn_complete").and_then(|frame| frame.data["result"].as_str());
        Ok(End::Answered(result.context("a turn has no result")?.to_owned()))
    }
}

/// Whether this is all of a stream.
fn is_over(frames: &[Frame]) -> bool {
    frames.last().is_some_and(|frame| frame.name == "done")
}
