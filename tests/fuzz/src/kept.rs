//! What is kept of sessions. It lies where only root reaches it, but what is in it comes from
//! agents, and a disk can give back anything.

use std::path::Path;
use std::{fs, io};

use ashd::snapshot::parsers::{self, Node};
use tempfile::TempDir;

/// The most bytes of a chunk.
const LARGEST: usize = 4 * 1024 * 1024;

/// Bytes of what a pack begins with, of a row of its table, and of what is behind the table.
const BEGIN: usize = 8;
const ROW: usize = 41;
const TRAILER: usize = 4 + 32 + 8;

/// Bytes before a block of a scan: its length, and eight bytes of its hash.
const HEAD: usize = 12;

/// Any bytes as a directory and as a list of chunks. What is understood names no place but one in
/// this directory, and survives being written again.
pub fn node(bytes: &[u8]) {
    match parsers::node(bytes) {
        Some(Node::Leaf(entries)) => {
            let names: Vec<_> = entries.iter().map(|(name, _)| name).collect();
            assert!(names.is_sorted_by(|a, b| a < b), "sorted, and each once");
            assert!(names.iter().all(|name| is_plain(name)), "one part of a path");
            let again = parsers::leaves(&entries);
            let again = again.iter().flat_map(|leaf| match parsers::node(leaf) {
                Some(Node::Leaf(entries)) => entries,
                other => panic!("{other:?} was written as a leaf"),
            });
            assert_eq!(again.collect::<Vec<_>>(), entries);
        }
        Some(Node::Leaves(leaves)) => assert_eq!(leaves.concat(), bytes[1..]),
        None => {}
    }
    if let Some(again) = parsers::list(bytes) {
        assert_eq!(again, bytes);
    }
}

fn is_plain(name: &[u8]) -> bool {
    let bad = |byte: &u8| *byte == 0 || *byte == b'/';
    !name.is_empty() && name != b"." && name != b".." && !name.iter().any(bad)
}

/// The first byte says whether the rest is a chunk that was made smaller: it is brought back by the
/// name of what is in it, and by no other name or length.
pub fn chunk(data: &[u8]) {
    let Some((first, kept)) = data.split_first() else { return };
    let compressed = first & 1 == 1;
    let plain = match compressed {
        true => zstd::bulk::decompress(kept, LARGEST).ok(),
        false => Some(kept.to_vec()),
    };
    let name = *blake3::hash(plain.as_deref().unwrap_or(kept)).as_bytes();
    let length = plain.as_ref().map_or(kept.len(), Vec::len);
    assert_eq!(parsers::chunk(name, kept, compressed, length), plain);
    assert_eq!(parsers::chunk(name, kept, compressed, length + 1), None);
    assert_eq!(parsers::chunk(name, kept, compressed, length.wrapping_sub(1)), None);
    assert_eq!(parsers::chunk([0; 32], kept, compressed, length), None);
}

/// Any bytes as a pack, and again with the right hash of its table: chunks lie one behind the other
/// from the beginning to the table, and what is brought back is what its name says.
pub fn pack(bytes: &[u8]) {
    let dir = place().expect("a temporary directory");
    let path = dir.path().join("pack");
    look_into(&path, bytes);
    look_into(&path, &mended_pack(bytes));
}

/// In memory where that can be: what a disk takes for this is better spent on more packs.
fn place() -> io::Result<TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

fn look_into(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).expect("written");
    let Ok(chunks) = parsers::pack(path) else { return };
    let mut end = BEGIN as u64;
    for chunk in &chunks {
        let (offset, stored) = chunk.place;
        assert_eq!(offset, end, "one behind the other");
        end += u64::from(stored);
        let Some(content) = &chunk.content else { continue };
        assert_eq!(content.len(), chunk.length as usize);
        assert_eq!(*blake3::hash(content).as_bytes(), chunk.name);
    }
    assert_eq!(end, (bytes.len() - TRAILER - chunks.len() * ROW) as u64);
}

/// The pack with the right hash of its table and the right end: random changes would hardly ever
/// come any further without.
fn mended_pack(bytes: &[u8]) -> Vec<u8> {
    let mut pack = bytes.to_vec();
    let Some(end) = pack.len().checked_sub(TRAILER) else { return pack };
    let count = [pack[end], pack[end + 1], pack[end + 2], pack[end + 3]];
    let count = u32::from_le_bytes(count) as usize;
    let Some(begin) = end.checked_sub(count * ROW) else { return pack };
    let hash = blake3::hash(&pack[begin..end]);
    pack[end + 4..end + 36].copy_from_slice(hash.as_bytes());
    pack[end + 36..].copy_from_slice(b"ashpend1");
    pack
}

/// Any bytes as the record of what is known of a session's files, and again with lengths and hashes
/// that are right. What is read is what the sound part of it says, and survives being written anew.
pub fn scan(bytes: &[u8]) {
    for bytes in [bytes, &mended_scan(bytes)] {
        let (known, again) = parsers::scan(bytes);
        let sound = usize::try_from(known.sound).expect("not longer than what was read");
        assert_eq!(parsers::scan(&bytes[..sound]).0, known, "what is behind it says nothing");
        let (anew, _) = parsers::scan(&again);
        assert_eq!(
            (anew.root, anew.files, anew.sound),
            (known.root, known.files, again.len() as u64)
        );
    }
}

/// The record with blocks that are as long as they say, as far as there is something, and have
/// their hashes.
fn mended_scan(bytes: &[u8]) -> Vec<u8> {
    let mut scan = bytes.to_vec();
    let mut at = BEGIN;
    while let Some(head) = scan.get(at..at + HEAD) {
        let said = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let begin = at + HEAD;
        let length = said.min(scan.len() - begin);
        let hash = blake3::hash(&scan[begin..begin + length]);
        scan[at..at + 4].copy_from_slice(&(length as u32).to_le_bytes());
        scan[at + 4..begin].copy_from_slice(&hash.as_bytes()[..8]);
        at = begin + length;
    }
    scan
}
