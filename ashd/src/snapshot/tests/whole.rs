//! What is in a point comes back, all of it.

use std::os::unix::net::UnixListener;

use super::*;

#[test]
fn everything_comes_back() {
    let place = Place::new();
    furnish(&place.workspace());
    rustix::fs::setxattr(
        place.workspace().join("tool"),
        "user.note",
        b"mine",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let cut = place.cut();
    let back = place.restore(cut.root, "back");
    assert_same(&place.live(), &back);
    assert_eq!(cut.left_out.count, 0);
    let sparse = fs::metadata(back.join("workspace/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1_000_000, "holes are holes");
    let mut note = [0; 8];
    let length = rustix::fs::getxattr(back.join("workspace/tool"), "user.note", &mut note[..]);
    assert_eq!(&note[..length.unwrap()], b"mine");
    place.vault.check(cut.root, true).unwrap();
    // The same from the live tree.
    let given = place.try_restore(cut.root, "given", true).unwrap();
    assert_same(&place.live(), &given);
}

/// Directories beneath one.
fn dirs(path: &Path) -> usize {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    let found = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    found.map(|dir| 1 + dirs(&dir.path())).sum()
}

#[test]
fn it_is_told_once_that_all_is_made_but_files() {
    let place = Place::new();
    furnish(&place.workspace());
    let (root, built) = (place.cut().root, place.dir.path().join("back"));
    let told = Mutex::new(vec![]);
    let filled = || told.lock().unwrap().push(dirs(&built));
    let plain = Restoring::new(SessionId::random(), (place.dir.path(), "back"), &NEVER);
    place.vault.restore(root, &Restoring { filled: Some(&filled), ..plain }).unwrap();
    assert_eq!(told.into_inner().unwrap(), [dirs(&place.live())]);
}

#[test]
fn what_cannot_be_kept_is_said() {
    let place = Place::new();
    let _socket = UnixListener::bind(place.workspace().join("socket")).unwrap();
    let mut deep = place.workspace();
    for _ in 0..600 {
        deep.push("d");
    }
    // Deeper than a path can be named at once.
    fs::create_dir_all(&deep).unwrap();
    let cut = place.cut();
    assert_eq!((cut.left_out.count, cut.left_out.sockets), (2, 1), "{}", cut.left_out);
    assert!(cut.left_out.to_string().contains("workspace/socket (a socket)"));
    place.restore(cut.root, "back");
}

#[test]
fn a_file_that_reads_like_a_directory_hides_nothing() {
    let place = Place::new();
    fs::create_dir(place.workspace().join("dir")).unwrap();
    fs::write(place.workspace().join("dir/large"), noise(1, 3_000_000)).unwrap();
    let first = place.cut().root;
    let dir = node_of(&place.vault, first, &["workspace", "dir"]);
    let entry = place.vault.entry(dir, b"large").unwrap().unwrap();
    let node::What::File(content) = entry.what else { panic!("{entry:?}") };
    let node::Data::Listed(lists) = &content.extents[0].data else { panic!("{content:?}") };
    // They come before the directory, and are the same chunks as it and its file's list.
    fs::write(place.workspace().join("a"), place.vault.chunk(dir).unwrap()).unwrap();
    fs::write(place.workspace().join("b"), place.vault.chunk(lists[0].id).unwrap()).unwrap();
    let second = place.cut().root;
    place.collect(&[second]);
    assert_same(&place.live(), &place.restore(second, "back"));
}

#[test]
fn names_of_different_files_are_told_apart_when_directories_move() {
    let place = Place::new();
    let at = |path: &str| place.workspace().join(path);
    for dir in ["d", "e"] {
        fs::create_dir(at(dir)).unwrap();
    }
    fs::write(at("d/a"), "one").unwrap();
    fs::hard_link(at("d/a"), at("e/b")).unwrap();
    // Until times tell that nothing has changed since.
    while place.cut().held {}
    // The file keeps its second name, and its times; its first name is another file's now.
    fs::rename(at("d"), at("f")).unwrap();
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/a"), "two").unwrap();
    fs::hard_link(at("d/a"), at("d/c")).unwrap();
    let cut = place.cut();
    let back = place.restore(cut.root, "back");
    assert_same(&place.live(), &back);
    let inode = |path: &str| fs::metadata(back.join("workspace").join(path)).unwrap().ino();
    assert_eq!(inode("e/b"), inode("f/a"));
    assert_eq!(inode("d/a"), inode("d/c"));
    assert_ne!(inode("d/a"), inode("e/b"));
}

#[test]
fn a_point_can_be_looked_into() {
    let place = Place::new();
    furnish(&place.workspace());
    let browser = place.vault.browse(place.cut().root);
    let names = |path: &[u8]| -> Option<Vec<String>> {
        let listed = browser.list(path).unwrap()?.map(Result::unwrap);
        Some(listed.map(|entry| String::from_utf8_lossy(&entry.name).into()).collect())
    };
    assert_eq!(names(b"").unwrap(), ["home", "workspace"]);
    assert_eq!(names(b"workspace/a").unwrap(), ["b", "large too"]);
    assert_eq!((names(b"workspace/tool"), names(b"nowhere")), (None, None));
    assert_eq!(browser.find(b"workspace/abs").unwrap().unwrap().target, b"/etc/passwd");
    let large = browser.open(b"workspace/large").unwrap().unwrap();
    let whole = noise(1, 3_000_000);
    for (offset, length) in [(0, 10), (65_000, 300_000), (2_999_990, 100), (3_000_000, 1)] {
        let mut buffer = vec![1; length];
        let read = large.read_at(&mut buffer, offset as u64).unwrap();
        let end = (offset + length).min(whole.len());
        assert_eq!(buffer[..read], whole[offset..end]);
    }
    let sparse = browser.open(b"workspace/sparse").unwrap().unwrap();
    let mut buffer = [1; 15];
    assert_eq!(sparse.read_at(&mut buffer, 39_999_999).unwrap(), 15);
    assert_eq!(&buffer, b"\0in the middle\0");
    assert!(browser.open(b"workspace/up").unwrap().is_none());
}
