//! Processes that this daemon starts and that may outlive it.

use tokio::process::Child;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The processes that this daemon started. When it is killed they live on; when it is asked to,
/// it ends them.
#[derive(Clone, Debug, Default)]
pub(super) struct Children {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Children {
    /// Waits for a child in the background, so that its end is told and leaves nothing behind.
    pub(super) fn watch(&self, name: &'static str, mut child: Child) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                ended = child.wait() => match ended {
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

    /// Ends all children and waits for them.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
