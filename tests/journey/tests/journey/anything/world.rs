//! Machines, and what is known of the sessions on them.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Client, process};
use tempfile::TempDir;

use super::call::{About, Caller, Done};
use super::files::Files;
use super::known::{Known, distinct};
use super::look::Numbers;
use super::machine::{Machine, PROMPT};
use super::model::{Call, Reply, State, Status};
use super::step::{Op, Step};
use crate::killed::sessions;
use crate::support::{check_ids, counted};

/// The most sessions that have not ended.
const ALIVE: usize = 5;

/// A call that is carried out: on which session, none for one that is to be made, and by which machine.
struct Job {
    at: Option<usize>,
    home: usize,
    caller: Caller,
}

/// Machines, and what is known of the sessions on them.
pub(super) struct World {
    /// The first one, where agents are deployed and sessions are made; and a second one as soon as a
    /// session moves.
    pub(super) machines: Vec<Machine>,
    /// The object store that they share.
    bucket: Option<TempDir>,
    /// Which versions the agent may have.
    versions: Vec<usize>,
    pub(super) sessions: Vec<Known>,
    step: usize,
}

impl World {
    /// One where sessions move, or not: without an object store there is less to be waited for.
    pub(super) fn new(moves: bool) -> Result<World> {
        let bucket = moves.then(tempfile::tempdir).transpose()?;
        let first = Machine::start(bucket.as_ref().map(TempDir::path))?;
        first.ash.api().deploy("hello", &first.folder(1)?)?;
        Ok(World { machines: vec![first], bucket, versions: vec![1], sessions: vec![], step: 0 })
    }

    pub(super) fn bucket(&self) -> Option<&Path> {
        self.bucket.as_ref().map(TempDir::path)
    }

    /// Carries a step out, and looks whether everything is as it may be.
    pub(super) fn step(&mut self, step: &Step) -> Result<()> {
        self.step += 1;
        match step {
            Step::Do(ops, kill) => self.calls(ops, *kill)?,
            Step::Move(at, kill) => self.go_over(*at, *kill)?,
            Step::Deploy => self.deploy()?,
            Step::Crash => self.machines.iter_mut().try_for_each(|machine| machine.ash.crash())?,
            Step::Restart => self.restart()?,
            Step::Fault(point, passage) => {
                let mut machines = self.machines.iter_mut();
                machines.try_for_each(|machine| machine.die_at(point, *passage))?;
            }
        }
        self.look()
    }

    fn restart(&mut self) -> Result<()> {
        for (at, machine) in self.machines.iter_mut().enumerate() {
            let ended = machine.ash.terminate();
            for known in self.sessions.iter_mut().filter(|known| known.home == at) {
                let after = known.may_be.iter().flat_map(State::restarted);
                // One that dies on the way out may have left it at anything.
                let as_before = known.may_be.iter().filter(|_| ended.is_err()).cloned();
                known.may_be = distinct(after.chain(as_before));
            }
            if let Err(error) = ended {
                ensure!(error.to_string().contains("signal: 9"), "{error}");
            }
            machine.ash.boot()?;
        }
        Ok(())
    }

    fn deploy(&mut self) -> Result<()> {
        let next: Vec<_> = self.versions.iter().map(|version| version + 1).collect();
        let [version] = next[..] else { return self.settle_version() };
        let first = &mut self.machines[0];
        let folder = first.folder(version)?;
        match first.ash.api().deploy("hello", &folder) {
            Ok(made) => {
                ensure!(made == version as u64, "version {made} in the place of {version}");
                self.versions = vec![version];
            }
            Err(_) => {
                first.revive()?;
                self.versions.push(version);
                self.settle_version()?;
            }
        }
        Ok(())
    }

    /// Sees which version the agent has.
    fn settle_version(&mut self) -> Result<()> {
        let shown = self.machines[0]
            .asked(|api| api.call("GET", "/api/agents/hello", None)?.expect(200))?;
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
                self.machines.iter_mut().for_each(Machine::kill);
            }
            let panicked = |_| anyhow::anyhow!("a caller has panicked");
            callers.into_iter().map(|caller| caller.join().map_err(panicked).flatten()).collect()
        });
        let done: Vec<Done> = done.into_iter().collect::<Result<_>>()?;
        if kill.is_some() {
            self.machines.iter_mut().try_for_each(|machine| machine.ash.boot())?;
        } else {
            let lost = jobs.iter().zip(&done).filter(|(_, done)| matches!(done.reply, Reply::Lost));
            let lost: BTreeSet<usize> = lost.map(|(job, _)| job.home).collect();
            lost.into_iter().try_for_each(|home| self.machines[home].revive())?;
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
        let home = known.map_or(0, |known| known.home);
        let (api, id) = (self.machines[home].ash.api(), known.map(|known| known.id.clone()));
        Ok(about.map(|about| Job { at, home, caller: Caller { api, id, call, about } }))
    }

    /// Takes in what came of a call.
    fn conclude(&mut self, job: Job, mut done: Done) -> Result<()> {
        let Job { at, home, caller: Caller { call, .. } } = job;
        let Some(at) = at else { return self.made(None, done) };
        let (known, machine) = (&mut self.sessions[at], &mut self.machines[home]);
        let speaks = matches!(call.op, Op::Say(..) | Op::Begin(_) | Op::Recall);
        if speaks && matches!(done.reply, Reply::Lost) {
            done.reply = known.catch_up(&machine.ash.api(), &call, &mut done.frames)?;
        }
        if call.op == Op::Finish {
            let mut frames = std::mem::take(&mut known.open);
            machine.asked(|api| known.follow(api, &mut frames))?;
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
        known.take(&call, &done.reply)?;
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
        let home = from.map_or(0, |at| self.sessions[at].home);
        let mut made = Known::new(id, home, distinct(may_be.into_iter()), numbers);
        made.cuts = from.map(|at| self.sessions[at].cuts.clone()).unwrap_or_default();
        self.sessions.push(made);
        Ok(())
    }

    /// What a fork's numbers mean up to its beginning, also of what its parent has undone.
    fn inherited(&mut self, id: &str, at: usize) -> Result<Numbers> {
        let parent = &self.sessions[at];
        let events = self.machines[parent.home].asked(|api| api.events(id))?;
        let forked = events
            .iter()
            .find(|event| event["type"] == "lifecycle" && event.to_string().contains(&parent.id));
        let forked = forked.context("it does not say what it was made of")?;
        let told: serde_json::Value =
            serde_json::from_str(forked["data"].as_str().unwrap_or_default())?;
        let point = told["sequence"].as_u64().context("it does not say from where")?;
        let shared = parent.numbers.range(..=point);
        Ok(shared.map(|(number, text)| (*number, text.clone())).collect())
    }

    /// A session that nobody knows, made in this way.
    fn stranger(&mut self, parent: Option<usize>) -> Result<Option<String>> {
        let parent = parent.map(|at| &self.sessions[at]);
        let all = self.machines[parent.map_or(0, |parent| parent.home)].asked(sessions)?;
        let known = |id: &str| self.sessions.iter().any(|known| known.id == id);
        for session in all {
            let id = session["id"].as_str().context("a session has no id")?;
            let made_of = session["parentSessionId"].as_str();
            if !known(id) && made_of == parent.map(|parent| parent.id.as_str()) {
                return Ok(Some(id.to_owned()));
            }
        }
        Ok(None)
    }

    /// Looks at every session where it is, and whether there are others.
    fn look(&mut self) -> Result<()> {
        for known in &mut self.sessions {
            let looked = self.machines[known.home].asked(|api| known.look(api));
            looked.with_context(|| format!("session {}", known.id))?;
        }
        for (at, machine) in self.machines.iter_mut().enumerate() {
            let ours =
                |id: &str| self.sessions.iter().any(|known| known.id == id && known.may_be_at(at));
            let ids = machine.asked(sessions)?;
            let mut ids = ids.iter().filter_map(|session| session["id"].as_str());
            let strange = ids.find(|id| !ours(id));
            ensure!(strange.is_none(), "nobody made session {strange:?}");
        }
        Ok(())
    }

    /// Every checkpoint can be gone on from, and when everything is removed nothing is left.
    pub(super) fn finish(mut self) -> Result<()> {
        // Whatever is still to go wrong goes wrong with healthy daemons.
        self.machines.iter_mut().try_for_each(|machine| machine.ash.crash())?;
        self.look()?;
        for at in 0..self.sessions.len() {
            for name in self.sessions[at].may_be[0].names() {
                self.step += 1;
                self.fork_from(at, name).with_context(|| format!("checkpoint p{name}"))?;
            }
        }
        self.machines.iter().try_for_each(Machine::clear)?;
        self.machines.into_iter().try_for_each(|machine| machine.ash.finish())
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
        self.machines[child.home].ash.api().purge(&child.id)
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
