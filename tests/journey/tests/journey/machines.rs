//! Several machines that share nothing but an object store.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use ash_journey::{Api, Ash, Client, Options, process};
use serde_json::{Value, json};

use crate::support::Talk;

pub(crate) const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

/// A directory that several machines see.
pub(crate) fn shared(options: Options, dir: &Path) -> Options {
    let url = format!("file://{}", dir.display());
    options.env("ASH_SNAPSHOT_URL", url).env("ASH_SNAPSHOT_KEY", KEY)
}

/// A machine with a session that has said something, and whose checkpoint the object store has.
pub(crate) fn with_checkpoint(options: Options) -> Result<Talk> {
    let here = Talk::begin(options)?;
    here.ask("[[say hello]]")?;
    checkpoint(&here.api, &here.session, "it")?;
    Ok(here)
}

pub(crate) fn import(api: &Api, session: &str, status: u16) -> Result<Value> {
    let body = json!({ "sessionId": session });
    api.call("POST", "/api/sessions/import", Some(&body))?.expect(status)
}

/// Several machines import a session at once, and something is done meanwhile: what each is told.
pub(crate) fn import_at_once(
    machines: &[Ash],
    session: &str,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<Vec<u16>> {
    let body = json!({ "sessionId": session });
    let ask = |machine: &Ash| -> Result<u16> {
        Ok(machine.api().call("POST", "/api/sessions/import", Some(&body))?.status)
    };
    std::thread::scope(|scope| {
        let asked: Vec<_> =
            machines.iter().map(|machine| scope.spawn(move || ask(machine))).collect();
        let done = meanwhile();
        let answers = asked.into_iter().map(|thread| thread.join());
        let statuses = answers.map(|answer| answer.unwrap_or_else(|_| bail!("a panic")));
        let statuses = statuses.collect::<Result<Vec<_>>>()?;
        done.map(|()| statuses)
    })
}

pub(crate) fn copying(api: &Api) -> Result<Value> {
    Ok(api.health()?["objectStore"].take())
}

/// A session that another machine has taken ends where it was, when it goes on there.
pub(crate) fn notices_its_loss(here: &Talk) -> Result<()> {
    here.api.turn_to(&here.session, "pause")?;
    here.api.turn_to(&here.session, "resume")?;
    process::until("the session has ended where it was", || {
        here.api.session(&here.session).is_ok_and(|session| session["status"] == "ended")
    })
}

/// Makes a checkpoint and waits until the object store has it.
pub(crate) fn checkpoint(api: &Api, session: &str, name: &str) -> Result<Value> {
    let path = format!("/api/sessions/{session}/checkpoints");
    let mut made = api.call("POST", &path, Some(&json!({ "name": name })))?.expect(201)?;
    process::until("the object store has it", || {
        copying(api).is_ok_and(|state| state["waiting"] == 0 && state["failing"] == false)
    })?;
    Ok(made["checkpoint"].take())
}

/// A session goes on on one machine after another, with a file that is sent in parts, and is purged on
/// the last: whatever object store they share.
pub(crate) fn moves(options: &Options) -> Result<()> {
    let here = Talk::begin(options.clone())?;
    here.ask(&here.bash("echo kept > kept; head -c 20000000 /dev/urandom > noise"))?;
    checkpoint(&here.api, &here.session, "it")?;
    let [one, other] = [Ash::start(options.clone())?, Ash::start(options.clone())?];
    import(&one.api(), &here.session, 201)?;
    notices_its_loss(&here)?;
    let api = one.api();
    ensure!(api.turn_to(&here.session, "resume")? == "active");
    ensure!(api.exec(&here.session, "cat kept; stat -c %s noise")?.stdout == "kept\n20000000\n");
    api.exec(&here.session, "echo later > kept")?;
    checkpoint(&api, &here.session, "later")?;
    import(&other.api(), &here.session, 201)?;
    let body = json!({ "sessionId": here.session });
    let again = other.api().call("POST", "/api/sessions/import", Some(&body))?;
    ensure!(again.status == 409, "{}", again.text());
    ensure!(other.api().turn_to(&here.session, "resume")? == "active");
    ensure!(other.api().exec(&here.session, "cat kept")?.stdout == "later\n");
    other.api().purge(&here.session)?;
    one.finish()?;
    other.finish()?;
    here.ash.finish()
}

/// Every file in a directory, however deep.
pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let (mut all, mut todo) = (vec![], vec![dir.to_owned()]);
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() { todo.push(path) } else { all.push(path) }
        }
    }
    Ok(all)
}
