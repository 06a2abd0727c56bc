//! `ashctl backup`.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use ash_dbus::value::BackupInfo;
use rustix::fs::{Mode, OFlags};
use zbus::zvariant::Fd;

use super::Context;
use super::top::bytes;
use crate::failure::Failure;
use crate::json;

/// Has everything saved into a directory. The daemon gets it open: it may not see it itself.
pub(super) async fn run(context: &mut Context, directory: &Path) -> Result<(), Failure> {
    let opened = open(directory).map_err(|error| {
        Failure::Usage(format!("{} cannot be used: {error}", directory.display()))
    })?;
    let manager = context.bus.manager.inner();
    let made: BackupInfo = context.person.call(manager, "Backup", &Fd::from(&opened)).await?;
    if context.document(&json::backup(&made))? {
        return Ok(());
    }
    let BackupInfo { sessions, files, written, left_out, stale, .. } = made;
    let all = bytes(made.bytes);
    context.out.line(&format!(
        "Saved {sessions} sessions as of {}: {files} files with {all}, of which {} are new",
        made.created_at,
        bytes(written)
    ))?;
    if left_out > 0 {
        context.out.line(&format!("{left_out} sessions that were being made are not in it"))?;
    }
    if stale > 0 {
        context.out.line(&format!(
            "{stale} sessions could not be saved: they are in it as they were saved last, and \
             `journalctl -u ashd` says why"
        ))?;
    }
    Ok(())
}

fn open(directory: &Path) -> io::Result<OwnedFd> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // What is none is refused at once; a pipe would be waited for.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}
