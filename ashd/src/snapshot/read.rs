//! Reading files into a vault.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::SnapshotError;
use super::chunk::{self, ChunkRef, SIZES};
use super::node::{Content, Data, Extent, put_refs};
use super::vault::{Stash, put};
use crate::tree::dir::{Stat, stat_of};

/// The most chunks that a file's entry names itself.
const INLINE: usize = 8;

/// How many chunks one list names.
const LIST: usize = 4096;

/// The most stretches of data in a file with holes that are kept apart; more are kept with the
/// holes between them.
const EXTENTS: usize = 4096;

/// A file to be read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) file: &'a File,
    pub(super) stat: &'a Stat,
    /// Names of one file have the same group.
    pub(super) group: Option<[u8; 8]>,
    /// As seen from the session.
    pub(super) path: &'a [u8],
}

/// Reads a file and stores what it holds; `None` when it turns out to be shorter than it was, or to
/// have been removed: whoever removes a large file to have its room does not wait until it is read.
pub(super) fn content(
    source: &Source<'_>,
    stash: &Mutex<Stash<'_>>,
    cancel: &AtomicBool,
) -> Result<Option<Content>, SnapshotError> {
    let Source { file, stat, group, path } = *source;
    let at = |error| SnapshotError::at(path, error);
    let stretches = match stat.sparse {
        true => data(file, stat.size).map_err(at)?,
        false if stat.size == 0 => vec![],
        false => vec![(0, stat.size)],
    };
    let mut extents = vec![];
    for (begin, end) in stretches {
        let part = Part { file, at: begin, end };
        let mut chunks = vec![];
        let pieces: Box<dyn Iterator<Item = io::Result<Vec<u8>>>> = match end - begin {
            // Most files are a chunk.
            length if length <= u64::from(SIZES.0) => Box::new(std::iter::once(whole(part))),
            _ => Box::new(chunk::cut(part)),
        };
        let mut length = 0;
        for piece in pieces {
            if cancel.load(Ordering::Relaxed) {
                return Err(SnapshotError::Cancelled);
            }
            // Of a file that is one chunk nothing more would be read.
            if length > 0 && stat_of(file).map_err(at)?.names == 0 {
                return Ok(None);
            }
            let chunk = put(stash, piece.map_err(at)?)?;
            length += u64::from(chunk.length);
            chunks.push(chunk);
        }
        if length != end - begin {
            return Ok(None);
        }
        extents.push(Extent { offset: begin, data: listed(chunks, stash)? });
    }
    Ok(Some(Content { size: stat.size, group, extents }))
}

fn listed(chunks: Vec<ChunkRef>, stash: &Mutex<Stash<'_>>) -> Result<Data, SnapshotError> {
    if chunks.len() <= INLINE {
        return Ok(Data::Inline(chunks));
    }
    let lists = chunks.chunks(LIST).map(|chunks| {
        let mut list = vec![];
        put_refs(&mut list, chunks);
        put(stash, list)
    });
    Ok(Data::Listed(lists.collect::<Result<_, _>>()?))
}

fn whole(mut part: Part<'_>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity((part.end - part.at) as usize);
    part.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A part of a file.
struct Part<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = buffer.len().min(left);
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// Where a file has data: begin and end of each stretch.
fn data(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut stretches: Vec<(u64, u64)> = vec![];
    let mut at = 0;
    while at < size {
        let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(begin) if begin < size => begin,
            // Nothing but a hole up to the end.
            Ok(_) | Err(Errno::NXIO) => break,
            // A file system that knows no holes.
            Err(Errno::INVAL) => return Ok(vec![(0, size)]),
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, SeekFrom::Hole(begin))?.min(size);
        let full = stretches.len() >= EXTENTS;
        match stretches.last_mut() {
            Some(last) if full => last.1 = end,
            _ => stretches.push((begin, end)),
        }
        at = end;
    }
    Ok(stretches)
}
