//! What is refused, and what operations share.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use rusqlite::Connection;
use tokio::task::unconstrained;

use super::*;
use crate::domain::session::RunningTurn;
use crate::domain::{AgentConfig, AgentId, SessionChange};
use crate::store::StoreError;

/// Bytes of a page in the log, with what stands in front of it.
const FRAME: u64 = 24 + 4096;

fn agent(id: u8, version: u32) -> Agent {
    Agent {
        id: AgentId(uuid(id)),
        tenant: Tenant::default(),
        name: "a".parse().unwrap(),
        version,
        env: BTreeMap::new(),
        config: AgentConfig::default(),
        created_at: Timestamp(1),
        updated_at: Timestamp(version.into()),
    }
}

#[test]
fn operations_that_wait_share_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        for n in 0..100 {
            store.create_session(session(n), Vec::new()).await.unwrap();
        }
        let before = store.commits();
        // Nothing can be committed until this is over, so that everything has to wait.
        let other = Connection::open(dir.path().join("ash.db")).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let commits = (0..100).map(|n| store.commit(append(n, vec![event(1)])));
        // Polled in this order, and each commit is in the queue after its first poll.
        let (done, ()) = tokio::join!(unconstrained(join_all(commits)), async {
            other.execute_batch("ROLLBACK").unwrap();
        });
        done.into_iter().for_each(Result::unwrap);
        assert!(store.commits() - before <= 2, "{} commits", store.commits() - before);
    });
}

#[test]
fn commits_are_measured_with_what_shares_them() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::default();
    let metrics = options.metrics.clone();
    let store = Sqlite::open(&dir.path().join("ash.db"), options).unwrap();
    block_on(async {
        for n in 0..3 {
            store.create_session(session(n), Vec::new()).await.unwrap();
        }
        store.create_session(session(0), Vec::new()).await.unwrap_err();
    });
    assert_eq!(metrics.commits.get_sample_count(), store.commits());
    assert!(metrics.commits.get_sample_sum() > 0.0);
    let operations = &metrics.commit_operations;
    let measured = (operations.get_sample_count(), operations.get_sample_sum());
    // The last one was not committed.
    assert_eq!(measured, (3, 3.0));
    assert_eq!(store.commits(), 3);
}

#[test]
fn an_operation_that_fails_leaves_its_group_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        store.create_session(session(1), vec![event(1)]).await.unwrap();
        store.create_session(session(2), vec![event(1)]).await.unwrap();
        let (good, gap, double, missing, good_too) = tokio::join!(
            store.commit(append(1, vec![event(2)])),
            store.commit(append(2, vec![event(2), event(4)])),
            store.commit(append(2, vec![NewEvent { seq: 2, ..event(1) }])),
            store.commit(append(3, vec![event(1)])),
            store.commit(append(2, vec![event(2)])),
        );
        good.unwrap();
        assert!(matches!(gap, Err(StoreError::Gap { last: 2, found: 4 })), "{gap:?}");
        assert!(matches!(double, Err(StoreError::Exists { what: "the event" })), "{double:?}");
        assert!(matches!(missing, Err(StoreError::Missing { .. })), "{missing:?}");
        good_too.unwrap();
        assert_eq!(numbers(&store, 1).await, [1, 2]);
        assert_eq!(numbers(&store, 2).await, [1, 2]);
    });
}

#[test]
fn an_operation_that_fails_alone_leaves_nothing_and_nobody_waiting() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        store.create_session(session(1), vec![event(1)]).await.unwrap();
        let status = Some(Status::Paused);
        let change = SessionChange { status, ..SessionChange::none() };
        let gap = Commit { change, ..append(1, vec![event(2), event(4)]) };
        let refused = store.commit(gap.clone()).await.unwrap_err();
        assert!(matches!(refused, StoreError::Gap { last: 2, found: 4 }), "{refused}");
        let found = store.session(id(1)).await.unwrap().unwrap();
        assert_eq!((found.status, found.last_seq), (Status::Active, 1));
        assert_eq!(numbers(&store, 1).await, [1]);
        store.commit(Commit { events: vec![event(2), event(3)], ..gap }).await.unwrap();
        assert_eq!(numbers(&store, 1).await, [1, 2, 3]);
    });
}

#[test]
fn two_sessions_never_have_the_same_uids() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let take = |n| Commit {
        change: SessionChange { slot: Some(Some(7)), ..SessionChange::none() },
        ..append(n, Vec::new())
    };
    let give_back = Commit {
        change: SessionChange { slot: Some(None), ..SessionChange::none() },
        ..append(1, Vec::new())
    };
    block_on(async {
        store.create_session(Session { slot: Some(7), ..session(1) }, Vec::new()).await.unwrap();
        let same = store.create_session(Session { slot: Some(7), ..session(2) }, Vec::new()).await;
        assert_eq!(same.unwrap_err().to_string(), "a session with these uids exists already");
        assert_eq!(store.session(SessionId(uuid(2))).await.unwrap(), None);
        store.create_session(session(2), Vec::new()).await.unwrap();
        store.commit(take(2)).await.unwrap_err();
        store.commit(give_back).await.unwrap();
        store.commit(take(2)).await.unwrap();
    });
}

/// History can go back to the same place as often as one likes, also through points that were made when
/// more had been undone behind it.
#[test]
fn what_is_behind_a_point_of_an_earlier_event_is_undone_every_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        store.create_session(session(1), vec![event(1)]).await.unwrap();
        for (n, last) in [(1, 1), (2, 5), (3, 9)] {
            let said = (last + 1..last + 4).map(event).collect();
            store.commit(append(1, said)).await.unwrap();
            store.add_point(point(n, 1, 1, 0), 9).await.unwrap();
            let back_to = Some(PointId(uuid(n)));
            let back = Commit { back_to, ..append(1, vec![event(last + 4)]) };
            store.commit(back).await.unwrap();
            let range = EventRange { undone: false, ..everything() };
            let left = store.events(id(1), range).await.unwrap();
            let left: Vec<u64> = left.iter().map(|event| event.seq).collect();
            assert_eq!(left, [1, last + 4]);
        }
    });
}

#[test]
fn no_session_begins_with_an_agent_that_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let new = session(1);
    let agent = Agent { tenant: new.tenant.clone(), name: new.agent.clone(), ..agent(9, 1) };
    let begin = |session| store.begin_session(AgentId(uuid(9)), session, vec![event(1)]);
    block_on(async {
        assert!(!begin(new.clone()).await.unwrap());
        assert_eq!(store.session(new.id).await.unwrap(), None);
        store.deploy(agent.clone()).await.unwrap();
        assert!(begin(new.clone()).await.unwrap());
        assert_eq!(numbers(&store, 1).await, [1]);
        store.delete_agent(&new.tenant, &new.agent).await.unwrap();
        assert!(!begin(session(2)).await.unwrap());
        // Nor with another one that is called like it.
        store.deploy(Agent { id: AgentId(uuid(8)), ..agent }).await.unwrap();
        assert!(!begin(session(2)).await.unwrap());
    });
}

#[test]
fn an_agent_is_what_it_was_changed_to_also_when_nobody_waited_for_that() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let agent = |version| agent(9, version);
    let Agent { tenant, name, .. } = agent(1);
    block_on(async {
        for version in 1..=20 {
            let mut deploying = store.deploy(agent(version));
            // It is in the queue after its first poll.
            let _ = (&mut deploying).now_or_never();
            drop(deploying);
            store.create_session(session(version as u8), Vec::new()).await.unwrap();
            for _ in 0..2 {
                let found = store.agent(&tenant, &name).await.unwrap();
                assert_eq!(found, Some(agent(version)));
            }
        }
        assert!(
            store.change_agent(Agent { updated_at: Timestamp(99), ..agent(20) }).await.unwrap()
        );
        let found = store.agent(&tenant, &name).await.unwrap();
        assert_eq!(found.unwrap().updated_at, Timestamp(99));
        assert!(store.delete_agent(&tenant, &name).await.unwrap());
        assert_eq!(store.agent(&tenant, &name).await.unwrap(), None);
        store.adopt_agent(agent(7)).await.unwrap();
        assert_eq!(store.agent(&tenant, &name).await.unwrap(), Some(agent(7)));
        store.tenant_left(&tenant).await.unwrap();
        assert_eq!(store.agent(&tenant, &name).await.unwrap(), None);
        store.close().await;
        assert!(matches!(store.agent(&tenant, &name).await, Err(StoreError::Closed)));
    });
}

#[test]
fn the_log_does_not_grow_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let large = |seq| NewEvent { body: vec![b'x'; 1 << 20].into(), ..event(seq) };
    block_on(async {
        store.create_session(session(1), Vec::new()).await.unwrap();
        for seq in 1..=128 {
            store.commit(append(1, vec![large(seq)])).await.unwrap();
        }
    });
    let log = std::fs::metadata(dir.path().join("ash.db-wal")).unwrap().len();
    assert!(log < 80 << 20, "{} MiB", log >> 20);
}

#[test]
fn a_turn_that_begins_writes_no_index_of_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = || std::fs::metadata(dir.path().join("ash.db-wal")).unwrap().len();
    block_on(async {
        store.create_session(session(1), Vec::new()).await.unwrap();
        let before = log();
        let turn = Some(Some(RunningTurn { id: TurnId(uuid(1)), user_seq: 1 }));
        let (last_active_at, last_error) = (Some(Timestamp(9)), Some(None));
        let change = SessionChange { turn, last_active_at, last_error, ..Default::default() };
        store.commit(Commit::of(id(1), change, vec![event(1)])).await.unwrap();
        // The row, the event, and from where that came.
        assert!(log() - before <= 3 * FRAME, "{} bytes", log() - before);
        let found = store.session(id(1)).await.unwrap().unwrap();
        assert_eq!((found.status, found.last_active_at), (Status::Active, Timestamp(9)));
    });
}

#[test]
fn a_status_writes_the_row_the_event_two_indexes_and_a_count() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let log = || std::fs::metadata(dir.path().join("ash.db-wal")).unwrap().len();
    block_on(async {
        store.create_session(session(1), vec![]).await.unwrap();
        for (seq, status) in [(1, Status::Paused), (2, Status::Active)] {
            let before = log();
            // As those that tell of a status, it comes from no sandbox.
            let said = NewEvent { origin: None, ..event(seq) };
            let commit = Commit::of(id(1), SessionChange::status(status), vec![said]);
            store.commit(commit).await.unwrap();
            assert!(log() - before <= 5 * FRAME, "{} bytes", log() - before);
        }
    });
}

#[test]
fn a_status_is_written_with_its_event_and_leaves_the_rest_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let last_error = Some("it failed".to_owned());
    let new = Session { last_error, cold: true, ..session(1) };
    let status = |status| SessionChange::status(status);
    block_on(async {
        store.create_session(new.clone(), vec![event(1), event(2)]).await.unwrap();
        let found = || async { store.session(id(1)).await.unwrap().unwrap() };
        let mut expected = Session { last_seq: 2, ..new };
        assert_eq!(found().await, expected);
        store.commit(Commit::of(id(1), status(Status::Paused), vec![event(3)])).await.unwrap();
        (expected.status, expected.last_seq) = (Status::Paused, 3);
        assert_eq!(found().await, expected);
        // Without an event, and with something else.
        store.commit(Commit::of(id(1), status(Status::Stopped), vec![])).await.unwrap();
        expected.status = Status::Stopped;
        assert_eq!(found().await, expected);
        let change = SessionChange { cold: Some(false), ..status(Status::Active) };
        store.commit(Commit::of(id(1), change, vec![event(4)])).await.unwrap();
        (expected.status, expected.cold, expected.last_seq) = (Status::Active, false, 4);
        assert_eq!(found().await, expected);
    });
}

#[test]
fn an_agent_that_comes_from_elsewhere_is_new_or_newer() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        store.deploy(agent(1, 1)).await.unwrap();
        store.adopt_agent(agent(1, 5)).await.unwrap();
        for other in [agent(1, 5), agent(1, 4), agent(2, 6)] {
            let refused = store.adopt_agent(other).await.unwrap_err();
            assert!(matches!(refused, StoreError::Exists { .. }), "{refused}");
        }
        assert_eq!(store.deploy(agent(9, 6)).await.unwrap(), agent(1, 6));
    });
}
