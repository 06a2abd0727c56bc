//! Points at which tests let a program die, fail or hang.
//!
//! A program has a table of its points, and a module `fault` through which it passes them: by
//! [`point`] where nothing can fail, by [`fail`] where the caller has a way to fail. Without the
//! feature `faults` both are nothing. With it, the environment says what happens:
//! `ASH_FAULT=NAME[:N][:kill|error|stall]`, several with commas between them. At the N-th passage of
//! the point by this process (the first unless said otherwise) the process kills itself, as `kill -9`
//! does (that is the usual; the first process of a namespace exits), or the call fails, or the thread
//! hangs for good. It holds for the process that has it in its environment.
//!
//! A new point is its call and its line in the program's table; `tests/layers` sees to it that both
//! are there, each once.

use std::io;

#[cfg(any(feature = "faults", test))]
mod request;

#[cfg(all(feature = "faults", not(debug_assertions)))]
compile_error!("the feature `faults` is for development builds; a release has no fault points");

/// Every fault point of a program: its name, and what has happened and what has not when it is passed.
pub type Table = &'static [(&'static str, &'static str)];

/// A point that can be died at.
#[inline]
pub fn point(table: Table, name: &'static str) {
    #[cfg(feature = "faults")]
    if request::pass(table, name).is_err() {
        request::refuse(&format!("{name} is no point that can fail"));
    }
    let _ = (table, name);
}

/// A point that can be died at, and that can fail.
///
/// # Errors
/// When the environment says so. Without the feature `faults`, never.
#[inline]
pub fn fail(table: Table, name: &'static str) -> io::Result<()> {
    #[cfg(feature = "faults")]
    request::pass(table, name)?;
    let _ = (table, name);
    Ok(())
}
