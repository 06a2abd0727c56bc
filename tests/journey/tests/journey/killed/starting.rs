//! What a daemon does before it serves anybody is interrupted or fails: it is told, and the next one goes on from
//! where that was.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Api, Ash, Client as _, Options, programs};
use rusqlite::types::Value;
use rusqlite::{Connection, params};
use serde_json::json;

use crate::machines::{checkpoint, import, shared};
use crate::support::{Talk, with_hello};

/// A schema of before that most of what a database has today was in already.
const OLDER: u32 = 6;

/// The daemon makes a key of its own.
const NO_KEY: [(&str, &str); 1] = [("ASH_API_KEY", "")];

/// Starts a daemon that dies before it is ready.
fn dies(ash: &mut Ash, fault: &str) -> Result<()> {
    ensure!(!ash.boot_to_die(fault, &[])?, "{fault} did not come before it was ready");
    ash.wait_killed()
}

/// Starts a daemon of which a step fails, at this passage, before it is ready. It ends, and says why.
fn fails(ash: &mut Ash, (point, passage): (&str, u32), env: &[(&str, &str)]) -> Result<()> {
    let before = ash.log().len();
    let fault = format!("{point}:{passage}:error");
    ensure!(!ash.boot_to_die(&fault, env)?, "{fault} has kept nothing from starting");
    // It has ended by itself, and is not there any more.
    ash.kill9()?;
    let said = ash.log().split_off(before);
    ensure!(said.contains(&format!("the fault point {point} was asked to fail")), "{said}");
    Ok(())
}

#[test]
fn which_daemon_it_is_is_settled_once() -> Result<()> {
    let bucket = tempfile::tempdir()?;
    let options = shared(Options::stub(), bucket.path());
    let mut ash = with_hello(options.clone())?;
    ash.kill9()?;
    let file = ash.data_dir().join("node");
    fs::remove_file(&file)?;
    dies(&mut ash, "node.publish")?;
    fails(&mut ash, ("node.publish", 1), &[])?;
    ensure!(!file.exists(), "it is settled already");
    ash.boot()?;
    let node = fs::read(&file)?;
    let session = ash.api().create("hello", json!({}))?;
    ash.api().send(&session, json!({ "content": "[[say hello]]" }))?.to_end()?;
    checkpoint(&ash.api(), &session, "before")?;
    ash.crash()?;
    ensure!(fs::read(&file)? == node, "it is another one");
    // The session is still its own.
    checkpoint(&ash.api(), &session, "behind")?;
    ensure!(ash.api().status(&session)? == "active");
    let there = Ash::start(options)?;
    import(&there.api(), &session, 201)?;
    there.finish()?;
    ash.finish()
}

#[test]
fn a_key_that_is_not_kept_is_made_anew() -> Result<()> {
    let mut ash = with_hello(Options::stub())?;
    ash.kill9()?;
    let file = ash.data_dir().join("initial-api-key");
    fails(&mut ash, ("key.publish", 1), &NO_KEY)?;
    ensure!(!file.exists(), "there is a key of which nobody was told");
    ash.boot_with(&NO_KEY)?;
    let key = fs::read_to_string(&file)?;
    let own = Api::new(ash.address(), key.trim());
    own.call("GET", "/api/agents/hello", None)?.expect(200)?;
    ash.finish()
}

#[test]
fn a_database_that_is_not_made_is_made_anew() -> Result<()> {
    let mut ash = with_hello(Options::stub())?;
    ash.terminate()?;
    for file in ["ash.db", "ash.db-wal", "ash.db-shm"] {
        let path = ash.data_dir().join(file);
        ensure!(!path.exists() || fs::remove_file(path).is_ok(), "{file} cannot be removed");
    }
    fails(&mut ash, ("store.migrate.before", 3), &[])?;
    ash.boot()?;
    ash.api().deploy("hello", &ash.agents_dir().join("hello"))?;
    ash.api().create("hello", json!({}))?;
    ash.finish()
}

/// Whatever interrupts the way to the newest schema, all that was in the database is there behind it, and the
/// sessions go on.
#[test]
fn a_database_of_before_is_brought_on_however_often_that_is_interrupted() -> Result<()> {
    let mut talk = Talk::begin(Options::stub())?;
    talk.ask(&talk.bash("echo one > file"))?;
    talk.checkpoint("named")?;
    talk.ask("[[say remember the owl]]")?;
    let file = json!({ "filename": "note.txt", "content": "aGVsbG8=" });
    let made = talk.post("attachments", file, 201)?;
    let attachment = made["attachment"]["id"].as_str().context("no id")?.to_owned();
    let child = talk.fork(json!({}))?;
    let over = talk.api.create("hello", json!({}))?;
    talk.api.send(&over, json!({ "content": "[[say over]]" }))?.to_end()?;
    ensure!(talk.api.turn_to(&over, "end")? == "ended");
    let sessions = [talk.session.clone(), child.clone(), over.clone()];
    let histories = |api: &Api| -> Result<Vec<_>> {
        sessions.iter().map(|session| api.messages(session)).collect()
    };
    let said = histories(&talk.api)?;
    talk.ash.terminate()?;

    let path = talk.ash.data_dir().join("ash.db");
    let newest = lower(&path, OLDER)?;
    let before = content(&path)?;
    for table in ["agents", "attachments", "events", "points", "sessions"] {
        ensure!(before.get(table).is_some_and(|it| !it.rows.is_empty()), "nothing is in {table}");
    }
    dies(&mut talk.ash, "store.migrate.before:2")?;
    ensure!(schema(&path)? == OLDER + 1, "schema {}", schema(&path)?);
    dies(&mut talk.ash, "store.migrate.after")?;
    ensure!(schema(&path)? == OLDER + 2, "schema {}", schema(&path)?);
    fails(&mut talk.ash, ("store.migrate.before", 1), &[])?;
    ensure!(schema(&path)? == OLDER + 2, "schema {}", schema(&path)?);
    // When all is done, and nothing else has begun.
    dies(&mut talk.ash, &format!("store.migrate.after:{}", newest - OLDER - 2))?;
    ensure!(schema(&path)? == newest, "schema {}", schema(&path)?);
    check_kept(&before, &content(&path)?)?;

    talk.boot()?;
    ensure!(histories(&talk.api)? == said, "what was said is not what it was");
    ensure!(talk.api.turn_to(&talk.session, "resume")? == "active");
    ensure!(talk.shell("cat file")? == "one");
    ensure!(talk.ask("[[history]]")?.contains("remember the owl"));
    let read = talk.api.call("GET", &format!("/api/attachments/{attachment}"), None)?;
    ensure!(read.text() == "hello", "{}", read.text());
    ensure!(talk.api.turn_to(&child, "resume")? == "active");
    ensure!(talk.api.exec(&child, "cat file")?.stdout == "one\n");
    ensure!(talk.api.status(&over)? == "ended");
    talk.api.call("POST", &talk.path("checkpoints/named/restore"), None)?.expect(200)?;
    let found = talk.ash.ctl().json(&["fsck", "--deep"])?;
    ensure!(found["differences"] == json!([]), "{found}");
    talk.ash.finish()
}

/// What is in a table.
struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// What is in a database, by the names of its tables.
fn content(path: &Path) -> Result<BTreeMap<String, Table>> {
    let database = Connection::open(path)?;
    let mut tables = BTreeMap::new();
    for name in tables_of(&database)? {
        let columns = columns_of(&database, "main", &name)?;
        let mut all = database.prepare(&format!("SELECT {} FROM {name}", columns.join(", ")))?;
        let row = |row: &rusqlite::Row<'_>| -> rusqlite::Result<Vec<Value>> {
            (0..columns.len()).map(|at| row.get(at)).collect()
        };
        let rows = all.query_map([], row)?.collect::<rusqlite::Result<_>>()?;
        tables.insert(name, Table { columns, rows });
    }
    Ok(tables)
}

/// Every row of before is there, in the columns that there still are, and no other.
fn check_kept(before: &BTreeMap<String, Table>, now: &BTreeMap<String, Table>) -> Result<()> {
    for (name, old) in before {
        let new = now.get(name).with_context(|| format!("there is no {name}"))?;
        let kept: Vec<&String> =
            old.columns.iter().filter(|column| new.columns.contains(column)).collect();
        ensure!(kept.len() > 1, "of {name} only {kept:?} are there");
        let [old, new] = [old, new].map(|table| table.of(&kept));
        ensure!(old == new, "{name}: {new:?} in the place of {old:?}");
    }
    Ok(())
}

impl Table {
    /// What the rows have in these columns, in an order of their own.
    fn of(&self, columns: &[&String]) -> Vec<String> {
        let place = |column: &&String| self.columns.iter().position(|other| other == *column);
        let places: Vec<usize> = columns.iter().filter_map(place).collect();
        let row = |row: &Vec<Value>| {
            let values: Vec<_> = places.iter().map(|at| format!("{:?}", row[*at])).collect();
            values.join(", ")
        };
        let mut rows: Vec<String> = self.rows.iter().map(row).collect();
        rows.sort();
        rows
    }
}

fn tables_of(database: &Connection) -> Result<Vec<String>> {
    let listed = "SELECT name FROM main.sqlite_schema WHERE type = 'table'";
    let mut all = database.prepare(listed)?;
    let names = all.query_map([], |row| row.get(0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

fn columns_of(database: &Connection, within: &str, table: &str) -> Result<Vec<String>> {
    let mut all = database.prepare("SELECT name FROM pragma_table_info(?1, ?2)")?;
    let names = all.query_map(params![table, within], |row| row.get(0))?;
    Ok(names.collect::<rusqlite::Result<_>>()?)
}

fn schema(path: &Path) -> Result<u32> {
    Ok(Connection::open(path)?.query_row("PRAGMA user_version", [], |row| row.get(0))?)
}

/// Gives a database that nobody uses an older schema, with all of its rows that this one can have, and says which
/// one it had.
fn lower(path: &Path, to: u32) -> Result<u32> {
    let steps = programs::repository().join("ashd/src/store/sqlite");
    let draft = path.with_extension("older");
    let older = Connection::open(&draft)?;
    // Rows come in no order in which they know of each other.
    older.execute_batch("PRAGMA foreign_keys = OFF")?;
    for number in 1..=to {
        older.execute_batch(&fs::read_to_string(steps.join(format!("{number}.sql")))?)?;
    }
    older.execute("ATTACH ?1 AS newer", [path.to_str().context("a path that is no text")?])?;
    for table in tables_of(&older)? {
        let newer = columns_of(&older, "newer", &table)?;
        let mut columns = columns_of(&older, "main", &table)?;
        columns.retain(|column| newer.contains(column));
        let columns = columns.join(", ");
        let copy =
            format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}");
        older.execute_batch(&copy)?;
    }
    let number = |name: &str| -> rusqlite::Result<u32> {
        older.query_row(&format!("PRAGMA newer.{name}"), [], |row| row.get(0))
    };
    let (application, newest) = (number("application_id")?, number("user_version")?);
    older.execute_batch(&format!(
        "DETACH newer; PRAGMA application_id = {application}; PRAGMA user_version = {to}"
    ))?;
    drop(older);
    for rest in ["ash.db-wal", "ash.db-shm"].map(|file| path.with_file_name(file)) {
        ensure!(!rest.exists() || fs::remove_file(&rest).is_ok(), "{} is there", rest.display());
    }
    fs::set_permissions(&draft, fs::metadata(path)?.permissions())?;
    fs::rename(&draft, path)?;
    Ok(newest)
}
