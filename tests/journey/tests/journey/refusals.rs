//! Bad input over HTTP: a clear sentence, and nothing lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Api, Ash, Client, Options};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::Talk;

/// Method, path with `:id` for a session, body, status, and what the sentence says.
type Case<'a> = (&'a str, &'a str, &'a str, u16, &'a str);

const CREATE: &[Case] = &[
    ("POST", "/api/sessions", "{", 400, "JSON"),
    ("POST", "/api/sessions", "[]", 400, "expected an object"),
    ("POST", "/api/sessions", "{}", 400, "agent: is required"),
    ("POST", "/api/sessions", r#"{"agent":5}"#, 400, "agent: expected a string"),
    ("POST", "/api/sessions", r#"{"agent":"nobody"}"#, 404, "Agent \"nobody\" not found"),
    ("POST", "/api/sessions", r#"{"agent":"hello","permissionMode":"x"}"#, 400, "permissionMode: "),
];

/// Variables that would reach past the sandbox's program start.
const RESERVED: [&str; 5] =
    ["LD_PRELOAD", "NODE_OPTIONS", "ASH_X", "ANTHROPIC_BASE_URL", "CLAUDE_CODE_X"];

const AGENTS: &[Case] = &[
    ("POST", "/api/agents", r#"{"name":"../x","systemPrompt":"x"}"#, 400, "name: "),
    ("POST", "/api/agents", r#"{"name":"x"}"#, 400, "one of path, files and systemPrompt"),
    ("GET", "/api/agents/nobody", "", 404, "Agent not found"),
    ("DELETE", "/api/agents/nobody", "", 404, "Agent not found"),
    ("PATCH", "/api/agents/nobody", "{}", 404, "Agent not found"),
    ("GET", "/api/agents/nobody/config", "", 404, "Agent not found"),
    ("PATCH", "/api/agents/nobody/config", "{}", 404, "Agent not found"),
    ("PATCH", "/api/agents/hello", r#"{"env":{"PATH":"x"}}"#, 400, "env: PATH is reserved"),
    ("PATCH", "/api/agents/hello", r#"{"config":[]}"#, 400, "config: expected an object"),
    ("PATCH", "/api/agents/hello", r#"{"config":{"model":5}}"#, 400, "config.model: expected"),
    ("PATCH", "/api/agents/hello/config", "[]", 400, "body: expected an object"),
    ("PATCH", "/api/agents/hello/config", r#"{"systemPrompt":"x"}"#, 400, "`replace` or `append`"),
];

const MESSAGES: &[(&str, &str)] = &[
    ("", "content: is required"),
    (r#"{"content":""}"#, "content: must not be empty"),
    (r#"{"content":null}"#, "content: expected a string"),
    (r#"{"content":[]}"#, "content: expected 1 to 20 blocks"),
    (r#"{"content":[{"type":"video"}]}"#, "content[0].type: expected text, image or document"),
    (r#"{"content":"x","maxTurns":"5"}"#, "maxTurns: expected a whole number"),
    (r#"{"content":"x","whenBusy":"wait"}"#, "whenBusy: expected one of"),
];

const OTHERS: &[Case] = &[
    ("POST", "/api/sessions/:id/exec", "{}", 400, "command: is required"),
    ("POST", "/api/sessions/:id/exec", r#"{"command":""}"#, 400, "command: "),
    ("POST", "/api/sessions/:id/exec", r#"{"command":"x","timeout":0}"#, 400, "timeout: "),
    ("POST", "/api/sessions/:id/exec", r#"{"command":"x","timeout":300001}"#, 400, "timeout: "),
    ("GET", "/api/sessions/:id/messages?limit=0", "", 400, "limit"),
    ("GET", "/api/sessions/:id/messages?limit=x", "", 400, "limit"),
    ("GET", "/api/sessions/:id/stream?after=x", "", 400, "after: must be an event id like 12.0"),
    ("GET", "/api/sessions/x", "", 400, "id"),
    ("GET", UNKNOWN, "", 404, "Session not found"),
    ("DELETE", UNKNOWN, "", 404, "Session not found"),
    ("GET", "/api/nothing", "", 404, "Not Found"),
];

const UNKNOWN: &str = "/api/sessions/3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b";

/// Every error has this shape, names no path of this machine, and says what is wrong.
fn check(talk: &Talk, (method, path, body, status, sentence): Case) -> Result<()> {
    let path = path.replace(":id", &talk.session);
    let body = (!body.is_empty()).then_some(body.as_bytes());
    let answer = talk.api.open(method, &path, body)?.answer()?;
    let shown = format!("{method} {path}: {} {}", answer.status, answer.text());
    ensure!(answer.status == status, "{shown}; expected {status} {sentence}");
    let error = answer.json();
    ensure!(error["statusCode"] == status, "{shown}");
    let text = error["error"].as_str().with_context(|| shown.clone())?;
    ensure!(text.contains(sentence), "{shown}; expected {sentence}");
    ensure!(!text.contains("/var/tmp") && !text.contains("/run/"), "{shown} names a path");
    Ok(())
}

#[test]
fn what_cannot_be_understood_is_explained() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    for case in [CREATE, AGENTS, OTHERS].concat() {
        check(&talk, case)?;
    }
    for (body, sentence) in MESSAGES {
        check(&talk, ("POST", "/api/sessions/:id/messages", body, 400, sentence))?;
    }
    for name in RESERVED {
        let body = json!({ "agent": "hello", "extraEnv": { name: "x" } }).to_string();
        let sentence = format!("{name} is reserved");
        check(&talk, ("POST", "/api/sessions", &body, 400, &sentence))?;
    }
    let stream = format!("/api/sessions/{}/stream", talk.session);
    let stream = talk.api.with("last-event-id", "x").call("GET", &stream, None)?;
    ensure!(stream.status == 400 && stream.text().contains("Last-Event-ID"), "{}", stream.text());
    ensure!(talk.ask("[[say unharmed]]")? == "unharmed");
    talk.ash.finish()
}

#[test]
fn what_is_too_long_is_refused() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let name = json!({ "name": "a".repeat(256), "systemPrompt": "x" }).to_string();
    check(&talk, ("POST", "/api/agents", &name, 400, "name: "))?;
    let text = json!({ "content": "x".repeat(500_001) }).to_string();
    let blocks = json!({ "content": vec![json!({ "type": "text", "text": "x" }); 21] }).to_string();
    for (body, sentence) in [
        (text, "content: must not be longer than 500000 characters"),
        (blocks, "content: expected 1 to 20 blocks"),
    ] {
        check(&talk, ("POST", "/api/sessions/:id/messages", &body, 400, sentence))?;
    }
    let head = |length: usize| {
        let head = talk.api.head("POST", "/api/sessions");
        format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n")
    };
    for body in [head(1 << 30), head(2 << 20) + &"x".repeat(2 << 20)] {
        let answer = talk.api.raw(body.as_bytes())?.answer()?;
        ensure!(answer.status == 413, "{} {}", answer.status, answer.text());
    }
    ensure!(talk.ask("[[say unharmed]]")? == "unharmed");
    talk.ash.finish()
}

#[test]
fn who_has_no_key_gets_nothing() -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let api = ash.api();
    for (header, text) in [
        ("", "Missing Authorization header"),
        ("Basic abc", "Invalid Authorization header format"),
        ("Bearer", "Invalid Authorization header format"),
        ("Bearer wrong", "Invalid API key"),
    ] {
        let answer = api.with("authorization", header).call("GET", "/api/agents", None)?;
        ensure!(answer.status == 401 && answer.json()["error"] == text, "{}", answer.text());
    }
    ensure!(api.with("authorization", "").call("GET", "/health", None)?.status == 200);
    let foreign = api.with("host", "evil.example").with("origin", "http://evil.example");
    let answer = foreign.call("GET", "/api/agents", None)?;
    ensure!(answer.status == 403 || answer.status == 421, "{} {}", answer.status, answer.text());
    ash.finish()
}

/// Makes something of a folder that no agent may be.
type Spoil = fn(&Path) -> Result<()>;

#[test]
fn folders_that_are_no_agents_are_refused() -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let api = ash.api();
    let good = ash.folder("agent", "The first.")?;
    ensure!(api.deploy("agent", &good)? == 1);
    let spoil: &[(&str, Spoil, &str)] = &[
        ("no-prompt", |dir| Ok(fs::remove_file(dir.join("CLAUDE.md"))?), "CLAUDE.md"),
        ("link-out", |dir| Ok(symlink("/etc/shadow", dir.join("out"))?), "out"),
        ("link-up", |dir| Ok(symlink("../..", dir.join("up"))?), "up"),
        ("fifo", |dir| run("mkfifo", &[dir.join("fifo").as_path()]), "fifo"),
        ("device", |dir| node(&dir.join("device")), "device"),
        ("crowd", crowd, "files"),
    ];
    for (name, how, word) in spoil {
        let folder = ash.folder(name, "x")?;
        how(&folder)?;
        let refused = api.deploy("agent", &folder).map_err(|error| format!("{error:#}"));
        let text = refused.err().with_context(|| format!("{name} was deployed"))?;
        ensure!(text.contains("400 ") && text.contains(word), "{name}: {text}");
    }
    let outside = ash.scratch().join("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("CLAUDE.md"), "x")?;
    for path in [
        outside.as_path(),
        Path::new("/etc"),
        &ash.agents_dir().join("../outside"),
        Path::new("agent"),
    ] {
        let body = json!({ "name": "agent", "path": path });
        let answer = api.call("POST", "/api/agents", Some(&body))?;
        ensure!(
            matches!(answer.status, 400 | 403),
            "{path:?}: {} {}",
            answer.status,
            answer.text()
        );
    }
    nothing_was_lost(&api)?;
    ash.finish()
}

/// The first version is there, and is what sessions get.
fn nothing_was_lost(api: &Api) -> Result<()> {
    let agent = api.call("GET", "/api/agents/agent", None)?.expect(200)?;
    ensure!(agent["agent"]["version"] == 1, "{agent}");
    let session = api.create("agent", json!({}))?;
    ensure!(api.exec(&session, "cat CLAUDE.md")?.stdout == "The first.");
    Ok(())
}

fn run(program: &str, arguments: &[&Path]) -> Result<()> {
    ensure!(Command::new(program).args(arguments).status()?.success(), "{program} failed");
    Ok(())
}

fn node(path: &Path) -> Result<()> {
    let made = Command::new("mknod").arg(path).args(["c", "1", "3"]).status()?;
    ensure!(made.success(), "mknod failed");
    Ok(())
}

fn crowd(folder: &Path) -> Result<()> {
    (0..100_000).try_for_each(|n| Ok(fs::write(folder.join(n.to_string()), "")?))
}

#[test]
fn uploads_that_lead_out_are_refused() -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let api = ash.api();
    let upload = |files: Value| {
        api.call("POST", "/api/agents", Some(&json!({ "name": "agent", "files": files })))
    };
    let file = |path: &str| json!({ "path": path, "content": STANDARD.encode("The first.") });
    upload(json!([file("CLAUDE.md")]))?.expect(201)?;
    for (path, sentence) in [
        ("../x", "must not contain `..`"),
        ("a/../../x", "must not contain `..`"),
        ("/etc/x", "must be relative"),
        ("a//b", "must not contain empty names"),
        ("a\0b", "no NUL"),
    ] {
        let error = upload(json!([file("CLAUDE.md"), file(path)]))?.expect(400)?;
        let text = error["error"].as_str().unwrap_or_default().to_owned();
        ensure!(text.starts_with("files[1].path") && text.contains(sentence), "{path}: {text}");
    }
    let error = upload(json!([file("x")]))?.expect(400)?;
    ensure!(error.to_string().contains("CLAUDE.md"), "{error}");
    nothing_was_lost(&api)?;
    ash.finish()
}

#[test]
fn an_upload_that_breaks_off_changes_nothing() -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let api = ash.api();
    api.deploy("agent", &ash.folder("agent", "The first.")?)?;
    let before = ash.places().look()?;
    let whole = json!({ "name": "agent", "systemPrompt": "x".repeat(100_000) }).to_string();
    for sent in [0, 1, 50_000, whole.len() - 1] {
        let head = api.head("POST", "/api/agents");
        let head = format!(
            "{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            whole.len()
        );
        let connection = api.raw(&[head.as_bytes(), &whole.as_bytes()[..sent]].concat())?;
        connection.cutter()?();
        ensure!(connection.answer().map_or(true, |answer| answer.status >= 400));
    }
    let after = ash.places().look()?;
    ensure!(after == before, "{}", after.difference(&before));
    nothing_was_lost(&api)?;
    ash.finish()
}

/// By HTTP, each address by itself; what already runs goes on, and so does who manages the machine.
#[test]
fn who_asks_too_often_is_told_when_to_come_back() -> Result<()> {
    let talk = Talk::begin(Options::stub().config("[http]\nrate_sessions = 2\n"))?;
    let create = || talk.api.call("POST", "/api/sessions", Some(&json!({ "agent": "hello" })));
    let second = create()?;
    ensure!((second.status, second.header("x-ratelimit-remaining")) == (201, Some("0")));
    let refused = create()?;
    ensure!(refused.header("x-ratelimit-limit") == Some("2"), "{:?}", refused.headers);
    let wait: u32 =
        refused.header("retry-after").context("when to come back is not said")?.parse()?;
    ensure!((880..=900).contains(&wait), "{wait}");
    ensure!(refused.header("x-ratelimit-reset") == Some(&*wait.to_string()));
    let body = refused.expect(429)?;
    ensure!(body["error"] == "Too Many Requests" && body["statusCode"] == 429, "{body}");
    ensure!(body["message"] == "Rate limit exceeded, retry in 15 minutes", "{body}");

    let stream = talk.api.post_message(&talk.session, &json!({ "content": "[[say on]]" }))?;
    let (status, headers, _) = stream.body()?;
    let told = headers.iter().any(|(name, _)| name.starts_with("x-ratelimit"));
    ensure!(status == 200 && !told, "{headers:?}");
    talk.ash.ctl().create("hello", json!({}))?;
    talk.ash.finish()
}
