//! What is done about differences, at the start, when nothing else is under way.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::api::Refusal;
use super::difference::Difference;
use super::frames;
use super::keeping::{point_of, unkept};
use super::service::blocking;
use super::shared::Shared;
use crate::domain::{
    EventKind, NewEvent, SandboxId, Session, SessionChange, SessionId, Status, Timestamp, Which,
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
        Difference::SandboxLeft(id) => end_left(shared, *id).await?,
        Difference::Stray(stray) => return end(shared, stray.clone()).await,
        Difference::SessionDir(name) => remove_left(shared, name).await?,
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
        Difference::LeaseHeld(_)
        | Difference::Mount(_)
        | Difference::VersionGone(..)
        | Difference::FilesLost(_)
        | Difference::Owner { .. }
        | Difference::Index(..)
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

/// Removes what lies among the directories of sessions and is no session's.
async fn remove_left(shared: &Shared, name: &str) -> Result<(), Refusal> {
    let sessions = shared.places.sessions();
    let left = sessions.join(name);
    // First: what stays when it fails need not tell any more.
    let users = blocking(move || Ok(owners(&left))).await?;
    let removed = remove(sessions, name).await;
    if removed.is_err() {
        hold(shared, users);
    }
    removed
}

/// Who owns a directory, and what is right in it: of a session's, that says whose the rest is. Blocks.
fn owners(dir: &Path) -> BTreeSet<u32> {
    let within = fs::read_dir(dir).into_iter().flatten().flatten();
    let within = within.filter_map(|entry| entry.metadata().ok());
    fs::symlink_metadata(dir).into_iter().chain(within).map(|stat| stat.uid()).collect()
}

/// Ends a sandbox that no session has.
async fn end_left(shared: &Shared, id: SandboxId) -> Result<(), Refusal> {
    let ended = shared.sandboxes.end(id).await;
    let ended = ended.map_err(|error| Refusal::Internal(error.in_full()));
    if ended.is_err() {
        let sandboxes = shared.sandboxes.clone();
        hold(shared, blocking(move || Ok(sandboxes.users(id))).await?);
    }
    ended
}

async fn end(shared: &Shared, stray: Stray) -> Result<Outcome, Refusal> {
    let (sandboxes, uid) = (shared.sandboxes.clone(), stray.uid);
    let ended = spawn_blocking(move || sandboxes.end_stray(&stray)).await;
    if ended.unwrap_or(false) {
        return Ok(Outcome::Mended);
    }
    hold(shared, [uid]);
    Ok(Outcome::Stays)
}

/// Keeps these users from everybody while this daemon lives: something is left that is theirs, and whoever
/// got them would own it.
fn hold(shared: &Shared, users: impl IntoIterator<Item = u32>) {
    for slot in users.into_iter().filter_map(|uid| shared.slots.slot_of(uid)) {
        if shared.slots.hold(slot) {
            tracing::error!("{}", Difference::LeaseHeld(slot));
        }
    }
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;
    use crate::session::stage::Stage;
    use crate::session::survey;

    /// Whoever got them would own what is left.
    #[tokio::test]
    async fn uids_of_what_cannot_be_removed_stay_taken() {
        for goes in [true, false] {
            let stage = Stage::set().await;
            let (shared, slots) = (&stage.shared, &stage.shared.slots);
            let (sessions, name) = (shared.places.sessions(), SessionId::random().to_string());
            if !goes {
                // Nothing is removed where a link leads.
                let elsewhere = shared.places.data_dir.join("elsewhere");
                fs::create_dir(&elsewhere).unwrap();
                symlink(&elsewhere, &sessions).unwrap();
            }
            let home = sessions.join(&name).join("home");
            fs::create_dir_all(&home).unwrap();
            chown(&home, Some(slots.uids(1).agent), None).unwrap();
            let left = Difference::SessionDir(name);
            assert!(survey::look(shared).await.unwrap().contains(&left));
            assert_eq!(mend(shared, &left).await.is_ok(), goes);
            assert_eq!(home.exists(), !goes);
            let next = if goes { 1 } else { 2 };
            assert_eq!((slots.take(), slots.take()), (Ok(0), Ok(next)));
            let found = survey::look(shared).await.unwrap();
            assert_eq!(found.contains(&Difference::LeaseHeld(1)), !goes);
            assert_eq!(found.contains(&Difference::Lease(1)), goes);
        }
    }
}
