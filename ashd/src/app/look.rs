//! What is done instead of running: looking at the configuration, and restoring a backup.

use std::path::Path;
use std::process::ExitCode;

use super::AppError;
use super::arguments::{Look, Restore, Task};
use super::rest;
use crate::backup;
use crate::config::{Config, Explained, Origin};
use crate::store::lock::StateDir;
use crate::store::sqlite::Sqlite;

/// Does a task that is not to run; returns what to print, and the exit code. `file` is what the
/// command line names.
///
/// # Errors
/// Everything that is wrong with the configuration, or what keeps a backup from being restored.
pub fn look(task: &Task, file: Option<&Path>) -> Result<(String, ExitCode), AppError> {
    let said = match task {
        Task::Config(look) => configuration(look, file)?,
        Task::Restore(restore) => restored(restore, file)?,
        Task::Fsck { deep, json } => return rest::look(file, *deep, *json),
    };
    Ok((said, ExitCode::SUCCESS))
}

fn configuration(look: &Look, file: Option<&Path>) -> Result<String, AppError> {
    match look {
        Look::Show { json } => {
            let explained = Config::explain(file, std::env::vars_os())?;
            Ok(if *json { document(&explained) } else { table(&explained) })
        }
        Look::Check { file: other } => {
            Config::load(other.as_deref().or(file), std::env::vars_os())?;
            Ok("the configuration can be used\n".into())
        }
    }
}

/// Restores a backup, or only looks at it.
fn restored(task: &Restore, file: Option<&Path>) -> Result<String, AppError> {
    let (dir, schema) = (&task.directory, Sqlite::SCHEMA);
    let (done, found) = match task.check {
        true => ("is whole", backup::check(dir, schema)?),
        false => {
            let config = Config::load(file, std::env::vars_os())?;
            let state = StateDir::acquire(&config.state.data_dir)?;
            ("is restored", backup::restore(dir, state.path(), schema)?)
        }
    };
    let backup::Restored { at, version, sessions, files, bytes } = found;
    if task.json {
        let document = serde_json::json!({
            "createdAt": at, "version": version, "sessions": sessions, "files": files,
            "bytes": bytes, "restored": !task.check,
        });
        return Ok(format!("{document}\n"));
    }
    Ok(format!(
        "the backup of {at} by ashd {version} {done}: {sessions} sessions, {files} files, {bytes} \
         bytes\n"
    ))
}

fn document(explained: &[Explained]) -> String {
    let entry = |one: &Explained| {
        let origin = one.origin.to_string();
        serde_json::json!({"key": one.key, "value": one.value, "origin": origin})
    };
    format!("{}\n", explained.iter().map(entry).collect::<serde_json::Value>())
}

/// As it could stand in a file, but for the names of sections, and with origins behind it.
fn table(explained: &[Explained]) -> String {
    let setting = |one: &Explained| {
        let value = one.value.as_deref().unwrap_or("(not set)");
        format!("{} = {value}", one.key)
    };
    let lines: Vec<_> = explained.iter().map(|one| (setting(one), &one.origin)).collect();
    let width = lines.iter().map(|(setting, _)| setting.chars().count()).max().unwrap_or(0).min(60);
    let line = |(setting, origin): &(String, &Origin)| match origin {
        Origin::Default => format!("{setting}\n"),
        origin => format!("{setting:<width$}  # {origin}\n"),
    };
    lines.iter().map(line).collect()
}
