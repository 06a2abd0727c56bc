//! The daemon dies at every point where it hurts, and at any time, while clients keep it busy:
//! what was promised is kept, and nothing is left.

mod check;
mod crowd;
mod heard;
mod load;
mod making;
mod prompts;
mod starting;
mod stored;
mod unpacked;

#[expect(unreachable_pub, reason = "the table is the daemon's own")]
#[path = "../../../../../ashd/src/fault/points.rs"]
pub(crate) mod points;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ash_journey::leftovers::Snapshot;
use ash_journey::{Ash, Client, Options, process};
use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use self::check::check;
pub(crate) use self::check::{Ended, clean, sessions, told, turns_and_interrupts};
use self::load::{Known, Load};
use self::prompts::check_all_heard;
pub(crate) use self::stored::dies_between_parts;
use crate::machines;
use crate::support::{is_long, with_hello};

/// So few users that a lease that is lost is missed.
const SLOTS: usize = 15;

/// At which later passages, when there is time.
const LATER: [usize; 5] = [2, 3, 5, 9, 17];

/// Points that clients at work do not lead to, or not for certain, by how they begin. Daemons die there where
/// there is a machine to import from, a backup, a tenant, something to collect, a session that goes back to how
/// it was made, one that nobody uses, or a warm sandbox; an archive, an object in parts, copies that are old, or
/// a session that was purged and copied; nothing that says which machine this is; or behind a flush that nobody
/// waits for.
const ELSEWHERE: [&str; 17] = [
    "import.",
    "backup.",
    "fill.",
    "tenant.",
    "collect.",
    "restore.synced",
    "back.start",
    "idle.",
    "clear.",
    "create.unrecord",
    "merge.",
    "copy.part",
    "copy.pruned",
    "purge.buried",
    "purge.emptied",
    "purge.disowned",
    "node.",
];

/// Points that can fail while a daemon is at work, and at which passages they do.
const FAILING: &[(&str, &[usize])] = &[
    ("store.commit.before", &[7, 2, 12, 19, 26]),
    ("deploy.publish.before", &[1, 2]),
    ("deploy.publish.after", &[1, 2]),
    ("socket.publish", &[1]),
    ("broker.grant.before", &[1, 4]),
    ("spawn.cgroup", &[1, 4]),
    ("spawn.listening", &[1, 4]),
    ("spawn.launch.before", &[1, 4]),
    ("spawn.launch.after", &[1, 4]),
    ("spawn.greeted", &[1, 4]),
    ("pack.publish.before", &[1, 3]),
    ("pack.publish.after", &[1, 3]),
    ("restore.built", &[1, 2]),
    ("place.emptied", &[1]),
    ("place.filled", &[1]),
];

struct Killing {
    ash: Ash,
    /// The object store. It is not the daemon's, and keeps what it gets.
    _bucket: TempDir,
    before: Snapshot,
    round: usize,
}

/// A daemon with the agent `hello` and few users, and what is there without a session.
fn fresh(options: Options) -> Result<(Ash, Snapshot)> {
    let uids = 2 + 2 * SLOTS;
    let ash = with_hello(options.config(&format!("[sandbox]\nuid_count = {uids}\n")))?;
    let api = ash.api();
    // Whatever comes with the first session and stays has come.
    let session = api.create("hello", json!({}))?;
    api.turn_to(&session, "end")?;
    api.purge(&session)?;
    let before = ash.places().look()?;
    Ok((ash, before))
}

impl Killing {
    fn begin() -> Result<Killing> {
        let bucket = tempfile::tempdir()?;
        let (ash, before) = fresh(machines::shared(Options::stub(), bucket.path()))?;
        Ok(Killing { ash, _bucket: bucket, before, round: 0 })
    }

    fn load(&mut self) -> Result<Load> {
        self.round += 1;
        Load::begin(&self.ash, self.round)
    }

    /// Loads a daemon that dies at a point, or is killed when all is done and it did not come by
    /// there: then false.
    fn die_busy(&mut self, fault: &str) -> Result<(bool, Known)> {
        self.ash.kill9()?;
        ensure!(self.ash.boot_to_die(fault, &[])?, "{fault} came before the daemon was ready");
        let known = self.load()?.end()?;
        if known.trouble.is_none() && !self.ash.is_dead()? {
            self.ash.kill9()?;
            return Ok((false, known));
        }
        let died = self.ash.wait_killed();
        died.with_context(|| format!("the clients say {:?}", known.trouble))?;
        Ok((true, known))
    }

    /// Kills a busy daemon, and starts one that dies at a point before it is ready.
    fn die_starting(&mut self, point: &str, fault: &str) -> Result<Known> {
        let known = match point {
            "reconcile.kept" => {
                let (died, known) = self.die_busy("end.saved")?;
                ensure!(died, "no session was ended");
                known
            }
            _ => {
                let load = self.load()?;
                load.wait_accepted(2)?;
                self.ash.kill9()?;
                if point.ends_with(".spawned") {
                    kill_helpers(&self.ash)?;
                }
                load.end()?
            }
        };
        if point == "reconcile.set_aside" {
            self.ash.kill_inside("bridge")?;
        }
        ensure!(!self.ash.boot_to_die(fault, &[])?, "{fault} did not come before it was ready");
        self.ash.wait_killed()?;
        Ok(known)
    }

    /// Starts a healthy daemon and looks whether everything is as it should be. So often the broker was killed
    /// as well.
    fn mend(&mut self, known: &Known, lossy: bool, cut_off: usize) -> Result<()> {
        self.ash.boot()?;
        check(&self.ash, known, lossy)?;
        check_all_heard(&self.ash, known, cut_off)?;
        self.ash.model().reset();
        // What is kept is in no difference of before and after: each chunk of it is looked at.
        let found = self.ash.ctl().json(&["fsck", "--deep"])?;
        ensure!(found["differences"] == json!([]), "{found}");
        clean(&self.ash, &self.before)
    }

    /// Dies at a point; false when it is passed less often.
    fn visit(&mut self, point: &str, passage: usize) -> Result<bool> {
        let fault = match point {
            "create.undo" => format!("spawn.greeted:error,create.undo:{passage}"),
            _ => format!("{point}:{passage}"),
        };
        let (died, known) = match point {
            _ if point.starts_with("store.migrate.") => {
                self.die_new(&fault)?;
                return Ok(true);
            }
            "key.publish" => {
                self.die_without_key(&fault)?;
                return Ok(true);
            }
            "launcher.spawned" | "broker.spawned" => (true, self.die_starting(point, &fault)?),
            _ if point.starts_with("reconcile.") => (true, self.die_starting(point, &fault)?),
            _ => self.die_busy(&fault)?,
        };
        let cut_off = usize::from(point.ends_with(".spawned"));
        self.mend(&known, point == "reconcile.set_aside", cut_off)?;
        Ok(died)
    }

    /// Dies in the making of a database.
    fn die_new(&mut self, fault: &str) -> Result<()> {
        self.ash.kill9()?;
        for file in ["ash.db", "ash.db-wal", "ash.db-shm"] {
            fs::remove_file(self.ash.data_dir().join(file))?;
        }
        ensure!(!self.ash.boot_to_die(fault, &[])?, "{fault} did not come before it was ready");
        self.ash.wait_killed()?;
        self.ash.boot()?;
        self.ash.api().deploy("hello", &self.ash.agents_dir().join("hello"))?;
        clean(&self.ash, &self.before)
    }

    /// Dies in the making of the operator's key.
    fn die_without_key(&mut self, fault: &str) -> Result<()> {
        self.ash.kill9()?;
        ensure!(!self.ash.boot_to_die(fault, &[("ASH_API_KEY", "")])?, "no key was made");
        self.ash.wait_killed()?;
        // Nothing but the next one that makes a key has to do with it.
        self.ash.boot_with(&[("ASH_API_KEY", "")])?;
        self.ash.kill9()?;
        fs::remove_file(self.ash.data_dir().join("initial-api-key"))?;
        self.ash.boot()?;
        clean(&self.ash, &self.before)
    }

    /// Every lease can be had, and the daemon leaves nothing.
    fn finish(self) -> Result<()> {
        let api = self.ash.api();
        for _ in 0..SLOTS {
            api.create("hello", json!({}))?;
        }
        clean(&self.ash, &self.before)?;
        self.ash.finish()
    }
}

/// Kills launcher and broker, whichever daemon has started them.
fn kill_helpers(ash: &Ash) -> Result<()> {
    for pid in ["ash-launcher", "ash-broker"].into_iter().flat_map(|name| ash.helpers(name)) {
        // It may go with one that was killed before it.
        let _ = process::signal(pid, Signal::KILL);
        process::wait(pid, Duration::from_secs(10))?;
    }
    Ok(())
}

#[test]
fn at_every_point_where_it_hurts() -> Result<()> {
    let mut killing = Killing::begin()?;
    let is_elsewhere = |point: &str| ELSEWHERE.iter().any(|start| point.starts_with(start));
    let here = points::POINTS.iter().filter(|(point, _)| !is_elsewhere(point));
    for (point, _) in here {
        let reached = killing.visit(point, 1).with_context(|| format!("at {point}"))?;
        ensure!(reached, "nothing passes {point}");
    }
    killing.finish()
}

/// Whoever comes by later finds more under way.
#[test]
fn at_later_passages() -> Result<()> {
    let mut killing = Killing::begin()?;
    let often = points::POINTS.iter().filter(|(point, _)| !passes_once(point));
    let all = often.flat_map(|(point, _)| LATER.map(|passage| (*point, passage)));
    // A sample has every passage in it, of some point.
    let step = if is_long() { 1 } else { 29 };
    for (point, passage) in all.step_by(step) {
        let fault = || format!("at {point}, passage {passage}");
        killing.visit(point, passage).with_context(fault)?;
    }
    killing.finish()
}

/// What a daemon that starts passes once, or as often as chance will have it.
fn passes_once(point: &str) -> bool {
    let starts = [
        "reconcile.",
        "key.",
        "launcher.",
        "broker.spawned",
        "store.migrate.",
        "create.undo",
        "create.unrecord",
        "import.",
        "backup.",
        "fill.",
        "tenant.",
        "idle.",
        "merge.",
        "copy.part",
        "copy.pruned",
        "purge.",
        "node.",
        "clear.",
    ];
    starts.iter().any(|start| point.starts_with(start))
}

/// A step that fails is told to whoever asked for it, and has left nothing; the daemon goes on.
#[test]
fn a_step_that_fails() -> Result<()> {
    let mut killing = Killing::begin()?;
    let (step, most) = if is_long() { (1, usize::MAX) } else { (2, 1) };
    let some = FAILING.iter().step_by(step);
    let all = some.flat_map(|(point, at)| at.iter().take(most).map(move |at| (point, at)));
    for (point, passage) in all {
        killing.ash.kill9()?;
        let fault = format!("{point}:{passage}:error");
        ensure!(killing.ash.boot_to_die(&fault, &[])?, "{fault} has kept the daemon from starting");
        let known = killing.load()?.end()?;
        ensure!(!killing.ash.is_dead()?, "ashd has died of {fault}");
        let told = || format!("{fault}; the clients say {:?}", known.trouble);
        check(&killing.ash, &known, false).with_context(told)?;
        check_all_heard(&killing.ash, &known, 0).with_context(told)?;
        killing.ash.model().reset();
        clean(&killing.ash, &killing.before).with_context(told)?;
    }
    killing.finish()
}

/// On a clock of its own, spread over the time that the clients need when nobody is killed.
#[test]
fn at_any_time() -> Result<()> {
    let rounds: u32 = if is_long() { 500 } else { 10 };
    let mut killing = Killing::begin()?;
    let began = Instant::now();
    let known = killing.load()?.end()?;
    let needed = began.elapsed();
    ensure!(known.trouble.is_none(), "without a kill: {:?}", known.trouble);
    killing.ash.kill9()?;
    killing.mend(&known, false, 0).context("when all was done")?;
    for round in 0..rounds {
        let load = killing.load()?;
        std::thread::sleep(needed * (round * 61 % 100) / 100);
        killing.ash.kill9()?;
        let known = load.end()?;
        killing.mend(&known, false, 0).with_context(|| format!("round {round}"))?;
    }
    killing.finish()
}
