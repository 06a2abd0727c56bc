//! Files that change while they are read.

use std::sync::Mutex;

use super::*;
use crate::snapshot::chunk::SIZES;
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
