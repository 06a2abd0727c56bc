//! What is done about differences, at the start, when nothing else is under way.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::api::Refusal;
use super::difference::Difference;
use super::frames;
use super::keeping::{point_of, unkept};
use super::shared::Shared;
use crate::domain::{
    EventKind, NewEvent, Session, SessionChange, SessionId, Status, Timestamp, Which,
};
use crate::fault;
use crate::sandbox::Stray;
use crate::store::Commit;
use crate::tree::remove_all;

/// What became of a difference.
pub(super) enum Outcome {
    /// It is none any more.
    Mended,
    /// It stays for now, and does no harm.
    Later,
    /// Only a person can mend it.
    Stays,
}

/// Mends one difference, if that can be done.
///
/// # Errors
/// When the store or the disk fails.
pub(super) async fn mend(shared: &Arc<Shared>, what: &Difference) -> Result<Outcome, Refusal> {
    let places = &shared.places;
    match what {
        Difference::SandboxGone(id) => {
            set_aside(shared, &recorded(shared, *id).await?).await?;
            fault::point("reconcile.set_aside");
        }
        Difference::FilesUnsure(id) => shared.give_up_files(&recorded(shared, *id).await?).await?,
        Difference::HalfFork(id) => abandon(shared, &recorded(shared, *id).await?).await?,
        Difference::HalfEnded(id) => put_away(shared, &recorded(shared, *id).await?).await?,
        Difference::SandboxLeft(id) => {
            let ended = shared.sandboxes.end(*id).await;
            ended.map_err(|error| Refusal::Internal(error.in_full()))?;
        }
        Difference::Stray(stray) => return end(shared, stray.clone()).await,
        Difference::SessionDir(name) => remove(places.sessions(), name).await?,
        Difference::Staged(name) => remove(places.staging(), name).await?,
        Difference::AgentDir(tenant, name) => remove(places.agents().join(tenant), name).await?,
        Difference::VersionDir(tenant, name, version) => {
            remove(places.agents().join(tenant).join(name), version).await?;
        }
        Difference::Attachment(folder, name) => {
            remove(places.attachments().join(folder), name).await?;
        }
        Difference::BackupCopy(name) => remove(places.data_dir.clone(), name).await?,
        Difference::OldKept(id) => take_over(shared, *id).await?,
        Difference::Lease(slot) => shared.slots.give_back(*slot),
        Difference::FilesAway(_) => return Ok(Outcome::Later),
        Difference::Mount(_)
        | Difference::VersionGone(..)
        | Difference::FilesLost(_)
        | Difference::Owner { .. }
        | Difference::Pack(..)
        | Difference::Point { .. }
        | Difference::Database(_) => return Ok(Outcome::Stays),
    }
    Ok(Outcome::Mended)
}

async fn recorded(shared: &Shared, id: SessionId) -> Result<Session, Refusal> {
    shared.store.session(id).await?.ok_or(Refusal::NoSession)
}

/// Removes something that belongs to nobody.
async fn remove(parent: PathBuf, name: &str) -> Result<(), Refusal> {
    let name = name.to_owned();
    let removed = spawn_blocking(move || remove_all(&parent, &name)).await;
    let removed = removed.map_err(|error| Refusal::Internal(error.to_string()))?;
    removed.map_err(|error| Refusal::Internal(error.to_string()))
}

async fn end(shared: &Arc<Shared>, stray: Stray) -> Result<Outcome, Refusal> {
    let sandboxes = shared.sandboxes.clone();
    let ended = spawn_blocking(move || sandboxes.end_stray(&stray)).await;
    Ok(if ended.unwrap_or(false) { Outcome::Mended } else { Outcome::Stays })
}

/// Makes a point of what was kept of an ended session before there were points.
async fn take_over(shared: &Shared, id: SessionId) -> Result<(), Refusal> {
    let kept = shared.places.old_snapshots();
    if let Some(session) = shared.store.session(id).await? {
        keep_last(shared, &session, kept.join(id.to_string())).await?;
    }
    remove(kept, &id.to_string()).await
}

/// Finishes the end of a session that was interrupted in it.
pub(super) async fn put_away(shared: &Shared, session: &Session) -> Result<(), Refusal> {
    let ended = shared.sandboxes.end(session.sandbox).await;
    ended.map_err(|error| Refusal::Internal(error.in_full()))?;
    if has_own_files(shared, session).await? {
        keep_last(shared, session, shared.places.session(session.id)).await?;
    }
    fault::point("reconcile.kept");
    shared.remove_files(session).await?;
    let change = SessionChange { slot: Some(None), ..SessionChange::none() };
    shared.store.commit(Commit::of(session.id, change, vec![])).await?;
    if let Some(slot) = session.slot {
        shared.slots.give_back(slot);
    }
    Ok(())
}

/// Whether the files in a session's place are its own: one that had gone back may have those of
/// before. When what it went back to is lost, nothing of it can be kept.
async fn has_own_files(shared: &Shared, session: &Session) -> Result<bool, Refusal> {
    if session.restore.is_none() {
        return Ok(true);
    }
    match shared.bring_back(session).await {
        Ok(_) => Ok(true),
        Err(Refusal::Damaged { .. } | Refusal::NothingKept) => Ok(false),
        Err(refusal) => Err(refusal),
    }
}

/// Makes the last point of a session that has ended, if its files are still there.
async fn keep_last(shared: &Shared, session: &Session, root: PathBuf) -> Result<(), Refusal> {
    if !root.join("workspace").is_dir() {
        return Ok(());
    }
    let cut = shared.cut_at_rest(session, root).await;
    let cut = cut.map_err(|error| unkept(session.id, error))?;
    let newest = shared.store.point(session.id, Which::Newest).await?;
    let point = point_of(&cut, session, None).behind(newest.as_ref());
    Ok(shared.add_point(point, shared.live().keep_points).await?)
}

/// Removes a fork that was never finished.
async fn abandon(shared: &Shared, session: &Session) -> Result<(), Refusal> {
    shared.remove_files(session).await?;
    shared.store.purge_session(session.id).await?;
    shared.forget_attachments(session.id).await;
    if let Some(slot) = session.slot {
        shared.slots.give_back(slot);
    }
    Ok(())
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
    Ok(shared.store.commit(Commit::of(session.id, change, events)).await?)
}
