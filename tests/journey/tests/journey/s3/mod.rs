//! Copies in an S3 server: that goes away, fails, lies, and is full.

mod google;
mod server;
mod troubled;

use std::fs;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, anyhow, ensure};
use ash_journey::{Api, Ash, Client as _, Options, process};
use serde_json::{Value, json};

use self::server::{S3, options};
use self::troubled::{Lie, Troubled};
use crate::backups;
use crate::killed::dies_between_parts;
use crate::machines::{checkpoint, copying, files, import, import_at_once, notices_its_loss};
use crate::support::Talk;

/// What makes a session's files, a large one among them.
const LARGE: &str = "echo kept > kept; head -c 9000000 /dev/urandom > large; sha256sum large > sum";

/// A server, and what lies between it and daemons; `None`, and it is said, where there can be none.
fn servers(test: &str) -> Result<Option<(S3, Troubled)>> {
    let Some(server) = S3::start(test)? else { return Ok(None) };
    let troubled = Troubled::start(server.port)?;
    Ok(Some((server, troubled)))
}

/// The session's file says this from now on, and the store has a checkpoint of that name.
fn keep(here: &Talk, text: &str) -> Result<Value> {
    here.ask(&here.bash(&format!("echo {text} > kept")))?;
    checkpoint(&here.api, &here.session, text)
}

/// Whether the newest attempt at copying has failed, and how many sessions wait for one.
fn copies_are(api: &Api, (failing, waiting): (bool, u64)) -> bool {
    copying(api).is_ok_and(|state| state["failing"] == failing && state["waiting"] == waiting)
}

/// A session that has come from the store goes on, and has the file that it had.
fn check_kept(ash: &Ash, session: &str) -> Result<()> {
    ensure!(ash.api().turn_to(session, "resume")? == "active");
    ensure!(ash.api().exec(session, "cat kept")?.stdout == "kept\n");
    Ok(())
}

/// The same of one with the files of [`LARGE`], and with `more`, which came later.
fn check_large(api: &Api, session: &str) -> Result<()> {
    ensure!(api.turn_to(session, "resume")? == "active");
    let shown = api.exec(session, "cat kept more; sha256sum -c sum")?;
    ensure!(shown.stdout == "kept\nmore\nlarge: OK\n", "{}", shown.stdout);
    Ok(())
}

/// Two have seen that another machine has the session before either takes it: one does, and the other
/// is told and keeps nothing of it. Puts that make somebody an owner have `owner` in their path.
fn one_of_two_wins(
    here: Options,
    others: &Options,
    (troubled, owner): (&Troubled, &str),
) -> Result<()> {
    let here = Talk::begin(here)?;
    keep(&here, "kept")?;
    let others = [Ash::start(others.clone())?, Ash::start(others.clone())?];
    troubled.troubles.ahead.hold("PUT", owner);
    let statuses = import_at_once(&others, &here.session, || {
        let held = troubled.troubles.ahead.await_held(2);
        troubled.troubles.ahead.release();
        held
    })?;
    ensure!(statuses == [201, 409] || statuses == [409, 201], "{statuses:?}");
    let winner = usize::from(statuses[0] != 201);
    check_kept(&others[winner], &here.session)?;
    let path = format!("/api/sessions/{}", here.session);
    others[1 - winner].api().call("GET", &path, None)?.expect(404)?;
    notices_its_loss(&here)?;
    for other in others {
        other.finish()?;
    }
    here.ash.finish()
}

/// What ends a journey: the session is whole where it is now, and both machines are done.
fn finish(here: Talk, there: Ash) -> Result<()> {
    check_kept(&there, &here.session)?;
    there.finish()?;
    here.ash.finish()
}

#[test]
fn what_is_lost_here_comes_back_from_an_s3_server_that_was_away() -> Result<()> {
    let name = "s3::what_is_lost_here_comes_back_from_an_s3_server_that_was_away";
    let Some(mut server) = S3::start(name)? else { return Ok(()) };
    let mut here = Talk::begin(options(server.port))?;
    here.ask(&here.bash(LARGE))?;
    checkpoint(&here.api, &here.session, "whole")?;

    server.stop()?;
    let path = format!("/api/sessions/{}/checkpoints", here.session);
    here.api.exec(&here.session, "echo more > more")?;
    here.api.call("POST", &path, Some(&json!({ "name": "while it is away" })))?.expect(201)?;
    process::until("it is told that the store fails", || copies_are(&here.api, (true, 1)))?;
    ensure!(here.ask("[[say still here]]")? == "still here", "nothing waits for the store");
    // It comes back without anything that it had, and gets everything again.
    server.again()?;
    process::until("the store has it", || copies_are(&here.api, (false, 0)))?;
    ensure!(here.api.turn_to(&here.session, "stop")? == "stopped");
    // Behind what stopping saves by itself.
    checkpoint(&here.api, &here.session, "stopped")?;

    here.ash.kill9()?;
    let data = here.ash.data_dir();
    fs::remove_dir_all(data.join("sessions").join(&here.session))?;
    for pack in files(&data.join("snapshots/store/default/packs"))? {
        fs::remove_file(pack)?;
    }
    here.boot()?;
    check_large(&here.api, &here.session)?;
    here.ash.finish()
}

/// Whatever goes wrong with single requests, also behind what they do, the session gets there and
/// comes from there whole.
#[test]
fn a_session_moves_through_a_server_that_fails() -> Result<()> {
    let name = "s3::a_session_moves_through_a_server_that_fails";
    let Some((_server, troubled)) = servers(name)? else { return Ok(()) };
    let here = Talk::begin(options(troubled.port))?;
    here.ask(&here.bash(LARGE))?;
    troubled.troubles.fails.store(true, Ordering::Relaxed);
    checkpoint(&here.api, &here.session, "whole")?;
    here.ask(&here.bash("echo more > more"))?;
    checkpoint(&here.api, &here.session, "more")?;
    let there = Ash::start(options(troubled.port))?;
    let api = there.api();
    let body = json!({ "sessionId": here.session });
    process::until("it is imported", || {
        let answer = api.call("POST", "/api/sessions/import", Some(&body));
        // Whoever is told to try again does.
        answer.is_ok_and(|answer| answer.status == 201 || answer.expect(503).is_err())
    })?;
    check_large(&api, &here.session)?;
    ensure!(troubled.troubles.failed.load(Ordering::Relaxed) >= 4, "hardly anything went wrong");
    there.finish()?;
    here.ash.finish()
}

/// One session that the store does not take holds up no other.
#[test]
fn a_session_that_is_refused_waits_behind_the_others() -> Result<()> {
    let name = "s3::a_session_that_is_refused_waits_behind_the_others";
    let Some((_server, troubled)) = servers(name)? else { return Ok(()) };
    let here = Talk::begin(options(troubled.port))?;
    let mut sessions = [here.session.clone(), here.api.create("hello", json!({}))?];
    // It would be copied first.
    sessions.sort();
    troubled.troubles.refuse(&sessions[0]);
    for session in &sessions {
        let path = format!("/api/sessions/{session}/checkpoints");
        here.api.call("POST", &path, Some(&json!({})))?.expect(201)?;
    }
    process::until("the other one is copied", || copies_are(&here.api, (true, 1)))?;
    troubled.troubles.refuse("");
    process::until("the store has both", || copies_are(&here.api, (false, 0)))?;
    here.ash.finish()
}

/// Also not as long as all of it is there.
#[test]
fn what_was_purged_does_not_come_back() -> Result<()> {
    let name = "s3::what_was_purged_does_not_come_back";
    let Some((server, troubled)) = servers(name)? else { return Ok(()) };
    let mut here = Talk::begin(options(troubled.port))?;
    let dir = here.ash.scratch().join("backup");
    keep(&here, "kept")?;
    backups::back_up(&here, &dir)?;
    here.ash.terminate()?;
    backups::start_over(&here, 1)?;
    let restored = backups::restore(&here, &dir, &[])?;
    ensure!(restored.status.success(), "{}", backups::said(&restored));
    here.boot()?;
    troubled.troubles.keeps.store(true, Ordering::Relaxed);
    here.api.purge(&here.session)?;
    process::until("it is told that it is still there", || copies_are(&here.api, (true, 1)))?;
    let there = Ash::start(options(server.port))?;
    for api in [&here.api, &there.api()] {
        import(api, &here.session, 404)?;
    }
    troubled.troubles.keeps.store(false, Ordering::Relaxed);
    process::until("nothing is to be done there", || copies_are(&here.api, (false, 0)))?;
    import(&there.api(), &here.session, 404)?;
    there.finish()?;
    here.ash.finish()
}

/// Whoever is about to take what is purged meanwhile has looked before that, and does not bring it back.
#[test]
fn what_is_purged_while_it_is_imported_does_not_come_back() -> Result<()> {
    let name = "s3::what_is_purged_while_it_is_imported_does_not_come_back";
    let Some((server, troubled)) = servers(name)? else { return Ok(()) };
    let here = Talk::begin(options(server.port))?;
    keep(&here, "kept")?;
    let there = Ash::start(options(troubled.port))?;
    troubled.troubles.ahead.hold("PUT", "/owner/");
    let (api, session) = (there.api(), here.session.clone());
    let importing = std::thread::spawn(move || import(&api, &session, 404));
    troubled.troubles.ahead.await_held(1)?;
    here.api.purge(&here.session)?;
    process::until("all of it is gone there", || copies_are(&here.api, (false, 0)))?;
    troubled.troubles.ahead.release();
    importing.join().map_err(|_| anyhow!("the import panicked"))??;
    let path = format!("/api/sessions/{}", here.session);
    there.api().call("GET", &path, None)?.expect(404)?;
    import(&there.api(), &here.session, 404)?;
    there.finish()?;
    here.ash.finish()
}

/// A store that fails when nobody has the session any more is asked again: it does not stay with
/// neither.
#[test]
fn what_fails_behind_the_claim_is_tried_again() -> Result<()> {
    let name = "s3::what_fails_behind_the_claim_is_tried_again";
    let Some((server, troubled)) = servers(name)? else { return Ok(()) };
    let here = Talk::begin(options(server.port))?;
    keep(&here, "kept")?;
    let there = Ash::start(options(troubled.port))?;
    troubled.troubles.behind_claim.store(2, Ordering::Relaxed);
    import(&there.api(), &here.session, 201)?;
    ensure!(troubled.troubles.behind_claim.load(Ordering::Relaxed) == 0, "nothing was claimed");
    finish(here, there)
}

/// What was put there at the last moment and is damaged costs nothing but itself: the session goes on
/// at what was whole, and stays with nobody else.
#[test]
fn what_is_damaged_behind_the_claim_is_left_out() -> Result<()> {
    let name = "s3::what_is_damaged_behind_the_claim_is_left_out";
    let Some((server, troubled)) = servers(name)? else { return Ok(()) };
    let here = Talk::begin(options(server.port))?;
    keep(&here, "kept")?;
    let there = Ash::start(options(troubled.port))?;
    troubled.troubles.ahead.hold("PUT", "/owner/");
    let (api, session) = (there.api(), here.session.clone());
    let importing = std::thread::spawn(move || import(&api, &session, 201));
    troubled.troubles.ahead.await_held(1)?;
    let late = keep(&here, "late")?;
    troubled.troubles.lie_about(late["id"].as_str().context("no id")?, Lie::Flipped);
    troubled.troubles.ahead.release();
    importing.join().map_err(|_| anyhow!("the import panicked"))??;
    finish(here, there)
}

#[test]
fn an_object_whose_parts_are_interrupted_gets_there() -> Result<()> {
    let name = "s3::an_object_whose_parts_are_interrupted_gets_there";
    let Some(server) = S3::start(name)? else { return Ok(()) };
    dies_between_parts(&options(server.port))
}

#[test]
fn of_two_who_claim_at_once_one_wins() -> Result<()> {
    let name = "s3::of_two_who_claim_at_once_one_wins";
    let Some((server, troubled)) = servers(name)? else { return Ok(()) };
    one_of_two_wins(options(server.port), &options(troubled.port), (&troubled, "/owner/"))
}

/// What is there counts, also for as long as whoever put it there has not been told.
#[test]
fn what_was_put_there_and_not_answered_moves_along() -> Result<()> {
    let name = "s3::what_was_put_there_and_not_answered_moves_along";
    let Some((server, troubled)) = servers(name)? else { return Ok(()) };
    let here = Talk::begin(options(troubled.port))?;
    keep(&here, "early")?;
    let there = Ash::start(options(server.port))?;
    troubled.troubles.behind.hold("PUT", "/points/");
    here.ask(&here.bash("echo kept > kept"))?;
    troubled.troubles.behind.await_held(1)?;
    ensure!(here.ask("[[say still here]]")? == "still here", "nothing waits for the store");
    import(&there.api(), &here.session, 201)?;
    check_kept(&there, &here.session)?;
    troubled.troubles.behind.release();
    process::until("the session has ended where it was", || {
        here.api.session(&here.session).is_ok_and(|session| session["status"] == "ended")
    })?;
    there.finish()?;
    here.ash.finish()
}

/// What is not what was put there is not taken, and costs nothing but the attempt: neither with a flipped
/// bit, nor cut off, nor when it is whole and something else.
#[test]
fn a_server_that_lies_is_not_believed() -> Result<()> {
    let name = "s3::a_server_that_lies_is_not_believed";
    let Some((_server, troubled)) = servers(name)? else { return Ok(()) };
    let here = Talk::begin(options(troubled.port))?;
    keep(&here, "before")?;
    keep(&here, "kept")?;
    let there = Ash::start(options(troubled.port))?;
    // What comes first is not asked for again once it is here.
    for what in ["/points/", "/packs/", "/events/"] {
        for lie in [Lie::Flipped, Lie::Shorter, Lie::Another] {
            troubled.troubles.lie_about(what, lie);
            let refused = import(&there.api(), &here.session, 500)?;
            let text = refused["error"].as_str().unwrap_or_default();
            ensure!(text.contains("damaged"), "{what}, {lie:?}: {text}");
        }
    }
    ensure!(here.api.session(&here.session)?["status"] == "active", "nothing was taken");
    troubled.troubles.lie_about("", Lie::Flipped);
    import(&there.api(), &here.session, 201)?;
    finish(here, there)
}

/// Turns go on while the store takes nothing any more; it is told, and heals by itself.
#[test]
fn a_server_that_is_full_holds_up_nobody() -> Result<()> {
    let name = "s3::a_server_that_is_full_holds_up_nobody";
    let Some((_server, troubled)) = servers(name)? else { return Ok(()) };
    let here = Talk::begin(options(troubled.port))?;
    troubled.troubles.full.store(true, Ordering::Relaxed);
    here.ask(&here.bash("echo kept > kept"))?;
    process::until("it is told that the store fails", || copies_are(&here.api, (true, 1)))?;
    ensure!(here.ask("[[say still here]]")? == "still here", "nothing waits for the store");
    let status = here.ash.ctl().json(&["status"])?;
    ensure!(status["copiesFailing"] == true, "{status}");
    troubled.troubles.full.store(false, Ordering::Relaxed);
    process::until("the store has it", || copies_are(&here.api, (false, 0)))?;
    here.ash.finish()
}
