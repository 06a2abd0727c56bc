//! Being on a bus, and getting back onto it.

use std::sync::Arc;
use std::time::Duration;

use ash_dbus::{BUS_NAME, ROOT};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use zbus::fdo::{ObjectManager, RequestNameFlags};
use zbus::{Address, Connection, Error as Zbus};

use super::door;
use super::gate::Gate;
use super::manager::Manager;
use super::objects::Desk;
use super::polkit::Patience;
use crate::session::Service;
use crate::session::api::Happened;
use crate::session::keys::KeyRing;
use crate::telemetry::message;

/// Waits between attempts to get onto the bus: the first, and the longest.
const BACK_OFF: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(30)];
/// How long calls that are being answered may take when the daemon leaves.
const FAREWELL: Duration = Duration::from_secs(1);

/// What callers of the bus can do.
#[derive(Clone)]
pub struct Verbs {
    /// To agents and sessions.
    pub service: Service,
    /// To API keys.
    pub keys: KeyRing,
}

/// Why the daemon is not on the bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// Somebody else has the name.
    #[error("the bus name org.ashd.Ash1 is taken; another ashd is running on this bus, stop it")]
    Taken,
    /// The address is not one.
    #[error("the bus address is not valid: {0}")]
    Address(String),
    /// The bus did not answer, or refused.
    #[error("the bus cannot be used: {0}")]
    Bus(#[from] Zbus),
    /// The objects could not be made.
    #[error("the objects cannot be put on the bus: {0}")]
    Objects(#[from] ash_dbus::Error),
}

impl BusError {
    /// Whether trying again would be pointless.
    fn is_final(&self) -> bool {
        matches!(self, BusError::Taken | BusError::Address(_))
    }
}

/// Serves the interfaces on the bus at `address` (absent: the system bus) until `shutdown`. Drops
/// `attempted` when it has the name, or when the first attempt at it has failed.
///
/// When the bus is not there, or goes away, everything else goes on; the bus is tried again with
/// growing pauses. Streams that were handed out do not need the bus any more.
///
/// # Errors
/// At the first attempt only: [`BusError::Taken`] and [`BusError::Address`].
pub async fn serve(
    verbs: Verbs,
    address: Option<String>,
    attempted: oneshot::Sender<()>,
    shutdown: CancellationToken,
) -> Result<(), BusError> {
    let mut pause = BACK_OFF[0];
    let mut first = Some(attempted);
    while !shutdown.is_cancelled() {
        let arrived = arrive(&verbs, address.as_deref()).await;
        let is_first = first.take().is_some();
        match arrived {
            Ok(presence) => {
                presence.stay(&shutdown).await;
                pause = BACK_OFF[0];
            }
            Err(error) if is_first && error.is_final() => return Err(error),
            Err(error) if pause == BACK_OFF[0] => {
                warn!(message_id = message::NO_BUS, %error, "not on D-Bus, trying again");
            }
            Err(error) => debug!(%error, "still not on D-Bus"),
        }
        tokio::select! {
            () = sleep(pause) => pause = BACK_OFF[1].min(pause * 2),
            () = shutdown.cancelled() => {}
        }
    }
    Ok(())
}

/// One time on the bus.
struct Presence {
    bus: Connection,
    gate: Arc<Gate>,
    desk: Arc<Desk>,
    news: broadcast::Receiver<Happened>,
}

/// Gets onto the bus; when this returns, callers are answered.
///
/// The name comes first: a bus delivers signals of who has the name only to those who may hear
/// them, and putting objects into the tree sends some. Callers wait meanwhile.
async fn arrive(verbs: &Verbs, address: Option<&str>) -> Result<Presence, BusError> {
    let news = verbs.service.watch();
    let desk = Desk::new(verbs.clone());
    let gate = Gate::new(Patience::default());
    let bus = connect(address, &gate).await?;
    // Without an object manager this is told to nobody.
    bus.object_server().at(ROOT, Manager { desk: desk.clone() }).await?;
    claim(&bus).await?;
    populate(&bus, &desk).await?;
    gate.open(bus.clone());
    info!(name = BUS_NAME, "on D-Bus");
    Ok(Presence { bus, gate, desk, news })
}

impl Presence {
    /// Stays until the bus goes away or the daemon does.
    async fn stay(self, shutdown: &CancellationToken) {
        let Presence { bus, gate, desk, news } = self;
        tokio::select! {
            () = follow(&bus, &desk, news) => {}
            () = bus.closed() => warn!("the bus went away"),
            () = shutdown.cancelled() => {}
        }
        gate.shut();
        desk.leave().await;
        leave(bus).await;
    }
}

async fn connect(address: Option<&str>, gate: &Arc<Gate>) -> Result<Connection, BusError> {
    let wrong = |error: Zbus| BusError::Address(error.to_string());
    let address = address.map_or_else(Address::system, Address::try_from).map_err(wrong)?;
    match door::connect(&address, gate).await {
        Err(error @ Zbus::Address(_)) => Err(wrong(error)),
        connected => Ok(connected?),
    }
}

/// Puts agents and sessions on the connection.
async fn populate(bus: &Connection, desk: &Arc<Desk>) -> Result<(), BusError> {
    bus.object_server().at(ROOT, ObjectManager).await?;
    desk.sync_all(bus).await?;
    desk.serve().await;
    Ok(())
}

/// Takes the name, or leaves it to whoever has it.
async fn claim(bus: &Connection) -> Result<(), BusError> {
    let flags = RequestNameFlags::DoNotQueue.into();
    match bus.request_name_with_flags(BUS_NAME, flags).await {
        Ok(_) => Ok(()),
        Err(Zbus::NameTaken) => Err(BusError::Taken),
        Err(error) => Err(error.into()),
    }
}

/// Keeps the objects in step for as long as there is news.
async fn follow(bus: &Connection, desk: &Arc<Desk>, mut news: broadcast::Receiver<Happened>) {
    loop {
        match news.recv().await {
            Ok(happened) => desk.look_at(bus, happened).await,
            Err(RecvError::Lagged(missed)) => {
                debug!(missed, "looking at everything again");
                if let Err(error) = desk.sync_all(bus).await {
                    warn!(%error, "the objects on D-Bus are behind");
                }
            }
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// Lets calls that are being answered finish, for a moment. The name goes with the connection.
async fn leave(bus: Connection) {
    if !bus.is_closed() {
        let _ = timeout(FAREWELL, bus.graceful_shutdown()).await;
    }
}
