//! How a session becomes two.

use std::sync::Arc;

use tokio::sync::watch;

use super::api::{Caller, Happened, Refusal};
use super::driver::Command;
use super::going_on;
use super::registry::SessionView;
use super::service::{Result, Service, detached};
use super::unsynced::Built;
use crate::domain::{
    Changed, Point, SandboxId, Session, SessionChange, SessionId, Status, Timestamp, Which,
};
use crate::fault;
use crate::snapshot::Pin;
use crate::store::{Commit, Copying};
use crate::telemetry::message;

/// Events that are copied at a time: others' commits wait no longer than for these.
const COPIED: u32 = 500;

/// What becomes of a turn that was running at the point.
const INTERRUPTED: &str = "Interrupted: the session was forked while it answered";

/// What is said when the point that was saved for a fork is gone before that has it.
const REMOVED: &str = "The checkpoint that was saved for the fork was removed meanwhile";

impl Service {
    /// Makes a session of its own out of another one as it was at a point, or as it is now, also
    /// in mid-turn. Goes on when the caller is gone.
    pub async fn fork(
        &self,
        caller: &Caller,
        id: SessionId,
        from: Option<Which>,
    ) -> Result<Arc<SessionView>> {
        let (service, caller) = (self.clone(), caller.clone());
        detached(async move { service.fork_now(&caller, id, from).await }).await
    }

    async fn fork_now(
        &self,
        caller: &Caller,
        id: SessionId,
        from: Option<Which>,
    ) -> Result<Arc<SessionView>> {
        if self.shared.is_shutting_down() {
            return Err(Refusal::ShuttingDown);
        }
        self.shared.disk_has_room()?;
        let parent = self.stored(caller, id).await?;
        let agent = self.shared.places.version(&parent.tenant, &parent.agent, parent.agent_version);
        if !agent.is_dir() {
            return Err(Refusal::NoAgentNamed(parent.agent));
        }
        let (point, pin) = self.pinned_point(caller, &parent, from).await?;
        let slot = self.shared.take_new_slot().await?;
        let child = draft(&parent, &point, slot);
        let _making = self.shared.making.begin((child.id, slot));
        let made = self.make_fork(&child, &point, &pin).await;
        if made.is_err() {
            self.undo_fork(&child).await;
        }
        made
    }

    /// The point that a fork is made of, and what keeps it from being collected. What is to be saved for it
    /// is, before anything is pinned: nothing is collected while it is not known which point is meant.
    async fn pinned_point(
        &self,
        caller: &Caller,
        parent: &Session,
        from: Option<Which>,
    ) -> Result<(Point, Pin)> {
        let id = parent.id;
        let is_saved = from.is_none() && parent.status != Status::Ended;
        let which = match (from, parent.restore) {
            (Some(which), _) => which,
            // Nobody has used it since its files were removed: they are not built only to be saved again.
            (None, Some(point)) if is_saved && parent.slot.is_none() => Which::Id(point),
            (None, _) if is_saved => {
                let save = |reply| Command::Save { name: None, reply };
                Which::Id(self.ask(caller, id, save).await?.id)
            }
            (None, _) => Which::Newest,
        };
        // From before the point is looked up until the fork has it as its own: its session may be
        // purged meanwhile.
        let mut pin = self.shared.pinned(&parent.tenant, id).await?;
        let point = self.point(caller, id, which).await.map_err(|refusal| match refusal {
            Refusal::NoCheckpoint if is_saved => Refusal::Overtaken(REMOVED),
            refusal => refusal,
        })?;
        pin.only(point.root);
        Ok((point, pin))
    }

    /// The row first, as one that is being made: what a daemon leaves that is killed from here on
    /// is found by it. The point's content stays as long as the vault is pinned.
    async fn make_fork(
        &self,
        child: &Session,
        point: &Point,
        _pin: &Pin,
    ) -> Result<Arc<SessionView>> {
        let store = &self.shared.store;
        // While the disk is waited for: the other one leaves nothing of the fork.
        let (created, donor) = tokio::join!(
            store.create_session(child.clone(), vec![]),
            self.shared.donor(point, &child.tenant),
        );
        created?;
        fault::point("fork.begun");
        let since = self.shared.disk.now();
        let (filled, mut is_filled) = watch::channel(false);
        let built = self.shared.build_fork(child, point, (donor, filled));
        let noting = async {
            // A commit brings to the disk what is in the file system's journal. With this one, that is most
            // of what is made, beside the rest of it, instead of all with the last one.
            let _ = is_filled.wait_for(|filled| *filled).await;
            store.note_unsynced(child.id, child.sandbox).await
        };
        let copied = async {
            let copying = Copying { point: point.id, to: child.id, limit: COPIED };
            let mut last = 0;
            while last < point.seq {
                let next = store.copy_events(copying).await?;
                if next == last {
                    return Err(Refusal::Internal("the history could not be copied".to_owned()));
                }
                last = next;
            }
            Ok(())
        };
        let (built, copied, noted) = tokio::join!(built, copied, noting);
        built?;
        copied?;
        noted?;
        fault::point("fork.built");
        self.shared.put(child.id, false).await?;
        fault::point("fork.placed");
        let at = (point.seq, child.created_at);
        let events = going_on::events(point, at, INTERRUPTED, &forked(point));
        let last_seq = point.seq + events.len() as u64;
        let change = SessionChange::status(Status::Paused);
        let first = Some((point.again(child.id, last_seq), u32::MAX));
        let commit = Commit { point: first, ..Commit::of(child.id, change, events) };
        store.commit(commit).await?;
        // Till then its files are those of its point, should the machine go down.
        let (session, build) = (child.id, child.sandbox);
        self.shared.sync_fork_later(Built { session, build, since });
        self.shared.copies.wake(child.id);
        fault::point("fork.recorded");
        let made = Session { status: Status::Paused, last_seq, ..child.clone() };
        tracing::info!(
            message_id = message::SESSION_CREATED, ash_session = %made.id, ash_agent = %made.agent,
            ash_tenant = %made.tenant, parent = %point.session, "session forked"
        );
        self.shared.tell(Happened::SessionCreated(made.tenant.clone(), made.id));
        Ok(SessionView::of(&made))
    }

    /// Leaves nothing of a fork that did not come about. The uids come back only when nothing is
    /// left that belongs to them; the rest is found at the next start.
    async fn undo_fork(&self, child: &Session) {
        let shared = &self.shared;
        shared.discard(child.id).await;
        let files = shared.remove_files(child).await;
        let row = shared.store.purge_session(child.id).await;
        shared.forget_attachments(child.id).await;
        match (files, row, child.slot) {
            (Ok(()), Ok(_), Some(slot)) => shared.slots.give_back(slot),
            (files, row, _) => {
                tracing::error!(ash_session = %child.id, ?files, ?row, "a fork was not undone");
            }
        }
    }
}

/// The new session: what it was told and allowed is its parent's, what it is called is its own.
fn draft(parent: &Session, point: &Point, slot: u32) -> Session {
    let now = Timestamp::now();
    Session {
        id: SessionId::random(),
        parent: Some(parent.id),
        status: Status::Starting,
        sandbox: SandboxId::random(),
        // Until the CLI has made a conversation of its own out of it.
        cli_session: point.cli_session.clone(),
        turn: None,
        restore: None,
        cold: false,
        changed: Changed::No,
        altered: Some(0),
        slot: Some(slot),
        last_seq: 0,
        created_at: now,
        last_active_at: now,
        last_error: None,
        ..parent.clone()
    }
}

/// What the new session's history says of how it was made.
fn forked(point: &Point) -> serde_json::Value {
    serde_json::json!({
        "action": "forked",
        "parentSessionId": point.session,
        "checkpoint": point.id,
        "sequence": point.seq,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;
    use tokio::task::spawn_blocking;
    use tokio::time::timeout;

    use super::*;
    use crate::domain::{Scope, Tenant};
    use crate::session::stage::{Stage, handle};
    use crate::snapshot::{Collecting, Extent, SnapshotError};

    /// Whether nobody is in the way of who collects.
    async fn can_be_collected(stage: &Stage) -> bool {
        let (snapshots, patience) = (stage.shared.snapshots.clone(), Duration::ZERO);
        let collect = move || {
            let (extent, grace, preview) = (Extent::Worthwhile, patience, false);
            let patience_with_saves = patience;
            let how = Collecting { extent, grace, preview, patience, patience_with_saves };
            let points = || Ok::<_, SnapshotError>(vec![]);
            snapshots.vault(&Tenant::default())?.collect(&how, points)
        };
        spawn_blocking(collect).await.unwrap().unwrap().is_some()
    }

    /// What becomes of the point that is saved for a fork before it is looked up.
    enum Meanwhile {
        Stays,
        Removed,
        Purged,
    }

    /// What a fork is made of; it can be collected while that is saved.
    async fn made_of(stage: &Stage, meanwhile: Meanwhile) -> Result<(Point, Pin)> {
        let (shared, parent) = (&stage.shared, Session::example(1));
        let (commands, mut asked) = mpsc::channel(1);
        stage.add(&parent).await;
        shared.registry.handle_or(&parent, || handle(&parent, commands));
        let save = async {
            let Some(Command::Save { reply, .. }) = asked.recv().await else {
                panic!("it is not saved")
            };
            assert!(can_be_collected(stage).await, "something is pinned");
            let point = Point { session: parent.id, ..Point::example(1) };
            shared.store.add_point(point.clone(), 9).await.unwrap();
            match meanwhile {
                Meanwhile::Stays => {}
                Meanwhile::Removed => {
                    assert!(shared.store.remove_point(parent.id, point.id).await.unwrap());
                }
                Meanwhile::Purged => {
                    shared.registry.remove(parent.id);
                    shared.store.purge_session(parent.id).await.unwrap();
                }
            }
            assert!(reply.send(Ok(point)).is_ok());
        };
        let caller = Caller { tenant: Tenant::default(), scope: Scope::Manage };
        let (made, ()) = tokio::join!(stage.service.pinned_point(&caller, &parent, None), save);
        made
    }

    #[tokio::test]
    async fn nothing_is_pinned_while_it_is_saved_and_only_the_point_behind_that() {
        let stage = Stage::set().await;
        let (point, pin) = made_of(&stage, Meanwhile::Stays).await.unwrap();
        assert_eq!(point.id, Point::example(1).id);
        assert!(can_be_collected(&stage).await);
        drop(pin);
    }

    #[tokio::test]
    async fn what_is_gone_before_it_is_looked_up_is_told() {
        let made = made_of(&Stage::set().await, Meanwhile::Removed).await;
        assert!(matches!(made, Err(Refusal::Overtaken(_))));
        let made = made_of(&Stage::set().await, Meanwhile::Purged).await;
        assert!(matches!(made, Err(Refusal::NoSession)));
    }

    #[tokio::test]
    async fn one_whose_files_were_cleared_is_not_brought_back_for_a_fork() {
        let stage = Stage::set().await;
        let restore = Some(Point::example(1).id);
        let parent = Session { restore, ..Session::example(1) };
        stage.add(&parent).await;
        let point = Point { session: parent.id, ..Point::example(1) };
        stage.shared.store.add_point(point.clone(), 9).await.unwrap();
        let (commands, mut asked) = mpsc::channel(1);
        stage.shared.registry.handle_or(&parent, || handle(&parent, commands));
        let caller = Caller { tenant: Tenant::default(), scope: Scope::Manage };
        let (found, _pin) = stage.service.pinned_point(&caller, &parent, None).await.unwrap();
        assert_eq!(found.id, point.id);
        assert!(asked.try_recv().is_err());
    }

    /// What is noted when most of its files are made is not waited for when they never are.
    #[tokio::test]
    async fn one_whose_files_cannot_be_made_is_refused_and_leaves_nothing() {
        let stage = Stage::set().await;
        let (shared, parent) = (&stage.shared, Session::example(1));
        stage.add(&parent).await;
        // Nothing is stored of it.
        let point = Point { session: parent.id, ..Point::example(0) };
        shared.store.add_point(point.clone(), 9).await.unwrap();
        let child = draft(&parent, &point, shared.take_slot().unwrap());
        let pin = shared.pinned(&parent.tenant, parent.id).await.unwrap();
        let making = stage.service.make_fork(&child, &point, &pin);
        let made = timeout(Duration::from_secs(60), making).await.expect("it waits for ever");
        assert!(made.is_err());
        stage.service.undo_fork(&child).await;
        assert_eq!(shared.store.session(child.id).await.unwrap(), None);
        assert!(shared.slots.used().is_empty());
    }
}
