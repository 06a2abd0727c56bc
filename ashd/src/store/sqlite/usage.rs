//! Tokens and cost.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::domain::{SessionId, Timestamp};
use crate::store::{Result, StoreError, Usage};

pub(super) fn add(conn: &Connection, id: SessionId, at: Timestamp, usage: &Usage) -> Result<()> {
    let sql = "INSERT INTO usage (session, at, model, input_tokens, output_tokens,
             cache_creation_tokens, cache_read_tokens, cost_usd, calls)
         SELECT key, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 FROM sessions WHERE id = ?1";
    let row = params![
        id,
        at,
        usage.model,
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_creation_tokens,
        usage.cache_read_tokens,
        usage.cost_usd,
        usage.calls,
    ];
    match conn.prepare_cached(sql)?.execute(row)? {
        0 => Err(StoreError::Missing { what: "the session" }),
        _ => Ok(()),
    }
}

/// The sum of a session's usage; nothing used when there is no such session.
pub(super) fn sum(conn: &Connection, id: SessionId) -> Result<Usage> {
    let sql = "WITH mine AS (SELECT * FROM usage
             WHERE session = (SELECT key FROM sessions WHERE id = ?1))
         SELECT (SELECT model FROM mine ORDER BY at DESC, key DESC LIMIT 1),
             sum(input_tokens), sum(output_tokens), sum(cache_creation_tokens),
             sum(cache_read_tokens), sum(cost_usd), sum(calls)
         FROM mine HAVING count(*) > 0";
    let sum = conn.prepare_cached(sql)?.query_row([id], read).optional()?;
    Ok(sum.unwrap_or_default())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Usage> {
    Ok(Usage {
        model: row.get(0)?,
        input_tokens: row.get(1)?,
        output_tokens: row.get(2)?,
        cache_creation_tokens: row.get(3)?,
        cache_read_tokens: row.get(4)?,
        cost_usd: row.get(5)?,
        calls: row.get(6)?,
    })
}
