//! Trees that move meanwhile, and cuts that are given up.

use super::*;

#[test]
fn a_tree_that_moves_is_held() {
    let place = Place::new();
    fs::write(place.workspace().join("a"), "0").unwrap();
    let (stop, held) = (AtomicBool::new(false), AtomicBool::new(false));
    let rounds = AtomicUsize::new(0);
    let cut = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                if !held.load(Ordering::SeqCst) {
                    let n = rounds.fetch_add(1, Ordering::SeqCst).to_string();
                    // Always both, so that a point with different ones is no moment.
                    fs::write(place.workspace().join("b"), &n).unwrap();
                    fs::rename(place.workspace().join("b"), place.workspace().join("a")).unwrap();
                    fs::write(place.workspace().join("c"), &n).unwrap();
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let hold = || -> io::Result<Box<dyn Any>> {
            held.store(true, Ordering::SeqCst);
            // Until the round under way is over: what a freezer does.
            while rounds.load(Ordering::SeqCst) % 2 == 1 {
                std::thread::yield_now();
            }
            Ok(Box::new(()))
        };
        while rounds.load(Ordering::SeqCst) < 100 {
            std::thread::yield_now();
        }
        // Nothing moves while others have the processors; that is a moment as well.
        let mut cut = place.try_cut(&hold);
        while cut.as_ref().is_ok_and(|cut| !cut.held) {
            cut = place.try_cut(&hold);
        }
        stop.store(true, Ordering::SeqCst);
        cut.unwrap()
    });
    assert!(cut.held);
    let back = place.restore(cut.root, "back").join("workspace");
    let read = |name: &str| fs::read_to_string(back.join(name)).unwrap();
    assert_eq!(read("a"), read("c"));
    assert_eq!(fs::read_dir(&back).unwrap().count(), 2);
}

#[test]
fn one_that_is_given_up_is_gone_on_with() {
    let place = Place::new();
    for n in 0..50 {
        fs::write(place.workspace().join(format!("f{n}")), noise(n, 100_000)).unwrap();
    }
    settle(&place.workspace());
    let cancel = AtomicBool::new(false);
    let hold = || -> io::Result<Box<dyn Any>> {
        cancel.store(true, Ordering::SeqCst);
        nobody()
    };
    let given_up = place.cut_as((&cancel, Limits::default()), &hold, &|_| true);
    assert!(matches!(given_up, Err(SnapshotError::Cancelled)));
    let cut = place.cut();
    assert!(cut.written < 200_000, "{}", cut.written);
    assert_same(&place.live(), &place.restore(cut.root, "back"));
}

#[test]
fn one_that_is_given_up_does_not_wait_for_who_collects() {
    let place = Place::new();
    let _alone = place.vault.gate.alone(Duration::ZERO).unwrap();
    let cancel = AtomicBool::new(true);
    let given_up = place.cut_as((&cancel, Limits::default()), &nobody, &|_| true);
    assert!(matches!(given_up, Err(SnapshotError::Cancelled)));
}
