//! Files, and what is attached: changed from outside of the sandbox.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::model::{Call, May, State, Status};
use super::step::Op;

/// Files by name.
pub(super) type Files = BTreeMap<String, Arc<str>>;

/// So many files lie in the workspace itself, which are those that the agent and commands write;
/// further ones lie in a directory.
pub(super) const FILES: usize = 4;

/// What everything is called that is attached, so that one stands in another's way.
pub(super) const ATTACHED: &str = "note.txt";

/// What a file is called.
pub(super) fn place(file: usize) -> String {
    if file < FILES { format!("f{file}") } else { format!("d/f{file}") }
}

/// What a file of this size holds: what `seq` counts from a number of the call's own.
pub(super) fn content(number: usize, size: usize) -> Arc<str> {
    let mut text = String::with_capacity(size + 16);
    for n in number * 1000.. {
        if text.len() >= size {
            break;
        }
        text += &format!("{n}\n");
    }
    text.truncate(size);
    text.into()
}

/// What an archive holds: this file, the next one, and one that lies deeper.
pub(super) fn packed(number: usize, (file, size): (usize, usize)) -> [(String, Arc<str>); 3] {
    let all = [(file, size), ((file + 1) % FILES, 20), (FILES, 20)];
    all.map(|(file, size)| (place(file), content(number, size)))
}

impl State {
    /// With files that were written or removed beside the conversation.
    pub(super) fn changed(
        &self,
        changes: impl IntoIterator<Item = (String, Option<Arc<str>>)>,
    ) -> State {
        let mut state = State { unaltered: false, ..self.clone() };
        for (name, content) in changes {
            match content {
                Some(content) => drop(state.files.insert(name, content)),
                None => drop(state.files.remove(&name)),
            }
        }
        if let Some(between) = state.between.last_mut() {
            between.push(state.files.clone());
        }
        state
    }

    /// What may come of a change from outside. It needs no sandbox, and makes none.
    pub(super) fn changed_from_outside(&self, call: &Call) -> May {
        match call.op {
            Op::Attach(0) => May::not(),
            Op::Attach(size) => self.attach(content(call.number, size)),
            Op::Detach(which) => self.detach(which),
            _ if self.status == Status::Ended => May::not(),
            Op::Put(file, size) => {
                let put = (place(file), Some(content(call.number, size)));
                May::only(vec![self.changed([put])])
            }
            Op::Delete(file) if self.files.contains_key(&place(file)) => {
                May::only(vec![self.changed([(place(file), None)])])
            }
            Op::Unpack(file, size) => self.unpack(&packed(call.number, (file, size))),
            _ => May::not(),
        }
    }

    /// An archive comes in file by file: each is there whole, or as it was before.
    fn unpack(&self, files: &[(String, Arc<str>)]) -> May {
        let some = |chosen: usize| {
            let files = files.iter().enumerate().filter(|(at, _)| (chosen >> at) & 1 == 1);
            self.changed(files.map(|(_, (name, content))| (name.clone(), Some(content.clone()))))
        };
        let all = (1 << files.len()) - 1;
        May { granted: vec![some(all)], refused: false, halfway: (1..all).map(some).collect() }
    }

    /// It is kept first, and then laid into the workspace of a session that has not ended.
    fn attach(&self, content: Arc<str>) -> May {
        let mut kept = self.clone();
        kept.attached.insert(content.clone());
        match self.laid() {
            None => May::only(vec![kept]),
            Some(name) => {
                let granted = vec![kept.changed([(name, Some(content))])];
                May { granted, refused: false, halfway: vec![kept] }
            }
        }
    }

    /// Where what is attached next is laid; none of a session that has ended.
    pub(super) fn laid(&self) -> Option<String> {
        let numbered = (2..).map(|number| format!("note-{number}.txt"));
        let mut names = std::iter::once(ATTACHED.to_owned())
            .chain(numbered)
            .map(|name| format!("attachments/{name}"));
        let free = names.find(|name| !self.files.contains_key(name));
        free.filter(|_| self.status != Status::Ended)
    }

    /// What was laid of it into the workspace stays.
    fn detach(&self, which: usize) -> May {
        let Some(content) = self.attached.iter().nth(which).cloned() else { return May::not() };
        let mut state = self.clone();
        state.attached.remove(&content);
        May::only(vec![state])
    }
}
