//! What a session may be. Pure: a state and a call give the states that are right behind it; which
//! these are, is in `verbs` and `files`.
//!
//! A daemon that dies leaves it open whether the last call was carried out. So what is known of a
//! session is a set of states, which every look at it narrows; when none is left, the daemon has done
//! something that it must not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::files::Files;
use super::step::Op;

/// As the API shows it; `Gone`: not at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Status {
    Active,
    Paused,
    Stopped,
    Ended,
    Gone,
}

/// How a turn has ended, or may.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// It runs; or it has ended well meanwhile.
    Open,
    /// It was interrupted; that may have come to something already, or too late.
    Cutting,
    /// With a result.
    Result,
    /// With the result of one that was interrupted.
    Cut,
    /// With an error.
    Error,
}

impl End {
    fn is_open(self) -> bool {
        matches!(self, End::Open | End::Cutting)
    }

    fn fits(self, seen: End) -> bool {
        match self {
            End::Open => matches!(seen, End::Open | End::Result),
            End::Cutting => matches!(seen, End::Open | End::Result | End::Cut),
            known => known == seen,
        }
    }
}

/// A message of the conversation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Said {
    /// A word that only this message has.
    pub(super) mark: String,
    pub(super) end: End,
}

/// A checkpoint.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Point {
    pub(super) said: Vec<Said>,
    pub(super) between: Vec<Vec<Files>>,
    pub(super) files: Files,
    /// Whether the last turn was running.
    pub(super) running: bool,
}

/// What a session is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct State {
    pub(super) status: Status,
    /// Whether it has no sandbox, without having been set aside.
    pub(super) cold: bool,
    pub(super) said: Vec<Said>,
    pub(super) files: Files,
    /// For every message, and for the one to come: what the files were since the turn before it.
    pub(super) between: Vec<Vec<Files>>,
    pub(super) points: BTreeMap<usize, Point>,
    /// What is attached, whatever it is called.
    pub(super) attached: BTreeSet<Arc<str>>,
    /// Whether nothing but turns has ever changed its files, which its agent's folder had at first.
    pub(super) unaltered: bool,
}

/// A call: what, the word that only it has, and a number of its own.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) op: Op,
    pub(super) mark: String,
    pub(super) number: usize,
}

/// What came of a call.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// It was carried out, and this was said.
    Granted(Value),
    /// It was refused with this status.
    Refused(u16),
    /// Nobody knows.
    Lost,
}

/// What a look has shown.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) status: Status,
    pub(super) said: Vec<Said>,
    /// None: they cannot be had.
    pub(super) files: Option<Files>,
    pub(super) points: BTreeSet<usize>,
    /// What is attached, and under which id.
    pub(super) attached: BTreeMap<Arc<str>, String>,
}

/// What may come of a call.
#[derive(Default)]
pub(super) struct May {
    pub(super) granted: Vec<State>,
    pub(super) refused: bool,
    /// Of one that nobody knows of: beside both, what a daemon may leave that died in the middle.
    pub(super) halfway: Vec<State>,
}

impl May {
    pub(super) fn only(granted: Vec<State>) -> May {
        May { granted, ..May::default() }
    }

    pub(super) fn not() -> May {
        May { refused: true, ..May::default() }
    }
}

impl State {
    pub(super) fn new(files: Files) -> State {
        let between = vec![vec![files.clone()]];
        let (said, points, attached) = (vec![], BTreeMap::new(), BTreeSet::new());
        let (status, cold, unaltered) = (Status::Active, false, true);
        State { status, cold, said, files, between, points, attached, unaltered }
    }

    pub(super) fn is_open(&self) -> bool {
        self.said.last().is_some_and(|said| said.end.is_open())
    }

    /// With the running turn ended in these ways; as it is, when none runs.
    pub(super) fn ended(&self, ends: &[End]) -> Vec<State> {
        if !self.is_open() {
            return vec![self.clone()];
        }
        let end = |end: &End| {
            let mut state = self.clone();
            state.said.last_mut().into_iter().for_each(|said| said.end = *end);
            state
        };
        ends.iter().map(end).collect()
    }

    /// With the running turn ended by itself, or by an interrupt that was under way.
    pub(super) fn run_out(&self) -> Vec<State> {
        match self.said.last().map(|said| said.end) {
            Some(End::Cutting) => self.ended(&[End::Result, End::Cut]),
            _ => self.ended(&[End::Result]),
        }
    }

    /// With the running turn ended somehow, because its sandbox goes.
    pub(super) fn torn(&self) -> Vec<State> {
        let mut states = self.run_out();
        states.extend(self.ended(&[End::Error]));
        states
    }

    pub(super) fn with(mut self, status: Status) -> State {
        self.status = status;
        self
    }

    /// This state, if it can be what was seen, and what is known of it by that.
    pub(super) fn narrowed(&self, seen: &Seen) -> Option<State> {
        let points: BTreeSet<_> = self.points.keys().copied().collect();
        let fits = self.status == seen.status
            && self.said.len() == seen.said.len()
            && self
                .said
                .iter()
                .zip(&seen.said)
                .all(|(known, seen)| known.mark == seen.mark && known.end.fits(seen.end))
            && points == seen.points
            && self.attached.iter().eq(seen.attached.keys())
            && (self.status == Status::Gone || seen.files.as_ref() == Some(&self.files));
        let mut state = self.clone();
        for (known, seen) in state.said.iter_mut().zip(&seen.said) {
            // One that was interrupted and runs may still come to either end.
            if seen.end != End::Open {
                known.end = seen.end;
            }
        }
        fits.then_some(state)
    }

    /// The checkpoints that it has.
    pub(super) fn names(&self) -> Vec<usize> {
        self.points.keys().copied().collect()
    }

    /// In short, for people.
    pub(super) fn told_short(&self) -> String {
        let State { status, cold, said, files, points, attached, .. } = self;
        let outline = outline(said, Some(files), points.keys());
        format!("{status:?} (cold: {cold}), {outline}, {} attached", attached.len())
    }
}

impl Seen {
    /// In short, for people.
    pub(super) fn told_short(&self) -> String {
        let Seen { status, said, files, points, attached } = self;
        let outline = outline(said, files.as_ref(), points.iter());
        format!("{status:?}, {outline}, {} attached", attached.len())
    }
}

fn outline<'a>(
    said: &[Said],
    files: Option<&Files>,
    points: impl Iterator<Item = &'a usize>,
) -> String {
    let said: Vec<_> = said.iter().map(|said| format!("{}:{:?}", said.mark, said.end)).collect();
    let file = |(name, content): (&String, &Arc<str>)| {
        let end: String = content.chars().rev().take(12).collect();
        let end: String = end.chars().rev().collect();
        format!("{name}={}..{end:?}", content.len())
    };
    let files = files.map(|files| files.iter().map(file).collect::<Vec<_>>());
    format!("said {said:?}, files {files:?}, checkpoints {:?}", points.collect::<Vec<_>>())
}
