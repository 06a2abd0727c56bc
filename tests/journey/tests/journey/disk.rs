//! A disk that is full while something is written: said clearly, and nothing lost.

use anyhow::{Result, ensure};
use ash_journey::{Client, Options, process};
use serde_json::json;

use crate::support::{Talk, both_engines, check_ids, counted};

/// 64 MiB of disk, a part of which is kept free.
fn small(options: Options) -> Options {
    let options = options.config("[state]\nreserve_disk = \"4MiB\"\n");
    Options { disk: Some(64), ..options }
}

/// Fills the disk from inside a sandbox, to the last byte.
fn fill(talk: &Talk) -> Result<()> {
    let fill = "head -c 200M /dev/zero > big; head -c 200M /dev/zero >> big; ls -l big";
    let filled = talk.api.exec(&talk.session, fill)?;
    ensure!(filled.stderr.contains("No space left"), "{filled:?}");
    Ok(())
}

both_engines!(a_full_disk_refuses_and_loses_nothing);

fn a_full_disk_refuses_and_loses_nothing(options: Options) -> Result<()> {
    let talk = Talk::begin(small(options))?;
    ensure!(talk.ask("[[say before]]")? == "before");
    let events = talk.api.events(&talk.session)?;
    fill(&talk)?;

    let session = talk.api.call("POST", "/api/sessions", Some(&json!({ "agent": "hello" })))?;
    ensure!(session.status == 503, "{} {}", session.status, session.text());
    ensure!(session.header("retry-after").is_some(), "when to try again is said");
    ensure!(session.text().contains("disk"), "{}", session.text());
    let message = talk.api.post_message(&talk.session, &json!({ "content": "x" }))?.answer()?;
    ensure!(matches!(message.status, 503 | 507), "{} {}", message.status, message.text());
    ensure!(message.text().contains("disk"), "{}", message.text());
    let deploy = json!({ "name": "hello", "systemPrompt": "y".repeat(900_000) });
    let deploy = talk.api.call("POST", "/api/agents", Some(&deploy))?;
    ensure!(matches!(deploy.status, 503 | 507), "{} {}", deploy.status, deploy.text());
    ensure!(talk.api.events(&talk.session)? == events, "history has changed");

    ensure!(talk.api.exec(&talk.session, "rm big")?.code == 0, "commands run on a full disk");
    // A save that had the file open lets go of it.
    process::until("room for a turn", || {
        talk.ask("[[say after]]").is_ok_and(|said| said == "after")
    })?;
    ensure!(talk.ask("[[history]]")?.contains("[[say before]]"));
    talk.ash.finish()
}

both_engines!(a_turn_goes_on_when_the_disk_has_room_again);

fn a_turn_goes_on_when_the_disk_has_room_again(options: Options) -> Result<()> {
    let talk = Talk::begin(small(options))?;
    let mut turn = talk.send("[[count 300 5ms]]")?;
    turn.deltas(3)?;
    fill(&talk)?;
    turn.deltas(297)?;
    ensure!(talk.api.exec(&talk.session, "rm big")?.code == 0);
    let turn = turn.to_end()?;
    check_ids(&turn.seen)?;
    ensure!(turn.text() == counted(300) && turn.errors().is_empty(), "{:?}", turn.errors());
    talk.ash.finish()
}
