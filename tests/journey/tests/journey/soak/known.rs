//! What a client knows of one of its sessions, and whether the session is so.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result, ensure};
use ash_journey::sse::{Frame, Id};
use ash_journey::{Api, Client};

use crate::killed::{Ended, turns_and_interrupts};

/// With this every word begins that only one session has.
pub(super) const CANARY: &str = "canary-";

/// Frames that come of what history keeps.
const KEPT: [&str; 6] = ["tool_use", "tool_result", "turn_complete", "replaces", "error", "done"];

/// A session, as its client knows it.
pub(super) struct Known {
    pub(super) id: String,
    /// Words that it may know: its own, and those of the sessions that it was forked from.
    canaries: Vec<String>,
    /// What the folder of its agent says whose it is.
    whose: String,
    said: Vec<Said>,
    /// What was written into the workspace, and answered.
    pub(super) files: BTreeMap<String, String>,
    /// Whether it was asked for that it is set aside.
    pub(super) is_aside: bool,
}

/// A message.
#[derive(Clone)]
pub(super) struct Said {
    /// A word that only this message has; the agent writes it into the file `log`.
    pub(super) mark: String,
    pub(super) prompt: String,
    /// Every frame of its turn; none in a fork of the session that it was said to.
    pub(super) seen: Vec<Frame>,
    pub(super) end: End,
}

/// What became of a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum End {
    /// This result.
    Answered(String),
    /// It was interrupted.
    Cut,
    /// Its turn failed, because something was killed.
    Failed,
    /// It was not accepted.
    Refused,
    /// The daemon died before it was accepted, or right behind that.
    Unknown,
}

impl Known {
    /// One that was just made.
    pub(super) fn new(id: String, canary: String, whose: String) -> Known {
        let (canaries, said, files) = (vec![canary], vec![], BTreeMap::new());
        Known { id, canaries, whose, said, files, is_aside: false }
    }

    /// A fork of it: another session, which knows what this one knows.
    pub(super) fn fork(&self, id: String, canary: String) -> Known {
        let said = self.said.iter().map(|said| Said { seen: vec![], ..said.clone() });
        Known {
            id,
            canaries: std::iter::once(canary).chain(self.canaries.iter().cloned()).collect(),
            whose: self.whose.clone(),
            said: said.collect(),
            files: self.files.clone(),
            is_aside: true,
        }
    }

    /// The word that only this session has.
    pub(super) fn canary(&self) -> &str {
        &self.canaries[0]
    }

    /// What the files `canary` and `whose` say together.
    pub(super) fn belongings(&self) -> String {
        format!("{}\n{}", self.canary(), self.whose)
    }

    /// Takes in a message, whatever became of it.
    pub(super) fn add(&mut self, said: Said) {
        self.said.push(said);
    }

    /// What became of the newest message.
    pub(super) fn newest(&self) -> Option<&End> {
        self.said.last().map(|said| &said.end)
    }

    /// Checks that nothing of another session is in a text. A word may be cut off at its end.
    pub(super) fn check_words(&self, text: &str) -> Result<()> {
        let is_strange = |word: &&str| !self.canaries.iter().any(|ours| ours.starts_with(*word));
        let strange: Vec<&str> = canaries(text).filter(is_strange).collect();
        ensure!(strange.is_empty(), "session {} has heard of {strange:?}", self.id);
        Ok(())
    }

    /// Checks that the agent remembers all that was answered before the newest message.
    pub(super) fn check_memory(&self, told: &str) -> Result<()> {
        let before = &self.said[..self.said.len().saturating_sub(1)];
        for said in before.iter().filter(|said| said.is_answered()) {
            ensure!(told.contains(&said.mark), "{} is forgotten: {told}", said.mark);
        }
        Ok(())
    }

    /// Checks that the session is as its client knows it. No turn may run.
    pub(super) fn check(&self, api: &Api) -> Result<()> {
        self.check_history(&turns_and_interrupts(api, &self.id)?)?;
        for said in self.said.iter().filter(|said| !said.seen.is_empty()) {
            self.check_stream(api, said).with_context(|| format!("message {}", said.mark))?;
        }
        self.check_files(api)
    }

    /// History has what was accepted, once, and how it ended; and nothing that nobody said.
    fn check_history(&self, turns: &[(String, Ended)]) -> Result<()> {
        for said in &self.said {
            let its = turns.iter().filter(|(prompt, _)| *prompt == said.prompt);
            let ends: Vec<&Ended> = its.map(|(_, ended)| ended).collect();
            let fits = match (&said.end, ends.as_slice()) {
                (End::Answered(text), [Ended::Result(result)]) => result == text,
                (End::Cut, [_]) | (End::Failed, [Ended::Error]) => true,
                (End::Refused, []) | (End::Unknown, [] | [_]) => true,
                _ => false,
            };
            ensure!(fits, "{} is {:?}, and history has {ends:?}", said.mark, said.end);
        }
        for (prompt, _) in turns {
            ensure!(self.said.iter().any(|said| said.prompt == *prompt), "nobody said {prompt}");
        }
        Ok(())
    }

    /// Whoever reads the turn later reads what its client has seen: every event that was acknowledged is
    /// there, and no other one.
    fn check_stream(&self, api: &Api, said: &Said) -> Result<()> {
        let first = said.seen.iter().find_map(|frame| frame.id).context("no frame has an id")?;
        let later = api.follow(&self.id, Some(Id { seq: first.seq, k: 0 }))?.to_end()?;
        let raw = |frames: &[Frame]| -> HashSet<String> {
            frames.iter().map(|frame| frame.raw.clone()).collect()
        };
        let (live, kept) = (raw(&said.seen), raw(&later.seen));
        let strange = later.seen.iter().find(|frame| !live.contains(&frame.raw));
        ensure!(strange.is_none(), "history has what nobody has seen: {strange:?}");
        let is_lost = |frame: &&Frame| KEPT.contains(&&*frame.name) && !kept.contains(&frame.raw);
        let lost = said.seen.iter().find(is_lost);
        ensure!(lost.is_none(), "history lacks what was acknowledged: {lost:?}");
        Ok(())
    }

    /// The workspace has what was written, and every message has reached the agent as often as its end
    /// says.
    fn check_files(&self, api: &Api) -> Result<()> {
        let read = |file: &str| -> Result<String> {
            let path = format!("/api/sessions/{}/files/{file}", self.id);
            let read = api.call("GET", &path, None)?;
            ensure!(read.status == 200, "{file} cannot be read: {}", read.text());
            Ok(read.text())
        };
        for (file, text) in &self.files {
            ensure!(read(file)? == *text, "{file} has other content than was written");
        }
        let belongings = read("canary")? + &read("whose")?;
        ensure!(belongings == self.belongings(), "it has {belongings:?}");
        let is_there = self.said.iter().any(Said::is_answered);
        let log = if is_there { read("log")? } else { String::new() };
        for said in &self.said {
            let times = log.lines().filter(|line| *line == said.mark).count();
            let fits = match said.end {
                End::Answered(_) => times == 1,
                End::Refused => times == 0,
                End::Cut | End::Failed | End::Unknown => times <= 1,
            };
            ensure!(fits, "{} is {:?}, and was heard {times} times", said.mark, said.end);
        }
        Ok(())
    }
}

impl Said {
    fn is_answered(&self) -> bool {
        matches!(self.end, End::Answered(_))
    }
}

/// The words in a text that only one session has.
fn canaries(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices(CANARY).map(|(at, _)| {
        let rest = &text[at..];
        let is_outside = |c: char| !c.is_ascii_alphanumeric() && c != '-';
        &rest[..rest.find(is_outside).unwrap_or(rest.len())]
    })
}

#[test]
fn words_of_others_are_found() -> Result<()> {
    let mut known = Known::new("x".into(), "canary-r1u2-003".into(), String::new());
    known = known.fork("y".into(), "canary-r1u2-007".into());
    known.check_words("a canary; canary-r1u2-003\\n, canary-r1u2-007. canary-r1u")?;
    for text in ["canary-r1u1-003", "canary-r1u2-0031", "canary-r1u2-003 canary-r2"] {
        ensure!(known.check_words(text).is_err(), "{text}");
    }
    Ok(())
}
