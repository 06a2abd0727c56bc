//! Files that may be lost when the machine goes down.

use super::*;
use crate::domain::{Changed, SessionChange};
use crate::store::IN_DOUBT;

fn build(n: u8) -> SandboxId {
    SandboxId(uuid(n))
}

/// A session with a sandbox, and two points.
async fn built(dir: &Path) -> Sqlite {
    let store = open(dir);
    store.create_session(session(1), vec![]).await.unwrap();
    store.note_unsynced(id(1), build(1)).await.unwrap();
    for n in [1, 2] {
        store.add_point(point(n, 1, n.into(), 0), 9).await.unwrap();
    }
    store
}

/// The same database behind the next boot of the machine.
async fn boot(store: Sqlite, dir: &Path) -> Sqlite {
    store.close().await;
    drop(store);
    let options = Options { boot: "the next".to_owned(), ..Options::default() };
    Sqlite::open(&dir.join("ash.db"), options).unwrap()
}

async fn change(store: &Sqlite, change: SessionChange) {
    store.commit(Commit::of(id(1), change, vec![])).await.unwrap();
}

async fn row(store: &Sqlite) -> Session {
    store.session(id(1)).await.unwrap().unwrap()
}

#[test]
fn only_the_same_build_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        let found = async || store.unsynced().await.unwrap()[0].build;
        assert_eq!(found().await, Some(build(1)));
        store.note_unsynced(id(1), build(7)).await.unwrap();
        store.synced(vec![(id(1), build(8))]).await.unwrap();
        assert_eq!(found().await, Some(build(7)));
        assert_eq!(store.unsynced_build(id(1)).await.unwrap(), Some(build(7)));
        store.synced(vec![(id(1), build(7))]).await.unwrap();
        assert_eq!((found().await, store.unsynced_build(id(1)).await.unwrap()), (None, None));
        assert_eq!(store.unsynced_build(id(9)).await.unwrap(), None);
        assert!(store.note_unsynced(id(9), build(7)).await.is_err());
    });
}

#[test]
fn what_had_a_sandbox_in_another_boot_is_lost_unless_it_was_at_rest() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        let lost = async |store: &Sqlite| {
            let all = store.unsynced().await.unwrap();
            all.first().map(|files| files.lost)
        };
        assert_eq!(lost(&store).await, Some(false));
        let store = boot(store, dir.path()).await;
        assert_eq!(lost(&store).await, Some(true));
        let sandbox = SessionChange { sandbox: Some(build(9)), ..SessionChange::none() };
        change(&store, sandbox).await;
        assert_eq!(lost(&store).await, Some(false), "a new one is of this boot");
        store.at_rest(vec![(id(1), build(8))]).await.unwrap();
        assert_eq!(lost(&store).await, Some(false), "it has another one since");
        store.synced(vec![(id(1), build(1))]).await.unwrap();
        store.at_rest(vec![(id(1), build(9))]).await.unwrap();
        assert_eq!(lost(&store).await, None);
        store.in_use(vec![id(1), id(7)]).await.unwrap();
        assert_eq!(lost(&store).await, Some(false));
    });
}

#[test]
fn one_is_found_as_it_is_among_all() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        store.create_session(session(2), vec![]).await.unwrap();
        store.note_unsynced(id(2), build(2)).await.unwrap();
        let found = async |store: &Sqlite| {
            let all = store.unsynced().await.unwrap();
            for n in [1, 2, 9] {
                let one = all.iter().find(|files| files.session == id(n)).copied();
                assert_eq!(store.unsynced_of(id(n)).await.unwrap(), one, "{n}");
            }
            all.iter().map(|files| (files.session, files.lost)).collect::<Vec<_>>()
        };
        assert_eq!(found(&store).await, [(id(1), false), (id(2), false)]);
        let store = boot(store, dir.path()).await;
        change(&store, SessionChange { sandbox: Some(build(9)), ..SessionChange::none() }).await;
        assert_eq!(found(&store).await, [(id(1), false), (id(2), true)]);
        // One that has ended and has no uids has no files.
        change(&store, SessionChange { status: Some(Status::Ended), ..SessionChange::none() })
            .await;
        assert_eq!(found(&store).await, [(id(2), true)]);
    });
}

#[test]
fn what_is_in_doubt_is_never_at_rest_until_it_is_built_anew() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        let found = async |store: &Sqlite| {
            let all = store.unsynced().await.unwrap();
            all.first().map(|files| files.build)
        };
        change(&store, SessionChange { sandbox: Some(build(1)), ..SessionChange::none() }).await;
        store.doubt(vec![id(1), id(7)]).await.unwrap();
        // Also when it goes on as it is.
        for n in [1, 2] {
            change(&store, SessionChange { sandbox: Some(build(n)), ..SessionChange::none() })
                .await;
            store.synced(vec![(id(1), build(1))]).await.unwrap();
            store.at_rest(vec![(id(1), build(n))]).await.unwrap();
            assert_eq!(found(&store).await, Some(Some(IN_DOUBT)));
        }
        store.note_unsynced(id(1), build(3)).await.unwrap();
        store.synced(vec![(id(1), build(3))]).await.unwrap();
        assert_eq!(found(&store).await, Some(None));
        // What another boot has left is lost, and in no doubt.
        let store = boot(store, dir.path()).await;
        store.doubt(vec![id(1)]).await.unwrap();
        assert_eq!(found(&store).await, Some(None));
    });
}

#[test]
fn a_session_goes_on_at_its_newest_point() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        change(&store, SessionChange { changed: Some(Changed::Kept), ..SessionChange::none() })
            .await;
        store.build_again(id(1), Some(event(1))).await.unwrap();
        let Session { restore, changed, .. } = row(&store).await;
        assert_eq!((restore, changed), (Some(PointId(uuid(2))), Changed::No));
        assert_eq!(numbers(&store, 1).await, [1]);
        assert_eq!(store.unsynced().await.unwrap(), []);
        // Where it goes back to by itself counts more.
        let back = SessionChange { restore: Some(Some(PointId(uuid(1)))), ..SessionChange::none() };
        change(&store, back).await;
        store.build_again(id(1), None).await.unwrap();
        assert_eq!(row(&store).await.restore, Some(PointId(uuid(1))));
    });
}

#[test]
fn what_is_in_no_point_is_to_be_saved() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        let unsaved = async || store.unsaved_sessions().await.unwrap().len();
        change(&store, SessionChange { slot: Some(Some(1)), ..SessionChange::none() }).await;
        for (changed, left) in [(Changed::Maybe, 1), (Changed::Kept, 1), (Changed::No, 0)] {
            change(&store, SessionChange { changed: Some(changed), ..SessionChange::none() }).await;
            assert_eq!((row(&store).await.changed, unsaved().await), (changed, left));
        }
        let back = SessionChange { restore: Some(Some(PointId(uuid(1)))), ..SessionChange::none() };
        change(&store, SessionChange { changed: Some(Changed::Kept), ..back }).await;
        assert_eq!(unsaved().await, 0, "its files are not in their place");
    });
}

#[test]
fn a_point_can_lose_its_name() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        let named = Point { name: Some("it".parse().unwrap()), ..point(3, 1, 3, 0) };
        store.add_point(named.clone(), 9).await.unwrap();
        assert!(store.unname_point(id(1), named.id).await.unwrap());
        assert!(!store.unname_point(id(2), named.id).await.unwrap());
        let found = store.point(id(1), Which::Id(named.id)).await.unwrap();
        assert_eq!(found, Some(Point { name: None, ..named }));
    });
}

#[test]
fn a_session_is_put_away_at_a_point_of_its_own_that_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        store.create_session(session(2), vec![]).await.unwrap();
        store.add_point(point(3, 2, 1, 0), 9).await.unwrap();
        let put_away = async |n| store.put_away(id(1), PointId(uuid(n))).await.unwrap();
        assert!(!put_away(3).await && !put_away(9).await, "it is not its own");
        let changed = |changed| SessionChange { changed: Some(changed), ..SessionChange::none() };
        change(&store, changed(Changed::Maybe)).await;
        assert!(!put_away(2).await);
        change(&store, changed(Changed::No)).await;
        assert!(put_away(2).await);
        assert_eq!(row(&store).await.restore, Some(PointId(uuid(2))));
        assert_eq!(store.unsynced().await.unwrap(), []);
        assert!(!put_away(1).await, "it goes back to another one anyway");
        // It stays until the session has its files again.
        assert!(!store.remove_point(id(1), PointId(uuid(2))).await.unwrap());
        assert!(store.put_away(id(7), PointId(uuid(2))).await.is_err());
    });
}
