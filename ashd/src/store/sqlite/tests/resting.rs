//! Sessions at rest, by a clock of the test's own.

use super::*;
use crate::domain::session::RunningTurn;
use crate::domain::{Changed, SessionChange};

/// Records a session that has uids and a point, and was last used at a time.
async fn add(store: &Sqlite, n: u8, at: i64, session: Session) {
    let session = Session { slot: Some(n.into()), last_active_at: Timestamp(at), ..session };
    store.create_session(session, vec![event(1)]).await.unwrap();
    store.add_point(point(n, n, 1, 5), 9).await.unwrap();
}

#[test]
fn those_that_rest_for_longest_are_found_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        for (n, at, status, cold) in [
            (1, 30, Status::Active, true),
            (2, 10, Status::Stopped, false),
            (3, 20, Status::Paused, false),
            (4, 40, Status::Error, false),
            (5, 10, Status::Active, false),
            (6, 10, Status::Starting, false),
            (7, 10, Status::Ended, false),
        ] {
            add(&store, n, at, Session { status, cold, ..session(n) }).await;
        }
        let found =
            async |before, limit| store.resting_sessions(Timestamp(before), limit).await.unwrap();
        assert_eq!(found(10, 9).await, []);
        assert_eq!(found(11, 9).await, [id(2)]);
        assert_eq!(found(99, 9).await, [id(2), id(3), id(1), id(4)]);
        assert_eq!(found(99, 2).await, [id(2), id(3)]);
    });
}

#[test]
fn none_is_found_that_is_used_or_of_which_something_may_be_in_no_point() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        add(&store, 1, 10, Session { cold: true, ..session(1) }).await;
        let found =
            async |before| store.resting_sessions(Timestamp(before), 9).await.unwrap() == [id(1)];
        assert!(found(20).await);
        let none = SessionChange::none;
        let turn = Some(RunningTurn { id: TurnId(uuid(1)), user_seq: 1 });
        let since = |at| SessionChange { last_active_at: Some(Timestamp(at)), ..none() };
        for (there, back) in [
            (
                SessionChange { changed: Some(Changed::Maybe), ..none() },
                SessionChange { changed: Some(Changed::No), ..none() },
            ),
            (
                SessionChange { turn: Some(turn), ..none() },
                SessionChange { turn: Some(None), ..none() },
            ),
            (
                SessionChange { slot: Some(None), ..none() },
                SessionChange { slot: Some(Some(3)), ..none() },
            ),
            (
                SessionChange { cold: Some(false), ..none() },
                SessionChange { cold: Some(true), ..none() },
            ),
            (since(20), since(10)),
        ] {
            for (change, is_found) in [(there, false), (back, true)] {
                let told = format!("{change:?}");
                store.commit(Commit::of(id(1), change, vec![])).await.unwrap();
                assert_eq!(found(20).await, is_found, "{told}");
            }
        }
        let build = SandboxId(uuid(1));
        store.note_unsynced(id(1), build).await.unwrap();
        assert!(!found(20).await, "it may not be on the disk");
        store.synced(vec![(id(1), build)]).await.unwrap();
        assert!(found(20).await);
        store.commit(append(1, vec![NewEvent { at: Timestamp(25), ..event(2) }])).await.unwrap();
        assert!(!found(25).await && found(26).await);
        store.add_point(point(2, 1, 2, 30), 9).await.unwrap();
        assert!(!found(30).await && found(31).await);
        // Of what that was its driver knows more.
        store.add_point(Point { left_out: 1, ..point(3, 1, 2, 30) }, 9).await.unwrap();
        assert!(found(99).await);
    });
}
