//! More than a machine is good for at a time: it waits, no tenant at the cost of another one, and nobody
//! waits in vain.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use ash_journey::http::{Answer, Body};
use ash_journey::process::{memory, signal, until};
use ash_journey::{Api, Client, Options, Turn};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::support::{Talk, add_key, with_hello};

/// The key of another tenant.
const KEY: &str = "ash_key_of_acme_that_waits";

/// Sessions that all wait, and messages of each.
const CROWD: usize = 100;
const EACH: usize = 20;

/// Bytes that the daemon may take for each message that waits, its connection among it.
const COST: u64 = 24 * 1024;

/// So many turns at a time.
fn few(turns: u32) -> Options {
    Options::stub().config(&admission(turns))
}

fn admission(turns: u32) -> String {
    format!("[admission]\nturns = {turns}\n")
}

fn say(text: &str) -> Value {
    json!({ "content": format!("[[say {text}]]") })
}

/// A message whose turn goes on until it is interrupted.
fn endless() -> Value {
    json!({ "content": "[[count 100000 5ms]]" })
}

/// A turn that is running until it is interrupted.
fn running(api: &Api, session: &str) -> Result<Turn> {
    let mut turn = api.send(session, endless())?;
    turn.deltas(1)?;
    Ok(turn)
}

fn interrupt(api: &Api, session: &str, turn: Turn) -> Result<()> {
    ensure!(api.interrupt(session)?, "nothing runs");
    turn.to_end().map(drop)
}

/// Checks that something is refused for now, for this reason.
fn check_refused(refused: &Answer, reason: &str) -> Result<()> {
    let body = refused.expect(503)?;
    ensure!(refused.header("retry-after").is_some(), "when to try again is said");
    ensure!(body["code"] == "capacity", "{body}");
    ensure!(body["error"].as_str().is_some_and(|text| text.contains(reason)), "{body}");
    Ok(())
}

/// Sends a message whose sender does not want to wait, and checks that it is refused.
fn check_rejected(api: &Api, session: &str) -> Result<()> {
    let message = json!({ "content": "x", "whenBusy": "reject" });
    check_refused(&api.post_message(session, &message)?.answer()?, "all 1 turns")?;
    ensure!(api.messages(session)?.is_empty(), "it was accepted");
    Ok(())
}

#[test]
fn a_tenant_s_only_message_is_the_next() -> Result<()> {
    let mut talk = Talk::begin(few(2))?;
    talk.ash.kill9()?;
    add_key(&talk.ash, "acme", KEY)?;
    talk.boot()?;
    let acme = Api::new(talk.ash.address(), KEY);
    acme.deploy("theirs", &talk.ash.folder("theirs", "Answer briefly.")?)?;
    let only = acme.create("theirs", json!({}))?;
    let ours = (0..10).map(|_| talk.api.create("hello", json!({}))).collect::<Result<Vec<_>>>()?;

    let [first, second] = [running(&talk.api, &ours[0])?, running(&talk.api, &ours[1])?];
    let mut many = vec![];
    for session in &ours {
        for n in 0..5 {
            many.push((n, talk.api.send(session, say(&n.to_string()))?));
        }
    }
    let mut theirs = acme.send(&only, endless())?;
    interrupt(&talk.api, &ours[0], first)?;
    theirs.deltas(1)?;
    // Both places are taken again, and it is the one of the fifty-one that has come last.
    for (at, session) in ours.iter().enumerate() {
        let asked = talk.api.messages(session)?.into_iter().filter(|(role, _)| role == "user");
        ensure!(asked.count() == usize::from(at < 2), "session {at} was not passed over");
    }
    interrupt(&acme, &only, theirs)?;
    interrupt(&talk.api, &ours[1], second)?;
    for (n, turn) in many {
        ensure!(turn.to_end()?.text() == n.to_string());
    }
    talk.ash.finish()
}

/// What a stream says first to a message that waits.
fn opening(api: &Api, session: &str, text: &str) -> Result<(String, BufReader<Body>)> {
    let (status, _, body) = api.post_message(session, &say(text))?.body()?;
    ensure!(status == 200, "{status}");
    let (mut reader, mut line) = (BufReader::new(body), String::new());
    reader.read_line(&mut line)?;
    Ok((line, reader))
}

#[test]
fn who_waits_is_told_where_it_stands() -> Result<()> {
    let talk = Talk::begin(few(1))?;
    let others = (0..3).map(|_| talk.api.create("hello", json!({}))).collect::<Result<Vec<_>>>()?;
    let first = running(&talk.api, &talk.session)?;
    let mut streams = vec![];
    for (session, said) in [
        // Behind a turn of its own session, and behind the other sessions that wait.
        (&talk.session, ": waiting 1\n"),
        (&others[0], ": waiting 1\n"),
        (&others[1], ": waiting 2\n"),
        (&others[2], ": waiting 3\n"),
        (&others[1], ": waiting 3\n"),
    ] {
        let (line, stream) = opening(&talk.api, session, "waited")?;
        ensure!(line == said, "{line:?} instead of {said:?}");
        streams.push(stream);
    }
    interrupt(&talk.api, &talk.session, first)?;
    for mut stream in streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest)?;
        ensure!(rest.contains("waited") && rest.contains("event: done"), "{rest}");
    }
    talk.ash.finish()
}

/// How many turns wait for a place.
fn waiting(api: &Api) -> Result<u64> {
    let health = api.health()?;
    health["admission"]["turns"]["waiting"].as_u64().context("/health does not say how many wait")
}

/// A daemon that makes one sandbox at a time, and has two sessions that are active and have none.
fn cold(patience: u32) -> Result<(Talk, String)> {
    let pool = "[pool]\nidle_timeout = \"1s\"\n";
    let config = format!("[admission]\nlaunches = 1\npatience = \"{patience}s\"\n{pool}");
    let talk = Talk::begin(Options::stub().config(&config))?;
    let other = talk.api.create("hello", json!({}))?;
    until("no sandbox to be left", || talk.api.pool("total").is_ok_and(|total| total == 0))?;
    Ok((talk, other))
}

/// Does something while a sandbox is being made, which is a new session's, and no other one may be.
fn while_one_is_made<T>(talk: &Talk, act: impl FnOnce() -> Result<T>) -> Result<T> {
    let launcher = talk.ash.helper("ash-launcher")?;
    signal(launcher, Signal::STOP)?;
    let api = talk.api.clone();
    let making = std::thread::spawn(move || api.create("hello", json!({})));
    let is_making = until("the place to be taken", || {
        talk.api.health().is_ok_and(|health| health["admission"]["launches"]["running"] == 1)
    });
    let done = is_making.and_then(|()| act());
    signal(launcher, Signal::CONT)?;
    making.join().map_err(|_| anyhow!("a thread panicked"))??;
    done
}

#[test]
fn who_waits_for_a_sandbox_is_told_where_it_stands() -> Result<()> {
    let (talk, other) = cold(60)?;
    let streams = while_one_is_made(&talk, || {
        let mut streams = vec![];
        for (session, said) in [
            (&talk.session, ": waiting 1\n"),
            (&other, ": waiting 2\n"),
            (&talk.session, ": waiting 2\n"),
        ] {
            let (line, stream) = opening(&talk.api, session, "waited")?;
            ensure!(line == said, "{line:?} instead of {said:?}");
            streams.push(stream);
        }
        Ok(streams)
    })?;
    for mut stream in streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest)?;
        ensure!(rest.contains("waited") && rest.contains("event: done"), "{rest}");
    }
    talk.ash.finish()
}

#[test]
fn who_has_waited_for_a_sandbox_in_vain_is_told_in_the_stream() -> Result<()> {
    let (talk, _) = cold(1)?;
    let refused = while_one_is_made(&talk, || talk.send("[[say never]]")?.to_end())?;
    let error = refused.named("error").next();
    let error = error.with_context(|| format!("it was not refused: {}", refused.raw()))?;
    ensure!(error.data["code"] == "capacity", "{}", error.raw);
    ensure!(error.data["retryAfter"].as_u64().is_some_and(|seconds| seconds > 0), "{}", error.raw);
    ensure!(talk.api.messages(&talk.session)?.is_empty(), "it was accepted");
    ensure!(talk.ask("[[say after]]")? == "after");
    talk.ash.finish()
}

#[test]
fn who_hangs_up_is_not_waited_for() -> Result<()> {
    let talk = Talk::begin(few(1))?;
    let [gone, next] = [talk.api.create("hello", json!({}))?, talk.api.create("hello", json!({}))?];
    let first = running(&talk.api, &talk.session)?;
    let mut left = talk.api.send(&gone, say("gone"))?;
    let stays = talk.api.send(&next, say("next"))?;
    ensure!(waiting(&talk.api)? == 2);
    left.cut();
    until("one of the two to be passed over", || waiting(&talk.api).is_ok_and(|all| all == 1))?;
    interrupt(&talk.api, &talk.session, first)?;
    ensure!(stays.to_end()?.text() == "next");
    ensure!(talk.api.messages(&gone)?.is_empty(), "a message of nobody was accepted");
    ensure!(waiting(&talk.api)? == 0);
    talk.ash.finish()
}

/// Each has a connection, and a place in a line. What the kernel keeps for connections is not in it.
#[test]
fn thousands_that_wait_cost_little() -> Result<()> {
    // Shells begin with a thousand descriptors, which the daemon inherits.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let queue = format!("[session]\nqueue = {EACH}\n");
    let talk = Talk::begin(few(1).config(&queue))?;
    let create = |_| -> Result<String> {
        let session = talk.api.create("hello", json!({}))?;
        talk.api.send(&session, say("before"))?.to_end()?;
        Ok(session)
    };
    let sessions = (0..CROWD).map(create).collect::<Result<Vec<_>>>()?;
    // One that says nothing more: what is said is kept for readers.
    let mut first = talk.send("[[deltas 1 10]][[hang]]")?;
    first.deltas(1)?;

    let before = memory(talk.ash.pid()?);
    let mut streams = vec![];
    for number in 0..EACH {
        for (at, session) in sessions.iter().enumerate() {
            let text = format!("number {number} of {at}");
            let (line, stream) = opening(&talk.api, session, &text)?;
            ensure!(line.starts_with(": waiting "), "{text} does not wait: {line:?}");
            streams.push((text, stream));
        }
    }
    let each = memory(talk.ash.pid()?).saturating_sub(before) / streams.len() as u64;
    tell(&format!("{} messages wait, for {each} bytes of memory each", streams.len()));
    ensure!(each <= COST, "each message that waits costs {each} bytes");

    // As many as is usual.
    fs::write(talk.ash.scratch().join("ashd.toml.d/test.toml"), admission(0) + &queue)?;
    signal(talk.ash.pid()?, Signal::HUP)?;
    interrupt(&talk.api, &talk.session, first)?;
    for (text, mut stream) in streams {
        let mut rest = String::new();
        stream.read_to_string(&mut rest)?;
        let is_answered = rest.contains(&format!("\"result\":\"{text}\""));
        ensure!(is_answered && rest.contains("event: done"), "{text}: {rest}");
    }
    ensure!(waiting(&talk.api)? == 0);
    talk.ash.finish()
}

#[expect(clippy::print_stdout, reason = "figures are for those who run the test")]
fn tell(text: &str) {
    println!("{text}");
}

#[test]
fn a_session_that_waits_can_be_stopped() -> Result<()> {
    let talk = Talk::begin(few(1))?;
    let other = talk.api.create("hello", json!({}))?;
    let first = running(&talk.api, &talk.session)?;
    let waiting = talk.api.send(&other, say("never"))?;
    ensure!(talk.api.turn_to(&other, "stop")? == "stopped");
    let errors = waiting.to_end()?.errors();
    ensure!(errors == ["Session is stopped"], "{errors:?}");
    ensure!(talk.api.messages(&other)?.is_empty(), "it was accepted");
    ensure!(talk.api.turn_to(&other, "resume")? == "active");
    let waiting = talk.api.send(&other, say("after"))?;
    interrupt(&talk.api, &talk.session, first)?;
    ensure!(waiting.to_end()?.text() == "after");
    talk.ash.finish()
}

#[test]
fn who_does_not_want_to_wait_is_told_to_come_back() -> Result<()> {
    let talk = Talk::begin(few(1))?;
    let other = talk.api.create("hello", json!({}))?;
    let first = running(&talk.api, &talk.session)?;
    check_rejected(&talk.api, &other)?;
    interrupt(&talk.api, &talk.session, first)?;
    ensure!(talk.api.send(&other, say("after"))?.to_end()?.text() == "after");
    talk.ash.finish()
}

#[test]
fn a_turn_that_outlives_the_daemon_keeps_its_place() -> Result<()> {
    let mut talk = Talk::begin(few(1))?;
    let other = talk.api.create("hello", json!({}))?;
    let before = running(&talk.api, &talk.session)?;
    talk.crash()?;
    check_rejected(&talk.api, &other)?;
    let rest = talk.api.follow(&talk.session, Some(before.last_id()?))?;
    interrupt(&talk.api, &talk.session, rest)?;
    ensure!(talk.api.send(&other, say("after"))?.to_end()?.text() == "after");
    talk.ash.finish()
}

#[test]
fn sandboxes_can_be_made_one_after_the_other() -> Result<()> {
    let talk = Talk::begin(Options::stub().config("[admission]\nlaunches = 1\n"))?;
    // Nothing is made until all have asked.
    let launcher = talk.ash.helper("ash-launcher")?;
    signal(launcher, Signal::STOP)?;
    let making: Vec<_> = (0..8)
        .map(|_| {
            let api = talk.api.clone();
            std::thread::spawn(move || api.create("hello", json!({})))
        })
        .collect();
    let launches = || talk.api.health().map(|mut health| health["admission"]["launches"].take());
    let wait = until("all but one to wait", || {
        launches().is_ok_and(|now| now["running"] == 1 && now["waiting"] == 7)
    });
    let told = talk.ash.ctl().json(&["status"]);
    signal(launcher, Signal::CONT)?;
    wait.with_context(|| format!("{:?}", launches()))?;
    let told = told?;
    let counts = ["launchesRunning", "launchesWaiting", "launchesMax"].map(|name| &told[name]);
    ensure!(counts == [1, 7, 1], "{told}");
    for made in making {
        let session = made.join().map_err(|_| anyhow!("a thread panicked"))??;
        ensure!(talk.api.send(&session, say("made"))?.to_end()?.text() == "made");
    }
    talk.ash.finish()
}

#[test]
fn what_does_not_come_back_in_time_is_refused() -> Result<()> {
    let config = "[state]\nreserve_memory = \"1000TiB\"\n[admission]\npatience = \"1s\"\n";
    let ash = with_hello(Options::stub().config(config))?;
    let api = ash.api();
    let begun = Instant::now();
    let refused = api.call("POST", "/api/sessions", Some(&json!({ "agent": "hello" })))?;
    ensure!(begun.elapsed() >= Duration::from_secs(1), "it was not waited");
    check_refused(&refused, "short of memory")?;
    let health = api.health()?;
    ensure!(health["admission"]["refused"]["memory"] == 1, "{health}");
    let told = ash.ctl().json(&["status"])?;
    ensure!(told["refused"]["memory"] == 1, "{told}");
    ash.finish()
}

#[test]
fn a_tenant_has_so_many_sandboxes() -> Result<()> {
    let talk =
        Talk::begin(Options::stub().config("[pool]\nmax_per_tenant = 2\nmax_per_agent = 1\n"))?;
    let api = &talk.api;
    let create = |agent: &str| -> Result<Answer> {
        api.call("POST", "/api/sessions", Some(&json!({ "agent": agent })))
    };
    // A session that has answered has a CLI that has started, and nobody uses it behind that.
    let create_and_say = |agent: &str| -> Result<String> {
        let session = api.create(agent, json!({}))?;
        ensure!(api.send(&session, say(agent))?.to_end()?.text() == agent);
        Ok(session)
    };
    for agent in ["second", "third"] {
        api.deploy(agent, &talk.ash.folder(agent, "Answer briefly.")?)?;
    }
    let first = running(api, &talk.session)?;
    check_refused(&create("hello")?, "one agent")?;

    // One that nobody uses goes for another one, also that of a session that is paused.
    let second = create_and_say("second")?;
    ensure!(api.turn_to(&second, "pause")? == "paused");
    let third = create_and_say("third")?;
    ensure!((api.pool("evictions")?, api.status(&second)?) == (1, "paused".to_owned()));
    ensure!(api.turn_to(&second, "resume")? == "active");
    let told = api.send(&second, json!({ "content": "[[history]]" }))?.to_end()?.text();
    ensure!(told.contains("[[say second]]"), "{told}");
    ensure!((api.pool("evictions")?, api.status(&third)?) == (2, "active".to_owned()));

    // With all of them in use it is refused, and at once.
    let other = running(api, &second)?;
    check_refused(&create("third")?, "one tenant")?;
    check_refused(&api.post_message(&third, &say("never"))?.answer()?, "one tenant")?;
    ensure!(api.turn_to(&second, "stop")? == "stopped");
    drop(other);
    ensure!(api.send(&third, say("again"))?.to_end()?.text() == "again");
    interrupt(api, &talk.session, first)?;
    ensure!(talk.ask("[[say unmoved]]")? == "unmoved");
    talk.ash.finish()
}
