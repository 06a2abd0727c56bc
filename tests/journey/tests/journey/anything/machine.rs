//! A machine: a daemon with everything around it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail, ensure};
use ash_journey::leftovers::Snapshot;
use ash_journey::{Api, Ash, Client, Options, process};
use serde_json::json;

use crate::killed::{clean, sessions};
use crate::machines;

/// What the agent is told.
pub(super) const PROMPT: &str = "Answer briefly.";

/// A machine.
pub(super) struct Machine {
    pub(super) ash: Ash,
    before: Snapshot,
}

impl Machine {
    /// One without an agent, and with an object store if one is given.
    pub(super) fn start(bucket: Option<&Path>) -> Result<Machine> {
        let options = Options::stub().config("[snapshots]\nkeep = 4\n");
        let ash = Ash::start(match bucket {
            Some(bucket) => machines::shared(options, bucket),
            None => options,
        })?;
        let mut machine = Machine { before: ash.places().look()?, ash };
        let api = machine.ash.api();
        api.deploy("hello", &machine.folder(1)?)?;
        // Whatever comes with the first session and stays has come.
        api.purge(&api.create("hello", json!({}))?)?;
        api.call("DELETE", "/api/agents/hello", None)?.expect(200)?;
        machine.before = machine.ash.places().look()?;
        Ok(machine)
    }

    /// The agent's folder says which version it is.
    pub(super) fn folder(&self, version: usize) -> Result<PathBuf> {
        let folder = self.ash.folder(&format!("hello-{version}"), PROMPT)?;
        fs::write(folder.join("version"), version.to_string())?;
        Ok(folder)
    }

    /// Kills the daemon. It may have died by itself.
    pub(super) fn kill(&mut self) {
        let _ = self.ash.kill9();
    }

    /// Kills the daemon and starts one that dies at this passage of a fault point.
    pub(super) fn die_at(&mut self, point: &str, passage: usize) -> Result<()> {
        self.ash.kill9()?;
        if !self.ash.boot_to_die(&format!("{point}:{passage}"), &[])? {
            self.ash.wait_killed()?;
            self.ash.boot()?;
        }
        Ok(())
    }

    pub(super) fn is_dead(&mut self) -> bool {
        self.ash.is_dead().unwrap_or(true)
    }

    /// Starts the daemon again, which is dead or about to be.
    pub(super) fn revive(&mut self) -> Result<()> {
        let died = self.ash.wait_killed();
        died.context("a connection broke, and the daemon lives")?;
        self.ash.boot()
    }

    /// Asks the daemon. One that dies meanwhile is started again, and asked once more.
    pub(super) fn asked<T>(&mut self, mut ask: impl FnMut(&Api) -> Result<T>) -> Result<T> {
        for _ in 0..3 {
            match ask(&self.ash.api()) {
                Err(error) if is_broken(&error) && self.is_dying() => self.revive()?,
                told => return told,
            }
        }
        bail!("the daemon dies again and again")
    }

    /// Whether a connection broke because the daemon has died.
    fn is_dying(&mut self) -> bool {
        process::until("the daemon to be dead", || self.is_dead()).is_ok()
    }

    /// Removes everything: nothing is left.
    pub(super) fn clear(&self) -> Result<()> {
        let api = self.ash.api();
        for session in sessions(&api)? {
            api.purge(session["id"].as_str().context("a session has no id")?)?;
        }
        // One that has no agent was never moved to.
        let deleted = api.call("DELETE", "/api/agents/hello", None)?;
        ensure!([200, 404].contains(&deleted.status), "{}", deleted.text());
        clean(&self.ash, &self.before)
    }
}

fn is_broken(error: &Error) -> bool {
    error
        .chain()
        .any(|cause| cause.to_string().contains("cannot connect") || cause.is::<std::io::Error>())
}
