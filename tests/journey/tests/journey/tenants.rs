//! A tenant is deleted, and nothing of it is left, whenever the daemon dies on the way.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Api, Client, Options, process};
use serde_json::json;
use tempfile::TempDir;

use crate::killed::points::POINTS;
use crate::machines;
use crate::support::{Talk, add_key};

/// A word that stands in everything that the tenant has.
const NEEDLE: &str = "needle7f3a9c";

/// The tenant's key.
const KEY: &str = "ash_key_of_acme_for_tests";

struct Acme {
    talk: Talk,
    bucket: TempDir,
}

impl Acme {
    fn begin() -> Result<Acme> {
        let bucket = tempfile::tempdir()?;
        let talk = Talk::begin(machines::shared(Options::stub(), bucket.path()))?;
        Ok(Acme { talk, bucket })
    }

    /// Starts the daemon, perhaps to die, with a key for the tenant.
    fn boot(&mut self, fault: Option<&str>) -> Result<Api> {
        self.talk.ash.kill9()?;
        add_key(&self.talk.ash, "acme", KEY)?;
        match fault {
            Some(fault) => ensure!(self.talk.ash.boot_to_die(fault, &[])?, "{fault} is too early"),
            None => self.talk.ash.boot()?,
        }
        self.talk.api = self.talk.ash.api();
        Ok(Api::new(self.talk.ash.address(), KEY))
    }

    /// Everything that a tenant can have, with the needle in it.
    fn settle(&self, api: &Api) -> Result<String> {
        let folder = self.talk.ash.folder("theirs", &format!("Say {NEEDLE}."))?;
        api.deploy("theirs", &folder)?;
        let session = api.create("theirs", json!({ "extraEnv": { "WORD": NEEDLE } }))?;
        let prompt = format!("[[exec echo {NEEDLE} > file]]");
        api.send(&session, json!({ "content": prompt }))?.to_end()?;
        let path = format!("/api/sessions/{session}");
        let file = json!({ "filename": format!("{NEEDLE}.txt"), "content": "aGVsbG8=" });
        api.call("POST", &format!("{path}/attachments"), Some(&file))?.expect(201)?;
        let name = json!({ "name": NEEDLE });
        api.call("POST", &format!("{path}/checkpoints"), Some(&name))?.expect(201)?;
        let bucket = self.bucket.path().join("acme");
        process::until("a copy in the object store", || holds_files(&bucket.join("sessions")))?;
        Ok(session)
    }

    /// Whatever has the needle, or is of the tenant.
    fn left(&self) -> Result<Vec<PathBuf>> {
        let data = self.talk.ash.data_dir();
        let mut left = vec![];
        search(&data, &mut left)?;
        for of in ["snapshots/store/acme", "agents/acme", "snapshots/store/acme.gone"] {
            left.extend(data.join(of).exists().then(|| data.join(of)));
        }
        let bucket = self.bucket.path().join("acme");
        left.extend(holds_files(&bucket).then_some(bucket));
        Ok(left)
    }

    fn check_gone(&self, api: &Api) -> Result<()> {
        let left = || self.left().map_or_else(|error| format!("{error:#}"), |l| format!("{l:?}"));
        process::until("nothing to be left", || self.left().is_ok_and(|left| left.is_empty()))
            .with_context(left)?;
        ensure!(api.call("GET", "/api/sessions", None)?.status == 401, "the key is valid");
        // The other tenant is as it was.
        ensure!(self.talk.ask("[[say mine]]")? == "mine");
        let found = self.talk.ash.ctl().json(&["fsck", "--deep"])?;
        ensure!(found["differences"] == json!([]), "{found}");
        Ok(())
    }
}

fn holds_files(dir: &Path) -> bool {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| path.is_file() || holds_files(&path))
}

/// Files with the needle in their names or in what is in them.
fn search(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            search(&path, found)?;
        }
        let is_named = entry.file_name().to_string_lossy().contains(NEEDLE);
        let holds = || -> Result<bool> {
            let bytes = fs::read(&path)?;
            Ok(bytes.windows(NEEDLE.len()).any(|window| window == NEEDLE.as_bytes()))
        };
        if is_named || kind.is_file() && holds()? {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
fn nothing_of_a_deleted_tenant_is_left() -> Result<()> {
    let mut acme = Acme::begin()?;
    let api = acme.boot(None)?;
    let session = acme.settle(&api)?;
    ensure!(!acme.left()?.is_empty(), "the needle is nowhere");
    let ctl = acme.talk.ash.ctl();
    let unknown = ctl.json(&["tenant", "delete", "nobody"]).unwrap_err().to_string();
    ensure!(unknown.contains("Tenant not found"), "{unknown}");
    let deleted = ctl.json(&["tenant", "delete", "acme"])?;
    let wanted = json!({ "deleted": "acme", "sessions": 1, "agents": 1, "keys": 1 });
    ensure!(deleted == wanted, "{deleted}");
    acme.check_gone(&api)?;
    ensure!(ctl.json(&["session", "info", &session]).is_err());
    ensure!(ctl.json(&["tenant", "delete", "acme"]).is_err(), "it is there still");
    // Whoever is called so next has a place of its own.
    let api = acme.boot(None)?;
    acme.settle(&api)?;
    acme.talk.ash.finish()
}

#[test]
fn deleting_a_tenant_is_finished_by_the_next_daemon() -> Result<()> {
    let mut acme = Acme::begin()?;
    for (point, _) in POINTS.iter().filter(|(point, _)| point.starts_with("tenant.")) {
        let api = acme.boot(Some(point))?;
        if acme.talk.api.session(&acme.talk.session)?["status"] == "paused" {
            acme.talk.api.turn_to(&acme.talk.session, "resume")?;
        }
        acme.settle(&api)?;
        let deleted = acme.talk.ash.ctl().json(&["tenant", "delete", "acme"]);
        ensure!(deleted.is_err(), "{point} was not passed");
        acme.talk.ash.wait_killed()?;
        acme.talk.boot()?;
        let api = Api::new(acme.talk.ash.address(), KEY);
        if acme.talk.api.session(&acme.talk.session)?["status"] == "paused" {
            acme.talk.api.turn_to(&acme.talk.session, "resume")?;
        }
        acme.check_gone(&api).with_context(|| format!("at {point}"))?;
    }
    acme.talk.ash.finish()
}
