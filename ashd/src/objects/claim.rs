//! Whose a session is.
//!
//! One that is purged is nobody's: whoever purges it takes the generation behind its own, as somebody would
//! who goes on with it, and says that nobody does. So one who is about to go on with it, and has looked before
//! that, does not have it. The object stays when the rest of the session is removed.

use futures_util::TryStreamExt;
use object_store::{Error, PutMode, PutOptions};
use uuid::Uuid;

use super::{Limit, Objects, ObjectsError, Place};
use crate::domain::{SessionId, Tenant};

/// What is in the object behind who has made it, when nobody has the session.
const PURGED: &[u8] = b"purged";

/// What came of an attempt to have a session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Claimed {
    /// It is this daemon's.
    Ours,
    /// One has it from whose backup this daemon was restored.
    Inherited,
    /// Somebody else has this generation.
    Taken,
    /// Nobody has: the session was purged.
    Purged {
        /// Whether this daemon has done so, or one from whose backup it was restored.
        here: bool,
    },
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
            Ok(newest.max(object.location.filename().and_then(generation_of)))
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
        match self.make(tenant, &place, self.node.id.as_bytes()).await? {
            true => Ok(Claimed::Ours),
            // Also when the first attempt succeeded and its answer was lost.
            false => self.owner(tenant, session, generation).await,
        }
    }

    /// Takes a generation of a session for nobody: it is purged. False when somebody has it.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn bury(
        &self,
        tenant: &Tenant,
        session: SessionId,
        generation: u32,
    ) -> Result<bool, ObjectsError> {
        let place = Place::Owner(tenant, session, generation);
        let nobody = [&self.node.id.as_bytes()[..], PURGED].concat();
        if self.make(tenant, &place, &nobody).await? {
            return Ok(true);
        }
        let owner = self.owner(tenant, session, generation).await?;
        Ok(matches!(owner, Claimed::Purged { .. }))
    }

    /// Makes an object that must not be there yet; false when it is. It is kept when this returns: of one that
    /// is there this daemon may have died before that.
    async fn make(
        &self,
        tenant: &Tenant,
        place: &Place<'_>,
        plain: &[u8],
    ) -> Result<bool, ObjectsError> {
        let sealed = self.sealed(tenant, place, plain)?;
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(place), sealed.into(), options).await {
            // Whoever asks again when this fails has it.
            Ok(_) => self.keep(place).await.map(|()| true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                self.keep(place).await.map(|()| false)
            }
            Err(error) => Err(ObjectsError::of(&place.to_string(), error)),
        }
    }

    /// Removes what says who had a session in generations before this one.
    ///
    /// # Errors
    /// When the store does not do it.
    pub async fn forget_owners(
        &self,
        tenant: &Tenant,
        session: SessionId,
        before: u32,
    ) -> Result<(), ObjectsError> {
        let owners = self.list(&Place::Owners(tenant, session)).await?;
        for generation in owners.iter().filter_map(|owner| generation_of(&owner.name)) {
            if generation < before {
                self.remove(&Place::Owner(tenant, session, generation)).await?;
            }
        }
        Ok(())
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
        let who = owner.strip_suffix(PURGED).filter(|who| who.len() == size_of::<Uuid>());
        let is_purged = who.is_some();
        let who = who.unwrap_or(&owner);
        let is_owner = |node: &Uuid| who == node.as_bytes();
        let whose = match &self.node {
            node if is_owner(&node.id) => Claimed::Ours,
            node if node.before.iter().any(is_owner) => Claimed::Inherited,
            _ => Claimed::Taken,
        };
        Ok(match is_purged {
            true => Claimed::Purged { here: whose != Claimed::Taken },
            false => whose,
        })
    }
}

/// The generation that an object is called after.
fn generation_of(name: &str) -> Option<u32> {
    let name = Some(name).filter(|name| name.len() == 8)?;
    u32::from_str_radix(name, 16).ok()
}
