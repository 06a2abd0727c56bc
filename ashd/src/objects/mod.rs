//! The object store: copies of what is kept here, off this machine.
//!
//! A bucket of S3, Google Cloud Storage or Azure, or a directory that several machines see. What is
//! put there is sealed first, with a key for each tenant ([`seal`]); whoever holds the bucket sees
//! names and sizes. Objects have names that never mean two things ([`place`]) and are written
//! once. What lies where, and what is in it, says [`record`].
//!
//! Of two machines that want the same session one wins: a generation is taken by making an object
//! that must not be there yet, which every store can do.

mod error;
mod place;
mod record;
mod seal;

mod claim;
mod directory;
mod open;
mod transfer;

#[cfg(test)]
pub(crate) mod tests;

pub use claim::Claimed;
pub use error::ObjectsError;
pub use open::Settings;
pub use place::{HistoryName, ManifestName, Place};
pub use record::{
    AgentCopy, FORMAT, FolderCopy, Manifest, NotRecord, PointCopy, SessionCopy, history,
};
pub use seal::SealKey;
pub use transfer::{Limit, Listed};

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path;

use self::directory::Directory;
use crate::domain::Node;

/// An object store. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    directory: Directory,
    key: SealKey,
    /// Which daemon this is, among all that share the store.
    node: Node,
}

impl Objects {
    /// Where an object is in the store.
    fn path(&self, place: &Place<'_>) -> Path {
        Path::from_iter(self.prefix.parts().chain(Path::from(place.to_string()).parts()))
    }
}
