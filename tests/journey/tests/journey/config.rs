//! What is settled for an agent holds for the sessions that are made with it from then on.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Api, Client, Options};
use serde_json::{Value, json};

use crate::support::{Talk, bash};

/// Text of the preset that the CLI comes with.
const PRESET: &str = "Doing tasks";

/// The agent of every talk.
const AGENT: &str = "/api/agents/hello";

fn configure(api: &Api, changes: Value) -> Result<Value> {
    let config = api.call("PATCH", &format!("{AGENT}/config"), Some(&changes))?.expect(200)?;
    Ok(config["config"].clone())
}

/// Sends a message to a session and returns what the model was asked.
fn asked(talk: &Talk, session: &str) -> Result<Value> {
    talk.api.send(session, json!({ "content": "hello" }))?.to_end()?;
    newest(talk)
}

/// The body of the newest request for a message.
fn newest(talk: &Talk) -> Result<Value> {
    let requests = talk.ash.model().requests();
    let newest = requests.iter().rfind(|request| request.is_message());
    Ok(newest.context("the model was not asked")?.body.clone())
}

#[test]
fn model_and_prompt_reach_the_model() -> Result<()> {
    let Some(options) = Options::real("config::model_and_prompt_reach_the_model") else {
        return Ok(());
    };
    let talk = Talk::begin(options)?;
    let appending = json!({ "systemPrompt": "append", "model": "claude-opus-4-6" });
    configure(&talk.api, appending)?;
    let body = asked(&talk, &talk.session)?;
    let system = body["system"].to_string();
    ensure!(system.contains("Answer briefly.") && !system.contains(PRESET), "{system}");
    ensure!(body["model"] != "claude-opus-4-6", "a session keeps what it was made with");

    let session = talk.api.create("hello", json!({}))?;
    let body = asked(&talk, &session)?;
    let system = body["system"].to_string();
    ensure!(system.contains("Answer briefly.") && system.contains(PRESET), "{system}");
    ensure!(!body["messages"].to_string().contains("Answer briefly."), "the prompt is there twice");
    ensure!(body["model"] == "claude-opus-4-6", "{}", body["model"]);
    // Bounds of a turn are for another process of the CLI, which goes on with the conversation.
    talk.api.send(&session, json!({ "content": "again", "maxTurns": 9 }))?.to_end()?;
    let system = newest(&talk)?["system"].to_string();
    ensure!(system.contains("Answer briefly.") && system.contains(PRESET), "{system}");

    let model = json!({ "model": "claude-haiku-4-5", "systemPrompt": "Be somebody else." });
    let session = talk.api.create("hello", model)?;
    let body = asked(&talk, &session)?;
    let system = body["system"].to_string();
    ensure!(system.contains("Be somebody else.") && system.contains(PRESET), "{system}");
    ensure!(body["model"] == "claude-haiku-4-5", "{}", body["model"]);
    talk.ash.finish()
}

/// Config, then the folder's settings, then the daemon.
#[test]
fn the_config_goes_before_the_folder() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let model = |settings: Value| -> Result<Value> {
        let session = talk.api.create("hello", settings)?;
        Ok(talk.api.session(&session)?["model"].clone())
    };
    ensure!(model(json!({}))?.is_null(), "the daemon's applies");
    let folder = talk.ash.agents_dir().join("hello");
    fs::create_dir(folder.join(".claude"))?;
    fs::write(folder.join(".claude/settings.json"), r#"{"model":"of-the-folder"}"#)?;
    talk.api.deploy("hello", &folder)?;
    ensure!(model(json!({}))? == "of-the-folder");
    configure(&talk.api, json!({ "model": "of-the-agent" }))?;
    ensure!(model(json!({}))? == "of-the-agent");
    ensure!(model(json!({ "model": "of-the-session" }))? == "of-the-session");
    configure(&talk.api, json!({ "model": null }))?;
    ensure!(model(json!({}))? == "of-the-folder");
    talk.ash.finish()
}

#[test]
fn permissions_of_the_agent_hold() -> Result<()> {
    let Some(options) = Options::real("config::permissions_of_the_agent_hold") else {
        return Ok(());
    };
    let mut talk = Talk::begin(options)?;
    configure(&talk.api, json!({ "permissionMode": "default", "disallowedTools": ["WebFetch"] }))?;
    talk.session = talk.api.create("hello", json!({}))?;
    let turn = talk.send(&bash(true, "touch made"))?.to_end()?;
    let refused = turn.named("tool_result").any(|frame| frame.data["is_error"] == true);
    ensure!(refused, "{}", turn.raw());
    configure(&talk.api, json!({ "allowedTools": ["Bash"] }))?;
    talk.session = talk.api.create("hello", json!({ "disallowedTools": ["WebSearch"] }))?;
    ensure!(talk.ask(&bash(true, "echo allowed"))? == "tool said: allowed");
    let tools = asked(&talk, &talk.session)?["tools"].to_string();
    ensure!(!tools.contains("WebFetch") && !tools.contains("WebSearch"), "{tools}");
    talk.ash.finish()
}

#[test]
fn a_config_is_merged_kept_and_shown() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let shown = |talk: &Talk| -> Result<Value> {
        Ok(talk.api.call("GET", AGENT, None)?.expect(200)?["agent"].clone())
    };
    let before = shown(&talk)?;
    ensure!(before["config"] == json!({}), "{before}");
    let notes = json!({ "notes": { "any": ["thing"] }, "model": "m", "permissionMode": "plan" });
    ensure!(configure(&talk.api, notes.clone())? == notes);
    let merged = json!({ "notes": { "any": ["thing"] }, "model": "n" });
    ensure!(configure(&talk.api, json!({ "model": "n", "permissionMode": null }))? == merged);
    ensure!(configure(&talk.api, json!({}))? == merged);
    let patch = json!({ "env": { "COLOUR": "green" }, "config": { "model": "o" } });
    let after = talk.api.call("PATCH", AGENT, Some(&patch))?.expect(200)?["agent"].clone();
    let wanted = json!({ "notes": { "any": ["thing"] }, "model": "o" });
    ensure!(after["config"] == wanted && after["env"] == json!({ "COLOUR": "***" }), "{after}");
    ensure!(after["version"] == before["version"] && after["updatedAt"] != before["updatedAt"]);

    talk.crash()?;
    ensure!(shown(&talk)? == after, "a crash has changed it");
    talk.api.deploy("hello", &talk.ash.agents_dir().join("hello"))?;
    let again = shown(&talk)?;
    ensure!(again["version"] == 2 && again["config"] == wanted, "{again}");
    ensure!(again["env"] == after["env"], "{again}");
    let session = talk.api.create("hello", json!({}))?;
    ensure!(talk.api.exec(&session, "echo $COLOUR")?.stdout == "green\n");

    let body = json!({ "name": "hello", "systemPrompt": "x", "config": { "model": "p" } });
    let anew = talk.api.call("POST", "/api/agents", Some(&body))?.expect(201)?;
    ensure!(anew["agent"]["config"] == json!({ "model": "p" }), "{anew}");
    talk.ash.finish()
}

/// The two ways see one and the same, and refuse with the same words.
#[test]
fn ashctl_configures_as_well() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let ctl = talk.ash.ctl();
    let set = ctl.json(&["agent", "config", "hello", "systemPrompt=append", "mine=[1,2]"])?;
    ensure!(set == json!({ "systemPrompt": "append", "mine": [1, 2] }), "{set}");
    let read = talk.api.call("GET", &format!("{AGENT}/config"), None)?.expect(200)?;
    ensure!(read["config"] == set, "{read}");
    configure(&talk.api, json!({ "mine": null }))?;
    let left = ctl.json(&["agent", "config", "hello"])?;
    ensure!(left == json!({ "systemPrompt": "append" }), "{left}");
    let wrong = ctl.json(&["agent", "config", "hello", "systemPrompt=Be brief."]);
    let wrong = wrong.err().context("it was taken")?.to_string();
    ensure!(wrong.contains("config.systemPrompt: expected `replace` or `append`"), "{wrong}");
    talk.ash.finish()
}

/// The bus's own way to the same: with the folder, as HTTP takes it.
#[test]
fn a_config_comes_with_the_folder() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let ctl = talk.ash.ctl();
    let folder = talk.ash.agents_dir().join("hello");
    let file = talk.ash.agents_dir().join("config.toml");
    let path = |path: &std::path::Path| path.to_str().unwrap_or_default().to_owned();
    let (folder, config) = (path(&folder), path(&file));
    fs::write(&file, "systemPrompt = 'append'\nmodel = 'm'\n[mine]\na = [1]\n")?;
    let made = ctl.json(&["deploy", &folder, "-n", "hello", "--config", &config])?;
    ensure!(made["version"] == 2, "{made}");
    let wanted = json!({ "systemPrompt": "append", "model": "m", "mine": { "a": [1] } });
    ensure!(ctl.json(&["agent", "config", "hello"])? == wanted);
    let shown = talk.api.call("GET", AGENT, None)?.expect(200)?;
    ensure!(shown["agent"]["config"] == wanted, "{shown}");
    let session = talk.api.create("hello", json!({}))?;
    ensure!(talk.api.session(&session)?["model"] == "m");

    ctl.json(&["deploy", &folder, "-n", "hello"])?;
    ensure!(ctl.json(&["agent", "config", "hello"])? == wanted, "it was not kept");
    fs::write(&file, "mine = 2\n")?;
    ctl.json(&["deploy", &folder, "-n", "hello", "--config", &config])?;
    ensure!(ctl.json(&["agent", "config", "hello"])? == json!({ "mine": 2 }));

    fs::write(&file, "systemPrompt = 'Be brief.'\n")?;
    let wrong = ctl.json(&["deploy", &folder, "-n", "hello", "--config", &config]);
    let wrong = wrong.err().context("it was taken")?.to_string();
    ensure!(wrong.contains("config.systemPrompt: expected `replace` or `append`"), "{wrong}");
    let left = talk.api.call("GET", AGENT, None)?.expect(200)?["agent"].clone();
    ensure!(left["version"] == 4 && left["config"] == json!({ "mine": 2 }), "{left}");
    talk.ash.finish()
}
