//! More than a point has.

use super::*;

fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
}

#[test]
fn attributes_that_are_too_many_are_left_out_and_said() {
    let place = Place::new();
    let (file, dir) = (place.workspace().join("file"), place.workspace().join("dir"));
    fs::write(&file, "kept").unwrap();
    fs::create_dir(&dir).unwrap();
    for path in [&file, &dir, &place.workspace()] {
        if !set(path, "user.a", b"kept") || !set(path, "user.b", &[7; 1000]) {
            println!("SKIP: the file system of {} has no attributes", path.display());
            return;
        }
    }
    let limits = Limits { attributes: 500, ..Limits::default() };
    // Also when nothing is read any more.
    loop {
        let cut = place.cut_within(limits).unwrap();
        assert_eq!(cut.left_out.count, 3, "{}", cut.left_out);
        assert!(cut.left_out.to_string().contains("workspace/file (some of its attributes)"));
        if !cut.held {
            let back = place.restore(cut.root, "back");
            assert_same(&place.live(), &back);
            let mut value = [0; 9];
            for path in ["workspace/file", "workspace/dir", "workspace"] {
                let mut get = |name| rustix::fs::getxattr(back.join(path), name, &mut value[..]);
                assert_eq!((get("user.a").unwrap(), get("user.b").is_ok()), (4, false), "{path}");
            }
            return;
        }
    }
}

#[test]
fn many_attributes_of_a_few_bytes_count_for_what_they_take() {
    for is_dir in [true, false] {
        let place = Place::new();
        for n in 0..10 {
            let path = place.workspace().join(n.to_string());
            let made = if is_dir { fs::create_dir(&path) } else { fs::write(&path, "") };
            made.unwrap();
            if !(10..50).all(|n| set(&path, &format!("user.{n}"), b"1")) {
                println!("SKIP: the file system of {} has no attributes", path.display());
                return;
            }
        }
        // Enough for all that they say, four times, and not for what they take.
        let limits = Limits { bytes: 20_000, ..Limits::default() };
        let refused = || place.cut_within(limits).err().unwrap();
        assert!(matches!(refused(), SnapshotError::TooLong(_)), "{}", refused());
        while place.cut_within(Limits::default()).unwrap().held {}
        // Also when they are known.
        assert!(matches!(refused(), SnapshotError::TooLong(_)), "{}", refused());
    }
}

#[test]
fn more_entries_than_a_point_can_have_are_refused_until_there_are_less() {
    let place = Place::new();
    let many = place.workspace().join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..60 {
        fs::write(many.join(n.to_string()), "").unwrap();
    }
    fs::write(place.workspace().join("kept"), "kept").unwrap();
    settle(&place.workspace());
    // What is looked at twice is counted once.
    let limits = |entries| Limits { entries, ..Limits::default() };
    let cut = place.cut_within(limits(62)).unwrap();
    assert_eq!(cut.files, 62);
    for _ in 0..3 {
        let refused = place.cut_within(limits(61)).err().unwrap();
        assert!(matches!(refused, SnapshotError::TooMany(61)), "{refused}");
    }
    // Also when they come too late for the first look.
    let late = |_| {
        for n in 60..90 {
            fs::write(many.join(n.to_string()), "").unwrap();
        }
        true
    };
    let limits = limits(70);
    let refused = place.cut_as((&NEVER, limits), &nobody, &late).err().unwrap();
    assert!(matches!(refused, SnapshotError::TooMany(70)), "{refused}");
    fs::remove_dir_all(&many).unwrap();
    let cut = place.cut_within(limits).unwrap();
    assert_same(&place.live(), &place.restore(cut.root, "back"));
}

#[test]
fn what_cuts_that_fail_have_read_does_not_add_up() {
    let place = Place::new();
    let scan = place.store().join("scans").join(place.session.to_string());
    // Enough for all paths, and for half of what is read.
    let limits = Limits { entries: 100, bytes: 1_700, ..Limits::default() };
    for round in 0..20 {
        let dir = place.workspace().join("dir");
        fs::create_dir(&dir).unwrap();
        for n in 0..60 {
            fs::write(dir.join(format!("{round:02}-{n:02}")), "").unwrap();
        }
        // Until their times tell, so that what is read is kept.
        let changed = fs::metadata(&dir).unwrap().modified().unwrap();
        while changed.elapsed().unwrap_or_default() <= crate::tree::dir::TICK {
            std::thread::yield_now();
        }
        let refused = place.cut_within(limits).err().unwrap();
        assert!(matches!(refused, SnapshotError::TooLong(_)), "{refused}");
        fs::remove_dir_all(&dir).unwrap();
    }
    let size = fs::metadata(&scan).unwrap().len();
    assert!(size < 100 * 120, "{size}");
}

#[test]
fn more_than_can_be_noted_of_files_is_refused() {
    let place = Place::new();
    let limits = Limits { bytes: 20_000, ..Limits::default() };
    place.cut_within(limits).unwrap();
    let too_long = |what: &str| {
        let refused = place.cut_within(limits).err().unwrap();
        assert!(matches!(refused, SnapshotError::TooLong(_)), "{what}: {refused}");
    };
    for n in 0..10 {
        symlink("t".repeat(4000), place.workspace().join(n.to_string())).unwrap();
    }
    too_long("links");
    for n in 0..10 {
        fs::remove_file(place.workspace().join(n.to_string())).unwrap();
    }
    place.cut_within(limits).unwrap();
    let mut deep = place.workspace();
    for _ in 0..15 {
        deep.push("d".repeat(200));
    }
    fs::create_dir_all(&deep).unwrap();
    too_long("paths");
    fs::remove_dir_all(place.workspace().join("d".repeat(200))).unwrap();
    let cut = place.cut_within(limits).unwrap();
    assert_same(&place.live(), &place.restore(cut.root, "back"));
}
