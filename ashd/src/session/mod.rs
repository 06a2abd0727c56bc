//! Sessions and agents: the verbs that both edges call.

pub mod api;
pub mod service;

pub mod attachments;
pub mod backup;
pub mod bundle;
pub mod exec;
pub mod files;
pub mod incoming;
pub mod stream;
pub mod writing;

pub mod project;
pub mod view;

pub mod keys;

pub mod cli;
pub mod shared;

mod admission;
mod agents;
mod behind;
mod checkpoints;
mod clearing;
mod copies;
mod counting;
mod create;
mod delete;
mod difference;
mod disk;
mod driver;
mod fair;
mod fork;
mod frames;
mod fsck;
mod garbage;
mod gate;
mod gathering;
mod going_on;
mod gone;
mod health;
mod journal;
mod keeping;
mod ladder;
mod logs;
mod machine;
mod mend;
mod moved;
mod owners;
mod places;
mod pool;
mod purge;
mod reconcile;
mod registry;
mod relief;
mod retention;
mod rewind;
mod standing;
mod start;
mod survey;
mod tenants;
mod top;
mod under_way;
mod unsynced;
mod untold;

#[cfg(test)]
mod stage;

pub use admission::Admission;
pub use checkpoints::Kept;
pub use difference::{Difference, Mending};
pub use exec::{ExecPiece, ExecStream};
pub use fsck::{Found, look_at_rest};
pub use garbage::Collection;
pub use ladder::Times;
pub use registry::SessionView;
pub use retention::{Gone, Keeping};
pub use service::Service;
pub use stream::Subscription;
pub use tenants::Deleted;
pub use top::Load;

pub use crate::store::{EventRange, SessionFilter, StoreError, Usage};
