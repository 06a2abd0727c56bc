//! Objects on their way: sealed, in pieces, in little memory.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt};
use object_store::{MultipartUpload, ObjectStoreExt, PutPayload};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::seal::{Opener, Sealer, sealed_len};
use super::{Objects, ObjectsError, Place};
use crate::domain::Tenant;
use crate::fault;

/// What is sent at a time, in bytes. S3 takes no less than 5 MiB, but for the last one.
const PART: usize = 6 * 1024 * 1024;

/// The most bytes that an object may hold.
#[derive(Clone, Copy, Debug)]
pub struct Limit(pub u64);

/// An object that is there.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The last part of its name.
    pub name: String,
    /// When it was put there.
    pub at: SystemTime,
}

impl Objects {
    pub(super) fn sealed(
        &self,
        tenant: &Tenant,
        place: &Place<'_>,
        plain: &[u8],
    ) -> Result<Bytes, ObjectsError> {
        let mut out = Vec::with_capacity(sealed_len(plain.len() as u64) as usize);
        let name = place.to_string();
        let mut sealer = Sealer::new(&self.key, tenant, &name, &mut out);
        let pushed = sealer.push(plain, &mut out).and_then(|()| sealer.finish(&mut out));
        pushed.map_err(|_| ObjectsError::TooLarge(name))?;
        Ok(out.into())
    }

    /// Puts a small object there. It is kept when this returns.
    ///
    /// # Errors
    /// When the store does not take it.
    pub async fn put(
        &self,
        tenant: &Tenant,
        place: &Place<'_>,
        plain: &[u8],
    ) -> Result<(), ObjectsError> {
        let sealed = self.sealed(tenant, place, plain)?;
        let put = self.store.put(&self.path(place), sealed.into()).await;
        put.map_err(|error| ObjectsError::of(&place.to_string(), error))?;
        self.keep(place).await
    }

    /// A small object.
    ///
    /// # Errors
    /// [`ObjectsError::Missing`]; [`ObjectsError::Sealed`] when it is not what was put there. When the
    /// store does not answer.
    pub async fn get(
        &self,
        tenant: &Tenant,
        place: &Place<'_>,
        limit: Limit,
    ) -> Result<Vec<u8>, ObjectsError> {
        let mut plain = vec![];
        self.read(tenant, place, limit, |piece| {
            plain.extend_from_slice(piece);
            Ok(())
        })
        .await?;
        Ok(plain)
    }

    /// Whether an object is there that this key opens, and is kept: whoever has put it there may have died
    /// before that. Only its beginning is read.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn opens(
        &self,
        tenant: &Tenant,
        place: &Place<'_>,
        limit: Limit,
    ) -> Result<bool, ObjectsError> {
        match self.read_first(tenant, place, limit).await {
            Ok(()) => self.keep(place).await.map(|()| true),
            Err(error) if error.is_passing() => Err(error),
            Err(_) => Ok(false),
        }
    }

    async fn read_first(
        &self,
        tenant: &Tenant,
        place: &Place<'_>,
        limit: Limit,
    ) -> Result<(), ObjectsError> {
        let name = place.to_string();
        let mut opening = Opening::begin(self, tenant, place, limit).await?;
        let mut out = vec![];
        while out.is_empty() && opening.next(&name, &mut out).await? {}
        Ok(())
    }

    /// Puts a file there, from its beginning to its end. It is kept when this returns.
    ///
    /// # Errors
    /// When the store does not take it, or the file cannot be read. Nothing of it is there then.
    pub async fn send(
        &self,
        tenant: &Tenant,
        place: &Place<'_>,
        file: File,
    ) -> Result<(), ObjectsError> {
        let (parts, mut sealed) = mpsc::channel(1);
        let (key, tenant, name) = (self.key.clone(), tenant.clone(), place.to_string());
        let sealing = spawn_blocking(move || {
            let mut first = Vec::with_capacity(PART + PART / 8);
            let sealer = Sealer::new(&key, &tenant, &name, &mut first);
            seal_file(file, sealer, first, &name, &parts)
        });
        let sent = self.send_parts(place, &mut sealed).await;
        // Whoever seals notices that nobody listens any more.
        drop(sealed);
        let sealing = sealing.await.map_err(|error| ObjectsError::Failed(error.to_string()))?;
        sent.and(sealing)?;
        self.keep(place).await
    }

    async fn send_parts(
        &self,
        place: &Place<'_>,
        sealed: &mut mpsc::Receiver<Part>,
    ) -> Result<(), ObjectsError> {
        let (path, name) = (self.path(place), place.to_string());
        let failed = |error| ObjectsError::of(&name, error);
        match sealed.recv().await {
            None => Ok(()),
            Some(Part::Last(part)) => {
                let put = self.store.put(&path, PutPayload::from(part)).await;
                put.map(drop).map_err(failed)
            }
            Some(Part::Next(part)) => {
                let mut upload = self.store.put_multipart(&path).await.map_err(failed)?;
                let done = parts(&mut *upload, part, sealed).await;
                if done.is_err() {
                    // What cannot be taken back now is up to the bucket's own rules.
                    let _ = upload.abort().await;
                }
                done.map_err(failed)
            }
        }
    }

    /// Brings an object into a file.
    ///
    /// # Errors
    /// As [`Objects::get`]; also when the file cannot be written. What is in the file then is not the
    /// object.
    pub async fn fetch(
        &self,
        tenant: &Tenant,
        place: &Place<'_>,
        limit: Limit,
        mut into: File,
    ) -> Result<(), ObjectsError> {
        let (pieces, mut plain) = mpsc::channel::<Vec<u8>>(4);
        let writing = spawn_blocking(move || {
            while let Some(piece) = plain.blocking_recv() {
                into.write_all(&piece)?;
            }
            Ok(())
        });
        let opened = self.open_pieces(tenant, place, limit, &pieces).await;
        drop(pieces);
        let written = writing.await.map_err(std::io::Error::other).flatten();
        // A disk that fails is why nobody took the pieces any more.
        written.map_err(ObjectsError::Disk)?;
        opened
    }

    async fn open_pieces(
        &self,
        tenant: &Tenant,
        place: &Place<'_>,
        limit: Limit,
        pieces: &mpsc::Sender<Vec<u8>>,
    ) -> Result<(), ObjectsError> {
        let name = place.to_string();
        let mut opening = Opening::begin(self, tenant, place, limit).await?;
        let mut out = vec![];
        while opening.next(&name, &mut out).await? {
            if !out.is_empty() && pieces.send(std::mem::take(&mut out)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    async fn read(
        &self,
        tenant: &Tenant,
        place: &Place<'_>,
        limit: Limit,
        mut take: impl FnMut(&[u8]) -> Result<(), ObjectsError>,
    ) -> Result<(), ObjectsError> {
        let name = place.to_string();
        let mut opening = Opening::begin(self, tenant, place, limit).await?;
        let mut out = vec![];
        while opening.next(&name, &mut out).await? {
            take(&out)?;
            out.clear();
        }
        Ok(())
    }

    /// What is in a place, which names a group of objects.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn list(&self, place: &Place<'_>) -> Result<Vec<Listed>, ObjectsError> {
        let objects = self.store.list(Some(&self.path(place)));
        let listed = objects.try_filter_map(|object| async move {
            let name = object.location.filename().map(str::to_owned);
            Ok(name.map(|name| Listed { name, at: object.last_modified.into() }))
        });
        let listed = listed.try_collect().await;
        listed.map_err(|error| ObjectsError::of(&place.to_string(), error))
    }

    /// The names of what groups there are in a place.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn groups(&self, place: &Place<'_>) -> Result<Vec<String>, ObjectsError> {
        let listed = self.store.list_with_delimiter(Some(&self.path(place))).await;
        let listed = listed.map_err(|error| ObjectsError::of(&place.to_string(), error))?;
        let names = listed.common_prefixes.iter().filter_map(|path| path.filename());
        Ok(names.map(str::to_owned).collect())
    }

    /// When an object was put there; absent when there is none.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn put_at(&self, place: &Place<'_>) -> Result<Option<SystemTime>, ObjectsError> {
        match self.store.head(&self.path(place)).await {
            Ok(found) => Ok(Some(found.last_modified.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(ObjectsError::of(&place.to_string(), error)),
        }
    }

    /// Removes an object; one that is not there is removed.
    ///
    /// # Errors
    /// When the store does not do it.
    pub async fn remove(&self, place: &Place<'_>) -> Result<(), ObjectsError> {
        match self.store.delete(&self.path(place)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(ObjectsError::of(&place.to_string(), error)),
        }
    }

    /// Removes everything in a place, which names a group of objects. It stays removed when this returns.
    ///
    /// # Errors
    /// When the store does not do it.
    pub async fn remove_all(&self, place: &Place<'_>) -> Result<(), ObjectsError> {
        let all = self.store.list(Some(&self.path(place)));
        let all = all.map_ok(|object| object.location).boxed();
        let removed = removed(self.store.delete_stream(all)).await;
        removed.map_err(|error| ObjectsError::of(&place.to_string(), error))?;
        // Also what somebody has begun to put there.
        self.remove_unfinished(place, Duration::ZERO).await?;
        self.settle(place).await
    }
}

/// What removing several objects comes to. One that somebody else has removed meanwhile is removed,
/// and those behind it are not left there.
pub(super) async fn removed<T>(
    results: impl Stream<Item = object_store::Result<T>>,
) -> object_store::Result<()> {
    let results = results.map(|result| match result {
        Ok(_) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    });
    results.try_for_each(|()| async { Ok(()) }).await
}

/// A piece of a sealed file.
enum Part {
    Next(Vec<u8>),
    Last(Vec<u8>),
}

async fn parts(
    upload: &mut dyn MultipartUpload,
    first: Vec<u8>,
    sealed: &mut mpsc::Receiver<Part>,
) -> object_store::Result<()> {
    let (mut part, mut is_last) = (first, false);
    loop {
        upload.put_part(PutPayload::from(part)).await?;
        fault::point("copy.part");
        if is_last {
            return upload.complete().await.map(drop);
        }
        (part, is_last) = match sealed.recv().await {
            Some(Part::Next(part)) => (part, false),
            Some(Part::Last(part)) => (part, true),
            None => {
                let source = "what was to be sent ended too early".into();
                return Err(object_store::Error::Generic { store: "ash", source });
            }
        };
    }
}

fn seal_file(
    mut file: File,
    mut sealer: Sealer,
    mut part: Vec<u8>,
    name: &str,
    parts: &mpsc::Sender<Part>,
) -> Result<(), ObjectsError> {
    let too_large = |_| ObjectsError::TooLarge(name.to_owned());
    let mut piece = vec![0; 256 * 1024];
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            sealer.finish(&mut part).map_err(too_large)?;
            // Nobody listens when the store has failed, which is told elsewhere.
            let _ = parts.blocking_send(Part::Last(part));
            return Ok(());
        }
        sealer.push(&piece[..read], &mut part).map_err(too_large)?;
        if part.len() >= PART {
            let full = std::mem::replace(&mut part, Vec::with_capacity(PART + PART / 8));
            if parts.blocking_send(Part::Next(full)).is_err() {
                return Ok(());
            }
        }
    }
}

/// An object that is being read.
struct Opening {
    stream: futures_util::stream::BoxStream<'static, object_store::Result<Bytes>>,
    opener: Option<Opener>,
}

impl Opening {
    async fn begin(
        objects: &Objects,
        tenant: &Tenant,
        place: &Place<'_>,
        limit: Limit,
    ) -> Result<Opening, ObjectsError> {
        let name = place.to_string();
        let found = objects.store.get(&objects.path(place)).await;
        let found = found.map_err(|error| ObjectsError::of(&name, error))?;
        if found.meta.size > sealed_len(limit.0) {
            return Err(ObjectsError::TooLarge(name));
        }
        let opener = Some(Opener::new(&objects.key, tenant, &name));
        Ok(Opening { stream: found.into_stream(), opener })
    }

    /// Adds what comes next to `out`; false: that was all, and all of it is right.
    async fn next(&mut self, name: &str, out: &mut Vec<u8>) -> Result<bool, ObjectsError> {
        let sealed = |_| ObjectsError::Sealed(name.to_owned());
        let Some(opener) = &mut self.opener else { return Ok(false) };
        match self.stream.try_next().await.map_err(|error| ObjectsError::of(name, error))? {
            Some(piece) => opener.push(&piece, out).map_err(sealed)?,
            None => {
                let last = self.opener.take();
                last.map_or(Ok(()), |opener| opener.finish(out)).map_err(sealed)?;
            }
        }
        Ok(true)
    }
}
