//! Points at which tests let the daemon die, fail or hang; see [`ash_fault`] for how they are asked to.

use std::io;

mod points;

pub use points::POINTS;

/// A point that can be died at.
#[inline]
pub fn point(name: &'static str) {
    ash_fault::point(POINTS, name);
}

/// A point that can be died at, and that can fail.
///
/// # Errors
/// When the environment says so. Without the feature `faults`, never.
#[inline]
pub fn fail(name: &'static str) -> io::Result<()> {
    ash_fault::fail(POINTS, name)
}
