//! What crates link and whether they inherit the lints.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::table::Boundary;

/// Every crate that a crate of this workspace links, itself included; dependencies of its tests
/// and of build scripts are not.
///
/// # Errors
/// What cargo says when it cannot tell.
pub fn linked(root: &Path, name: &str) -> Result<BTreeSet<String>, String> {
    let lines = tree(root, name, &["--edges", "normal"])?;
    Ok(lines.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

/// The features that a crate of this workspace is built with, with commas between them, when cargo
/// gets these arguments.
///
/// # Errors
/// What cargo says when it cannot tell.
pub fn features(root: &Path, name: &str, arguments: &[&str]) -> Result<String, String> {
    let shape = ["--depth", "0", "--format", "{f}"];
    Ok(tree(root, name, &[&shape, arguments].concat())?.trim().to_owned())
}

fn tree(root: &Path, name: &str, arguments: &[&str]) -> Result<String, String> {
    let asked = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix", "none", "--package", name])
        .args(arguments)
        .current_dir(root)
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    if !asked.status.success() {
        return Err(String::from_utf8_lossy(&asked.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&asked.stdout).into_owned())
}

/// What a crate links although it must not, one sentence each.
pub fn check_linked(boundary: &Boundary, linked: &BTreeSet<String>) -> Vec<String> {
    let Boundary { name, never, because } = boundary;
    let wrong = never.iter().filter(|other| linked.contains(**other));
    wrong.map(|other| format!("{name} links {other}, but {because}")).collect()
}

/// What is wrong with a member's manifest. Only the crate with unsafe code has lints of its own.
pub fn check_manifest(directory: &Path, manifest: &str, may_differ: bool) -> Option<String> {
    let at = directory.display();
    let Ok(table) = manifest.parse::<toml::Table>() else {
        return Some(format!("{at}: the manifest is not TOML"));
    };
    let lints = table.get("lints").and_then(|lints| lints.get("workspace"));
    let inherits = lints.and_then(toml::Value::as_bool) == Some(true);
    (!inherits && !may_differ).then(|| format!("{at}: the manifest does not inherit the lints"))
}

/// The directories of a workspace's members, by its manifest.
///
/// # Errors
/// When the manifest is not TOML or has no members.
pub fn members(manifest: &str) -> Result<Vec<String>, String> {
    let table: toml::Table = manifest.parse().map_err(|error| format!("not TOML: {error}"))?;
    let members = table.get("workspace").and_then(|it| it.get("members"));
    let members = members.and_then(toml::Value::as_array).ok_or("no workspace members")?;
    Ok(members.iter().filter_map(toml::Value::as_str).map(str::to_owned).collect())
}
