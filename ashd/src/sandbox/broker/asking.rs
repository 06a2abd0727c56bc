//! Who waits for the model right now.

use std::collections::BTreeSet;
#[cfg(test)]
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::Broker;
use crate::domain::SandboxId;

impl Broker {
    /// The sandboxes that have requests on their way to the model API. A broker of before it could be
    /// asked counts as one without any. `None`: nobody can tell, because it leaves or is lost.
    pub async fn asking(&self) -> Option<BTreeSet<SandboxId>> {
        #[cfg(test)]
        if let Some(asking) = self.said_asking() {
            return Some(asking);
        }
        if self.shared.is_hopeless.load(Ordering::SeqCst) {
            return Some(BTreeSet::new());
        }
        let control = self.shared.control.borrow().clone()?;
        match control.asking().await {
            Ok(asking) => Some(asking.into_iter().flatten().map(SandboxId).collect()),
            Err(error) => {
                tracing::debug!(%error, "the broker does not say who waits for the model");
                None
            }
        }
    }

    #[cfg(test)]
    fn said_asking(&self) -> Option<BTreeSet<SandboxId>> {
        self.shared.asking.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
