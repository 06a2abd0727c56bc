//! What goes by its age, by a clock of the test's own.

use super::super::retention;
use super::*;
use crate::domain::{AgentConfig, AgentId, Scope, SessionChange, Which};

async fn points(store: &Sqlite, session: u8) -> Vec<u8> {
    let points = store.points(id(session)).await.unwrap();
    points.iter().map(|point| point.id.0.as_bytes()[0]).collect()
}

#[test]
fn sessions_that_ended_long_ago_are_found_by_the_clock() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        for (n, status, at) in [
            (1, Status::Ended, 30),
            (2, Status::Ended, 10),
            (3, Status::Active, 10),
            (4, Status::Stopped, 10),
            (5, Status::Ended, 90),
        ] {
            let session = Session { status, last_active_at: Timestamp(at), ..session(n) };
            store.create_session(session, vec![]).await.unwrap();
        }
        // Nothing had happened in it for long when it was ended.
        let idle = Session { status: Status::Ended, last_active_at: Timestamp(10), ..session(7) };
        let end = NewEvent { at: Timestamp(95), ..event(1) };
        store.create_session(idle, vec![end]).await.unwrap();
        // One that is still being put away has its uids.
        let busy = Session { status: Status::Ended, slot: Some(3), ..session(6) };
        store.create_session(busy, vec![]).await.unwrap();
        let before = async |at, skip, limit| {
            let found = store.ended_before(Timestamp(at), skip, limit).await.unwrap();
            found.into_iter().map(|(_, id)| id).collect::<Vec<_>>()
        };
        assert_eq!(before(10, 0, 9).await, []);
        assert_eq!(before(31, 0, 9).await, [id(2), id(1)]);
        assert_eq!(before(95, 0, 9).await, [id(2), id(1), id(5)]);
        assert_eq!(before(96, 0, 2).await, [id(2), id(7)]);
        // Those that could not be purged do not stand in the way of others.
        assert_eq!(before(96, 1, 2).await, [id(7), id(1)]);
        assert_eq!(before(96, 4, 2).await, []);
    });
}

#[test]
fn old_points_go_but_never_the_newest_a_named_or_a_needed_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        store.create_session(session(1), (1..=9).map(event).collect()).await.unwrap();
        store.create_session(session(2), vec![event(1)]).await.unwrap();
        for n in 1..=4 {
            store.add_point(point(n, 1, n.into(), n.into()), 99).await.unwrap();
        }
        let named = Point { name: Some("kept".parse().unwrap()), ..point(5, 1, 5, 5) };
        store.add_point(named, 99).await.unwrap();
        store.add_point(point(6, 1, 6, 6), 99).await.unwrap();
        store.add_point(point(7, 2, 1, 0), 99).await.unwrap();
        let change = SessionChange { restore: Some(Some(PointId(uuid(2)))), ..Default::default() };
        store.commit(Commit::of(id(1), change, vec![])).await.unwrap();

        let none = Spared::default();
        assert_eq!(store.remove_old_points(Timestamp(1), &none, 9).await.unwrap(), 0);
        assert_eq!(store.remove_old_points(Timestamp(99), &none, 1).await.unwrap(), 1);
        assert_eq!(points(&store, 1).await, [6, 5, 4, 3, 2]);
        // So many bytes, and no more than are asked for at a time.
        assert_eq!(store.remove_oldest_points(0, &none, 9).await.unwrap(), (0, 0));
        assert_eq!(store.remove_oldest_points(1, &none, 9).await.unwrap(), (1, 100));
        assert_eq!(points(&store, 1).await, [6, 5, 4, 2]);
        assert_eq!(store.remove_oldest_points(u64::MAX, &none, 9).await.unwrap(), (1, 100));
        assert_eq!(store.remove_old_points(Timestamp(99), &none, 9).await.unwrap(), 0);
        assert_eq!(points(&store, 1).await, [6, 5, 2]);
        assert_eq!(points(&store, 2).await, [7]);
        let newest = store.point(id(1), Which::Newest).await.unwrap().unwrap();
        assert_eq!(newest.id, PointId(uuid(6)));
    });
}

#[test]
fn what_a_damaged_point_needs_and_what_is_spared_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        let theirs = Session { tenant: "acme".parse().unwrap(), ..session(2) };
        for session in [session(1), theirs, session(3)] {
            store.create_session(session, (1..=3).map(event).collect()).await.unwrap();
        }
        for (session, first) in [(1, 1), (2, 4), (3, 7)] {
            for n in 0..3 {
                let seq = u64::from(n) + 1;
                store.add_point(point(first + n, session, seq, 5), 99).await.unwrap();
            }
        }
        let change = SessionChange { restore: Some(Some(PointId(uuid(8)))), ..Default::default() };
        store.commit(Commit::of(id(3), change, vec![])).await.unwrap();
        let remove = async |tenants: &[&str], damaged: &[u8]| {
            let tenants: Vec<Tenant> = tenants.iter().map(|it| it.parse().unwrap()).collect();
            let damaged: Vec<Root> = damaged.iter().map(|n| Root([*n; 32])).collect();
            let spared = Spared { tenants, damaged };
            let old = store.remove_old_points(Timestamp(99), &spared, 9).await.unwrap();
            (old, store.remove_oldest_points(u64::MAX, &spared, 9).await.unwrap().0)
        };
        // The newest, or the one that a session is to be brought back to: it needs an older one.
        assert_eq!(remove(&["acme"], &[3, 8]).await, (0, 0));
        // An older one that is damaged is nothing to go on from.
        assert_eq!(remove(&["acme"], &[1, 8]).await, (2, 0));
        assert_eq!(points(&store, 1).await, [3]);
        assert_eq!(points(&store, 2).await, [6, 5, 4]);
        assert_eq!(points(&store, 3).await, [9, 8, 7]);
        assert_eq!(remove(&[], &[6, 9]).await, (1, 0));
        assert_eq!(points(&store, 3).await, [9, 8]);
        assert_eq!(remove(&[], &[]).await, (2, 0));
        assert_eq!(points(&store, 2).await, [6]);
    });
}

/// Turns of three events each: what was asked, what was said, how it ended.
fn turns(count: u64) -> Vec<NewEvent> {
    let kinds = [EventKind::User, EventKind::Assistant, EventKind::Result];
    let kind = |seq: u64| kinds[(seq - 1) as usize % 3];
    (1..=count * 3).map(|seq| NewEvent { kind: kind(seq), ..event(seq) }).collect()
}

#[test]
fn old_events_are_forgotten_and_keep_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        store.create_session(session(1), turns(4)).await.unwrap();
        let ended = Session { status: Status::Ended, ..session(2) };
        store.create_session(ended, turns(1)).await.unwrap();
        store.create_session(session(3), turns(1)).await.unwrap();
        let old = async |at, after| {
            store.sessions_with_old_events(Timestamp(at), after, 9).await.unwrap()
        };
        assert_eq!(old(1, None).await, []);
        assert_eq!(old(2, None).await, [id(1), id(2), id(3)]);
        assert_eq!(old(2, Some(id(1))).await, [id(2), id(3)]);

        // A step at a time; what is younger stays, and so do the newest two turns.
        let forget =
            async |n, at, limit| store.forget_events(id(n), Timestamp(at), limit).await.unwrap();
        assert_eq!(forget(1, 1, 9).await, 0);
        assert_eq!(forget(1, 6, 2).await, 2);
        assert_eq!(forget(1, 6, 9).await, 3);
        assert_eq!(forget(1, 99, 9).await, 1);
        assert_eq!(forget(1, 99, 9).await, 0);
        assert_eq!(numbers(&store, 1).await, (1..=12).collect::<Vec<_>>());
        let events = store.events(id(1), everything()).await.unwrap();
        let is_forgotten = |event: &Event| &event.body[..] == br#"{"action":"forgotten"}"#;
        assert_eq!(events.iter().filter(|event| is_forgotten(event)).count(), 6);
        assert!(events[..6].iter().all(|it| it.kind == EventKind::Lifecycle && it.turn.is_none()));
        assert_eq!((events[6].kind, events[6].at), (EventKind::User, Timestamp(7)));
        // Of one that has ended everything may go; of a single turn that may go on nothing.
        assert_eq!((forget(2, 99, 9).await, forget(3, 99, 9).await), (3, 0));
        assert_eq!(old(99, None).await, [id(1), id(3)]);
        // History goes on behind it.
        store.commit(append(1, vec![event(13)])).await.unwrap();
        assert_eq!(numbers(&store, 1).await.len(), 13);
        assert_eq!(store.check().await.unwrap(), None);
    });
    // Nothing of what was said is left.
    block_on(store.scrub()).unwrap();
    drop(store);
    let bytes = std::fs::read(dir.path().join("ash.db")).unwrap();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(!holds(b"{\"n\":4}") && holds(b"{\"n\":7}"));
}

#[test]
fn nothing_is_added_to_a_tenant_that_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let acme: Tenant = "acme".parse().unwrap();
    let key = |n: u8, tenant: &Tenant| Key {
        id: uuid(n),
        tenant: tenant.clone(),
        hash: [n; 32],
        label: "key".into(),
        scope: Scope::Run,
        created_at: Timestamp(0),
    };
    let agent = |n: u8| Agent {
        id: AgentId(uuid(n)),
        tenant: "acme".parse().unwrap(),
        name: "agent".parse().unwrap(),
        version: 1,
        env: Default::default(),
        config: AgentConfig::default(),
        created_at: Timestamp(0),
        updated_at: Timestamp(0),
    };
    block_on(async {
        assert_eq!(store.leave_tenant(&acme).await.unwrap(), None);
        assert_eq!(store.leaving_tenants().await.unwrap(), []);
        let theirs = |n| Session { tenant: acme.clone(), ..session(n) };
        store.create_session(theirs(1), vec![event(1)]).await.unwrap();
        store.create_session(session(2), vec![event(1)]).await.unwrap();
        store.deploy(agent(1)).await.unwrap();
        store.add_key(key(1, &acme)).await.unwrap();
        store.add_key(key(2, &Tenant::default())).await.unwrap();

        let revoked = store.leave_tenant(&acme).await.unwrap();
        assert_eq!(revoked, Some(vec![key(1, &acme)]));
        assert_eq!(store.leave_tenant(&acme).await.unwrap(), Some(vec![]));
        assert_eq!(store.leaving_tenants().await.unwrap(), std::slice::from_ref(&acme));
        let refused = store.create_session(theirs(3), vec![]).await.unwrap_err().to_string();
        assert_eq!(refused, "the tenant, which is being deleted, does not exist");
        assert!(store.adopt_agent(Agent { name: "b".parse().unwrap(), ..agent(2) }).await.is_err());
        store.create_session(session(4), vec![]).await.unwrap();

        store.tenant_left(&acme).await.unwrap();
        assert_eq!(store.leaving_tenants().await.unwrap(), []);
        assert!(store.session(id(1)).await.unwrap().is_none());
        assert!(store.agents(&acme).await.unwrap().is_empty());
        assert_eq!(store.sessions(&acme, SessionFilter::default()).await.unwrap(), (vec![], 0));
        assert_eq!(store.count_sessions().await.unwrap().of(Status::Active), 2);
        assert!(store.session(id(2)).await.unwrap().is_some());
        assert_eq!(store.keys().await.unwrap(), [key(2, &Tenant::default())]);
        // The name can be used again.
        store.create_session(theirs(3), vec![]).await.unwrap();
        assert_eq!(store.check().await.unwrap(), None);
    });
}

#[test]
fn what_is_looked_for_by_age_has_an_index() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let raw = rusqlite::Connection::open(dir.path().join("ash.db")).unwrap();
    let plan = |sql: &str| {
        let mut query = raw.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let (mut rows, mut steps) = (query.raw_query(), vec![]);
        while let Some(row) = rows.next().unwrap() {
            steps.push(row.get::<_, String>(3).unwrap());
        }
        steps.join("; ")
    };
    let ended = plan(retention::ENDED);
    assert!(ended.contains("INDEX sessions_ended") && !ended.contains("TEMP"), "{ended}");
    let (points, spare) = (retention::POINTS, retention::SPARE);
    for age in ["", "points.created_at < ?3 AND"] {
        let old = plan(&format!(
            "SELECT points.key FROM {points} WHERE {age} {spare} ORDER BY points.created_at LIMIT 9"
        ));
        assert!(old.contains("INDEX points_by_age") && !old.contains("TEMP"), "{old}");
    }
}

/// A copy is of one moment, can be opened, and does not hold up whoever writes.
#[test]
fn a_copy_is_a_database_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (copy, there) = (dir.path().join("copy.db"), dir.path().join("there"));
    block_on(async {
        store.create_session(session(1), vec![event(1)]).await.unwrap();
        store.copy_to(&copy).await.unwrap();
        store.commit(append(1, vec![event(2)])).await.unwrap();
        std::fs::write(&there, "precious").unwrap();
        assert!(store.copy_to(&there).await.is_err());
        assert_eq!(std::fs::read(&there).unwrap(), b"precious");
    });
    let copied = Sqlite::open(&copy, Options::default()).unwrap();
    assert_eq!(block_on(numbers(&copied, 1)), [1]);
    assert_eq!(block_on(numbers(&store, 1)), [1, 2]);
    assert_eq!(block_on(copied.check()).unwrap(), None);
}
