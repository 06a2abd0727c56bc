//! `ashctl fsck` and `ashctl snapshot`.

use ash_dbus::value::{CollectionInfo, DifferenceInfo};
use serde_json::Value;

use super::Context;
use super::top::bytes;
use crate::cli::Snapshot;
use crate::failure::Failure;
use crate::json;

/// What a look answers: differences, and how many chunks were looked at.
type Found = (Vec<DifferenceInfo>, u64);

/// Looks whether everything agrees; returns the exit code.
pub(super) async fn run(context: &mut Context, deep: bool) -> Result<u8, Failure> {
    let manager = context.bus.manager.inner();
    let found: Found = context.person.call(manager, "Fsck", &deep).await?;
    show(context, &found)
}

/// Looks after snapshots; returns the exit code.
pub(super) async fn snapshot(context: &mut Context, command: Snapshot) -> Result<u8, Failure> {
    let manager = context.bus.manager.inner();
    match command {
        Snapshot::Check => {
            let found: Found = context.person.call(manager, "CheckSnapshots", &()).await?;
            show(context, &found)
        }
        Snapshot::Collect { preview } => {
            let all: Vec<CollectionInfo> =
                context.person.call(manager, "CollectSnapshots", &preview).await?;
            collected(context, &all, preview)?;
            Ok(0)
        }
    }
}

fn show(context: &mut Context, (differences, chunks): &Found) -> Result<u8, Failure> {
    let code = differences.iter().map(code).max().unwrap_or(0);
    if context.document(&json::differences(differences, *chunks))? {
        return Ok(code);
    }
    for DifferenceInfo { text, advice, .. } in differences {
        context.out.line(&format!("{text}; {advice}"))?;
    }
    let found = match differences.len() {
        0 => "everything agrees".to_owned(),
        1 => "1 difference".to_owned(),
        more => format!("{more} differences"),
    };
    context.out.line(&format!("{found}; {chunks} chunks of checkpoints looked at"))?;
    Ok(code)
}

/// The exit code, by who can mend it.
fn code(difference: &DifferenceInfo) -> u8 {
    match difference.mending.as_str() {
        "itself" => 10,
        "by-hand" => 11,
        _ => 12,
    }
}

fn collected(context: &mut Context, all: &[CollectionInfo], preview: bool) -> Result<(), Failure> {
    if context.document(&all.iter().map(json::collection).collect::<Value>())? {
        return Ok(());
    }
    for one in all {
        let would = if preview { "would be " } else { "" };
        let line = match one.busy {
            true => "nothing, somebody saves or restores all the time; try again".to_owned(),
            false => format!(
                "{} of {} packs {would}removed; {} chunks are needed",
                bytes(one.bytes),
                one.packs,
                one.needed
            ),
        };
        context.out.line(&format!("{}: {line}", one.tenant))?;
        if one.damaged > 0 {
            context.out.line(&format!(
                "{}: {} checkpoints are damaged, and {} packs stay for what they may need; \
                 `ashctl snapshot check` says which",
                one.tenant, one.damaged, one.held
            ))?;
        }
    }
    Ok(())
}
