//! What does not agree is shown, mended at the start, and damage has a way out.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use ash_journey::http::Connection;
use ash_journey::{Client, Options, process};
use serde_json::{Value, json};

use crate::support::Talk;

/// The exit code of `ashctl` and the document that it prints.
fn told(talk: &Talk, arguments: &[&str]) -> Result<(i32, Value)> {
    let output = talk.ash.ctl().command()?.arg("--json").args(arguments).output()?;
    let code = output.status.code().context("ashctl was killed")?;
    let document = serde_json::from_slice(&output.stdout);
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((code, document.with_context(said)?))
}

/// The kinds of the differences that a look finds, and its exit code.
fn fsck(talk: &Talk, arguments: &[&str]) -> Result<(i32, Vec<String>)> {
    let (code, found) = told(talk, arguments)?;
    let differences = found["differences"].as_array().context("no differences")?;
    let kind = |one: &Value| one["kind"].as_str().unwrap_or_default().to_owned();
    Ok((code, differences.iter().map(kind).collect()))
}

fn packs(talk: &Talk) -> Result<Vec<PathBuf>> {
    let dir = talk.ash.data_dir().join("snapshots/store/default/packs");
    Ok(fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?)
}

/// Flips a byte in the middle of a pack's content.
fn flip(pack: &PathBuf) -> Result<()> {
    let file = fs::File::options().read(true).write(true).open(pack)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 1000)?;
    Ok(file.write_all_at(&[byte[0] ^ 1], 1000)?)
}

#[test]
fn what_is_left_is_shown_and_mended_at_the_start() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask("[[say hello]]")?;
    ensure!(fsck(&talk, &["fsck", "--deep"])? == (0, vec![]));
    let data = talk.ash.data_dir();
    let strange = data.join("sessions/11111111-2222-4333-8444-555555555555");
    fs::create_dir_all(strange.join("workspace"))?;
    fs::create_dir_all(data.join("agents/.staging/half"))?;
    fs::create_dir_all(data.join("agents/default/hello/2"))?;
    fs::create_dir_all(data.join("agents/default/gone/1"))?;
    let body = json!({ "filename": "note", "content": "a2VwdA==" });
    let made = talk.api.call("POST", &talk.path("attachments"), Some(&body))?.expect(201)?;
    let id = made["attachment"]["id"].as_str().context("no attachment")?;
    fs::write(data.join(format!("attachments/{}/half", talk.session)), "half")?;
    fs::create_dir_all(data.join("attachments/22222222-2222-4333-8444-555555555555"))?;
    fs::create_dir_all(data.join("backup-1"))?;
    let expected = [
        "agent-directory",
        "attachment",
        "attachment",
        "backup-copy",
        "half-deployment",
        "session-directory",
        "version-directory",
    ];
    let (code, mut kinds) = fsck(&talk, &["fsck"])?;
    kinds.sort();
    ensure!((code, &kinds[..]) == (10, &expected.map(String::from)), "{code} {kinds:?}");
    ensure!(strange.exists(), "nothing is mended by looking");
    ensure!(fsck(&talk, &["fsck"])?.1.len() == expected.len());

    talk.crash()?;
    ensure!(fsck(&talk, &["fsck"])? == (0, vec![]));
    ensure!(!strange.exists());
    let kept = talk.api.call("GET", &format!("/api/attachments/{id}"), None)?;
    ensure!(kept.text() == "kept", "{}", kept.text());
    let log = talk.ash.log();
    let mended = log.lines().filter(|line| line.contains("mended: ")).count();
    ensure!(mended == expected.len(), "a line for each:\n{log}");
    talk.ash.finish()
}

#[test]
fn what_comes_in_is_not_what_is_left() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    let head = talk.api.head("PUT", &talk.path("files/large"));
    let begun = talk.api.raw(format!("{head}content-length: 100\r\n\r\nhalf").as_bytes())?;
    let comes_in = || -> Result<bool> {
        let mut names = fs::read_dir(talk.ash.data_dir().join("sessions"))?;
        Ok(names.any(|entry| entry.is_ok_and(|it| it.path().extension() == Some("in".as_ref()))))
    };
    process::until("a file comes in", || comes_in().is_ok_and(|comes| comes))?;
    ensure!(fsck(&talk, &["fsck"])? == (0, vec![]));
    drop(begun);
    process::until("what came is gone", || comes_in().is_ok_and(|comes| !comes))?;
    ensure!(fsck(&talk, &["fsck"])? == (0, vec![]));
    talk.ash.finish()
}

/// Begins a request on a daemon that stops at a point of it for ever.
fn begin_and_stop(talk: &mut Talk, point: &str, request: (&str, &str, &str)) -> Result<Connection> {
    talk.ash.kill9()?;
    talk.ash.boot_with(&[("ASH_FAULT", &format!("{point}:stall"))])?;
    talk.api = talk.ash.api();
    let (method, path, body) = request;
    let head = talk.api.head(method, path);
    let length = body.len();
    let headers = format!("content-type: application/json\r\ncontent-length: {length}\r\n\r\n");
    talk.api.raw(format!("{head}{headers}{body}").as_bytes())
}

#[test]
fn an_attachment_that_comes_or_goes_is_not_what_is_left() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let (path, body) = (talk.path("attachments"), r#"{"filename":"note","content":"a2VwdA=="}"#);
    let folder = talk.ash.data_dir().join("attachments").join(&talk.session);
    let comes = begin_and_stop(&mut talk, "attach.kept", ("POST", &path, body))?;
    let contents = || fs::read_dir(&folder).map_or(0, Iterator::count);
    process::until("a content is there", || contents() == 1)?;
    ensure!(fsck(&talk, &["fsck"])? == (0, vec![]));
    drop(comes);
    talk.crash()?;
    ensure!(contents() == 0, "nothing was acknowledged");

    let made = talk.api.call("POST", &path, Some(&serde_json::from_str(body)?))?.expect(201)?;
    let id = made["attachment"]["id"].as_str().context("no attachment")?;
    let one = format!("/api/attachments/{id}");
    let goes = begin_and_stop(&mut talk, "detach.recorded", ("DELETE", &one, ""))?;
    let gone = || Ok::<_, anyhow::Error>(talk.api.call("GET", &one, None)?.status == 404);
    process::until("it is not recorded", || gone().is_ok_and(|gone| gone))?;
    ensure!((contents(), fsck(&talk, &["fsck"])?) == (1, (0, vec![])));
    drop(goes);
    talk.crash()?;
    ensure!((contents(), fsck(&talk, &["fsck"])?) == (0, (0, vec![])));
    talk.ash.finish()
}

/// An end that fails half-way leaves the session its uids; a purge gives them back.
#[test]
fn a_purge_finishes_an_end_that_failed() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask("[[say hello]]")?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    talk.ash.kill9()?;
    // What is saved in the background, at the start and behind a change, fails as well.
    let fault = ["pack.publish.before:error"; 4].join(",");
    talk.ash.boot_with(&[("ASH_FAULT", &fault)])?;
    talk.api = talk.ash.api();
    let path = format!("/api/sessions/{}", talk.session);
    talk.api.call("PUT", &format!("{path}/files/late"), Some(&json!("late")))?.expect(201)?;
    talk.api.call("DELETE", &path, None)?.expect(500)?;
    ensure!(talk.api.session(&talk.session)?["status"] == "ended");
    talk.api.purge(&talk.session)?;
    ensure!(fsck(&talk, &["fsck"])? == (0, vec![]));
    talk.ash.finish()
}

#[test]
fn what_is_under_way_is_no_difference() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    std::thread::scope(|scope| {
        let busy: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    for _ in 0..4 {
                        let session = talk.api.create("hello", json!({}))?;
                        talk.api.send(&session, json!({ "content": "[[say x]]" }))?.to_end()?;
                        let path = format!("/api/sessions/{session}/attachments");
                        let file = json!({ "filename": "x", "content": "eA==" });
                        talk.api.call("POST", &path, Some(&file))?.expect(201)?;
                        talk.api.turn_to(&session, "pause")?;
                        talk.api.turn_to(&session, "resume")?;
                        talk.api.purge(&session)?;
                    }
                    Ok(())
                })
            })
            .collect();
        while busy.iter().any(|busy| !busy.is_finished()) {
            let found = told(&talk, &["fsck"])?;
            ensure!(found.0 == 0, "{found:?}");
        }
        busy.into_iter().try_for_each(|busy| busy.join().expect("a session failed"))
    })?;
    talk.ash.finish()
}

/// A process under a user that is leased to sandboxes, in none of them.
#[test]
fn a_process_in_no_sandbox_is_shown_and_ended_at_the_start() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let uid = talk.ash.places().uids.end - 1;
    let mut command = std::process::Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), "--clear-groups", "sleep", "600"]);
    let mut stray = command.stdin(Stdio::null()).spawn()?;
    process::until("the process to have its user", || process::uid(stray.id()) == Some(uid))?;
    let found = fsck(&talk, &["fsck"])?;
    ensure!(found == (10, vec!["process".to_owned()]), "{found:?}");
    talk.crash()?;
    ensure!(!stray.wait()?.success());
    ensure!(fsck(&talk, &["fsck"])? == (0, vec![]));
    talk.ash.finish()
}

#[test]
fn a_session_whose_newest_point_is_damaged_goes_back_to_a_whole_one() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo kept > file"))?;
    let ctl = talk.ash.ctl();
    let whole = ctl.json(&["session", "checkpoint", "create", &talk.session, "whole"])?;
    let before = packs(&talk)?;
    talk.ask(&talk.bash("head -c 300000 /dev/urandom > noise"))?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    talk.ash.terminate()?;
    // The files are lost, and of what was saved last a byte is not what it was.
    fs::remove_dir_all(talk.ash.data_dir().join("sessions").join(&talk.session))?;
    let new = packs(&talk)?.into_iter().filter(|pack| !before.contains(pack));
    let noise = new.max_by_key(|pack| fs::metadata(pack).map_or(0, |stat| stat.len()));
    flip(&noise.context("nothing was saved")?)?;
    talk.boot()?;

    let path = format!("/api/sessions/{}/resume", talk.session);
    let refused = talk.api.call("POST", &path, None)?.expect(500)?;
    let said = refused["error"].as_str().unwrap_or_default();
    let id = whole["id"].as_str().context("the checkpoint has no id")?;
    ensure!(said.contains("workspace/noise") && said.contains("the newest older one"), "{said}");
    ensure!(said.contains(id), "{said} names {id}");
    let listed = told(&talk, &["session", "checkpoint", "list", &talk.session])?.1;
    let damaged: Vec<_> =
        listed.as_array().into_iter().flatten().filter(|one| !one["damage"].is_null()).collect();
    ensure!(!damaged.is_empty(), "{listed}");
    ensure!(ctl.json(&["status"])?["damagedCheckpoints"].as_u64() > Some(0));
    let (code, kinds) = fsck(&talk, &["fsck", "--deep"])?;
    ensure!(code == 12 && kinds.contains(&"checkpoint".to_owned()), "{kinds:?}");

    // Nothing began anew on the quiet, and the verb takes it.
    ctl.json(&["session", "restore", &talk.session, id])?;
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    let found = talk.api.exec(&talk.session, "ls; cat file")?.stdout;
    ensure!(found.trim() == "CLAUDE.md\nfile\nkept", "{found}");
    // Forgotten, there is no damage.
    for point in damaged {
        let id = point["id"].as_str().unwrap_or_default();
        ctl.json(&["session", "checkpoint", "delete", &talk.session, id])?;
    }
    ctl.json(&["snapshot", "collect"])?;
    ensure!(fsck(&talk, &["fsck", "--deep"])? == (0, vec![]));
    talk.ash.finish()
}

#[test]
fn damage_of_files_that_are_still_there_heals() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("head -c 300000 /dev/urandom > noise"))?;
    talk.ash.ctl().json(&["session", "checkpoint", "create", &talk.session, "one"])?;
    talk.ash.terminate()?;
    let largest =
        packs(&talk)?.into_iter().max_by_key(|pack| fs::metadata(pack).map_or(0, |it| it.len()));
    flip(&largest.context("nothing was saved")?)?;
    talk.boot()?;
    let (code, kinds) = fsck(&talk, &["snapshot", "check"])?;
    ensure!(code == 12 && !kinds.is_empty(), "{code} {kinds:?}");
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    talk.ask("[[say anything]]")?;
    talk.ash.ctl().json(&["session", "checkpoint", "create", &talk.session, "two"])?;
    let found = told(&talk, &["snapshot", "check"])?;
    ensure!(found.0 == 0, "the older one has the file in common: {found:?}");
    talk.ash.finish()
}

#[test]
fn collecting_can_be_looked_at_before() -> Result<()> {
    let talk = Talk::begin(Options::stub())?;
    talk.ask("[[say hello]]")?;
    for arguments in [&["snapshot", "collect", "--preview"][..], &["snapshot", "collect"]] {
        let all = talk.ash.ctl().json(arguments)?;
        ensure!(all[0]["tenant"] == "default" && all[0]["damaged"] == 0, "{all}");
    }
    talk.ash.finish()
}

/// Every file of the data directory that has these bytes.
fn holders(dir: &std::path::Path, needle: &[u8], found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let stat = fs::symlink_metadata(&path)?;
        if stat.is_dir() {
            holders(&path, needle, found)?;
        } else if stat.is_file() {
            let bytes = fs::read(&path)?;
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(path);
            }
        }
    }
    Ok(())
}

/// What holds a needle now; a file that goes meanwhile is looked at again.
fn held(talk: &Talk, needle: &str) -> Vec<PathBuf> {
    loop {
        let mut found = vec![];
        if holders(&talk.ash.data_dir(), needle.as_bytes(), &mut found).is_ok() {
            return found;
        }
    }
}

#[test]
fn what_is_purged_is_nowhere() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    let needle = format!("needle-{}", talk.session.replace('-', ""));
    // A session that stays; its pack is the larger part of what both write.
    talk.ask(&talk.bash("head -c 500000 /dev/urandom > noise"))?;
    talk.ask(&format!("[[say {needle}]]"))?;
    // What is not compressed can be found by its bytes.
    let write = format!("head -c 3000 /dev/urandom > secret; echo {needle} >> secret");
    talk.ask(&talk.bash(&write))?;
    talk.ash.ctl().json(&["session", "checkpoint", "create", &talk.session, "kept"])?;
    let child = talk.ash.ctl().json(&["session", "fork", &talk.session])?;
    let child = child["id"].as_str().context("the fork has no id")?.to_owned();
    let before = held(&talk, &needle);
    let is = |part: &str| before.iter().any(|path| path.to_string_lossy().contains(part));
    ensure!(is("ash.db") && is(".pack") && is("sessions/"), "it is looked for: {before:?}");
    talk.api.purge(&talk.session)?;
    ensure!(!held(&talk, &needle).is_empty(), "the fork has it");
    talk.api.purge(&child)?;
    process::until("all of it to be gone", || held(&talk, &needle).is_empty())?;
    // A daemon that dies before it has collected leaves that to the next.
    talk.session = talk.api.create("hello", json!({}))?;
    talk.ask(&talk.bash(&write))?;
    talk.ash.ctl().json(&["session", "checkpoint", "create", &talk.session, "kept"])?;
    ensure!(!held(&talk, &needle).is_empty());
    talk.api.purge(&talk.session)?;
    talk.crash()?;
    process::until("all of it to be gone", || held(&talk, &needle).is_empty())?;
    ensure!(fsck(&talk, &["fsck", "--deep"])? == (0, vec![]));
    talk.ash.finish()
}

/// While the daemon is stopped what lies on the disk is looked at, by the daemon's program.
#[test]
fn what_lies_on_the_disk_is_looked_at_without_a_daemon() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("head -c 300000 /dev/urandom > noise"))?;
    ensure!(talk.api.turn_to(&talk.session, "stop")? == "stopped");
    let data = talk.ash.data_dir();
    let at_rest = |talk: &Talk, bus: &str| -> Result<(i32, Value, String)> {
        let mut command = talk.ash.ctl().command()?;
        command.env("ASH_DATA_DIR", &data).env("ASH_BUS_ADDRESS", bus);
        command.env("ASH_CONFIG", talk.ash.scratch().join("ashd.toml"));
        let output = command.args(["--json", "fsck", "--deep"]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok((output.status.code().context("ashctl was killed")?, document, said))
    };
    // A daemon that runs has its data directory to itself, also when it is on another bus.
    let (code, _, said) = at_rest(&talk, "unix:path=/nonexistent")?;
    ensure!(code == 1 && said.contains("in use"), "{code}: {said}");
    talk.ash.terminate()?;
    let bus = talk.ash.bus().to_owned();
    let (code, found, said) = at_rest(&talk, &bus)?;
    ensure!(code == 0 && found["differences"] == json!([]), "{code}: {found} {said}");
    ensure!(found["running"] == false && found["chunks"].as_u64() > Some(1), "{found}");
    fs::create_dir_all(data.join("agents/default/gone/1"))?;
    ensure!(at_rest(&talk, &bus)?.0 == 10);
    for pack in packs(&talk)? {
        if fs::metadata(&pack)?.len() > 200_000 {
            flip(&pack)?;
        }
    }
    let (code, found, said) = at_rest(&talk, &bus)?;
    ensure!(code == 12 && found["differences"][0]["kind"] == "checkpoint", "{found} {said}");
    ensure!(data.join("agents/default/gone/1").exists(), "nothing is mended by looking");
    talk.boot()?;
    ensure!(fsck(&talk, &["fsck", "--deep"])?.0 == 12);
    talk.ash.finish()
}
