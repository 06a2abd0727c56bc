//! Packs: files that hold chunks.
//!
//! ```text
//!   ashpack1 │ chunk │ chunk │ … │ table │ how many │ hash of the table │ ashpend1
//!                                  └ for each chunk: name, whether it is compressed, bytes here, bytes
//! ```
//!
//! A pack is written under a name that nobody looks for, flushed, and then given its name; it never
//! changes after that. Everything that the index knows can be read from the packs.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use uuid::Uuid;

use super::SnapshotError;
use super::chunk::{ChunkId, LARGEST, Packed};
use crate::fault;

const BEGIN: &[u8; 8] = b"ashpack1";
const END: &[u8; 8] = b"ashpend1";

/// Bytes of one row of the table: 32 + 1 + 4 + 4.
const ROW: usize = 41;

/// Bytes behind the table.
const TRAILER: usize = 4 + 32 + 8;

/// The most chunks of a pack.
const MOST: usize = 1 << 20;

/// Where a chunk lies in its pack.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Row {
    pub(super) id: ChunkId,
    pub(super) offset: u64,
    pub(super) stored: u32,
    pub(super) length: u32,
    pub(super) compressed: bool,
}

/// A pack that is being written. One that is dropped leaves nothing.
pub(super) struct Writing {
    file: BufWriter<File>,
    draft: Draft,
    name: Uuid,
    rows: Vec<Row>,
    end: u64,
}

/// A pack to which nothing comes any more. Nothing has waited for the disk yet. One that is dropped
/// leaves nothing.
pub(super) struct Full {
    file: File,
    draft: Draft,
    name: Uuid,
    rows: Vec<Row>,
}

/// The name that nobody looks for.
struct Draft(PathBuf);

/// A pack that has its name.
pub(super) struct Written {
    pub(super) name: Uuid,
    pub(super) bytes: u64,
    pub(super) rows: Vec<Row>,
}

impl Writing {
    /// Begins a pack in a directory for what is not finished.
    pub(super) fn begin(tmp: &Path) -> Result<Writing, SnapshotError> {
        let name = Uuid::new_v4();
        let path = tmp.join(name.to_string());
        let mut file = BufWriter::with_capacity(256 * 1024, File::create_new(&path)?);
        let draft = Draft(path);
        file.write_all(BEGIN)?;
        Ok(Writing { file, draft, name, rows: vec![], end: BEGIN.len() as u64 })
    }

    /// Adds a chunk.
    pub(super) fn add(
        &mut self,
        id: ChunkId,
        packed: &Packed,
        length: u32,
    ) -> Result<(), SnapshotError> {
        self.file.write_all(&packed.bytes)?;
        let stored = u32::try_from(packed.bytes.len()).unwrap_or(u32::MAX);
        let compressed = packed.compressed;
        self.rows.push(Row { id, offset: self.end, stored, length, compressed });
        self.end += u64::from(stored);
        Ok(())
    }

    /// Whether there is room for more chunks.
    pub(super) fn is_full(&self, bytes: u64) -> bool {
        self.end >= bytes || self.rows.len() >= MOST
    }

    /// Writes what is behind the chunks.
    pub(super) fn close(mut self) -> Result<Full, SnapshotError> {
        self.file.write_all(&table(&self.rows))?;
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Full { file, draft: self.draft, name: self.name, rows: self.rows })
    }

    /// Brings the pack to the disk and gives it its name.
    pub(super) fn finish(self, packs: &Path) -> Result<Written, SnapshotError> {
        self.close()?.publish(packs)
    }
}

impl Full {
    /// Brings the pack to the disk and gives it its name.
    pub(super) fn publish(self, packs: &Path) -> Result<Written, SnapshotError> {
        self.file.sync_data()?;
        let bytes = self.file.metadata()?.len();
        fault::fail("pack.publish.before")?;
        std::fs::rename(&self.draft.0, path(packs, self.name))?;
        File::open(packs)?.sync_all()?;
        fault::fail("pack.publish.after")?;
        Ok(Written { name: self.name, bytes, rows: self.rows })
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Behind `publish` there is nothing of this name.
        let _ = std::fs::remove_file(&self.0);
    }
}

fn table(rows: &[Row]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len() * ROW + TRAILER);
    for row in rows {
        out.extend(row.id.0);
        out.push(row.compressed.into());
        out.extend(row.stored.to_le_bytes());
        out.extend(row.length.to_le_bytes());
    }
    let hash = blake3::hash(&out);
    out.extend((rows.len() as u32).to_le_bytes());
    out.extend(hash.as_bytes());
    out.extend(END);
    out
}

/// Where a pack lies.
pub(super) fn path(packs: &Path, name: Uuid) -> PathBuf {
    packs.join(format!("{name}.pack"))
}

/// The name of a pack from the name of its file.
pub(super) fn name_of(file: &str) -> Option<Uuid> {
    Uuid::try_parse(file.strip_suffix(".pack")?).ok()
}

/// Opens a pack.
///
/// # Errors
/// [`SnapshotError::Damaged`] when there is none in the place where all are, or the disk has lost it.
/// Nothing else says anything about what is in it.
pub(super) fn open(packs: &Path, name: Uuid) -> Result<File, SnapshotError> {
    File::open(path(packs, name)).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound if packs.is_dir() => {
            SnapshotError::Damaged { what: format!("pack {name}"), how: "it is not there" }
        }
        _ => unread(&format!("pack {name}"), error),
    })
}

/// What it means that bytes of a pack cannot be read: damage when they are not there, or the disk does
/// not give them back: a bad sector, or a file system that finds itself damaged. Else they may be sound.
fn unread(what: &str, error: io::Error) -> SnapshotError {
    let how = match Errno::from_io_error(&error) {
        Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG) => "the disk does not give it back",
        None if error.kind() == io::ErrorKind::UnexpectedEof => "its pack is cut off",
        _ => return error.into(),
    };
    SnapshotError::Damaged { what: what.to_owned(), how }
}

/// Reads the table of a pack.
pub(super) fn read_table(file: &File, name: Uuid) -> Result<Vec<Row>, SnapshotError> {
    let what = format!("pack {name}");
    let damaged = |how| SnapshotError::Damaged { what: what.clone(), how };
    let unread = |error| unread(&what, error);
    let size = file.metadata()?.len();
    let mut trailer = [0; TRAILER];
    let Some(end) = size.checked_sub(TRAILER as u64) else {
        return Err(damaged("it is too short"));
    };
    file.read_exact_at(&mut trailer, end).map_err(unread)?;
    let count = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]) as usize;
    let begin = end.checked_sub((count * ROW) as u64);
    let Some(begin) = begin.filter(|begin| *begin >= BEGIN.len() as u64 && count <= MOST) else {
        return Err(damaged("its table does not fit"));
    };
    let mut table = vec![0; count * ROW];
    file.read_exact_at(&mut table, begin).map_err(unread)?;
    if trailer[4..36] != blake3::hash(&table).as_bytes()[..] || trailer[36..] != END[..] {
        return Err(damaged("its table is not what was written"));
    }
    rows(&table, begin).ok_or_else(|| damaged("its table makes no sense"))
}

fn rows(table: &[u8], end: u64) -> Option<Vec<Row>> {
    let mut offset = BEGIN.len() as u64;
    let mut rows = Vec::with_capacity(table.len() / ROW);
    for row in table.chunks_exact(ROW) {
        let number =
            |at: usize| u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
        let (stored, length) = (number(33), number(37));
        if row[32] > 1 || stored as usize > LARGEST || length as usize > LARGEST {
            return None;
        }
        let id = ChunkId(row[..32].try_into().ok()?);
        rows.push(Row { id, offset, stored, length, compressed: row[32] == 1 });
        offset += u64::from(stored);
    }
    (offset == end).then_some(rows)
}

/// Reads a chunk's bytes as they are kept.
pub(super) fn read(file: &File, row: &Row) -> Result<Packed, SnapshotError> {
    let mut bytes = vec![0; row.stored as usize];
    let unread = |error| unread(&format!("chunk {:?}", row.id), error);
    file.read_exact_at(&mut bytes, row.offset).map_err(unread)?;
    Ok(Packed { bytes, compressed: row.compressed })
}

#[cfg(test)]
mod tests {
    use super::super::chunk::{pack, unpack};
    use super::*;

    fn written(dir: &Path) -> Written {
        let mut writing = Writing::begin(dir).unwrap();
        for plain in [vec![1; 50_000], vec![], (0..=255).collect()] {
            let length = plain.len() as u32;
            writing.add(ChunkId::of(&plain), &pack(plain), length).unwrap();
        }
        writing.finish(dir).unwrap()
    }

    #[test]
    fn what_is_written_is_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let written = written(dir.path());
        let file = File::open(path(dir.path(), written.name)).unwrap();
        assert_eq!(read_table(&file, written.name).unwrap(), written.rows);
        for row in &written.rows {
            let packed = read(&file, row).unwrap();
            assert_eq!(
                unpack(row.id, packed, row.length as usize).unwrap().len() as u32,
                row.length
            );
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let written = written(dir.path());
        let path = path(dir.path(), written.name);
        let whole = std::fs::read(&path).unwrap();
        let table = whole.len() - TRAILER - written.rows.len() * ROW;
        // The first word says nothing that the rest does not.
        for at in BEGIN.len()..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            let file = File::open(&path).unwrap();
            let found = read_table(&file, written.name).and_then(|rows| {
                rows.iter().try_for_each(|row| {
                    unpack(row.id, read(&file, row)?, row.length as usize).map(drop)
                })
            });
            // Some bits of a compressed chunk say nothing; what comes out has been checked.
            assert!(found.is_err() || at < table, "byte {at}");
        }
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let file = File::open(&path).unwrap();
            assert!(read_table(&file, written.name).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn one_that_is_given_up_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        drop(Writing::begin(dir.path()).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
