//! What may come of a call, and of what else happens to a session.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;

use super::files::{Files, content, place};
use super::model::{Call, End, May, Point, Reply, Said, State, Status};
use super::step::Op;

impl State {
    fn spoken(mut self, call: &Call, file: Option<(usize, usize)>, end: End) -> State {
        self.said.push(Said { mark: call.mark.clone(), end });
        if let Some((file, size)) = file {
            self.files.insert(place(file), content(call.number, size));
            let log = self.files.get("log").map_or("", |log| &**log);
            self.files.insert("log".to_owned(), format!("{log}{}\n", call.mark).into());
        }
        self.between.push(vec![self.files.clone()]);
        self.cold = false;
        self
    }

    /// By a command, for which there is a sandbox.
    fn commanded(&self, file: usize, content: Option<Arc<str>>) -> May {
        May::only(vec![State { cold: false, ..self.changed([(place(file), content)]) }])
    }

    /// What may come of a call.
    fn may(&self, call: &Call) -> May {
        let active = self.status == Status::Active;
        match call.op {
            _ if self.status == Status::Gone => May::not(),
            Op::Say(..) | Op::Recall | Op::Begin(_) | Op::Write(..) | Op::Remove(_) | Op::Pause
                if !active =>
            {
                May::not()
            }
            Op::Say(file, size) => self.told(call, Some((file, size)), End::Result),
            Op::Begin(file) => self.told(call, Some((file, 20)), End::Open),
            Op::Recall => self.told(call, None, End::Result),
            Op::Write(file, size) => self.commanded(file, Some(content(call.number, size))),
            Op::Remove(file) => self.commanded(file, None),
            Op::Pause => May::only(vec![self.clone().with(Status::Paused)]),
            Op::Finish => May::only(self.run_out()),
            Op::Interrupt => {
                let halfway = self.ended(&[End::Cutting]);
                let granted = self.ended(&[End::Result, End::Cut]);
                May { granted, halfway, refused: false }
            }
            Op::Stop if active => self.leave(Status::Stopped),
            Op::Stop => May::not(),
            Op::End => self.leave(Status::Ended),
            Op::Purge => self.purge(),
            Op::Resume if self.status == Status::Ended => May::not(),
            Op::Resume => {
                let mut state = self.clone().with(Status::Active);
                state.cold &= active;
                May::only(vec![state])
            }
            Op::Save(name) => self.save(name),
            Op::Forget(name) => self.forget(name),
            Op::Restore(name) => self.restore(name),
            Op::Rewind(message) => self.rewind(message),
            Op::Put(..) | Op::Delete(_) | Op::Unpack(..) | Op::Attach(_) | Op::Detach(_) => {
                self.changed_from_outside(call)
            }
            Op::Fork(_) | Op::Create => {
                May { granted: vec![self.clone()], refused: true, halfway: vec![] }
            }
        }
    }

    fn told(&self, call: &Call, file: Option<(usize, usize)>, end: End) -> May {
        let before = self.run_out().into_iter();
        May::only(before.map(|state| state.spoken(call, file, end)).collect())
    }

    fn leave(&self, status: Status) -> May {
        let left = |status: Status| self.torn().into_iter().map(move |state| state.with(status));
        // A sandbox is ended before it is recorded why.
        let halfway = if self.status == Status::Active { Status::Paused } else { self.status };
        let granted = match self.status {
            Status::Ended => vec![self.clone()],
            _ => left(status).collect(),
        };
        May { granted, halfway: left(halfway).collect(), refused: false }
    }

    /// Until it is gone it has lost its sandbox, and nothing else.
    fn purge(&self) -> May {
        let halfway = self.leave(Status::Ended).halfway;
        let gone = State { said: vec![], points: BTreeMap::new(), ..State::new(Files::new()) };
        May { granted: vec![gone.with(Status::Gone)], halfway, refused: false }
    }

    fn save(&self, name: usize) -> May {
        if self.status == Status::Ended || self.points.contains_key(&name) {
            return May::not();
        }
        let saved = |state: State, running: bool| {
            let State { said, between, files, .. } = state.clone();
            let mut state = state;
            state.points.insert(name, Point { said, between, files, running });
            state
        };
        let mut granted: Vec<_> =
            self.run_out().into_iter().map(|state| saved(state, false)).collect();
        if self.is_open() {
            granted.push(saved(self.clone(), true));
        }
        May::only(granted)
    }

    fn forget(&self, name: usize) -> May {
        let mut state = self.clone();
        match state.points.remove(&name) {
            None => May::not(),
            // It may be all that is left.
            Some(_) => {
                May { granted: vec![state], refused: self.status == Status::Ended, halfway: vec![] }
            }
        }
    }

    fn back(&self, said: Vec<Said>, mut between: Vec<Vec<Files>>, files: Files) -> State {
        between.truncate(said.len());
        between.push(vec![files.clone()]);
        State { said, between, files, cold: true, ..self.clone() }
    }

    fn restore(&self, name: usize) -> May {
        let Some(point) = self.points.get(&name).filter(|_| self.status != Status::Ended) else {
            return May::not();
        };
        let (said, files) = (point.settled(), point.files.clone());
        let granted = vec![self.back(said, point.between.clone(), files)];
        May { granted, refused: self.is_open(), halfway: self.cooled() }
    }

    fn rewind(&self, message: usize) -> May {
        if self.status == Status::Ended {
            return May::not();
        }
        let said = self.said[..message].to_vec();
        let to = |files: &Files| self.back(said.clone(), self.between.clone(), files.clone());
        let granted = self.between[message].iter().map(to).collect();
        let is_before = |point: &Point| {
            let changes = point.between.get(message).map(Vec::len);
            !point.running && point.said == said && changes == Some(self.between[message].len())
        };
        let known = message == 0 && self.unaltered || self.points.values().any(is_before);
        May { granted, refused: self.is_open() || !known, halfway: self.cooled() }
    }

    /// On the way back: without a sandbox, and as before otherwise.
    fn cooled(&self) -> Vec<State> {
        self.run_out().into_iter().map(|state| State { cold: true, ..state }).collect()
    }

    /// The states that are right behind a call.
    pub(super) fn after(&self, call: &Call, reply: &Reply) -> Vec<State> {
        let may = self.may(call);
        match reply {
            Reply::Granted(told) if self.fits(call, told) => {
                may.granted.into_iter().filter(|state| state.agrees(call, told)).collect()
            }
            Reply::Granted(_) => vec![],
            Reply::Refused(400..500) if may.refused => vec![self.clone()],
            Reply::Refused(_) => vec![],
            Reply::Lost => {
                // That files change is noted before they do.
                let noted =
                    State { unaltered: self.unaltered && !call.op.is_change(), ..self.clone() };
                let not = [self.clone(), noted];
                may.granted.into_iter().chain(may.halfway).chain(not).collect()
            }
        }
    }

    /// Whether the answer to a call says what was so before it.
    fn fits(&self, call: &Call, told: &Value) -> bool {
        match call.op {
            Op::Put(file, size) => {
                let created = !self.files.contains_key(&place(file));
                told["created"] == created && told["size"] == size
            }
            Op::Attach(_) => told["workspacePath"].as_str() == self.laid().as_deref(),
            _ => true,
        }
    }

    /// Whether the answer to a call says what is so behind it.
    fn agrees(&self, call: &Call, told: &Value) -> bool {
        match call.op {
            Op::Recall => self.remembers(told.as_str().unwrap_or_default()),
            Op::Save(name) => {
                self.points.get(&name).is_some_and(|point| told["running"] == point.running)
            }
            _ => true,
        }
    }

    /// Whether what the agent remembers is this conversation: everything that was answered, in order,
    /// and nothing else.
    fn remembers(&self, text: &str) -> bool {
        let mut words = vec![];
        for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.') {
            if is_mark(word) && !words.contains(&word) {
                words.push(word);
            }
        }
        let before = &self.said[..self.said.len() - 1];
        let known = |word: &&str| before.iter().any(|said| said.mark == **word);
        let answered = before.iter().filter(|said| said.end == End::Result);
        let answered: Vec<_> = answered.map(|said| said.mark.as_str()).collect();
        let heard: Vec<_> = words.iter().filter(|word| answered.contains(word)).copied().collect();
        words.iter().all(known) && heard == answered
    }

    /// What a session may be that is made out of this one.
    pub(super) fn fork(&self, from: Option<usize>) -> Vec<State> {
        let child = |said: Vec<Said>, files: &Files| {
            let mut state = State::new(files.clone()).with(Status::Paused);
            // It has no checkpoints but that of its beginning.
            state.between = vec![vec![]; said.len()];
            state.between.push(vec![files.clone()]);
            (state.said, state.unaltered) = (said, false);
            state
        };
        match from {
            _ if self.status == Status::Gone => vec![],
            Some(name) => {
                let point = self.points.get(&name).into_iter();
                point.map(|point| child(point.settled(), &point.files)).collect()
            }
            None => self.torn().into_iter().map(|state| child(state.said, &self.files)).collect(),
        }
    }

    /// What it may be where it goes on on another machine. What is attached stays behind.
    pub(super) fn moved(&self) -> Vec<State> {
        let there = |state: State| State {
            attached: BTreeSet::new(),
            cold: false,
            unaltered: false,
            ..state
        };
        let moved = self.torn().into_iter();
        moved.map(|state| there(state).with(Status::Paused)).collect()
    }

    /// What may come of a daemon that ends politely and starts again.
    pub(super) fn restarted(&self) -> Vec<State> {
        match self.status {
            Status::Active => {
                let mut states: Vec<_> =
                    self.torn().into_iter().map(|state| state.with(Status::Paused)).collect();
                // Nobody may have looked after it.
                states.extend(self.cold.then(|| self.clone()));
                states
            }
            _ => self.torn(),
        }
    }
}

impl Point {
    /// The conversation of whoever goes on from here.
    fn settled(&self) -> Vec<Said> {
        let mut said = self.said.clone();
        if self.running {
            said.last_mut().into_iter().for_each(|said| said.end = End::Error);
        }
        said
    }
}

/// Whether a word is one of those that messages have.
fn is_mark(word: &str) -> bool {
    let digits = word.strip_prefix('m').and_then(|rest| rest.split_once('.'));
    digits.is_some_and(|(step, at)| {
        [step, at].iter().all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
    })
}
