//! A daemon, and what is known of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ash_journey::leftovers::Snapshot;
use ash_journey::{Ash, Client, Options, process};

use super::call::{About, Caller, Done, go_on};
use super::files::Files;
use super::known::{Known, distinct, told};
use super::look::Numbers;
use super::model::{Call, Reply, State, Status};
use super::step::{Op, Step};
use crate::killed::{clean, sessions};
use crate::support::{check_ids, counted};

/// The most sessions that have not ended.
const ALIVE: usize = 5;

/// What the agent is told.
const PROMPT: &str = "Answer briefly.";

/// A call that is carried out: on which session, none for one that is to be made.
struct Job {
    at: Option<usize>,
    caller: Caller,
}

/// A daemon, and what is known of it.
pub(super) struct World {
    ash: Ash,
    before: Snapshot,
    /// Which versions the agent may have.
    versions: Vec<usize>,
    sessions: Vec<Known>,
    step: usize,
}

impl World {
    pub(super) fn new() -> Result<World> {
        let ash = Ash::start(Options::stub().config("[snapshots]\nkeep = 4\n"))?;
        let mut world = World {
            before: ash.places().look()?,
            ash,
            versions: vec![0],
            sessions: vec![],
            step: 0,
        };
        let (api, folder) = (world.ash.api(), world.folder(1)?);
        api.deploy("hello", &folder)?;
        // Whatever comes with the first session and stays has come.
        api.purge(&api.create("hello", serde_json::json!({}))?)?;
        api.call("DELETE", "/api/agents/hello", None)?.expect(200)?;
        world.before = world.ash.places().look()?;
        api.deploy("hello", &folder)?;
        world.versions = vec![1];
        Ok(world)
    }

    /// The agent's folder says which version it is.
    fn folder(&self, version: usize) -> Result<PathBuf> {
        let folder = self.ash.folder(&format!("hello-{version}"), PROMPT)?;
        fs::write(folder.join("version"), version.to_string())?;
        Ok(folder)
    }

    /// Carries a step out, and looks whether everything is as it may be.
    pub(super) fn step(&mut self, step: &Step) -> Result<()> {
        self.step += 1;
        match step {
            Step::Do(ops, kill) => self.calls(ops, *kill)?,
            Step::Deploy => self.deploy()?,
            Step::Crash => self.ash.kill9().and_then(|()| self.ash.boot())?,
            Step::Restart => self.restart()?,
            Step::Fault(point, passage) => {
                self.ash.kill9()?;
                if !self.ash.boot_to_die(&format!("{point}:{passage}"), &[])? {
                    self.ash.wait_killed()?;
                    self.ash.boot()?;
                }
            }
        }
        self.look()
    }

    fn restart(&mut self) -> Result<()> {
        let ended = self.ash.terminate();
        for known in &mut self.sessions {
            let after = known.may_be.iter().flat_map(State::restarted);
            // One that dies on the way out may have left it at anything.
            let as_before = known.may_be.iter().filter(|_| ended.is_err()).cloned();
            known.may_be = distinct(after.chain(as_before));
        }
        if let Err(error) = ended {
            ensure!(error.to_string().contains("signal: 9"), "{error}");
        }
        self.ash.boot()
    }

    fn deploy(&mut self) -> Result<()> {
        let next: Vec<_> = self.versions.iter().map(|version| version + 1).collect();
        let [version] = next[..] else { return self.settle_version() };
        let folder = self.folder(version)?;
        match self.ash.api().deploy("hello", &folder) {
            Ok(made) => {
                ensure!(made == version as u64, "version {made} in the place of {version}");
                self.versions = vec![version];
            }
            Err(_) => {
                self.revive(false)?;
                self.versions.push(version);
                self.settle_version()?;
            }
        }
        Ok(())
    }

    /// Sees which version the agent has.
    fn settle_version(&mut self) -> Result<()> {
        let shown = self.ash.api().call("GET", "/api/agents/hello", None)?.expect(200)?;
        let version = shown["agent"]["version"].as_u64().unwrap_or(0) as usize;
        ensure!(self.versions.contains(&version), "{version} is none of {:?}", self.versions);
        self.versions = vec![version];
        Ok(())
    }

    /// Carries calls out side by side, each on a session of its own.
    fn calls(&mut self, ops: &[(usize, Op)], kill: Option<u64>) -> Result<()> {
        let jobs = self.jobs(ops)?;
        let done: Vec<Result<Done>> = thread::scope(|scope| {
            let callers = jobs.iter().map(|job| scope.spawn(|| job.caller.run()));
            let callers: Vec<_> = callers.collect();
            if let Some(after) = kill {
                thread::sleep(Duration::from_millis(after));
                // It may have died by itself.
                let _ = self.ash.kill9();
            }
            let panicked = |_| anyhow::anyhow!("a caller has panicked");
            callers.into_iter().map(|caller| caller.join().map_err(panicked).flatten()).collect()
        });
        let done: Vec<Done> = done.into_iter().collect::<Result<_>>()?;
        let lost = done.iter().any(|done| matches!(done.reply, Reply::Lost));
        if lost || kill.is_some() {
            self.revive(kill.is_some())?;
        }
        for (job, done) in jobs.into_iter().zip(done) {
            let call = job.caller.call.clone();
            self.conclude(job, done).with_context(|| format!("{} {}", call.mark, call.op))?;
        }
        Ok(())
    }

    /// Which calls can be made, each with its session.
    fn jobs(&self, ops: &[(usize, Op)]) -> Result<Vec<Job>> {
        let gone = |known: &Known| known.may_be[0].status == Status::Gone;
        let there: Vec<usize> =
            (0..self.sessions.len()).filter(|at| !gone(&self.sessions[*at])).collect();
        let ended = |at: &&usize| self.sessions[**at].may_be[0].status != Status::Ended;
        let mut room = ALIVE.saturating_sub(there.iter().filter(ended).count());
        let (mut jobs, mut taken) = (vec![], BTreeSet::new());
        for (index, (at, op)) in ops.iter().enumerate() {
            let makes = matches!(op, Op::Create | Op::Fork(_));
            let at = match op {
                Op::Create => None,
                _ if there.is_empty() => continue,
                _ => Some(there[at % there.len()]),
            };
            if (makes && room == 0) || at.is_some_and(|at| !taken.insert(at)) {
                continue;
            }
            room -= usize::from(makes);
            let (mark, number) = (format!("m{}.{index}", self.step), self.step * 10 + index);
            let call = Call { op: op.clone(), mark, number };
            jobs.extend(self.job(at, call)?);
        }
        Ok(jobs)
    }

    /// A call with what it needs to know; none when it makes no sense.
    fn job(&self, at: Option<usize>, mut call: Call) -> Result<Option<Job>> {
        let known = at.map(|at| &self.sessions[at]);
        let about = known.map_or(Ok(Some(About::Nothing)), |known| known.about(&mut call.op))?;
        let (api, id) = (self.ash.api(), known.map(|known| known.id.clone()));
        Ok(about.map(|about| Job { at, caller: Caller { api, id, call, about } }))
    }

    /// Starts the daemon again if it is dead, or about to be.
    fn revive(&mut self, killed: bool) -> Result<()> {
        if !killed {
            let died = self.ash.wait_killed();
            died.context("a connection broke, and the daemon lives")?;
        }
        self.ash.boot()
    }

    /// Takes in what came of a call.
    fn conclude(&mut self, job: Job, mut done: Done) -> Result<()> {
        let Job { at, caller: Caller { call, .. } } = job;
        let Some(at) = at else { return self.made(None, done) };
        let api = self.ash.api();
        let known = &mut self.sessions[at];
        let speaks = matches!(call.op, Op::Say(..) | Op::Begin(_) | Op::Recall);
        if speaks && matches!(done.reply, Reply::Lost) {
            done.reply = known.catch_up(&api, &call, &mut done.frames)?;
        }
        if call.op == Op::Finish {
            let mut frames = std::mem::take(&mut known.open);
            go_on(&api, &known.id, &mut frames)?;
            check_ids(&frames)?;
        }
        if matches!(call.op, Op::Write(..) | Op::Remove(_)) && matches!(done.reply, Reply::Lost) {
            // It goes on without the daemon.
            process::until("the command to end", || !is_running(&call.mark))?;
        }
        if speaks {
            check_ids(&done.frames)?;
            known.open = if matches!(call.op, Op::Begin(_)) { done.frames.clone() } else { vec![] };
        }
        if let (Op::Say(..), Reply::Granted(text)) = (&call.op, &done.reply) {
            ensure!(*text == counted(3), "it answered {text}");
        }
        let children = match call.op {
            Op::Fork(from) => known.may_be.iter().flat_map(|state| state.fork(from)).collect(),
            _ => vec![],
        };
        let after = known.may_be.iter().flat_map(|state| state.after(&call, &done.reply));
        let after = distinct(after);
        ensure!(!after.is_empty(), "{:?} cannot be of{}", done.reply, told(&known.may_be));
        known.may_be = after;
        match call.op {
            Op::Fork(_) => self.made(Some((at, children)), done),
            _ => Ok(()),
        }
    }

    /// Takes in a session that was made, or may have been.
    fn made(&mut self, parent: Option<(usize, Vec<State>)>, done: Done) -> Result<()> {
        let (from, may_be) = match parent {
            Some((at, children)) => (Some(at), children),
            None => {
                self.settle_version()?;
                (None, self.versions.iter().map(|version| fresh(*version)).collect())
            }
        };
        let id = match &done.reply {
            Reply::Granted(made) => made["session"]["id"].as_str().map(str::to_owned),
            Reply::Refused(status) => {
                ensure!(from.is_some(), "no session was made: {status}");
                None
            }
            Reply::Lost => self.stranger(from)?,
        };
        let Some(id) = id else { return Ok(()) };
        ensure!(!may_be.is_empty(), "it was made out of nothing");
        let numbers = from.map_or(Ok(Numbers::new()), |at| self.inherited(&id, at))?;
        self.sessions.push(Known::new(id, distinct(may_be.into_iter()), numbers));
        Ok(())
    }

    /// What a fork's numbers mean up to its beginning, also of what its parent has undone.
    fn inherited(&self, id: &str, at: usize) -> Result<Numbers> {
        let events = self.ash.api().events(id)?;
        let forked = events.iter().find(|event| {
            event["type"] == "lifecycle" && event.to_string().contains(&self.sessions[at].id)
        });
        let begin = forked.context("it does not say what it was made of")?["sequence"].as_u64();
        let below = self.sessions[at].numbers.range(..begin.unwrap_or(0));
        Ok(below.map(|(number, text)| (*number, text.clone())).collect())
    }

    /// A session that nobody knows, made in this way.
    fn stranger(&self, parent: Option<usize>) -> Result<Option<String>> {
        let parent = parent.map(|at| self.sessions[at].id.as_str());
        let known = |id: &str| self.sessions.iter().any(|known| known.id == id);
        for session in sessions(&self.ash.api())? {
            let id = session["id"].as_str().context("a session has no id")?;
            if !known(id) && session["parentSessionId"].as_str() == parent {
                return Ok(Some(id.to_owned()));
            }
        }
        Ok(None)
    }

    /// Looks at every session. A daemon that dies meanwhile is started again.
    fn look(&mut self) -> Result<()> {
        for _ in 0..3 {
            let looked = self.look_once();
            let broken = looked.as_ref().err().is_some_and(is_broken);
            if !(broken && self.is_dying()) {
                return looked;
            }
            self.revive(false)?;
        }
        bail!("the daemon dies again and again")
    }

    /// Whether a connection broke because the daemon has died.
    fn is_dying(&mut self) -> bool {
        process::until("the daemon to be dead", || self.ash.is_dead().unwrap_or(true)).is_ok()
    }

    fn look_once(&mut self) -> Result<()> {
        let api = self.ash.api();
        for known in &mut self.sessions {
            known.look(&api).with_context(|| format!("session {}", known.id))?;
        }
        let ours: BTreeSet<_> = self.sessions.iter().map(|known| known.id.clone()).collect();
        let ids = sessions(&api)?;
        let mut ids = ids.iter().filter_map(|session| session["id"].as_str());
        let strange = ids.find(|id| !ours.contains(*id));
        ensure!(strange.is_none(), "nobody made session {strange:?}");
        Ok(())
    }

    /// Every checkpoint can be gone on from, and when everything is removed nothing is left.
    pub(super) fn finish(mut self) -> Result<()> {
        // Whatever is still to go wrong goes wrong with a healthy daemon.
        self.ash.kill9()?;
        self.ash.boot()?;
        self.look()?;
        for at in 0..self.sessions.len() {
            for name in self.sessions[at].may_be[0].names() {
                self.step += 1;
                self.fork_from(at, name).with_context(|| format!("checkpoint p{name}"))?;
            }
        }
        let api = self.ash.api();
        for session in sessions(&api)? {
            api.purge(session["id"].as_str().context("a session has no id")?)?;
        }
        api.call("DELETE", "/api/agents/hello", None)?.expect(200)?;
        clean(&self.ash, &self.before)?;
        self.ash.finish()
    }

    fn fork_from(&mut self, at: usize, name: usize) -> Result<()> {
        let number = self.step * 10;
        let call = Call { op: Op::Fork(Some(name)), mark: format!("m{}.0", self.step), number };
        let Some(job) = self.job(Some(at), call)? else { return Ok(()) };
        let done = job.caller.run()?;
        let count = self.sessions.len();
        self.conclude(job, done)?;
        ensure!(self.sessions.len() == count + 1, "it cannot be gone on from");
        self.look()?;
        let child = self.sessions.pop().context("just made")?;
        self.ash.api().purge(&child.id)
    }
}

/// A session that was just made.
fn fresh(version: usize) -> State {
    let files = [("CLAUDE.md", PROMPT.to_owned()), ("version", version.to_string())];
    let files: Files = files.map(|(name, text)| (name.to_owned(), text.into())).into();
    State::new(files)
}

fn is_running(mark: &str) -> bool {
    process::with_argument(&format!(".{mark} ")).iter().any(|pid| *pid != std::process::id())
        || !process::with_argument(&format!("# {mark}")).is_empty()
}

fn is_broken(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.to_string().contains("cannot connect") || cause.is::<std::io::Error>())
}
