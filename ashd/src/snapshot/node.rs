//! Nodes: what a directory holds, as bytes.
//!
//! A directory is a list of entries, sorted by name. Nothing in it belongs to one machine: no
//! inode, no owner, no time of change. So equal directories are equal nodes, wherever they lie. The
//! list is cut into leaves at places that names decide: one changed entry changes one leaf, also
//! in a directory of many. A directory of one leaf is that leaf; of more, the list of them.

use super::chunk::{ChunkId, ChunkRef, LARGEST};
use crate::tree::dir::{Attributes, FileTime};

/// The most bytes of a leaf's entries after which it ends in any case.
const LEAF: usize = 64 * 1024;

/// How many entries a leaf has about: a power of two.
const ENTRIES: u32 = 128;

/// The most bytes of a name, as the kernel has it.
const LONGEST_NAME: usize = 255;

/// Bytes that are no node.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("it is no directory of a snapshot")]
pub(super) struct NotNode;

/// One entry of a directory, without its name.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Entry {
    /// Permission bits, with set-id and sticky bits.
    pub(super) mode: u16,
    /// Time of the newest change of the content.
    pub(super) modified: FileTime,
    /// Extended attributes.
    pub(super) attributes: Attributes,
    /// What it is.
    pub(super) what: What,
}

/// What an entry is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum What {
    /// A regular file.
    File(Content),
    /// A directory: its node.
    Dir(ChunkId),
    /// A symbolic link: what it says.
    Link(Vec<u8>),
    /// A FIFO.
    Fifo,
}

/// The content of a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Content {
    /// Bytes, holes included.
    pub(super) size: u64,
    /// Names of one file have the same group.
    pub(super) group: Option<[u8; 8]>,
    /// Where it has data, in order.
    pub(super) extents: Vec<Extent>,
}

/// A stretch of data in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Extent {
    /// Where it begins.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) data: Data,
}

/// The chunks of a stretch of data.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Data {
    /// These.
    Inline(Vec<ChunkRef>),
    /// Those that these chunks list.
    Listed(Vec<ChunkRef>),
}

/// Bytes of memory that an attribute takes beside its own, about.
pub(super) const ATTRIBUTE: usize = 64;

/// Bytes of an entry's mode and time.
const STAMP: usize = 2 + 8 + 4;

const FILE: u8 = 0;
const DIR: u8 = 1;
const LINK: u8 = 2;
const FIFO: u8 = 3;
const GROUPED: u8 = 0x10;
const ATTRIBUTED: u8 = 0x20;
const CURTAILED: u8 = 0x40;

const SINGLE: u8 = 0;
const LEAVES: u8 = 1;

impl Entry {
    /// The entry as bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        let (mut tag, group) = match &self.what {
            What::File(content) => (FILE, content.group),
            What::Dir(_) => (DIR, None),
            What::Link(_) => (LINK, None),
            What::Fifo => (FIFO, None),
        };
        tag |= if group.is_some() { GROUPED } else { 0 };
        let Attributes { all, more } = &self.attributes;
        tag |= if all.is_empty() { 0 } else { ATTRIBUTED };
        tag |= if *more { CURTAILED } else { 0 };
        out.push(tag);
        out.extend(self.mode.to_le_bytes());
        out.extend(self.modified.0.to_le_bytes());
        out.extend(self.modified.1.to_le_bytes());
        if !all.is_empty() {
            put_number(&mut out, all.len() as u64);
            for (name, value) in all {
                put_bytes(&mut out, name);
                put_bytes(&mut out, value);
            }
        }
        match &self.what {
            What::File(content) => content.encode(&mut out),
            What::Dir(node) => out.extend(node.0),
            What::Link(target) => put_bytes(&mut out, target),
            What::Fifo => {}
        }
        out
    }

    /// Reads an entry from the front of bytes.
    pub(super) fn decode(from: &mut &[u8]) -> Result<Entry, NotNode> {
        let tag = byte(from)?;
        let mode = u16::from_le_bytes(fixed(from)?);
        let modified = (i64::from_le_bytes(fixed(from)?), u32::from_le_bytes(fixed(from)?));
        let mut attributes = Attributes { all: vec![], more: tag & CURTAILED != 0 };
        if tag & ATTRIBUTED != 0 {
            for _ in 0..number(from)? {
                attributes.all.push((bytes(from)?.to_vec(), bytes(from)?.to_vec()));
            }
        }
        let what = match tag & 0x0f {
            FILE => What::File(Content::decode(from, tag & GROUPED != 0)?),
            DIR => What::Dir(ChunkId(fixed(from)?)),
            LINK => What::Link(bytes(from)?.to_vec()),
            FIFO => What::Fifo,
            _ => return Err(NotNode),
        };
        if mode > 0o7777 || modified.1 >= 1_000_000_000 {
            return Err(NotNode);
        }
        Ok(Entry { mode, modified, attributes, what })
    }
}

impl Content {
    fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, self.size);
        out.extend(self.group.iter().flatten());
        put_number(out, self.extents.len() as u64);
        for extent in &self.extents {
            put_number(out, extent.offset);
            let (kind, chunks) = match &extent.data {
                Data::Inline(chunks) => (0, chunks),
                Data::Listed(lists) => (1, lists),
            };
            out.push(kind);
            put_number(out, chunks.len() as u64);
            put_refs(out, chunks);
        }
    }

    fn decode(from: &mut &[u8], grouped: bool) -> Result<Content, NotNode> {
        let size = number(from)?;
        let group = if grouped { Some(fixed(from)?) } else { None };
        let mut extents = vec![];
        for _ in 0..number(from)? {
            let offset = number(from)?;
            let listed = byte(from)?;
            let count = number(from)?;
            let chunks = refs(from, count)?;
            let data = match listed {
                0 => Data::Inline(chunks),
                1 => Data::Listed(chunks),
                _ => return Err(NotNode),
            };
            extents.push(Extent { offset, data });
        }
        Ok(Content { size, group, extents })
    }
}

/// Whether an entry, encoded, has less attributes than what it was made of.
pub(super) fn is_curtailed(entry: &[u8]) -> bool {
    entry.first().is_some_and(|tag| tag & CURTAILED != 0)
}

/// Bytes of memory that an entry, encoded, takes when it is read, about: of attributes there can be
/// many, of a few bytes each.
pub(super) fn weight(entry: &[u8]) -> usize {
    let attributes = match entry.split_first() {
        Some((tag, rest)) if tag & ATTRIBUTED != 0 => {
            rest.get(STAMP..).and_then(|mut rest| number(&mut rest).ok())
        }
        _ => None,
    };
    let attributes = usize::try_from(attributes.unwrap_or(0)).unwrap_or(usize::MAX);
    entry.len().saturating_add(attributes.saturating_mul(ATTRIBUTE))
}

/// Chunk references as bytes, 36 for each.
pub(super) fn put_refs(out: &mut Vec<u8>, chunks: &[ChunkRef]) {
    for chunk in chunks {
        out.extend(chunk.id.0);
        out.extend(chunk.length.to_le_bytes());
    }
}

/// Reads a whole list of chunk references.
pub(super) fn all_refs(mut list: &[u8]) -> Result<Vec<ChunkRef>, NotNode> {
    let mut chunks = Vec::with_capacity(list.len() / 36);
    while !list.is_empty() {
        chunks.extend(refs(&mut list, 1)?);
    }
    Ok(chunks)
}

fn refs(from: &mut &[u8], count: u64) -> Result<Vec<ChunkRef>, NotNode> {
    // Memory is made for what is there, not for what is announced.
    let mut chunks = Vec::with_capacity(count.min(from.len() as u64 / 36) as usize);
    for _ in 0..count {
        let id = ChunkId(fixed(from)?);
        let length = u32::from_le_bytes(fixed(from)?);
        if length as usize > LARGEST {
            return Err(NotNode);
        }
        chunks.push(ChunkRef { id, length });
    }
    Ok(chunks)
}

/// Puts the leaves of a directory together, entry by entry.
#[derive(Default)]
pub(super) struct Leaves {
    done: Vec<Vec<u8>>,
    open: Vec<u8>,
    entries: u32,
}

impl Leaves {
    /// Adds the next entry. Names come in order.
    pub(super) fn push(&mut self, name: &[u8], entry: &[u8]) {
        if self.open.is_empty() {
            self.open.push(SINGLE);
        }
        put_bytes(&mut self.open, name);
        self.open.extend(entry);
        self.entries += 1;
        if ends_leaf(name) || self.open.len() > LEAF {
            self.done.push(std::mem::take(&mut self.open));
        }
    }

    /// Every leaf. A directory without entries has one as well.
    pub(super) fn finish(mut self) -> Vec<Vec<u8>> {
        if !self.open.is_empty() || self.done.is_empty() {
            if self.open.is_empty() {
                self.open.push(SINGLE);
            }
            self.done.push(self.open);
        }
        self.done
    }
}

/// Whether a leaf ends behind this name. By nothing but the name, so that it is the same however
/// the directory came about. FNV-1a, 32 bits.
fn ends_leaf(name: &[u8]) -> bool {
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let hash = name.iter().fold(0x811c_9dc5, step);
    (hash ^ (hash >> 15)) % ENTRIES == 0
}

/// The node of a directory of more than one leaf.
pub(super) fn of_leaves(leaves: &[ChunkId]) -> Vec<u8> {
    let mut out = vec![LEAVES];
    out.extend(leaves.iter().flat_map(|leaf| leaf.0));
    out
}

/// What a node is.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Node {
    /// A leaf: names and entries, sorted by name.
    Leaf(Vec<(Vec<u8>, Entry)>),
    /// The leaves of a directory, in order.
    Leaves(Vec<ChunkId>),
}

impl Node {
    /// Reads a node. Every name is one part of a path.
    pub(super) fn decode(node: &[u8]) -> Result<Node, NotNode> {
        if let Some(rows) = rows(node) {
            let owned = |row: Row<'_>| (row.name.to_vec(), row.entry);
            return Ok(Node::Leaf(rows.map(|row| row.map(owned)).collect::<Result<_, _>>()?));
        }
        let mut rest = node;
        match byte(&mut rest)? {
            LEAVES if rest.len().is_multiple_of(32) => {
                let mut leaves = vec![];
                while !rest.is_empty() {
                    leaves.push(ChunkId(fixed(&mut rest)?));
                }
                Ok(Node::Leaves(leaves))
            }
            _ => Err(NotNode),
        }
    }
}

/// An entry of a leaf.
pub(super) struct Row<'a> {
    pub(super) name: &'a [u8],
    pub(super) entry: Entry,
    /// The entry as it stands there.
    pub(super) encoded: &'a [u8],
}

impl<'a> Row<'a> {
    /// Reads one from the front of bytes.
    pub(super) fn decode(from: &mut &'a [u8]) -> Result<Row<'a>, NotNode> {
        let name = bytes(from)?;
        let behind = *from;
        let entry = Entry::decode(from)?;
        Ok(Row { name, entry, encoded: &behind[..behind.len() - from.len()] })
    }

    /// Writes it as it stands in a leaf.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.name);
        out.extend(self.encoded);
    }
}

/// The entries of a leaf, one after the other, up to one that makes no sense. Names are in order, and
/// every one is one part of a path.
pub(super) struct Rows<'a> {
    rest: &'a [u8],
    last: Option<&'a [u8]>,
}

/// The entries of a node that is a leaf; `None` when it is none.
pub(super) fn rows(node: &[u8]) -> Option<Rows<'_>> {
    match node.split_first() {
        Some((&SINGLE, rest)) => Some(Rows { rest, last: None }),
        _ => None,
    }
}

impl<'a> Iterator for Rows<'a> {
    type Item = Result<Row<'a>, NotNode>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let last = self.last;
        let fits = |row: &Row<'_>| last.is_none_or(|last| last < row.name) && is_name(row.name);
        match Row::decode(&mut self.rest) {
            Ok(row) if fits(&row) => {
                self.last = Some(row.name);
                Some(Ok(row))
            }
            _ => {
                self.rest = &[];
                Some(Err(NotNode))
            }
        }
    }
}

fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..")
        && name.len() <= LONGEST_NAME
        && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend(bytes);
}

fn byte(from: &mut &[u8]) -> Result<u8, NotNode> {
    let (first, rest) = from.split_first().ok_or(NotNode)?;
    *from = rest;
    Ok(*first)
}

pub(super) fn fixed<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], NotNode> {
    let (first, rest) = from.split_first_chunk().ok_or(NotNode)?;
    *from = rest;
    Ok(*first)
}

/// A number in LEB128.
pub(super) fn number(from: &mut &[u8]) -> Result<u64, NotNode> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let next = byte(from)?;
        let bits = u64::from(next & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(NotNode);
        }
        number |= bits << shift;
        if next & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(NotNode)
}

pub(super) fn bytes<'a>(from: &mut &'a [u8]) -> Result<&'a [u8], NotNode> {
    let length = usize::try_from(number(from)?).map_err(|_| NotNode)?;
    let (first, rest) = from.split_at_checked(length).ok_or(NotNode)?;
    *from = rest;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn chunk() -> impl Strategy<Value = ChunkRef> {
        (any::<[u8; 32]>(), 0..1_000_000u32)
            .prop_map(|(id, length)| ChunkRef { id: ChunkId(id), length })
    }

    fn content() -> impl Strategy<Value = Content> {
        let chunks = proptest::collection::vec(chunk(), 0..4);
        let data = (chunks, any::<bool>()).prop_map(|(chunks, listed)| match listed {
            true => Data::Listed(chunks),
            false => Data::Inline(chunks),
        });
        let extent = (any::<u64>(), data).prop_map(|(offset, data)| Extent { offset, data });
        (any::<u64>(), any::<Option<[u8; 8]>>(), proptest::collection::vec(extent, 0..4))
            .prop_map(|(size, group, extents)| Content { size, group, extents })
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let text = || proptest::collection::vec(any::<u8>(), 0..40);
        let what = prop_oneof![
            content().prop_map(What::File),
            any::<[u8; 32]>().prop_map(|id| What::Dir(ChunkId(id))),
            text().prop_map(What::Link),
            Just(What::Fifo),
        ];
        let all = proptest::collection::vec((text(), text()), 0..3);
        let attributes = (all, any::<bool>()).prop_map(|(all, more)| Attributes { all, more });
        (0..0o10000u16, any::<i64>(), 0..1_000_000_000u32, attributes, what).prop_map(
            |(mode, seconds, nanoseconds, attributes, what)| Entry {
                mode,
                modified: (seconds, nanoseconds),
                attributes,
                what,
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn entries_come_back(entry in entry()) {
            let bytes = entry.encode();
            let mut rest = &bytes[..];
            prop_assert_eq!(is_curtailed(&bytes), entry.attributes.more);
            let beside = entry.attributes.all.len() * ATTRIBUTE;
            prop_assert_eq!(weight(&bytes), bytes.len() + beside);
            prop_assert_eq!(Entry::decode(&mut rest), Ok(entry));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn directories_come_back(
            entries in proptest::collection::btree_map("[a-z\u{7f}\n]{1,8}", entry(), 0..300),
        ) {
            let mut leaves = Leaves::default();
            for (name, entry) in &entries {
                leaves.push(name.as_bytes(), &entry.encode());
            }
            let mut found = vec![];
            for leaf in leaves.finish() {
                let mut again = vec![SINGLE];
                for row in rows(&leaf).unwrap() {
                    let row = row.unwrap();
                    prop_assert_eq!(row.encoded, row.entry.encode());
                    row.put(&mut again);
                }
                prop_assert_eq!(&again, &leaf);
                let Node::Leaf(entries) = Node::decode(&leaf).unwrap() else { panic!() };
                found.extend(entries);
            }
            let expected: Vec<_> =
                entries.into_iter().map(|(name, entry)| (name.into_bytes(), entry)).collect();
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn anything_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Node::decode(&bytes);
            let _ = all_refs(&bytes);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let entry = Entry {
            mode: 0,
            modified: (0, 0),
            attributes: Attributes::default(),
            what: What::Fifo,
        };
        for bad in [&b".."[..], b".", b"", b"a/b", b"a\0", &[b'x'; 256]] {
            let mut leaves = Leaves::default();
            leaves.push(bad, &entry.encode());
            assert_eq!(Node::decode(&leaves.finish()[0]), Err(NotNode), "{bad:?}");
        }
        // What is behind something that makes no sense is not looked at.
        let all: [[&[u8]; 3]; 3] = [[b"a", b"..", b"b"], [b"a", b"a", b"b"], [b"b", b"a", b"c"]];
        for names in all {
            let mut leaves = Leaves::default();
            names.iter().for_each(|name| leaves.push(name, &entry.encode()));
            let leaf = &leaves.finish()[0];
            let read: Vec<_> = rows(leaf).unwrap().map(|row| row.is_ok()).collect();
            assert_eq!(read, [true, false], "{names:?}");
        }
    }

    #[test]
    fn one_entry_more_changes_one_leaf() {
        let attributes = Attributes::default();
        let entry = Entry { mode: 0o644, modified: (1, 2), attributes, what: What::Fifo };
        let leaves = |skip: u32| {
            let mut leaves = Leaves::default();
            for n in (0..20_000u32).filter(|n| *n != skip) {
                leaves.push(format!("file-{n:05}").as_bytes(), &entry.encode());
            }
            leaves.finish()
        };
        let (before, after) = (leaves(u32::MAX), leaves(7_777));
        let new = after.iter().filter(|leaf| !before.contains(leaf)).count();
        assert!(before.len() > 50 && new == 1, "{new} of {}", before.len());
    }
}
