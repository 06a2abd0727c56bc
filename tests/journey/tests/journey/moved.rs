//! Sessions that go on on another machine: two daemons that share nothing but an object store.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Api, Ash, Client, Options, process};
use serde_json::{Value, json};

use crate::killed::points::POINTS;
use crate::machines::{
    checkpoint, copying, files, import, import_at_once, notices_its_loss, shared, with_checkpoint,
};
use crate::support::{Talk, both_engines};

both_engines!(a_session_goes_on_where_only_the_object_store_is_the_same);

fn a_session_goes_on_where_only_the_object_store_is_the_same(options: Options) -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(options, bucket.path());
    let here = Talk::begin(options.clone())?;
    let make =
        "printf needle-in-clear > kept; mkdir -p deep/er; ln -s ../kept deep/link; chmod 640 kept";
    here.ask(&here.bash(make))?;
    here.ask("[[say remember the owl]]")?;
    checkpoint(&here.api, &here.session, "before it moved")?;
    for path in files(bucket.path())? {
        let bytes = fs::read(&path)?;
        let clear = bytes.windows(6).any(|part| part == b"needle" || part == b"the ow");
        ensure!(!clear, "{} is in clear", path.display());
    }

    let there = Ash::start(options)?;
    let unknown = import(&there.api(), "00000000-0000-4000-8000-000000000000", 404)?;
    ensure!(unknown["error"] == "Session not found in the object store", "{unknown}");
    let imported = import(&there.api(), &here.session, 201)?;
    ensure!(imported["session"]["status"] == "paused", "{imported}");
    let again = import(&there.api(), &here.session, 409)?;
    ensure!(again["error"] == "The session is on this server already", "{again}");
    let api = there.api();
    ensure!(api.turn_to(&here.session, "resume")? == "active");
    let shown = api.exec(&here.session, "cat deep/link; stat -c ' %a' kept")?.stdout;
    ensure!(shown.trim() == "needle-in-clear 640", "{shown}");
    let asked = api.send(&here.session, json!({ "content": "[[history]]" }))?.to_end()?.text();
    ensure!(asked.contains("remember the owl"), "{asked}");
    let events = api.events(&here.session)?;
    let numbers: Vec<_> = events.iter().filter_map(|event| event["sequence"].as_u64()).collect();
    ensure!(numbers.is_sorted_by(|one, next| one < next) && numbers[0] == 1, "{numbers:?}");
    api.exec(&here.session, "echo later > later")?;
    checkpoint(&api, &here.session, "there")?;

    // Whoever lost it goes on until it notices, and then ends truthfully.
    here.api.exec(&here.session, "echo too late > late")?;
    let path = format!("/api/sessions/{}/checkpoints", here.session);
    here.api.call("POST", &path, Some(&json!({})))?.expect(201)?;
    process::until("the session has ended where it was", || {
        here.api.session(&here.session).is_ok_and(|session| session["status"] == "ended")
    })?;
    process::until("it says why", || {
        let events = here.api.events(&here.session).unwrap_or_default();
        events.iter().any(|event| event.to_string().contains("was imported by another server"))
    })?;

    // And back again, with what happened there.
    let back = import(&here.api, &here.session, 201)?;
    ensure!(back["session"]["status"] == "paused", "{back}");
    ensure!(here.api.turn_to(&here.session, "resume")? == "active");
    let shown = here.api.exec(&here.session, "cat kept later")?.stdout;
    ensure!(shown == "needle-in-clearlater\n", "{shown}");

    here.api.purge(&here.session)?;
    // All that is left says that nobody has it.
    let left = bucket.path().join("default/sessions").join(&here.session);
    process::until("nothing of it is in the object store", || {
        let left = files(&left).unwrap_or_default();
        left.len() == 1 && left[0].parent().is_some_and(|parent| parent.ends_with("owner"))
    })?;
    import(&here.api, &here.session, 404)?;
    there.finish()?;
    here.ash.finish()
}

/// What has a name moves along. However long it goes on elsewhere: who has it now removes nothing that
/// somebody gave a name before.
#[test]
fn what_has_a_name_stays_where_a_session_moves_on() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let here = Talk::begin(options.clone())?;
    here.ask(&here.bash("echo named > file"))?;
    let named = checkpoint(&here.api, &here.session, "named")?;
    here.ask(&here.bash("echo later > file"))?;
    checkpoint(&here.api, &here.session, "later")?;
    let there = Ash::start(options.clone())?;
    let api = there.api();
    import(&api, &here.session, 201)?;
    api.turn_to(&here.session, "resume")?;
    let back = format!("/api/sessions/{}/checkpoints/named/restore", here.session);
    api.call("POST", &back, None)?.expect(200)?;
    api.turn_to(&here.session, "resume")?;
    ensure!(api.exec(&here.session, "cat file")?.stdout == "named\n");
    let points = bucket.path().join(format!("default/sessions/{}/points", here.session));
    let newest = || files(&points).ok().and_then(|points| points.into_iter().max());
    for number in 0..6 {
        let before = newest();
        let content = format!("[[say {number}]]");
        api.send(&here.session, json!({ "content": content }))?.to_end()?;
        process::until("the object store has the turn", || newest() > before)?;
    }
    // One more pass, behind whatever the last has removed.
    checkpoint(&api, &here.session, "last")?;
    ensure!(files(&points)?.len() == 3 + 3, "{:?}", files(&points)?);
    let third = Ash::start(options)?;
    let body = json!({ "sessionId": here.session, "checkpoint": named["id"] });
    third.api().call("POST", "/api/sessions/import", Some(&body))?.expect(201)?;
    ensure!(third.api().turn_to(&here.session, "resume")? == "active");
    ensure!(third.api().exec(&here.session, "cat file")?.stdout == "named\n");
    third.finish()?;
    there.finish()?;
    here.ash.finish()
}

/// Whoever goes on from an older checkpoint has a history of its own, which comes along wherever the
/// session moves then; what was said behind that checkpoint before does not.
#[test]
fn a_history_is_of_who_has_the_session() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let here = Talk::begin(options.clone())?;
    here.ask("[[say one]]")?;
    let older = checkpoint(&here.api, &here.session, "older")?;
    for word in ["two", "three", "four"] {
        here.ask(&format!("[[say {word}]]"))?;
    }
    checkpoint(&here.api, &here.session, "newer")?;
    let there = Ash::start(options.clone())?;
    let body = json!({ "sessionId": here.session, "checkpoint": older["id"] });
    there.api().call("POST", "/api/sessions/import", Some(&body))?.expect(201)?;
    ensure!(there.api().turn_to(&here.session, "resume")? == "active");
    there.api().send(&here.session, json!({ "content": "[[say other]]" }))?.to_end()?;
    checkpoint(&there.api(), &here.session, "there")?;
    let third = Ash::start(options)?;
    import(&third.api(), &here.session, 201)?;
    let messages =
        |ash: &Ash| -> Result<String> { Ok(format!("{:?}", ash.api().messages(&here.session)?)) };
    ensure!(messages(&third)? == messages(&there)?, "{}", messages(&third)?);
    ensure!(messages(&third)?.contains("say other"), "{}", messages(&third)?);
    ensure!(!messages(&third)?.contains("say two"), "{}", messages(&third)?);
    third.finish()?;
    there.finish()?;
    here.ash.finish()
}

/// What was removed does not come along, whoever put it into the object store.
#[test]
fn a_name_that_was_taken_away_does_not_come_back() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let here = Talk::begin(options.clone())?;
    let path = format!("/api/sessions/{}/checkpoints", here.session);
    let names = |api: &Api| -> Result<Vec<Value>> {
        let mut all = api.call("GET", &path, None)?.expect(200)?;
        let all = all["checkpoints"].as_array_mut().context("no checkpoints")?;
        Ok(all.iter_mut().map(|one| one["name"].take()).filter(|name| !name.is_null()).collect())
    };
    let forget = |api: &Api, name: &str| -> Result<()> {
        api.call("DELETE", &format!("{path}/{name}"), None)?.expect(200)?;
        process::until("the object store knows it", || {
            copying(api).is_ok_and(|state| state["waiting"] == 0 && state["failing"] == false)
        })?;
        Ok(())
    };
    for name in ["one", "two", "three"] {
        here.ask(&here.bash(&format!("echo {name} > file")))?;
        checkpoint(&here.api, &here.session, name)?;
    }
    forget(&here.api, "one")?;
    // The newest stays, without its name.
    forget(&here.api, "three")?;
    let there = Ash::start(options)?;
    import(&there.api(), &here.session, 201)?;
    ensure!(names(&there.api())? == ["two"], "{:?}", names(&there.api())?);
    checkpoint(&there.api(), &here.session, "four")?;
    forget(&there.api(), "two")?;
    let points = bucket.path().join(format!("default/sessions/{}/points", here.session));
    notices_its_loss(&here)?;
    import(&here.api, &here.session, 201)?;
    ensure!(names(&here.api)? == ["four"], "{:?}: {:?}", names(&here.api)?, files(&points)?);
    there.finish()?;
    here.ash.finish()
}

/// The end of a session that has moved fails half-way: it is tried again until nothing is left.
#[test]
fn an_end_that_fails_where_a_session_was_is_tried_again() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let mut here = Talk::begin(options.clone())?;
    here.ask("[[say hello]]")?;
    ensure!(here.api.turn_to(&here.session, "stop")? == "stopped");
    checkpoint(&here.api, &here.session, "it")?;
    // Not killed: else its files might be built from the checkpoint once more.
    here.ash.terminate()?;
    let there = Ash::start(options)?;
    import(&there.api(), &here.session, 201)?;
    // The sandbox's end saves as well, and asks nobody.
    let fault = "pack.publish.before:error,pack.publish.before:error";
    here.ash.boot_with(&[("ASH_FAULT", fault)])?;
    here.api = here.ash.api();
    // What its last checkpoint has to save, when it sees that it is lost.
    let workspace = here.ash.data_dir().join("sessions").join(&here.session).join("workspace");
    fs::write(workspace.join("late"), "late")?;
    here.api.turn_to(&here.session, "resume")?;
    process::until("it says why it has ended", || {
        let events = here.api.events(&here.session).unwrap_or_default();
        events.iter().any(|event| event.to_string().contains("was imported by another server"))
    })?;
    ensure!(here.api.session(&here.session)?["status"] == "ended");
    let log = here.ash.log();
    ensure!(log.contains("a session that moved has not ended here"), "the end never failed: {log}");
    let found = here.ash.ctl().json(&["fsck", "--deep"])?;
    ensure!(found["differences"] == json!([]), "{found}");
    there.finish()?;
    here.ash.finish()
}

/// What is here of a session that has moved stays until it is sure to come back.
#[test]
fn an_import_that_fails_takes_nothing_away() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let here = with_checkpoint(options.clone())?;
    let there = Ash::start(options)?;
    import(&there.api(), &here.session, 201)?;
    there.api().turn_to(&here.session, "resume")?;
    checkpoint(&there.api(), &here.session, "there")?;
    notices_its_loss(&here)?;
    let packs = files(&bucket.path().join("default/packs"))?;
    for pack in &packs {
        fs::rename(pack, bucket.path().join(pack.file_name().context("no name")?))?;
    }
    let data = here.ash.data_dir().join("snapshots/store/default/packs");
    for pack in files(&data)? {
        fs::remove_file(pack)?;
    }
    import(&here.api, &here.session, 500)?;
    let messages = format!("{:?}", here.api.messages(&here.session)?);
    ensure!(messages.contains("[[say hello]]"), "{messages}");
    for pack in &packs {
        fs::rename(bucket.path().join(pack.file_name().context("no name")?), pack)?;
    }
    import(&here.api, &here.session, 201)?;
    there.finish()?;
    here.ash.finish()
}

#[test]
fn of_two_who_import_at_once_one_wins() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let here = with_checkpoint(options.clone())?;
    let others = [Ash::start(options.clone())?, Ash::start(options)?];
    let mut statuses = import_at_once(&others, &here.session, || Ok(()))?;
    statuses.sort_unstable();
    // Who comes later takes it from the winner, who is then the one that has lost it, and finds out
    // when it is used there.
    ensure!(statuses == [201, 409] || statuses == [201, 201], "{statuses:?}");
    let status = |ash: &Ash| {
        let session = ash.api().session(&here.session).unwrap_or_default();
        session["status"].as_str().unwrap_or("none").to_owned()
    };
    for ash in others.iter().filter(|ash| status(ash) == "paused") {
        ash.api().turn_to(&here.session, "resume")?;
    }
    process::until("exactly one of them has it", || {
        let all: Vec<_> = others.iter().map(status).collect();
        all.iter().filter(|status| *status == "active").count() == 1
    })?;
    notices_its_loss(&here)?;
    let [one, other] = others;
    one.finish()?;
    other.finish()?;
    here.ash.finish()
}

#[test]
fn a_damaged_copy_is_told_with_an_older_one() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let here = Talk::begin(options.clone())?;
    here.ask(&here.bash("echo one > file"))?;
    let older = checkpoint(&here.api, &here.session, "older")?;
    here.ask(&here.bash("echo two > file"))?;
    let newer = checkpoint(&here.api, &here.session, "newer")?;
    let points = bucket.path().join(format!("default/sessions/{}/points", here.session));
    let newer = newer["id"].as_str().context("no id")?;
    for path in files(&points)? {
        let name = path.file_name().and_then(|name| name.to_str()).context("no name")?;
        if !older["id"].as_str().is_some_and(|older| name.ends_with(older)) {
            let mut bytes = fs::read(&path)?;
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes)?;
        }
    }
    let there = Ash::start(options)?;
    let refused = import(&there.api(), &here.session, 500)?;
    let text = refused["error"].as_str().unwrap_or_default();
    let offered = older["id"].as_str().is_some_and(|older| text.contains(older));
    ensure!(text.contains("it is damaged in the object store") && offered, "{text}");
    ensure!(!text.contains(bucket.path().to_str().unwrap_or_default()), "{text}");
    ensure!(here.api.session(&here.session)?["status"] == "active", "nothing was taken");
    let body = json!({ "sessionId": here.session, "checkpoint": newer });
    there.api().call("POST", "/api/sessions/import", Some(&body))?.expect(500)?;
    let body = json!({ "sessionId": here.session, "checkpoint": older["id"] });
    there.api().call("POST", "/api/sessions/import", Some(&body))?.expect(201)?;
    ensure!(there.api().turn_to(&here.session, "resume")? == "active");
    ensure!(there.api().exec(&here.session, "cat file")?.stdout == "one\n");
    there.finish()?;
    here.ash.finish()
}

/// What is damaged here and there names what is whole there, and that can be gone back to.
#[test]
fn an_older_one_in_the_object_store_is_offered_as_well() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let mut here = Talk::begin(shared(Options::stub(), bucket.path()))?;
    here.ask(&here.bash("echo one > file"))?;
    let older = checkpoint(&here.api, &here.session, "older")?;
    here.ask(&here.bash("echo two > file"))?;
    here.api.turn_to(&here.session, "stop")?;
    checkpoint(&here.api, &here.session, "newer")?;
    here.ash.kill9()?;
    let (data, older) = (here.ash.data_dir(), older["id"].as_str().context("no id")?.to_owned());
    fs::remove_dir_all(data.join("sessions").join(&here.session))?;
    let points = bucket.path().join(format!("default/sessions/{}/points", here.session));
    let newer =
        files(&points)?.into_iter().filter(|path| !path.to_string_lossy().ends_with(&older));
    for path in files(&data.join("snapshots/store/default/packs"))?.into_iter().chain(newer) {
        fs::remove_file(path)?;
    }
    here.boot()?;
    let path = format!("/api/sessions/{}", here.session);
    let refused = here.api.call("POST", &format!("{path}/resume"), None)?.expect(500)?;
    ensure!(refused["error"].as_str().is_some_and(|text| text.contains(&older)), "{refused}");
    let back = format!("{path}/checkpoints/{older}/restore");
    here.api.call("POST", &back, None)?.expect(200)?;
    here.api.turn_to(&here.session, "resume")?;
    ensure!(here.api.exec(&here.session, "cat file")?.stdout == "one\n");
    here.ash.finish()
}

#[test]
fn an_import_that_is_interrupted_is_done_or_undone() -> Result<()> {
    for (point, _) in POINTS.iter().filter(|(point, _)| point.starts_with("import.")) {
        let bucket = tempfile::tempdir()?;
        let options = shared(Options::stub(), bucket.path());
        let here = Talk::begin(options.clone())?;
        here.ask(&here.bash("echo kept > file"))?;
        checkpoint(&here.api, &here.session, "it")?;
        let mut there = Ash::start(options)?;
        there.kill9()?;
        ensure!(there.boot_to_die(point, &[])?, "{point} came before the daemon was ready");
        let body = json!({ "sessionId": here.session });
        let asked = there.api().call("POST", "/api/sessions/import", Some(&body));
        ensure!(asked.is_err(), "{point} was not passed");
        there.wait_killed()?;
        there.boot()?;
        let wanted = if *point == "import.recorded" { 409 } else { 201 };
        import(&there.api(), &here.session, wanted).with_context(|| format!("behind {point}"))?;
        let api = there.api();
        ensure!(api.turn_to(&here.session, "resume")? == "active");
        ensure!(api.exec(&here.session, "cat file")?.stdout == "kept\n", "behind {point}");
        there.finish()?;
        here.ash.finish()?;
    }
    Ok(())
}

#[test]
fn without_an_object_store_that_is_said() -> Result<()> {
    let ash = Ash::start(Options::stub())?;
    let refused = import(&ash.api(), "00000000-0000-4000-8000-000000000000", 409)?;
    ensure!(refused["error"] == "This server has no object store; set snapshots.url", "{refused}");
    ensure!(copying(&ash.api())?.is_null());
    let body = json!({ "sessionId": "x" });
    let refused = ash.api().call("POST", "/api/sessions/import", Some(&body))?.expect(400)?;
    ensure!(refused["error"].as_str().is_some_and(|text| text.starts_with("sessionId: must be")));
    ash.finish()
}
