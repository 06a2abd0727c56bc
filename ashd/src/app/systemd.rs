//! What systemd is about to do with this daemon, and with what it depends on.
//!
//! `systemctl stop` and `systemctl restart` send the same signal. Which of them it was says the job
//! of our unit, and on that hangs what becomes of the sandboxes. A service that is not there may come
//! back or not, and on that hangs whether it is worth trying again. And an old systemd starts again what
//! fails at its start at an even pace, however often.

use std::ffi::OsStr;
use std::time::Duration;

use tokio::time::timeout;
use zbus::Connection;
use zbus::connection::Builder;
use zbus::proxy::CacheProperties;
use zbus::zvariant::OwnedObjectPath;

/// How long systemd may take to answer, on a machine that has much to do. It waits for us meanwhile.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest pause between two starts that fail, as the unit has it (RestartMaxDelaySec=).
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What becomes of the sandboxes when the daemon ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    /// They end with it.
    End,
    /// They wait for the next one, and running turns go on.
    Keep,
}

/// What systemd says of this process.
#[derive(Debug, Eq, PartialEq)]
enum Answer {
    /// It is not the main process of a unit of this systemd.
    NotOurs,
    /// Nothing is to become of its unit: somebody else sent the signal.
    NoJob,
    /// What is being done to its unit: `stop`, `restart` (systemctl(1)).
    Job(String),
}

/// Why systemd did not answer.
#[derive(Debug, thiserror::Error)]
enum SystemdError {
    /// It cannot be asked.
    #[error("systemd cannot be asked for what becomes of a service: {0}")]
    Bus(#[from] zbus::Error),
    /// It says nothing.
    #[error("systemd did not answer within {} s", PATIENCE.as_secs())]
    Silent,
}

/// What is to become of the sandboxes, now that the daemon has been told to end. Started by hand,
/// they end with it; started by systemd, only when its unit is being stopped.
pub(super) async fn fate() -> Fate {
    if !runs(std::env::var_os("SYSTEMD_EXEC_PID").as_deref(), std::process::id()) {
        return Fate::End;
    }
    let asked = ask(None, std::process::id()).await;
    match &asked {
        Ok(answer) => tracing::info!(?answer, "asked systemd what becomes of this service"),
        Err(error) => tracing::error!(%error, "the sandboxes are kept, also if this is a stop"),
    }
    decide(asked.as_ref().ok())
}

/// Without an answer nothing is ended: what is kept too long ends by itself, what is ended is lost.
fn decide(answer: Option<&Answer>) -> Fate {
    match answer {
        Some(Answer::NotOurs) => Fate::End,
        Some(Answer::Job(job)) if job == "stop" => Fate::End,
        Some(Answer::Job(_) | Answer::NoJob) | None => Fate::Keep,
    }
}

/// Whether systemd executed this very process, as the variable says (systemd.exec(5)). Its other
/// variables are passed on, by the shell of a scope or of a graphical session.
fn runs(exec_pid: Option<&OsStr>, pid: u32) -> bool {
    let exec_pid = exec_pid.and_then(OsStr::to_str).and_then(|text| text.parse().ok());
    exec_pid == Some(pid)
}

/// Asks the systemd on the bus at `address` (absent: the system bus).
async fn ask(address: Option<&str>, pid: u32) -> Result<Answer, SystemdError> {
    let answer = timeout(PATIENCE, answer(address, pid)).await;
    Ok(answer.map_err(|_| SystemdError::Silent)??)
}

async fn answer(address: Option<&str>, pid: u32) -> zbus::Result<Answer> {
    let bus = address.map_or_else(Builder::system, Builder::address)?.build().await?;
    let (unit, service) = service_of(&bus, pid).await?;
    if service.main_pid().await? != pid {
        return Ok(Answer::NotOurs);
    }
    let unit = UnitProxy::builder(&bus).path(&unit)?;
    match unit.cache_properties(CacheProperties::No).build().await?.job().await? {
        (0, _) => Ok(Answer::NoJob),
        (_, job) => Ok(Answer::Job(job_type(&bus, &job).await?)),
    }
}

/// The unit that a process is in, and the service that this is.
async fn service_of(
    bus: &Connection,
    pid: u32,
) -> zbus::Result<(OwnedObjectPath, ServiceProxy<'static>)> {
    let unit = ManagerProxy::new(bus).await?.get_unit_by_pid(pid).await?;
    let service = ServiceProxy::builder(bus).path(unit.clone())?;
    Ok((unit, service.cache_properties(CacheProperties::No).build().await?))
}

/// How long a start that has failed is to wait before it ends, so that the next one fails later: the
/// longer, the more often systemd has started the service again. Nothing for a systemd that lets its own
/// pauses grow, from 254 on; for who was started by hand; and without an answer.
pub(super) async fn pause() -> Duration {
    let pid = std::process::id();
    if !runs(std::env::var_os("SYSTEMD_EXEC_PID").as_deref(), pid) {
        return Duration::ZERO;
    }
    match timeout(PATIENCE, even_restarts(None, pid)).await {
        Ok(Ok(Some(restarts))) => pause_after(restarts),
        _ => Duration::ZERO,
    }
}

/// Twice as long each time; systemd's own pause comes behind it.
fn pause_after(restarts: u32) -> Duration {
    let seconds = restarts.checked_sub(1).map_or(0, |doubled| 1_u64 << doubled.min(5));
    Duration::from_secs(seconds).min(LONGEST_PAUSE)
}

/// How often systemd has started our service again, if it does so at an even pace.
async fn even_restarts(address: Option<&str>, pid: u32) -> zbus::Result<Option<u32>> {
    let bus = address.map_or_else(Builder::system, Builder::address)?.build().await?;
    let (_, service) = service_of(&bus, pid).await?;
    let grows = service.restart_steps().await.is_ok();
    match service.main_pid().await? == pid && !grows {
        true => service.n_restarts().await.map(Some),
        false => Ok(None),
    }
}

/// Whether systemd has given a service up: it has failed, and is not started again by itself. Without
/// an answer it has not.
pub(super) async fn has_given_up(service: &str) -> bool {
    is_failed(None, service).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "it is not known what becomes of {service}");
        false
    })
}

async fn is_failed(address: Option<&str>, service: &str) -> Result<bool, SystemdError> {
    let state = timeout(PATIENCE, active_state(address, service)).await;
    Ok(state.map_err(|_| SystemdError::Silent)?? == "failed")
}

async fn active_state(address: Option<&str>, service: &str) -> zbus::Result<String> {
    let bus = address.map_or_else(Builder::system, Builder::address)?.build().await?;
    let unit = ManagerProxy::new(&bus).await?.get_unit(service).await?;
    let unit = UnitProxy::builder(&bus).path(&unit)?;
    unit.cache_properties(CacheProperties::No).build().await?.active_state().await
}

async fn job_type(bus: &Connection, job: &OwnedObjectPath) -> zbus::Result<String> {
    let job = JobProxy::builder(bus).path(job)?;
    job.cache_properties(CacheProperties::No).build().await?.job_type().await
}

/// systemd itself; this and the following as in org.freedesktop.systemd1(5).
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;

    fn get_unit(&self, name: &str) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Unit",
    default_service = "org.freedesktop.systemd1"
)]
trait Unit {
    /// Number and object of the job; 0 when there is none.
    #[zbus(property)]
    fn job(&self) -> zbus::Result<(u32, OwnedObjectPath)>;

    /// `active`, `activating` (also between two starts), `failed` and so on.
    #[zbus(property)]
    fn active_state(&self) -> zbus::Result<String>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1"
)]
trait Service {
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> zbus::Result<u32>;

    /// How often it was started again by itself.
    #[zbus(property, name = "NRestarts")]
    fn n_restarts(&self) -> zbus::Result<u32>;

    /// In how many steps pauses grow; not known to a systemd whose pauses do not.
    #[zbus(property)]
    fn restart_steps(&self) -> zbus::Result<u32>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Job",
    default_service = "org.freedesktop.systemd1"
)]
trait Job {
    #[zbus(property)]
    fn job_type(&self) -> zbus::Result<String>;
}

#[cfg(test)]
#[path = "systemd_tests.rs"]
mod tests;
