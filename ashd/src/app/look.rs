//! `ashd config`: the configuration, without running.

use std::path::Path;

use super::AppError;
use super::arguments::{Look, Task};
use crate::config::{Config, Explained, Origin};

/// Does a task that is not to run; returns what to print. `file` is what the command line names.
///
/// # Errors
/// Everything that is wrong with the configuration.
pub fn look(task: &Task, file: Option<&Path>) -> Result<String, AppError> {
    let Task::Config(look) = task;
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
