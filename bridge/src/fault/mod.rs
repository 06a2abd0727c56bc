//! Points at which tests let the bridge and its spawner die; see [`ash_fault`] for how they are asked to.

mod points;

pub use points::POINTS;

/// A point that can be died at.
#[inline]
pub fn point(name: &'static str) {
    ash_fault::point(POINTS, name);
}
