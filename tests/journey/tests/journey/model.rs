//! The way to the model, when it is there and when it is not. Only the real CLI asks a model.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use ash_journey::{Client, Options, Turn, process};
use ash_modelapi::{Config, Server};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::{Talk, check_ids, counted};

/// Reads until the CLI says that it tries again.
fn until_retry(turn: &mut Turn) -> Result<&Value> {
    Ok(&turn.until(|frame| frame.data["subtype"] == "api_retry")?.data)
}

#[test]
fn a_model_that_is_down_is_waited_for() -> Result<()> {
    let Some(options) = Options::real("model::a_model_that_is_down_is_waited_for") else {
        return Ok(());
    };
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let talk = Talk::begin(options.env("ANTHROPIC_BASE_URL", format!("http://127.0.0.1:{port}")))?;
    let mut turn = talk.send("[[say never]]")?;
    until_retry(&mut turn)?;
    ensure!(talk.api.interrupt(&talk.session)?, "a turn that waits can be interrupted");
    turn.to_end()?;

    let mut turn = talk.send("[[say back]]")?;
    until_retry(&mut turn)?;
    let key = Some(talk.ash.canary().to_owned());
    let _back = Server::start(Config { port, key, ..Config::default() })?;
    ensure!(turn.to_end()?.text() == "back");
    talk.ash.finish()
}

#[test]
fn a_model_that_is_silent_can_be_interrupted() -> Result<()> {
    let Some(options) = Options::real("model::a_model_that_is_silent_can_be_interrupted") else {
        return Ok(());
    };
    let talk = Talk::begin(options)?;
    for silence in ["[[silence forever]]", "[[count 5]][[silence forever]]"] {
        let prompt = format!("{silence} [[say never]]");
        let mut turn = talk.send(&prompt)?;
        let model = talk.ash.model();
        model.block_on(model.wait_for(1, |request| request.body.to_string().contains(silence)))?;
        turn.until(|frame| frame.data["status"] == "requesting")?;
        ensure!(talk.api.interrupt(&talk.session)?, "a silent turn can be interrupted");
        turn.to_end()?;
    }
    ensure!(talk.ask("[[say alive]]")? == "alive");
    talk.ash.finish()
}

#[test]
fn a_model_that_fails_is_asked_again() -> Result<()> {
    let Some(options) = Options::real("model::a_model_that_fails_is_asked_again") else {
        return Ok(());
    };
    let talk = Talk::begin(options)?;
    for fault in [
        "[[status 529 retry-after=1]]",
        "[[status 500]]",
        "[[cut]]",
        "[[cut after=3]]",
        "[[sse-error overloaded_error after=2]]",
    ] {
        let turn = talk.send(&format!("{fault}[[count 8]]"))?.to_end()?;
        check_ids(&turn.seen)?;
        ensure!(turn.text() == counted(8), "{fault}: {}", turn.text());
    }
    talk.ash.finish()
}

#[test]
fn a_model_that_refuses_is_told_of() -> Result<()> {
    let Some(options) = Options::real("model::a_model_that_refuses_is_told_of") else {
        return Ok(());
    };
    let talk = Talk::begin(options)?;
    let turn = talk.send("[[status 400]] refused")?.to_end()?;
    let result = turn.named("message").find(|frame| frame.data["type"] == "result");
    let result = result.map(|frame| frame.data.clone()).unwrap_or_default();
    ensure!(result["is_error"] == true && turn.text().contains("400"), "{}", turn.text());
    ensure!(talk.ask("[[say alive]]")? == "alive");
    talk.ash.finish()
}

/// Neither other paths nor the headers of whoever asks.
#[test]
fn the_broker_lets_nothing_else_through() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let ask = |arguments: &str| -> Result<String> {
        let curl = "curl -sS -w ' %{http_code}' --unix-socket /run/ash/model/api.sock";
        Ok(talk.api.exec(&talk.session, &format!("{curl} {arguments} 2>&1"))?.stdout)
    };
    let body =
        r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"[[say hi]]"}]}"#;
    let forged = "-H 'x-api-key: evil' -H 'authorization: Bearer evil' -H 'x-evil: 1'";
    let said = ask(&format!(
        "{forged} -H 'content-type: application/json' -d '{body}' http://x/v1/messages"
    ))?;
    ensure!(said.contains("hi") && said.ends_with(" 200"), "{said}");
    let said = ask(&format!("-d '{body}' http://x/v1/messages/count_tokens"))?;
    ensure!(said.ends_with(" 200"), "{said}");
    for request in talk.ash.model().requests() {
        ensure!(request.headers["x-api-key"] == talk.ash.canary(), "{:?}", request.headers);
        let leaked = request
            .headers
            .iter()
            .any(|(name, value)| name == "authorization" || value == "evil" || name == "x-evil");
        ensure!(!leaked, "{:?}", request.headers);
    }
    let before = talk.ash.model().requests().len();
    for other in [
        "http://x/v1/files",
        "http://x/v1/messages/batches -d {}",
        "-X PUT http://x/v1/messages",
        "--path-as-is http://x/v1/messages/../files",
        "http://x/v1//messages -d {}",
        "http://x/__control/requests",
    ] {
        let said = ask(other)?;
        ensure!(
            said.ends_with(" 403") || said.ends_with(" 404") || said.ends_with(" 405"),
            "{other}: {said}"
        );
    }
    ensure!(talk.ash.model().requests().len() == before, "something went through");
    talk.ash.finish()
}

/// With a key that is given by a reload turns work, and with one that is taken out they do not any more.
#[test]
fn the_key_goes_with_a_reload() -> Result<()> {
    let talk = Talk::begin(Options::stub().env("ANTHROPIC_API_KEY", ""))?;
    let (file, named) =
        (talk.ash.scratch().join("key"), talk.ash.scratch().join("ashd.toml.d/key.toml"));
    fs::write(&file, talk.ash.canary())?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let has_key = || -> Result<Value> { Ok(talk.api.health()?["modelKey"].take()) };
    let ask = "curl -sS -w ' %{http_code}' --unix-socket /run/ash/model/api.sock -d \
               '{\"model\": \"m\", \"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}' \
               http://x/v1/messages 2>&1";
    let answer = || -> Result<String> { Ok(talk.api.exec(&talk.session, ask)?.stdout) };
    ensure!(has_key()? == false && answer()?.ends_with(" 401"), "{}", answer()?);

    let reload = |times: usize| {
        process::signal(talk.ash.pid()?, Signal::HUP)?;
        let reloaded = || talk.ash.log().matches("configuration reloaded").count() == times;
        process::until("the reload", reloaded)
    };
    fs::write(&named, format!("[model]\nkey_file = {file:?}\n"))?;
    reload(1)?;
    ensure!(has_key()? == true && answer()?.ends_with(" 200"), "{}", answer()?);
    fs::remove_file(&named)?;
    reload(2)?;
    ensure!(has_key()? == false && answer()?.ends_with(" 401"), "{}", answer()?);
    talk.ash.finish()
}

/// A key that is wrong ends the turn at once, and is replaced without a restart.
#[test]
fn the_key_is_read_again_on_reload() -> Result<()> {
    let Some(options) = Options::real("model::the_key_is_read_again_on_reload") else {
        return Ok(());
    };
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("key");
    fs::write(&file, "sk-wrong")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let config = format!("[model]\nkey_file = {file:?}\n");
    let talk = Talk::begin(options.env("ANTHROPIC_API_KEY", "").config(&config))?;
    let refused = talk.ask("[[say hello]]")?;
    ensure!(
        refused.contains("Invalid API key") && talk.ash.model().requests().len() == 1,
        "{refused}"
    );
    fs::write(&file, talk.ash.canary())?;
    process::signal(talk.ash.pid()?, Signal::HUP)?;
    process::until("the reload", || talk.ash.log().contains("configuration reloaded"))?;
    ensure!(talk.ask("[[say hello]]")? == "hello");
    talk.ash.finish()
}
