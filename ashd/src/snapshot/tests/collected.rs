//! What no point needs goes, and nothing else.

use super::*;

#[test]
fn what_no_point_needs_is_collected() {
    let place = Place::new();
    fs::write(place.workspace().join("old"), noise(1, 2_000_000)).unwrap();
    let first = place.cut();
    fs::remove_file(place.workspace().join("old")).unwrap();
    fs::write(place.workspace().join("new"), noise(2, 1_000_000)).unwrap();
    let second = place.cut();
    let points = |roots: &[Root]| Ok::<_, SnapshotError>(roots.to_vec());
    assert_eq!(
        place.vault.collect(&AT_ONCE, || points(&[])).unwrap(),
        None,
        "cuts are still pinned"
    );
    let roots = (first.root, second.root);
    drop((first, second));
    let (first, second) = roots;
    let both = place.collect(&[first, second]);
    assert_eq!((both.packs, both.bytes), (0, 0));
    let young = Collecting { grace: Duration::from_secs(3600), ..AT_ONCE };
    assert_eq!(place.vault.collect(&young, || points(&[second])).unwrap().unwrap().bytes, 0);
    let preview = Collecting { preview: true, ..AT_ONCE };
    let would = place.vault.collect(&preview, || points(&[second])).unwrap().unwrap();
    assert!(would.bytes > 1_900_000, "{would:?}");
    place.vault.check(first, true).unwrap();
    assert_eq!(place.collect(&[second]), would);
    assert!(place.vault.check(first, false).is_err());
    place.vault.check(second, true).unwrap();
    assert_same(&place.live(), &place.restore(second, "back"));
    // What is known of the session's files still fits.
    let third = place.cut();
    assert_eq!(third.root, second);
    place.vault.check(third.root, true).unwrap();
}

#[test]
fn what_comes_back_while_it_is_removed_is_stored_again() {
    let place = Place::new();
    let old = place.workspace().join("old");
    fs::write(&old, noise(1, 2_000_000)).unwrap();
    fs::write(place.workspace().join("kept"), noise(2, 100_000)).unwrap();
    drop(place.cut());
    fs::remove_file(&old).unwrap();
    let second = place.cut().root;
    let alone = place.vault.gate.alone(Duration::ZERO).unwrap();
    let going = place.vault.decide(&[second], &AT_ONCE, None).unwrap();
    alone.let_add();
    fs::write(&old, noise(1, 2_000_000)).unwrap();
    let third = place.cut();
    assert!(third.written > 1_900_000, "{}", third.written);
    let collected = place.vault.sweep(going, false).unwrap();
    assert!(collected.bytes > 1_900_000, "{collected:?}");
    drop(alone);
    place.vault.check(second, true).unwrap();
    place.vault.check(third.root, true).unwrap();
    assert_same(&place.live(), &place.restore(third.root, "back"));
}

#[test]
fn what_comes_back_after_it_was_collected_is_stored_again() {
    let place = Place::new();
    let dir = place.workspace().join("dir");
    let make = || {
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("file"), "the same").unwrap();
        let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        File::open(dir.join("file")).unwrap().set_times(times).unwrap();
    };
    make();
    drop(place.cut());
    fs::remove_dir_all(&dir).unwrap();
    let second = place.cut().root;
    place.collect(&[second]);
    make();
    let third = place.cut();
    place.vault.check(third.root, true).unwrap();
    assert_same(&place.live(), &place.restore(third.root, "back"));
}

#[test]
fn what_is_not_needed_goes_although_the_rest_cannot_be_moved() {
    let place = Place::new();
    // What every point has is in a pack of its own.
    drop(place.cut());
    let gone = place.cut_without("gone", 1);
    fs::write(place.workspace().join("kept"), noise(2, 10_000)).unwrap();
    let moved = place.cut_without("too", 3);
    let root = place.cut().root;
    // As when the disk is full.
    let tmp = place.store().join("tmp");
    let away = tmp.with_extension("away");
    fs::rename(&tmp, &away).unwrap();
    let points = || Ok::<_, SnapshotError>(vec![root]);
    assert!(place.vault.collect(&AT_ONCE, points).is_err());
    assert!(!gone.exists() && moved.exists());
    fs::rename(&away, &tmp).unwrap();
    place.vault.check(root, true).unwrap();
    // The next one finishes it, also when it is another daemon's.
    let place = place.again();
    place.collect(&[root]);
    assert!(!moved.exists());
    place.vault.check(root, true).unwrap();
    assert_same(&place.live(), &place.restore(root, "back"));
}

#[test]
fn small_packs_are_merged_and_scans_of_no_point_forgotten() {
    let place = Place::new();
    let mut roots = vec![];
    for n in 0..20 {
        fs::write(place.workspace().join("file"), noise(n, 10_000)).unwrap();
        roots.push(place.cut().root);
    }
    assert_eq!(place.packs().len(), 20);
    place.collect(&roots);
    assert_eq!(place.packs().len(), 1);
    for root in &roots {
        place.vault.check(*root, true).unwrap();
    }
    // The newest root goes: what is known of the files is in no point any more.
    roots.pop();
    place.collect(&roots);
    let again = place.cut();
    place.vault.check(again.root, true).unwrap();
    assert_same(&place.live(), &place.restore(again.root, "back"));
}
