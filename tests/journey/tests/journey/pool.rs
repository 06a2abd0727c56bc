//! Sandboxes that are made before anybody asks: quicker, and otherwise as if there were none.

use anyhow::{Context as _, Result, bail, ensure};
use ash_journey::process::until;
use ash_journey::{Api, Ash, Client, Options};
use ash_modelapi::Request;
use serde_json::{Value, json};

use crate::killed::sessions;
use crate::random::{self, Random};
use crate::support::{bash, both_engines, is_long, with_hello};

/// The seed of a run that is to be quick. Both agents change in every way.
const SEED: u64 = 4;

/// A daemon with an agent for which sandboxes are kept warm.
fn begin(options: Options, count: u64) -> Result<Ash> {
    let ash = with_hello(options)?;
    ash.api().keep_warm("hello", count)?;
    ash.api().until_warm(count)?;
    Ok(ash)
}

/// Checks that so many sessions have taken a warm sandbox.
fn check_hits(api: &Api, hits: u64) -> Result<()> {
    let health = api.health()?;
    ensure!(health["pool"]["preWarmHits"] == hits, "not {hits} sessions: {health}");
    Ok(())
}

both_engines!(a_session_takes_a_warm_sandbox_and_another_is_made);

fn a_session_takes_a_warm_sandbox_and_another_is_made(options: Options) -> Result<()> {
    let ash = begin(options, 1)?;
    let api = ash.api();
    ensure!(ash.model().requests().is_empty(), "the model was asked before anybody said a word");
    for round in 1..=3 {
        let session = api.create("hello", json!({}))?;
        check_hits(&api, round)?;
        let turn = api.send(&session, json!({ "content": "[[say warm]]" }))?.to_end()?;
        ensure!(turn.text() == "warm", "{}", turn.raw());
        let turn = api.send(&session, json!({ "content": "[[history]]" }))?.to_end()?;
        ensure!(turn.text().contains("[[say warm]]"), "{}", turn.raw());
        ensure!(api.turn_to(&session, "stop")? == "stopped");
        ensure!(api.turn_to(&session, "resume")? == "active");
        api.purge(&session)?;
        api.until_warm(1)?;
    }
    ash.finish()
}

/// What the model reads is what it would read without all this, but for names that are made up anew
/// for each session.
#[test]
fn a_primed_cli_asks_what_another_one_asks() -> Result<()> {
    let test = "pool::a_primed_cli_asks_what_another_one_asks";
    let Some(options) = Options::real(test) else { return Ok(()) };
    let ash = begin(options, 1)?;
    let api = ash.api();
    let warm = api.create("hello", json!({}))?;
    check_hits(&api, 1)?;
    api.keep_warm("hello", 0)?;
    api.until_warm(0)?;
    let cold = api.create("hello", json!({}))?;
    check_hits(&api, 1)?;
    for session in [&warm, &cold] {
        api.send(session, json!({ "content": "[[say hello]]" }))?.to_end()?;
    }
    let requests = ash.model().requests();
    let bodies: Vec<Value> =
        requests.iter().filter(|request| request.is_message()).map(|it| plain(it)).collect();
    ensure!(bodies.len() == 2, "the model was asked {} times", bodies.len());
    ensure!(bodies[0] == bodies[1], "{}\n{}", bodies[0], bodies[1]);
    ensure!(requests.len() == 2, "something else was asked: {}", requests.len());
    ash.finish()
}

/// A request's body without the name of the session.
fn plain(request: &Request) -> Value {
    let mut body = request.body.clone();
    body["metadata"].take();
    body
}

/// Whose sandbox it is shows in what is in there: who asked for it, and what was deployed.
#[derive(Clone, Debug)]
struct Canary {
    agent: &'static str,
    /// What the environment of the agent says.
    env: String,
    /// What its folder says.
    file: String,
}

impl Canary {
    /// Looks into a session, and says what is not its own.
    fn check(&self, api: &Api, session: &str) -> Result<()> {
        let told = api.exec(session, "echo $CANARY; cat canary; cat /etc/ash/prompt.md")?.stdout;
        let expected = format!("{}\n{}\nPrompt of {}.", self.env, self.file, self.file);
        ensure!(told.trim_end() == expected, "{session} of {self:?}:\n{told}");
        Ok(())
    }

    fn deploy(&self, ash: &Ash, api: &Api) -> Result<()> {
        let folder = ash.folder(self.agent, &format!("Prompt of {}.", self.file))?;
        std::fs::write(folder.join("canary"), format!("{}\n", self.file))?;
        let body = json!({ "name": self.agent, "path": folder, "env": { "CANARY": self.env },
            "config": { "preWarmCount": 2 } });
        api.call("POST", "/api/agents", Some(&body))?.expect(201)?;
        Ok(())
    }
}

/// Agents, versions and environments change while sandboxes are warm and while they are being made,
/// and sessions are made all the time: none is anybody else's.
#[test]
fn no_session_sees_anything_of_another() -> Result<()> {
    let seed = random::seed(SEED, is_long())?;
    check_apart(Random::new(seed)).with_context(|| format!("ASH_TEST_SEED={seed}"))
}

fn check_apart(mut random: Random) -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let api = ash.api();
    let mut agents: Vec<Canary> =
        ["one", "two"].map(|agent| Canary { agent, env: "e0".into(), file: "f0".into() }).into();
    for canary in &agents {
        canary.deploy(&ash, &api)?;
    }
    let mut made: Vec<(Canary, String)> = vec![];
    for round in 1..=40 {
        let at = random.below(agents.len());
        let canary = &mut agents[at];
        match random.below(8) {
            0 => {
                canary.file = format!("f{round}");
                canary.deploy(&ash, &api)?;
            }
            1 => {
                canary.env = format!("e{round}");
                let env = json!({ "env": { "CANARY": canary.env } });
                let path = format!("/api/agents/{}", canary.agent);
                api.call("PATCH", &path, Some(&env))?.expect(200)?;
            }
            2 => api.until_warm(4)?,
            3 => {
                let settings = json!({ "extraEnv": { "CANARY": format!("own{round}") } });
                let session = api.create(canary.agent, settings)?;
                made.push((Canary { env: format!("own{round}"), ..canary.clone() }, session));
            }
            _ => made.push((canary.clone(), api.create(canary.agent, json!({}))?)),
        }
    }
    for (canary, session) in &made {
        canary.check(&api, session)?;
    }
    ensure!(api.pool("preWarmHits")? > 0, "nobody took a warm sandbox");
    // One that was given to somebody else would be noticed.
    let other = made.iter().find(|(canary, _)| canary.env != made[0].0.env);
    let (_, session) = other.context("all are the same")?;
    ensure!(made[0].0.check(&api, session).is_err(), "a mix-up is not noticed");
    for (_, session) in &made {
        api.purge(session)?;
    }
    ash.finish()
}

#[test]
fn what_a_session_wants_for_itself_it_gets() -> Result<()> {
    let ash = begin(Options::stub(), 1)?;
    let api = ash.api();
    let own = api.create("hello", json!({ "extraEnv": { "COLOUR": "green" } }))?;
    check_hits(&api, 0).context("one without the environment was taken")?;
    ensure!(api.exec(&own, "echo $COLOUR")?.stdout == "green\n");
    let prompted = api.create("hello", json!({ "systemPrompt": "Mine." }))?;
    check_hits(&api, 0).context("one without the prompt was taken")?;
    ensure!(api.exec(&prompted, "cat /etc/ash/prompt.md")?.stdout == "Mine.");
    // The model can be changed between turns, so also before the first.
    let named = api.create("hello", json!({ "model": "claude-opus-4-6" }))?;
    check_hits(&api, 1).context("a model needs no other sandbox")?;
    ensure!(api.session(&named)?["model"] == "claude-opus-4-6");
    let turn = api.send(&named, json!({ "content": "[[model]]" }))?.to_end()?;
    ensure!(turn.raw().contains("claude-opus-4-6"), "{}", turn.raw());
    ash.finish()
}

#[test]
fn one_that_is_lost_or_of_nobody_goes() -> Result<()> {
    let ash = begin(Options::stub(), 2)?;
    let api = ash.api();
    let before = ash.inside("bridge");
    ash.kill_inside("claude")?;
    until("those of before to be gone", || {
        !ash.inside("bridge").iter().any(|pid| before.contains(pid))
    })?;
    api.until_warm(2)?;
    let session = api.create("hello", json!({}))?;
    check_hits(&api, 1)?;
    ensure!(api.exec(&session, "true")?.code == 0);
    api.until_warm(2)?;
    api.purge(&session)?;
    api.call("DELETE", "/api/agents/hello", None)?.expect(200)?;
    api.until_warm(0)?;
    ensure!(api.pool("total")? == 0, "{}", api.health()?);
    ash.finish()
}

/// Neither a daemon that is killed nor one that is ended leaves any, and nobody misses them.
#[test]
fn a_daemon_leaves_none() -> Result<()> {
    let mut ash = begin(Options::stub(), 2)?;
    let session = ash.api().create("hello", json!({}))?;
    check_hits(&ash.api(), 1)?;
    let warm = ash.api().pool("warm")?;
    ensure!(warm > 0, "none is there to be left");
    ash.crash()?;
    let api = ash.api();
    api.until_warm(2)?;
    ensure!(api.pool("total")? == 3, "{}", api.health()?);
    // A bridge and its spawner each.
    until("those of the daemon before to be gone", || ash.inside("bridge").len() == 2 * 3)?;
    ensure!(api.exec(&session, "true")?.code == 0);
    ash.ctl().json(&["fsck"])?;
    ash.finish()
}

/// A daemon in which the next session that takes a warm sandbox gets one without a way out.
fn begin_closed(more: &str) -> Result<Ash> {
    let mut ash = begin(Options::stub(), 1)?;
    ash.kill9()?;
    let fault = format!("broker.grant.before:error{more}");
    ensure!(ash.boot_to_die(&fault, &[])?, "something else had its way out before");
    ash.api().until_warm(1)?;
    Ok(ash)
}

/// By the time that shows it is recorded as a session. Whoever asked for one gets another.
#[test]
fn one_without_a_way_out_is_taken_back() -> Result<()> {
    let ash = begin_closed("")?;
    let api = ash.api();
    let session = api.create("hello", json!({}))?;
    check_hits(&api, 0)?;
    ensure!(ash.log().contains("a spare sandbox has no way out"), "it had one");
    let listed = sessions(&api)?;
    ensure!(listed.len() == 1 && listed[0]["id"].as_str() == Some(&session), "{listed:?}");
    let turn = api.send(&session, json!({ "content": "[[say here]]" }))?.to_end()?;
    ensure!(turn.text() == "here", "{}", turn.raw());
    api.until_warm(1)?;
    ash.ctl().json(&["fsck"])?;
    ash.finish()
}

/// What a daemon that dies has not taken back is a session like any other, which nobody was told of.
#[test]
fn one_that_is_not_taken_back_any_more_goes_on() -> Result<()> {
    let mut ash = begin_closed(",create.unrecord")?;
    let asked = ash.api().create("hello", json!({}));
    ensure!(asked.is_err(), "the daemon has not died: {asked:?}");
    ash.wait_killed()?;
    ash.boot()?;
    let api = ash.api();
    let listed = sessions(&api)?;
    let [session] = &listed[..] else { bail!("there is not one: {listed:?}") };
    let session = session["id"].as_str().context("it has no id")?;
    let turn = api.send(session, json!({ "content": "[[say on]]" }))?.to_end()?;
    ensure!(turn.text() == "on", "{}", turn.raw());
    api.until_warm(1)?;
    ash.ctl().json(&["fsck"])?;
    api.purge(session)?;
    ash.finish()
}

/// They take no room from anybody.
#[test]
fn one_makes_room_for_a_session() -> Result<()> {
    let config = "[sandbox]\nmax = 3\nuid_count = 8\n";
    let ash = begin(Options::stub().config(config), 2)?;
    let api = ash.api();
    api.deploy("other", &ash.folder("other", "x")?)?;
    for _ in 0..3 {
        api.create("other", json!({}))?;
    }
    let full = api.call("POST", "/api/sessions", Some(&json!({ "agent": "other" })))?;
    ensure!(full.status == 503, "{}", full.text());
    ash.finish()
}

/// One that a session takes is its agent's from then on, and none before.
#[test]
fn one_that_is_taken_is_one_of_those_that_an_agent_may_have() -> Result<()> {
    let ash = begin(Options::stub().config("[pool]\nmax_per_agent = 1\n"), 2)?;
    let api = ash.api();
    let session = api.create("hello", json!({}))?;
    api.until_warm(2)?;
    let refused = api.call("POST", "/api/sessions", Some(&json!({ "agent": "hello" })))?;
    ensure!(refused.status == 503 && refused.text().contains("one agent"), "{}", refused.text());
    ensure!(api.turn_to(&session, "stop")? == "stopped");
    api.create("hello", json!({}))?;
    check_hits(&api, 2)?;
    ash.finish()
}

#[test]
fn a_count_that_is_none_is_refused() -> Result<()> {
    let ash = begin(Options::stub(), 0)?;
    for count in [json!(-1), json!(101), json!("2"), json!(1.5), json!(true)] {
        let config = json!({ "preWarmCount": count });
        let answer = ash.api().call("PATCH", "/api/agents/hello/config", Some(&config))?;
        ensure!(answer.status == 400, "{count}: {}", answer.text());
        let said = "preWarmCount: expected a whole number from 0 to 100";
        ensure!(answer.text().contains(said), "{}", answer.text());
    }
    ash.finish()
}

/// With the real CLI a command of the folder's own hooks runs in a warm sandbox before anybody has
/// it, and reaches no model.
#[test]
fn nothing_in_a_warm_sandbox_reaches_the_model() -> Result<()> {
    let test = "pool::nothing_in_a_warm_sandbox_reaches_the_model";
    let Some(options) = Options::real(test) else { return Ok(()) };
    let ash = Ash::start(options)?;
    let api = ash.api();
    let folder = ash.folder("hello", "Answer briefly.")?;
    std::fs::create_dir_all(folder.join(".claude"))?;
    let ask = "curl -s -m 5 --unix-socket /run/ash/model/api.sock -d '{}' \
        http://model.ash.internal/v1/messages > /workspace/asked; echo $? > /workspace/status";
    let hook = json!({ "hooks": [{ "type": "command", "command": ask }] });
    let settings = json!({ "hooks": { "SessionStart": [hook] } });
    std::fs::write(folder.join(".claude/settings.json"), settings.to_string())?;
    api.deploy("hello", &folder)?;
    api.keep_warm("hello", 1)?;
    api.until_warm(1)?;
    let session = api.create("hello", json!({}))?;
    check_hits(&api, 1)?;
    ensure!(ash.model().requests().is_empty(), "the model was asked");
    // It was answered here, or nobody took its connection until it gave up.
    let told = api.exec(&session, "until [ -s status ]; do sleep 0.05; done; cat asked status")?;
    let is_kept = told.stdout.contains("msg_primer") || told.stdout.trim() == "28";
    ensure!(is_kept, "the hook was told {:?}", told.stdout);
    let turn = api.send(&session, json!({ "content": bash(true, "echo done") }))?.to_end()?;
    ensure!(turn.text().contains("done"), "{}", turn.raw());
    ash.finish()
}
