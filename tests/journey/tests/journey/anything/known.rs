//! A session, and what is known of it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use ash_journey::Api;
use ash_journey::sse::Frame;
use serde_json::Value;

use super::call::{About, go_on, is_accepted, wait_idle};
use super::look::{Numbers, look};
use super::model::{Call, End, Reply, Said, State, Status};
use super::step::Op;

/// A session, and what it may be.
pub(super) struct Known {
    pub(super) id: String,
    /// Which machine has it.
    pub(super) home: usize,
    /// Whether it was moved: then the other machine has one of its id that has ended.
    has_moved: bool,
    pub(super) may_be: Vec<State>,
    pub(super) numbers: Numbers,
    /// Messages whose answer was cut short, or may have been, also those that were undone since.
    pub(super) cuts: BTreeSet<String>,
    /// What is attached to it, and under which id, as it was looked at last.
    attached: BTreeMap<Arc<str>, String>,
    /// What was seen of the turn that was begun last, if its end was not waited for.
    pub(super) open: Vec<Frame>,
}

impl Known {
    /// One that was just made.
    pub(super) fn new(id: String, home: usize, may_be: Vec<State>, numbers: Numbers) -> Known {
        let (cuts, attached, open) = (BTreeSet::new(), BTreeMap::new(), vec![]);
        Known { id, home, has_moved: false, may_be, numbers, cuts, attached, open }
    }

    /// Whether it can go on on another machine, as one that is known.
    pub(super) fn can_move(&self) -> bool {
        !matches!(self.may_be[0].status, Status::Ended | Status::Gone)
    }

    /// It goes on on the other machine.
    pub(super) fn moved(&mut self) {
        self.may_be = distinct(self.may_be.iter().flat_map(State::moved));
        (self.home, self.has_moved, self.open) = (1 - self.home, true, vec![]);
    }

    /// Whether a machine may list it.
    pub(super) fn may_be_at(&self, machine: usize) -> bool {
        self.home == machine || self.has_moved
    }

    /// Takes in what came of a call.
    pub(super) fn take(&mut self, call: &Call, reply: &Reply) -> Result<()> {
        let after = distinct(self.may_be.iter().flat_map(|state| state.after(call, reply)));
        ensure!(!after.is_empty(), "{reply:?} cannot be of{}", told(&self.may_be));
        self.may_be = after;
        self.note_cuts();
        Ok(())
    }

    /// What a call is about, whose numbers become those of what there is; none when it makes no sense.
    pub(super) fn about(&self, op: &mut Op) -> Result<Option<About>> {
        let said = &self.may_be[0].said;
        Ok(match op {
            Op::Rewind(_) if said.is_empty() => None,
            Op::Rewind(message) => {
                *message %= said.len();
                Some(About::Message(self.number_of(&said[*message].mark)?))
            }
            Op::Detach(which) => {
                *which %= self.attached.len().max(1);
                self.attached.values().nth(*which).cloned().map(About::Attached)
            }
            Op::Finish if !self.can_be_followed() => None,
            _ => Some(About::Nothing),
        })
    }

    /// The number of the message with this word.
    fn number_of(&self, mark: &str) -> Result<u64> {
        let said = |text: &String| text.contains(&format!("\"{mark} "));
        let is_it = |text: &String| text.starts_with("message ") && said(text);
        let found = self.numbers.iter().rev().find(|(_, text)| is_it(text));
        Ok(*found.context("the message has no number")?.0)
    }

    /// Whether the turn that was begun last is the last one.
    fn can_be_followed(&self) -> bool {
        let said = self.may_be[0].said.last();
        let open = |said: &Said| said.end == End::Open || said.end == End::Cutting;
        !self.open.is_empty() && said.is_some_and(open)
    }

    /// Goes on with the stream of the turn that was begun last, to its end.
    pub(super) fn follow(&self, api: &Api, frames: &mut Vec<Frame>) -> Result<()> {
        match go_on(api, &self.id, frames)? {
            Reply::Lost => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }

    /// What became of a message whose stream broke off. The daemon is there again.
    pub(super) fn catch_up(
        &self,
        api: &Api,
        call: &Call,
        frames: &mut Vec<Frame>,
    ) -> Result<Reply> {
        if is_accepted(frames) {
            let reply = go_on(api, &self.id, frames)?;
            return Ok(match call.op {
                Op::Begin(_) => Reply::Granted(Value::Null),
                _ => reply,
            });
        }
        wait_idle(api, &self.id)?;
        Ok(Reply::Lost)
    }

    /// Looks, and keeps what the session can be.
    pub(super) fn look(&mut self, api: &Api) -> Result<()> {
        let seen = look(api, &self.id, &mut self.numbers)?;
        let left = distinct(self.may_be.iter().filter_map(|state| state.narrowed(&seen)));
        ensure!(!left.is_empty(), "it is\n  {}\nand not{}", seen.told_short(), told(&self.may_be));
        self.may_be = left;
        self.note_cuts();
        self.attached = seen.attached;
        let running = seen.said.last().is_some_and(|said| said.end == End::Open);
        if seen.status != Status::Gone && !running {
            self.check_numbers()?;
        }
        Ok(())
    }

    fn note_cuts(&mut self) {
        let said = self.may_be.iter().flat_map(|state| &state.said);
        self.cuts.extend(said.filter(|said| said.end == End::Cut).map(|said| said.mark.clone()));
    }

    /// Numbers have no gaps, but for what is in no list: that somebody interrupted.
    fn check_numbers(&self) -> Result<()> {
        let cut = self.cuts.len();
        let last = self.numbers.keys().next_back().copied().unwrap_or(0);
        let missing: Vec<u64> = (1..=last).filter(|n| !self.numbers.contains_key(n)).collect();
        ensure!(missing.len() <= cut, "numbers {missing:?} of {last} mean nothing");
        Ok(())
    }
}

/// These states, each once.
pub(super) fn distinct(states: impl Iterator<Item = State>) -> Vec<State> {
    let mut all: Vec<State> = vec![];
    for state in states {
        if !all.contains(&state) {
            all.push(state);
        }
    }
    all
}

/// States in short, a line each.
fn told(states: &[State]) -> String {
    states.iter().map(|state| format!("\n  {}", state.told_short())).collect()
}
