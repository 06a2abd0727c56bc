//! How long processes of this machine had to wait for what they need.

use std::path::Path;

use super::Metrics;
use crate::telemetry::psi::{self, Stalled};

/// What can be waited for; a file each.
const RESOURCES: [&str; 3] = ["cpu", "memory", "io"];

impl Metrics {
    /// Tells of the pressure as it is now. What the kernel does not say is not told.
    pub fn tell_pressure(&self, directory: &Path) {
        self.pressure.reset();
        for resource in RESOURCES {
            let Stalled { some, full } = psi::read(&directory.join(resource));
            for (kind, percent) in [("some", some), ("full", full)] {
                if let Some(percent) = percent {
                    self.pressure.with_label_values(&[resource, kind]).set(percent / 100.0);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: &str = "some avg10=12.50 avg60=1.00 avg300=0.10 total=4711\n";
    const FULL: &str = "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";

    fn told(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text();
        let lines = text.lines().filter_map(|line| line.strip_prefix("ash_pressure_ratio{"));
        lines.map(str::to_owned).collect()
    }

    #[test]
    fn what_the_kernel_says_is_told_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::new();
        metrics.tell_pressure(dir.path());
        assert_eq!(told(&metrics), [""; 0]);
        std::fs::write(dir.path().join("cpu"), format!("{SOME}{FULL}")).unwrap();
        std::fs::write(dir.path().join("io"), SOME).unwrap();
        std::fs::write(dir.path().join("memory"), "some avg10=much\nfull\n\u{0}").unwrap();
        metrics.tell_pressure(dir.path());
        let expected = [
            "kind=\"full\",resource=\"cpu\"} 0",
            "kind=\"some\",resource=\"cpu\"} 0.125",
            "kind=\"some\",resource=\"io\"} 0.125",
        ];
        let mut found = told(&metrics);
        found.sort();
        assert_eq!(found, expected);
        std::fs::remove_file(dir.path().join("cpu")).unwrap();
        metrics.tell_pressure(dir.path());
        assert_eq!(told(&metrics), [expected[2]]);
    }
}
