//! An index that is damaged is made anew.
//!
//! To look through it takes the longer the more is kept, so that nobody waits for it who opens a vault. It
//! need not be sound for that: whatever is read in a place that it says is compared with its name, and what
//! it says is nowhere is stored again by whoever saves. What nobody would notice is that it does not know
//! something that is there, or where that is. So it is looked through before anybody is told on its word that
//! something is missing or damaged, before anything is removed on its word, and in any case soon behind the
//! start. One that makes no sense to whoever asks it is made anew at once. Nor is anything missing as long as
//! a pack that the index does not know cannot be read.

use std::sync::{MutexGuard, PoisonError};

use super::SnapshotError;
use super::chunk::ChunkId;
use super::index::{INDEX, Place, damage_of};
use super::vault::Vault;

/// What is known of an index.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum State {
    /// Nothing: nobody has looked through it since the vault was opened.
    Unknown,
    /// Somebody has, and it was sound or made anew.
    Sound,
    /// It could not be made anew, and says nothing.
    Mute,
    /// It is a copy, of a vault that is only looked at: nothing is made anew.
    Copy,
}

impl Vault {
    /// Where a chunk is; `None`: nowhere.
    ///
    /// # Errors
    /// When the index cannot be read or written; when it is not known where the chunk is, and a pack cannot be
    /// read that may have it.
    pub(super) fn place(&self, id: ChunkId) -> Result<Option<Place>, SnapshotError> {
        let found = self.index().find(id);
        if matches!(found, Ok(Some(_))) {
            return found;
        }
        // Whoever is looking through it may come to know better.
        let mut state = self.state();
        let found = self.index().find(id);
        let told = match &found {
            Err(SnapshotError::Index(how)) => Some(how.clone()),
            _ => None,
        };
        if matches!(found, Ok(Some(_))) || *state == State::Copy {
            return found;
        }
        if told.is_some() || *state != State::Sound {
            let damage = match told {
                None => self.damage_of_index(*state)?,
                told => told,
            };
            self.settle(&mut state, damage)?;
        }
        let mut index = self.index();
        let is_more = index.leaves_out()?;
        match index.find(id)? {
            None if is_more => Err(SnapshotError::Store("a pack cannot be read now".to_owned())),
            found => Ok(found),
        }
    }

    /// Where a chunk is that is not what was saved where it was said to be.
    pub(super) fn place_for_sure(&self, id: ChunkId) -> Result<Option<Place>, SnapshotError> {
        self.look_through(false)?;
        self.index().find(id)
    }

    /// Looks through the index, unless somebody has since the vault was opened and nobody wants it `again`.
    /// One that is damaged is made anew.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn look_through(&self, again: bool) -> Result<(), SnapshotError> {
        let mut state = self.state();
        match *state {
            State::Copy => return Ok(()),
            State::Sound if !again => {}
            now => {
                let damage = self.damage_of_index(now)?;
                self.settle(&mut state, damage)?;
            }
        }
        self.index().leaves_out().map(drop)
    }

    /// Makes the index anew if this is an error that says that it is damaged; what it says otherwise.
    pub(super) fn mend_index(&self, error: SnapshotError) -> Result<(), SnapshotError> {
        match error {
            SnapshotError::Index(how) => self.settle(&mut self.state(), Some(how)),
            error => Err(error),
        }
    }

    fn damage_of_index(&self, state: State) -> Result<Option<String>, SnapshotError> {
        match state {
            State::Mute => Ok(Some("it could not be made anew".to_owned())),
            _ => damage_of(&self.beside(INDEX)),
        }
    }

    /// Notes that the index is sound, behind making it anew if it is damaged.
    fn settle(&self, state: &mut State, damage: Option<String>) -> Result<(), SnapshotError> {
        if let Some(how) = damage {
            // If that fails.
            *state = State::Mute;
            self.make_index_anew(&how)?;
        }
        *state = State::Sound;
        Ok(())
    }

    fn make_index_anew(&self, how: &str) -> Result<(), SnapshotError> {
        tracing::warn!(ash_tenant = %self.tenant, how, "the index of a snapshot store is made anew");
        // Whoever dies on the way leaves an index that looks as if it had always been there.
        self.forget_all()?;
        {
            // A pack that is half-way on its way out would be taken in again.
            let _nothing_is_moving = self.moving();
            self.index().make_anew(&self.beside(INDEX))?;
        }
        // What the one before knew may be gone, and nobody can say so any more: nor may others rely on it who
        // have saved meanwhile.
        self.forget_all()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
