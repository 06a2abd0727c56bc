//! Tests that cannot run here.

/// Says aloud that a test did not run, and why, in the way that `make test` counts.
#[expect(clippy::print_stdout, reason = "whoever runs the test must see it")]
pub fn skip(test: &str, reason: &str) {
    println!("SKIP {test}: {reason}");
}
