//! What is written, and what is there already.

use super::*;

#[test]
fn what_has_not_changed_is_not_written_again() {
    let place = Place::new();
    for n in 0..300 {
        let dir = place.workspace().join(format!("d{}", n % 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), noise(n, 5_000)).unwrap();
    }
    settle(&place.workspace());
    let first = place.cut();
    assert!(first.written > 1_000_000, "{}", first.written);
    let again = place.cut();
    assert_eq!(again.root, first.root);
    // Everything is younger than its times tell, so it may be read again, and the scan grows once.
    let third = place.cut();
    assert_eq!(third.root, first.root);
    fs::write(place.workspace().join("d7/f7"), noise(1_000, 5_000)).unwrap();
    let changed = place.cut();
    assert!(changed.root != first.root);
    assert!(changed.written < 5_000 + 64 * 1024, "{}", changed.written);
    // Another session with the same files finds them there.
    let other = Place { session: SessionId::random(), vault: place.vault.clone(), ..Place::new() };
    let copied = place.restore(changed.root, "other");
    fs::remove_dir_all(other.live()).unwrap();
    fs::rename(copied, other.live()).unwrap();
    let theirs = other.cut();
    assert_eq!(theirs.root, changed.root);
    assert_eq!(theirs.files, changed.files);
}

#[test]
fn one_of_many_entries_writes_little() {
    let place = Place::new();
    for n in 0..6_000 {
        fs::write(place.workspace().join(format!("file-{n:05}")), format!("{n}")).unwrap();
    }
    // Until all times are old enough to tell.
    while place.cut().held {}
    fs::write(place.workspace().join("file-03777"), "changed").unwrap();
    let changed = place.cut();
    assert!(changed.written < 64 * 1024, "{}", changed.written);
}
