//! Reading a part of a backup.
//!
//! A part is what was written when its bytes have the hash that the manifest names: its name and its size
//! tell nothing of what a disk has made of it since.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::BackupError;
use super::manifest::Entry;

type Result<T> = std::result::Result<T, BackupError>;

/// What is read and written at once, in bytes.
pub(super) const PIECE: usize = 1 << 20;

/// Reads a part into `out`, and checks it.
pub(super) fn read(dir: &Path, entry: &Entry, out: &mut dyn Write) -> Result<()> {
    let mut source = Source::open(dir, entry)?;
    let mut piece = vec![0; PIECE];
    loop {
        match source.read(&mut piece)? {
            0 => return source.end(entry),
            read => out.write_all(&piece[..read])?,
        }
    }
}

/// A part while it is read.
pub(super) struct Source {
    file: File,
    hash: blake3::Hasher,
}

impl Source {
    pub(super) fn open(dir: &Path, entry: &Entry) -> Result<Source> {
        let file = match File::open(dir.join(entry.name.to_string())) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BackupError::damaged(&entry.name, "is missing"));
            }
            file => file?,
        };
        if file.metadata()?.len() != entry.bytes {
            return Err(BackupError::damaged(&entry.name, "has another size"));
        }
        Ok(Source { file, hash: blake3::Hasher::new() })
    }

    /// Reads what is left, and checks all of it.
    pub(super) fn end(mut self, entry: &Entry) -> Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        match self.hash.finalize() == entry.hash {
            true => Ok(()),
            false => Err(BackupError::damaged(&entry.name, "is not what was written")),
        }
    }
}

impl Read for Source {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(into)?;
        self.hash.update(&into[..read]);
        Ok(read)
    }
}
