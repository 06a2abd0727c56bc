//! The words that `ashd`, the launcher and the bridge say to each other.
//!
//! Two conversations use this crate:
//!
//! * [`frame`] and [`words`]: `ashd` ⇄ bridge, over one Unix stream socket per sandbox;
//! * [`plan`]: `ashd` → launcher, one sequenced packet per sandbox to make.
//!
//! Nothing here performs I/O beyond reading from and writing to what the caller hands in, and
//! nothing trusts its input: every length is bounded before memory is reserved. What is said of input
//! that is of no use is bounded by [`brief`].

pub mod frame;
pub mod words;

pub mod plan;

pub mod brief;

/// The version of the bridge conversation that this build speaks.
pub const VERSION: u16 = 3;

/// The first version that knows [`frame::Kind::Drain`].
pub const DRAINS: u16 = 2;

/// The first version that knows [`frame::Kind::Tasks`].
pub const TASKS: u16 = 3;

/// The oldest version of the bridge conversation that this build still understands: sandboxes outlive
/// upgrades, and their bridges with them.
pub const OLDEST_VERSION: u16 = 1;
