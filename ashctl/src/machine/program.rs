//! Where `ashd` is.

use std::path::PathBuf;

/// The daemon's program: beside this one when it was built and started by hand, else where packages
/// put it.
pub(super) fn ashd() -> Option<PathBuf> {
    let beside = std::env::current_exe().ok().and_then(|ours| Some(ours.parent()?.join("ashd")));
    let packaged = ["/usr/sbin/ashd", "/usr/local/sbin/ashd"].map(PathBuf::from);
    beside.into_iter().chain(packaged).find(|path| path.is_file())
}
