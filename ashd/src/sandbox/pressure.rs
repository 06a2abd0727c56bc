//! Whether this machine is short of processors, memory or disks: whether work stands still for want of
//! them.
//!
//! The kernel says so (PSI, Documentation/accounting/psi.rst), of its own accord where it takes a
//! trigger, else when its averages are looked at. What it has said last is kept here: whoever asks
//! reads that.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::admission::memory_is_scarce;
use crate::telemetry::psi;

/// The time that a trigger looks at, in microseconds. Without CAP_SYS_RESOURCE, which the daemon's unit
/// does not have, the kernel takes no other than multiples of two seconds, and before Linux 6.4 none.
const WINDOW_US: u32 = 2_000_000;

/// What has not been short for so long is not short any more. A trigger tells once in its time.
const CALM: Duration = Duration::from_secs(5);

/// How often averages are looked at.
const SAMPLE: Duration = Duration::from_secs(1);

/// What this machine is short of.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pressure {
    /// Processors.
    pub cpu: bool,
    /// Memory.
    pub memory: bool,
    /// Disks.
    pub io: bool,
}

impl Pressure {
    /// Whether what runs gets on slowly, and would more slowly with whatever else begins. There is always
    /// something left of processors and disks: that is a reason to wait for a while, and none to refuse.
    pub fn is_slow(self) -> bool {
        self.cpu || self.io
    }
}

/// Something that a machine can be short of.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Cpu,
    Memory,
    Io,
}

impl Kind {
    const ALL: [Kind; 3] = [Kind::Cpu, Kind::Memory, Kind::Io];

    fn file(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu",
            Kind::Memory => "memory",
            Kind::Io => "io",
        }
    }

    /// The share of the time, in percent, in which some task has to stand still for want of it.
    fn limit(self) -> u32 {
        match self {
            Kind::Memory => 15,
            Kind::Cpu | Kind::Io => 50,
        }
    }

    /// Whether there is as little of it as the kernel says. An agent at its own limit of memory stands
    /// still as well, and is in the machine's numbers: it must not make others wait.
    fn is_scarce(self) -> bool {
        match self {
            Kind::Memory => memory_is_scarce(),
            Kind::Cpu | Kind::Io => true,
        }
    }

    /// Notes whether this is short; whether that is new.
    fn note(self, pressure: &mut Pressure, is_short: bool) -> bool {
        let noted = match self {
            Kind::Cpu => &mut pressure.cpu,
            Kind::Memory => &mut pressure.memory,
            Kind::Io => &mut pressure.io,
        };
        std::mem::replace(noted, is_short) != is_short
    }
}

/// What this machine is short of, as of now, until this is dropped.
#[derive(Debug)]
pub struct Gauge {
    now: Arc<watch::Sender<Pressure>>,
    missing: Option<String>,
    _following: JoinSet<()>,
}

impl Gauge {
    /// Begins to follow the files in `dir`, on the runtime that this is called on.
    pub fn follow(dir: &Path) -> Gauge {
        let now = Arc::new(watch::Sender::new(Pressure::default()));
        let mut following = JoinSet::new();
        for kind in Kind::ALL {
            let path = dir.join(kind.file());
            if psi::read(&path).some.is_some() {
                following.spawn(follow(kind, path, now.clone()));
            }
        }
        let is_missing = psi::read(&dir.join(Kind::Memory.file())).some.is_none();
        let missing = is_missing.then(|| {
            "that memory gets short is not noticed before it is gone (the kernel has no PSI, or was \
             booted without psi=1)"
                .to_owned()
        });
        Gauge { now, missing, _following: following }
    }

    /// A sentence when it is not known whether memory is short.
    pub fn missing(&self) -> Option<&String> {
        self.missing.as_ref()
    }

    /// What is short now. Asks nobody.
    pub fn now(&self) -> Pressure {
        *self.now.borrow()
    }

    /// Tells of every change.
    pub fn changes(&self) -> watch::Receiver<Pressure> {
        self.now.subscribe()
    }
}

#[cfg(test)]
impl Gauge {
    /// One that nothing moves.
    pub(super) fn still() -> Gauge {
        let now = Arc::default();
        Gauge { now, missing: None, _following: JoinSet::new() }
    }

    pub(super) fn set(&self, pressure: Pressure) {
        self.now.send_replace(pressure);
    }
}

/// Notes whenever something gets short, or is not any more.
async fn follow(kind: Kind, path: PathBuf, now: Arc<watch::Sender<Pressure>>) {
    let tell = |is_short: bool| {
        let is_short = is_short && kind.is_scarce();
        now.send_if_modified(|pressure| kind.note(pressure, is_short));
    };
    if let Err(error) = by_trigger(kind, &path, &tell).await {
        tracing::debug!(%error, "{} is looked at each second", path.display());
    }
    by_average(kind, &path, &tell).await;
}

/// Lets the kernel tell when something is short.
async fn by_trigger(kind: Kind, path: &Path, tell: &(impl Fn(bool) + Sync)) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let stalled_us = WINDOW_US / 100 * kind.limit();
    file.write_all(format!("some {stalled_us} {WINDOW_US}\0").as_bytes())?;
    listen(&watched(file.into())?, CALM, tell).await
}

/// Waits for what the kernel reports beside data.
#[expect(deprecated, reason = "unsound for what gives its descriptor away, which this does not")]
fn watched(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(descriptor, Interest::PRIORITY)
}

/// Tells that something is short whenever the trigger does, and that it is not any more when the
/// trigger has been calm for so long.
async fn listen(
    trigger: &AsyncFd<OwnedFd>,
    calm: Duration,
    tell: &(impl Fn(bool) + Sync),
) -> io::Result<()> {
    loop {
        fired(trigger).await?;
        tell(true);
        while let Ok(again) = timeout(calm, fired(trigger)).await {
            again?;
            tell(true);
        }
        tell(false);
    }
}

/// Waits until a trigger tells.
async fn fired(trigger: &AsyncFd<OwnedFd>) -> io::Result<()> {
    trigger.ready(Interest::PRIORITY).await?.clear_ready();
    Ok(())
}

/// Looks at averages for ever.
async fn by_average(kind: Kind, path: &Path, tell: &(impl Fn(bool) + Sync)) {
    loop {
        tell(psi::read(path).some.is_some_and(|percent| percent >= f64::from(kind.limit())));
        sleep(SAMPLE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::process::{Child, Command};

    use rustix::net::{SendFlags, send};
    use rustix::process::Pid;
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    use super::*;
    use crate::sandbox::cgroup::mount_point;

    /// How long something may take that happens.
    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_kernel_that_says_nothing_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let gauge = Gauge::follow(dir.path());
        assert!(gauge.missing().is_some_and(|said| said.contains("psi=1")));
        assert_eq!(gauge.now(), Pressure::default());
    }

    #[tokio::test(start_paused = true)]
    async fn without_triggers_averages_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("io");
        let say = |percent: &str| fs::write(&path, format!("some avg10={percent} total=1\n"));
        say("50.00").unwrap();
        let now = Arc::new(watch::Sender::new(Pressure::default()));
        let (mut changes, tell) = (now.subscribe(), |is_short| {
            now.send_if_modified(|pressure| Kind::Io.note(pressure, is_short));
        });
        tokio::select! {
            () = by_average(Kind::Io, &path, &tell) => unreachable!("it looks for ever"),
            () = async {
                changes.wait_for(|now| now.io && !now.cpu && !now.memory).await.unwrap();
                say("49.99").unwrap();
                changes.wait_for(|now| *now == Pressure::default()).await.unwrap();
            } => {}
        }
    }

    /// Urgent data is what else the kernel reports in this way.
    #[tokio::test]
    async fn a_trigger_tells_until_it_is_calm() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (receiver, _) = listener.accept().unwrap();
        let trigger = watched(receiver.into()).unwrap();
        let (now, mut changes) = watch::channel(false);
        let tell = |is_short| {
            now.send_replace(is_short);
        };
        let fire = || send(&sender, b"!", SendFlags::OOB).unwrap();
        let firing = async {
            for _ in 0..2 {
                fire();
                changes.wait_for(|is_short| *is_short).await.unwrap();
                changes.wait_for(|is_short| !*is_short).await.unwrap();
            }
        };
        let calm = Duration::from_millis(20);
        tokio::select! {
            ended = listen(&trigger, calm, &tell) => panic!("{ended:?}"),
            done = timeout(LONG, firing) => done.unwrap(),
        }
    }

    /// Two who both want one processor all the time, in a control group of their own: one of them always
    /// waits. To whoever else wants it they give way.
    struct Contended {
        group: PathBuf,
        spinning: Vec<Child>,
    }

    impl Contended {
        /// Begins, or says why that cannot be.
        fn begin() -> Result<Contended, String> {
            let mount = mount_point().map_err(|error| error.to_string())?;
            let group = mount.join(format!("ash-test-{}", uuid::Uuid::new_v4().as_simple()));
            let failed = |error: io::Error| format!("{}: {error}", group.display());
            fs::create_dir(&group).map_err(failed)?;
            let mut contended = Contended { group: group.clone(), spinning: vec![] };
            if !contended.file().exists() {
                return Err("the kernel has no PSI of control groups".to_owned());
            }
            for _ in 0..2 {
                contended.spin(&one_processor()).map_err(failed)?;
            }
            Ok(contended)
        }

        fn spin(&mut self, processor: &CpuSet) -> io::Result<()> {
            let script = ["-n", "19", "sh", "-c", "while :; do :; done"];
            let spinner = Command::new("nice").args(script).spawn()?;
            let pid = Pid::from_child(&spinner);
            self.spinning.push(spinner);
            sched_setaffinity(Some(pid), processor)?;
            fs::write(self.group.join("cgroup.procs"), pid.as_raw_nonzero().to_string())
        }

        fn file(&self) -> PathBuf {
            self.group.join("cpu.pressure")
        }
    }

    impl Drop for Contended {
        fn drop(&mut self) {
            for spinner in &mut self.spinning {
                let _ = spinner.kill();
                let _ = spinner.wait();
            }
            let _ = fs::remove_dir(&self.group);
        }
    }

    /// The first of the processors that this test may use.
    fn one_processor() -> CpuSet {
        let (all, mut one) = (sched_getaffinity(None).unwrap(), CpuSet::new());
        one.set((0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
        one
    }

    #[tokio::test]
    async fn the_kernel_tells_of_a_processor_that_two_want() {
        let contended = match Contended::begin() {
            Ok(contended) => contended,
            Err(why) => return println!("SKIP: nothing can be made short here: {why}"),
        };
        let (now, mut changes) = watch::channel(false);
        let tell = |is_short| {
            now.send_replace(is_short);
        };
        let path = contended.file();
        let ended = tokio::select! {
            ended = by_trigger(Kind::Cpu, &path, &tell) => ended,
            told = timeout(LONG, changes.wait_for(|is_short| *is_short)) => {
                return drop(told.expect("the kernel does not tell").unwrap());
            }
        };
        // It waits for the kernel for ever, where that takes triggers.
        let error = ended.unwrap_err();
        let may_not = [io::ErrorKind::PermissionDenied, io::ErrorKind::Unsupported];
        assert!(may_not.contains(&error.kind()), "{error}");
        println!("SKIP: the kernel takes no trigger from here: {error}");
    }

    #[tokio::test]
    async fn this_machine_is_followed_where_it_can_be() {
        let gauge = Gauge::follow(Path::new(psi::DIR));
        let has_memory = psi::read(&Path::new(psi::DIR).join("memory")).some.is_some();
        assert_eq!(gauge.missing().is_none(), has_memory);
    }
}
