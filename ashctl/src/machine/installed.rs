//! `ashctl runtime`.

use std::path::Path;

use serde_json::{Value, json};

use super::Page;
use super::program::libexec_dir;
use super::runtime::{self, Installed, PINNED, Shelf, Source};
use crate::cli::Runtime;
use crate::failure::Failure;
use crate::out;
use crate::systemctl;

pub(super) async fn run(page: &mut Page, command: Runtime) -> Result<(), Failure> {
    match command {
        Runtime::Install { version, file, places } => {
            let shelf = Shelf::at(places.libexec_dir);
            install(page, &shelf, (version.as_deref(), file.as_deref())).await
        }
        Runtime::List { places } => list(page, &Shelf::at(places.libexec_dir)),
        Runtime::Use { version, places } => {
            runtime::need_root()?;
            // Of what lies elsewhere the service knows nothing.
            let is_installed = places.libexec_dir == libexec_dir();
            Shelf::at(places.libexec_dir).choose(&version)?;
            if is_installed && systemctl::is_active(systemctl::DAEMON).await {
                systemctl::tell(&["reload"], systemctl::DAEMON).await?;
            }
            let sentence = format!("New sandboxes use version {version}");
            page.say(&sentence, &json!({"version": version, "inUse": true}))
        }
        Runtime::Remove { version, places } => {
            runtime::need_root()?;
            Shelf::at(places.libexec_dir).remove(&version)?;
            page.say(&format!("Removed version {version}"), &json!({"removed": version}))
        }
    }
}

/// Installs a version, and says so.
pub(super) async fn install(
    page: &mut Page,
    shelf: &Shelf,
    (version, file): (Option<&str>, Option<&Path>),
) -> Result<(), Failure> {
    let source = match file {
        Some(file) => Source::File(file),
        None => Source::Npm(version.unwrap_or(PINNED)),
    };
    if let Source::Npm(version) = source {
        out::aside(&format!("Fetching version {version} with npm, which may take a while"));
    }
    let (version, was_there) = runtime::install(shelf, source).await?;
    if version != PINNED {
        out::note(&format!("ashctl: this ash is tried with version {PINNED}, not with {version}"));
    }
    let is_used = shelf.used()?.as_deref() == Some(&version);
    let done = if was_there { "is installed already" } else { "is installed" };
    let used = if is_used { "in use" } else { "not in use: see `ashctl runtime use`" };
    let document = json!({"version": version, "inUse": is_used, "wasThere": was_there});
    page.say(&format!("Version {version} {done}, {used}"), &document)
}

fn list(page: &mut Page, shelf: &Shelf) -> Result<(), Failure> {
    let all = shelf.list()?;
    if page.as_json {
        let document = all.iter().map(|one| {
            json!({"version": one.version, "inUse": one.is_used, "pinned": one.version == PINNED,
                "path": shelf.program(&one.version)})
        });
        return page.out.line(&document.collect::<Value>().to_string());
    }
    if all.is_empty() {
        out::note("ashctl: no version is installed; see `ashctl runtime install`");
    }
    page.out.table(&all.iter().map(row).collect::<Vec<_>>())
}

fn row(one: &Installed) -> Vec<String> {
    let used = if one.is_used { "in use" } else { "" };
    let pinned = if one.version == PINNED { "the version this ash is tried with" } else { "" };
    vec![one.version.clone(), used.to_owned(), pinned.to_owned()]
}
