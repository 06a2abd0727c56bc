//! Requests over HTTP, by the route that answers them.

use std::array;
use std::sync::OnceLock;
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use super::Metrics;
use super::labels::{Class, Verb, Word};

/// The methods and classes that there are.
const VERBS: usize = Verb::ALL.len();
const CLASSES: usize = Class::ALL.len();

/// What is counted of a route. Its series come into being with the first request that they count: there
/// are many routes, and most are never asked for. From then on they are at hand.
#[derive(Debug)]
pub struct Route {
    template: &'static str,
    requests: IntCounterVec,
    times: HistogramVec,
    verbs: [Counted; VERBS],
}

/// What is counted of a method.
#[derive(Debug)]
struct Counted {
    times: OnceLock<Histogram>,
    requests: [OnceLock<IntCounter>; CLASSES],
}

impl Metrics {
    /// A route, by its template: `/api/sessions/{id}`.
    pub fn route(&self, template: &'static str) -> Route {
        let verb = |_| Counted { times: OnceLock::new(), requests: array::from_fn(unasked) };
        Route {
            template,
            requests: self.http_requests.clone(),
            times: self.http_times.clone(),
            verbs: array::from_fn(verb),
        }
    }
}

fn unasked<T>(_: usize) -> OnceLock<T> {
    OnceLock::new()
}

impl Route {
    /// Counts a request that was answered.
    pub fn answered(&self, verb: Verb, status: u16, took: Duration) {
        let (class, counted) = (Class::of(status), &self.verbs[verb.index()]);
        let [method] = verb.values() else { return };
        let [status] = class.values() else { return };
        let times = || self.times.with_label_values(&[*method, self.template]);
        counted.times.get_or_init(times).observe(took.as_secs_f64());
        let requests = || self.requests.with_label_values(&[*method, self.template, *status]);
        counted.requests[class.index()].get_or_init(requests).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_has_no_series_before_it_is_asked_for() {
        let metrics = Metrics::new();
        let route = metrics.route("/api/sessions/{id}");
        assert!(!metrics.text().contains("ash_http_"));
        for (verb, status) in [(Verb::Get, 200), (Verb::Get, 204), (Verb::Delete, 404)] {
            route.answered(verb, status, Duration::from_millis(2));
        }
        // Another one of the same name counts in the same place.
        metrics.route("/api/sessions/{id}").answered(Verb::Get, 200, Duration::from_secs(20));
        let text = metrics.text();
        let route = "route=\"/api/sessions/{id}\"";
        for line in [
            format!("ash_http_requests_total{{method=\"GET\",{route},status=\"2xx\"}} 3\n"),
            format!("ash_http_requests_total{{method=\"DELETE\",{route},status=\"4xx\"}} 1\n"),
            format!("ash_http_request_seconds_count{{method=\"GET\",{route}}} 3\n"),
            format!("ash_http_request_seconds_bucket{{method=\"GET\",{route},le=\"10\"}} 2\n"),
        ] {
            assert!(text.contains(&line), "{line} is not in {text}");
        }
        assert_eq!(text.matches("\nash_http_requests_total{").count(), 2);
    }
}
