//! Healing while somebody collects: what was damaged is stored again by the next save, and stays.

use super::collected::{meanwhile, without_old};
use super::damaged::{flip_at, place_of, scattered};
use super::*;

/// A point with a damaged chunk in a pack most of which nobody needs.
fn rotten() -> (Place, PathBuf, Root) {
    let (place, packs, root) = scattered(&[1]);
    let pack = packs[0].clone();
    flip_at(&pack, place_of(&noise(1, 64), &pack));
    (place, pack, root)
}

/// A point of which the topmost directory is damaged: it cannot be followed.
fn beheaded() -> (Place, Root) {
    let (place, _, [_, root]) = without_old();
    let at = place.vault.index().find(Vault::top(root)).unwrap().unwrap();
    let pack = pack::path(&place.store().join("packs"), at.pack);
    flip_at(&pack, at.row.offset);
    (place, root)
}

impl Place {
    /// Sees to it that what is damaged of a point is stored again.
    fn set_right(&self, root: Root) {
        let survey = self.survey(&[root], true);
        assert_eq!(survey.damaged.len(), 1, "{survey:?}");
        assert!(self.vault.set_right(&survey).unwrap());
    }

    /// The next save has the same content.
    fn save(&self, root: Root) {
        assert_eq!(self.cut().root, root);
    }

    /// A point is whole, and nothing else is noted of it.
    fn assert_healed(&self, root: Root) {
        let survey = self.survey(&[root], true);
        assert!(survey.damaged.is_empty() && survey.packs.is_empty(), "{survey:?}");
        assert_eq!((self.vault.damage(root), self.vault.damaged()), (None, 0));
        assert_same(&self.live(), &self.restore(root, "back"));
    }
}

#[test]
fn what_is_stored_again_while_it_is_decided_what_goes_stays() {
    // Before anything is looked through, before it is chosen what goes, and before that is noted.
    for n in [0, 1, 2] {
        let (place, pack, root) = rotten();
        let collected = meanwhile(&place, n, root, || {
            place.set_right(root);
            place.save(root);
            None
        });
        assert_eq!((collected.damaged, collected.held), (0, 0), "{n}: {collected:?}");
        assert!(!pack.exists(), "{n}: it is not needed any more");
        place.assert_healed(root);
    }
}

#[test]
fn what_is_stored_again_while_the_rest_is_removed_stays() {
    let (place, pack, root) = rotten();
    let (collector, going) = place.decide(&[root]);
    place.set_right(root);
    place.save(root);
    let collected = place.vault.sweep(going, &collector).unwrap().unwrap();
    drop(collector);
    assert!(!pack.exists() && collected.held == 0, "{collected:?}");
    place.assert_healed(root);
}

#[test]
fn what_nobody_has_stored_again_yet_keeps_what_it_is_in() {
    for n in [0, 1, 2] {
        let (place, pack, root) = rotten();
        let collected = meanwhile(&place, n, root, || {
            place.set_right(root);
            None
        });
        assert!(pack.exists() && collected.held == 1, "{n}: {collected:?}");
        place.save(root);
        assert_eq!(place.collect(&[root]).held, 0);
        assert!(!pack.exists(), "{n}: it is not needed any more");
        place.assert_healed(root);
    }
}

#[test]
fn a_point_that_can_be_followed_again_while_it_is_decided_is_not_lost() {
    for n in [0, 1, 2] {
        let (place, root) = beheaded();
        let collected = meanwhile(&place, n, root, || {
            place.set_right(root);
            place.save(root);
            None
        });
        assert_eq!(collected.damaged, 0, "{n}: {collected:?}");
        place.assert_healed(root);
        assert_eq!(place.collect(&[root]).held, 0, "{n}");
        place.vault.check(root, true).unwrap();
    }
}

#[test]
fn what_whoever_collects_finds_damaged_is_stored_again() {
    let (place, root) = beheaded();
    let (collector, going) = place.decide(&[root]);
    assert!(place.vault.damage(root).is_some());
    place.save(root);
    let collected = place.vault.sweep(going, &collector).unwrap().unwrap();
    drop(collector);
    assert!(collected.damaged == 1 && collected.packs == 0, "{collected:?}");
    place.assert_healed(root);
    assert_eq!(place.collect(&[root]).damaged, 0);
    place.vault.check(root, true).unwrap();
}

/// Whoever cannot bring a point back notes that, and leaves the rest to others.
#[test]
fn what_others_have_noted_is_stored_again_behind_the_next_collecting() {
    let (place, root) = beheaded();
    assert!(matches!(place.refused(root), SnapshotError::Damaged { .. }));
    assert!(place.vault.damage(root).is_some());
    assert_eq!(place.collect(&[root]).damaged, 1);
    place.save(root);
    place.assert_healed(root);
}

/// Whoever is about to remove the only other copy looks before.
#[test]
fn what_is_found_damaged_by_whoever_looks_at_one_point_is_stored_again() {
    let (place, _, root) = rotten();
    assert!(!place.vault.is_whole(root).unwrap());
    assert_eq!(place.vault.damaged(), 1);
    place.save(root);
    assert!(place.vault.is_whole(root).unwrap());
    place.assert_healed(root);
}
