//! What is known of a session's files: what was stored for each, and what its stat was then.
//!
//! A file whose stat has not changed is not read again. The file of such a scan is a log: every cut
//! appends what has changed, in a block with a checksum, and now and then it is written anew. It
//! says for which root it is; one that may name what goes, because its root is in no point any more, is
//! removed before that does. Losing it costs a cut that reads everything.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::SnapshotError;
use super::node::{self, NotNode};
use crate::domain::Root;
use crate::tree::dir::{Kind, Stat};

const BEGIN: &[u8; 8] = b"ashscan1";

/// Bytes before a block: its length, and eight bytes of its hash.
const HEAD: usize = 12;

/// Blocks are read whole.
const LARGEST: usize = 1 << 30;

/// Bytes of a file's entry in the log, about.
const TYPICAL: usize = 192;

/// Entries that may be out of date before the log is written anew.
const STALE: usize = 4096;

/// How the name ends of what has not taken the place of a scan yet.
const NEW: &str = "new";

/// What says that an entry has not changed: everything that a change of it changes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Mark {
    mode: u16,
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    inode: (u64, u64),
}

impl Mark {
    pub(super) fn of(stat: &Stat) -> Mark {
        let size = if stat.kind == Kind::Dir { 0 } else { stat.size };
        Mark {
            mode: stat.mode,
            size,
            modified: stat.modified,
            changed: stat.changed,
            inode: stat.inode,
        }
    }

    /// Bytes; none of a directory.
    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

/// What was stored for a path.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Known {
    pub(super) mark: Mark,
    /// The entry, encoded.
    pub(super) entry: Bytes,
}

impl Known {
    /// Nothing is known any more.
    pub(super) fn gone() -> Known {
        Known { mark: Mark::default(), entry: Bytes::new() }
    }

    /// Writes it as it stands behind its path.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put(out, &self.mark, &self.entry);
    }
}

/// What is known of files, as it stands in a scan: for those who note many, and look up none of them.
#[derive(Default)]
pub(super) struct Noted(Vec<u8>);

impl Noted {
    fn of<'a, P: AsRef<[u8]> + 'a>(files: impl IntoIterator<Item = (&'a P, &'a Known)>) -> Noted {
        let mut noted = Noted::default();
        for (path, known) in files {
            noted.add(path.as_ref(), &known.mark, &known.entry);
        }
        noted
    }

    /// Notes a path, with its entry, encoded.
    pub(super) fn add(&mut self, path: &[u8], mark: &Mark, entry: &[u8]) {
        node::put_bytes(&mut self.0, path);
        put(&mut self.0, mark, entry);
    }

    /// Notes what stands like this in another one.
    pub(super) fn add_as_it_is(&mut self, noted: &[u8]) {
        self.0.extend(noted);
    }

    /// One after the other: how it stands here, and its entry.
    pub(super) fn each(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let all = rest;
            node::bytes(&mut rest).ok()?;
            Mark::decode(&mut rest).ok()?;
            let entry = node::bytes(&mut rest).ok()?;
            Some((&all[..all.len() - rest.len()], entry))
        })
    }
}

/// Writes what is known of a path as it stands behind that.
fn put(out: &mut Vec<u8>, mark: &Mark, entry: &[u8]) {
    mark.encode(out);
    node::put_bytes(out, entry);
}

/// What is known of files, by path. Paths and entries that were read from a scan are parts of what was
/// read, and have no memory of their own.
pub(super) type Files = HashMap<Bytes, Known>;

/// Everything known of a session's files.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) files: Files,
    /// The root that all this is in.
    pub(super) root: Option<Root>,
    /// Entries in the log, also those that are out of date.
    logged: usize,
    /// Bytes of the log that are sound; 0 when there is none.
    pub(super) sound: u64,
}

impl Scan {
    /// Reads a scan, as far as it is sound.
    pub(super) fn load(path: &Path) -> Scan {
        match std::fs::read(path) {
            Ok(bytes) => Scan::decode(&bytes.into()),
            Err(_) => Scan::default(),
        }
    }

    pub(super) fn decode(bytes: &Bytes) -> Scan {
        let mut scan = Scan::default();
        let Some(mut rest) = bytes.strip_prefix(BEGIN) else { return scan };
        scan.sound = BEGIN.len() as u64;
        while let Some((block, after)) = block(rest) {
            if scan.take(bytes, block).is_err() {
                return Scan::default();
            }
            scan.sound += (HEAD + block.len()) as u64;
            rest = after;
        }
        scan
    }

    /// Takes in what a block says, which is a part of `all`.
    fn take(&mut self, all: &Bytes, mut block: &[u8]) -> Result<(), NotNode> {
        self.root = root_in(&mut block)?;
        if self.files.is_empty() {
            // The whole comes first.
            self.files.reserve(block.len() / TYPICAL);
        }
        while !block.is_empty() {
            let path = all.slice_ref(node::bytes(&mut block)?);
            let mark = Mark::decode(&mut block)?;
            let entry = all.slice_ref(node::bytes(&mut block)?);
            self.note(path, Known { mark, entry });
            self.logged += 1;
        }
        Ok(())
    }

    /// Only the root that a scan is for: what its sound part says about files is not looked at.
    pub(super) fn root_of(path: &Path) -> Option<Root> {
        let bytes = std::fs::read(path).ok()?;
        let (mut rest, mut root) = (bytes.strip_prefix(BEGIN)?, None);
        while let Some((mut block, after)) = block(rest) {
            root = root_in(&mut block).ok()?;
            rest = after;
        }
        root
    }

    /// Appends what is new. The log is written anew when too much of it is out of date. Returns how
    /// many bytes were written.
    pub(super) fn save(
        mut self,
        path: &Path,
        root: Option<Root>,
        new: Vec<(Vec<u8>, Known)>,
    ) -> Result<u64, SnapshotError> {
        let stale = self.logged + new.len() > 2 * self.files.len() + STALE;
        if stale || self.sound == 0 {
            new.into_iter().for_each(|(path, known)| self.note(path.into(), known));
            return replace(path, root, &[Noted::of(&self.files)]);
        }
        let new = [Noted::of(new.iter().map(|(path, known)| (path, known)))];
        let block = [&head(root, &new)[..], &new[0].0[..]].concat();
        let mut file = match OpenOptions::new().write(true).open(path) {
            // All of it has been forgotten meanwhile, by somebody who wants everything read anew.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
            file => file?,
        };
        // What is behind the sound part was torn off when something ended in the middle of it.
        file.set_len(self.sound)?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        file.write_all(&block)?;
        Ok(block.len() as u64)
    }

    /// A scan that says the same and nothing else.
    pub(super) fn anew(&self) -> Vec<u8> {
        let all = [Noted::of(&self.files)];
        [&BEGIN[..], &head(self.root, &all)[..], &all[0].0[..]].concat()
    }

    fn note(&mut self, path: Bytes, known: Known) {
        match known.entry.is_empty() {
            true => drop(self.files.remove(&path)),
            false => drop(self.files.insert(path, known)),
        }
    }
}

/// Puts a scan that says all this and nothing else in the place of what is there. Returns how many bytes
/// were written.
pub(super) fn replace(
    path: &Path,
    root: Option<Root>,
    all: &[Noted],
) -> Result<u64, SnapshotError> {
    let beside: PathBuf = path.with_extension(NEW);
    let written = write(&beside, root, all);
    let replaced = written.and_then(|bytes| std::fs::rename(&beside, path).map(|()| bytes));
    if replaced.is_err() {
        // Of what could not be written nobody has any use.
        let _ = std::fs::remove_file(&beside);
    }
    Ok(replaced?)
}

/// Whether this has not taken the place of a scan yet.
fn is_new(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == NEW)
}

/// Forgets what is known of all sessions' files. Whoever writes it anew meanwhile gives it its name, and has to
/// forget it then.
pub(super) fn forget_all(scans: &Path) -> Result<(), SnapshotError> {
    for entry in std::fs::read_dir(scans)? {
        let path = entry?.path();
        if is_new(&path) {
            continue;
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Removes what was being written when a daemon ended in the middle of it.
pub(super) fn clear(scans: &Path) -> Result<(), SnapshotError> {
    for entry in std::fs::read_dir(scans)? {
        let path = entry?.path();
        if is_new(&path) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}

fn write(path: &Path, root: Option<Root>, all: &[Noted]) -> io::Result<u64> {
    let head = head(root, all);
    let parts = [&BEGIN[..], &head[..]].into_iter().chain(all.iter().map(|noted| &noted.0[..]));
    let (mut file, mut bytes) = (File::create(path)?, 0);
    for part in parts {
        file.write_all(part)?;
        bytes += part.len() as u64;
    }
    Ok(bytes)
}

/// What a block begins with that says all this, up to where it does.
fn head(root: Option<Root>, all: &[Noted]) -> Vec<u8> {
    let root = root.map_or([0; 32], |root| root.0);
    let (mut hasher, mut length) = (blake3::Hasher::new(), root.len());
    hasher.update(&root);
    for noted in all {
        hasher.update(&noted.0);
        length += noted.0.len();
    }
    let mut head = (length as u32).to_le_bytes().to_vec();
    head.extend(&hasher.finalize().as_bytes()[..HEAD - 4]);
    head.extend(root);
    head
}

/// The root that a block begins with.
fn root_in(block: &mut &[u8]) -> Result<Option<Root>, NotNode> {
    let root: [u8; 32] = node::fixed(block)?;
    Ok((root != [0; 32]).then_some(Root(root)))
}

/// The next block, and what comes behind it.
fn block(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let (head, rest) = rest.split_at_checked(HEAD)?;
    let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let (block, rest) = rest.split_at_checked(length.min(LARGEST))?;
    (blake3::hash(block).as_bytes()[..8] == head[4..]).then_some((block, rest))
}

impl Mark {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.mode.to_le_bytes());
        node::put_number(out, self.size);
        for (seconds, nanoseconds) in [self.modified, self.changed] {
            out.extend(seconds.to_le_bytes());
            out.extend(nanoseconds.to_le_bytes());
        }
        node::put_number(out, self.inode.0);
        node::put_number(out, self.inode.1);
    }

    fn decode(from: &mut &[u8]) -> Result<Mark, NotNode> {
        let mode = u16::from_le_bytes(node::fixed(from)?);
        let size = node::number(from)?;
        let mut time = || -> Result<(i64, u32), NotNode> {
            let seconds = i64::from_le_bytes(node::fixed(from)?);
            Ok((seconds, u32::from_le_bytes(node::fixed(from)?)))
        };
        let (modified, changed) = (time()?, time()?);
        let inode = (node::number(from)?, node::number(from)?);
        Ok(Mark { mode, size, modified, changed, inode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(n: u64) -> Known {
        let time = (n as i64 - 3, n as u32);
        let mark = Mark { mode: 0o644, size: n, modified: time, changed: time, inode: (1, n) };
        Known { mark, entry: vec![n as u8; n as usize].into() }
    }

    fn root(n: u8) -> Option<Root> {
        Some(Root([n; 32]))
    }

    #[test]
    fn what_is_appended_is_read_again_as_far_as_it_is_sound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scan");
        let new: Vec<_> = (1..9).map(|n| (vec![n as u8], known(n))).collect();
        let files = |new: &[(Vec<u8>, Known)]| -> Files {
            new.iter().map(|(path, known)| (path.clone().into(), known.clone())).collect()
        };
        let mut all = files(&new);
        Scan::load(&path).save(&path, root(1), new).unwrap();
        let first = Scan::load(&path);
        assert_eq!((&first.files, first.root), (&all, root(1)));

        let new = [(vec![3], known(30)), (b"a/b".to_vec(), known(5))];
        all.extend(files(&new));
        let written = Scan::load(&path).save(&path, root(2), new.to_vec()).unwrap();
        assert!(written < 300, "{written}");
        let second = Scan::load(&path);
        assert_eq!((&second.files, second.root), (&all, root(2)));
        assert_eq!(Scan::root_of(&path), root(2));

        // A torn block is as if it had never been written, and the next one takes its place.
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 1]).unwrap();
        let torn = Scan::load(&path);
        assert_eq!((&torn.files, torn.root), (&first.files, root(1)));
        assert_eq!(Scan::root_of(&path), root(1));
        torn.save(&path, root(2), new.to_vec()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_log_that_is_mostly_out_of_date_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scan");
        let new: Vec<_> = (0..1000).map(|n| (b"a".to_vec(), known(n % 3))).collect();
        for _ in 0..20 {
            Scan::load(&path).save(&path, root(1), new.clone()).unwrap();
        }
        let size = std::fs::metadata(&path).unwrap().len();
        assert!(size < 600_000, "{size}");
    }

    #[test]
    fn what_is_noted_in_parts_is_read_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scan");
        let mut parts: [Noted; 3] = Default::default();
        let mut all = Files::new();
        for n in 1..9 {
            let (name, known) = (vec![b'a'; 40 * n as usize], known(n));
            parts[n as usize % 2].add(&name, &known.mark, &known.entry);
            all.insert(name.into(), known);
        }
        let bytes = replace(&path, root(7), &parts).unwrap();
        let scan = Scan::load(&path);
        assert_eq!((&scan.files, scan.root, scan.sound), (&all, root(7), bytes));
        assert_eq!(Scan::decode(&scan.anew().into()).files, all);

        let mut less = Noted::default();
        let each = parts.iter().flat_map(Noted::each);
        each.filter(|(_, entry)| entry.len() != 5).for_each(|(noted, _)| less.add_as_it_is(noted));
        replace(&path, root(8), &[less]).unwrap();
        all.retain(|_, known| known.entry.len() != 5);
        assert_eq!(all.len(), 7);
        assert_eq!(Scan::load(&path).files, all);
    }

    #[test]
    fn what_is_no_scan_is_nothing() {
        for bytes in [&b""[..], b"ashscan1", b"ashscan1 but then", b"something else"] {
            let scan = Scan::decode(&Bytes::from_static(bytes));
            assert!(scan.files.is_empty() && scan.root.is_none());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("scan");
        assert_eq!(Scan::root_of(&path), None);
        replace(&path, None, &[]).unwrap();
        assert_eq!(Scan::root_of(&path), None);
    }
}
