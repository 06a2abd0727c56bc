//! What an agent has written lasts: whatever it is, however often its session is set aside and goes
//! on, and also when it is saved in the middle of being written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use ash_journey::process::{self, until};
use ash_journey::{Client, Options};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Talk, both_engines, is_long};

const SCRIPT: &str = include_str!("inside/lasting.py");

/// A session of an agent that has the script, whose files may be of any size.
fn begin(options: Options) -> Result<Talk> {
    let mut talk = Talk::begin(options.config("[sandbox]\nfile_size = \"8GiB\"\n"))?;
    // There may be room for one only.
    talk.turn("stop", "stopped")?;
    let folder = talk.ash.folder("lasting", "Answer briefly.")?;
    std::fs::write(folder.join("lasting.py"), SCRIPT)?;
    talk.meet("lasting")?;
    Ok(talk)
}

impl Talk {
    fn workspace(&self) -> PathBuf {
        self.ash.data_dir().join("sessions").join(&self.session).join("workspace")
    }

    /// A line for everything that is there, but for what the script itself has come with.
    fn look(&self, dir: &str) -> Result<BTreeSet<String>> {
        let script = self.ash.agents_dir().join("lasting/lasting.py");
        let mut python = Command::new("python3");
        let looked =
            python.arg("-B").arg(script).arg("look").arg(self.workspace().join(dir)).output()?;
        ensure!(looked.status.success(), "{}", String::from_utf8_lossy(&looked.stderr));
        Ok(String::from_utf8(looked.stdout)?.lines().map(str::to_owned).collect())
    }

    /// The agent runs the script to its end.
    fn script(&self, what: &str) -> Result<()> {
        let said =
            self.ask(&self.bash(&format!("python3 -B lasting.py {what} && echo written")))?;
        ensure!(said.contains("written"), "{said}");
        Ok(())
    }

    /// The agent leaves the script running.
    fn leave_running(&self, what: &str) -> Result<()> {
        let run = format!("setsid python3 -B lasting.py {what} > /dev/null 2>&1 & echo");
        ensure!(self.api.exec(&self.session, &run)?.code == 0);
        Ok(())
    }

    fn turn(&self, verb: &str, status: &str) -> Result<()> {
        let shown = self.api.turn_to(&self.session, verb)?;
        ensure!(shown == status, "{verb} led to {shown}");
        Ok(())
    }

    /// Sets the session aside, and takes its files away: they are to come from the store.
    fn lose_files(&mut self) -> Result<()> {
        self.turn("stop", "stopped")?;
        // What is saved in the background is saved before the daemon goes.
        self.ash.terminate()?;
        let place = self.workspace();
        std::fs::remove_dir_all(place.parent().context("a workspace lies in a directory")?)?;
        self.boot()
    }
}

fn same(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<()> {
    let some = |lines: Vec<&String>| lines.into_iter().take(5).cloned().collect::<Vec<_>>();
    let (gone, come) =
        (some(before.difference(after).collect()), some(after.difference(before).collect()));
    ensure!(gone.is_empty() && come.is_empty(), "gone: {gone:#?}\ncome: {come:#?}");
    Ok(())
}

/// How a session is set aside and goes on, in turn: by hand, by the daemon, and by the end of either.
const WAYS: [&str; 8] = ["pause", "stop", "idle", "crash", "pause", "evict", "restart", "lose"];

/// There is room for one sandbox, and an agent that writes all the time counts as one that nobody uses.
const NO_ROOM: &str = "[pool]\nbusy_cpus = 1000.0\n";

both_engines!(a_hundred_times_set_aside);

/// By hand, by the daemon when nobody uses it or others want its room, by the end of the daemon and of its files;
/// beside it the agent writes all the time. What is there when nobody writes any more is there when the session
/// goes on, and nothing of it is torn.
fn a_hundred_times_set_aside(options: Options) -> Result<()> {
    let mut talk = begin(options.env("ASH_MAX_SANDBOXES", 1).config(NO_ROOM))?;
    let count = if is_long() { 100 } else { WAYS.len() };
    for round in 0..count {
        let way = WAYS[round % WAYS.len()];
        talk.ask(&talk.bash(&format!("echo {round} >> rounds")))?;
        talk.leave_running("noise noise")?;
        until("files to be written", || {
            std::fs::read_dir(talk.workspace().join("noise")).is_ok_and(|all| all.count() > 10)
        })?;
        set_aside(&mut talk, way).with_context(|| format!("round {round}: {way}"))?;
    }
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("echo 0 >> rounds"), "{told}");
    let rounds = talk.api.exec(&talk.session, "wc -l < rounds")?.stdout;
    ensure!(rounds.trim() == count.to_string(), "{rounds}");
    talk.ash.finish()
}

/// Has sandboxes end that nobody has used for so long, from now on; `0s` is never.
fn end_idle_after(talk: &Talk, time: &str) -> Result<()> {
    let config = format!("[pool]\nidle_timeout = \"{time}\"\n");
    std::fs::write(talk.ash.scratch().join("ashd.toml.d/idle.toml"), config)?;
    let reloads = || talk.ash.log().matches("configuration reloaded").count();
    let before = reloads();
    process::signal(talk.ash.pid()?, Signal::HUP)?;
    until("the reload", || reloads() > before)
}

/// A session whose sandbox the daemon has ended has what was there then, in another one that its next message
/// makes.
fn goes_on(talk: &Talk) -> Result<()> {
    ensure!(talk.api.status(&talk.session)? == "active");
    let before = talk.look(".")?;
    ensure!(talk.ask("[[say back]]")? == "back");
    same(&before, &talk.look(".")?)
}

/// Nobody uses its sandbox until the daemon ends it.
fn rest(talk: &Talk) -> Result<()> {
    let before = talk.api.pool("cooled")?;
    end_idle_after(talk, "250ms")?;
    until("the sandbox to end", || talk.api.pool("cooled").is_ok_and(|now| now > before))?;
    end_idle_after(talk, "0s")?;
    talk.ash.none_inside("bridge")?;
    goes_on(talk)
}

/// Another session takes its room, and gives it back.
fn give_way(talk: &Talk) -> Result<()> {
    let (before, mut other) = (talk.api.pool("evictions")?, None);
    until("room for another session", || {
        other = talk.api.create("hello", json!({})).ok();
        other.is_some()
    })?;
    ensure!(talk.api.pool("evictions")? > before, "there was room");
    let other = other.context("no session")?;
    ensure!(talk.api.turn_to(&other, "stop")? == "stopped");
    goes_on(talk)?;
    talk.api.purge(&other)
}

fn set_aside(talk: &mut Talk, way: &str) -> Result<()> {
    match way {
        "pause" => {
            talk.turn("pause", "paused")?;
            talk.turn("resume", "active")?;
        }
        "idle" => rest(talk)?,
        "evict" => give_way(talk)?,
        "crash" => talk.crash()?,
        "restart" => {
            talk.ash.terminate()?;
            let before = talk.look(".")?;
            talk.boot()?;
            talk.turn("resume", "active")?;
            same(&before, &talk.look(".")?)?;
        }
        "lose" => {
            talk.turn("stop", "stopped")?;
            let before = talk.look(".")?;
            talk.turn("resume", "active")?;
            talk.lose_files()?;
            talk.turn("resume", "active")?;
            same(&before, &talk.look(".")?)?;
        }
        _ => {
            talk.turn("stop", "stopped")?;
            let before = talk.look(".")?;
            talk.turn("resume", "active")?;
            same(&before, &talk.look(".")?)?;
        }
    }
    // Whoever still writes does not need to; whole files have their hashes as names.
    let check =
        "pkill -f 'lasting.py nois[e]'; cd noise && sha256sum -- [0-9a-f]* | awk '$1 != $2' | head";
    let torn = talk.api.exec(&talk.session, check)?;
    ensure!(torn.stdout.is_empty() && torn.code == 0, "torn: {}{}", torn.stdout, torn.stderr);
    Ok(())
}

#[test]
fn whatever_a_tree_holds_comes_back() -> Result<()> {
    let mut talk = begin(Options::stub())?;
    talk.script("tree tree")?;
    comes_back(&mut talk, "tree", "one of everything, and 5 GiB of holes")?;
    talk.ash.finish()
}

#[test]
fn many_files_come_back() -> Result<()> {
    let count = if is_long() { 100_000 } else { 1_000 };
    let mut talk = begin(Options::stub())?;
    talk.script(&format!("many many {count}"))?;
    comes_back(&mut talk, "many", &format!("{count} files"))?;
    talk.ash.finish()
}

#[test]
fn a_large_file_comes_back() -> Result<()> {
    let (mib, hole) = if is_long() { (5 * 1024, 512) } else { (40, 5 * 1024) };
    let mut talk = begin(Options::stub())?;
    talk.script(&format!("large large {mib} {hole}"))?;
    comes_back(&mut talk, "large", &format!("{mib} MiB of noise behind {hole} MiB of hole"))?;
    talk.ash.finish()
}

/// Saves, loses the files, and has them back; says how long that took.
fn comes_back(talk: &mut Talk, dir: &str, what: &str) -> Result<()> {
    let began = Instant::now();
    let path = format!("/api/sessions/{}/checkpoints", talk.session);
    let made = talk.api.call("POST", &path, Some(&json!({ "name": "whole" })))?.expect(201)?;
    let saved = began.elapsed();
    ensure!(made["checkpoint"]["leftOut"] == 0, "{made}");
    let before = talk.look(dir)?;
    talk.lose_files()?;
    let began = Instant::now();
    talk.turn("resume", "active")?;
    let back = began.elapsed();
    same(&before, &talk.look(dir)?)?;
    tell(what, saved, back, &made["checkpoint"]);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "figures are for those who run the test")]
fn tell(what: &str, saved: Duration, back: Duration, point: &Value) {
    println!(
        "{what}: saved in {saved:.1?}, back in {back:.1?}, {} bytes written",
        point["written"]
    );
}

/// Every checkpoint is of one moment, whatever is written meanwhile.
#[test]
fn a_tree_that_changes_is_saved_as_it_was_at_one_moment() -> Result<()> {
    let talk = begin(Options::stub())?;
    // What takes long to look at, so that a cut is not of one moment by chance.
    talk.script("many many 300")?;
    talk.leave_running("pairs pairs 50")?;
    let last = talk.workspace().join("pairs/b/49");
    let moved = || std::fs::read_to_string(&last).is_ok_and(|text| text.trim() != "0");
    until("the pairs to move", moved)?;
    let mut steps = BTreeSet::new();
    for round in 0..if is_long() { 100 } else { 6 } {
        let child = talk.fork(json!({}))?;
        steps.insert(check_pairs(&talk, &child).with_context(|| format!("round {round}"))?);
        talk.api.purge(&child)?;
    }
    ensure!(steps.len() > 3, "nothing moved meanwhile: {steps:?}");
    talk.ash.finish()
}

/// A bridge that has no processor has not read what the agent has said: a moment waits for it.
#[test]
fn what_is_still_on_its_way_belongs_to_a_moment_in_mid_turn() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let sandbox = talk.ash.group(&talk.session)?;
    let mut turn = talk.send(
        "[[exec while ! test -e go; do sleep 0.01; done]][[stamp]][[events 20 500]]\
         [[exec touch said; while :; do date > noise; done]]",
    )?;
    turn.until_named("tool_use")?;
    freeze(&sandbox.join("bridge"), true)?;
    std::fs::write(talk.workspace().join("go"), "")?;
    until("the agent to have said all", || talk.workspace().join("said").exists())?;

    let (api, path) = (talk.api.clone(), format!("/api/sessions/{}/checkpoints", talk.session));
    let asked = std::thread::spawn(move || api.call("POST", &path, Some(&json!({}))));
    let agent = sandbox.join("agent");
    until("a moment", || is_frozen(&agent) || asked.is_finished())?;
    until("the end of that moment", || !is_frozen(&agent) || asked.is_finished())?;
    freeze(&sandbox.join("bridge"), false)?;
    let made = asked.join().map_err(|_| anyhow!("whoever asked has panicked"))??.expect(201)?;

    let seq = made["checkpoint"]["sequence"].as_u64().context("no sequence")?;
    let events = talk.api.events(&talk.session)?.into_iter();
    let said = events.filter(|event| event["data"].to_string().contains("xxxxxxxx"));
    let said: Vec<_> = said.filter_map(|event| event["sequence"].as_u64()).collect();
    ensure!(said.len() == 20 && said.iter().all(|said| *said <= seq), "{seq} of {said:?}");
    talk.api.interrupt(&talk.session)?;
    turn.to_end()?;
    talk.ash.finish()
}

/// Stops a control group where it is, or lets it go on, and waits until it has.
fn freeze(group: &Path, frozen: bool) -> Result<()> {
    std::fs::write(group.join("cgroup.freeze"), u8::from(frozen).to_string())?;
    until("a control group to stop or to go on", || is_frozen(group) == frozen)
}

fn is_frozen(group: &Path) -> bool {
    let events = std::fs::read_to_string(group.join("cgroup.events"));
    events.is_ok_and(|events| events.contains("frozen 1"))
}

/// All pairs of a fork are of one step, or of two that follow on each other; returns the first's.
fn check_pairs(talk: &Talk, child: &str) -> Result<u64> {
    let place = talk.ash.data_dir().join("sessions").join(child).join("workspace/pairs");
    let read = |file: String| -> Result<u64> {
        let text = std::fs::read_to_string(place.join(&file)).context(file.clone())?;
        text.trim().parse().with_context(|| format!("{file}: {text:?}"))
    };
    // In the order in which they are written: what comes first is never behind.
    let mut all = vec![];
    for n in 0..50 {
        all.extend([read(format!("a/{n}"))?, read(format!("b/{n}"))?]);
    }
    let first = all[0];
    let falls = all.windows(2).filter(|two| two[0] != two[1]).count();
    let fits = falls <= 1 && all.iter().all(|step| *step == first || *step + 1 == first);
    ensure!(fits, "not of one moment: {all:?}");
    Ok(first)
}
