//! A running `ashd`.

use std::fs;
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::leftovers::Snapshot;
use crate::process;
use crate::ready::Ready;
use crate::stage::{Options, Stage};
use crate::{Api, Ctl};

/// How many lines of the log are told at the end.
const TOLD: usize = 60;

/// An `ashd` with everything around it. What it started ends with it.
#[derive(Debug)]
pub struct Ash {
    daemon: Option<Child>,
    address: String,
    /// Before the daemon was started.
    before: Snapshot,
    /// With the daemon, before its first session.
    idle: Option<Snapshot>,
    /// Whether it has ended as it should: then its log is of no interest.
    well: bool,
    stage: Stage,
}

impl Deref for Ash {
    type Target = Stage;

    fn deref(&self) -> &Stage {
        &self.stage
    }
}

impl Ash {
    /// Starts one; it is ready when this returns.
    ///
    /// # Errors
    /// When something is missing, or it does not become ready.
    pub fn start(options: Options) -> Result<Ash> {
        Ash::on(Stage::set(options)?)
    }

    /// Starts one on a stage that is set.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn on(stage: Stage) -> Result<Ash> {
        let before = stage.places().look()?;
        let mut ash =
            Ash { daemon: None, address: String::new(), before, idle: None, well: false, stage };
        ash.boot()?;
        ash.idle = Some(ash.stage.places().look()?);
        Ok(ash)
    }

    /// Starts the daemon, which must not be running.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn boot(&mut self) -> Result<()> {
        self.boot_with(&[])
    }

    /// Starts the daemon, which must not be running, with more environment; an empty value removes.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn boot_with(&mut self, env: &[(&str, &str)]) -> Result<()> {
        ensure!(self.daemon.is_none(), "ashd is running already");
        let ready = Ready::listen(self.stage.sockets())?;
        let mut command = self.stage.command()?;
        for (name, value) in env {
            match value.is_empty() {
                true => command.env_remove(name),
                false => command.env(name, value),
            };
        }
        let daemon = self.daemon.insert(command.env("NOTIFY_SOCKET", ready.path()).spawn()?);
        ready.wait(daemon)?;
        let address = fs::read_to_string(self.stage.run_dir().join("address"));
        let address = address.context("ashd has not written its address")?;
        address.trim().trim_start_matches("http://").clone_into(&mut self.address);
        Ok(())
    }

    /// Starts the daemon with a fault asked for (`ASH_FAULT`) and more environment; false when it
    /// has died before it was ready.
    ///
    /// # Errors
    /// When it is neither ready nor dead.
    pub fn boot_to_die(&mut self, fault: &str, env: &[(&str, &str)]) -> Result<bool> {
        let env = [&[("ASH_FAULT", fault)], env].concat();
        match self.boot_with(&env) {
            Ok(()) => Ok(true),
            Err(error) => match self.is_dead()? {
                true => Ok(false),
                false => Err(error),
            },
        }
    }

    /// Whether the daemon has died and nobody has waited for it yet.
    ///
    /// # Errors
    /// When it was not started.
    pub fn is_dead(&mut self) -> Result<bool> {
        Ok(self.daemon.as_mut().context("ashd was not started")?.try_wait()?.is_some())
    }

    /// Waits for the daemon to be killed by somebody else, or by itself.
    ///
    /// # Errors
    /// When it lives on, or has ended in another way.
    pub fn wait_killed(&mut self) -> Result<()> {
        let daemon = self.daemon.as_mut().context("ashd was not started")?;
        let status = process::wait_child(daemon, crate::PATIENCE)?;
        self.daemon = None;
        ensure!(status.signal() == Some(Signal::KILL.as_raw()), "ashd ended with {status}");
        Ok(())
    }

    /// The daemon's pid.
    ///
    /// # Errors
    /// When it is not running.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("ashd is not running")?.id())
    }

    /// The daemon's child of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn helper(&self, name: &str) -> Result<u32> {
        let all = process::children(self.pid()?);
        let found = all.into_iter().find(|pid| process::name(*pid) == name);
        found.with_context(|| format!("ashd has no child {name}"))
    }

    /// `HOST:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A client of the HTTP API, at the daemon's present address.
    pub fn api(&self) -> Api {
        Api::new(&self.address, self.stage.key())
    }

    /// A client that calls `ashctl`.
    pub fn ctl(&self) -> Ctl {
        Ctl::new(self.stage.bus())
    }

    /// The control group of a session's sandbox. Those of its agent and of its bridge are beneath it, as `agent`
    /// and `bridge`.
    ///
    /// # Errors
    /// When it has no sandbox.
    pub fn group(&self, session: &str) -> Result<PathBuf> {
        let shown = self.api().session(session)?;
        let sandbox = shown["sandboxId"].as_str().context("the session has no sandbox")?;
        Ok(self.stage.places().cgroup.join(sandbox))
    }

    /// Kills the daemon, and only it.
    ///
    /// # Errors
    /// When it is not running.
    pub fn kill9(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("ashd is not running")?;
        daemon.kill()?;
        daemon.wait()?;
        Ok(())
    }

    /// Asks the daemon to end, and says how long it took.
    ///
    /// # Errors
    /// When it is not running, or does not end with success within 20 s.
    pub fn terminate(&mut self) -> Result<Duration> {
        let mut daemon = self.daemon.take().context("ashd is not running")?;
        let began = Instant::now();
        process::signal(daemon.id(), Signal::TERM)?;
        let ended = process::wait_child(&mut daemon, Duration::from_secs(20));
        if ended.is_err() {
            daemon.kill()?;
            daemon.wait()?;
        }
        let status = ended?;
        ensure!(status.success(), "ashd ended with {status}");
        Ok(began.elapsed())
    }

    /// Kills the daemon and starts it again.
    ///
    /// # Errors
    /// When it does not come back.
    pub fn crash(&mut self) -> Result<()> {
        self.kill9()?;
        self.boot()
    }

    /// Ends the daemon politely and checks that nothing of it is left running.
    ///
    /// # Errors
    /// When something is left; the sentence lists it.
    pub fn finish(mut self) -> Result<()> {
        if self.daemon.is_some() {
            self.terminate()?;
        }
        // Helpers that an earlier daemon started are nobody's children: they have been told to go,
        // and are on their way.
        let mut left = self.left()?;
        let none = process::until("the last of it", || {
            left = self.left().unwrap_or_default();
            left.is_empty()
        });
        ensure!(none.is_ok(), "ashd has left something: {left:#?}");
        self.well = true;
        Ok(())
    }

    /// What is there now and was not before the daemon. State stays, and so do the names of the
    /// daemon's own sockets.
    fn left(&self) -> Result<Vec<String>> {
        let now = self.stage.places().look()?;
        let mut left: Vec<String> = now.since(&self.before).into_iter().cloned().collect();
        left.retain(|item| !item.starts_with("file "));
        left.retain(|item| !item.starts_with("socket ") || !self.idle_has(item));
        Ok(left)
    }

    fn idle_has(&self, item: &str) -> bool {
        self.idle.as_ref().is_some_and(|idle| idle.has(item))
    }
}

impl Drop for Ash {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // The test has failed, or did not care to finish: no ceremony.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        self.stage.sweep();
        if !self.well {
            tell(&self.stage.log());
        }
    }
}

/// Shown only when the test fails.
#[expect(clippy::print_stdout, reason = "the test's output is where people look")]
fn tell(log: &str) {
    let lines: Vec<_> = log.lines().collect();
    println!("--- the end of ashd's log");
    for line in &lines[lines.len().saturating_sub(TOLD)..] {
        println!("{line}");
    }
}
