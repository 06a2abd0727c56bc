//! What keeps `ashd` from starting is said in one sentence.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use ash_journey::process::until;
use ash_journey::{Ash, Client, Options, Stage};
use serde_json::json;

use crate::support::Talk;

/// Starts a daemon that must give up, with this exit code and these words.
fn refused(options: Options, code: i32, words: &[&str]) -> Result<()> {
    let stage = Stage::set(options)?;
    let (status, log) = stage.refused()?;
    ensure!(status.code() == Some(code), "{status}, not {code}: {log}");
    for word in words {
        ensure!(log.contains(word), "{word:?} is not in: {log}");
    }
    ensure!(!log.contains(stage.canary()) && !log.contains("panicked"), "{log}");
    Ok(())
}

#[test]
fn a_port_that_is_taken() -> Result<()> {
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let port = taken.local_addr()?.port();
    let words = [&format!("cannot listen on 127.0.0.1:{port}"), "ASH_PORT"];
    refused(Options::stub().env("ASH_PORT", port), 1, &words)
}

#[test]
fn a_key_file_that_others_can_read() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("key");
    fs::write(&file, "sk-secret-in-a-file")?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    let config = format!("[model]\nkey_file = {:?}\n", file);
    let options = Options::stub().env("ANTHROPIC_API_KEY", "").config(&config);
    refused(options, 78, &["model.key_file", "others can read it", "chmod 600"])
}

#[test]
fn a_key_file_that_is_a_pipe() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("key");
    rustix::fs::mkfifoat(rustix::fs::CWD, &file, rustix::fs::Mode::RUSR)?;
    let options = Options::stub().config(&format!("[model]\nkey_file = {file:?}\n"));
    refused(options, 78, &["model.key_file", "it is no regular file"])
}

#[test]
fn a_configuration_that_is_wrong() -> Result<()> {
    let config = "[http]\nprot = 1\n[session]\nqueue = \"many\"\n";
    refused(
        Options::stub().config(config),
        78,
        &["test.toml:2", "http.prot", "test.toml:4", "session.queue"],
    )
}

#[test]
fn an_address_of_the_network_without_tls_for_the_model_key() -> Result<()> {
    let options = Options::stub().env("ANTHROPIC_BASE_URL", "http://192.0.2.1");
    refused(options, 78, &["model.base_url", "https://"])
}

#[test]
fn a_cli_that_is_missing_or_cannot_be_run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("claude");
    let path = file.to_str().context("the path is not UTF-8")?;
    refused(Options::with(file.clone()), 78, &[path, "No such file"])?;
    fs::write(&file, "#!/bin/sh\n")?;
    refused(Options::with(file.clone()), 78, &[path, "execute"])?;
    refused(Options::with(dir.path().to_owned()), 78, &["not a file"])
}

/// Two daemons would take each other's sandboxes for leftovers.
#[test]
fn a_state_directory_that_is_in_use() -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let data = ash.data_dir().display().to_string();
    refused(Options::stub().env("ASH_DATA_DIR", &data), 1, &["ashd", &data])?;
    let health = ash.api().health()?;
    ensure!(health["status"] == "ok", "the first one goes on");
    ash.finish()
}

#[test]
fn a_state_directory_that_others_can_read() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let options = Options::stub().env("ASH_DATA_DIR", dir.path().display());
    refused(options, 78, &["is open to others", "chmod 0700"])
}

#[test]
fn a_database_of_a_newer_version() -> Result<()> {
    let mut ash = Ash::start(Options::stub())?;
    ash.terminate()?;
    let set =
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA user_version = 9999')";
    let database = ash.data_dir().join("ash.db");
    let done = std::process::Command::new("python3").args(["-c", set]).arg(&database).status()?;
    ensure!(done.success());
    let (status, log) = ash.refused()?;
    ensure!(status.code() == Some(78) && log.contains("9999"), "{status} {log}");
    ash.finish()
}

/// A CLI that is there and does not work: the session says why, and the daemon lives.
fn misbehaves(mode: &str, words: &[&str]) -> Result<()> {
    let config = "[sandbox]\ncli_timeout = \"1s\"\n";
    let mut talk = Talk::begin(Options::stub().config(config))?;
    fs::write(talk.ash.folder("broken", "x")?.join("stub-mode"), mode)?;
    talk.meet("broken").context(mode.to_owned())?;
    let turn = talk.send("hello")?.to_end()?;
    let errors = turn.errors().join(" ");
    for word in words {
        ensure!(errors.contains(word), "{mode}: {word:?} is not in {errors:?}");
    }
    ensure!(talk.api.status(&talk.session)? == "active");
    let other = talk.api.create("hello", json!({}))?;
    let turn = talk.api.send(&other, json!({ "content": "[[say fine]]" }))?.to_end()?;
    ensure!(turn.text() == "fine", "another session suffers");
    talk.ash.finish()
}

#[test]
fn a_cli_that_dies_at_once() -> Result<()> {
    misbehaves("exit-at-start", &["exited with status 1", "the stub exits at once"])
}

#[test]
fn a_cli_that_never_answers() -> Result<()> {
    misbehaves("never-ready", &["CLI"])
}

#[test]
fn a_cli_that_prints_garbage() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    fs::write(talk.ash.folder("garbage", "x")?.join("stub-mode"), "garbage-at-start")?;
    talk.meet("garbage")?;
    ensure!(talk.ask("[[say a]][[garbage]][[binary]][[say b]]")? == "a\nb");
    let logs = talk.api.call("GET", &format!("/api/sessions/{}/logs", talk.session), None)?.text();
    ensure!(logs.contains("thrown away"), "{logs}");
    talk.ash.finish()
}

#[test]
fn a_cli_that_floods() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let turn = talk.send("[[huge 20000000]][[say after]]")?.to_end()?;
    ensure!(turn.text().contains("after") || !turn.errors().is_empty(), "{:?}", turn.errors());
    let turn = talk.send("[[noline 100000000]]")?;
    until("the turn", || talk.api.interrupt(&talk.session).unwrap_or(false))?;
    turn.to_end()?;
    ensure!(talk.ask("[[say alive]]")? == "alive");
    talk.ash.finish()
}
