//! What can go wrong with an object store.

use std::io;

use object_store::Error;

/// Why the object store could not do it.
#[derive(Debug, thiserror::Error)]
pub enum ObjectsError {
    /// Nothing is there that could be talked to.
    #[error("the object store cannot be used: {0}")]
    Unusable(String),
    /// It did not answer, or refused.
    #[error("the object store did not do it: {0}")]
    Failed(String),
    /// It is not there.
    #[error("{0} is not in the object store")]
    Missing(String),
    /// It was changed, or sealed with another key.
    #[error(
        "{0} in the object store is damaged, or was sealed with another key; \
         look at snapshots.key"
    )]
    Sealed(String),
    /// It is larger than it can be.
    #[error("{0} in the object store is larger than anything that belongs there")]
    TooLarge(String),
    /// What is sealed in there is not what it has to be.
    #[error("{what} in the object store makes no sense: {how}")]
    Damaged {
        /// Which object.
        what: String,
        /// What is wrong with it.
        how: String,
    },
    /// This machine's disk failed.
    #[error("the disk failed on the way from or to the object store: {0}")]
    Disk(#[from] io::Error),
}

impl ObjectsError {
    /// What a store said of an object.
    pub(super) fn of(place: &str, error: Error) -> ObjectsError {
        match error {
            Error::NotFound { .. } => ObjectsError::Missing(place.to_owned()),
            error => ObjectsError::Failed(error.to_string()),
        }
    }

    /// The object that is not what it has to be, if it is known which.
    pub fn unusable(&self) -> Option<&str> {
        match self {
            ObjectsError::Missing(what)
            | ObjectsError::Sealed(what)
            | ObjectsError::TooLarge(what)
            | ObjectsError::Damaged { what, .. } => Some(what),
            ObjectsError::Unusable(_) | ObjectsError::Failed(_) | ObjectsError::Disk(_) => None,
        }
    }

    /// Whether trying again later can help.
    pub fn is_passing(&self) -> bool {
        matches!(self, ObjectsError::Failed(_) | ObjectsError::Disk(_))
    }
}
