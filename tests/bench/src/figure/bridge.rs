//! What a sandbox takes, beside the CLI.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use ash_journey::{Ash, process, programs};

use super::{About, Outcome, Scale};
use crate::memory::Memory;
use crate::report::{Row, Unit};
use crate::stage;
use crate::stats;

pub(super) const ABOUT: About = About {
    title: "Size of the bridge, and memory of a sandbox beside the CLI",
    how: "The size of the file ash-bridge. For memory, 20 sessions with the stand-in for the CLI, \
          each with a turn behind it; of every process in the sandbox's control groups but the CLI \
          (bridge, spawner, bubblewrap) the private pages (Private_Clean and Private_Dirty of \
          smaps_rollup), added up per sandbox.",
    measure,
};

const SANDBOXES: usize = 20;

fn measure(_scale: Scale) -> Result<Outcome> {
    let size = fs::metadata(programs::dir()?.join("ash-bridge"))?.len() as f64 / 1e6;
    let ash = stage::stub()?;
    for _ in 0..SANDBOXES {
        let session = stage::session(&ash.api())?;
        stage::send(&ash.api(), &session, "[[deltas 50 64]]", true)?.finish()?;
    }
    let sandboxes = sandboxes(&ash)?;
    ash.finish()?;
    ensure!(sandboxes.len() == SANDBOXES, "{} sandboxes were found", sandboxes.len());
    let private: Vec<f64> = sandboxes.iter().map(|parts| parts.values().sum()).collect();
    let memory =
        Row::plain("private memory per sandbox", SANDBOXES, Unit::Mb, stats::median(&private));
    let rows = vec![
        Row::plain("bridge binary", 1, Unit::Mb, size).floor(1.5),
        Row { p99: Some(stats::quantile(&private, 0.99)), ..memory }.floor(1.5),
    ];
    Ok(Outcome { rows, notes: vec![parts(&sandboxes)] })
}

/// Private memory by process of every sandbox, the CLI left out.
pub(super) fn sandboxes(ash: &Ash) -> Result<Vec<BTreeMap<String, f64>>> {
    let mut all = vec![];
    for group in groups(&ash.places().cgroup)? {
        let mut parts = BTreeMap::new();
        for pid in processes(&group)? {
            let is_cli = process::command_line(pid).contains("--replay-user-messages");
            if !is_cli && process::name(pid) != "ashd" {
                let name = format!("{} (uid {})", process::name(pid), role(process::uid(pid)));
                *parts.entry(name).or_default() += Memory::of(pid)?.private;
            }
        }
        all.push(parts);
    }
    all.retain(|parts| !parts.is_empty());
    Ok(all)
}

/// The groups right below one.
fn groups(group: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(group)?.collect::<std::io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
}

/// The processes in a group and in those below it.
pub(super) fn processes(group: &Path) -> Result<Vec<u32>> {
    let own = fs::read_to_string(group.join("cgroup.procs"))?;
    let mut all = own.lines().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
    for below in groups(group)? {
        all.extend(processes(&below)?);
    }
    Ok(all)
}

/// Uids differ between sandboxes; what they are for does not.
fn role(uid: Option<u32>) -> &'static str {
    match uid {
        Some(0) => "root",
        Some(uid) if uid % 2 == 0 => "even",
        _ => "odd",
    }
}

fn parts(sandboxes: &[BTreeMap<String, f64>]) -> String {
    let mut values: BTreeMap<&String, Vec<f64>> = BTreeMap::new();
    for (name, value) in sandboxes.iter().flatten() {
        values.entry(name).or_default().push(*value);
    }
    let shown = values.iter().map(|(name, all)| format!("{name} {:.3} MB", stats::median(all)));
    format!("Medians by process: {}", shown.collect::<Vec<_>>().join(", "))
}
