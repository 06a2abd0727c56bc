//! Sessions that another machine has taken: they end here.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::api::Refusal;
use super::driver::{Command, Driver};
use super::frames;
use super::mend::put_away;
use super::service::Result;
use super::shared::Shared;
use crate::domain::{EventKind, NewEvent, Session, SessionChange, SessionId, Status, Timestamp};
use crate::store::Commit;

/// What is said where a session was.
const GONE_ON: &str = "The session was imported by another server, and goes on there";

/// Ends a session that goes on elsewhere, and says so. One that is ended half-way is ended wholly.
///
/// # Errors
/// When it cannot be ended now, or the store fails. It is as it was then, or ended half-way.
pub(super) async fn end_here(shared: &Arc<Shared>, id: SessionId) -> Result<()> {
    let Some(session) = shared.store.session(id).await? else { return Ok(()) };
    if session.status != Status::Ended || session.slot.is_some() {
        match session.status {
            Status::Ended => put_away(shared, &session).await?,
            _ => end(shared, &session).await?,
        }
        shared.registry.remove(id);
        say_so(shared, id).await?;
    }
    // What is here is no part of what is there any more.
    if let Some(newest) = shared.store.points_to_copy(id).await?.last() {
        shared.store.copied(id, newest.clone(), vec![]).await?;
    }
    Ok(())
}

/// Ends a session as its owner would.
async fn end(shared: &Arc<Shared>, session: &Session) -> Result<()> {
    let handle = Driver::of(shared, session);
    handle.leaving.store(true, Ordering::Relaxed);
    let (reply, ended) = oneshot::channel();
    // A driver that takes nothing any more has ended with its session, or with the daemon.
    let gone = || match shared.is_shutting_down() {
        true => Err(Refusal::ShuttingDown),
        false => Ok(()),
    };
    if handle.commands.send(Command::End { purge: false, reply }).await.is_err() {
        return gone();
    }
    match ended.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) => Err(refusal),
        Err(_) => gone(),
    }
}

/// Says in a session's history, and where it failed last, why it has ended.
async fn say_so(shared: &Shared, id: SessionId) -> Result<()> {
    let Some(session) = shared.store.session(id).await? else { return Ok(()) };
    if session.status != Status::Ended {
        return Err(Refusal::Internal("its driver is gone".to_owned()));
    }
    let change =
        SessionChange { last_error: Some(Some(GONE_ON.to_owned())), ..SessionChange::none() };
    let said = NewEvent {
        seq: session.last_seq + 1,
        kind: EventKind::Error,
        turn: None,
        origin: None,
        replaces: false,
        body: frames::error_body(GONE_ON),
        at: Timestamp::now(),
    };
    Ok(shared.store.commit(Commit::of(id, change, vec![said])).await?)
}
