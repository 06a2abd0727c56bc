//! Files that may not be on the disk.

use super::*;
use crate::domain::SessionChange;

fn files(session: u8, point: u8, build: u8) -> Unsynced {
    let (point, build) = (PointId(uuid(point)), SandboxId(uuid(build)));
    Unsynced { session: id(session), point, build, boot: "boot".to_owned() }
}

/// A session with two points, and files that were built from the older one.
async fn built(dir: &Path) -> Sqlite {
    let store = open(dir);
    store.create_session(session(1), vec![]).await.unwrap();
    for n in [1, 2] {
        store.add_point(point(n, 1, n.into(), 0), 9).await.unwrap();
    }
    store.note_unsynced(files(1, 1, 1)).await.unwrap();
    store
}

async fn restore(store: &Sqlite) -> Option<PointId> {
    store.session(id(1)).await.unwrap().unwrap().restore
}

#[test]
fn only_the_same_build_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        assert_eq!(store.unsynced().await.unwrap(), [files(1, 1, 1)]);
        store.note_unsynced(files(1, 2, 2)).await.unwrap();
        store.synced(id(1), SandboxId(uuid(1))).await.unwrap();
        assert_eq!(store.unsynced().await.unwrap(), [files(1, 2, 2)]);
        store.synced(id(1), SandboxId(uuid(2))).await.unwrap();
        assert_eq!(store.unsynced().await.unwrap(), []);
        store.build_again(id(1)).await.unwrap();
        assert_eq!(restore(&store).await, None);
        assert!(store.note_unsynced(files(7, 1, 1)).await.is_err());
    });
}

#[test]
fn what_they_were_built_from_stays_until_there_is_a_newer_point() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        let left = async || store.points(id(1)).await.unwrap().len();
        assert!(!store.remove_point(id(1), PointId(uuid(1))).await.unwrap());
        assert_eq!(store.remove_old_points(Timestamp(9), 9).await.unwrap(), 0);
        assert_eq!(left().await, 2);
        store.add_point(point(3, 1, 3, 0), 1).await.unwrap();
        assert_eq!(left().await, 1);
        assert_eq!(store.unsynced().await.unwrap(), [files(1, 3, 1)]);
        store.build_again(id(1)).await.unwrap();
        assert_eq!(restore(&store).await, Some(PointId(uuid(3))));
        assert_eq!(store.unsynced().await.unwrap(), []);
    });
}

#[test]
fn where_a_session_goes_back_to_counts_more() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let store = built(dir.path()).await;
        let to = |point| Commit::of(id(1), restoring(point), vec![]);
        let restoring_now = async |point| store.commit(to(point)).await.unwrap();
        restoring_now(None).await;
        assert_eq!(store.unsynced().await.unwrap().len(), 1);
        restoring_now(Some(PointId(uuid(2)))).await;
        assert_eq!(store.unsynced().await.unwrap(), []);
        store.note_unsynced(files(1, 1, 1)).await.unwrap();
        store.build_again(id(1)).await.unwrap();
        assert_eq!(restore(&store).await, Some(PointId(uuid(2))));
    });
}

fn restoring(point: Option<PointId>) -> SessionChange {
    SessionChange { restore: Some(point), ..SessionChange::none() }
}
