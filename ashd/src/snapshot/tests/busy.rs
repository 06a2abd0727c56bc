//! A vault in which there is always somebody: what no point needs goes all the same, and nothing else.

use std::collections::VecDeque;
use std::thread;

use super::arriving::name_of;
use super::collected::{at_once, without_old};
use super::damaged::flip_at;
use super::*;

/// As [`AT_ONCE`], and whoever saves since before it is known what may go has time to end.
const PATIENT: Collecting = Collecting { patience_with_saves: Duration::from_secs(60), ..AT_ONCE };

/// Saves of each of two sessions.
const SAVES: u64 = 12;

/// Points that stay recorded.
const RECORDED: usize = 4;

/// Says, when it is dropped, that something is over.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Does something while there is always somebody: the next one comes before the last one goes.
fn while_busy<T>(come: impl Fn() -> Pin + Sync, act: impl FnOnce() -> T) -> T {
    let (is_over, come) = (AtomicBool::new(false), &come);
    let is_over = &is_over;
    thread::scope(|scope| {
        let mut inside = come();
        scope.spawn(move || {
            while !is_over.load(Ordering::SeqCst) {
                drop(std::mem::replace(&mut inside, come()));
                thread::yield_now();
            }
        });
        let _over = Over(is_over);
        act()
    })
}

impl Place {
    /// One who has come to save.
    fn saver(&self) -> Pin {
        self.vault.gate.enter_unless(&NEVER).unwrap()
    }
}

#[test]
fn it_is_collected_although_somebody_saves_all_the_time() {
    let (place, _, [first, second]) = without_old();
    let points = || Ok::<_, SnapshotError>(vec![second]);
    let collect = || place.vault.collect(&PATIENT, points).unwrap().unwrap();
    let collected = while_busy(|| place.saver(), collect);
    assert!(collected.bytes > 1_900_000, "{collected:?}");
    assert!(place.vault.check(first, false).is_err());
    place.vault.check(second, true).unwrap();
    assert_same(&place.live(), &place.restore(second, "back"));
}

#[test]
fn it_is_collected_at_once_although_somebody_reads_all_the_time() {
    let (place, _, [first, second]) = without_old();
    let collected = while_busy(|| place.vault.pin_point(second), || place.collect(&[second]));
    assert!(collected.bytes > 1_900_000 && collected.read == 0, "{collected:?}");
    assert!(place.vault.check(first, false).is_err());
    place.vault.check(second, true).unwrap();
}

/// Else others would wait as long, whose turn comes behind that.
#[test]
fn who_may_rely_on_anything_is_not_waited_for_as_long_as_who_saves() {
    let (place, _, [_, second]) = without_old();
    let (vault, pin) = (place.vault.clone(), place.vault.pin());
    let patient = Collecting { patience_with_saves: Duration::from_secs(3600), ..AT_ONCE };
    let points = move || Ok::<_, SnapshotError>(vec![second]);
    let collected = at_once(move || vault.collect(&patient, points).unwrap());
    assert_eq!(collected, None);
    drop(pin);
}

/// There are more of these than may work at a time.
#[test]
fn no_tenant_waits_for_the_saves_of_others() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    let vault = |name: &str| snapshots.vault(&name.parse().unwrap()).unwrap();
    let (slow, quick) = (["one", "two", "three", "four"].map(vault), vault("quick"));
    let save = |vault: &Arc<Vault>| vault.gate.enter_unless(&NEVER).unwrap();
    let saving: Vec<Pin> = slow.iter().map(save).collect();
    let asked = AtomicUsize::new(0);
    let points = || {
        asked.fetch_add(1, Ordering::SeqCst);
        Ok::<_, SnapshotError>(vec![])
    };
    thread::scope(|scope| {
        let collect = |vault: &Arc<Vault>| {
            let (vault, points) = (vault.clone(), &points);
            scope.spawn(move || vault.collect(&PATIENT, points).unwrap())
        };
        let collecting: Vec<_> = slow.iter().map(collect).collect();
        // Behind the second time each of them waits for who saves.
        while asked.load(Ordering::SeqCst) < 2 * slow.len() {
            let is_over = collecting.iter().any(|collecting| collecting.is_finished());
            assert!(!is_over, "somebody has given up");
            thread::yield_now();
        }
        let points = || Ok::<_, SnapshotError>(vec![]);
        let collected = at_once(move || quick.collect(&AT_ONCE, points).unwrap());
        assert!(collected.is_some());
        drop(saving);
        for collecting in collecting {
            assert!(collecting.join().unwrap().is_some());
        }
    });
}

#[test]
fn what_a_save_under_way_has_found_stays() {
    let (place, old, [_, second]) = without_old();
    let points = || Ok::<_, SnapshotError>(vec![second]);
    fs::write(&old, noise(1, 2_000_000)).unwrap();
    let tried = Mutex::new(vec![]);
    let collect = |stage| {
        // It has read everything by then.
        if stage == Stage::Moment {
            tried.lock().unwrap().push(place.vault.collect(&AT_ONCE, points).unwrap());
        }
        true
    };
    let cut = place.cut_as((&NEVER, Limits::default()), &nobody, &collect).unwrap();
    assert!(cut.written < 100_000, "{}", cut.written);
    let tried = tried.into_inner().unwrap();
    assert!(!tried.is_empty() && tried.iter().all(Option::is_none), "{tried:?}");
    let root = cut.root;
    drop(cut);
    let collected = place.collect(&[second, root]);
    assert!(collected.bytes < 100_000, "{collected:?}");
    place.vault.check(root, true).unwrap();
    assert_same(&place.live(), &place.restore(root, "back"));
}

#[test]
fn who_came_before_keeps_what_may_go_and_who_comes_later_stores_it_again() {
    let (place, old, [first, second]) = without_old();
    let size = |pack: &PathBuf| fs::metadata(pack).unwrap().len();
    let pack = name_of(&place.packs().into_iter().max_by_key(size).unwrap());
    let (early, recorded) = (place.saver(), Mutex::new(vec![second]));
    let (vault, recorded) = (&*place.vault, &recorded);
    let third = thread::scope(|scope| {
        let points = move || Ok::<_, SnapshotError>(recorded.lock().unwrap().clone());
        let collecting = scope.spawn(move || vault.collect(&PATIENT, points));
        while !vault.index().is_going(pack) {
            assert!(!collecting.is_finished(), "nobody was waited for");
            thread::yield_now();
        }
        fs::write(&old, noise(1, 2_000_000)).unwrap();
        let third = place.cut();
        assert!(third.written > 1_900_000, "{}", third.written);
        // The first is what the one before has relied on, and records now.
        let root = third.root;
        recorded.lock().unwrap().extend([first, root]);
        drop((third, early));
        let collected = collecting.join().unwrap().unwrap().unwrap();
        assert_eq!((collected.damaged, collected.read), (0, 0), "{collected:?}");
        root
    });
    for root in [first, second, third] {
        place.vault.check(root, true).unwrap();
    }
    assert_same(&place.live(), &place.restore(third, "back"));
}

#[test]
fn what_a_save_relies_on_stays_although_nobody_has_recorded_that() {
    let (place, old, [_, second]) = without_old();
    let (asked, recorded) = (AtomicUsize::new(0), Mutex::new(vec![second]));
    let points = || {
        let now = recorded.lock().unwrap().clone();
        match asked.fetch_add(1, Ordering::SeqCst) {
            // Before it is chosen what may go; and it is given up then.
            1 => {
                fs::write(&old, noise(1, 2_000_000)).unwrap();
                held::grow_old(&old);
                drop(place.cut());
            }
            // The next one reads nothing of that again.
            2 => {
                let cut = place.cut();
                assert!(cut.written < 100_000, "{}", cut.written);
                recorded.lock().unwrap().push(cut.root);
            }
            _ => {}
        }
        Ok::<_, SnapshotError>(now)
    };
    let collected = place.vault.collect(&AT_ONCE, points).unwrap().unwrap();
    assert!(collected.bytes < 100_000 && collected.read == 1, "{collected:?}");
    let root = recorded.into_inner().unwrap()[1];
    place.vault.check(root, true).unwrap();
    assert_same(&place.live(), &place.restore(root, "back"));
}

#[test]
fn nothing_goes_while_nobody_can_tell_what_a_save_relies_on() {
    let (place, old, [_, second]) = without_old();
    let before = place.packs();
    let (asked, saved) = (AtomicUsize::new(0), Mutex::new(vec![]));
    let points = || {
        let mut saved = saved.lock().unwrap();
        match asked.fetch_add(1, Ordering::SeqCst) {
            1 => {
                fs::write(&old, noise(1, 2_000_000)).unwrap();
                held::grow_old(&old);
                saved.push(place.cut().root);
                // What leads to all the rest cannot be read any more.
                let at = place.vault.index().find(Vault::top(saved[0])).unwrap().unwrap();
                let pack = pack::path(&place.store().join("packs"), at.pack);
                flip_at(&pack, at.row.offset);
            }
            2 => saved.push(place.cut().root),
            _ => {}
        }
        Ok::<_, SnapshotError>(vec![second])
    };
    assert_eq!(place.vault.collect(&AT_ONCE, points).unwrap(), None);
    let saved = saved.into_inner().unwrap();
    assert!(saved.len() == 2 && saved[0] == saved[1]);
    // When it is recorded it is known to be damaged.
    let collected = place.collect(&[second, saved[0]]);
    assert!(collected.damaged == 1 && collected.packs == 0, "{collected:?}");
    assert!(before.iter().all(|pack| pack.exists()));
}

#[test]
fn what_was_purged_goes_when_nobody_is_at_it_any_more() {
    let (place, _, [first, second]) = without_old();
    place.vault.note_purge(place.session, vec![]).unwrap();
    // As when a session is forked that is purged meanwhile.
    let mut pin = place.vault.pin();
    let points = || Ok::<_, SnapshotError>(vec![second]);
    assert_eq!(place.vault.collect(&AT_ONCE, points).unwrap(), None);
    pin.only(first);
    let collected = place.collect(&[second]);
    assert!(collected.bytes < 100_000 && collected.read == 1, "{collected:?}");
    place.vault.check(first, true).unwrap();
    assert!(place.vault.was_purged());
    drop(pin);
    let collected = place.collect(&[second]);
    assert!(collected.bytes > 1_900_000 && collected.read == 0, "{collected:?}");
    assert!(place.vault.check(first, false).is_err() && !place.vault.was_purged());
    place.vault.check(second, true).unwrap();
}

/// Saves a session's files again and again, with content that has gone and comes back; of all points the
/// newest stay recorded.
fn save_often(place: &Place, recorded: &Mutex<VecDeque<Root>>) {
    for n in 0..SAVES {
        fs::write(place.workspace().join("file"), noise(n % 3, 300_000)).unwrap();
        let cut = place.cut();
        assert_same(&place.live(), &place.restore(cut.root, &format!("back-{n}")));
        let mut recorded = recorded.lock().unwrap();
        recorded.push_back(cut.root);
        if recorded.len() > RECORDED {
            recorded.pop_front();
        }
    }
}

#[test]
fn what_is_recorded_is_whole_however_saves_and_collections_meet() {
    let place = Place::new();
    let other = Place { vault: place.vault.clone(), ..Place::new() };
    let recorded: &Mutex<VecDeque<Root>> = &Mutex::default();
    let points = || {
        let now: Vec<Root> = recorded.lock().unwrap().iter().copied().collect();
        Ok::<_, SnapshotError>(now)
    };
    thread::scope(|scope| {
        let save = |place| scope.spawn(move || save_often(place, recorded));
        let savers = [&place, &other].map(save);
        while savers.iter().any(|saver| !saver.is_finished()) {
            assert!(place.vault.collect(&PATIENT, points).unwrap().is_some());
        }
    });
    let recorded = points().unwrap();
    assert_eq!(recorded.len(), RECORDED);
    let assert_whole = || {
        for root in &recorded {
            place.vault.check(*root, true).unwrap();
        }
    };
    assert_whole();
    place.collect(&recorded);
    assert_whole();
}
