//! Points at which tests let the launcher die; see [`ash_fault`] for how it is asked to.

mod points;

pub use points::POINTS;

/// A point that can be died at.
#[inline]
pub fn point(name: &'static str) {
    ash_fault::point(POINTS, name);
}
