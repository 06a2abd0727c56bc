//! Looking at a vault that nobody has open: everything is told, and nothing is changed.

use super::arriving::name_of;
use super::damaged::{apart, lose, scattered};
use super::sound::{Spoilt, spoil};
use super::*;

/// A store that nobody has open any more.
struct Resting {
    dir: tempfile::TempDir,
}

impl Place {
    fn rest(self) -> Resting {
        Resting { dir: self.dir }
    }
}

impl Resting {
    fn store(&self) -> PathBuf {
        self.dir.path().join("store/default")
    }

    /// What a look finds, which changes nothing.
    fn look(&self, points: &[Root], deep: bool) -> Survey {
        let vaults = self.dir.path().join("store");
        let before = seen(&vaults);
        let tenants = AtRest::tenants(&vaults).unwrap();
        assert_eq!(tenants, [Tenant::default()]);
        let resting = AtRest::open(&vaults, &tenants[0]).unwrap();
        let survey = resting.survey(deep, || Ok::<_, SnapshotError>(points.to_vec())).unwrap();
        drop(resting);
        assert_eq!(seen(&vaults), before);
        survey
    }
}

/// Nothing is wrong.
fn assert_whole(survey: &Survey) {
    assert!(survey.damaged.is_empty() && survey.packs.is_empty(), "{survey:?}");
    assert!(survey.index.is_none() && survey.chunks > 0, "{survey:?}");
}

#[test]
fn what_was_not_finished_stays_and_is_no_damage() {
    let place = Place::new();
    let (root, _) = place.cut_with("file", 1);
    let scan = place.vault.scan(place.session);
    let resting = place.rest();
    fs::write(resting.store().join("tmp/left"), "half of it").unwrap();
    fs::write(scan.with_extension("new"), "half of it").unwrap();
    for deep in [false, true] {
        assert_whole(&resting.look(&[root], deep));
    }
    assert!(scan.exists());
}

/// As behind a daemon that was killed: what it had in memory is in no index, and the rest is in the log.
#[test]
fn what_an_index_does_not_know_or_has_in_its_log_is_found() {
    for is_flushed in [false, true] {
        let place = Place::new();
        let (root, _) = place.cut_with("file", 1);
        if is_flushed {
            place.vault.index().flush().unwrap();
        }
        let killed = tempfile::tempdir().unwrap();
        copy_all(place.dir.path(), killed.path());
        let log = fs::metadata(killed.path().join("store/default/index.db-wal")).unwrap();
        assert!(log.len() > 0);
        assert_whole(&Resting { dir: killed }.look(&[root], true));
    }
}

/// Everything beneath a directory, as it is now.
fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let (entry, kind) = entry.map(|entry| (entry.path(), entry.file_type().unwrap())).unwrap();
        let copy = to.join(entry.file_name().unwrap());
        if kind.is_dir() {
            fs::create_dir(&copy).unwrap();
            copy_all(&entry, &copy);
        } else {
            fs::copy(&entry, &copy).unwrap();
        }
    }
}

#[test]
fn a_pack_that_is_gone_or_cut_off_is_told_again_and_again() {
    for cut_off in [false, true] {
        let (place, pack, root) = apart();
        let (resting, name) = (place.rest(), name_of(&pack));
        lose(&pack, cut_off);
        for deep in [false, true, false] {
            let survey = resting.look(&[root], deep);
            let packs: Vec<_> = survey.packs.iter().map(|bad| bad.pack).collect();
            assert_eq!((packs, survey.damaged.len()), (vec![name], 1), "{survey:?}");
            assert_eq!(survey.damaged[0].path, "workspace/file");
            assert_eq!(survey.packs[0].how == "it is not there", !cut_off, "{survey:?}");
            assert!(survey.index.is_none(), "{survey:?}");
        }
    }
}

/// The index may have known of it when the machine went down behind its removal.
#[test]
fn a_pack_that_is_gone_and_that_nobody_needs_is_no_damage() {
    let place = Place::new();
    // What every point has is in a pack of its own.
    drop(place.cut());
    let old = place.cut_without("old", 1);
    let root = place.cut().root;
    let resting = place.rest();
    fs::remove_file(old).unwrap();
    for deep in [false, true] {
        assert_whole(&resting.look(&[root], deep));
    }
}

/// And what was moved out of it is in a pack that the index has not heard of.
#[test]
fn what_is_in_another_pack_than_the_index_knows_is_no_damage() {
    let (place, packs, root) = scattered(&[1]);
    // All that an index says is in its file when nobody has it open.
    let (index, before) = (place.store().join("index.db"), place.dir.path().join("before"));
    let Place { dir, vault, session } = place;
    drop(vault);
    fs::copy(&index, &before).unwrap();
    let place = Place { vault: open(dir.path()), dir, session };
    place.collect(&[root]);
    assert!(!packs[0].exists());
    let resting = place.rest();
    fs::copy(before, index).unwrap();
    for deep in [false, true] {
        assert_whole(&resting.look(&[root], deep));
    }
}

#[test]
fn a_damaged_index_is_told_and_damage_of_points_is_told_apart() {
    for how in [Spoilt::Senseless, Spoilt::Silent] {
        let (place, pack, root) = apart();
        let resting = place.rest();
        spoil(&resting.store(), how);
        let survey = resting.look(&[root], true);
        assert!(survey.index.is_some(), "{how:?}: {survey:?}");
        assert!(survey.damaged.is_empty() && survey.packs.is_empty(), "{how:?}: {survey:?}");
        // What the pack was called nobody knows any more.
        lose(&pack, false);
        let survey = resting.look(&[root], false);
        assert!(survey.index.is_some() && survey.damaged.len() == 1, "{how:?}: {survey:?}");
    }
}

#[test]
fn one_that_was_only_begun_has_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let resting = Resting { dir };
    fs::create_dir_all(resting.store()).unwrap();
    let survey = resting.look(&[], true);
    assert!(survey.packs.is_empty() && survey.index.is_none(), "{survey:?}");
    let lost = resting.look(&[Root([7; 32])], false);
    assert_eq!(lost.damaged.len(), 1, "{lost:?}");
}
