//! Everything around an `ashd`: directories, bus, model API, user ids, control group.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ash_modelapi::{Config, Server};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::bus::Bus;
use crate::cgroup::Cgroup;
use crate::leftovers::Places;
use crate::uids::Uids;
use crate::{process, programs, skip};

/// What answers in the sandboxes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Engine {
    /// The stand-in for the CLI.
    Stub,
    /// A program of the test's choice: the real CLI, or something broken.
    At(PathBuf),
}

/// How an `ashd` is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// What answers.
    pub engine: Engine,
    /// Environment on top of what every one gets; an empty value removes.
    pub env: Vec<(&'static str, String)>,
    /// Configuration, as TOML, beside the environment.
    pub config: String,
    /// MiB of a disk of its own for the state; none: the state is on the machine's.
    pub disk: Option<u32>,
    /// The file system of that disk; there is a program `mkfs.` with this word behind.
    pub file_system: &'static str,
    /// Whether `ashd` takes itself for the main process of a unit, of a systemd on our bus.
    pub service: bool,
    /// User ids, at least: a session needs two, the daemon's helpers another two.
    pub uids: u32,
}

impl Options {
    /// With the stand-in for the CLI.
    pub fn stub() -> Options {
        let (env, config) = (vec![], String::new());
        let (disk, file_system, uids) = (None, "ext4", crate::uids::LENGTH);
        Options { engine: Engine::Stub, env, config, disk, file_system, service: false, uids }
    }

    /// With the real CLI; says aloud that `test` is skipped when there is none.
    pub fn real(test: &str) -> Option<Options> {
        let cli = programs::real_cli();
        if cli.is_none() {
            skip(test, "there is no Claude Code CLI; CLAUDE_CODE_EXECUTABLE can name one");
        }
        cli.map(Options::with)
    }

    /// With this program.
    pub fn with(engine: PathBuf) -> Options {
        Options { engine: Engine::At(engine), ..Options::stub() }
    }

    /// Configures more.
    pub fn config(mut self, toml: &str) -> Options {
        self.config += toml;
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: &'static str, value: impl ToString) -> Options {
        self.env.push((name, value.to_string()));
        self
    }
}

/// Everything around an `ashd`. Its fields end in this order.
#[derive(Debug)]
pub struct Stage {
    options: Options,
    bus: Bus,
    model: Model,
    cgroup: Cgroup,
    sockets: TempDir,
    disk: TempDir,
    uids: Uids,
    key: String,
    canary: String,
}

/// The model API, which has no `Debug` of its own.
struct Model(Server);

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.url())
    }
}

impl Stage {
    /// Sets everything up.
    ///
    /// # Errors
    /// When something cannot be had; the sentence says what.
    pub fn set(options: Options) -> Result<Stage> {
        // The addresses of sockets are short; the state is on a disk, as in real life.
        let sockets = tempfile::Builder::new().prefix("ash-t-").tempdir_in("/run")?;
        let disk = tempfile::Builder::new().prefix("ash-t-").tempdir_in("/var/tmp")?;
        for dir in [&sockets, &disk] {
            fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755))?;
        }
        fs::create_dir(disk.path().join("agents"))?;
        let uids = Uids::claim(options.uids)?;
        configure(disk.path(), &uids, &options.config)?;
        let name = sockets.path().file_name().and_then(|name| name.to_str());
        let canary = format!("sk-ant-canary-{}", random()?);
        Ok(Stage {
            bus: Bus::start(sockets.path())?,
            model: Model(Server::start(Config { key: Some(canary.clone()), ..Config::default() })?),
            cgroup: Cgroup::make(name.context("the directory has no name")?)?,
            uids,
            key: format!("ash_{}", random()?),
            options,
            sockets,
            disk,
            canary,
        })
    }

    /// The command that runs `ashd` here, with nothing but its own environment.
    ///
    /// # Errors
    /// When a program is missing.
    pub fn command(&self) -> Result<Command> {
        let bin = programs::dir()?;
        let ashd = bin.join("ashd");
        let mut command = match (self.options.disk, self.options.service) {
            (Some(mib), _) => self.on_small_disk(mib, &ashd)?,
            (None, true) => as_service(&ashd),
            (None, false) => Command::new(&ashd),
        };
        let log = fs::OpenOptions::new().append(true).create(true).open(self.log_path())?;
        command.env_clear().envs(self.environment(&bin)).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log).current_dir("/");
        Ok(command)
    }

    /// The command in a mount namespace of its own, which goes with its last process.
    fn on_small_disk(&self, mib: u32, ashd: &Path) -> Result<Command> {
        const MOUNT: &str = "mount -o loop \"$0\" \"$1\" && chmod 0700 \"$1\" && exec \"$2\"";
        let image = self.disk.path().join("image");
        if !image.exists() {
            fs::File::create(&image)?.set_len(u64::from(mib) << 20)?;
            let mkfs = format!("/usr/sbin/mkfs.{}", self.options.file_system);
            let made = Command::new(&mkfs).arg("-q").arg(&image).status();
            ensure!(made.with_context(|| mkfs.clone())?.success(), "{mkfs} has failed");
        }
        fs::create_dir_all(self.data_dir())?;
        let mut command = Command::new("/usr/bin/unshare");
        command.args(["--mount", "--propagation=private", "/bin/sh", "-c", MOUNT]);
        command.arg(image).arg(self.data_dir()).arg(ashd);
        Ok(command)
    }

    fn environment(&self, bin: &Path) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.display().to_string();
        let engine = match &self.options.engine {
            Engine::Stub => bin.join("ash-stub-claude"),
            Engine::At(path) => path.clone(),
        };
        let mut env = vec![
            ("ASH_HOST", "127.0.0.1".to_owned()),
            ("ASH_PORT", "0".to_owned()),
            ("ASH_DATA_DIR", text(&self.data_dir())),
            ("ASH_RUN_DIR", text(&self.run_dir())),
            ("ASH_API_KEY", self.key.clone()),
            ("ASH_LIBEXEC_DIR", text(bin)),
            ("ASH_BUS_ADDRESS", self.bus.address().to_owned()),
            ("ASH_AGENT_ROOTS", text(&self.agents_dir())),
            ("ASH_CGROUP_ROOT", text(self.cgroup.path())),
            ("ASH_CONFIG", text(&self.disk.path().join("ashd.toml"))),
            ("CLAUDE_CODE_EXECUTABLE", text(&engine)),
            ("ANTHROPIC_BASE_URL", self.model.0.url()),
            ("ANTHROPIC_API_KEY", self.canary.clone()),
        ];
        if self.options.service {
            env.push(("DBUS_SYSTEM_BUS_ADDRESS", self.bus.address().to_owned()));
        }
        if !self.cgroup.has_limits() {
            env.push(("ASH_ALLOW_MISSING_LIMITS", "1".to_owned()));
        }
        for (name, value) in &self.options.env {
            env.retain(|(known, _)| known != name);
            env.extend((!value.is_empty()).then(|| (*name, value.clone())));
        }
        env
    }

    /// Runs `ashd` where it is expected to give up at once. Returns how it ended and what it said.
    ///
    /// # Errors
    /// When it goes on.
    pub fn refused(&self) -> Result<(ExitStatus, String)> {
        let before = self.log().len();
        let mut daemon = self.command()?.spawn()?;
        let ended = process::wait_child(&mut daemon, Duration::from_secs(20));
        if ended.is_err() {
            daemon.kill()?;
            daemon.wait()?;
        }
        Ok((ended?, self.log().split_off(before)))
    }

    /// Makes an agent's folder beneath the agent roots, with this CLAUDE.md.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn folder(&self, name: &str, prompt: &str) -> Result<PathBuf> {
        let folder = self.agents_dir().join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("CLAUDE.md"), prompt)?;
        Ok(folder)
    }

    /// Beneath it, agents can be deployed by path.
    pub fn agents_dir(&self) -> PathBuf {
        self.disk.path().join("agents")
    }

    /// A directory of the test's own, outside of what `ashd` knows.
    pub fn scratch(&self) -> &Path {
        self.disk.path()
    }

    /// `ashd`'s state.
    pub fn data_dir(&self) -> PathBuf {
        self.disk.path().join("data")
    }

    /// `ashd`'s sockets.
    pub fn run_dir(&self) -> PathBuf {
        self.sockets.path().join("r")
    }

    pub(crate) fn sockets(&self) -> &Path {
        self.sockets.path()
    }

    /// The model API.
    pub fn model(&self) -> &Server {
        &self.model.0
    }

    /// The API key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The model key: must never be seen but by the broker and the model API.
    pub fn canary(&self) -> &str {
        &self.canary
    }

    /// The address of the bus.
    pub fn bus(&self) -> &str {
        self.bus.address()
    }

    fn log_path(&self) -> PathBuf {
        self.disk.path().join("ashd.log")
    }

    /// All that `ashd` said so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Where something could be left.
    pub fn places(&self) -> Places {
        Places {
            uids: self.uids.range(),
            cgroup: self.cgroup.path().to_owned(),
            run: self.run_dir(),
            data: self.data_dir(),
        }
    }

    /// The processes in sandboxes with this name: `bridge`, `claude`, or of a tool.
    pub fn inside(&self, name: &str) -> Vec<u32> {
        let all = process::of_uids(&self.uids.range());
        all.into_iter().filter(|pid| process::name(*pid) == name).collect()
    }

    /// Waits until there is none: what was killed can be seen until the kernel has cleared it away, a moment
    /// after its group is empty.
    ///
    /// # Errors
    /// When one stays.
    pub fn none_inside(&self, name: &str) -> Result<()> {
        process::until(&format!("no {name} in a sandbox"), || self.inside(name).is_empty())
    }

    /// The processes outside of sandboxes with this name: `ash-launcher` or `ash-broker`, whichever daemon has
    /// started them.
    pub fn helpers(&self, name: &str) -> Vec<u32> {
        let all = self.places().pids();
        all.into_iter().filter(|pid| process::name(*pid) == name).collect()
    }

    /// Whether this machine can enforce limits of memory, processes and processor time.
    pub fn has_limits(&self) -> bool {
        self.cgroup.has_limits()
    }

    /// Kills the processes in sandboxes with this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill_inside(&self, name: &str) -> Result<()> {
        let all = self.inside(name);
        ensure!(!all.is_empty(), "no process {name} is there to be killed");
        for pid in all {
            // It may go with one that was killed before it.
            let _ = process::signal(pid, Signal::KILL);
        }
        Ok(())
    }

    /// Ends whatever of an `ashd` is left: by user, by control group, and by the run directory
    /// among the arguments.
    pub(crate) fn sweep(&self) {
        for pid in self.places().pids() {
            // It may have gone by itself.
            let _ = process::signal(pid, Signal::KILL);
            let _ = process::wait(pid, Duration::from_secs(10));
        }
    }
}

/// The command with the variable by which a process knows that systemd has executed it.
fn as_service(ashd: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "SYSTEMD_EXEC_PID=$$ exec \"$0\""]).arg(ashd);
    command
}

/// Writes a configuration file with what has no variable, and the test's own as a drop-in.
fn configure(dir: &Path, uids: &Uids, config: &str) -> Result<()> {
    let range = uids.range();
    let own = format!("[sandbox]\nuid_base = {}\nuid_count = {}\n", range.start, range.len());
    fs::write(dir.join("ashd.toml"), own)?;
    fs::create_dir(dir.join("ashd.toml.d"))?;
    Ok(fs::write(dir.join("ashd.toml.d/test.toml"), config)?)
}

fn random() -> Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/uuid")?.trim().replace('-', ""))
}
