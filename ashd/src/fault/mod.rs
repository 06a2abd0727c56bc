//! Points at which tests let the daemon die, fail or hang.
//!
//! A point is a call with a name: [`point`] where nothing can fail, [`fail`] where the caller has a
//! way to fail. Without the feature `faults` both are nothing. With it, the environment says what
//! happens: `ASH_FAULT=NAME[:N][:kill|error|stall]`, several with commas between them. At the N-th
//! passage of the point by this process (the first unless said otherwise) the process kills itself,
//! as `kill -9` does (that is the usual), or the call fails, or the thread hangs for good.
//!
//! A new point is its call and its line in [`POINTS`]; `tests/layers` sees to it that both are
//! there, each once.

use std::io;

mod points;
#[cfg(any(feature = "faults", test))]
mod request;

pub use points::POINTS;

#[cfg(all(feature = "faults", not(debug_assertions)))]
compile_error!("the feature `faults` is for development builds; a release has no fault points");

/// A point that can be died at.
#[inline]
pub fn point(name: &'static str) {
    #[cfg(feature = "faults")]
    if request::pass(name).is_err() {
        request::refuse(&format!("{name} is no point that can fail"));
    }
    let _ = name;
}

/// A point that can be died at, and that can fail.
///
/// # Errors
/// When the environment says so. Without the feature `faults`, never.
#[inline]
pub fn fail(name: &'static str) -> io::Result<()> {
    #[cfg(feature = "faults")]
    request::pass(name)?;
    let _ = name;
    Ok(())
}
