//! Packs that come from elsewhere.

use super::damaged::lose;
use super::*;

impl Place {
    /// Loses a pack, as after a restart; what was in it.
    fn lose(self, pack: &Path) -> (Place, Vec<u8>) {
        let bytes = fs::read(pack).unwrap();
        let Place { dir, vault, session } = self;
        drop(vault);
        fs::remove_file(pack).unwrap();
        (Place { vault: open(dir.path()), dir, session }, bytes)
    }

    /// Takes a pack in, as from an object store.
    fn bring(&self, pin: &Pin, pack: &Path, bytes: &[u8]) {
        let arriving = self.vault.arriving(name_of(pack)).unwrap();
        io::Write::write_all(&mut arriving.writer().unwrap(), bytes).unwrap();
        self.vault.take_in_pack(pin, &arriving).unwrap();
    }
}

pub(super) fn name_of(pack: &Path) -> uuid::Uuid {
    pack::name_of(pack.file_name().unwrap().to_str().unwrap()).unwrap()
}

#[test]
fn what_comes_stays_until_somebody_has_followed_it() {
    let place = Place::new();
    let (_, gone) = place.cut_with("gone", 2);
    fs::remove_file(place.workspace().join("gone")).unwrap();
    let (root, pack) = place.cut_with("file", 1);
    let (place, bytes) = place.lose(&pack);
    let points = || Ok::<_, SnapshotError>(vec![root]);
    // The point cannot be followed, and what is brought later it does not need, as far as anybody knows.
    assert_eq!(place.vault.collect(&AT_ONCE, points).unwrap().unwrap().damaged, 1);
    let pin = place.vault.pin();
    place.bring(&pin.clone(), &pack, &bytes);
    assert_eq!(place.vault.collect(&AT_ONCE, points).unwrap(), None);
    assert_same(&place.live(), &place.restore(root, "back"));
    drop(pin);
    assert_eq!(place.vault.collect(&AT_ONCE, points).unwrap().unwrap().damaged, 0);
    assert!(pack.exists() && !gone.exists());
    place.vault.check(root, true).unwrap();
}

/// Else it would be there, and what is in it count as lost till the next start.
#[test]
fn what_came_since_it_was_found_damaged_counts() {
    for cut_off in [false, true] {
        let place = Place::new();
        let (root, pack) = place.cut_with("file", 1);
        let bytes = fs::read(&pack).unwrap();
        lose(&pack, cut_off);
        let told = place.survey(&[root], true);
        assert_eq!((told.damaged.len(), told.packs.len()), (1, 1), "{told:?}");
        place.bring(&place.vault.pin(), &pack, &bytes);
        place.vault.set_right(&told).unwrap();
        let survey = place.survey(&[root], true);
        assert!(survey.damaged.is_empty() && survey.packs.is_empty(), "{survey:?}");
        assert_same(&place.live(), &place.restore(root, "back"));
    }
}

#[test]
fn a_pack_that_somebody_needs_stays_although_it_was_to_go() {
    let place = Place::new();
    let (first, pack) = place.cut_with("file", 1);
    fs::remove_file(place.workspace().join("file")).unwrap();
    let second = place.cut().root;
    let points = |roots: &[Root]| Ok::<_, SnapshotError>(roots.to_vec());
    let collector = place.vault.gate.begin(Duration::ZERO).unwrap();
    let going = place.decide_with(&collector, || points(&[second])).unwrap();
    // As when a session comes whose packs are here already.
    let pin = place.vault.pin();
    assert!(place.vault.has_whole(&pin, name_of(&pack)).unwrap());
    place.vault.sweep(going, &collector).unwrap().unwrap();
    drop(collector);
    place.vault.check(first, true).unwrap();
    assert!(pack.exists());
    // Nobody recorded that it is needed.
    drop(pin);
    place.vault.collect(&AT_ONCE, || points(&[second])).unwrap().unwrap();
    assert!(!pack.exists());
    place.vault.check(second, true).unwrap();
}

#[test]
fn a_pack_that_came_while_it_was_decided_stays() {
    let place = Place::new();
    let (first, pack) = place.cut_with("file", 1);
    fs::remove_file(place.workspace().join("file")).unwrap();
    let second = place.cut().root;
    let asked = AtomicUsize::new(0);
    let points = || {
        // Right before it is noted what goes.
        if asked.fetch_add(1, Ordering::SeqCst) == 2 {
            assert!(place.vault.has_whole(&place.vault.pin(), name_of(&pack)).unwrap());
        }
        Ok::<_, SnapshotError>(vec![second])
    };
    place.vault.collect(&AT_ONCE, points).unwrap().unwrap();
    assert!(pack.exists());
    place.vault.check(first, true).unwrap();
}
