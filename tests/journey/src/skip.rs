//! Tests that cannot run here.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Says aloud that a test did not run, and why, in the way that `make test` counts.
pub fn skip(test: &str, reason: &str) {
    #[expect(clippy::print_stdout, reason = "whoever runs the test must see it")]
    {
        println!("SKIP {test}: {reason}");
    }
    let Some(log) = std::env::var_os("ASH_SKIP_LOG") else { return };
    let log = OpenOptions::new().append(true).create(true).open(log);
    // A line that cannot be written makes the test count as passed; it has been said above.
    let _ = log.and_then(|mut log| writeln!(log, "{test}: {reason}"));
}
