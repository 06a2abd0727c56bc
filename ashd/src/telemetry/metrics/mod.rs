//! What is counted and measured, for Prometheus.
//!
//! Every family is declared once, in `families`: from its declaration come the field of [`Metrics`] by which
//! it is counted, what is said of it to whoever scrapes, and docs/metrics.md. Whoever counts has the series at
//! hand, by its place among the words of [`labels`]: to count is to add to an atomic number.
//!
//! There is no global one: who counts is given one, and a test has its own.

pub mod labels;

mod family;
mod table;

mod families;
mod reference;

mod pressure;
mod routes;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::PoisonError;
use std::time::Instant;

use prometheus::TextEncoder;
pub use prometheus::{Histogram, IntCounter, IntGauge};

pub use self::families::Metrics;
pub use self::family::{Counters, Gauges, Histograms, Series};
pub use self::routes::Route;

/// The media type of [`Metrics::text`].
pub const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Metrics {
    /// Nothing has been counted yet.
    pub fn new() -> Metrics {
        families::declare().expect("every family can be declared")
    }

    /// All of it, in the text format of Prometheus.
    pub fn text(&self) -> String {
        // Put together in memory, of families that are not empty: there is nothing that could fail.
        TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }

    /// Tells how things are now, and returns all of it. One after the other: what somebody [follows](follow)
    /// would else be counted twice.
    pub fn told(&self, tell: impl FnOnce(&Metrics)) -> String {
        let telling = self.telling.lock().unwrap_or_else(PoisonError::into_inner);
        tell(self);
        let text = self.text();
        drop(telling);
        text
    }

    /// The reference of all families, in Markdown.
    pub fn reference() -> String {
        reference::text()
    }

    /// The names of all families.
    pub fn names() -> impl Iterator<Item = &'static str> {
        families::GROUPS.iter().flat_map(|group| group.families).map(|family| family.name)
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Has a gauge say how many there are.
pub fn set(gauge: &IntGauge, number: u64) {
    gauge.set(i64::try_from(number).unwrap_or(i64::MAX));
}

/// Has a counter say what somebody else has counted.
pub fn follow(counter: &IntCounter, counted: u64) {
    counter.inc_by(counted.saturating_sub(counter.get()));
}

/// Measures the time that has passed since.
pub fn since(histogram: &Histogram, begun: Instant) {
    histogram.observe(begun.elapsed().as_secs_f64());
}

/// Does something, and measures how long it takes. What fails is not measured: it takes as long as somebody
/// waits.
///
/// # Errors
/// Those of what is done.
pub async fn timed<T, E>(
    histogram: &Histogram,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let begun = Instant::now();
    let done = work.await;
    if done.is_ok() {
        since(histogram, begun);
    }
    done
}
