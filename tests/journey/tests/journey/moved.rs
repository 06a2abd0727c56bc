//! Sessions that go on on another machine: two daemons that share nothing but an object store.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use ash_journey::http::Http;
use ash_journey::{Api, Ash, Client, Options, process, skip};
use serde_json::{Value, json};

use crate::killed::points::POINTS;
use crate::sdk;
use crate::support::{Talk, both_engines};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A directory that several machines see.
pub(crate) fn shared(options: Options, dir: &Path) -> Options {
    let url = format!("file://{}", dir.display());
    options.env("ASH_SNAPSHOT_URL", url).env("ASH_SNAPSHOT_KEY", KEY)
}

fn import(api: &Api, session: &str, status: u16) -> Result<Value> {
    let body = json!({ "sessionId": session });
    api.call("POST", "/api/sessions/import", Some(&body))?.expect(status)
}

fn copying(api: &Api) -> Result<Value> {
    Ok(api.call("GET", "/health", None)?.expect(200)?["objectStore"].take())
}

/// Makes a checkpoint and waits until the object store has it.
fn checkpoint(api: &Api, session: &str, name: &str) -> Result<Value> {
    let path = format!("/api/sessions/{session}/checkpoints");
    let mut made = api.call("POST", &path, Some(&json!({ "name": name })))?.expect(201)?;
    process::until("the object store has it", || {
        copying(api).is_ok_and(|state| state["waiting"] == 0 && state["failing"] == false)
    })?;
    Ok(made["checkpoint"].take())
}

/// Every file in a directory, however deep.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut all, mut todo) = (vec![], vec![dir.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() { todo.push(path) } else { all.push(path) }
        }
    }
    Ok(all)
}

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
    let sessions = bucket.path().join("default/sessions");
    process::until("nothing of it is in the object store", || {
        !sessions.exists() || files(&sessions).is_ok_and(|left| left.is_empty())
    })?;
    there.finish()?;
    here.ash.finish()
}

#[test]
fn of_two_who_import_at_once_one_wins() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let here = Talk::begin(options.clone())?;
    here.ask("[[say hello]]")?;
    checkpoint(&here.api, &here.session, "it")?;
    let others = [Ash::start(options.clone())?, Ash::start(options)?];
    let body = json!({ "sessionId": here.session });
    let mut statuses = std::thread::scope(|scope| {
        let ask = |other: &Ash| -> Result<u16> {
            Ok(other.api().call("POST", "/api/sessions/import", Some(&body))?.status)
        };
        let asked: Vec<_> = others.iter().map(|other| scope.spawn(move || ask(other))).collect();
        let answers = asked.into_iter().map(|thread| thread.join());
        answers
            .map(|answer| answer.unwrap_or_else(|_| bail!("a panic")))
            .collect::<Result<Vec<_>>>()
    })?;
    statuses.sort_unstable();
    // Who comes later takes it from the winner, who is then the one that has lost it.
    ensure!(statuses == [201, 409] || statuses == [201, 201], "{statuses:?}");
    process::until("one of them has it", || {
        let has = |other: &&Ash| {
            let session = other.api().session(&here.session);
            session.is_ok_and(|session| session["status"] == "paused")
        };
        others.iter().filter(has).count() >= 1
    })?;
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

#[test]
fn another_folder_of_the_same_agent_is_refused() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let here = Talk::begin(options.clone())?;
    here.ask("[[say hello]]")?;
    checkpoint(&here.api, &here.session, "it")?;
    let there = Ash::start(options)?;
    there.api().deploy("hello", &there.folder("hello", "Another prompt.")?)?;
    let refused = import(&there.api(), &here.session, 409)?;
    let text = refused["error"].as_str().unwrap_or_default();
    ensure!(text.starts_with("Agent \"hello\" has other files here in version 1"), "{text}");
    ensure!(here.api.session(&here.session)?["status"] == "active", "nothing was taken");
    there.api().call("DELETE", "/api/agents/hello", None)?.expect(200)?;
    import(&there.api(), &here.session, 201)?;
    there.finish()?;
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

#[test]
fn what_is_lost_here_comes_back_from_an_s3_server_that_was_away() -> Result<()> {
    let name = "moved::what_is_lost_here_comes_back_from_an_s3_server_that_was_away";
    let Some(mut server) = S3::start(name)? else { return Ok(()) };
    let mut here = Talk::begin(server.options(Options::stub()))?;
    let make = "echo kept > kept; head -c 9000000 /dev/urandom > large; sha256sum large > sum";
    here.ask(&here.bash(make))?;
    checkpoint(&here.api, &here.session, "whole")?;

    server.stop()?;
    let path = format!("/api/sessions/{}/checkpoints", here.session);
    here.api.exec(&here.session, "echo more > more")?;
    here.api.call("POST", &path, Some(&json!({ "name": "while it is away" })))?.expect(201)?;
    process::until("it is told that the store fails", || {
        copying(&here.api).is_ok_and(|state| state["failing"] == true && state["waiting"] == 1)
    })?;
    ensure!(here.ask("[[say still here]]")? == "still here", "nothing waits for the store");
    // It comes back without anything that it had, and gets everything again.
    server.again()?;
    process::until("the store has it", || {
        copying(&here.api).is_ok_and(|state| state["failing"] == false && state["waiting"] == 0)
    })?;
    ensure!(here.api.turn_to(&here.session, "stop")? == "stopped");
    checkpoint_is_copied(&here)?;

    here.ash.kill9()?;
    let data = here.ash.data_dir();
    fs::remove_dir_all(data.join("sessions").join(&here.session))?;
    for pack in files(&data.join("snapshots/store/default/packs"))? {
        fs::remove_file(pack)?;
    }
    here.boot()?;
    ensure!(here.api.turn_to(&here.session, "resume")? == "active");
    let shown = here.api.exec(&here.session, "cat kept more; sha256sum -c sum")?;
    ensure!(shown.stdout == "kept\nmore\nlarge: OK\n", "{}", shown.stdout);
    here.ash.finish()
}

fn checkpoint_is_copied(here: &Talk) -> Result<()> {
    process::until("what was saved last is copied", || {
        copying(&here.api).is_ok_and(|state| state["waiting"] == 0 && state["failing"] == false)
    })
}

const PACKAGE: &str = "moto[server]==5.2.5";

/// An S3 server on this machine.
struct S3 {
    python: PathBuf,
    port: u16,
    running: Option<Child>,
}

impl S3 {
    /// `None`, and it is said, where it cannot be installed.
    fn start(test: &str) -> Result<Option<S3>> {
        let python = match sdk::python_with(PACKAGE) {
            Ok(python) => python,
            Err(reason) => {
                skip(test, &format!("{reason:#}"));
                return Ok(None);
            }
        };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = S3 { python, port, running: None };
        server.again()?;
        Ok(Some(server))
    }

    /// Starts it, empty but for a bucket.
    fn again(&mut self) -> Result<()> {
        let mut command = Command::new(&self.python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &self.port.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.running = Some(command.spawn()?);
        // It looks for a region in what is sent as authorization.
        let http = Http::new(&format!("127.0.0.1:{}", self.port), "").with("authorization", "");
        process::until("the S3 server answers", || {
            http.call("PUT", "/bucket", None).is_ok_and(|answer| answer.status == 200)
        })
    }

    fn stop(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.kill()?;
            running.wait()?;
        }
        Ok(())
    }

    fn options(&self, options: Options) -> Options {
        options
            .env("ASH_SNAPSHOT_URL", "s3://bucket/a/prefix")
            .env("ASH_SNAPSHOT_KEY", KEY)
            .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{}", self.port))
            .env("AWS_ALLOW_HTTP", "true")
            .env("AWS_ACCESS_KEY_ID", "nobody")
            .env("AWS_SECRET_ACCESS_KEY", "nothing")
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
