//! The end of a session of which nothing is kept.
//!
//! Its row goes first, by one commit, with which it is out of everybody's sight. Whatever else there is of it
//! belongs to nobody from then on: what a daemon leaves that dies meanwhile, or a machine, the next start
//! removes. So nothing is put on the disk for the sake of what goes. A daemon that dies before the commit
//! leaves a session that has lost its sandbox, and nothing else.

use tokio::task::spawn_blocking;

use super::api::{Happened, Refusal};
use super::fsck::Failed;
use super::keeping::remove_beside;
use super::registry::SessionView;
use super::service::Result;
use super::shared::Shared;
use crate::domain::{Root, Session, Status};
use crate::fault;
use crate::snapshot::SnapshotError;
use crate::telemetry::message;
use crate::tree::remove_all;

impl Shared {
    /// Purges a session that has no sandbox, and whose files nobody uses. When it is purged, says whether
    /// that has left nothing: what it has, the next start removes.
    ///
    /// # Errors
    /// [`Refusal::NoSession`] when somebody else was quicker; when it cannot be purged now. It is as it was
    /// then.
    pub(super) async fn purge(&self, session: &Session) -> Result<Result<()>> {
        let id = session.id;
        self.see_off(session).await?;
        // What has no row any more is no difference while it goes.
        let _going = session.slot.map(|slot| self.making.begin((id, slot)));
        let _attachments = self.attaching.begin(id);
        let had = self.content_of(id).await?;
        self.begin_purge(session, had.clone()).await?;
        let slot = match self.store.purge_session(id).await {
            Ok(Some(purged)) => purged.slot,
            not_purged => {
                self.give_up_purge(session).await;
                // Whatever else there is of it goes with whoever was quicker.
                return Err(not_purged.err().map_or(Refusal::NoSession, Refusal::from));
            }
        };
        fault::point("purge.recorded");
        let ended = Session { status: Status::Ended, ..session.clone() };
        self.registry.publish(SessionView::of(&ended));
        let cleared = self.clear(session, slot, had).await;
        self.registry.remove(id);
        self.garbage.left_by(&session.tenant);
        self.copies.wake(id);
        fault::point("purge.removed");
        Ok(cleared)
    }

    /// Sees to it that nothing runs any more with the uids of a session that is about to give them back: its
    /// sandbox may not have ended when it was told to.
    ///
    /// # Errors
    /// When something runs all the same.
    pub(super) async fn see_off(&self, session: &Session) -> Result<()> {
        let (sandboxes, sandbox) = (&self.sandboxes, session.sandbox);
        if session.slot.is_none() || !sandboxes.runs(sandbox) {
            return Ok(());
        }
        match sandboxes.end(sandbox).await {
            Err(error) if sandboxes.runs(sandbox) => {
                let in_full = error.in_full();
                tracing::error!(
                    ash_session = %session.id, ash_sandbox = %sandbox, error = in_full,
                    "a sandbox does not end"
                );
                Err(error.into())
            }
            _ => Ok(()),
        }
    }

    /// Notes that a session is about to be purged, whose points have this, and forgets what is known of its
    /// files: that can be found by its id, and by nothing else.
    async fn begin_purge(&self, session: &Session, had: Vec<Root>) -> Result<()> {
        let (id, snapshots, tenant) = (session.id, self.snapshots.clone(), session.tenant.clone());
        let note = move || -> std::result::Result<(), SnapshotError> {
            let vault = snapshots.vault(&tenant)?;
            vault.forget(id)?;
            vault.begin_purge(id, had)
        };
        let noted = spawn_blocking(note).await;
        let noted = noted.map_err(|error| Refusal::Internal(error.to_string()))?;
        Ok(noted.map_err(Failed::from)?)
    }

    /// Notes that a session is not purged.
    async fn give_up_purge(&self, session: &Session) {
        let (id, snapshots, tenant) = (session.id, self.snapshots.clone(), session.tenant.clone());
        let give_up = move || {
            if let Ok(Some(vault)) = snapshots.known_vault(&tenant) {
                vault.give_up_purge(id);
            }
        };
        // If that breaks off, whoever collects looks for more than there is.
        let _ = spawn_blocking(give_up).await;
    }

    /// Removes what is there of a session that is not recorded any more. Its uids are free when no file
    /// belongs to them.
    async fn clear(&self, session: &Session, slot: Option<u32>, had: Vec<Root>) -> Result<()> {
        let (id, places) = (session.id, self.places.clone());
        let (snapshots, tenant) = (self.snapshots.clone(), session.tenant.clone());
        let clear = move || {
            let (sessions, name) = (places.sessions(), id.to_string());
            // Somebody may have failed to remove them before.
            let beside = remove_beside(&sessions, id);
            let files = remove_all(&sessions, &name).and(beside);
            let attachments = remove_all(&places.attachments(), &name);
            // Of a tenant that has left in between nothing is left, and no vault is made for it.
            let noted = snapshots.known_vault(&tenant);
            let noted =
                noted.and_then(|vault| vault.map_or(Ok(()), |vault| vault.note_purge(id, had)));
            (files, attachments, noted)
        };
        let cleared = spawn_blocking(clear).await;
        let (files, attachments, noted) =
            cleared.map_err(|error| Refusal::Internal(error.to_string()))?;
        if let Err(error) = attachments {
            tracing::warn!(ash_session = %id, %error, "attachments were not removed");
        }
        files.map_err(|error| {
            tracing::error!(ash_session = %id, %error, "the files of a purged session are left");
            Refusal::Internal("the session's files could not be removed".to_owned())
        })?;
        if let Some(slot) = slot {
            self.slots.give_back(slot);
        }
        Ok(noted.map_err(Failed::from)?)
    }

    /// Tells that a session is purged.
    pub(super) fn tell_purged(&self, session: &Session) {
        let Session { id, agent, tenant, .. } = session;
        tracing::info!(
            message_id = message::SESSION_PURGED, ash_session = %id, ash_agent = %agent,
            ash_tenant = %tenant, "session purged"
        );
        self.tell(Happened::SessionPurged(tenant.clone(), *id));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rusqlite::Connection;

    use super::*;
    use crate::session::stage::Stage;

    /// A session that has uids.
    fn session(stage: &Stage) -> Session {
        Session { slot: Some(stage.shared.slots.take().unwrap()), ..Session::example(1) }
    }

    #[tokio::test]
    async fn nothing_is_left_and_the_uids_are_free() {
        let stage = Stage::set().await;
        let (shared, session) = (&stage.shared, session(&stage));
        stage.add_with_files(&session).await;
        let beside = |kind: &str| shared.places.session(session.id).with_extension(kind);
        let places = [
            shared.places.session(session.id),
            shared.places.attachments_of(session.id),
            beside("gone"),
            beside("new"),
            beside("old"),
        ];
        places.iter().for_each(|place| fs::create_dir_all(place).unwrap());
        shared.purge(&session).await.unwrap().unwrap();
        assert_eq!(places.map(|place| place.exists()), [false; 5]);
        assert_eq!(shared.store.session(session.id).await.unwrap(), None);
        assert!(shared.slots.used().is_empty());
        assert!(shared.making.all().is_empty() && shared.attaching.all().is_empty());
        assert!(shared.snapshots.vault(&session.tenant).unwrap().was_purged());
    }

    #[tokio::test]
    async fn one_that_cannot_be_recorded_as_purged_loses_nothing() {
        let stage = Stage::set().await;
        let (shared, session) = (&stage.shared, session(&stage));
        stage.add_with_files(&session).await;
        let database = Connection::open(shared.places.data_dir.join("ash.db")).unwrap();
        let kept = "CREATE TRIGGER kept BEFORE DELETE ON sessions
             BEGIN SELECT RAISE(ABORT, 'it stays'); END";
        database.execute_batch(kept).unwrap();
        assert!(matches!(shared.purge(&session).await, Err(Refusal::Store(_))));
        assert!(shared.places.has_files(session.id));
        assert_eq!(shared.store.session(session.id).await.unwrap(), Some(session));
        assert_eq!(shared.slots.used().len(), 1);
        assert!(shared.making.all().is_empty());
    }

    #[tokio::test]
    async fn of_two_who_purge_it_one_has_purged_it() {
        let stage = Stage::set().await;
        let (shared, session) = (&stage.shared, session(&stage));
        stage.add_with_files(&session).await;
        let (one, other) = tokio::join!(shared.purge(&session), shared.purge(&session));
        let (purged, late): (Vec<_>, Vec<_>) =
            [one, other].into_iter().partition(std::result::Result::is_ok);
        assert!(matches!(&purged[..], [Ok(Ok(()))]), "{purged:?}");
        assert!(matches!(&late[..], [Err(Refusal::NoSession)]), "{late:?}");
        assert!(shared.slots.used().is_empty() && !shared.places.has_files(session.id));
        assert!(shared.snapshots.vault(&session.tenant).unwrap().was_purged());
    }

    /// What runs could reach whoever got them.
    #[tokio::test]
    async fn uids_stay_taken_while_something_runs_with_them() {
        let stage = Stage::set().await;
        let (shared, session) = (&stage.shared, session(&stage));
        stage.add_with_files(&session).await;
        let group = stage.stays(session.sandbox);
        assert!(matches!(shared.purge(&session).await, Err(Refusal::Sandbox(_))));
        assert!(shared.places.has_files(session.id));
        assert_eq!(shared.store.session(session.id).await.unwrap().as_ref(), Some(&session));
        assert_eq!(shared.slots.used().len(), 1);
        fs::remove_dir_all(group).unwrap();
        shared.purge(&session).await.unwrap().unwrap();
        assert!(shared.slots.used().is_empty());
    }

    /// Whoever got them would own what is left.
    #[tokio::test]
    async fn uids_stay_taken_when_files_are_left() {
        let stage = Stage::set().await;
        let (shared, session) = (&stage.shared, session(&stage));
        stage.add(&session).await;
        fs::write(shared.places.sessions(), "in the way").unwrap();
        let cleared = shared.purge(&session).await.unwrap();
        assert!(matches!(cleared, Err(Refusal::Internal(_))));
        assert_eq!(shared.store.session(session.id).await.unwrap(), None);
        assert_eq!(shared.slots.used().len(), 1);
    }
}
