//! A transcript that is gone although the agent has answered: it begins anew, and that is said.

use std::fs;

use anyhow::{Result, ensure};
use ash_journey::{Client, Options};
use serde_json::{Value, json};

use crate::idle::pool;
use crate::points::resume;
use crate::support::{Talk, both_engines};

impl Talk {
    /// Removes the transcript of the agent.
    fn lose_conversation(&self) -> Result<()> {
        let home = self.ash.data_dir().join("sessions").join(&self.session).join("home");
        Ok(fs::remove_dir_all(home.join(".claude"))?)
    }

    /// That history says once that the agent has begun anew.
    fn lost_once(&self, path: &str) -> Result<()> {
        let told = format!(r#""path":"{path}","source":"fresh""#);
        let all = self.api.events(&self.session)?.into_iter();
        let all = all.filter(|event| event["data"].as_str().is_some_and(|it| it.contains(&told)));
        let all: Vec<Value> = all.collect();
        ensure!(all.len() == 1, "{all:?}");
        Ok(())
    }
}

both_engines!(it_is_said_when_a_session_is_resumed);

fn it_is_said_when_a_session_is_resumed(options: Options) -> Result<()> {
    let talk = Talk::begin(options)?;
    talk.ask("[[say remember the owl]]")?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    talk.lose_conversation()?;
    resume(&talk)?;
    talk.lost_once("cold")?;
    let health = talk.api.health()?;
    ensure!(health["pool"]["resumeColdFreshHits"] == 1, "{health}");
    ensure!(talk.ask("[[say after]]")? == "after");
    let path = format!("/api/sessions/{}/logs", talk.session);
    let logs = talk.api.call("GET", &path, None)?.expect(200)?.to_string();
    ensure!(logs.contains("begins anew"), "{logs}");
    talk.ash.finish()
}

/// A CLI that is started with one effort serves no message with another one.
#[test]
fn it_is_said_when_another_cli_begins() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    talk.ask("[[say remember the owl]]")?;
    talk.lose_conversation()?;
    let body = json!({ "content": "[[say after]]", "effort": "low" });
    let turn = talk.api.send(&talk.session, body)?.to_end()?;
    ensure!(turn.errors().is_empty() && turn.text() == "after", "{}", turn.raw());
    talk.lost_once("warm")?;
    talk.ash.finish()
}

#[test]
fn it_is_said_when_a_message_has_a_session_go_on() -> Result<()> {
    let talk = Talk::begin(Options::stub().config(&pool(0, 1000)))?;
    talk.ask("[[say remember the owl]]")?;
    talk.wait_for("cooled", 1)?;
    talk.lose_conversation()?;
    ensure!(talk.ask("[[say after]]")? == "after");
    talk.lost_once("cold")?;
    talk.ash.finish()
}
