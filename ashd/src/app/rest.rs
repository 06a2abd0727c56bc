//! `ashd fsck`: what lies on the disk, while no daemon runs.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;

use super::{AppError, setup};
use crate::config::Config;
use crate::sandbox::lease::slots_in;
use crate::session::service::Places;
use crate::session::{Difference, Found, Mending, look_at_rest};
use crate::store::Store;
use crate::store::lock::StateDir;
use crate::store::sqlite::Sqlite;

/// Looks, and changes nothing of what is kept; returns what to print, and the exit code. What SQLite has in
/// the log of the database may come to its place, as with everybody who has it open last.
///
/// # Errors
/// When a daemon runs, there is nothing to look at, or it cannot be read.
pub(super) fn look(
    file: Option<&Path>,
    deep: bool,
    as_json: bool,
) -> Result<(String, ExitCode), AppError> {
    let config = Config::load(file, std::env::vars_os())?;
    if !config.state.data_dir.join("ash.db").exists() {
        return Err(AppError::NothingThere(config.state.data_dir));
    }
    let state = StateDir::acquire(&config.state.data_dir)?;
    let database = state.path().join("ash.db");
    let (found, known) = (Sqlite::schema_of(&database)?, Sqlite::SCHEMA);
    if found != known {
        return Err(AppError::Older { found, known });
    }
    let uids = (config.sandbox.uid_base, slots_in(config.sandbox.uid_count));
    let places = Places { data_dir: state.path().to_owned() };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build();
    let found = runtime.map_err(AppError::Threads)?.block_on(async {
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&database, setup::database()?)?);
        let found = look_at_rest(&store, &places, (uids, deep)).await;
        store.close().await;
        Ok::<Found, AppError>(found?)
    })?;
    let worst = found.differences.iter().map(Difference::mending).max();
    let code = match worst {
        None => 0,
        Some(Mending::Itself) => 10,
        Some(Mending::ByHand) => 11,
        Some(Mending::Damage) => 12,
    };
    Ok((if as_json { document(&found) } else { text(&found) }, ExitCode::from(code)))
}

fn document(found: &Found) -> String {
    let difference = |one: &Difference| {
        json!({
            "kind": one.kind(),
            "mending": one.mending().as_str(),
            "session": one.session().map(|id| id.to_string()),
            "text": one.to_string(),
            "advice": one.advice(),
        })
    };
    let all: Vec<_> = found.differences.iter().rev().map(difference).collect();
    format!("{}\n", json!({ "differences": all, "chunks": found.chunks, "running": false }))
}

fn text(found: &Found) -> String {
    let line = |one: &Difference| format!("{one}; {}\n", one.advice());
    let mut text: String = found.differences.iter().rev().map(line).collect();
    let count = match found.differences.len() {
        0 => "everything agrees".to_owned(),
        1 => "1 difference".to_owned(),
        more => format!("{more} differences"),
    };
    text += &format!(
        "{count}; {} chunks of checkpoints looked at; ashd does not run: sandboxes, processes and \
         mounts were not\n",
        found.chunks
    );
    text
}
