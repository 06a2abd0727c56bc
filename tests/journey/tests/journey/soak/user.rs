//! A client: by chance it makes sessions, uses them, sets them aside, forks and purges them. Whatever it is
//! told is checked, and before a session goes all that it was told of it.

use std::sync::mpsc::Sender;

use anyhow::{Context as _, Result, ensure};
use ash_journey::process::until;
use ash_journey::{Client, session_of};
use serde_json::{Value, json};

use super::calls::Came;
use super::known::{CANARY, End, Known};
use super::shared::Shared;
use super::speak::Way;
use super::{AGENTS, Tenant};
use crate::random::Random;
use crate::support::counted;

/// The most sessions that a client has.
const MOST: usize = 3;

/// How far a message counts whose answer is compared.
const COUNTED: usize = 10;

/// How a command ends that is killed, as shells tell it. Until it runs it is the bridge by name, and a kill
/// that is meant for that may meet it.
const KILLED: u32 = 128 + 9;

/// Something that a client does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Deed {
    /// A new session.
    Make,
    /// A message.
    Say,
    /// A message that asks what the agent remembers.
    Recall,
    /// A message whose answer is interrupted.
    Interrupt,
    /// A message whose sender hangs up, and comes back.
    HangUp,
    /// A command.
    Run,
    /// A file that is put.
    Put,
    Pause,
    Stop,
    Fork,
    Purge,
}

/// How often each of them is done.
const DEEDS: [(Deed, usize); 11] = [
    (Deed::Make, 4),
    (Deed::Say, 6),
    (Deed::Recall, 3),
    (Deed::Interrupt, 2),
    (Deed::HangUp, 2),
    (Deed::Run, 3),
    (Deed::Put, 2),
    (Deed::Pause, 1),
    (Deed::Stop, 1),
    (Deed::Fork, 2),
    (Deed::Purge, 2),
];

/// What came of what clients did.
#[derive(Default)]
pub(super) struct Tally {
    /// Messages that were answered.
    pub(super) answered: usize,
    /// Whatever was refused.
    pub(super) refused: usize,
    /// Turns that failed.
    pub(super) failed: usize,
    /// Sessions that were perhaps made: nobody was told.
    pub(super) strangers: usize,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Tally) {
        self.answered += other.answered;
        self.refused += other.refused;
        self.failed += other.failed;
        self.strangers += other.strangers;
    }
}

/// A client.
pub(super) struct User<'a> {
    pub(super) shared: &'a Shared,
    pub(super) tenant: &'a Tenant,
    pub(super) tally: Tally,
    pub(super) sessions: Vec<Known>,
    /// Which no other one has.
    name: String,
    dice: Random,
    /// How many words it has made up.
    words: usize,
    /// Is told of each deed.
    deeds: Sender<()>,
}

impl<'a> User<'a> {
    /// One of this name, with these dice.
    pub(super) fn new(
        shared: &'a Shared,
        tenant: &'a Tenant,
        (name, dice): (String, Random),
        deeds: Sender<()>,
    ) -> User<'a> {
        let (tally, sessions) = (Tally::default(), vec![]);
        User { shared, tenant, tally, sessions, name, dice, words: 0, deeds }
    }

    /// Does so much, has every session answer once more, and purges it.
    pub(super) fn live(mut self, deeds: usize) -> Result<Tally> {
        for number in 0..deeds {
            let (deed, which) = self.roll();
            let done = self.act(deed, which);
            done.with_context(|| format!("{}, {number}: {deed:?}", self.name))?;
            // Nobody counts any more when something else has failed.
            let _ = self.deeds.send(());
        }
        while let Some(at) = self.sessions.len().checked_sub(1) {
            let id = self.sessions[at].id.clone();
            let left = self.answer_at_last(at).and_then(|()| self.purge(at));
            left.with_context(|| format!("{}, session {id} in the end", self.name))?;
        }
        Ok(self.tally)
    }

    /// What is done next, whatever came of what was done before.
    fn roll(&mut self) -> (Deed, usize) {
        let mut number = self.dice.below(DEEDS.iter().map(|(_, often)| often).sum());
        let which = self.dice.below(1 << 16);
        let is_it = |(_, often): &&(Deed, usize)| match number.checked_sub(*often) {
            Some(left) => {
                number = left;
                false
            }
            None => true,
        };
        (DEEDS.iter().find(is_it).map_or(Deed::Say, |(deed, _)| *deed), which)
    }

    fn act(&mut self, deed: Deed, which: usize) -> Result<()> {
        let has_room = self.sessions.len() < MOST;
        if self.sessions.is_empty() || (deed == Deed::Make && has_room) {
            return self.make(which);
        }
        let at = which % self.sessions.len();
        match deed {
            Deed::Fork if has_room => return self.fork(at),
            Deed::Purge => return self.purge(at),
            Deed::Put => return self.put(at),
            _ => {}
        }
        if !self.wake(at)? {
            return Ok(());
        }
        match deed {
            Deed::Recall => self.recall(at),
            Deed::Interrupt => self.speak(at, "[[count 2000 5ms]]", Way::Interrupt),
            Deed::HangUp => self.speak(at, "[[count 20 5ms]]", Way::HangUp),
            Deed::Run => self.run(at),
            Deed::Pause => self.set_aside(at, ("pause", "paused")),
            Deed::Stop => self.set_aside(at, ("stop", "stopped")),
            Deed::Make | Deed::Say | Deed::Fork | Deed::Purge | Deed::Put => self.say(at).map(drop),
        }
    }

    /// A word that was never there.
    pub(super) fn word(&mut self) -> String {
        self.words += 1;
        format!("{}-{:03}", self.name, self.words)
    }

    pub(super) fn path(&self, at: usize, what: &str) -> String {
        format!("/api/sessions/{}{what}", self.sessions[at].id)
    }

    fn make(&mut self, which: usize) -> Result<()> {
        let (agent, _) = AGENTS[which % AGENTS.len()];
        match self.ask("POST", "/api/sessions", Some(&json!({ "agent": agent })))? {
            Came::Lost => self.tally.strangers += 1,
            Came::Refused => {}
            Came::Granted(made) => {
                let canary = format!("{CANARY}{}", self.word());
                let known = Known::new(session_of(&made)?, canary, self.tenant.whose(agent));
                self.mark(known)?;
            }
        }
        Ok(())
    }

    fn fork(&mut self, at: usize) -> Result<()> {
        match self.ask("POST", &self.path(at, "/fork"), None)? {
            Came::Lost => self.tally.strangers += 1,
            Came::Refused => {}
            Came::Granted(made) => {
                let canary = format!("{CANARY}{}", self.word());
                let known = self.sessions[at].fork(session_of(&made)?, canary);
                self.mark(known)?;
            }
        }
        Ok(())
    }

    /// Takes a session for its own, with a word in a file that no other session has.
    fn mark(&mut self, known: Known) -> Result<()> {
        let text = format!("{}\n", known.canary());
        self.sessions.push(known);
        let path = self.path(self.sessions.len() - 1, "/files/canary");
        self.insist("the session's mark", |user| user.upload(&path, &text)).map(drop)
    }

    /// Sees to it that a session is active; false when that is refused for now.
    fn wake(&mut self, at: usize) -> Result<bool> {
        let known = &self.sessions[at];
        let status = self.look(|api| api.status(&known.id))?;
        if status == "active" {
            return Ok(true);
        }
        // One whose sandbox a daemon did not find again was set aside by that.
        let is_expected = known.is_aside || self.shared.has_killed();
        let is_at_rest = status == "paused" || status == "stopped";
        ensure!(is_expected && is_at_rest, "session {} is {status}", known.id);
        match self.ask("POST", &self.path(at, "/resume"), None)? {
            Came::Lost | Came::Refused => Ok(false),
            Came::Granted(shown) => {
                ensure!(shown["session"]["status"] == "active", "it is resumed: {shown}");
                self.sessions[at].is_aside = false;
                Ok(true)
            }
        }
    }

    fn set_aside(&mut self, at: usize, (verb, status): (&str, &str)) -> Result<()> {
        let came = self.ask("POST", &self.path(at, &format!("/{verb}")), None)?;
        if let Came::Granted(shown) = &came {
            ensure!(shown["session"]["status"] == status, "{verb}: {shown}");
        }
        self.sessions[at].is_aside |= !matches!(came, Came::Refused);
        Ok(())
    }

    /// A message with an answer that is known; whether that came.
    fn say(&mut self, at: usize) -> Result<bool> {
        self.speak(at, &format!("[[count {COUNTED} 2ms]]"), Way::Whole)?;
        let Some(End::Answered(text)) = self.sessions[at].newest() else { return Ok(false) };
        ensure!(*text == counted(COUNTED), "it answered {text:?}");
        Ok(true)
    }

    /// A message that asks what the agent remembers: all that it has answered.
    fn recall(&mut self, at: usize) -> Result<()> {
        self.speak(at, "[[history]]", Way::Whole)?;
        let known = &self.sessions[at];
        match known.newest() {
            Some(End::Answered(told)) => known.check_memory(told),
            _ => Ok(()),
        }
    }

    /// Whatever has happened to it: a session answers in the end.
    fn answer_at_last(&mut self, at: usize) -> Result<()> {
        let mut answered = Ok(false);
        until("an answer", || {
            answered = match self.wake(at) {
                Ok(true) => self.say(at),
                asleep => asleep,
            };
            !matches!(answered, Ok(false))
        })?;
        answered.map(drop)
    }

    fn run(&mut self, at: usize) -> Result<()> {
        let (mark, file) = (self.word(), format!("run-{}", self.words));
        let command = format!("echo {mark} > {file}; cat canary whose");
        let body = json!({ "command": command, "timeout": 120_000 });
        if let Came::Granted(ended) = self.ask("POST", &self.path(at, "/exec"), Some(&body))? {
            if ended["exitCode"] == KILLED && self.shared.inside() > 0 {
                return Ok(());
            }
            let known = &mut self.sessions[at];
            let is_right = ended["exitCode"] == 0 && ended["stdout"] == known.belongings();
            ensure!(is_right, "session {} has run {command}: {ended}", known.id);
            known.files.insert(file, format!("{mark}\n"));
        }
        Ok(())
    }

    fn put(&mut self, at: usize) -> Result<()> {
        let (mark, file) = (self.word(), format!("put-{}", self.words));
        let path = self.path(at, &format!("/files/{file}"));
        if let Came::Granted(_) = self.upload(&path, &mark)? {
            self.sessions[at].files.insert(file, mark);
        }
        Ok(())
    }

    /// Looks at everything of a session once more, and removes it.
    fn purge(&mut self, at: usize) -> Result<()> {
        self.wait_idle(at)?;
        let known = &self.sessions[at];
        self.look(|api| known.check(api)).with_context(|| format!("session {}", known.id))?;
        let path = self.path(at, "?purge=true");
        drop(self.sessions.remove(at));
        self.insist("the purge", |user| {
            let answer = user.call("DELETE", &path, None)?;
            // What was asked for before may have been done, and nobody was told.
            match answer {
                Some(answer) if answer.status == 404 => Ok(Came::Granted(Value::Null)),
                answer => user.came(answer),
            }
        })?;
        Ok(())
    }

    /// Waits for the end of a turn that runs, of a message that nobody knows to be accepted.
    fn wait_idle(&self, at: usize) -> Result<()> {
        let mut is_idle = Ok(false);
        until("no turn to run", || {
            is_idle = self.look(|api| Ok(api.session(&self.sessions[at].id)?["running"] == false));
            !matches!(is_idle, Ok(false))
        })?;
        is_idle.map(drop)
    }
}
