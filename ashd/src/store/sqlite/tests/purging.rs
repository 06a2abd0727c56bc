//! Sessions that are purged, in steps.

use rusqlite::Connection;

use super::super::purges;
use super::*;

/// More than two steps take.
fn long() -> Vec<NewEvent> {
    (1..=2_500).map(event).collect()
}

fn rows(dir: &Path) -> (u64, u64, u64) {
    let raw = Connection::open(dir.join("ash.db")).unwrap();
    let count = |table: &str| -> u64 {
        raw.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    };
    (count("sessions"), count("events"), count("usage"))
}

#[test]
fn a_long_history_does_not_go_in_one_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let large = |seq| NewEvent { body: vec![b'x'; 3 << 20].into(), ..event(seq) };
    block_on(async {
        store.create_session(session(1), long()).await.unwrap();
        store.create_session(session(2), (1..=6).map(large).collect()).await.unwrap();
        store.create_session(session(3), vec![event(1)]).await.unwrap();
        for n in [1, 2] {
            let before = store.commits();
            assert_eq!(store.purge_session(id(n)).await.unwrap(), Some(Purged { slot: None }));
            let commits = store.commits() - before;
            assert!(commits >= 3, "{commits} transactions");
        }
        assert_eq!(store.purge_session(id(1)).await.unwrap(), None);
        assert_eq!(numbers(&store, 3).await, [1]);
    });
    assert_eq!(rows(dir.path()), (1, 1, 0));
}

#[test]
fn a_short_one_goes_with_its_session_and_all_that_belongs_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        for n in [1, 2] {
            store.create_session(session(n), vec![event(1)]).await.unwrap();
            store.add_point(point(n, n, 1, 1), 9).await.unwrap();
            store.set_generation(id(n), 1).await.unwrap();
            store.note_unsynced(id(n), SandboxId(uuid(n))).await.unwrap();
            store.add_usage(id(n), Timestamp(1), Usage::default()).await.unwrap();
        }
        let before = store.commits();
        assert_eq!(store.purge_session(id(1)).await.unwrap(), Some(Purged { slot: None }));
        assert_eq!(store.commits() - before, 1);
        assert_eq!(store.purged_copies().await.unwrap(), [id(1)]);
        assert_eq!(store.check().await.unwrap(), None);
    });
    let raw = Connection::open(dir.path().join("ash.db")).unwrap();
    let all = ["sessions", "session_settings", "events", "usage", "points", "copies", "unsynced"];
    for table in all {
        let count = format!("SELECT count(*) FROM {table}");
        let left: u64 = raw.query_row(&count, [], |row| row.get(0)).unwrap();
        assert_eq!(left, 1, "{table}");
    }
}

/// What is made in the object store is there before anybody here knows.
#[test]
fn one_that_was_about_to_be_copied_may_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        for n in [1, 2] {
            store.create_session(session(n), vec![]).await.unwrap();
            store.note_claim(id(n)).await.unwrap();
            assert_eq!(store.generation(id(n)).await.unwrap(), None);
        }
        store.set_generation(id(2), 7).await.unwrap();
        store.note_claim(id(2)).await.unwrap();
        assert_eq!(store.generation(id(2)).await.unwrap(), Some(7));
        assert!(store.note_claim(id(9)).await.is_err(), "it was purged before");
        for (n, generation) in [(1, 0), (2, 7)] {
            store.purge_session(id(n)).await.unwrap();
            let purged = store.purged_copy(id(n)).await.unwrap().unwrap();
            assert_eq!(purged.generation, generation);
        }
    });
}

/// Nobody is to find half a session, and the next one with its id or its number is none of it.
#[test]
fn what_a_purge_has_left_is_nobodys_and_goes_later() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let ended = || Session { status: Status::Ended, slot: Some(3), ..session(1) };
    block_on(async {
        store.create_session(ended(), long()).await.unwrap();
        store.add_point(point(1, 1, 9, 1), 9).await.unwrap();
        store.note_unsynced(id(1), SandboxId(uuid(4))).await.unwrap();
        store.add_usage(id(1), Timestamp(1), Usage::default()).await.unwrap();
        // As a daemon does that dies behind the first step.
        let purged = store.writer.write(move |conn| purges::begin(conn, id(1))).await.unwrap();
        assert_eq!(purged, Some((Purged { slot: Some(3) }, true)));
    });
    drop(store);
    assert_eq!(rows(dir.path()), (1, 1_500, 1));
    let store = open(dir.path());
    block_on(async {
        assert!(store.unended_sessions().await.unwrap().is_empty());
        assert!(store.unsaved_sessions().await.unwrap().is_empty());
        assert!(store.unsynced().await.unwrap().is_empty());
        assert!(store.sessions_to_copy().await.unwrap().is_empty());
        assert!(store.ended_before(Timestamp(99), 0, 9).await.unwrap().is_empty());
        let old = store.sessions_with_old_events(Timestamp(9_999), None, 9).await.unwrap();
        assert!(old.is_empty());
        assert_eq!(store.count_sessions().await.unwrap(), SessionCounts::default());
        assert_eq!(store.session(id(1)).await.unwrap(), None);
        assert!(numbers(&store, 1).await.is_empty());
        assert_eq!(store.point(id(1), Which::Newest).await.unwrap(), None);
        assert_eq!(store.usage(id(1)).await.unwrap(), Usage::default());
        assert!(store.commit(append(1, vec![event(2_501)])).await.is_err());
        assert_eq!(store.purge_session(id(1)).await.unwrap(), None);
        assert_eq!(store.check().await.unwrap(), None);

        store.create_session(ended(), vec![event(1)]).await.unwrap();
        assert_eq!(numbers(&store, 1).await, [1]);
        store.finish_purges().await.unwrap();
        assert_eq!(numbers(&store, 1).await, [1]);
    });
    assert_eq!(rows(dir.path()), (1, 1, 0));
}
