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
    let is_over = session.status == Status::Ended && session.slot.is_none();
    if !is_over {
        match session.status {
            // Else its owner may be ending it wholly, by way of the driver: both would give its uids back.
            Status::Ended if shared.registry.handle(id).is_none() => {
                put_away(shared, &session).await?;
            }
            _ => end(shared, &session).await?,
        }
        shared.registry.remove(id);
    }
    let newest = shared.store.points_to_copy(id).await?.pop();
    // Whoever ended it and could not say so has left its last point.
    if !is_over || newest.is_some() {
        say_so(shared, id).await?;
    }
    // What is here is no part of what is there any more.
    if let Some(newest) = newest {
        shared.store.copied(id, newest, vec![]).await?;
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

/// Says in a session's history, and where it failed last, why it has ended, unless that is said.
async fn say_so(shared: &Shared, id: SessionId) -> Result<()> {
    let Some(session) = shared.store.session(id).await? else { return Ok(()) };
    if session.status != Status::Ended {
        return Err(Refusal::Internal("its driver is gone".to_owned()));
    }
    if session.last_error.as_deref() == Some(GONE_ON) {
        return Ok(());
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

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::domain::Point;
    use crate::session::stage::{Stage, handle};
    use crate::store::EventRange;

    async fn history(stage: &Stage, id: SessionId) -> Vec<EventKind> {
        let range = EventRange { after: 0, limit: 100, kinds: vec![], undone: true };
        let events = stage.shared.store.events(id, range).await.unwrap();
        events.iter().map(|event| event.kind).collect()
    }

    /// A daemon may have died right before that, or the disk have been full.
    #[tokio::test]
    async fn what_could_not_be_said_is_said_later_and_once() {
        let stage = Stage::set().await;
        let (shared, session) =
            (&stage.shared, Session { status: Status::Ended, ..Session::example(1) });
        let id = session.id;
        stage.add(&session).await;
        let point = Point { session: id, ..Point::example(0) };
        shared.store.add_point(point, 9).await.unwrap();
        for _ in 0..2 {
            end_here(shared, id).await.unwrap();
            assert_eq!(history(&stage, id).await, [EventKind::Error]);
            let now = shared.store.session(id).await.unwrap().unwrap();
            assert_eq!(now.last_error.as_deref(), Some(GONE_ON));
            assert!(shared.store.sessions_to_copy().await.unwrap().is_empty());
        }
    }

    /// It has ended before somebody else took it, and all of it was there by then.
    #[tokio::test]
    async fn nothing_is_said_of_one_that_its_owner_has_ended() {
        let stage = Stage::set().await;
        let session = Session { status: Status::Ended, ..Session::example(1) };
        stage.add(&session).await;
        end_here(&stage.shared, session.id).await.unwrap();
        assert_eq!(history(&stage, session.id).await, []);
    }

    /// Else both would give its uids back, and somebody else may have them in between.
    #[tokio::test]
    async fn one_that_was_ended_half_way_is_ended_by_its_driver() {
        let stage = Stage::set().await;
        let shared = &stage.shared;
        let slot = Some(shared.slots.take().unwrap());
        let session = Session { status: Status::Ended, slot, ..Session::example(1) };
        stage.add(&session).await;
        let (commands, mut asked) = mpsc::channel(1);
        shared.registry.handle_or(&session, || handle(&session, commands));
        let refuse = async {
            let Some(Command::End { purge: false, reply }) = asked.recv().await else {
                panic!("it is not asked to end it")
            };
            assert!(reply.send(Err(Refusal::ShuttingDown)).is_ok());
        };
        let (ended, ()) = tokio::join!(end_here(shared, session.id), refuse);
        assert!(matches!(ended, Err(Refusal::ShuttingDown)));
        assert_eq!(shared.slots.used().len(), 1);
    }
}
