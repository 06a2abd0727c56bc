//! What is noted of packs and files: it can be lost, and says nothing that is not so.

use super::*;

#[test]
fn a_lost_index_and_a_lost_scan_cost_nothing_but_time() {
    let place = Place::new();
    furnish(&place.workspace());
    let first = place.cut();
    let store = place.store();
    let Place { dir, vault, session } = place;
    drop(vault);
    fs::remove_file(store.join("index.db")).unwrap();
    fs::remove_dir_all(store.join("scans")).unwrap();
    fs::write(store.join("tmp/left"), "over").unwrap();
    let place = Place { vault: open(dir.path()), dir, session };
    assert!(!store.join("tmp/left").exists());
    let second = place.cut();
    assert_eq!(second.root, first.root);
    assert_same(&place.live(), &place.restore(first.root, "back"));
}

#[test]
fn a_pack_that_the_index_does_not_know_is_taken_in() {
    let place = Place::new();
    furnish(&place.workspace());
    let cut = place.cut();
    // Two at a time: the second has never heard of what the first wrote, as after a crash.
    let other = open(place.dir.path());
    other.check(cut.root, true).unwrap();
}

#[test]
fn tenants_share_what_may_be_open() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::with(&dir.path().join("store"), 3).unwrap();
    let store = dir.path().canonicalize().unwrap();
    for tenant in ["one", "two"] {
        let vault = snapshots.vault(&tenant.parse().unwrap()).unwrap();
        let place = Place { vault, ..Place::new() };
        for n in 1..6 {
            fs::write(place.workspace().join(n.to_string()), noise(n, 100_000)).unwrap();
            drop(place.cut());
        }
        let root = place.cut().root;
        assert_same(&place.live(), &place.restore(root, "back"));
        let open = fs::read_dir("/proc/self/fd").unwrap();
        let open = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        let is_pack = |path: &PathBuf| {
            path.starts_with(&store) && path.extension().is_some_and(|it| it == "pack")
        };
        assert_eq!(open.filter(is_pack).count(), 3, "{tenant}");
    }
}

#[test]
fn what_could_not_be_published_is_not_forgotten() {
    let place = Place::new();
    let packs = place.store().join("packs");
    let away = packs.with_extension("away");
    let stash = Mutex::new(vault::Stash::new(&place.vault));
    vault::put(&stash, noise(1, 10_000)).unwrap();
    fs::rename(&packs, &away).unwrap();
    assert!(stash.lock().unwrap().publish().is_err());
    fs::rename(&away, &packs).unwrap();
    // Else files would be noted as stored whose chunks are nowhere.
    assert!(stash.lock().unwrap().publish().is_err());
}

#[test]
fn what_was_being_noted_of_files_when_a_daemon_ended_is_of_no_use() {
    let place = Place::new();
    drop(place.cut());
    let scan = place.vault.scan(place.session);
    let half = scan.with_extension("new");
    fs::write(&half, "half of it").unwrap();
    let _place = place.again();
    assert!(scan.exists() && !half.exists());
}

#[test]
fn what_is_forgotten_while_somebody_saves_is_not_noted_by_that() {
    for is_known in [false, true] {
        let place = Place::new();
        fs::write(place.workspace().join("file"), noise(1, 10_000)).unwrap();
        if is_known {
            drop(place.cut());
            fs::write(place.workspace().join("more"), noise(2, 10_000)).unwrap();
        }
        let forget = |_| place.vault.forget_all().is_ok();
        let cut = place.cut_as((&NEVER, Limits::default()), &nobody, &forget).unwrap();
        assert!(!place.vault.scan(place.session).exists(), "{is_known}");
        assert_same(&place.live(), &place.restore(cut.root, "back"));
        drop(cut);
        drop(place.cut());
        assert!(place.vault.scan(place.session).exists(), "{is_known}");
    }
}

/// Else a save would fail, or bringing something back, because somebody forgets meanwhile.
#[test]
fn what_is_being_noted_while_all_is_forgotten_can_take_its_place() {
    let place = Place::new();
    drop(place.cut());
    let scan = place.vault.scan(place.session);
    let half = scan.with_extension("new");
    fs::write(&half, "half of it").unwrap();
    place.vault.forget_all().unwrap();
    assert!(half.exists() && !scan.exists());
}

#[test]
fn who_comes_while_all_is_forgotten_notes_nothing_of_it_again() {
    // It ends before all is forgotten, or behind that.
    for is_behind in [false, true] {
        let place = Place::new();
        fs::write(place.workspace().join("file"), noise(1, 10_000)).unwrap();
        let forgetting = Mutex::new(Some(place.vault.gate.forget()));
        let end = |_| {
            if is_behind {
                drop(forgetting.lock().unwrap().take());
            }
            true
        };
        let cut = place.cut_as((&NEVER, Limits::default()), &nobody, &end).unwrap();
        assert!(!place.vault.scan(place.session).exists(), "{is_behind}");
        assert_same(&place.live(), &place.restore(cut.root, "back"));
        drop((cut, forgetting));
        drop(place.cut());
        assert!(place.vault.scan(place.session).exists(), "{is_behind}");
    }
}
