//! Directories of many entries.

use super::*;
use crate::snapshot::chunk::ChunkId;
use crate::snapshot::node::{Entry, Leaves, What, of_leaves};
use crate::snapshot::vault::{Stash, put};
use crate::tree::dir::Attributes;

/// Entries of the directory.
const MANY: u32 = 20_000;

fn name_of(n: u32) -> Vec<u8> {
    format!("file-{n:05}").into_bytes()
}

/// A directory of many entries of which the last leaves are nowhere, and how many leaves it has.
fn directory(place: &Place) -> (ChunkId, usize) {
    let mut leaves = Leaves::default();
    for n in 0..MANY {
        let attributes = Attributes::default();
        let entry = Entry { mode: 0o644, modified: (n.into(), 0), attributes, what: What::Fifo };
        leaves.push(&name_of(n), &entry.encode());
    }
    let leaves = leaves.finish();
    let ids: Vec<ChunkId> = leaves.iter().map(|leaf| ChunkId::of(leaf)).collect();
    let stash = Mutex::new(Stash::new(&place.vault));
    let there = leaves.len() - leaves.len() / 4;
    for leaf in leaves.into_iter().take(there) {
        put(&stash, leaf).unwrap();
    }
    let node = put(&stash, of_leaves(&ids)).unwrap();
    stash.lock().unwrap().publish().unwrap();
    (node.id, ids.len())
}

#[test]
fn a_name_is_found_without_looking_at_all_of_them() {
    let place = Place::new();
    let (node, _) = directory(&place);
    for n in (0..MANY / 4).step_by(37) {
        let entry = place.vault.entry(node, &name_of(n)).unwrap().unwrap();
        assert_eq!(entry.modified.0, i64::from(n));
    }
    for absent in [&b""[..], b"a", b"file-00000-", b"file-04777x"] {
        assert_eq!(place.vault.entry(node, absent).unwrap(), None);
    }
    // Where it has to be is not there.
    let lost = place.vault.entry(node, &name_of(MANY - 1));
    assert!(matches!(lost, Err(SnapshotError::Damaged { .. })));
}

#[test]
fn leaves_are_read_when_it_comes_to_them() {
    let place = Place::new();
    let (node, all) = directory(&place);
    let mut leaves = place.vault.leaves(node).unwrap();
    let there: Vec<_> = leaves.by_ref().map_while(Result::ok).collect();
    assert_eq!(there.len(), all - all / 4);
    assert_eq!(there[0][0].0, name_of(0));
    assert!(there.concat().is_sorted_by(|(a, _), (b, _)| a < b));
}
