//! What polkit says of a caller.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use serde::Serialize;
use tokio::time::timeout;
use zbus::fdo::DBusProxy;
use zbus::names::UniqueName;
use zbus::zvariant::{DynamicType, Value};
use zbus::{Connection, Message};

use super::rights::Right;
use crate::telemetry::SharedPace;

/// How long answers may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// polkit by itself, also on a machine that is short of everything.
    pub(super) alone: Duration,
    /// A person who authenticates.
    pub(super) with_people: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Patience { alone: Duration::from_secs(20), with_people: Duration::from_secs(120) }
    }
}

/// `AllowUserInteraction` of `CheckAuthorization`.
const ALLOW_USER_INTERACTION: u32 = 1;

/// What became of a question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    /// The caller has the right.
    Allowed,
    /// It has not.
    Refused,
    /// It would have it if somebody authenticated, which the call did not allow.
    Challenge,
    /// polkit is not on this bus, or failed.
    Absent,
    /// It did not answer in time.
    Silent,
}

/// Who wants to do what.
pub(super) struct Question<'a> {
    /// The connection that calls.
    pub(super) caller: &'a UniqueName<'a>,
    /// What it needs for that.
    pub(super) right: Right,
}

/// Asks whether the connection with this name has a right; a person is asked only if `interactive`.
///
/// The bus never gives a unique name to another connection, so the answer is about this caller and
/// no other. It is asked anew for every call.
pub(super) async fn ask(
    bus: &Connection,
    question: &Question<'_>,
    interactive: bool,
    patience: Patience,
) -> Answer {
    let first = timeout(patience.alone, check(bus, question, 0, "")).await;
    match first {
        Err(_) => Answer::Silent,
        Ok(Ok(Answer::Challenge)) if interactive => ask_people(bus, question, patience).await,
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => failed(&error),
    }
}

/// Asks again, and lets somebody authenticate. The dialogue goes away with the caller.
async fn ask_people(bus: &Connection, question: &Question<'_>, patience: Patience) -> Answer {
    static QUESTIONS: AtomicU64 = AtomicU64::new(0);
    let id = format!("ash-{}", QUESTIONS.fetch_add(1, Ordering::Relaxed));
    let answered = async {
        tokio::select! {
            answer = check(bus, question, ALLOW_USER_INTERACTION, &id) => Some(answer),
            () = gone(bus, question.caller) => None,
        }
    };
    match timeout(patience.with_people, answered).await {
        // Nobody is there who could ask.
        Ok(Some(Ok(Answer::Challenge))) => Answer::Refused,
        Ok(Some(Ok(answer))) => answer,
        Ok(Some(Err(error))) => failed(&error),
        Ok(None) | Err(_) => {
            // Who does not answer questions may not answer this one either.
            let _ = timeout(patience.alone, cancel(bus, &id)).await;
            Answer::Silent
        }
    }
}

/// Returns when a caller has left the bus.
async fn gone(bus: &Connection, caller: &UniqueName<'_>) {
    let left = async {
        let names = DBusProxy::new(bus).await?;
        let mut changes =
            names.receive_name_owner_changed_with_args(&[(0, caller.as_str())]).await?;
        if names.name_has_owner(caller.to_owned().into()).await? {
            changes.next().await;
        }
        zbus::Result::Ok(())
    };
    if let Err(error) = left.await {
        tracing::debug!(%error, "a caller cannot be watched");
        std::future::pending().await
    }
}

fn failed(error: &zbus::Error) -> Answer {
    static PACE: SharedPace = SharedPace::new();
    if let Some(left_out) = PACE.step(0) {
        tracing::warn!(%error, left_out, "polkit cannot be asked; only root may call");
    }
    Answer::Absent
}

async fn cancel(bus: &Connection, id: &str) -> zbus::Result<()> {
    call(bus, "CancelCheckAuthorization", &id).await.map(drop)
}

async fn check(
    bus: &Connection,
    question: &Question<'_>,
    flags: u32,
    cancellation: &str,
) -> zbus::Result<Answer> {
    let name = HashMap::from([("name", Value::from(question.caller.as_str()))]);
    let subject = ("system-bus-name", name);
    let details = HashMap::<&str, &str>::new();
    let asked = (subject, question.right.action(), details, flags, cancellation);
    let reply = call(bus, "CheckAuthorization", &asked).await?;
    let (is_authorized, is_challenge, _): (bool, bool, HashMap<String, String>) =
        reply.body().deserialize()?;
    Ok(match (is_authorized, is_challenge) {
        (true, _) => Answer::Allowed,
        (false, true) => Answer::Challenge,
        (false, false) => Answer::Refused,
    })
}

/// Calls polkit, as in the reference of its D-Bus interface.
async fn call<B>(bus: &Connection, method: &str, body: &B) -> zbus::Result<Message>
where
    B: Serialize + DynamicType,
{
    let (name, path) = ("org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority");
    let interface = "org.freedesktop.PolicyKit1.Authority";
    bus.call_method(Some(name), path, Some(interface), method, body).await
}
