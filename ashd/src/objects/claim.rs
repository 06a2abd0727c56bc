//! Whose a session is.

use futures_util::TryStreamExt;
use object_store::{Error, PutMode, PutOptions};
use uuid::Uuid;

use super::{Limit, Objects, ObjectsError, Place};
use crate::domain::{SessionId, Tenant};

/// What came of an attempt to have a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claimed {
    /// It is this daemon's.
    Ours,
    /// One has it from whose backup this daemon was restored.
    Inherited,
    /// Somebody else has this generation.
    Taken,
}

impl Objects {
    /// The newest generation of a session; `None`: nobody has put it here.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn generation(
        &self,
        tenant: &Tenant,
        session: SessionId,
    ) -> Result<Option<u32>, ObjectsError> {
        let place = Place::Owners(tenant, session);
        let owners = self.store.list(Some(&self.path(&place)));
        let newest = owners.try_fold(None, |newest: Option<u32>, object| async move {
            let name = object.location.filename().filter(|name| name.len() == 8);
            let found = name.and_then(|name| u32::from_str_radix(name, 16).ok());
            Ok(newest.max(found))
        });
        newest.await.map_err(|error| ObjectsError::of(&place.to_string(), error))
    }

    /// Takes a generation of a session: by making an object that must not be there yet, of which
    /// the store sees to it that only one does.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn claim(
        &self,
        tenant: &Tenant,
        session: SessionId,
        generation: u32,
    ) -> Result<Claimed, ObjectsError> {
        let place = Place::Owner(tenant, session, generation);
        let sealed = self.sealed(tenant, &place, self.node.id.as_bytes())?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(&place), sealed.into(), options).await {
            Ok(_) => Ok(Claimed::Ours),
            // Also when the first attempt succeeded and its answer was lost.
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.owner(tenant, session, generation).await
            }
            Err(error) => Err(ObjectsError::of(&place.to_string(), error)),
        }
    }

    /// Who has a generation of a session.
    ///
    /// # Errors
    /// [`ObjectsError::Missing`] when nobody has. When the store does not answer.
    pub async fn owner(
        &self,
        tenant: &Tenant,
        session: SessionId,
        generation: u32,
    ) -> Result<Claimed, ObjectsError> {
        let owner = self.get(tenant, &Place::Owner(tenant, session, generation), Limit(64)).await?;
        let is_owner = |node: &Uuid| owner == node.as_bytes();
        Ok(match &self.node {
            node if is_owner(&node.id) => Claimed::Ours,
            node if node.before.iter().any(is_owner) => Claimed::Inherited,
            _ => Claimed::Taken,
        })
    }
}
