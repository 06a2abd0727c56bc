//! Numbered migrations. The database's `user_version` is the number of the last one that ran.

use rusqlite::{Connection, TransactionBehavior};

use crate::fault;
use crate::store::{Result, StoreError};

/// Never change one that was released: add the next.
pub(super) const MIGRATIONS: [&str; 12] = [
    include_str!("1.sql"),
    include_str!("2.sql"),
    include_str!("3.sql"),
    include_str!("4.sql"),
    include_str!("5.sql"),
    include_str!("6.sql"),
    include_str!("7.sql"),
    include_str!("8.sql"),
    include_str!("9.sql"),
    include_str!("10.sql"),
    include_str!("11.sql"),
    include_str!("12.sql"),
];

/// The newest schema that this program knows.
pub(super) const KNOWN: u32 = MIGRATIONS.len() as u32;

/// Marks the file as a database of ours: "ash1".
pub(super) const APPLICATION: u32 = 0x6173_6831;

/// Brings the database to the newest schema, one transaction for each step.
pub(super) fn migrate(conn: &mut Connection) -> Result<()> {
    let found = check(conn)?;
    for number in found + 1..=KNOWN {
        let step = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step.execute_batch(MIGRATIONS[number as usize - 1])?;
        step.pragma_update(None, "application_id", APPLICATION)?;
        step.pragma_update(None, "user_version", number)?;
        fault::fail("store.migrate.before").map_err(|e| StoreError::Database(e.to_string()))?;
        step.commit()?;
        fault::point("store.migrate.after");
    }
    Ok(())
}

/// The schema that the database has, if this program may use it.
pub(super) fn check(conn: &Connection) -> Result<u32> {
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let (application, found) = (pragma("application_id")?, pragma("user_version")?);
    let empty: bool =
        conn.query_row("SELECT count(*) = 0 FROM sqlite_schema", [], |row| row.get(0))?;
    if application != APPLICATION && !empty {
        return Err(StoreError::Database("it belongs to another program".into()));
    }
    if found > KNOWN {
        return Err(StoreError::Newer { found, known: KNOWN });
    }
    Ok(found)
}
