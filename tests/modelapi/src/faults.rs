//! How often each fault of a script has happened.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::script::Fault;

/// The counters, keyed by prompt and directive.
#[derive(Default)]
pub(crate) struct Faults(Mutex<HashMap<String, u32>>);

impl Faults {
    /// Whether the fault happens this time; if so, that is counted.
    pub(crate) fn spend(&self, fault: &Fault) -> bool {
        let mut spent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let times = spent.entry(fault.key.clone()).or_default();
        let happens = *times < fault.times;
        *times += u32::from(happens);
        happens
    }

    /// Forgets everything.
    pub(crate) fn reset(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
