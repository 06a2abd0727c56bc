use zbus::zvariant::{ObjectPath, OwnedObjectPath};

use super::*;
use crate::bus::testbus::TestBus;

const UNIT: &str = "/org/freedesktop/systemd1/unit/ashd_2eservice";
const JOB: &str = "/org/freedesktop/systemd1/job/7";
const US: u32 = 4711;

struct FakeManager;

#[zbus::interface(name = "org.freedesktop.systemd1.Manager")]
impl FakeManager {
    #[zbus(name = "GetUnitByPID")]
    async fn get_unit_by_pid(&self, pid: u32) -> zbus::fdo::Result<ObjectPath<'static>> {
        match pid {
            US => Ok(ObjectPath::from_static_str_unchecked(UNIT)),
            _ => Err(zbus::fdo::Error::Failed(format!("no unit has process {pid}"))),
        }
    }

    async fn get_unit(&self, name: &str) -> zbus::fdo::Result<ObjectPath<'static>> {
        match name {
            "ash-sandboxes.service" => Ok(ObjectPath::from_static_str_unchecked(UNIT)),
            _ => Err(zbus::fdo::Error::Failed(format!("{name} is not loaded"))),
        }
    }
}

struct FakeUnit(u32, &'static str);

#[zbus::interface(name = "org.freedesktop.systemd1.Unit")]
impl FakeUnit {
    #[zbus(property)]
    async fn job(&self) -> (u32, OwnedObjectPath) {
        let path = if self.0 == 0 { "/" } else { JOB };
        (self.0, ObjectPath::from_static_str_unchecked(path).into())
    }

    #[zbus(property)]
    async fn active_state(&self) -> String {
        self.1.to_owned()
    }
}

struct FakeService {
    main: u32,
    restarts: u32,
    /// None for a systemd that does not know them.
    steps: Option<u32>,
}

#[zbus::interface(name = "org.freedesktop.systemd1.Service")]
impl FakeService {
    #[zbus(property, name = "MainPID")]
    async fn main_pid(&self) -> u32 {
        self.main
    }

    #[zbus(property, name = "NRestarts")]
    async fn n_restarts(&self) -> u32 {
        self.restarts
    }

    #[zbus(property)]
    async fn restart_steps(&self) -> zbus::fdo::Result<u32> {
        let unknown = || zbus::fdo::Error::UnknownProperty("there are none".into());
        self.steps.ok_or_else(unknown)
    }
}

struct FakeJob(&'static str);

#[zbus::interface(name = "org.freedesktop.systemd1.Job")]
impl FakeJob {
    #[zbus(property)]
    async fn job_type(&self) -> String {
        self.0.to_owned()
    }
}

/// A systemd whose only unit has this main process, and this job or none.
async fn systemd(bus: &TestBus, main: u32, job: Option<&'static str>) -> Connection {
    let systemd = bus.connect().await;
    let objects = systemd.object_server();
    objects.at("/org/freedesktop/systemd1", FakeManager).await.unwrap();
    objects.at(UNIT, FakeUnit(job.map_or(0, |_| 7), "active")).await.unwrap();
    objects.at(UNIT, FakeService { main, restarts: 0, steps: None }).await.unwrap();
    if let Some(job) = job {
        objects.at(JOB, FakeJob(job)).await.unwrap();
    }
    systemd.request_name("org.freedesktop.systemd1").await.unwrap();
    systemd
}

#[tokio::test]
async fn only_a_stop_ends_the_sandboxes_of_a_service() {
    for (job, fate) in [
        (Some("stop"), Fate::End),
        (Some("restart"), Fate::Keep),
        (Some("try-restart"), Fate::Keep),
        (Some("start"), Fate::Keep),
        (Some("reload"), Fate::Keep),
        (None, Fate::Keep),
    ] {
        let bus = TestBus::start();
        let _systemd = systemd(&bus, US, job).await;
        let answer = ask(Some(&bus.address()), US).await.unwrap();
        assert_eq!(answer, job.map_or(Answer::NoJob, |job| Answer::Job(job.to_owned())));
        assert_eq!(decide(Some(&answer)), fate, "{job:?}");
    }
}

#[tokio::test]
async fn only_a_service_that_has_failed_is_given_up() {
    let bus = TestBus::start();
    let systemd = systemd(&bus, US, None).await;
    let objects = systemd.object_server();
    for state in ["active", "activating", "inactive", "failed"] {
        objects.remove::<FakeUnit, _>(UNIT).await.unwrap();
        objects.at(UNIT, FakeUnit(0, state)).await.unwrap();
        let failed = is_failed(Some(&bus.address()), "ash-sandboxes.service").await.unwrap();
        assert_eq!(failed, state == "failed", "{state}");
    }
    let unknown = is_failed(Some(&bus.address()), "other.service").await.unwrap_err();
    assert!(unknown.to_string().starts_with("systemd cannot be asked"), "{unknown}");
}

#[tokio::test]
async fn only_a_systemd_whose_pauses_are_even_is_slowed_down() {
    let bus = TestBus::start();
    let systemd = systemd(&bus, US, None).await;
    let objects = systemd.object_server();
    for (main, steps, counted) in
        [(US, None, Some(3)), (US, Some(8), None), (US, Some(0), None), (US + 1, None, None)]
    {
        objects.remove::<FakeService, _>(UNIT).await.unwrap();
        objects.at(UNIT, FakeService { main, restarts: 3, steps }).await.unwrap();
        let restarts = even_restarts(Some(&bus.address()), US).await.unwrap();
        assert_eq!(restarts, counted, "{main} {steps:?}");
    }
    assert!(even_restarts(Some("unix:path=/nonexistent"), US).await.is_err());
}

#[test]
fn pauses_grow_up_to_the_longest() {
    let seconds: Vec<_> = (0..8).map(|restarts| pause_after(restarts).as_secs()).collect();
    assert_eq!(seconds, [0, 1, 2, 4, 8, 16, 30, 30]);
    assert_eq!(pause_after(u32::MAX), LONGEST_PAUSE);
    let unit = include_str!("../../../systemd/ashd.service");
    assert!(unit.contains(&format!("\nRestartMaxDelaySec={}\n", LONGEST_PAUSE.as_secs())));
}

#[tokio::test]
async fn the_job_of_a_unit_that_only_contains_us_is_not_ours() {
    let bus = TestBus::start();
    let _systemd = systemd(&bus, US + 1, Some("restart")).await;
    let answer = ask(Some(&bus.address()), US).await.unwrap();
    assert_eq!((decide(Some(&answer)), answer), (Fate::End, Answer::NotOurs));
}

#[tokio::test]
async fn sandboxes_are_kept_when_systemd_does_not_answer() {
    let bus = TestBus::start();
    let absent = ask(Some(&bus.address()), US).await.unwrap_err();
    let systemd = systemd(&bus, US, None).await;
    let unknown = ask(Some(&bus.address()), US + 2).await.unwrap_err();
    systemd.object_server().remove::<FakeUnit, _>(UNIT).await.unwrap();
    let broken = ask(Some(&bus.address()), US).await.unwrap_err();
    let nowhere = ask(Some("unix:path=/nonexistent"), US).await.unwrap_err();
    for error in [absent, unknown, broken, nowhere] {
        assert!(error.to_string().starts_with("systemd cannot be asked"), "{error}");
    }
    assert_eq!(decide(None), Fate::Keep);
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_says_nothing_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let _mute = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let error = ask(Some(&format!("unix:path={}", path.display())), US).await.unwrap_err();
    assert!(matches!(error, SystemdError::Silent), "{error}");
}

#[test]
fn systemd_runs_only_what_it_executed_itself() {
    assert!(runs(Some("4711".as_ref()), US));
    for other in [None, Some(""), Some("47"), Some("4711x")] {
        assert!(!runs(other.map(str::as_ref), US), "{other:?}");
    }
}
