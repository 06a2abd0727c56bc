//! A directory that stands for an object store.
//!
//! What is put there is not on its disk when that is answered, unlike in other stores: it is waited for here.
//! What a program has begun to put there and not finished, because it died, stays under a name that is in no
//! list, `NAME#NUMBER`: it is looked for here, and removed.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::{Objects, ObjectsError, Place};

/// The directory, if the store is one.
#[derive(Clone, Debug, Default)]
pub(super) struct Directory(Option<Arc<Path>>);

impl Directory {
    pub(super) fn at(dir: &Path) -> Directory {
        Directory(Some(dir.into()))
    }

    /// Does something with a path in the directory, on a thread that may block; with none, what there is to
    /// be done is done.
    async fn with<T: Default + Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&Path, &Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ObjectsError> {
        let Some(dir) = self.0.clone() else { return Ok(T::default()) };
        let path = dir.join(path);
        let done = spawn_blocking(move || work(&dir, &path)).await;
        Ok(done.map_err(io::Error::other)??)
    }
}

impl Objects {
    /// Waits until what was put in a place is on the disk, with the names of all directories that it is in.
    /// Nobody but a directory has to be waited for.
    pub(super) async fn keep(&self, place: &Place<'_>) -> Result<(), ObjectsError> {
        let keep = |dir: &Path, object: &Path| {
            let mut all = object.ancestors().take_while(|path| path.starts_with(dir));
            all.try_for_each(sync)
        };
        self.directory.with(self.path(place).as_ref(), keep).await
    }

    /// Waits until it is on the disk that objects were removed from a place, which names a group of them. A
    /// directory that none is left in is gone as well, which the one says that it was in.
    ///
    /// # Errors
    /// When the disk fails, or is not there any more.
    pub(super) async fn settle(&self, place: &Place<'_>) -> Result<(), ObjectsError> {
        let settle = |dir: &Path, place: &Path| {
            let all = place.ancestors().take_while(|path| path.starts_with(dir)).map(sync);
            let is_missing = |synced: &io::Result<()>| {
                synced.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            };
            let mut there = all.filter(|synced| !is_missing(synced));
            there.next().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
        };
        self.directory.with(self.path(place).as_ref(), settle).await
    }

    /// Removes what somebody has begun to put in a place, which names a group of objects, and has not gone on
    /// with for so long. How many objects that were to become.
    ///
    /// # Errors
    /// When the disk fails.
    pub async fn remove_unfinished(
        &self,
        place: &Place<'_>,
        age: Duration,
    ) -> Result<u64, ObjectsError> {
        let remove = move |_: &Path, place: &Path| remove_unfinished(place, age);
        self.directory.with(self.path(place).as_ref(), remove).await
    }
}

fn sync(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        // Of a file system that cannot be asked for this.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

fn remove_unfinished(dir: &Path, age: Duration) -> io::Result<u64> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            let within = remove_unfinished(&path, age)?;
            if within > 0 {
                // One that is not empty stays, and whoever needs it makes it again.
                let _ = fs::remove_dir(&path);
            }
            removed += within;
        } else if is_unfinished(&path) && is_older(&path, age) {
            match fs::remove_file(&path) {
                // Whoever has begun it has finished it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => {
                    done?;
                    removed += 1;
                }
            }
        }
    }
    Ok(removed)
}

fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let number = name.and_then(|name| name.split_once('#')).map(|(_, number)| number);
    number.is_some_and(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_older(path: &Path, age: Duration) -> bool {
    let touched = fs::symlink_metadata(path).and_then(|stat| stat.modified());
    touched.is_ok_and(|touched| touched.elapsed().unwrap_or_default() >= age)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use uuid::Uuid;

    use super::*;
    use crate::domain::{SessionId, Tenant};
    use crate::objects::tests::open;

    const AGE: Duration = Duration::from_secs(60);

    /// Somebody has begun to put something in a place so long ago, and died.
    fn begin(dir: &Path, place: &Place<'_>, ago: Duration) {
        let path = dir.join(format!("{place}#1"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "half").unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(SystemTime::now() - ago).unwrap();
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_on_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        let (objects, tenant) = (open(dir.path(), "a"), Tenant::default());
        let place = Place::Pack(&tenant, Uuid::nil());
        assert!(matches!(objects.keep(&place).await, Err(ObjectsError::Disk(_))));
        objects.put(&tenant, &place, b"content").await.unwrap();
        objects.keep(&place).await.unwrap();
    }

    /// Else it would count as removed, and be there when the directory is.
    #[tokio::test]
    async fn nothing_is_removed_from_a_directory_that_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        fs::create_dir(&store).unwrap();
        let (objects, tenant) = (open(&store, "a"), Tenant::default());
        let all = Place::Tenant(&tenant);
        objects.remove_all(&all).await.unwrap();
        objects.put(&tenant, &Place::Pack(&tenant, Uuid::nil()), b"content").await.unwrap();
        let away = dir.path().join("away");
        fs::rename(&store, &away).unwrap();
        assert!(objects.remove_all(&all).await.is_err_and(|error| error.is_passing()));
        fs::rename(away, &store).unwrap();
        objects.remove_all(&all).await.unwrap();
        assert_eq!(fs::read_dir(store).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_was_begun_and_never_finished_goes() {
        let dir = tempfile::tempdir().unwrap();
        let (objects, tenant) = (open(dir.path(), "a"), Tenant::default());
        let session = SessionId::random();
        let [pack, other, whole] = [1, 2, 3].map(|n| Place::Pack(&tenant, Uuid::from_u128(n)));
        begin(dir.path(), &pack, 2 * AGE);
        begin(dir.path(), &other, Duration::ZERO);
        begin(dir.path(), &Place::Owner(&tenant, session, 1), 2 * AGE);
        objects.put(&tenant, &whole, b"content").await.unwrap();
        let all = Place::Tenant(&tenant);
        assert_eq!(objects.remove_unfinished(&all, AGE).await.unwrap(), 2);
        assert!(dir.path().join(format!("{other}#1")).exists(), "it is under way");
        assert!(!dir.path().join(Place::Session(&tenant, session).to_string()).exists());
        assert_eq!(objects.list(&Place::Packs(&tenant)).await.unwrap().len(), 1);
        // Of what is removed as a whole nothing is left.
        objects.remove_all(&all).await.unwrap();
        assert_eq!(fs::read_dir(dir.path().join("default/packs")).map_or(0, Iterator::count), 0);
        assert_eq!(objects.remove_unfinished(&all, AGE).await.unwrap(), 0);
    }
}
