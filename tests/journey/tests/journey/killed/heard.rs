//! The same with the real CLI: wherever the daemon dies on the way of a turn, the model hears every
//! prompt once.
//!
//! One session goes on through all of it. A daemon dies, the next one is healthy: history, streams,
//! files and what there is of processes, groups and sockets are as they have to be, and the model has
//! heard what history has, and nothing else. It may have heard a prompt once more where the CLI says that
//! it tries again, or where its connection was cut by us.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context as _, Result, ensure};
use ash_journey::leftovers::Snapshot;
use ash_journey::process::until;
use ash_journey::{Ash, Client, Options};
use rusqlite::Connection;
use serde_json::json;

use super::check::{check, check_idle, clean, sessions, turns};
use super::load::{Deployed, Facts, Known, Said};
use super::{LATER, fresh, kill_helpers, passes_once, points, prompts};
use crate::support::{is_long, times_asked};

/// What leads to a point.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Deed {
    /// A message to a session that is up.
    Say,
    /// A start, while the model holds an answer back.
    Start,
    /// The same, and neither launcher nor broker is there any more.
    StartAlone,
    /// The session goes on that was stopped.
    GoOn,
    /// It is stopped.
    Stop,
    /// It goes back to a checkpoint, at which it is.
    GoBack,
    /// Another one is made.
    Create,
}

/// The points on the way of a turn, what leads there, and at which passages it is died when there is
/// little time: at one step of each kind, and at those that part a prompt that the CLI has from one that
/// it has not.
const ON_THE_WAY: &[(&str, Deed, &[usize])] = &[
    // Recorded and not given: the next daemon gives it. Given and not told: it must not.
    ("turn.recorded", Deed::Say, &[1]),
    ("turn.given", Deed::Say, &[1]),
    // The first commit has the prompt, the others what the CLI answers.
    ("store.commit.before", Deed::Say, &[1, 3]),
    ("store.commit.after", Deed::Say, &[1, 2]),
    // What the bridge sends again is known already, or not.
    ("ack.before", Deed::Say, &[1]),
    ("ack.after", Deed::Say, &[2]),
    // The turn is over; its point is not there, or nobody knows.
    ("pack.publish.before", Deed::Say, &[]),
    ("pack.publish.after", Deed::Say, &[1]),
    ("point.recorded", Deed::Say, &[1]),
    // Whoever goes on with the turn dies as well.
    ("reconcile.greeted", Deed::Start, &[1]),
    ("reconcile.adopted", Deed::Start, &[1]),
    ("reconcile.reaped", Deed::Start, &[]),
    ("reconcile.removed", Deed::Start, &[]),
    // The answer is cut off, and the CLI asks for it again through another broker.
    ("launcher.spawned", Deed::StartAlone, &[]),
    ("broker.spawned", Deed::StartAlone, &[1]),
    // Every step of a sandbox, of its lease from the broker, and of the session that it is for.
    ("socket.publish", Deed::GoOn, &[]),
    ("broker.grant.before", Deed::GoOn, &[1]),
    ("broker.grant.after", Deed::GoOn, &[1]),
    ("spawn.cgroup", Deed::GoOn, &[]),
    ("spawn.listening", Deed::GoOn, &[]),
    ("spawn.launch.before", Deed::GoOn, &[]),
    ("spawn.launch.after", Deed::GoOn, &[1]),
    ("spawn.greeted", Deed::GoOn, &[1]),
    ("resume.launched", Deed::GoOn, &[1]),
    ("resume.recorded", Deed::GoOn, &[1]),
    ("sandbox.end.killed", Deed::Stop, &[1]),
    ("sandbox.end.closed", Deed::Stop, &[]),
    ("sandbox.end.revoked", Deed::Stop, &[]),
    // The transcript is among the files that are put in place.
    ("restore.built", Deed::GoBack, &[]),
    ("back.built", Deed::GoBack, &[]),
    ("back.recorded", Deed::GoBack, &[1]),
    ("place.emptied", Deed::GoBack, &[1]),
    ("place.filled", Deed::GoBack, &[]),
    ("back.placed", Deed::GoBack, &[]),
    // A session that nobody was told of: its first prompt is heard once, too.
    ("lease.taken", Deed::Create, &[]),
    ("create.laid_out", Deed::Create, &[]),
    ("create.launched", Deed::Create, &[]),
    ("create.recorded", Deed::Create, &[1]),
];

/// Points where no prompt is on its way, by how they begin, and why.
const ELSEWHERE: &[(&str, &str)] = &[
    ("store.migrate.", "nobody is served yet"),
    ("key.", "nobody is served yet"),
    ("node.", "nobody is served yet"),
    ("tree.", "files of other kinds than the agent's own come and go"),
    ("write.", "files come from outside"),
    ("merge.", "files come from outside"),
    ("change.", "files come from outside"),
    ("attach.", "files come from outside"),
    ("detach.", "files come from outside"),
    ("deploy.", "a session keeps the version that it has"),
    ("delete.", "its sessions have ended"),
    ("create.undo", "the session never was"),
    ("create.unrecord", "nobody was told of the session"),
    ("lease.returned", "the session never was, or has ended"),
    ("collect.", "no session needs it"),
    ("back.start", "there is no prompt left where a session began"),
    ("restore.synced", "the session goes on, only the disk is slow"),
    ("fork.", "the parent does not notice, and the fork is set aside"),
    ("files.aside", "the session never was, or has ended"),
    ("end.", "the session has ended"),
    ("purge.", "the session has ended"),
    ("copy.", "copies are behind everything"),
    ("import.", "it comes without a sandbox"),
    ("idle.", "no turn runs in a sandbox that rests"),
    ("clear.", "the session has no sandbox"),
    ("backup.", "backups are beside everything"),
    ("fill.", "no daemon runs"),
    ("tenant.", "its sessions are gone"),
    ("reconcile.kept", "the session has ended"),
    ("reconcile.set_aside", "the CLI has died as well"),
];

/// So many messages are sent to a session before another takes its place: histories are read in one
/// page.
pub(super) const LONG: usize = 60;

struct Hearing {
    ash: Ash,
    before: Snapshot,
    facts: Facts,
    /// Messages to all sessions so far.
    count: usize,
    /// Messages to this one of which it was looked at how often they were heard.
    looked_at: usize,
}

impl Hearing {
    fn begin(options: Options) -> Result<Hearing> {
        let (ash, before) = fresh(options)?;
        let facts = Facts::default();
        let mut hearing = Hearing { ash, before, facts, count: 0, looked_at: 0 };
        hearing.meet()?;
        Ok(hearing)
    }

    /// Begins a conversation.
    fn meet(&mut self) -> Result<()> {
        let session = Some(self.ash.api().create("hello", json!({}))?);
        // The next daemon notes that its files may not be on the disk: once, before it is ready.
        self.ash.kill9()?;
        self.ash.boot()?;
        self.facts = Facts { session, status: "active", ..Facts::default() };
        self.looked_at = 0;
        self.say()?;
        self.check_heard(0)
    }

    /// Ends the conversation.
    fn part(&mut self) -> Result<()> {
        prompts::part(&self.ash.api(), &self.session()?)
    }

    fn session(&self) -> Result<String> {
        self.facts.session.clone().context("there is no session")
    }

    fn path(&self, what: &str) -> Result<String> {
        Ok(format!("/api/sessions/{}/{what}", self.session()?))
    }

    /// A message that only this one is: it leaves its mark and something that has a checksum.
    fn next(&mut self, before: &str) -> &mut Said {
        self.count += 1;
        let mark = format!("m{}", self.count);
        let prompt = prompts::prompt(&mark, before);
        let at = self.facts.said.len();
        self.facts.said.push(Said { mark, prompt, seen: vec![] });
        &mut self.facts.said[at]
    }

    /// Sends a message and reads until the answer is over, or cut off.
    fn say(&mut self) -> Result<()> {
        let (api, session) = (self.ash.api(), self.session()?);
        let said = self.next("");
        let mut turn = api.send(&session, json!({ "content": said.prompt }))?;
        let read = loop {
            match turn.next() {
                Ok(Some(_)) => {}
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        said.seen = std::mem::take(&mut turn.seen);
        read
    }

    /// Sends a message whose answer the model holds back.
    fn say_held(&mut self) -> Result<()> {
        let (api, session) = (self.ash.api(), self.session()?);
        let gate = self.gate();
        let said = self.next(&format!("[[hold {gate}]]"));
        let mut turn = api.send(&session, json!({ "content": said.prompt }))?;
        turn.until_named("session_start")?;
        said.seen = std::mem::take(&mut turn.seen);
        let model = self.ash.model();
        Ok(model.block_on(model.wait_held(&gate))?)
    }

    /// The gate of the next message.
    fn gate(&self) -> String {
        format!("gate-{}", self.count + 1)
    }

    /// Lets the model answer that was asked so often, and reads to the end.
    fn let_go(&mut self, asked: usize) -> Result<()> {
        let (api, session) = (self.ash.api(), self.session()?);
        let gate = format!("gate-{}", self.count);
        let said = self.facts.said.last_mut().context("nothing was said")?;
        let last = said.seen.iter().rev().find_map(|frame| frame.id);
        let turn = api.follow(&session, last)?;
        let model = self.ash.model();
        let asks = |prompt: &str| times_asked(model, prompt);
        until("the model to be asked", || asks(&said.prompt) >= asked)?;
        model.block_on(model.wait_held(&gate))?;
        model.release(&gate);
        said.seen.extend(turn.to_end()?.seen.iter().cloned());
        Ok(())
    }

    /// What is done in a healthy daemon, which is killed then.
    fn prepare(&mut self, deed: Deed) -> Result<()> {
        let api = self.ash.api();
        // Nothing is left to be saved by the daemon that is to die of something else.
        api.call("POST", &self.path("checkpoints")?, Some(&json!({})))?.expect(201)?;
        match deed {
            Deed::Say | Deed::Stop | Deed::Create => {}
            Deed::Start | Deed::StartAlone => self.say_held()?,
            Deed::GoOn => {
                ensure!(api.turn_to(&self.session()?, "stop")? == "stopped");
                self.facts.status = "stopped";
            }
            Deed::GoBack => {
                let name = json!({ "name": self.name() });
                api.call("POST", &self.path("checkpoints")?, Some(&name))?.expect(201)?;
            }
        }
        self.await_builds()?;
        self.ash.kill9()?;
        if deed == Deed::StartAlone {
            kill_helpers(&self.ash)?;
        }
        Ok(())
    }

    /// Waits until files that were brought back are on the disk: else the next daemon notes that as well.
    fn await_builds(&self) -> Result<()> {
        let database = Connection::open(self.ash.data_dir().join("ash.db"))?;
        // Those of which it is noted have no build of their own.
        let building = "SELECT count(*) FROM unsynced WHERE build <> zeroblob(16)";
        until("what was built to be on the disk", || {
            database.query_row(building, [], |row| row.get(0)).is_ok_and(|left: u64| left == 0)
        })
    }

    /// Of the checkpoint that the session goes back to.
    fn name(&self) -> String {
        format!("behind-{}", self.count)
    }

    /// What is asked of a daemon that dies of it.
    fn act(&mut self, deed: Deed) -> Result<()> {
        let (api, session) = (self.ash.api(), self.session()?);
        match deed {
            Deed::Say => self.say(),
            Deed::Start | Deed::StartAlone => Ok(()),
            Deed::GoOn => {
                self.facts.asked = Some("active");
                api.turn_to(&session, "resume").map(drop)
            }
            Deed::Stop => {
                self.facts.asked = Some("stopped");
                api.turn_to(&session, "stop").map(drop)
            }
            Deed::GoBack => {
                let path = self.path(&format!("checkpoints/{}/restore", self.name()))?;
                api.call("POST", &path, None)?.expect(200).map(drop)
            }
            Deed::Create => api.create("hello", json!({})).map(drop),
        }
    }

    /// Has a daemon die at a point, and looks at what the next one makes of it. False when it is passed
    /// less often.
    fn visit(&mut self, (point, deed): (&str, Deed), passage: usize) -> Result<bool> {
        if self.facts.said.len() > LONG {
            self.part()?;
            self.meet()?;
        }
        self.prepare(deed)?;
        let files = self.files()?;
        let is_ready = self.ash.boot_to_die(&format!("{point}:{passage}"), &[])?;
        let at_start = matches!(deed, Deed::Start | Deed::StartAlone);
        ensure!(is_ready || at_start, "{point} came before the daemon was ready");
        let outcome = if is_ready { self.act(deed) } else { Ok(()) };
        let died = passage == 1 || self.dies()?;
        match died {
            true => self.ash.wait_killed().with_context(|| format!("{deed:?}: {outcome:?}"))?,
            false => self.ash.kill9()?,
        }
        self.ash.boot()?;
        self.look(deed, &files)?;
        Ok(died)
    }

    /// Whether a daemon dies of what it still does in the background.
    fn dies(&mut self) -> Result<bool> {
        let database = Connection::open(self.ash.data_dir().join("ash.db"))?;
        let unsaved = "SELECT count(*) FROM sessions WHERE turn IS NOT NULL OR EXISTS (
            SELECT 1 FROM events WHERE session = sessions.key AND kind <> 'lifecycle'
            AND seq > (SELECT ifnull(max(seq), 0) FROM points WHERE session = sessions.key))";
        until("everything to be saved", || {
            self.ash.is_dead().unwrap_or(true)
                || database
                    .query_row(unsaved, [], |row| row.get(0))
                    .is_ok_and(|left: u64| left == 0)
        })?;
        self.ash.is_dead()
    }

    /// Whether everything is as it has to be behind a death.
    fn look(&mut self, deed: Deed, files: &BTreeMap<String, Vec<u8>>) -> Result<()> {
        match deed {
            Deed::Start => self.let_go(1)?,
            // What the first broker had is lost with it.
            Deed::StartAlone => self.let_go(2)?,
            _ => {}
        }
        self.check()?;
        if !matches!(deed, Deed::Say | Deed::Start | Deed::StartAlone) {
            let now = self.files()?;
            let names: BTreeSet<_> = files.keys().chain(now.keys()).collect();
            let differ: Vec<_> =
                names.iter().filter(|it| files.get(**it) != now.get(**it)).collect();
            ensure!(differ.is_empty(), "these are not what they were: {differ:?}");
            // The conversation goes on.
            self.say()?;
            self.check()?;
        }
        self.check_strangers()?;
        // A CLI that got no byte of an answer may ask again without a word.
        self.check_heard(usize::from(deed == Deed::StartAlone))
    }

    /// Status, history, streams and files are what they may be; then the session is active.
    fn check(&mut self) -> Result<()> {
        let sessions = vec![std::mem::take(&mut self.facts)];
        let known = Known { sessions, deployed: Deployed::default(), trouble: None };
        check(&self.ash, &known, false)?;
        self.facts = known.sessions.into_iter().next().context("just put there")?;
        (self.facts.status, self.facts.asked) = ("active", None);
        prompts::check_sums(&self.ash.api(), &self.session()?)
    }

    /// What is in the workspace, by name.
    fn files(&self) -> Result<BTreeMap<String, Vec<u8>>> {
        let place = self.ash.data_dir().join("sessions").join(self.session()?).join("workspace");
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(place)? {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                files.insert(name, fs::read(entry.path())?);
            }
        }
        Ok(files)
    }

    /// A session that nobody was told of is one like any other.
    fn check_strangers(&mut self) -> Result<()> {
        let (api, ours) = (self.ash.api(), self.session()?);
        for session in sessions(&api)? {
            let id = session["id"].as_str().context("a session has no id")?;
            if id != ours {
                self.count += 1;
                let prompt = format!("[[say first-{}]]", self.count);
                let turn = api.send(id, json!({ "content": prompt }))?.to_end()?;
                ensure!(turn.text() == format!("first-{}", self.count), "{}", turn.raw());
                let heard = times_asked(self.ash.model(), &prompt);
                ensure!(heard == 1, "a session that nobody knew has asked {heard} times");
                api.purge(id)?;
            }
        }
        Ok(())
    }

    /// Since it was looked at last, the model has heard what came into history since, once each, the
    /// newest so often more as it was cut off; nothing is left of what was meanwhile.
    fn check_heard(&mut self, cut_off: usize) -> Result<()> {
        let turns = turns(&self.ash.api(), &self.session()?)?;
        let said = (&self.facts.said[..], self.looked_at);
        prompts::check_heard(self.ash.model(), Some(&turns), said, cut_off)?;
        self.looked_at = self.facts.said.len();
        self.ash.model().reset();
        check_idle(&self.ash, &self.before, 1)
    }

    fn finish(mut self) -> Result<()> {
        self.part()?;
        clean(&self.ash, &self.before)?;
        self.ash.finish()
    }
}

#[test]
fn a_prompt_is_heard_once_wherever_the_daemon_dies() -> Result<()> {
    let name = "killed::heard::a_prompt_is_heard_once_wherever_the_daemon_dies";
    let Some(options) = Options::real(name) else { return Ok(()) };
    let mut hearing = Hearing::begin(options)?;
    for (point, deed, soon) in ON_THE_WAY {
        let all = match is_long() {
            true if passes_once(point) => vec![1],
            true => std::iter::once(1).chain(LATER).collect(),
            false => soon.to_vec(),
        };
        for passage in all {
            let died = hearing.visit((*point, *deed), passage);
            let died = died.with_context(|| format!("at {point}, passage {passage}"))?;
            ensure!(died || passage > 1, "nothing passes {point}");
        }
    }
    hearing.finish()
}

#[test]
fn every_point_is_on_the_way_of_a_turn_or_elsewhere() {
    for (point, _) in points::POINTS {
        let tried = ON_THE_WAY.iter().filter(|(on_the_way, ..)| on_the_way == point).count();
        let elsewhere = ELSEWHERE.iter().filter(|(start, _)| point.starts_with(start)).count();
        assert_eq!(tried + elsewhere, 1, "{point}");
    }
    let is_there = |name: &str| points::POINTS.iter().any(|(point, _)| point.starts_with(name));
    let named = ON_THE_WAY.iter().map(|(point, ..)| *point).chain(ELSEWHERE.iter().map(|it| it.0));
    for name in named {
        assert!(is_there(name), "there is no {name}");
    }
}
