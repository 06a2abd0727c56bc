//! What the daemon does about what it finds at its start.
//!
//! The store says which sessions there are; the state directory, the control groups and the
//! sockets say what is left of them. Sandboxes that still answer are gone on with; turns without
//! a sandbox are recorded as failed; whatever belongs to nobody is removed. Every difference is
//! logged in one line.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::agents;
use super::api::Refusal;
use super::driver::{Begin, Driver, Replay};
use super::frames;
use super::keeping::{point_of, unkept};
use super::shared::Shared;
use crate::domain::{
    Event, EventKind, NewEvent, SandboxId, Session, SessionChange, SessionId, Status, Timestamp,
};
use crate::fault;
use crate::sandbox::Running;
use crate::store::Commit;
use crate::tree::remove_all;

/// Sessions that are seen to at a time. Each waits for its bridge, for the broker and for the disk.
const AT_ONCE: usize = 16;

/// Brings everything into agreement.
pub(super) async fn run(shared: &Arc<Shared>, sessions: Vec<Session>) -> Result<(), Refusal> {
    let seen_to = stream::iter(&sessions).map(|session| see_to(shared, session));
    let found: Vec<_> = seen_to.buffer_unordered(AT_ONCE).try_collect().await?;
    let alive: BTreeSet<SandboxId> = found.into_iter().flatten().collect();
    for sandbox in shared.sandboxes.reap(&alive).await {
        tracing::warn!(ash_sandbox = %sandbox, "removed what was left: a sandbox of no session");
    }
    fault::point("reconcile.reaped");
    remove_unknown(shared, &sessions).await;
    remove_unrecorded(shared).await?;
    fault::point("reconcile.removed");
    take_over_old(shared).await
}

/// Brings a session into agreement. Its sandbox, if it is gone on with.
async fn see_to(shared: &Arc<Shared>, session: &Session) -> Result<Option<SandboxId>, Refusal> {
    if session.status == Status::Starting && session.parent.is_some() {
        abandon(shared, session).await?;
    } else if session.status == Status::Ended {
        if let Err(error) = put_away(shared, session).await {
            tracing::error!(ash_session = %session.id, %error, "its end was not finished");
        }
    } else if adopt(shared, session).await? {
        fault::point("reconcile.adopted");
        return Ok(Some(session.sandbox));
    } else {
        set_aside(shared, session).await?;
        fault::point("reconcile.set_aside");
    }
    Ok(None)
}

/// Makes points of what was kept of ended sessions before there were points.
async fn take_over_old(shared: &Shared) -> Result<(), Refusal> {
    let kept = shared.places.old_snapshots();
    let names = std::fs::read_dir(&kept).into_iter().flatten().flatten();
    let names = names.filter_map(|entry| entry.file_name().into_string().ok());
    for id in names.filter_map(|name| name.parse::<SessionId>().ok()) {
        if let Some(session) = shared.store.session(id).await? {
            keep_last(shared, &session, kept.join(id.to_string())).await?;
            tracing::info!(ash_session = %id, "made a point of what was kept of an ended session");
        }
        if let Err(error) = remove_all(&kept, &id.to_string()) {
            tracing::error!(ash_session = %id, %error, "what was kept before could not be removed");
        }
    }
    Ok(())
}

/// Finishes the end of a session that was interrupted in it.
async fn put_away(shared: &Shared, session: &Session) -> Result<(), Refusal> {
    if let Err(error) = shared.sandboxes.end(session.sandbox).await {
        tracing::error!(ash_session = %session.id, error = error.in_full(), "a sandbox is left");
        return Ok(());
    }
    if session.restore.is_some() {
        // It had gone back, and its files had not.
        shared.bring_back(session).await?;
    }
    keep_last(shared, session, shared.places.session(session.id)).await?;
    fault::point("reconcile.kept");
    shared.remove_files(session).await?;
    let change = SessionChange { slot: Some(None), ..SessionChange::none() };
    shared.store.commit(Commit::of(session.id, change, vec![])).await?;
    if let Some(slot) = session.slot {
        shared.slots.give_back(slot);
    }
    tracing::info!(ash_session = %session.id, "finished the end of a session");
    Ok(())
}

/// Makes the last point of a session that has ended, if its files are still there.
async fn keep_last(shared: &Shared, session: &Session, root: PathBuf) -> Result<(), Refusal> {
    if !root.join("workspace").is_dir() {
        return Ok(());
    }
    // Nobody changes anything; the moment is any.
    let (told, mut moments) = mpsc::unbounded_channel();
    let noting = tokio::spawn(async move { while moments.recv().await.is_some() {} });
    let cut = shared.cut(session, root, (Arc::default(), told)).await;
    noting.abort();
    let cut = cut.map_err(|error| unkept(session.id, error))?;
    let point = point_of(&cut, session, None);
    Ok(shared.store.add_point(point, shared.live().keep_points).await?)
}

/// Removes a fork that was never finished.
async fn abandon(shared: &Shared, session: &Session) -> Result<(), Refusal> {
    shared.remove_files(session).await?;
    shared.store.purge_session(session.id).await?;
    if let Some(slot) = session.slot {
        shared.slots.give_back(slot);
    }
    tracing::warn!(ash_session = %session.id, "removed what was left: a fork that was not finished");
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
    let running = match shared.sandboxes.adopt(session.sandbox, uids, 1).await {
        Ok(Some(running)) => running,
        Ok(None) => return Ok(false),
        Err(error) => {
            tracing::warn!(ash_session = %session.id, %error, "a sandbox could not be gone on with");
            return Ok(false);
        }
    };
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

/// Records what became of a session whose sandbox is gone.
async fn set_aside(shared: &Shared, session: &Session) -> Result<(), Refusal> {
    let mut events: Vec<NewEvent> = vec![];
    let mut change = SessionChange::none();
    let mut push = |kind, turn, body| {
        let seq = session.last_seq + events.len() as u64 + 1;
        let at = Timestamp::now();
        events.push(NewEvent { seq, kind, turn, origin: None, replaces: false, body, at });
    };
    if let Some(turn) = session.turn {
        let text = "Interrupted: the sandbox was gone when the server started again";
        push(EventKind::Error, Some(turn.id), frames::error_body(text));
        change.turn = Some(None);
        change.last_error = Some(Some(text.to_owned()));
    }
    if matches!(session.status, Status::Active | Status::Starting) && !session.cold {
        push(EventKind::Lifecycle, None, r#"{"action":"paused"}"#.into());
        change.status = Some(Status::Paused);
    }
    if change == SessionChange::none() {
        return Ok(());
    }
    tracing::info!(ash_session = %session.id, ash_turn = session.turn.map(|turn| turn.id.to_string()), "session paused: its sandbox is gone");
    Ok(shared.store.commit(Commit::of(session.id, change, events)).await?)
}

/// Removes folders of agents, and of versions, that the store does not know.
async fn remove_unrecorded(shared: &Shared) -> Result<(), Refusal> {
    let agents = shared.store.all_agents().await?;
    let places = shared.places.clone();
    let remove = move || agents::remove_unrecorded(&places, &agents);
    match tokio::task::spawn_blocking(remove).await {
        Ok(Ok(removed)) => {
            removed.iter().for_each(|what| tracing::warn!("removed what was left: {what}"));
        }
        Ok(Err(error)) => tracing::error!(%error, "leftover folders of agents were not removed"),
        Err(error) => tracing::error!(%error, "leftover folders of agents were not removed"),
    }
    Ok(())
}

/// Removes directories of sessions that the store does not know, and staged deployments.
async fn remove_unknown(shared: &Shared, sessions: &[Session]) {
    let known: HashSet<String> = sessions.iter().map(|session| session.id.to_string()).collect();
    let places = shared.places.clone();
    let remove = move || {
        for (parent, keep) in [(places.sessions(), Some(&known)), (places.staging(), None)] {
            let Ok(entries) = std::fs::read_dir(&parent) else { continue };
            for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
                if keep.is_some_and(|known| known.contains(&name)) {
                    continue;
                }
                match remove_all(&parent, &name) {
                    Ok(()) => tracing::warn!("removed what was left: directory {name}"),
                    Err(error) => tracing::error!(%error, "could not remove directory {name}"),
                }
            }
        }
    };
    if let Err(error) = tokio::task::spawn_blocking(remove).await {
        tracing::error!(%error, "leftover directories were not removed");
    }
}
