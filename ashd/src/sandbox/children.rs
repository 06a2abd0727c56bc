//! Processes that this daemon starts and that may outlive it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::process::Child;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The processes that this daemon started. When it is killed they live on; when it is asked to,
/// it ends them.
#[derive(Clone, Debug, Default)]
pub(super) struct Children {
    /// Whether they are told to go: then their end is no news.
    leaving: Arc<AtomicBool>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Children {
    /// Waits for a child in the background, so that its end is told and leaves nothing behind.
    pub(super) fn watch(&self, name: &'static str, mut child: Child) {
        let (leaving, stop) = (self.leaving.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                ended = child.wait() => match ended {
                    Ok(_) if leaving.load(Ordering::Relaxed) => {}
                    Ok(status) => tracing::warn!(%status, "the {name} ended"),
                    Err(error) => tracing::warn!(%error, "the {name} cannot be waited for"),
                },
                () = stop.cancelled() => {
                    if let Err(error) = child.kill().await {
                        tracing::warn!(%error, "the {name} cannot be ended");
                    }
                }
            }
        });
    }

    /// From now on they may end.
    pub(super) fn let_go(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Ends all children and waits for them.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
