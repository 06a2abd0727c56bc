//! What a sandbox could leave behind, looked at before and after.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::process;

/// Where something could be left.
#[derive(Clone, Debug)]
pub struct Places {
    /// The user ids of sandboxes and broker.
    pub uids: Range<u32>,
    /// The control group that holds sandboxes.
    pub cgroup: PathBuf,
    /// Sockets.
    pub run: PathBuf,
    /// State.
    pub data: PathBuf,
}

/// What is there: a line for each process, mount, control group, socket and file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Snapshot(BTreeSet<String>);

impl Places {
    /// Looks everywhere.
    ///
    /// # Errors
    /// When a directory that is there cannot be read.
    pub fn look(&self) -> io::Result<Snapshot> {
        let mut found = BTreeSet::new();
        found.extend(self.processes());
        found.extend(self.mounts()?);
        self.groups(&self.cgroup, &mut found)?;
        files(&self.run, "socket", &mut found)?;
        for entry in listed(&self.data)? {
            // The database and what is kept of sessions grow by themselves; what is in them is looked
            // at through the API.
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with("ash.db") && name != "snapshots" {
                files(&entry, "file", &mut found)?;
            }
        }
        Ok(Snapshot(found))
    }

    /// By user, and by the run directory among the arguments: launcher and bubblewrap are root's.
    pub(crate) fn pids(&self) -> BTreeSet<u32> {
        let roots = process::with_argument(&self.run.display().to_string());
        process::of_uids(&self.uids).into_iter().chain(roots).collect()
    }

    fn processes(&self) -> impl Iterator<Item = String> {
        self.pids().into_iter().filter_map(|pid| {
            let uid = process::uid(pid)?;
            Some(format!("process {pid} ({}) of uid {uid}", process::name(pid)))
        })
    }

    /// Mounts of this namespace that have to do with our directories.
    fn mounts(&self) -> io::Result<Vec<String>> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let ours = [&self.run, &self.data].map(|path| path.display().to_string());
        let about_us = |line: &&str| ours.iter().any(|path| line.contains(path.as_str()));
        Ok(mounts.lines().filter(about_us).map(|line| format!("mount {line}")).collect())
    }

    fn groups(&self, group: &Path, found: &mut BTreeSet<String>) -> io::Result<()> {
        for entry in listed(group)?.into_iter().filter(|entry| entry.is_dir()) {
            found.insert(format!("control group {}", entry.display()));
            self.groups(&entry, found)?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// What is here and was not there before.
    pub fn since<'a>(&'a self, before: &'a Snapshot) -> Vec<&'a String> {
        self.0.difference(&before.0).collect()
    }

    /// Whether this line is in it.
    pub fn has(&self, line: &str) -> bool {
        self.0.contains(line)
    }

    /// What has come and what has gone since, a line each; empty when both are equal.
    pub fn difference(&self, before: &Snapshot) -> String {
        let come = self.since(before).into_iter().map(|line| format!("+ {line}\n"));
        let gone = before.since(self).into_iter().map(|line| format!("- {line}\n"));
        come.chain(gone).collect()
    }
}

/// Lists a path and what lies beneath it, links not followed.
fn files(path: &Path, what: &str, found: &mut BTreeSet<String>) -> io::Result<()> {
    let Ok(metadata) = path.symlink_metadata() else { return Ok(()) };
    found.insert(format!("{what} {}", path.display()));
    if metadata.is_dir() {
        for entry in listed(path)? {
            files(&entry, what, found)?;
        }
    }
    Ok(())
}

/// The entries of a directory; none when it is not there, or is going away.
fn listed(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(error),
    }
}
