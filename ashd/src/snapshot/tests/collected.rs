//! What no point needs goes, and nothing else.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

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
fn what_is_purged_is_noted_anew_when_a_collecting_may_have_seen_what_was() {
    let place = Place::new();
    let noted = || {
        place.vault.note_purge(place.session, vec![]).unwrap();
        fs::read(place.vault.beside("purged")).unwrap()
    };
    let first = noted();
    assert_eq!(noted(), first, "it is written in vain");
    // By the time points are asked for, it is seen.
    let seen = RefCell::new(vec![]);
    let points = || {
        seen.borrow_mut().push(noted());
        Ok::<_, SnapshotError>(vec![])
    };
    place.vault.collect(&AT_ONCE, points).unwrap().unwrap();
    let seen = seen.into_inner();
    assert!(seen[0] != first && seen.iter().all(|mark| *mark == seen[0]), "{seen:?}");
    assert!(place.vault.was_purged(), "what was purged meanwhile is forgotten");
    place.collect(&[]);
    assert!(!place.vault.was_purged());
    assert_ne!(noted(), seen[0]);
}

/// A session that had a large file, and the point without it.
pub(super) fn without_old() -> (Place, PathBuf, [Root; 2]) {
    let place = Place::new();
    let old = place.workspace().join("old");
    fs::write(&old, noise(1, 2_000_000)).unwrap();
    fs::write(place.workspace().join("kept"), noise(2, 100_000)).unwrap();
    let first = place.cut().root;
    fs::remove_file(&old).unwrap();
    let second = place.cut().root;
    (place, old, [first, second])
}

impl Place {
    /// Begins to collect, up to where nothing is removed yet.
    pub(super) fn decide(&self, points: &[Root]) -> (gate::Collector, decide::Going) {
        let collector = self.vault.gate.begin(Duration::ZERO).unwrap();
        let going = self.decide_with(&collector, || Ok(points.to_vec()));
        (collector, going.unwrap())
    }

    /// Finds out what goes.
    pub(super) fn decide_with(
        &self,
        collector: &gate::Collector,
        points: impl Fn() -> Result<Vec<Root>, SnapshotError>,
    ) -> Option<decide::Going> {
        let worker = self.vault.desks.worker();
        self.vault.decide((collector, &worker), (&AT_ONCE, None), points).unwrap()
    }
}

/// Does something that nobody has to wait for, or fails.
pub(super) fn at_once<T: Send + 'static>(what: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(what()));
    is_done.recv_timeout(Duration::from_secs(60)).expect("it waits for somebody")
}

#[test]
fn nobody_waits_for_what_is_moved_and_removed() {
    let (place, _, [_, second]) = without_old();
    let (collector, going) = place.decide(&[second]);
    let restore = |name: &'static str| {
        let (vault, parent) = (place.vault.clone(), place.dir.path().to_owned());
        at_once(move || {
            let restoring = Restoring::new(SessionId::random(), (&parent, name), &NEVER);
            vault.restore(second, &restoring).unwrap();
            parent.join(name)
        })
    };
    assert_same(&place.live(), &restore("before"));
    let kept = place.vault.browse(second).open(b"workspace/kept").unwrap().unwrap();
    let before = place.packs();
    let collected = place.vault.sweep(going, &collector).unwrap().unwrap();
    assert!(collected.packs > 0 && place.packs() != before, "{collected:?}");
    // It is not over as long as there is somebody who collects.
    let mut buffer = vec![0; 100_000];
    assert_eq!(kept.read_at(&mut buffer, 0).unwrap(), buffer.len());
    assert_eq!(buffer, noise(2, 100_000));
    assert_same(&place.live(), &restore("after"));
    drop(collector);
}

#[test]
fn what_comes_back_while_it_is_removed_is_stored_again() {
    let (place, old, [_, second]) = without_old();
    let (collector, going) = place.decide(&[second]);
    fs::write(&old, noise(1, 2_000_000)).unwrap();
    let third = place.cut();
    assert!(third.written > 1_900_000, "{}", third.written);
    let collected = place.vault.sweep(going, &collector).unwrap().unwrap();
    assert!(collected.bytes > 1_900_000, "{collected:?}");
    drop(collector);
    place.vault.check(second, true).unwrap();
    place.vault.check(third.root, true).unwrap();
    assert_same(&place.live(), &place.restore(third.root, "back"));
}

/// Collects with one point, and does something once when it is asked for the n-th time, behind which
/// there may be others.
pub(super) fn meanwhile(
    place: &Place,
    n: usize,
    point: Root,
    act: impl Fn() -> Option<Root>,
) -> Collected {
    let (asked, more) = (AtomicUsize::new(0), Mutex::new(vec![point]));
    let points = || {
        let mut more = more.lock().unwrap();
        let now = more.clone();
        if asked.fetch_add(1, Ordering::SeqCst) == n {
            more.extend(act());
        }
        Ok::<_, SnapshotError>(now)
    };
    place.vault.collect(&AT_ONCE, points).unwrap().unwrap()
}

#[test]
fn what_is_relied_on_while_it_is_decided_stays() {
    // Before anything is looked through, and before it is chosen what may go.
    for n in [0, 1] {
        let (place, old, [_, second]) = without_old();
        let third = Mutex::new(None);
        let collected = meanwhile(&place, n, second, || {
            fs::write(&old, noise(1, 2_000_000)).unwrap();
            let cut = place.cut();
            assert!(cut.written < 100_000, "{}", cut.written);
            *third.lock().unwrap() = Some(cut.root);
            Some(cut.root)
        });
        assert_eq!(collected.bytes, 0, "{n}");
        let third = third.into_inner().unwrap().unwrap();
        place.vault.check(third, true).unwrap();
        assert_same(&place.live(), &place.restore(third, "back"));
    }
}

#[test]
fn what_may_go_is_stored_again() {
    let (place, old, [_, second]) = without_old();
    let third = Mutex::new(None);
    // Right before it is noted what goes.
    let collected = meanwhile(&place, 2, second, || {
        fs::write(&old, noise(1, 2_000_000)).unwrap();
        let cut = place.cut();
        assert!(cut.written > 1_900_000, "{}", cut.written);
        *third.lock().unwrap() = Some(cut.root);
        Some(cut.root)
    });
    assert!(collected.bytes > 1_900_000, "{collected:?}");
    let third = third.into_inner().unwrap().unwrap();
    place.vault.check(second, true).unwrap();
    place.vault.check(third, true).unwrap();
    assert_same(&place.live(), &place.restore(third, "back"));
}

/// A save that is given up. What it has read is known to the next one.
fn give_up(place: &Place, old: &Path) {
    fs::write(old, noise(1, 2_000_000)).unwrap();
    held::grow_old(old);
    let given_up = place.cut_as((&NEVER, Limits::default()), &nobody, &|_| false);
    assert!(matches!(given_up, Err(SnapshotError::Cancelled)));
}

#[test]
fn what_is_known_of_files_that_are_in_no_point_is_not_relied_on() {
    for n in [0, 1] {
        let (place, old, [_, second]) = without_old();
        let collected = meanwhile(&place, n, second, || {
            give_up(&place, &old);
            None
        });
        assert!(collected.bytes > 1_900_000, "{n}: {collected:?}");
        let third = place.cut();
        assert!(third.written > 1_900_000, "{n}: {}", third.written);
        place.vault.check(third.root, true).unwrap();
    }
}

#[test]
fn what_is_known_of_files_that_were_stored_again_is_relied_on() {
    let (place, old, [_, second]) = without_old();
    let collected = meanwhile(&place, 2, second, || {
        give_up(&place, &old);
        None
    });
    assert!(collected.bytes > 1_900_000, "{collected:?}");
    let path = place.vault.scan(place.session);
    assert!(scan::Scan::load(&path).files.contains_key(&b"workspace/old"[..]));
    let third = place.cut();
    assert!(third.written < 100_000, "{}", third.written);
    place.vault.check(third.root, true).unwrap();
    assert_same(&place.live(), &place.restore(third.root, "back"));
}

#[test]
fn what_is_known_of_files_stays_when_it_is_in_a_point() {
    let (place, old, [_, second]) = without_old();
    fs::write(&old, noise(3, 2_000_000)).unwrap();
    held::grow_old(&old);
    meanwhile(&place, 1, second, || Some(place.cut().root));
    // Nothing of it is read again, nor is it looked for in the store.
    let path = place.vault.scan(place.session);
    assert!(scan::Scan::load(&path).files.contains_key(&b"workspace/old"[..]));
}

#[test]
fn what_is_brought_back_of_a_point_that_was_removed_is_not_relied_on() {
    let (place, _, [first, second]) = without_old();
    let (collector, going) = place.decide(&[second]);
    // Somebody had looked it up before it was removed.
    let (session, parent) = (SessionId::random(), place.dir.path());
    let restoring = Restoring::new(session, (parent, "late"), &NEVER);
    place.vault.restore(first, &restoring).unwrap();
    place.vault.sweep(going, &collector).unwrap().unwrap();
    drop(collector);
    assert!(place.vault.check(first, false).is_err());
    let late = Place { session, vault: place.vault.clone(), ..Place::new() };
    fs::remove_dir_all(late.live()).unwrap();
    fs::rename(parent.join("late"), late.live()).unwrap();
    let cut = late.cut();
    place.vault.check(cut.root, true).unwrap();
    assert_same(&late.live(), &place.restore(cut.root, "back"));
}

#[test]
fn whoever_is_in_the_vault_puts_it_off() {
    let (place, _, [first, second]) = without_old();
    let pin = Mutex::new(None);
    let points = || {
        pin.lock().unwrap().get_or_insert_with(|| place.vault.pin());
        Ok::<_, SnapshotError>(vec![second])
    };
    assert_eq!(place.vault.collect(&AT_ONCE, points).unwrap(), None);
    place.vault.check(first, true).unwrap();
    drop(pin);
    let points = || Ok::<_, SnapshotError>(vec![second]);
    assert!(place.vault.collect(&AT_ONCE, points).unwrap().unwrap().bytes > 1_900_000);
}

/// Else it would never count as stored again, and each save would store it once more.
#[test]
fn what_may_go_counts_as_stored_when_it_is_broken_off_whatever_goes_wrong() {
    let (place, old, [_, second]) = without_old();
    let asked = AtomicUsize::new(0);
    let points = || {
        // By the third time it is chosen what may go.
        assert!(asked.fetch_add(1, Ordering::SeqCst) < 2, "nobody foresaw this");
        Ok::<_, SnapshotError>(vec![second])
    };
    let collect = AssertUnwindSafe(|| place.vault.collect(&AT_ONCE, points));
    assert!(catch_unwind(collect).is_err());
    assert_eq!(asked.into_inner(), 3);
    fs::write(&old, noise(1, 2_000_000)).unwrap();
    let third = place.cut();
    assert!(third.written < 100_000, "{}", third.written);
    drop(third);
    assert!(place.collect(&[second]).bytes > 1_900_000);
}

#[test]
fn whoever_collects_makes_way_for_who_wants_all_of_it() {
    let (place, _, [first, second]) = without_old();
    let collector = place.vault.gate.begin(Duration::ZERO).unwrap();
    let gate = place.vault.gate.clone();
    let alone = std::thread::spawn(move || gate.alone(Duration::from_secs(60)).is_some());
    let points = || {
        while !collector.is_in_the_way() {
            std::thread::yield_now();
        }
        Ok::<_, SnapshotError>(vec![second])
    };
    assert!(place.decide_with(&collector, points).is_none());
    drop(collector);
    assert!(alone.join().unwrap());
    place.vault.check(first, true).unwrap();
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
