//! Whoever needs a vault opens it, and keeps nobody waiting who needs another one.

use std::thread;

use super::collected::at_once;
use super::*;

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

#[test]
fn nobody_waits_until_the_vault_of_another_one_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    // To open this one takes as long as nobody writes that.
    fs::create_dir(dir.path().join("slow")).unwrap();
    let damage = dir.path().join("slow/damage");
    let (fifo, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600));
    rustix::fs::mknodat(rustix::fs::CWD, &damage, fifo, mode, 0).unwrap();
    let open = || {
        let snapshots = snapshots.clone();
        thread::spawn(move || snapshots.vault(&tenant("slow")).unwrap())
    };
    let first = open();
    // This returns when somebody reads it.
    let mut written = File::options().write(true).open(&damage).unwrap();
    let second = open();
    let others = snapshots.clone();
    at_once(move || {
        assert!(others.known_vault(&tenant("nobody")).unwrap().is_none());
        others.vault(&tenant("quick")).unwrap();
        assert_eq!(others.damaged(), 0);
    });
    assert!(!first.is_finished() && !second.is_finished());
    io::Write::write_all(&mut written, b"{}").unwrap();
    drop(written);
    let (first, second) = (first.join().unwrap(), second.join().unwrap());
    assert!(Arc::ptr_eq(&first, &second), "it was opened twice");
}

#[test]
fn what_could_not_be_opened_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, one) = (Snapshots::open(dir.path()).unwrap(), tenant("one"));
    fs::create_dir(dir.path().join("one")).unwrap();
    let in_the_way = dir.path().join("one/packs");
    fs::write(&in_the_way, "").unwrap();
    for _ in 0..2 {
        assert!(snapshots.vault(&one).is_err() && snapshots.known_vault(&one).is_err());
    }
    fs::remove_file(in_the_way).unwrap();
    let opened = snapshots.vault(&one).unwrap();
    assert!(Arc::ptr_eq(&opened, &snapshots.known_vault(&one).unwrap().unwrap()));
}

#[test]
fn who_waits_for_a_vault_that_is_removed_does_not_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, one) = (Snapshots::open(dir.path()).unwrap(), tenant("one"));
    let removed = snapshots.vault(&one).unwrap();
    let door = snapshots.door(&one);
    let mut behind = door.lock();
    let wait = || {
        let (snapshots, one) = (snapshots.clone(), one.clone());
        thread::spawn(move || snapshots.known_vault(&one).unwrap())
    };
    let waiting = [wait(), wait()];
    fs::remove_dir_all(dir.path().join("one")).unwrap();
    behind.forget(&snapshots.0.damaged);
    drop(behind);
    for waiting in waiting {
        assert!(waiting.join().unwrap().is_none());
    }
    // Another one that is called like that.
    assert!(!Arc::ptr_eq(&removed, &snapshots.vault(&one).unwrap()));
}

#[test]
fn what_is_removed_is_there_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, one) = (Snapshots::open(dir.path()).unwrap(), tenant("one"));
    let vault = snapshots.vault(&one).unwrap();
    vault.note_purge(SessionId::random(), vec![]).unwrap();
    let pin = vault.pin();
    assert!(snapshots.remove(&one, Duration::ZERO).is_err(), "somebody is in it");
    assert!(snapshots.known_vault(&one).unwrap().is_some() && snapshots.was_purged(&one));
    drop(pin);
    snapshots.remove(&one, Duration::ZERO).unwrap();
    assert!(snapshots.known_vault(&one).unwrap().is_none() && !snapshots.was_purged(&one));
    // Nor is it made again by that.
    snapshots.remove(&one, Duration::ZERO).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Else the next point would need what is nowhere.
#[test]
fn what_is_known_of_files_is_forgotten_when_the_index_is_gone() {
    let place = Place::new();
    let (root, pack) = place.cut_with("file", 1);
    let (store, scan) = (place.store(), place.vault.scan(place.session));
    let Place { dir, vault, session } = place;
    drop(vault);
    fs::remove_file(store.join("index.db")).unwrap();
    // Nobody knows of this one any more.
    fs::remove_file(pack).unwrap();
    let place = Place { vault: open(dir.path()), dir, session };
    assert!(!scan.exists());
    assert_eq!(place.cut().root, root);
    assert!(place.survey(&[root], true).damaged.is_empty());
    assert_same(&place.live(), &place.restore(root, "back"));
}

/// Else a daemon that dies in between has left nothing that says so, and the next point needs what is nowhere.
#[test]
fn what_is_known_of_files_goes_before_the_index_forgets_anything() {
    let lose: [fn(&Path, &Path); 3] = [
        |index, _| fs::remove_file(index).unwrap(),
        |index, _| fs::write(index, noise(1, 8192)).unwrap(),
        |_, pack| fs::remove_file(pack).unwrap(),
    ];
    for (n, lose) in lose.iter().enumerate() {
        let place = Place::new();
        let (_, pack) = place.cut_with("file", 1);
        let (path, packs) = (place.store().join("index.db"), place.store().join("packs"));
        let Place { dir: _dir, vault, .. } = place;
        drop(vault);
        lose(&path, &pack);
        let dies = || -> Result<(), SnapshotError> { Err(SnapshotError::Cancelled) };
        for _ in 0..2 {
            let opened = index::Index::open(&path, &packs, &dies);
            assert!(matches!(opened, Err(SnapshotError::Cancelled)), "{n}");
        }
        let forgotten = AtomicUsize::new(0);
        let forget = || -> Result<(), SnapshotError> {
            forgotten.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        for _ in 0..2 {
            index::Index::open(&path, &packs, &forget).unwrap();
        }
        assert_eq!(forgotten.into_inner(), 1, "{n}");
    }
}
