//! What the object store has of sessions that were purged.
//!
//! A generation that is nobody's comes first, and stays: a machine that imports the session takes the
//! generation behind the one that it has found before, and does not get it any more. Of two who want it one
//! wins, so that the session is either purged or goes on there. Then all else is removed. What says that the
//! session is nobody's goes when nobody can be on the way with it any more.

use std::sync::Arc;
use std::time::Duration;

use super::{NotCopied, Outcome, send};
use crate::domain::{SessionId, Tenant};
use crate::objects::{Claimed, Objects, Place};
use crate::session::shared::Shared;
use crate::store::PurgedCopy;

/// Removes what is there of a session that was purged, unless another machine has it, or it is back on this
/// one.
pub(super) async fn purge(
    shared: &Arc<Shared>,
    objects: &Objects,
    id: SessionId,
) -> Result<Outcome, NotCopied> {
    let Ok(_nobody_imports) = shared.copies.importing.try_lock() else {
        return Ok(Outcome::Later);
    };
    if let Some(grave) = bury(shared, objects, id).await?
        && let Some(PurgedCopy { tenant, session, .. }) = shared.store.purged_copy(id).await?
    {
        for place in [Place::Points(&tenant, session), Place::Events(&tenant, session)] {
            objects.remove_all(&place).await?;
        }
        objects.forget_owners(&tenant, session, grave).await?;
    }
    shared.store.forget_purged(id).await?;
    Ok(Outcome::Done)
}

/// Sees to it that nobody goes on with a session that was purged here, and says which generation is nobody's;
/// `None` when none was purged, nothing is there of it, another machine has it, or it is back on this one.
/// Nobody may import meanwhile.
pub(in crate::session) async fn bury(
    shared: &Shared,
    objects: &Objects,
    id: SessionId,
) -> Result<Option<u32>, NotCopied> {
    let Some(purged) = shared.store.purged_copy(id).await? else { return Ok(None) };
    let PurgedCopy { tenant, session, generation } = purged;
    if shared.store.session(session).await?.is_some() {
        return Ok(None);
    }
    let Some(there) = objects.generation(&tenant, session).await? else { return Ok(None) };
    if generation == send::RESTORED || there > generation {
        match objects.owner(&tenant, session, there).await? {
            // This was begun before.
            Claimed::Purged { .. } => return Ok(Some(there)),
            Claimed::Ours => {}
            Claimed::Inherited if generation == send::RESTORED => {}
            Claimed::Inherited | Claimed::Taken => return Ok(None),
        }
    }
    let is_buried = objects.bury(&tenant, session, there + 1).await?;
    Ok(is_buried.then_some(there + 1))
}

/// Whether a session was purged by whoever had it. What cannot be opened says that of nobody.
pub(in crate::session) async fn is_buried(
    objects: &Objects,
    (tenant, id): (&Tenant, SessionId),
    newest: u32,
) -> Result<bool, NotCopied> {
    match objects.owner(tenant, id, newest).await {
        Ok(owner) => Ok(matches!(owner, Claimed::Purged { .. })),
        Err(error) if error.is_passing() => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// Removes what says that a session is nobody's, if that was put there so long ago; false when there is no
/// such thing.
pub(super) async fn sweep(
    objects: &Objects,
    (tenant, id): (&Tenant, SessionId),
    grace: Duration,
) -> Result<bool, NotCopied> {
    let Some(newest) = objects.generation(tenant, id).await? else { return Ok(false) };
    let put_at = objects.put_at(&Place::Owner(tenant, id, newest)).await?;
    let is_old = put_at.is_some_and(|at| super::sweep::is_old(at, grace));
    if !is_old || !is_buried(objects, (tenant, id), newest).await? {
        return Ok(false);
    }
    objects.forget_owners(tenant, id, newest).await?;
    objects.remove(&Place::Owner(tenant, id, newest)).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{PointId, Scope, Session};
    use crate::objects::ManifestName;
    use crate::objects::tests::open;
    use crate::session::api::{Caller, Refusal};
    use crate::session::stage::Stage;

    /// A machine on which a session was purged that it had copied, and the object store with what it has
    /// put there.
    async fn purged(objects: &Objects) -> (Stage, Session) {
        let (stage, session) = (Stage::with(Some(objects.clone())).await, Session::example(1));
        let (store, tenant) = (&stage.shared.store, &session.tenant);
        stage.add(&session).await;
        objects.claim(tenant, session.id, 1).await.unwrap();
        store.set_generation(session.id, 1).await.unwrap();
        let (generation, seq, at) = (1, 2, 3);
        let name = ManifestName { generation, seq, at, point: PointId::random() };
        let place = Place::Point(tenant, session.id, name);
        objects.put(tenant, &place, b"point").await.unwrap();
        store.purge_session(session.id).await.unwrap();
        (stage, session)
    }

    async fn points(objects: &Objects, session: &Session) -> usize {
        let points = Place::Points(&session.tenant, session.id);
        objects.list(&points).await.unwrap().len()
    }

    async fn refused(stage: &Stage, session: &Session) -> Refusal {
        let caller = Caller { tenant: session.tenant.clone(), scope: Scope::Manage };
        stage.service.import(&caller, session.id, None).await.err().unwrap()
    }

    #[tokio::test]
    async fn what_was_purged_comes_back_to_nobody() {
        let bucket = tempfile::tempdir().unwrap();
        let [here, there] = [(); 2].map(|()| open(bucket.path(), "a"));
        let (stage, session) = purged(&here).await;
        let (shared, tenant) = (&stage.shared, &session.tenant);
        // Also before any of it is removed.
        assert!(matches!(refused(&stage, &session).await, Refusal::NotStored));
        assert_eq!(points(&here, &session).await, 1);
        let other = Stage::with(Some(there.clone())).await;
        assert!(matches!(refused(&other, &session).await, Refusal::NotStored));
        purge(shared, &here, session.id).await.unwrap();
        assert_eq!(points(&here, &session).await, 0);
        assert!(shared.store.purged_copy(session.id).await.unwrap().is_none());
        // Somebody has looked before that.
        let late = there.claim(tenant, session.id, 2).await.unwrap();
        assert_eq!(late, Claimed::Purged { here: false });
        assert!(matches!(refused(&other, &session).await, Refusal::NotStored));
        assert!(!sweep(&here, (tenant, session.id), Duration::from_secs(60)).await.unwrap());
        assert!(sweep(&here, (tenant, session.id), Duration::ZERO).await.unwrap());
        assert_eq!(here.generation(tenant, session.id).await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_another_machine_has_taken_stays() {
        let bucket = tempfile::tempdir().unwrap();
        let [here, there] = [(); 2].map(|()| open(bucket.path(), "a"));
        let (stage, session) = purged(&here).await;
        let (shared, tenant) = (&stage.shared, &session.tenant);
        assert_eq!(there.claim(tenant, session.id, 2).await.unwrap(), Claimed::Ours);
        purge(shared, &here, session.id).await.unwrap();
        assert_eq!(points(&here, &session).await, 1);
        assert_eq!(there.owner(tenant, session.id, 2).await.unwrap(), Claimed::Ours);
        assert!(!sweep(&here, (tenant, session.id), Duration::ZERO).await.unwrap());
        assert!(shared.store.purged_copy(session.id).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn what_was_begun_is_finished() {
        let bucket = tempfile::tempdir().unwrap();
        let here = open(bucket.path(), "a");
        let (stage, session) = purged(&here).await;
        for _ in 0..2 {
            assert_eq!(bury(&stage.shared, &here, session.id).await.unwrap(), Some(2));
        }
        purge(&stage.shared, &here, session.id).await.unwrap();
        assert_eq!(points(&here, &session).await, 0);
        assert_eq!(bury(&stage.shared, &here, session.id).await.unwrap(), None);
    }
}
