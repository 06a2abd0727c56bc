//! Who may call. Every method call is stopped here, before any object sees it.
//!
//! The bus vouches for the sender's uid and unique name. A process id would prove nothing: it can
//! be somebody else's by the time it is looked up. uid 0 may do everything; about everybody else
//! polkit is asked, for every call anew and beside the other calls: a question that takes long, or
//! that nobody answers, holds up nobody but its caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use zbus::message::{Flags, Header};
use zbus::names::UniqueName;
use zbus::{Connection, Message, fdo};

use super::polkit::{self, Answer, Patience, Question};
use super::rights::{Need, Right, needed};
use crate::telemetry::refused;

/// How many calls of one user may wait for polkit.
const MOST_WAITING: usize = 16;
/// How many bytes these may have.
const MOST_WAITING_BYTES: usize = 64 << 20;

/// Where calls that may pass go.
pub(super) type Admitted = mpsc::Sender<zbus::Result<Message>>;

/// The gate of one connection.
#[derive(Debug)]
pub(super) struct Gate {
    /// The bus, from when calls are answered until the daemon leaves.
    bus: watch::Sender<Option<Connection>>,
    /// Ends what waits.
    pub(super) leaving: CancellationToken,
    patience: Patience,
    waiting: Mutex<HashMap<u32, Waiting>>,
}

/// What waits for polkit on behalf of one user.
#[derive(Debug)]
struct Waiting {
    calls: usize,
    bytes: usize,
}

impl Gate {
    /// A gate that is still shut: calls wait.
    pub(super) fn new(patience: Patience) -> Arc<Gate> {
        let (bus, leaving) = (watch::Sender::new(None), CancellationToken::new());
        Arc::new(Gate { bus, leaving, patience, waiting: Mutex::default() })
    }

    /// Begins to let callers in.
    pub(super) fn open(&self, bus: Connection) {
        self.bus.send_replace(Some(bus));
    }

    /// Lets nobody in any more. Who waits gets no answer; the bus tells them when the connection
    /// is gone.
    pub(super) fn shut(&self) {
        self.leaving.cancel();
        self.bus.send_replace(None);
    }

    /// Decides about a call, beside everything else.
    pub(super) fn take(self: &Arc<Self>, call: Message, admitted: Admitted) {
        let gate = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = gate.decide(call, admitted) => {}
                () = gate.leaving.cancelled() => {}
            }
        });
    }

    async fn decide(&self, call: Message, admitted: Admitted) {
        let mut opened = self.bus.subscribe();
        let Ok(bus) = opened.wait_for(Option::is_some).await.map(|bus| bus.clone()) else { return };
        let Some(bus) = bus else { return };
        let verdict = match needed(&call) {
            Need::Nothing => Ok(()),
            Need::Right(right, what) => self.authorise(&bus, &call, right, &what).await,
            Need::Refusal(error) => Err(error),
        };
        match verdict {
            // Nobody takes it when the connection is gone.
            Ok(()) => drop(admitted.send(Ok(call)).await),
            Err(error) => refuse(&bus, &call.header(), error).await,
        }
    }

    async fn authorise(
        &self,
        bus: &Connection,
        call: &Message,
        right: Right,
        what: &str,
    ) -> fdo::Result<()> {
        let header = call.header();
        let nobody = || denied(what, right, "the bus does not know who calls");
        let sender = header.sender().ok_or_else(nobody)?;
        let uid = uid(bus, sender).await.ok_or_else(nobody)?;
        if uid == 0 {
            return Ok(());
        }
        let _place = self.wait(uid, call.data().len())?;
        let interactive = header.primary().flags().contains(Flags::AllowInteractiveAuth);
        let question = Question { caller: sender, right };
        let verdict = match polkit::ask(bus, &question, interactive, self.patience).await {
            Answer::Allowed => Ok(()),
            Answer::Refused => Err(denied(what, right, right.holders())),
            Answer::Challenge => {
                let text =
                    format!("{}; a call that allows interaction asks for it", right.holders());
                Err(denied(what, right, &text))
            }
            Answer::Absent => {
                Err(denied(what, right, "without polkit on the bus only root has it"))
            }
            Answer::Silent => {
                Err(denied(what, right, "polkit did not answer, and without it only root has it"))
            }
        };
        if let Err(fdo::Error::AccessDenied(text)) = &verdict {
            refused(format_args!("uid {uid}"), text);
        }
        verdict
    }

    /// Counts a call that waits, until the place is given back.
    fn wait(&self, uid: u32, bytes: usize) -> fdo::Result<Place<'_>> {
        let mut all = self.waiting();
        let (calls, total) = all.get(&uid).map_or((0, 0), |it| (it.calls, it.bytes));
        if calls == MOST_WAITING || total + bytes > MOST_WAITING_BYTES {
            let text = "too many calls of this user wait for polkit; try again when they are over";
            return Err(fdo::Error::LimitsExceeded(text.into()));
        }
        all.insert(uid, Waiting { calls: calls + 1, bytes: total + bytes });
        Ok(Place { gate: self, uid, bytes })
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<u32, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's place among those that wait.
struct Place<'a> {
    gate: &'a Gate,
    uid: u32,
    bytes: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut all = self.gate.waiting();
        let Some(waiting) = all.get_mut(&self.uid) else { return };
        waiting.calls -= 1;
        waiting.bytes -= self.bytes;
        if waiting.calls == 0 {
            all.remove(&self.uid);
        }
    }
}

fn denied(what: &str, right: Right, how: &str) -> fdo::Error {
    fdo::Error::AccessDenied(format!("{what} needs the right {}; {how}", right.action()))
}

async fn refuse(bus: &Connection, call: &Header<'_>, error: fdo::Error) {
    if call.primary().flags().contains(Flags::NoReplyExpected) {
        return;
    }
    if let Err(error) = bus.reply_dbus_error(call, error).await {
        tracing::debug!(%error, "a refusal was not sent");
    }
}

async fn uid(bus: &Connection, sender: &UniqueName<'_>) -> Option<u32> {
    let name = "org.freedesktop.DBus";
    let path = "/org/freedesktop/DBus";
    let reply =
        bus.call_method(Some(name), path, Some(name), "GetConnectionUnixUser", sender).await;
    reply.ok()?.body().deserialize().ok()
}

#[cfg(test)]
#[path = "gate_tests.rs"]
mod tests;
