//! What users are promised, with everything real but the model: `ashd`, `ashctl`, sandboxes, and
//! the real CLI beside its stand-in.

mod random;
mod s3;
mod support;

mod anything;
mod arriving;

mod attachments;
mod azure;
mod backups;
mod busy;
mod calls;
mod clearing;
mod commands;
mod config;
mod confined;
mod copied;
mod crashes;
mod dbus;
mod disk;
mod files;
mod fsck;
mod idle;
mod journey;
mod killed;
mod lasting;
mod leftovers;
mod limits;
mod lost;
mod machines;
mod metrics;
mod model;
mod moved;
mod options;
mod points;
mod pool;
mod proxy;
mod readme;
mod refusals;
mod retention;
mod rewinding;
mod sdk;
mod secrets;
mod soak;
mod start;
mod systemd;
mod tenants;
mod turns;
mod unsynced;
mod versions;
mod waiting;
mod writing;
