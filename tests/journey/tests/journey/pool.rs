//! Sandboxes that are made before anybody asks: quicker, and otherwise as if there were none.

use anyhow::{Context as _, Result, bail, ensure};
use ash_journey::process::until;
use ash_journey::{Api, Ash, Client, Options, process};
use ash_modelapi::Request;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::killed::sessions;
use crate::random::{self, Random};
use crate::support::{add_key, bash, both_engines, is_long, with_hello};

/// The seed of a run that is to be quick. Every agent changes in every way, and is asked for behind each.
const SEED: u64 = 1514;

/// How much is done.
const ROUNDS: usize = 48;

/// The key of another tenant.
const KEY: &str = "ash_key_of_acme_that_keeps_some_warm";

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
    check_alike(&ash, &warm, &cold)?;
    ash.finish()
}

/// Checks that two sessions ask the model for the same, and nobody asked for anything before.
fn check_alike(ash: &Ash, warm: &str, cold: &str) -> Result<()> {
    for session in [warm, cold] {
        ash.api().send(session, json!({ "content": "[[say hello]]" }))?.to_end()?;
    }
    let requests = ash.model().requests();
    let bodies: Vec<Value> =
        requests.iter().filter(|request| request.is_message()).map(|it| plain(it)).collect();
    ensure!(bodies.len() == 2, "the model was asked {} times", bodies.len());
    ensure!(bodies[0] == bodies[1], "{}\n{}", bodies[0], bodies[1]);
    ensure!(requests.len() == 2, "something else was asked: {}", requests.len());
    Ok(())
}

/// A daemon that keeps one warm whose CLI was started to ask before it does anything.
fn begin_asking(options: Options) -> Result<Ash> {
    let ash = with_hello(options)?;
    let config = json!({ "permissionMode": "default", "preWarmCount": 1 });
    ash.api().call("PATCH", "/api/agents/hello/config", Some(&config))?.expect(200)?;
    ash.api().until_warm(1)?;
    Ok(ash)
}

/// A CLI that was told another permission mode is as one that was started in that.
#[test]
fn another_permission_mode_is_told() -> Result<()> {
    let test = "pool::another_permission_mode_is_told";
    let Some(options) = Options::real(test) else { return Ok(()) };
    let ash = begin_asking(options)?;
    let (api, accepting) = (ash.api(), json!({ "permissionMode": "acceptEdits" }));
    let warm = api.create("hello", accepting.clone())?;
    check_hits(&api, 1)?;
    api.keep_warm("hello", 0)?;
    api.until_warm(0)?;
    let cold = api.create("hello", accepting)?;
    check_hits(&api, 1)?;
    check_alike(&ash, &warm, &cold)?;
    let write = json!({ "file_path": "/workspace/made", "content": "x" });
    for session in [&warm, &cold] {
        let ask = |content: String| api.send(session, json!({ "content": content }))?.to_end();
        let turn = ask(format!("[[tool Write {write}]]"))?;
        ensure!(api.exec(session, "cat made")?.stdout == "x", "{}", turn.raw());
        let turn = ask(bash(true, "ln -s made more"))?;
        ensure!(api.exec(session, "ls more")?.code != 0, "the command ran: {}", turn.raw());
    }
    ash.finish()
}

#[test]
fn a_permission_mode_that_cannot_be_told_has_another_sandbox() -> Result<()> {
    let ash = begin_asking(Options::stub())?;
    let api = ash.api();
    for (mode, hits) in [("plan", 0), ("bypassPermissions", 0), ("dontAsk", 1)] {
        let session = api.create("hello", json!({ "permissionMode": mode }))?;
        check_hits(&api, hits).context(mode)?;
        ensure!(api.session(&session)?["permissionMode"] == mode);
        let turn = api.send(&session, json!({ "content": "[[say here]]" }))?.to_end()?;
        ensure!(turn.text() == "here", "{}", turn.raw());
    }
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
    /// Asks for its tenant.
    api: Api,
    tenant: &'static str,
    agent: &'static str,
    /// What the environment of the agent says.
    env: String,
    /// What its folder says.
    file: String,
    /// The tools that its CLI is told not to use.
    denied: String,
}

impl Canary {
    fn of(api: &Api, tenant: &'static str, agent: &'static str) -> Canary {
        let word = |what: &str| format!("{what}-of-{agent}-of-{tenant}");
        let (env, file, denied) = (word("env"), word("file"), word("Tool"));
        Canary { api: api.clone(), tenant, agent, env, file, denied }
    }

    /// Looks into a session, and says what is not its own.
    fn check(&self, session: &str) -> Result<()> {
        let look = format!("echo $CANARY; cat canary; {DENIED}; cat /etc/ash/prompt.md");
        let told = self.api.exec(session, &look)?.stdout;
        let Canary { env, file, denied, .. } = self;
        let expected = format!("{env}\n{file}\n{FLAG}{denied}\nPrompt of {file}.");
        ensure!(told.trim_end() == expected, "{session} of {self:?}:\n{told}");
        Ok(())
    }

    /// Checks that each of its words is looked at: one that was another's would be noticed.
    fn check_noticed(&self, session: &str) -> Result<()> {
        let other = || "another's".to_owned();
        for mixed_up in [
            Canary { env: other(), ..self.clone() },
            Canary { file: other(), ..self.clone() },
            Canary { denied: other(), ..self.clone() },
        ] {
            ensure!(mixed_up.check(session).is_err(), "a mix-up is not noticed: {mixed_up:?}");
        }
        Ok(())
    }

    fn deploy(&self, ash: &Ash) -> Result<()> {
        let name = format!("{}-{}", self.tenant, self.agent);
        let folder = ash.folder(&name, &format!("Prompt of {}.", self.file))?;
        std::fs::write(folder.join("canary"), format!("{}\n", self.file))?;
        let config = json!({ "preWarmCount": 2, "disallowedTools": [self.denied] });
        let body = json!({ "name": self.agent, "path": folder, "env": { "CANARY": self.env },
            "config": config });
        self.api.call("POST", "/api/agents", Some(&body))?.expect(201)?;
        Ok(())
    }

    /// Changes something of the agent without another version.
    fn change(&self, what: &str, change: &Value) -> Result<()> {
        let path = format!("/api/agents/{}{what}", self.agent);
        self.api.call("PATCH", &path, Some(change))?.expect(200)?;
        Ok(())
    }

    /// Makes a session; returns it with what is to be seen in it.
    fn create(&self) -> Result<(Canary, String)> {
        Ok((self.clone(), self.api.create(self.agent, json!({}))?))
    }

    /// Makes one that wants something of its own.
    fn create_own(&self, round: usize) -> Result<(Canary, String)> {
        let (env, denied) = (format!("own-env{round}"), format!("OwnTool{round}"));
        let settings = json!({ "extraEnv": { "CANARY": env }, "disallowedTools": [denied] });
        let session = self.api.create(self.agent, settings)?;
        let denied = format!("{denied},{}", self.denied);
        Ok((Canary { env, denied, ..self.clone() }, session))
    }
}

/// The flag by which the CLI is told, and how it is found out with what it was started, which may be just
/// about to happen.
const FLAG: &str = "--disallowedTools=";
const DENIED: &str = "until grep -ahoz '^--disallowedTools=.*' /proc/[0-9]*/cmdline 2>/dev/null \
    | tr '\\0' '\\n' | grep .; do sleep 0.02; done";

/// Two agents of each of two tenants, called the same.
fn two_tenants() -> Result<(Ash, Vec<Canary>)> {
    let mut ash = Ash::start(Options::stub())?;
    ash.kill9()?;
    add_key(&ash, "acme", KEY)?;
    ash.boot()?;
    let mut all = vec![];
    for (api, tenant) in [(ash.api(), "default"), (Api::new(ash.address(), KEY), "acme")] {
        for agent in ["one", "two"] {
            let canary = Canary::of(&api, tenant, agent);
            canary.deploy(&ash)?;
            all.push(canary);
        }
    }
    Ok((ash, all))
}

/// Agents of two tenants change, their versions, environments and options, while sandboxes are warm and
/// while they are being made, and sessions are made all the time: none is anybody else's.
#[test]
fn no_session_sees_anything_of_another() -> Result<()> {
    let seed = random::seed(SEED, is_long())?;
    check_apart(Random::new(seed)).with_context(|| format!("ASH_TEST_SEED={seed}"))
}

fn check_apart(mut random: Random) -> Result<()> {
    let (ash, mut agents) = two_tenants()?;
    let mut made: Vec<(Canary, String)> = vec![];
    for round in 1..=ROUNDS {
        let at = random.below(agents.len());
        let canary = &mut agents[at];
        match random.below(10) {
            0 => {
                canary.file = format!("file{round}");
                canary.deploy(&ash)?;
            }
            1 => {
                canary.env = format!("env{round}");
                canary.change("", &json!({ "env": { "CANARY": canary.env } }))?;
            }
            2 => {
                canary.denied = format!("Tool{round}");
                canary.change("/config", &json!({ "disallowedTools": [canary.denied] }))?;
            }
            3 => canary.api.until_warm(2 * 4)?,
            4 => made.push(canary.create_own(round)?),
            _ => made.push(canary.create()?),
        }
    }
    for (canary, session) in &made {
        canary.check(session)?;
    }
    ensure!(ash.api().pool("preWarmHits")? > 0, "nobody took a warm sandbox");
    let (canary, session) = made.first().context("none was made")?;
    canary.check_noticed(session)?;
    for (canary, session) in &made {
        canary.api.purge(session)?;
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

/// Both of the sandboxes of before go, and others are there: a session takes one of these.
fn takes_another(ash: &Ash, before: &[u32]) -> Result<String> {
    let api = ash.api();
    until("those of before to be gone", || {
        !ash.inside("bridge").iter().any(|pid| before.contains(pid))
    })?;
    api.until_warm(2)?;
    let session = api.create("hello", json!({}))?;
    check_hits(&api, 1)?;
    ensure!(api.exec(&session, "true")?.code == 0);
    Ok(session)
}

#[test]
fn one_that_is_lost_or_of_nobody_goes() -> Result<()> {
    let ash = begin(Options::stub(), 2)?;
    let api = ash.api();
    let before = ash.inside("bridge");
    ash.kill_inside("claude")?;
    let session = takes_another(&ash, &before)?;
    api.until_warm(2)?;
    api.purge(&session)?;
    api.call("DELETE", "/api/agents/hello", None)?.expect(200)?;
    api.until_warm(0)?;
    ensure!(api.pool("total")? == 0, "{}", api.health()?);
    ash.finish()
}

/// Which key it has from its service manager a broker tells nobody: one that begins may have another.
#[test]
fn a_broker_that_begins_replaces_all() -> Result<()> {
    let ash = begin(Options::stub(), 2)?;
    let before = ash.inside("bridge");
    process::signal(ash.helper("ash-broker")?, Signal::KILL)?;
    takes_another(&ash, &before)?;
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

/// One is kept where a session of its agent could have it, and goes for one that cannot.
#[test]
fn one_that_is_kept_is_one_of_those_that_an_agent_may_have() -> Result<()> {
    let ash = begin(Options::stub().config("[pool]\nmax_per_agent = 1\n"), 1)?;
    let api = ash.api();
    let own = api.create("hello", json!({ "systemPrompt": "Mine." }))?;
    check_hits(&api, 0)?;
    api.until_warm(0)?;
    api.purge(&own)?;
    api.until_warm(1)?;
    let session = api.create("hello", json!({}))?;
    check_hits(&api, 1)?;
    // One that nobody uses would go for the next.
    let mut turn = api.send(&session, json!({ "content": "[[count 100000 5ms]]" }))?;
    turn.deltas(1)?;
    let refused = api.call("POST", "/api/sessions", Some(&json!({ "agent": "hello" })))?;
    ensure!(refused.status == 503 && refused.text().contains("one agent"), "{}", refused.text());
    ensure!(api.turn_to(&session, "stop")? == "stopped");
    api.until_warm(1)?;
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
