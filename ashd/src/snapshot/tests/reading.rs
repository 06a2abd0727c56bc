//! Files that change while they are read.

use std::sync::Mutex;

use ash_sys::lease::Lease;

use super::*;
use crate::snapshot::chunk::{ChunkId, SIZES};
use crate::snapshot::read::{Source, content};
use crate::snapshot::vault::Stash;
use crate::tree::dir::stat_of;

#[test]
fn a_removed_file_is_not_read_to_its_end() {
    let place = Place::new();
    let path = place.workspace().join("large");
    fs::write(&path, vec![7; 40 * SIZES.2 as usize]).unwrap();
    let file = File::open(&path).unwrap();
    let stat = stat_of(&file).unwrap();
    let source = Source { file: &file, stat: &stat, group: None, path: b"large" };
    let stash = Mutex::new(Stash::new(&place.vault));
    assert!(content(&source, &stash, &NEVER).unwrap().is_some());

    fs::remove_file(&path).unwrap();
    assert!(content(&source, &stash, &NEVER).unwrap().is_none());
}

#[test]
fn a_file_on_which_somebody_has_a_lease_is_named_and_not_waited_for() {
    let place = Place::new();
    let path = place.workspace().join("leased");
    fs::write(&path, "hello").unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let Ok(lease) = Lease::take(&file) else {
        println!("SKIP: the file system of {} gives no leases", place.dir.path().display());
        return;
    };
    let refused = place.try_cut(&nobody).err().unwrap();
    assert!(matches!(refused, SnapshotError::Held(path) if path == "workspace/leased"));
    drop(lease);
    assert_same(&place.live(), &place.restore(place.cut().root, "back"));
}

#[test]
fn no_more_of_a_directory_is_read_than_is_wanted() {
    let place = Place::new();
    for n in 0..3_000 {
        fs::write(place.workspace().join(format!("{n:04}")), "").unwrap();
    }
    let root = place.cut().root;
    let dir = node_of(&place.vault, root, &["workspace"]);
    let node::Node::Leaves(leaves) = place.vault.node(dir).unwrap() else { panic!("one leaf") };
    // As if it were lost.
    place.vault.index().disown(*leaves.last().unwrap()).unwrap();
    let browser = place.vault.browse(root);
    let list = || browser.list(b"workspace").unwrap().unwrap();
    let names = list().take(3).map(|entry| entry.unwrap().name);
    assert_eq!(names.collect::<Vec<_>>(), [b"0000", b"0001", b"0002"]);
    assert!(list().any(|entry| matches!(entry, Err(SnapshotError::Damaged { .. }))));
    let workspace = browser.find(b"workspace").unwrap().unwrap();
    assert!(browser.children(&workspace).unwrap().take(3).all(|entry| entry.is_ok()));
}

#[test]
fn what_is_moved_while_it_is_read_is_found_again() {
    let place = Place::new();
    // In a pack most of which is needed no more.
    fs::write(place.workspace().join("gone"), noise(1, 2_000_000)).unwrap();
    fs::write(place.workspace().join("kept"), noise(2, 10_000)).unwrap();
    drop(place.cut());
    fs::remove_file(place.workspace().join("gone")).unwrap();
    let root = place.cut().root;
    let id = ChunkId::of(&noise(2, 10_000));
    let find = || place.vault.index().find(id).unwrap();
    let before = find();
    place.collect(&[root]);
    assert_ne!(find(), before);
    assert_eq!(place.vault.chunk_from(id, before).unwrap(), noise(2, 10_000));
    // What is nowhere is missing, wherever it was.
    let nowhere = place.vault.chunk_from(ChunkId([7; 32]), before);
    assert!(matches!(nowhere, Err(SnapshotError::Damaged { .. })));
}
