//! What sessions and messages may ask for reaches the CLI, and through it the model.

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Client, Options, Turn, programs};
use serde_json::{Value, json};

use crate::support::{Talk, bash};

/// A talk with the real CLI, if there is one.
fn talk(test: &str) -> Result<Option<Talk>> {
    Options::real(&format!("options::{test}")).map(Talk::begin).transpose()
}

/// The body of the newest request for a message of the conversation.
fn asked(talk: &Talk) -> Result<Value> {
    let requests = talk.ash.model().requests();
    let newest = requests.iter().rfind(|request| request.is_message());
    Ok(newest.context("the model was not asked")?.body.clone())
}

fn send(talk: &Talk, message: Value) -> Result<Turn> {
    talk.api.send(&talk.session, message)?.to_end()
}

#[test]
fn a_message_names_model_effort_and_thinking() -> Result<()> {
    let Some(talk) = talk("a_message_names_model_effort_and_thinking")? else { return Ok(()) };
    send(&talk, json!({ "content": "a", "model": "claude-opus-4-6" }))?;
    ensure!(asked(&talk)?["model"] == "claude-opus-4-6");
    send(&talk, json!({ "content": "b", "model": "claude-opus-4-6", "effort": "low" }))?;
    ensure!(
        asked(&talk)?["output_config"]["effort"] == "low",
        "{}",
        asked(&talk)?["output_config"]
    );
    let thinking = json!({ "type": "enabled", "budgetTokens": 2000 });
    send(&talk, json!({ "content": "c", "thinking": thinking }))?;
    let body = asked(&talk)?;
    ensure!(
        body["thinking"] == json!({ "type": "enabled", "budget_tokens": 2000 }),
        "{}",
        body["thinking"]
    );
    send(&talk, json!({ "content": "d" }))?;
    let body = asked(&talk)?;
    ensure!(body["model"] != "claude-opus-4-6", "an option holds for its message only");
    ensure!(body["messages"].to_string().contains("\"a\""), "the conversation goes on");
    talk.ash.finish()
}

/// These restart the CLI, which goes on with the conversation.
#[test]
fn a_message_bounds_its_turn_and_shapes_its_answer() -> Result<()> {
    let Some(talk) = talk("a_message_bounds_its_turn_and_shapes_its_answer")? else {
        return Ok(());
    };
    ensure!(talk.ask("[[say before]]")? == "before");
    let two = format!("{}{}", bash(true, "echo one"), bash(true, "echo two"));
    let turn = send(&talk, json!({ "content": two, "maxTurns": 1 }))?;
    ensure!(turn.raw().contains("error_max_turns"), "{}", turn.raw());
    let schema = json!({ "type": "object", "properties": { "n": { "type": "integer" } },
        "required": ["n"], "additionalProperties": false });
    let format = json!({ "type": "json_schema", "schema": schema });
    let prompt = r#"[[tool StructuredOutput {"n":3}]]"#;
    let turn = send(&talk, json!({ "content": prompt, "outputFormat": format }))?;
    ensure!(turn.raw().contains(r#""structured_output":{"n":3}"#), "{}", turn.raw());
    let told = talk.ask("[[history]]")?;
    ensure!(told.contains("[[say before]]"), "{told}");
    talk.ash.finish()
}

#[test]
fn a_session_brings_prompt_model_environment_and_servers() -> Result<()> {
    let Some(mut talk) = talk("a_session_brings_prompt_model_environment_and_servers")? else {
        return Ok(());
    };
    let notes =
        std::fs::read_to_string(programs::repository().join("examples/research/tools/notes.py"))?;
    std::fs::write(talk.ash.folder("hello", "From the folder.")?.join("notes.py"), notes)?;
    talk.api.deploy("hello", &talk.ash.agents_dir().join("hello"))?;
    talk.session = talk.api.create(
        "hello",
        json!({
            "systemPrompt": "From the session.", "model": "claude-opus-4-6",
            "extraEnv": { "COLOUR": "green" }, "disallowedTools": ["WebFetch"],
            "mcpServers": { "given": { "command": "python3", "args": ["notes.py"] } },
        }),
    )?;
    ensure!(talk.ask(&bash(true, "echo $COLOUR"))? == "tool said: green");
    let body = asked(&talk)?;
    ensure!(body["model"] == "claude-opus-4-6", "{}", body["model"]);
    let system = body["system"].to_string();
    ensure!(
        system.contains("From the session.") && !system.contains("From the folder."),
        "{system}"
    );
    let tools: Vec<_> =
        body["tools"].as_array().into_iter().flatten().map(|tool| &tool["name"]).collect();
    ensure!(tools.contains(&&json!("mcp__given__notes_add")), "{tools:?}");
    ensure!(!tools.contains(&&json!("WebFetch")), "{tools:?}");
    ensure!(talk.api.exec(&talk.session, "echo $COLOUR")?.stdout == "green\n");
    let shown = talk.api.session(&talk.session)?.to_string();
    ensure!(!shown.contains("green"), "values may be secrets: {shown}");
    talk.ash.finish()
}

/// Without anybody to ask, a question is answered by policy, truthfully.
#[test]
fn nobody_is_there_to_ask() -> Result<()> {
    let Some(mut talk) = talk("nobody_is_there_to_ask")? else { return Ok(()) };
    let question = json!({ "questions": [{ "question": "Which?", "header": "Pick", "multiSelect": false,
        "options": [{ "label": "A", "description": "a" }, { "label": "B", "description": "b" }] }] });
    let turn = send(&talk, json!({ "content": format!("[[tool AskUserQuestion {question}]]") }))?;
    ensure!(turn.raw().contains("nobody is there"), "{}", turn.raw());
    talk.session = talk.api.create("hello", json!({ "permissionMode": "default" }))?;
    let turn = send(&talk, json!({ "content": bash(true, "touch made") }))?;
    let refused = turn.named("tool_result").any(|frame| frame.data["is_error"] == true);
    ensure!(refused, "{}", turn.raw());
    ensure!(talk.api.exec(&talk.session, "ls made")?.code != 0, "the command ran");
    let allowed = json!({ "permissionMode": "default", "allowedTools": ["Bash"] });
    talk.session = talk.api.create("hello", allowed)?;
    ensure!(talk.ask(&bash(true, "echo allowed"))? == "tool said: allowed");
    talk.ash.finish()
}

/// Pictures and documents arrive as they were sent.
#[test]
fn blocks_reach_the_model() -> Result<()> {
    let Some(talk) = talk("blocks_reach_the_model")? else { return Ok(()) };
    let pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let image = json!({ "type": "image",
        "source": { "type": "base64", "media_type": "image/png", "data": pixel } });
    let text = json!({ "type": "text", "text": "[[say seen]]" });
    let turn = send(&talk, json!({ "content": [image, text] }))?;
    ensure!(turn.text() == "seen", "{}", turn.raw());
    ensure!(asked(&talk)?["messages"].to_string().contains("image/png"), "no picture has arrived");
    talk.ash.finish()
}
