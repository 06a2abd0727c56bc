//! What `ashd` does as a service of systemd, whose part a stand-in plays: what is kept by a restart
//! and ended by a stop.

use anyhow::{Result, ensure};
use ash_journey::{Ash, Client as _, Options, Stage};
use tokio::runtime::{Builder, Runtime};
use zbus::zvariant::{ObjectPath, OwnedObjectPath};

use crate::crashes::rest;
use crate::support::{Talk, both_engines};

const UNIT: &str = "/org/freedesktop/systemd1/unit/ashd_2eservice";
const JOB: &str = "/org/freedesktop/systemd1/job/7";

struct Manager;

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl Manager {
    #[zbus(name = "GetUnitByPID")]
    async fn get_unit_by_pid(&self, _pid: u32) -> ObjectPath<'static> {
        ObjectPath::from_static_str_unchecked(UNIT)
    }
}

struct Unit(u32);

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl Unit {
    #[zbus(property)]
    async fn job(&self) -> (u32, OwnedObjectPath) {
        (self.0, ObjectPath::from_static_str_unchecked(JOB).into())
    }
}

struct Service(u32);

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl Service {
    #[zbus(property, name = "MainPID")]
    async fn main_pid(&self) -> u32 {
        self.0
    }
}

struct Job(&'static str);

#[zbus::interface(name = "org.freedesktop.systemd1.Job")]
impl Job {
    #[zbus(property)]
    async fn job_type(&self) -> String {
        self.0.to_owned()
    }
}

/// Plays systemd on a daemon's bus until it is dropped.
struct Systemd {
    _connection: zbus::Connection,
    _runtime: Runtime,
}

impl Systemd {
    /// One that is about to do this with the daemon's unit, or nothing.
    fn play(ash: &Ash, job: Option<&'static str>) -> Result<Systemd> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let builder = zbus::connection::Builder::address(ash.bus())?
            .serve_at("/org/freedesktop/systemd1", Manager)?
            .serve_at(UNIT, Unit(job.map_or(0, |_| 7)))?
            .serve_at(UNIT, Service(ash.pid()?))?
            .serve_at(JOB, Job(job.unwrap_or_default()))?
            .name("org.freedesktop.systemd1")?;
        let connection = runtime.block_on(builder.build())?;
        Ok(Systemd { _connection: connection, _runtime: runtime })
    }
}

fn service(options: Options) -> Options {
    Options { service: true, ..options }
}

/// Ends the daemon in the middle of a tool call that waits for its successor.
fn is_kept(talk: &mut Talk, round: &str, job: Option<Option<&'static str>>) -> Result<()> {
    let wait = format!("touch begun-{round}; while [ ! -e go-{round} ]; do sleep 0.02; done");
    let mut turn = talk.send(&talk.bash(&format!("{wait}; echo went {round}")))?;
    turn.until_named("tool_use")?;
    // The CLI starts itself for other purposes too: its processes come and go.
    let before = talk.ash.inside("bridge");
    let systemd = job.map(|job| Systemd::play(&talk.ash, job)).transpose()?;
    talk.ash.terminate()?;
    drop(systemd);
    while turn.next().is_ok_and(|frame| frame.is_some()) {}
    let broken = turn.errors().is_empty() && turn.named("done").count() == 0;
    ensure!(broken, "the stream did not just break off: {}", turn.raw());

    talk.boot()?;
    ensure!(talk.ash.inside("bridge") == before, "the sandbox is not the one of before");
    let go = format!("until [ -e begun-{round} ]; do sleep 0.02; done; touch go-{round}");
    ensure!(talk.api.exec(&talk.session, &go)?.code == 0);
    let turn = rest(talk, &turn)?;
    ensure!(turn.text() == format!("tool said: went {round}"), "{}", turn.text());
    Ok(())
}

both_engines!(a_service_that_is_restarted_keeps_its_turns_and_one_that_is_stopped_ends_them);

fn a_service_that_is_restarted_keeps_its_turns_and_one_that_is_stopped_ends_them(
    options: Options,
) -> Result<()> {
    let mut talk = Talk::begin(service(options))?;
    is_kept(&mut talk, "restart", Some(Some("restart")))?;
    is_kept(&mut talk, "signal", Some(None))?;
    is_kept(&mut talk, "silence", None)?;
    ensure!(talk.ash.log().contains("systemd cannot be asked"), "nothing is said of silence");

    let mut turn = talk.send("[[count 100000 5ms]]")?;
    turn.deltas(5)?;
    let _systemd = Systemd::play(&talk.ash, Some("stop"))?;
    talk.ash.terminate()?;
    let turn = turn.to_end()?;
    ensure!(turn.errors() == ["Interrupted: the server was shut down"], "{:?}", turn.errors());
    talk.ash.finish()
}

/// Whoever was told that the daemon is ready finds it on the bus.
#[test]
fn ready_means_that_the_bus_name_is_there() -> Result<()> {
    let stage = Stage::set(Options::stub())?;
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (bus, names) = runtime.block_on(async {
        let bus = zbus::connection::Builder::address(stage.bus())?.build().await?;
        let names = zbus::fdo::DBusProxy::new(&bus).await?;
        zbus::Result::Ok((bus, names))
    })?;
    let mut ash = Ash::on(stage)?;
    for _ in 0..5 {
        let name = "org.ashd.Ash1".try_into()?;
        ensure!(runtime.block_on(names.name_has_owner(name))?, "ready, and not on the bus");
        ash.crash()?;
    }
    drop(bus);
    ash.finish()
}

/// Without a bus HTTP is served all the same, and the log says what is missing.
#[test]
fn ready_without_a_bus() -> Result<()> {
    let ash = Ash::start(Options::stub().env("ASH_BUS_ADDRESS", "unix:path=/nonexistent/bus"))?;
    let health = ash.api().health()?;
    ensure!(health["status"] == "ok", "{health}");
    ensure!(ash.log().contains("not on D-Bus"), "{}", ash.log());
    ash.finish()
}
