//! The end of a sandbox, and of what others left behind.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

use super::cgroup::Group;
use super::error::SandboxError;
use super::manager::Sandboxes;
use super::socket;
use crate::domain::SandboxId;
use crate::fault;

/// How long a sandbox that was asked to end may take.
const POLITE: Duration = Duration::from_secs(1);

/// How long killed processes may take to go. One that waits for a disk cannot go before.
const KILLED: Duration = Duration::from_secs(10);

/// What its end begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    /// Its bridge was asked, and asks everything else.
    Asked,
    /// Its bridge was asked, for which bubblewrap waits as ever, and the agent is killed.
    Discarded,
    /// All of it is killed.
    Killed,
}

impl Sandboxes {
    /// Ends a sandbox and removes everything of it but its files: asks first, kills after a
    /// second. It is fine when there is no such sandbox, or only parts of it.
    ///
    /// # Errors
    /// The first thing that could not be done, after everything was tried.
    pub async fn end(&self, id: SandboxId) -> Result<(), SandboxError> {
        self.take_apart(id, self.ask(id, How::Asked)).await
    }

    /// Like [`end`](Self::end), of a sandbox of which nothing is kept: its agent is not asked, but killed.
    ///
    /// # Errors
    /// As [`end`](Self::end).
    pub async fn discard(&self, id: SandboxId) -> Result<(), SandboxError> {
        self.take_apart(id, self.ask(id, How::Discarded)).await
    }

    /// Like [`end`](Self::end), of a sandbox whose agent stands still: it would not hear anybody ask, and
    /// is killed where it is.
    ///
    /// # Errors
    /// As [`end`](Self::end).
    pub async fn end_at_once(&self, id: SandboxId) -> Result<(), SandboxError> {
        self.take_apart(id, How::Killed).await
    }

    /// Whether something may run in a sandbox, which need not be there.
    pub fn runs(&self, id: SandboxId) -> bool {
        // What cannot be seen may.
        !self.cgroups.group(id).wait_empty(Duration::ZERO).unwrap_or(false)
    }

    /// Asks a bridge to end, of a sandbox that is to end like this; one that cannot be asked is killed.
    fn ask(&self, id: SandboxId, how: How) -> How {
        let sender = self.live_ones().get(&id).cloned();
        match sender.is_some_and(|sender| sender.shutdown().is_ok()) {
            true => how,
            false => How::Killed,
        }
    }

    async fn take_apart(&self, id: SandboxId, how: How) -> Result<(), SandboxError> {
        let group = self.cgroups.group(id);
        let (tell, over) = oneshot::channel();
        let ending = spawn_blocking(move || end_processes(&group, how, tell));
        let closing = async {
            // Also when that could not be done, of which nobody is told here.
            let _ = over.await;
            fault::point("sandbox.end.killed");
            let closed = socket::remove_file(&self.bridge_socket(id)).map_err(SandboxError::from);
            fault::point("sandbox.end.closed");
            let revoked = self.broker.revoke(id).await.map_err(SandboxError::from);
            closed.and(revoked)
        };
        // What is killed asks nobody any more: while the kernel clears it away, the broker does its part.
        let (ended, closed) = tokio::join!(ending, closing);
        fault::point("sandbox.end.revoked");
        self.live_ones().remove(&id);
        ended.map_err(SandboxError::from).flatten().and(closed)
    }

    /// The sandboxes of which something is left: groups, sockets, ways to the broker.
    pub fn leftovers(&self) -> BTreeSet<SandboxId> {
        let groups = self.cgroups.list().unwrap_or_else(|error| {
            tracing::warn!(%error, "control groups cannot be listed");
            Vec::new()
        });
        let sockets = named(&self.bridge_dir(), ".sock");
        let ways = named(&self.model_dir(), "");
        groups.into_iter().chain(sockets).chain(ways).collect()
    }

    /// Ends every sandbox of which something is left and that is not in `known`; returns them.
    pub async fn reap(&self, known: &BTreeSet<SandboxId>) -> BTreeSet<SandboxId> {
        let unknown = &self.leftovers() - known;
        join_all(unknown.iter().map(|id| self.end_and_log(*id))).await;
        unknown
    }

    pub(super) async fn end_and_log(&self, id: SandboxId) {
        if let Err(error) = self.end(id).await {
            let error = error.in_full();
            tracing::error!(ash_sandbox = %id, error, "something of a sandbox could not be removed");
        }
    }
}

/// Waits for the processes of a sandbox that was asked to end, kills what is left, and removes
/// the groups. Tells as soon as nothing in there does anything any more: it has ended or is killed, whatever
/// becomes of us. Blocks.
fn end_processes(group: &Group, how: How, over: oneshot::Sender<()>) -> Result<(), SandboxError> {
    // Whatever stands in the way of that, or of waiting: the rest is not to be left undone.
    let is_asked = match how {
        How::Asked => true,
        How::Discarded => group.kill_agent().is_ok(),
        How::Killed => false,
    };
    let has_ended = is_asked && group.wait_empty(POLITE).unwrap_or(false);
    if !has_ended {
        group.kill()?;
    }
    // Who asked may be gone with the daemon.
    let _ = over.send(());
    if !has_ended && !group.wait_empty(KILLED)? {
        return Err(SandboxError::Immortal);
    }
    Ok(group.remove()?)
}

/// The sandboxes that something in `dir` is named after.
fn named(dir: &Path, suffix: &str) -> Vec<SandboxId> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(suffix)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;
    use crate::sandbox::cgroup::Cgroups;

    /// Whoever waits for that goes on, whatever has come of it.
    #[test]
    fn it_is_told_when_nothing_of_a_sandbox_runs_or_that_cannot_be_seen_to() {
        let (dir, id) = (tempfile::tempdir().unwrap(), SandboxId::random());
        let group = Cgroups::none(dir.path().to_owned()).group(id);
        for how in [How::Asked, How::Discarded, How::Killed] {
            let (tell, mut over) = oneshot::channel();
            end_processes(&group, how, tell).unwrap();
            assert_eq!(over.try_recv(), Ok(()));
        }
        // What is to be written there to kill it cannot be.
        fs::create_dir_all(dir.path().join(id.to_string()).join("cgroup.kill")).unwrap();
        let (tell, mut over) = oneshot::channel();
        assert!(end_processes(&group, How::Killed, tell).is_err());
        assert_eq!(over.try_recv(), Err(TryRecvError::Closed));
    }
}
