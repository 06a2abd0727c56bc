//! What was purged goes, wherever it lies, and what is left over of others stays where it is.

use super::*;

/// As behind a purge.
const ONLY_PURGED: Collecting = Collecting { extent: Extent::Purged, ..AT_ONCE };

impl Place {
    /// Another session of the same tenant.
    fn beside(&self) -> Place {
        Place { vault: self.vault.clone(), ..Place::new() }
    }

    /// What a session has in common with its next point, and what only this one has: the pack with both, in
    /// the store of `all`, and the next point.
    fn cut_half(&self, all: &Place, seed: u64) -> (PathBuf, Root) {
        let before = all.packs();
        fs::write(self.workspace().join("kept"), noise(seed, 200_000)).unwrap();
        fs::write(self.workspace().join("gone"), noise(seed + 100, 50_000)).unwrap();
        drop(self.cut());
        let pack = all.packs().into_iter().find(|pack| !before.contains(pack)).unwrap();
        fs::remove_file(self.workspace().join("gone")).unwrap();
        (pack, self.cut().root)
    }

    /// A point of a session with this file alone, and what was written for it.
    fn cut_only(&self, seed: u64) -> (Root, u64) {
        for entry in fs::read_dir(self.workspace()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        fs::write(self.workspace().join("only"), noise(seed, 200_000)).unwrap();
        let cut = self.cut();
        (cut.root, cut.written)
    }

    /// Purges this session, which had this point, and leaves others; what was purged before is gone then.
    fn purge(&self, had: &[Root], left: &[Root]) {
        self.vault.note_purge(self.session, had.to_vec()).unwrap();
        let points = || Ok::<_, SnapshotError>(left.to_vec());
        let collected = self.vault.collect(&ONLY_PURGED, points).unwrap().unwrap();
        assert!(!self.vault.was_purged(), "{collected:?}");
        for root in left {
            self.vault.check(*root, true).unwrap();
        }
    }

    /// Whether a file of this seed is in some pack. It is not compressed there.
    fn holds(&self, seed: u64) -> bool {
        let begin = noise(seed, 64);
        let has = |pack: PathBuf| fs::read(pack).unwrap().windows(64).any(|part| part == begin);
        self.packs().into_iter().any(has)
    }
}

#[test]
fn only_packs_with_something_of_theirs_are_written_anew() {
    let place = Place::new();
    let (other, heir) = (place.beside(), place.beside());
    let (theirs, had) = place.cut_half(&place, 1);
    let (others, kept) = other.cut_half(&place, 2);
    let (shares, written) = heir.cut_only(1);
    assert!(written < 100_000, "{written}");
    place.purge(&[had], &[kept, shares]);
    assert!(!theirs.exists() && others.exists());
    assert!(!place.holds(101) && place.holds(1) && place.holds(102));
    // What another one still needed is nobody else's.
    let (now, _) = heir.cut_only(3);
    heir.purge(&[now], &[kept]);
    assert!(!place.holds(1) && !place.holds(3) && others.exists());
    // What is left of who is still there goes with the rest.
    let all = Collecting { extent: Extent::All, ..AT_ONCE };
    let points = || Ok::<_, SnapshotError>(vec![kept]);
    place.vault.collect(&all, points).unwrap().unwrap();
    assert!(!others.exists() && !place.holds(102));
    place.vault.check(kept, true).unwrap();
}

#[test]
fn what_was_moved_is_still_theirs_who_have_stored_it() {
    let place = Place::new();
    let (other, (_, had)) = (place.beside(), place.cut_half(&place, 1));
    let (_, kept) = other.cut_half(&place, 2);
    let all = Collecting { extent: Extent::All, ..AT_ONCE };
    let points = || Ok::<_, SnapshotError>(vec![had, kept]);
    place.vault.collect(&all, points).unwrap().unwrap();
    let moved = place.packs();
    // Each has left something in there. A point is removed before its session is purged.
    let (left, _) = other.cut_only(3);
    let (next, _) = place.cut_only(4);
    place.purge(&[next], &[left]);
    assert!(!place.holds(1) && moved.iter().any(|pack| !pack.exists()));
    assert!(place.holds(3));
}

#[test]
fn what_their_points_had_goes_whoever_has_stored_it() {
    let place = Place::new();
    let other = place.beside();
    other.cut_only(1);
    let (had, written) = place.cut_only(1);
    assert!(written < 100_000, "{written}");
    let (kept, _) = other.cut_only(2);
    place.purge(&[had], &[kept]);
    assert!(!place.holds(1));
}

#[test]
fn what_is_in_no_point_of_theirs_goes_as_well() {
    let place = Place::new();
    let (kept, _) = place.beside().cut_only(2);
    fs::write(place.workspace().join("file"), noise(1, 200_000)).unwrap();
    let given_up = place.cut_as((&NEVER, Limits::default()), &nobody, &|_| false);
    assert!(given_up.is_err() && place.holds(1));
    place.purge(&[], &[kept]);
    assert!(!place.holds(1));
}

/// A daemon that dies in between would leave all of it, and nobody would know.
#[test]
fn the_mark_stays_until_it_is_recorded_that_they_are_purged() {
    let place = Place::new();
    let collect = |points: &[Root]| {
        let points = || Ok::<_, SnapshotError>(points.to_vec());
        place.vault.collect(&ONLY_PURGED, points).unwrap().unwrap();
        place.vault.was_purged()
    };
    let (had, _) = place.cut_only(1);
    place.vault.begin_purge(place.session, vec![had]).unwrap();
    assert!(collect(&[had]) && collect(&[had]) && place.holds(1));
    place.vault.note_purge(place.session, vec![had]).unwrap();
    // Somebody else is about to do what is done.
    place.vault.begin_purge(place.session, vec![had]).unwrap();
    place.vault.give_up_purge(place.session);
    assert!(!collect(&[]) && !place.holds(1));
    // One that could not be recorded as purged.
    let (kept, _) = place.cut_only(2);
    place.vault.begin_purge(place.session, vec![kept]).unwrap();
    place.vault.give_up_purge(place.session);
    assert!(!collect(&[kept]) && place.holds(2));
}

#[test]
fn nothing_is_left_over_when_it_is_not_known_what_they_had() {
    // Their point cannot be followed, or a daemon before this one was told what it was.
    for restarts in [false, true] {
        let place = Place::new();
        let other = place.beside();
        let (others, kept) = other.cut_half(&place, 2);
        let had = if restarts { vec![] } else { vec![Root([7; 32])] };
        place.vault.note_purge(place.session, had).unwrap();
        drop(other);
        let place = if restarts { place.again() } else { place };
        let points = || Ok::<_, SnapshotError>(vec![kept]);
        place.vault.collect(&ONLY_PURGED, points).unwrap().unwrap();
        assert!(!others.exists() && !place.holds(102) && !place.vault.was_purged());
        place.vault.check(kept, true).unwrap();
    }
}

#[test]
fn who_was_purged_is_forgotten_and_others_are_not() {
    let place = Place::new();
    let other = place.beside();
    let (mine, _) = place.cut_only(1);
    let (theirs, _) = other.cut_only(2);
    let writer = |root| place.vault.index().writer(Vault::top(root)).unwrap();
    assert_eq!((writer(mine), writer(theirs)), (Some(place.session), Some(other.session)));
    // As one does that has many to note.
    place.vault.index().flush().unwrap();
    assert_eq!((writer(mine), writer(theirs)), (Some(place.session), Some(other.session)));
    // It is still needed.
    place.purge(&[mine], &[mine, theirs]);
    assert_eq!((writer(mine), writer(theirs)), (None, Some(other.session)));
    place.vault.index().forget_writers(None).unwrap();
    assert_eq!(writer(theirs), None);
}

/// An index of before knows nothing of who has stored what.
#[test]
fn an_index_of_before_is_gone_on_with() {
    let place = Place::new();
    let (root, _) = place.cut_only(1);
    let store = place.store();
    let Place { dir, vault, session } = place;
    drop(vault);
    let index = rusqlite::Connection::open(store.join("index.db")).unwrap();
    index.execute_batch("ALTER TABLE chunks DROP COLUMN writer; DROP TABLE writers").unwrap();
    drop(index);
    let place = Place { vault: open(dir.path()), dir, session };
    assert_eq!(place.vault.index().writer(Vault::top(root)).unwrap(), None);
    assert_eq!(place.cut().root, root);
    let (next, _) = place.cut_only(2);
    assert_eq!(place.vault.index().writer(Vault::top(next)).unwrap(), Some(place.session));
    place.purge(&[next], &[]);
    assert!(!place.holds(1) && !place.holds(2));
}
