//! Backups: a directory with everything that a daemon needs to go on elsewhere.
//!
//! What is in there is said by a manifest ([`manifest`]), which comes last and in one step: a backup
//! that was interrupted leaves the one before. Everything else never changes under its name
//! ([`name`]), so that what is there already, and is what was written ([`part`]), is not written again
//! ([`Target`]); what no manifest names any more goes behind the next one.
//!
//! Restoring ([`restore`]) reads all of it before it writes anything. What makes a backup is not here:
//! the session layer knows which files belong together. Everything here blocks.

mod error;
mod manifest;
mod name;
mod part;

mod restore;
mod target;

#[cfg(test)]
mod tests;

pub use error::BackupError;
pub use manifest::{Entry, Manifest};
pub use name::Name;
pub use restore::{RESTORING, Restored, check, restore};
pub use target::Target;
