//! Going back to a point that somebody removes meanwhile: it comes back whole, or that is told.

use super::collected::{meanwhile, without_old};
use super::*;

/// Brings a point back for a session of its own, and does something when that has begun.
fn bring_back(
    place: &Place,
    root: Root,
    act: &(dyn Fn() + Sync),
) -> Result<(SessionId, PathBuf), SnapshotError> {
    let (session, parent) = (SessionId::random(), place.dir.path());
    let begun = |_: &Path| act();
    let plain = Restoring::new(session, (parent, "returned"), &NEVER);
    place.vault.restore(root, &Restoring { begun: Some(&begun), ..plain })?;
    Ok((session, parent.join("returned")))
}

/// The session in the place where it goes on.
pub(super) fn put_in_place(place: &Place, (session, built): (SessionId, PathBuf)) -> Place {
    let returned = Place { session, vault: place.vault.clone(), ..Place::new() };
    fs::remove_dir_all(returned.live()).unwrap();
    fs::rename(built, returned.live()).unwrap();
    returned
}

/// What somebody says who does not know of the older point any more.
fn removed(second: Root) -> impl Fn() -> Result<Vec<Root>, SnapshotError> {
    move || Ok(vec![second])
}

#[test]
fn a_point_that_comes_back_stays_and_the_rest_is_collected() {
    let (place, _, [first, second]) = without_old();
    let gone = place.cut_without("gone", 3);
    let collected = Mutex::new(vec![]);
    let built = bring_back(&place, first, &|| {
        // It was looked up before that.
        let tried = place.vault.collect(&AT_ONCE, removed(second)).unwrap();
        collected.lock().unwrap().extend(tried);
    });
    let collected = collected.into_inner().unwrap();
    assert!(collected.len() == 1 && collected[0].bytes < 1_000_000, "{collected:?}");
    assert!(!gone.exists() && collected[0].read == 1, "{collected:?}");
    let returned = put_in_place(&place, built.unwrap());
    // As long as it is in no point, what is known of the session's files is not relied on.
    assert!(place.collect(&[second]).bytes > 1_900_000);
    let cut = returned.cut();
    assert!(cut.root == first && cut.written > 1_900_000, "{}", cut.written);
    place.vault.check(first, true).unwrap();
}

#[test]
fn a_point_that_comes_back_since_somebody_collects_stays() {
    let (place, _, [first, second]) = without_old();
    let collector = place.vault.gate.begin(Duration::ZERO).unwrap();
    let built = bring_back(&place, first, &|| {
        let going = place.decide_with(&collector, removed(second)).unwrap();
        let collected = place.vault.sweep(going, &collector).unwrap().unwrap();
        assert!(collected.packs == 0 && collected.read == 1, "{collected:?}");
    });
    drop(collector);
    let returned = put_in_place(&place, built.unwrap());
    let cut = returned.cut();
    assert!(cut.root == first && cut.written < 100_000, "{}", cut.written);
    place.vault.check(first, true).unwrap();
}

/// A session that goes back has the vault pinned from before its point is looked up until the
/// point is recorded once more.
#[test]
fn a_point_that_is_recorded_once_more_stays_although_it_was_removed() {
    // Before anything is looked through, before it is chosen what may go, and before what goes is noted.
    for n in [0, 1, 2] {
        let (place, _, [first, second]) = without_old();
        let built = Mutex::new(None);
        let collected = meanwhile(&place, n, second, || {
            let _pin = place.vault.pin();
            *built.lock().unwrap() = Some(bring_back(&place, first, &|| ()).unwrap());
            Some(first)
        });
        assert!(collected.bytes < 100_000, "{n}: {collected:?}");
        let returned = put_in_place(&place, built.into_inner().unwrap().unwrap());
        let cut = returned.cut();
        assert!(cut.root == first && cut.written < 100_000, "{n}: {}", cut.written);
        place.vault.check(first, true).unwrap();
    }
}

#[test]
fn a_point_that_was_there_when_it_was_decided_comes_back_while_the_rest_goes() {
    let (place, _, [first, second]) = without_old();
    let gone = place.cut_without("gone", 3);
    let (collector, going) = place.decide(&[first, second]);
    let (pin, going) = (place.vault.pin(), Mutex::new(Some(going)));
    let built = bring_back(&place, first, &|| {
        let going = going.lock().unwrap().take().unwrap();
        place.vault.sweep(going, &collector).unwrap().unwrap();
    });
    drop(collector);
    assert!(!gone.exists());
    // Somebody has removed it since it was looked up. It is not recorded once more yet.
    assert_eq!(place.vault.collect(&AT_ONCE, removed(second)).unwrap(), None);
    drop(pin);
    let collected = place.collect(&[first, second]);
    assert!(collected.bytes < 100_000, "{collected:?}");
    let returned = put_in_place(&place, built.unwrap());
    let cut = returned.cut();
    assert!(cut.root == first && cut.written < 100_000, "{}", cut.written);
    place.vault.check(first, true).unwrap();
}

/// Nobody had the vault pinned when it was decided what goes.
#[test]
fn a_point_that_goes_while_it_comes_back_is_told() {
    let (place, _, [first, second]) = without_old();
    let (collector, going) = place.decide(&[second]);
    let going = Mutex::new(Some(going));
    let before = fs::read_dir(place.dir.path()).unwrap().count();
    let built = bring_back(&place, first, &|| {
        let going = going.lock().unwrap().take().unwrap();
        let collected = place.vault.sweep(going, &collector).unwrap().unwrap();
        assert!(collected.bytes > 1_900_000, "{collected:?}");
    });
    drop(collector);
    let error = built.unwrap_err();
    assert!(matches!(error, SnapshotError::Damaged { .. }), "{error}");
    assert_eq!(fs::read_dir(place.dir.path()).unwrap().count(), before, "nothing of it is left");
    assert!(place.vault.damage(first).is_some());
    // There is no such point any more.
    place.collect(&[second]);
    assert_eq!(place.vault.damaged(), 0);
    place.vault.check(second, true).unwrap();
    assert_same(&place.live(), &place.restore(second, "back"));
}
