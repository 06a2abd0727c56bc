//! What the daemon does at its start about what it finds.
//!
//! Sandboxes that still answer are gone on with. Then comes the pass that `ashctl fsck` makes, and
//! what it finds is mended; every difference is logged in one line. No vault is opened for that, but of
//! those whose sessions are put away or built: that takes the longer the more is kept, and comes
//! [behind the start](super::fsck::look_behind).

use std::fs;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;

use super::api::Refusal;
use super::difference::{Difference, Mending};
use super::driver::{Begin, Driver, Replay};
use super::incoming::unwritable;
use super::mend::{Outcome, mend};
use super::service::blocking;
use super::shared::Shared;
use super::survey;
use crate::domain::{Event, EventKind, Session, Status};
use crate::fault;
use crate::sandbox::Running;

/// Sessions that are seen to at a time. Each waits for its bridge, for the broker and for the disk.
const AT_ONCE: usize = 16;

/// Brings everything into agreement.
pub(super) async fn run(shared: &Arc<Shared>, sessions: Vec<Session>) -> Result<(), Refusal> {
    make_room(shared).await?;
    shared.watch_disk().await?;
    let ours = |session: &&Session| session.status != Status::Ended && !session.is_arriving();
    let adopted = stream::iter(sessions.iter().filter(ours)).map(|session| async move {
        let is_adopted = adopt(shared, session).await?;
        if is_adopted {
            fault::point("reconcile.adopted");
        }
        Ok::<_, Refusal>(is_adopted.then_some(session.id))
    });
    let adopted: Vec<_> = adopted.buffer_unordered(AT_ONCE).try_collect().await?;
    shared.note_in_use(adopted.into_iter().flatten().collect()).await?;
    let found = survey::look(shared).await?.into_iter();
    let (running, lying): (Vec<_>, Vec<_>) = found.partition(Difference::is_of_what_runs);
    for difference in running {
        settle(shared, &difference).await?;
    }
    fault::point("reconcile.reaped");
    // Behind the mending: what is left is of this boot.
    shared.sync_left().await?;
    for difference in lying {
        settle(shared, &difference).await?;
    }
    fault::point("reconcile.removed");
    Ok(())
}

/// Makes the directories that are there for good, however little is in them.
async fn make_room(shared: &Shared) -> Result<(), Refusal> {
    let all = shared.places.attachments();
    blocking(move || fs::create_dir_all(all).map_err(|error| unwritable(&error))).await
}

/// Mends a difference and says so. What cannot be mended stays for the next start, unless it is
/// the store that fails.
async fn settle(shared: &Arc<Shared>, difference: &Difference) -> Result<(), Refusal> {
    let session = difference.session().map(|id| id.to_string());
    match mend(shared, difference).await {
        Ok(Outcome::Mended) => tracing::warn!(ash_session = session, "mended: {difference}"),
        Ok(Outcome::Later) => tracing::info!(ash_session = session, "{difference}"),
        Ok(Outcome::Stays) if difference.mending() == Mending::Itself => {
            tracing::error!(ash_session = session, "not mended: {difference}");
        }
        Ok(Outcome::Stays) => {
            tracing::error!(ash_session = session, "{difference}; {}", difference.advice());
        }
        // What was to be kept can be kept at the next start.
        Err(error @ Refusal::Store(_)) if !difference.can_wait() => return Err(error),
        Err(error) => tracing::error!(ash_session = session, %error, "not mended: {difference}"),
    }
    Ok(())
}

/// Goes on with a session whose sandbox still answers.
async fn adopt(shared: &Arc<Shared>, session: &Session) -> Result<bool, Refusal> {
    let Some(slot) = session.slot else { return Ok(false) };
    // A daemon that died while it made the session go on has left it a sandbox and the status of
    // before. Nothing has happened in there yet, and whoever reads "stopped" relies on it.
    if matches!(session.status, Status::Stopped | Status::Error) {
        return Ok(false);
    }
    let uids = shared.slots.uids(slot);
    let running = match shared.sandboxes.adopt(session.sandbox, session.id, uids, 1).await {
        Ok(Some(running)) => running,
        Ok(None) => return Ok(false),
        Err(error) => {
            tracing::warn!(ash_session = %session.id, %error, "a sandbox could not be gone on with");
            return Ok(false);
        }
    };
    // One that was told to go failed its turn first. Whatever it does is nobody's.
    let ours = session.turn.map(|turn| turn.id.to_string());
    if running.welcome.turn.is_some() && running.welcome.turn != ours {
        tracing::warn!(ash_session = %session.id, "a sandbox goes on with a turn that is over; it ends");
        shared.end_sandbox(running).await;
        return Ok(false);
    }
    let replay = replay(shared, session, &running).await?;
    tracing::info!(ash_session = %session.id, ash_turn = session.turn.map(|turn| turn.id.to_string()), "going on with a sandbox");
    let (driver_shared, started) = (shared.clone(), session.clone());
    let spawn = || Driver::spawn(driver_shared, started, Begin::Adopted(running, replay));
    shared.registry.handle_or(session, spawn);
    Ok(true)
}

/// What of that which the bridge will send again is on disk already.
async fn replay(shared: &Shared, session: &Session, running: &Running) -> Result<Replay, Refusal> {
    let (store, epoch) = (&shared.store, session.sandbox.epoch());
    let known = match session.turn {
        Some(turn) => store.origins(session.id, epoch, turn.user_seq).await?,
        None => vec![],
    };
    let newest = store.newest(session.id, epoch, None).await?;
    let result = store.newest(session.id, epoch, Some(EventKind::Result)).await?;
    let there = running.welcome.turn.as_deref();
    Ok(Replay {
        active: true,
        committed: newest.and_then(|event| event.origin).map_or(0, |origin| origin.number),
        known: known.into_iter().collect(),
        until: running.welcome.resend_to,
        unseen: session.turn.filter(|turn| there != Some(turn.id.to_string().as_str())),
        cost: result.as_ref().map_or(0.0, cost),
        ..Replay::default()
    })
}

fn cost(event: &Event) -> f64 {
    #[derive(Deserialize)]
    struct Cost {
        total_cost_usd: Option<f64>,
    }
    serde_json::from_slice::<Cost>(&event.body).ok().and_then(|c| c.total_cost_usd).unwrap_or(0.0)
}
