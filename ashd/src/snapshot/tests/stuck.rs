//! Packs that cannot be removed: nothing is lost, and they go another time.

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};

use super::arriving::name_of;
use super::damaged::{flip_at, place_of, scattered};
use super::*;

/// A file that nobody can remove as long as this lives, root included.
struct Immutable(File);

impl Immutable {
    /// `None` when the file system knows nothing of that, or it is not permitted here.
    fn make(path: &Path) -> Option<Immutable> {
        let file = File::open(path).unwrap();
        let flags = ioctl_getflags(&file).ok()?;
        ioctl_setflags(&file, flags.union(IFlags::IMMUTABLE)).ok()?;
        Some(Immutable(file))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        if let Ok(flags) = ioctl_getflags(&self.0) {
            let _ = ioctl_setflags(&self.0, flags.difference(IFlags::IMMUTABLE));
        }
    }
}

impl Place {
    fn knows(&self, pack: &Path) -> bool {
        let known = self.vault.index().known().unwrap();
        known.iter().any(|(name, _)| *name == name_of(pack))
    }

    /// Collects, while something that is not removed like a file is in the place of a pack.
    fn collect_but(&self, pack: &Path, points: &[Root]) -> Collected {
        let (away, asked) = (pack.with_extension("away"), AtomicUsize::new(0));
        let points = || {
            // When it is known what goes.
            if asked.fetch_add(1, Ordering::SeqCst) == 2 {
                fs::rename(pack, &away).unwrap();
                fs::create_dir_all(pack.join("full")).unwrap();
            }
            Ok::<_, SnapshotError>(points.to_vec())
        };
        let collected = self.vault.collect(&AT_ONCE, points).unwrap().unwrap();
        fs::remove_dir_all(pack).unwrap();
        fs::rename(&away, pack).unwrap();
        collected
    }

    /// The next collecting removes a pack that is still there, and all else is whole.
    fn finish(&self, pack: &Path, root: Root) {
        assert!(pack.exists() && self.knows(pack));
        let survey = self.survey(&[root], true);
        assert!(survey.damaged.is_empty() && survey.packs.is_empty(), "{survey:?}");
        let collected = self.collect(&[root]);
        assert_eq!(collected.held, 0, "{collected:?}");
        assert!(!pack.exists() && !self.knows(pack) && !self.vault.was_purged());
        self.vault.check(root, true).unwrap();
        assert_same(&self.live(), &self.restore(root, "back"));
    }
}

#[test]
fn what_is_moved_out_of_a_pack_that_stays_is_not_lost() {
    for restarts in [false, true] {
        let (place, packs, root) = scattered(&[1, 2]);
        // Something was purged, which is remembered until nothing is left of it.
        place.vault.note_purge(place.session, vec![]).unwrap();
        let Some(immutable) = Immutable::make(&packs[0]) else {
            println!("SKIP: files cannot be made immutable here");
            return;
        };
        let collected = place.collect(&[root]);
        drop(immutable);
        assert!(!packs[1].exists() && collected.packs > 0, "{collected:?}");
        assert_eq!(collected.held, 1, "{collected:?}");
        assert!(place.vault.was_purged());
        let place = if restarts { place.again() } else { place };
        place.finish(&packs[0], root);
    }
}

#[test]
fn a_pack_that_nobody_needs_and_that_stays_goes_the_next_time() {
    for restarts in [false, true] {
        let place = Place::new();
        // What every point has is in a pack of its own.
        drop(place.cut());
        let (gone, other) = (place.cut_without("gone", 1), place.cut_without("other", 2));
        let root = place.cut().root;
        place.vault.note_purge(place.session, vec![]).unwrap();
        let collected = place.collect_but(&gone, &[root]);
        assert!(!other.exists(), "{collected:?}");
        assert_eq!(collected.held, 1, "{collected:?}");
        assert!(place.vault.was_purged());
        let place = if restarts { place.again() } else { place };
        place.finish(&gone, root);
    }
}

#[test]
fn a_pack_that_somebody_else_has_removed_is_not_held() {
    let place = Place::new();
    // What every point has is in a pack of its own.
    drop(place.cut());
    let gone = place.cut_without("gone", 1);
    let root = place.cut().root;
    let (collector, going) = place.decide(&[root]);
    fs::remove_file(&gone).unwrap();
    let collected = place.vault.sweep(going, &collector).unwrap().unwrap();
    drop(collector);
    assert!(collected.held == 0 && !place.knows(&gone), "{collected:?}");
    place.vault.check(root, true).unwrap();
}

/// A point of which a chunk was damaged in a pack of which it needs nothing else, and is stored in
/// another one by now.
fn stored_again() -> (Place, PathBuf, Root) {
    let (place, packs, root) = scattered(&[1]);
    let pack = packs[0].clone();
    flip_at(&pack, place_of(&noise(1, 64), &pack));
    let survey = place.survey(&[root], true);
    assert!(place.vault.set_right(&survey).unwrap());
    assert_eq!(place.cut().root, root);
    place.vault.check(root, true).unwrap();
    (place, pack, root)
}

#[test]
fn what_was_stored_again_is_not_looked_for_in_a_pack_that_stays() {
    for restarts in [false, true] {
        let (place, pack, root) = stored_again();
        let collected = place.collect_but(&pack, &[root]);
        assert_eq!(collected.held, 1, "{collected:?}");
        let place = if restarts { place.again() } else { place };
        place.finish(&pack, root);
    }
}

/// A daemon that dies before it removes a pack that the index has forgotten finds it at the next
/// start.
#[test]
fn what_was_stored_again_is_not_looked_for_in_a_pack_that_is_found_at_the_start() {
    let (place, pack, root) = stored_again();
    assert!(place.vault.index().forget(&[name_of(&pack)]).unwrap());
    let place = place.again();
    place.finish(&pack, root);
}
