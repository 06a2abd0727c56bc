//! What a broker reports of model calls, on its way to whoever counts it.

use std::sync::Arc;

use ash_broker::control::Event;
use tokio::sync::mpsc;

use super::{Broker, Standing, Usage};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::labels::Dropped;

/// Usage reports that wait for whoever reads them.
const REPORTS: usize = 4096;

/// Takes reports.
#[derive(Clone)]
pub(super) struct Reports {
    sender: mpsc::Sender<Usage>,
    metrics: Arc<Metrics>,
}

impl Reports {
    /// What is taken comes out of the receiver.
    pub(super) fn new(metrics: Arc<Metrics>) -> (Reports, mpsc::Receiver<Usage>) {
        let (sender, receiver) = mpsc::channel(REPORTS);
        (Reports { sender, metrics }, receiver)
    }

    /// Takes what a broker has to say. What there is no room for is lost: nobody waits for it.
    pub(super) fn take(&self, event: Event) {
        let lost = match event {
            Event::Usage(usage) => u64::from(self.sender.try_send(usage).is_err()),
            Event::Lost { count } => count,
            Event::Leaving => 0,
        };
        if lost > 0 {
            self.metrics.dropped.of(Dropped::UsageReports).inc_by(lost);
            tracing::warn!(lost, "usage reports were lost");
        }
    }
}

impl Broker {
    /// What the broker says of itself: nothing when it is not there.
    pub async fn standing(&self) -> Standing {
        let control = self.shared.control.borrow().clone();
        match control {
            Some(control) => control.standing().await.unwrap_or_default(),
            None => Standing::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ash_broker::control::Tokens;

    use super::*;

    fn usage() -> Event {
        Event::Usage(Usage {
            sandbox: uuid::Uuid::nil(),
            request_id: None,
            status: 200,
            duration_ms: 1,
            complete: true,
            tokens: Tokens::default(),
        })
    }

    #[test]
    fn what_nobody_takes_is_counted() {
        let metrics = Arc::new(Metrics::new());
        let lost = metrics.dropped.of(Dropped::UsageReports);
        let (reports, mut receiver) = Reports::new(metrics.clone());
        (0..REPORTS).for_each(|_| reports.take(usage()));
        assert_eq!(lost.get(), 0);
        reports.take(usage());
        reports.take(Event::Lost { count: 6 });
        reports.take(Event::Leaving);
        assert_eq!(lost.get(), 7);
        assert!(receiver.try_recv().is_ok());
        reports.take(usage());
        assert_eq!(lost.get(), 7);
    }
}
