//! However often the way to the newest schema is interrupted, it ends where it would have ended,
//! and everything has come along.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};

use rusqlite::Connection;
use rusqlite::types::Value;

use super::super::schema::{APPLICATION, KNOWN, MIGRATIONS};
use super::*;

/// Tells the child where its database is.
const DIR: &str = "ASH_TEST_MIGRATE_DIR";

/// What a database holds, and since which schema it can.
const ROWS: &[(u32, &str)] = &[
    (
        1,
        r#"INSERT INTO keys (id, tenant, hash, label, created_at)
               VALUES (x'01', 'default', x'0a', 'auto-generated', 1),
                      (x'02', 'acme', x'0b', 'ci', 2);
           INSERT INTO agents (key, id, tenant, name, version, created_at)
               VALUES (1, x'03', 'default', 'a', 2, 10), (2, x'04', 'acme', 'a', 1, 30);
           INSERT INTO agent_versions (agent, version, env, deployed_at)
               VALUES (1, 1, '{"K":"old"}', 10), (1, 2, '{"K":"v"}', 20), (2, 1, '{}', 30);
           INSERT INTO sessions (key, id, tenant, agent, agent_version, status, sandbox,
               cli_session, cli_version, turn, turn_user_seq, slot, last_seq, created_at,
               last_active_at)
               VALUES
               (1, x'05', 'default', 'a', 2, 'paused', x'06', 'cli', '2.1', x'07', 2, 7, 3, 40, 50),
               (2, x'08', 'acme', 'a', 1, 'ended', x'09', 'cli', NULL, NULL, NULL, NULL, 0, 40, 60);
           INSERT INTO session_settings (session, settings) VALUES (1, '{"model":"m"}'), (2, '{}');
           INSERT INTO events (session, seq, kind, turn, epoch, number, replaces, at, body)
               VALUES (1, 1, 'lifecycle', NULL, NULL, NULL, 0, 41, x'7b7d'),
                      (1, 2, 'user', x'07', NULL, NULL, 0, 42, x'7b7d'),
                      (1, 3, 'assistant', x'07', 5, 1, 1, 43, x'7b7d');
           INSERT INTO usage (session, at, model, input_tokens, output_tokens,
               cache_creation_tokens, cache_read_tokens, cost_usd, calls)
               VALUES (1, 43, 'm', 1, 2, 3, 4, 0.5, 1);"#,
    ),
    (2, r#"UPDATE agents SET env = '{"K":"new"}', config = '{}', updated_at = 35 WHERE key = 2;"#),
    (
        3,
        "UPDATE keys SET scope = 'manage' WHERE tenant = 'acme';
         UPDATE sessions SET last_error = 'The session was stopped' WHERE key = 1;",
    ),
    (
        4,
        "INSERT INTO points (session, id, name, seq, turn, turn_user_seq, cli_session, root, files,
             bytes, written, left_out, undone, created_at)
             VALUES (1, x'10', 'kept', 1, NULL, NULL, 'cli', x'0c', 1, 2, 3, 0, '[]', 44),
                    (1, x'11', NULL, 3, x'07', 2, 'cli', x'0d', 1, 2, 3, 4, '[[2,2]]', 45);
         INSERT INTO undone (session, first, last) VALUES (1, 2, 2);
         UPDATE sessions SET parent = x'05', restore = x'11', cold = 1 WHERE key = 2;",
    ),
    (
        5,
        "INSERT INTO attachments (session, id, message, name, media, size, created_at)
             VALUES (1, x'12', x'13', 'a.txt', 'text/plain', 5, 46),
                    (2, x'14', NULL, 'b', 'text/plain', 0, 47);",
    ),
    (
        6,
        "INSERT INTO copies (session, generation) VALUES (1, 3);
         UPDATE points SET copied = 1 WHERE id = x'10';
         INSERT INTO purged_copies (id, tenant, generation) VALUES (x'15', 'acme', 2);",
    ),
    (
        7,
        "INSERT INTO leaving_tenants (tenant) VALUES ('gone');
         UPDATE sessions SET forgotten = 1 WHERE key = 1;",
    ),
    (8, "INSERT INTO unsynced (session, point, build, boot) VALUES (1, x'11', x'16', 'before');"),
    (9, "UPDATE sessions SET changed = 2 WHERE key = 1;"),
    (10, "UPDATE sessions SET altered = 3 WHERE key = 1;"),
    // The database counts it by itself.
    (11, "UPDATE sessions SET status = 'stopped' WHERE key = 1;"),
];

/// No test of its own: what the child does. One that is told to fail does so once.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    let fails = std::env::var("ASH_FAULT").is_ok_and(|fault| fault.ends_with(":error"));
    let refused = Sqlite::open(&dir.join("ash.db"), Options::default()).err();
    assert_eq!(refused.is_some(), fails, "{refused:?}");
    drop(open(dir));
}

/// Opens the database in a process of its own that has this fault.
fn open_elsewhere(dir: &Path, fault: &str) -> Output {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "store::sqlite::tests::migrating::child", "--nocapture"]);
    child.env(DIR, dir).env("ASH_FAULT", fault).output().unwrap()
}

/// A database of this schema, with something in each of its tables and columns. Before the first
/// there is none.
fn made(version: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    if version == 0 {
        return dir;
    }
    let old = Connection::open(dir.path().join("ash.db")).unwrap();
    for (step, at) in MIGRATIONS.iter().zip(1..=version) {
        old.execute_batch(step).unwrap();
        for (_, rows) in ROWS.iter().filter(|(since, _)| *since == at) {
            old.execute_batch(rows).unwrap();
        }
    }
    old.pragma_update(None, "application_id", APPLICATION).unwrap();
    old.pragma_update(None, "user_version", version).unwrap();
    dir
}

/// How a database is made, and what is in it.
#[derive(Debug, Default, PartialEq)]
struct Content {
    schema: Vec<String>,
    tables: BTreeMap<String, Table>,
}

#[derive(Debug, PartialEq)]
struct Table {
    columns: Vec<String>,
    /// In an order of their own.
    rows: Vec<Vec<String>>,
}

fn content(dir: &Path) -> Content {
    let path = dir.join("ash.db");
    if !path.exists() {
        return Content::default();
    }
    let conn = Connection::open(path).unwrap();
    let list = |sql: &str| -> Vec<String> {
        let mut all = conn.prepare(sql).unwrap();
        all.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let schema = list("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name");
    let names = list("SELECT name FROM sqlite_schema WHERE type = 'table'");
    let tables = names.into_iter().map(|name| {
        let table = table(&conn, &name);
        (name, table)
    });
    Content { schema, tables: tables.collect() }
}

fn table(conn: &Connection, name: &str) -> Table {
    let mut all = conn.prepare(&format!("SELECT * FROM {name}")).unwrap();
    let columns: Vec<String> = all.column_names().map(str::to_owned).collect();
    let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Vec<String>> {
        (0..columns.len()).map(|at| Ok(format!("{:?}", row.get::<_, Value>(at)?))).collect()
    };
    let mut rows: Vec<_> = all.query_map([], row).unwrap().map(Result::unwrap).collect();
    rows.sort();
    Table { columns, rows }
}

/// Checks that every row of before is there, in the columns that there still are, and no other.
fn check_kept(before: &Content, now: &Content) {
    for (name, old) in &before.tables {
        let new = &now.tables[name];
        let same = |column: &&String| new.columns.contains(column);
        let columns: Vec<&String> = old.columns.iter().filter(same).collect();
        assert!(columns.len() >= 2 || columns.len() == old.columns.len(), "{name}: {columns:?}");
        assert_eq!(of(old, &columns), of(new, &columns), "{name}: {columns:?}");
    }
}

/// What rows have in these columns.
fn of<'a>(table: &'a Table, columns: &[&String]) -> Vec<Vec<&'a String>> {
    let place = |column: &&String| table.columns.iter().position(|other| other == *column).unwrap();
    let places: Vec<usize> = columns.iter().map(place).collect();
    let mut rows: Vec<Vec<&String>> =
        table.rows.iter().map(|row| places.iter().map(|at| &row[*at]).collect()).collect();
    rows.sort();
    rows
}

/// What comes of a database of this schema when nothing is in the way; everything has come along.
fn whole(version: u32) -> Content {
    let dir = made(version);
    let before = content(dir.path());
    let full = |table: &Table| !table.rows.is_empty();
    assert!(before.tables.values().all(full), "there is an empty table in {before:?}");
    drop(open(dir.path()));
    let now = content(dir.path());
    check_kept(&before, &now);
    now
}

fn check_same(dir: &Path, version: u32) {
    let store = open(dir);
    assert_eq!(block_on(store.check()).unwrap(), None, "from version {version}");
    drop(store);
    assert_eq!(content(dir), whole(version), "from version {version}");
}

/// Whether this program has fault points; says so when it has none.
fn has_faults() -> bool {
    if !cfg!(feature = "faults") {
        println!("SKIP: this is built without the feature faults");
    }
    cfg!(feature = "faults")
}

/// Each begins where the one before it was killed: at every step, before it is kept and after.
#[test]
fn every_step_is_survived_from_every_schema() {
    if !has_faults() {
        return;
    }
    for version in 0..KNOWN {
        let dir = made(version);
        for step in version + 1..=KNOWN {
            for (point, left) in [("store.migrate.before", step - 1), ("store.migrate.after", step)]
            {
                let died = open_elsewhere(dir.path(), point);
                let at = format!("from version {version}, at step {step}, {point}: {died:?}");
                assert_eq!(died.status.signal(), Some(9), "{at}");
                assert_eq!(Sqlite::schema_of(&dir.path().join("ash.db")).unwrap(), left, "{at}");
            }
        }
        check_same(dir.path(), version);
    }
}

#[test]
fn a_step_that_fails_is_told_and_can_be_tried_again() {
    if !has_faults() {
        return;
    }
    for version in 0..KNOWN {
        let dir = made(version);
        let last = format!("store.migrate.before:{}:error", KNOWN - version);
        let tried = open_elsewhere(dir.path(), &last);
        assert!(tried.status.success(), "from version {version}: {tried:?}");
        check_same(dir.path(), version);
    }
}

/// Whoever adds a schema has to say here what a database of it holds.
#[test]
fn every_schema_that_can_be_brought_on_has_rows_here() {
    let since: Vec<u32> = ROWS.iter().map(|(since, _)| *since).collect();
    assert_eq!(since, (1..KNOWN).collect::<Vec<_>>());
    for version in 0..KNOWN {
        whole(version);
    }
}
