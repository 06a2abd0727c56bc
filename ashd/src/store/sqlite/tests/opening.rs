//! What can be opened, and what is left on the disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rusqlite::Connection;

use super::super::events::DONE;
use super::super::schema::KNOWN;
use super::super::sessions::{COUNT, unended_keys};
use super::super::unsynced;
use super::*;
use crate::domain::{AgentConfig, AgentId, MediaType, Scope};
use crate::store::StoreError;

fn refusal(path: &Path) -> StoreError {
    Sqlite::open(path, Options::default()).err().expect("was opened")
}

#[test]
fn only_the_owner_can_read_the_files() {
    let dir = tempfile::tempdir().unwrap();
    // As a careless copy would leave them.
    for name in ["ash.db", "ash.db-wal"] {
        fs::write(dir.path().join(name), "").unwrap();
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(0o644)).unwrap();
    }
    let store = open(dir.path());
    block_on(store.create_session(session(1), vec![event(1)])).unwrap();
    let files: Vec<_> = fs::read_dir(dir.path()).unwrap().map(Result::unwrap).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
    }
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ash.db");
    drop(open(dir.path()));
    let raw = Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 99).unwrap();
    drop(raw);
    let before = fs::read(&path).unwrap();
    let refused = refusal(&path);
    assert!(matches!(refused, StoreError::Newer { found: 99, known: KNOWN }), "{refused}");
    assert_eq!(before, fs::read(&path).unwrap());
}

#[test]
fn what_the_first_schema_held_is_all_there_after_the_upgrade() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ash.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(include_str!("../1.sql")).unwrap();
    old.pragma_update(None, "application_id", 0x6173_6831).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute_batch(
        r#"INSERT INTO agents VALUES (1, x'01010101010101010101010101010101', 'default', 'a', 2, 10),
                                     (2, x'02020202020202020202020202020202', 'other', 'a', 1, 30);
           INSERT INTO agent_versions VALUES (1, 1, '{"K":"old"}', 10), (1, 2, '{"K":"v"}', 20),
                                             (2, 1, '{}', 30);
           INSERT INTO sessions VALUES (1, x'03030303030303030303030303030303', 'default', 'a', 2,
               'paused', x'04040404040404040404040404040404', 'cli', NULL, NULL, NULL, 7, 0, 40, 50);
           INSERT INTO session_settings VALUES (1, '{"model":"m"}');"#,
    )
    .unwrap();
    drop(old);
    for _ in 0..2 {
        let store = open(dir.path());
        let agents = block_on(store.all_agents()).unwrap();
        let seen: Vec<_> = agents
            .iter()
            .map(|agent| (agent.version, agent.env.get("K").map(String::as_str), agent.updated_at))
            .collect();
        assert_eq!(seen, [(2, Some("v"), Timestamp(20)), (1, None, Timestamp(30))]);
        assert!(agents.iter().all(|agent| agent.config == AgentConfig::default()));
        assert_eq!((agents[0].id, agents[0].created_at), (AgentId(uuid(1)), Timestamp(10)));
        let session = block_on(store.session(SessionId(uuid(3)))).unwrap().unwrap();
        assert_eq!((session.settings.model.as_deref(), session.slot), (Some("m"), Some(7)));
        assert_eq!(session.altered, Some(0), "what it began with is not known");
        assert_eq!(block_on(store.count_sessions()).unwrap().of(Status::Paused), 1);
    }
    let raw = Connection::open(&path).unwrap();
    let version: u32 = raw.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(version, KNOWN);
}

#[test]
fn keys_from_before_scopes_may_what_they_could() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ash.db");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(concat!(include_str!("../1.sql"), include_str!("../2.sql"))).unwrap();
    old.pragma_update(None, "application_id", 0x6173_6831).unwrap();
    old.pragma_update(None, "user_version", 2).unwrap();
    old.execute_batch(
        "INSERT INTO keys VALUES (zeroblob(16), 'default', randomblob(32), 'auto-generated', 1),
                                 (randomblob(16), 'acme', randomblob(32), 'ci', 2);",
    )
    .unwrap();
    drop(old);
    for _ in 0..2 {
        let keys = block_on(open(dir.path()).keys()).unwrap();
        let seen: Vec<_> = keys.iter().map(|key| (key.label.as_str(), key.scope)).collect();
        assert_eq!(seen, [("auto-generated", Scope::Manage), ("ci", Scope::Run)]);
    }
}

/// Sessions from before attachments have none, and can have some.
#[test]
fn sessions_from_before_attachments_take_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ash.db");
    let old = Connection::open(&path).unwrap();
    for step in [
        include_str!("../1.sql"),
        include_str!("../2.sql"),
        include_str!("../3.sql"),
        include_str!("../4.sql"),
    ] {
        old.execute_batch(step).unwrap();
    }
    old.pragma_update(None, "application_id", 0x6173_6831).unwrap();
    old.pragma_update(None, "user_version", 4).unwrap();
    old.execute_batch(
        r#"INSERT INTO sessions (id, tenant, agent, agent_version, status, sandbox, cli_session,
               last_seq, created_at, last_active_at)
               VALUES (x'03030303030303030303030303030303', 'acme', 'a', 1, 'ended',
               x'04040404040404040404040404040404', 'cli', 0, 40, 50);
           INSERT INTO session_settings VALUES (1, '{}');"#,
    )
    .unwrap();
    drop(old);
    let new = Attachment {
        id: AttachmentId(uuid(9)),
        session: SessionId(uuid(3)),
        tenant: "acme".parse().unwrap(),
        message: Some(uuid(7)),
        name: "a.txt".parse().unwrap(),
        media: MediaType::default(),
        size: 12,
        created_at: Timestamp(60),
    };
    let store = open(dir.path());
    assert_eq!(block_on(store.attachments(new.session)).unwrap(), []);
    assert!(block_on(store.add_attachment(new.clone(), 1)).unwrap());
    drop(store);
    let store = open(dir.path());
    assert_eq!(block_on(store.attachment(new.id)).unwrap(), Some(new.clone()));
    assert!(block_on(store.purge_session(new.session)).unwrap().is_some());
    assert_eq!(block_on(store.attachment(new.id)).unwrap(), None);
}

#[test]
fn a_file_that_is_no_database_of_ours_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ash.db");
    fs::write(&path, "once upon a time ".repeat(100)).unwrap();
    assert_eq!(refusal(&path).to_string(), "the database cannot be used: file is not a database");

    let other = dir.path().join("other.db");
    Connection::open(&other).unwrap().execute_batch("CREATE TABLE theirs (x)").unwrap();
    assert!(refusal(&other).to_string().contains("another program"));
}

#[test]
fn damage_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ash.db");
    let store = open(dir.path());
    block_on(store.create_session(session(1), (1..=5_000).map(event).collect())).unwrap();
    drop(store);
    let mut bytes = fs::read(&path).unwrap();
    // Behind the schema, without which it would not even be opened.
    let half = bytes.len() / 2;
    bytes[half..].fill(0x5a);
    fs::write(&path, bytes).unwrap();
    let store = open(dir.path());
    let read = block_on(store.events(SessionId(uuid(1)), everything())).unwrap_err();
    assert_eq!(read.to_string(), "the database cannot be used: database disk image is malformed");
}

#[test]
fn a_closed_store_refuses_and_leaves_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        store.create_session(session(1), vec![event(1)]).await.unwrap();
        store.close().await;
        store.close().await;
        assert!(matches!(store.commit(append(1, vec![event(2)])).await, Err(StoreError::Closed)));
        assert!(matches!(store.keys().await, Err(StoreError::Closed)));
    });
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(block_on(numbers(&open(dir.path()), 1)), [1]);
}

/// A daemon that is restarted does not wait for somebody who has all of the database looked through.
#[test]
fn a_read_that_takes_long_does_not_keep_the_store_from_closing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    block_on(async {
        let (begins, begun) = tokio::sync::oneshot::channel();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let long = store.readers.read(move |_| {
            let _ = begins.send(());
            let _ = held.recv();
            Ok(())
        });
        let closed = async {
            begun.await.unwrap();
            store.readers.close(Duration::from_millis(10)).await;
            assert!(matches!(store.keys().await, Err(StoreError::Closed)));
            drop(release);
        };
        let (read, ()) = tokio::join!(long, closed);
        read.unwrap();
    });
}

/// What may be read from end to end: how many sessions have ended makes it no longer.
const SMALL: [&str; 3] = ["session_counts", "sessions_by_slot", "unsynced"];

#[test]
fn nothing_scans_a_whole_table() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let conn = connect(&dir.path().join("ash.db"), Role::Read).unwrap();
    let event = "FROM events WHERE session = (SELECT key FROM sessions WHERE id = ?)";
    for sql in [
        COUNT,
        "SELECT sum(sessions) FROM session_counts WHERE tenant = ?",
        "SELECT sum(sessions) FROM session_counts WHERE tenant = ? AND agent = ?",
        "SELECT sum(sessions) FROM session_counts WHERE tenant = ? AND status = ?",
        &format!("SELECT * FROM sessions WHERE key IN ({}) ORDER BY key", unended_keys()),
        "SELECT * FROM sessions WHERE key IN (SELECT key FROM sessions WHERE slot IS NOT NULL)
         AND status NOT IN ('ended', 'starting') ORDER BY key",
        unsynced::ALL,
        unsynced::ONE,
        "SELECT * FROM sessions WHERE tenant = ? ORDER BY created_at DESC, key DESC",
        "SELECT * FROM sessions WHERE tenant = ? AND agent = ? ORDER BY created_at DESC, key DESC",
        "SELECT * FROM sessions WHERE tenant = ? AND status = ? ORDER BY created_at DESC, key DESC",
        "SELECT * FROM sessions WHERE tenant = ? AND agent = ? AND status = ?
         ORDER BY created_at DESC, key DESC",
        &format!("SELECT * {event} AND seq > ? AND kind IN ('user') ORDER BY seq LIMIT 1"),
        &format!("SELECT * {event} AND seq > ? {DONE} ORDER BY seq LIMIT 1"),
        "SELECT * FROM points WHERE session = ? AND seq <= ? ORDER BY seq DESC, key DESC LIMIT 1",
        "SELECT * FROM attachments WHERE session = ? ORDER BY key",
        "SELECT * FROM attachments WHERE id = ?",
        "SELECT * FROM usage WHERE session = ? ORDER BY at DESC, key DESC LIMIT 1",
        "DELETE FROM sessions WHERE id = ?",
    ] {
        let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let nothing = vec![rusqlite::types::Null; plan.parameter_count()];
        let steps = plan.query_map(rusqlite::params_from_iter(nothing), |row| row.get(3)).unwrap();
        for step in steps.map(|step: rusqlite::Result<String>| step.unwrap()) {
            // But for one session nobody looks through those of all that are in use.
            let is_small = sql != unsynced::ONE && SMALL.iter().any(|index| step.contains(*index));
            let through_index = !step.starts_with("SCAN") || is_small;
            assert!(through_index && !step.contains("TEMP B-TREE"), "{sql}: {step}");
        }
    }
}
