//! The first look: it reads what has changed, and keeps the names.

use std::collections::HashMap;
use std::ffi::CStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::{Found, Halt, Listing, Look, Met, check_cancelled, halt, is_moved, shortly_before};
use crate::snapshot::crew::{Queue, Task, Todo, joined};
use crate::snapshot::scan::{Known, Mark};
use crate::snapshot::{DEEPEST, SnapshotError, node};
use crate::tree::dir::{Dir, Kind, stat_of};

/// The first look.
pub(super) struct First<'l, 'a, 'v> {
    pub(super) look: &'l Look<'a, 'v>,
    pub(super) listings: Mutex<HashMap<Vec<u8>, Listing<'a>>>,
    pub(super) found: Mutex<Vec<Found>>,
    /// Bytes of files that were read.
    pub(super) read: AtomicU64,
}

impl<'a> First<'_, 'a, '_> {
    pub(super) fn see_to(&self, todo: Todo, queue: &Queue) -> Result<(), SnapshotError> {
        check_cancelled(self.look.cutting.cancel)?;
        let path = todo.path.clone();
        let done = match todo.task {
            Task::Look(depth) => self.dir(todo, depth, queue).map(|()| None),
            Task::Read => self.file(todo, queue).map_err(|error| halt(&path, error)),
        };
        match done {
            // It is gone, or something else, by now: the second look will tell.
            Err(Halt::Moved) | Ok(None) => Ok(()),
            Err(Halt::Failed(error)) => Err(error),
            Ok(Some(file)) => {
                if let Some(found) = self.look.read(&path, &file)? {
                    self.read.fetch_add(found.stat.size, Ordering::Relaxed);
                    self.note(found);
                }
                Ok(())
            }
        }
    }

    fn dir(&self, todo: Todo, depth: usize, queue: &Queue) -> Result<(), Halt> {
        let at = todo.path.clone();
        let halt = |error| halt(&at, error);
        let dir = todo.dir.dir(&todo.name).map_err(halt)?;
        let since = shortly_before(SystemTime::now());
        let own = dir.own_stat().map_err(halt)?;
        let is_settled = own.changed < since;
        let todo = match is_settled {
            true => todo,
            false => match queue.put_off(todo) {
                None => return Ok(()),
                Some(todo) => todo,
            },
        };
        let dir = Arc::new(dir);
        let (mut names, mut more) = (vec![], vec![]);
        for name in self.look.names(&dir).map_err(halt)?? {
            check_cancelled(self.look.cutting.cancel)?;
            let path = joined(&todo.path, &name);
            let (known, noted, task) = match self.entry(&dir, &name, &path) {
                Err(error) if is_moved(&error) => (None, 0, None),
                entry => entry.map_err(halt)?,
            };
            self.look.tally.bytes(path.len() + noted)?;
            let task = task.filter(|task| *task == Task::Read || depth < DEEPEST);
            more.extend(task.map(|task| {
                let task = if task == Task::Read { task } else { Task::Look(depth + 1) };
                Todo { dir: dir.clone(), name: name.clone(), path, task }
            }));
            names.push((name, known));
        }
        queue.add(more);
        let listing = Listing { mark: Mark::of(&own), is_settled, names: Arc::new(names) };
        let mut listings = self.listings.lock().unwrap_or_else(PoisonError::into_inner);
        listings.insert(todo.path, listing);
        Ok(())
    }

    /// What is known of an entry, how many bytes are noted of it, and what has to be done with it.
    fn entry(
        &self,
        dir: &Dir,
        name: &CStr,
        path: &[u8],
    ) -> io::Result<(Option<&'a Known>, usize, Option<Task>)> {
        let stat = dir.stat(name)?;
        Ok(match (stat.kind, self.look.known(path, &stat)) {
            (Kind::Dir, _) => (None, 0, Some(Task::Look(0))),
            (Kind::File, Some(known)) if stat.names > 1 => {
                let met = Met { known: known.clone(), is_sure: true, is_new: false };
                self.note(Found { path: path.to_vec(), stat, met });
                (None, 0, None)
            }
            (Kind::File, Some(known)) => (Some(known), node::weight(&known.entry), None),
            (Kind::File, None) => match self.look.met(path, &stat) {
                Some(met) => {
                    let noted = node::weight(&met.known.entry);
                    self.note(Found { path: path.to_vec(), stat, met });
                    (None, noted, None)
                }
                None => (None, 0, Some(Task::Read)),
            },
            _ => (None, 0, None),
        })
    }

    fn note(&self, found: Found) {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).push(found);
    }

    /// Opens a file that is to be read now.
    fn file(&self, todo: Todo, queue: &Queue) -> io::Result<Option<std::fs::File>> {
        let file = todo.dir.file(&todo.name)?;
        let is_young = stat_of(&file)?.changed >= shortly_before(SystemTime::now());
        let is_put_off = is_young && queue.put_off(todo).is_none();
        Ok((!is_put_off).then_some(file))
    }
}
