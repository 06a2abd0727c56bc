//! The parsers of what lies on the disk, for those who try them with any bytes.
//!
//! They are parts of the store, not of its interface. Here they say what they make of bytes in words
//! that need none of the store's types, and write again what they have read.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use uuid::Uuid;

use super::SnapshotError;
use super::chunk::{self, ChunkId, Packed};
use super::node::{self, Entry};
use super::pack;
use super::scan::{self, Scan};
use crate::domain::Root;

/// A node that was read.
#[derive(Debug, Eq, PartialEq)]
pub enum Node {
    /// A leaf: names, each with its entry as it is written.
    Leaf(Vec<(Vec<u8>, Vec<u8>)>),
    /// The names of leaves.
    Leaves(Vec<[u8; 32]>),
}

/// Reads a node; `None` when it is none.
pub fn node(bytes: &[u8]) -> Option<Node> {
    Some(match node::Node::decode(bytes).ok()? {
        node::Node::Leaves(leaves) => Node::Leaves(leaves.iter().map(|leaf| leaf.0).collect()),
        node::Node::Leaf(entries) => {
            let written = |(name, entry): (Vec<u8>, Entry)| (name, entry.encode());
            Node::Leaf(entries.into_iter().map(written).collect())
        }
    })
}

/// Writes the leaves that these names and entries make.
pub fn leaves(entries: &[(Vec<u8>, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut leaves = node::Leaves::default();
    entries.iter().for_each(|(name, entry)| leaves.push(name, entry));
    leaves.finish()
}

/// Reads a list of chunks, and writes it again; `None` when it is none.
pub fn list(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut again = vec![];
    node::put_refs(&mut again, &node::all_refs(bytes).ok()?);
    Some(again)
}

/// Brings a chunk back from the bytes that are kept of it; `None` when they are not of the chunk of
/// this name and length.
pub fn chunk(name: [u8; 32], kept: &[u8], compressed: bool, length: usize) -> Option<Vec<u8>> {
    let packed = Packed { bytes: kept.to_vec(), compressed };
    chunk::unpack(ChunkId(name), packed, length).ok()
}

/// A chunk that the table of a pack names.
#[derive(Debug)]
pub struct InPack {
    /// Its name.
    pub name: [u8; 32],
    /// Where in the pack it begins, and how many bytes are kept of it.
    pub place: (u64, u32),
    /// How long it is.
    pub length: u32,
    /// What it is, when that is what was saved.
    pub content: Option<Vec<u8>>,
}

/// Reads a pack.
///
/// # Errors
/// [`SnapshotError::Damaged`] when it has no table that makes sense.
pub fn pack(path: &Path) -> Result<Vec<InPack>, SnapshotError> {
    let file = File::open(path)?;
    let rows = pack::read_table(&file, Uuid::nil())?;
    let found = |row: pack::Row| {
        let kept = pack::read(&file, &row)?;
        let content = chunk::unpack(row.id, kept, row.length as usize).ok();
        let place = (row.offset, row.stored);
        Ok(InPack { name: row.id.0, place, length: row.length, content })
    };
    rows.into_iter().map(found).collect()
}

/// A record of what is known of a session's files.
#[derive(Debug, Eq, PartialEq)]
pub struct Known {
    /// The root that it is for.
    pub root: Option<Root>,
    /// By path: what was stored, and its marks, as they are written.
    pub files: BTreeMap<Vec<u8>, Vec<u8>>,
    /// How many bytes of it are sound.
    pub sound: u64,
}

/// Reads such a record, as far as it is sound, and writes it anew.
pub fn scan(bytes: &[u8]) -> (Known, Vec<u8>) {
    let scan = Scan::decode(&Bytes::copy_from_slice(bytes));
    let again = scan.anew();
    let file = |(path, known): (&Bytes, &scan::Known)| {
        let mut written = vec![];
        known.encode(&mut written);
        (path.to_vec(), written)
    };
    let files = scan.files.iter().map(file).collect();
    (Known { root: scan.root, files, sound: scan.sound }, again)
}
