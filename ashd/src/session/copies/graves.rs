//! What the object store has of sessions that were purged.
//!
//! A generation that is nobody's comes first, and stays: a machine that imports the session takes the
//! generation behind the one that it has found before, and does not get it any more. Of two who want it one
//! wins, so that the session is either purged or goes on there. Then all else is removed. What says that the
//! session is nobody's goes when nobody can be on the way with it any more.

use std::sync::Arc;
use std::time::Duration;

use super::sweep::is_old;
use super::{NotCopied, Outcome, send};
use crate::domain::{SessionId, Tenant};
use crate::fault;
use crate::objects::{Claimed, HistoryName, ManifestName, Objects, Place};
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
    if let Some(PurgedCopy { tenant, session, .. }) = shared.store.purged_copy(id).await? {
        let grave = bury(shared, objects, id).await?;
        if grave.is_some() || is_left_over(shared, objects, (&tenant, session)).await? {
            for place in [Place::Points(&tenant, session), Place::Events(&tenant, session)] {
                objects.remove_all(&place).await?;
                fault::point("purge.emptied");
            }
        }
        if let Some(grave) = grave {
            objects.forget_owners(&tenant, session, grave).await?;
            fault::point("purge.disowned");
        }
    }
    shared.store.forget_purged(id).await?;
    Ok(Outcome::Done)
}

/// Whether nothing says who has a session that is not here any more: a daemon that removed all at once may have
/// died before it came to the rest.
async fn is_left_over(
    shared: &Shared,
    objects: &Objects,
    (tenant, id): (&Tenant, SessionId),
) -> Result<bool, NotCopied> {
    let is_here = shared.store.session(id).await?.is_some();
    Ok(!is_here && objects.generation(tenant, id).await?.is_none())
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
    if !objects.bury(&tenant, session, there + 1).await? {
        return Ok(None);
    }
    fault::point("purge.buried");
    Ok(Some(there + 1))
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

/// Removes what is there of a session that is nobody's: what was put there behind its purge, by a machine that
/// had it before and had not heard of that yet, and, when it was put there so long ago, what says so. How many
/// objects that were; `None` when it is somebody's. These are its points.
pub(super) async fn sweep(
    objects: &Objects,
    (tenant, id): (&Tenant, SessionId),
    (points, grace): (&[ManifestName], Duration),
) -> Result<Option<u64>, NotCopied> {
    let Some(newest) = objects.generation(tenant, id).await? else { return Ok(None) };
    // Whoever goes back to a backup of before may have it again, in a generation behind that.
    let is_of_now = points.iter().any(|name| name.generation >= newest);
    if is_of_now || !is_buried(objects, (tenant, id), newest).await? {
        return Ok(None);
    }
    for name in points {
        objects.remove(&Place::Point(tenant, id, *name)).await?;
    }
    let mut removed = points.len() as u64;
    let events = objects.list(&Place::Events(tenant, id)).await?;
    let events = events.iter().filter_map(|object| object.name.parse::<HistoryName>().ok());
    for name in events.filter(|name| name.generation < newest) {
        objects.remove(&Place::History(tenant, id, name)).await?;
        removed += 1;
    }
    let grave = Place::Owner(tenant, id, newest);
    if objects.put_at(&grave).await?.is_some_and(|at| is_old(at, grace)) {
        objects.forget_owners(tenant, id, newest).await?;
        objects.remove(&grave).await?;
        removed += 1;
    }
    Ok(Some(removed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{PointId, Scope, Session};
    use crate::objects::tests::open;
    use crate::session::api::{Caller, Refusal};
    use crate::session::stage::Stage;

    const A_WHILE: Duration = Duration::from_secs(60);

    /// A machine on which a session was purged that it had copied, and the object store with what it has
    /// put there.
    async fn purged(objects: &Objects) -> (Stage, Session) {
        let (stage, session) = (Stage::with(Some(objects.clone())).await, Session::example(1));
        let (store, tenant) = (&stage.shared.store, &session.tenant);
        stage.add(&session).await;
        objects.claim(tenant, session.id, 1).await.unwrap();
        store.set_generation(session.id, 1).await.unwrap();
        put(objects, &session, 1).await;
        store.purge_session(session.id).await.unwrap();
        (stage, session)
    }

    /// Puts a point and its history there, in a generation.
    async fn put(objects: &Objects, session: &Session, generation: u32) {
        let (tenant, id) = (&session.tenant, session.id);
        let name = ManifestName { generation, seq: 2, at: 3, point: PointId::random() };
        let events = HistoryName { generation, first: 1, last: 2 };
        for place in [Place::Point(tenant, id, name), Place::History(tenant, id, events)] {
            objects.put(tenant, &place, b"content").await.unwrap();
        }
    }

    async fn swept(objects: &Objects, session: &Session, grace: Duration) -> Option<u64> {
        let (tenant, id) = (&session.tenant, session.id);
        let points = send::manifests(objects, tenant, id).await.unwrap();
        sweep(objects, (tenant, id), (&points, grace)).await.unwrap()
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
        assert_eq!(swept(&here, &session, A_WHILE).await, Some(0));
        assert_eq!(swept(&here, &session, Duration::ZERO).await, Some(1));
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
        assert_eq!(swept(&here, &session, Duration::ZERO).await, None);
        assert_eq!(points(&here, &session).await, 1);
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

    /// As a daemon leaves one that it has taken, and purges before that is recorded.
    #[tokio::test]
    async fn what_was_taken_and_not_recorded_goes_as_well() {
        let bucket = tempfile::tempdir().unwrap();
        let [here, there] = [(); 2].map(|()| open(bucket.path(), "a"));
        let stage = Stage::with(Some(here.clone())).await;
        let store = &stage.shared.store;
        for (number, owner) in [(1, Some(&here)), (2, Some(&there)), (3, None)] {
            let session = Session::example(number);
            let (tenant, id) = (&session.tenant, session.id);
            stage.add(&session).await;
            store.note_claim(id).await.unwrap();
            if let Some(owner) = owner {
                assert_eq!(owner.claim(tenant, id, 1).await.unwrap(), Claimed::Ours);
            }
            store.purge_session(id).await.unwrap();
            purge(&stage.shared, &here, id).await.unwrap();
            assert!(store.purged_copy(id).await.unwrap().is_none());
            // What another machine has stays.
            let is_swept = swept(&here, &session, Duration::ZERO).await.is_some();
            assert_eq!(is_swept, number == 1);
            let left = here.generation(tenant, id).await.unwrap();
            assert_eq!(left, (number == 2).then_some(1));
        }
    }

    /// It has looked whether it has the session before it began to send, which takes long.
    #[tokio::test]
    async fn what_comes_behind_a_purge_goes_with_the_next_sweep() {
        let bucket = tempfile::tempdir().unwrap();
        let [here, there] = [(); 2].map(|()| open(bucket.path(), "a"));
        let (stage, session) = purged(&here).await;
        purge(&stage.shared, &here, session.id).await.unwrap();
        put(&there, &session, 1).await;
        assert_eq!(swept(&here, &session, A_WHILE).await, Some(2));
        assert_eq!(points(&here, &session).await, 0);
        // What says that it is nobody's is still there.
        assert_eq!(swept(&here, &session, Duration::ZERO).await, Some(1));
    }

    /// As a daemon has left it that removed in any order what was there, and died.
    #[tokio::test]
    async fn what_nobody_has_goes_as_well() {
        let bucket = tempfile::tempdir().unwrap();
        let here = open(bucket.path(), "a");
        let (stage, session) = purged(&here).await;
        let owner = Place::Owner(&session.tenant, session.id, 1);
        here.remove(&owner).await.unwrap();
        purge(&stage.shared, &here, session.id).await.unwrap();
        assert_eq!(points(&here, &session).await, 0);
        assert!(stage.shared.store.purged_copy(session.id).await.unwrap().is_none());
    }
}
