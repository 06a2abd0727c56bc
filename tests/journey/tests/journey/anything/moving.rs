//! Sessions that go on on another machine.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use ash_journey::http::Connection;
use ash_journey::{Api, process};
use serde_json::json;

use super::known::Known;
use super::machine::Machine;
use super::world::World;
use crate::machines;

/// A session on its way.
struct Mover {
    id: String,
    /// Who has it.
    home: Api,
    /// Who gets it.
    away: Api,
}

/// What came of a part of the way; `None`: a daemon has died meanwhile.
type Came = Result<Option<()>>;

impl World {
    /// Has a session go on on the other machine, whatever dies on the way. Where it was, it ends.
    pub(super) fn go_over(&mut self, at: usize, kill: Option<u64>) -> Result<()> {
        let all = 0..self.sessions.len();
        let there: Vec<usize> = all.filter(|at| self.sessions[*at].can_move()).collect();
        let Some(at) = there.get(at % there.len().max(1)).copied() else { return Ok(()) };
        if self.machines.len() == 1 {
            let second = Machine::start(self.bucket())?;
            self.machines.push(second);
        }
        if let Some(after) = kill {
            self.killed_on_the_way(at, after)?;
        }
        self.until_done(|world| world.mover(at).import())?;
        self.until_done(|world| world.mover(at).notice())?;
        self.sessions[at].moved();
        Ok(())
    }

    fn mover(&self, at: usize) -> Mover {
        let Known { id, home, .. } = &self.sessions[at];
        let api = |machine: usize| self.machines[machine].ash.api();
        Mover { id: id.clone(), home: api(*home), away: api(1 - home) }
    }

    /// Begins, and kills both daemons so many milliseconds later.
    fn killed_on_the_way(&mut self, at: usize, after: u64) -> Result<()> {
        let mover = self.mover(at);
        let came = thread::scope(|scope| {
            let moving = scope.spawn(|| mover.import());
            thread::sleep(Duration::from_millis(after));
            self.machines.iter_mut().for_each(Machine::kill);
            moving.join().map_err(|_| anyhow!("a mover has panicked")).flatten()
        });
        came?;
        self.machines.iter_mut().try_for_each(|machine| machine.ash.boot())
    }

    /// Does something again until no daemon dies of it.
    fn until_done(&mut self, what: impl Fn(&World) -> Came) -> Result<()> {
        // Each of the two was told to die once at most.
        for _ in 0..3 {
            if what(self)?.is_some() {
                return Ok(());
            }
            let any_is_dead = || self.machines.iter_mut().any(Machine::is_dead);
            let dead = process::until("a daemon to be dead", any_is_dead);
            dead.context("a connection broke, and the daemons live")?;
            for machine in &mut self.machines {
                if machine.is_dead() {
                    machine.revive()?;
                }
            }
        }
        bail!("the daemons die again and again")
    }
}

impl Mover {
    /// Has all of it put into the object store, and taken from there.
    fn import(&self) -> Came {
        let checkpoints = format!("/api/sessions/{}/checkpoints", self.id);
        let Ok(saved) = self.home.call("POST", &checkpoints, Some(&json!({}))) else {
            return Ok(None);
        };
        // Where it was taken from already, it ends or has ended.
        ensure!([201, 409, 410].contains(&saved.status), "it is not saved: {}", saved.text());
        if !is_copied(&self.home)? {
            return Ok(None);
        }
        let body = json!({ "sessionId": self.id });
        let Ok(imported) = self.away.call("POST", "/api/sessions/import", Some(&body)) else {
            return Ok(None);
        };
        match imported.status {
            201 => Ok(Some(())),
            // It may have come before, and nobody was told.
            409 => {
                let path = format!("/api/sessions/{}", self.id);
                let Ok(shown) = self.away.call("GET", &path, None) else { return Ok(None) };
                let is_there = shown.json()["session"]["status"] == "paused";
                ensure!(is_there, "it is refused: {}", imported.text());
                Ok(Some(()))
            }
            _ => bail!("it is not imported: {}", imported.text()),
        }
    }

    /// Changes it where it was: that counts for nothing, and by it the machine finds out.
    fn notice(&self) -> Came {
        let session = format!("/api/sessions/{}", self.id);
        let late = self.home.open("PUT", &format!("{session}/files/late"), Some(b"late"));
        let late = late.and_then(Connection::answer);
        let saved = self.home.call("POST", &format!("{session}/checkpoints"), Some(&json!({})));
        // Both are refused where it was found out before.
        if late.is_err() || saved.is_err() {
            return Ok(None);
        }
        let mut lives = true;
        process::until("the session to have ended where it was", || {
            let shown = self.home.call("GET", &session, None);
            lives = shown.is_ok();
            shown.map_or(true, |shown| shown.json()["session"]["status"] == "ended")
        })?;
        Ok(lives.then_some(()))
    }
}

/// Waits until the object store has everything of a machine; false when its daemon dies meanwhile.
fn is_copied(api: &Api) -> Result<bool> {
    let mut lives = true;
    process::until("the object store to have everything", || {
        let copying = machines::copying(api);
        lives = copying.is_ok();
        copying.map_or(true, |state| state["waiting"] == 0 && state["failing"] == false)
    })?;
    Ok(lives)
}
