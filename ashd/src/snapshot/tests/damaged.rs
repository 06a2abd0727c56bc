//! Damage: it is told, costs nothing but what it is, and heals where it can.

use super::collected::meanwhile;
use super::*;

impl Place {
    pub(super) fn survey(&self, points: &[Root], deep: bool) -> Survey {
        self.vault.survey(deep, || Ok::<_, SnapshotError>(points.to_vec())).unwrap()
    }
}

/// Flips a byte of the first chunk.
fn flip(pack: &Path) {
    flip_at(pack, 100);
}

pub(super) fn flip_at(pack: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(pack).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Where bytes that are not compressed begin in a pack.
pub(super) fn place_of(bytes: &[u8], pack: &Path) -> u64 {
    let whole = fs::read(pack).unwrap();
    whole.windows(bytes.len()).position(|window| window == bytes).unwrap() as u64
}

/// A pack is gone, or only its beginning is there.
pub(super) fn lose(pack: &Path, cut_off: bool) {
    match cut_off {
        true => File::options().write(true).open(pack).unwrap().set_len(1000).unwrap(),
        false => fs::remove_file(pack).unwrap(),
    }
}

#[test]
fn damage_is_told_and_leaves_nothing() {
    let place = Place::new();
    furnish(&place.workspace());
    let cut = place.cut();
    let pack = &place.packs()[0];
    let whole = fs::read(pack).unwrap();
    let before = seen(&place.live());
    for at in (8..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(pack, &bytes).unwrap();
        // Nothing is remembered of the pack.
        let vault = open(place.dir.path());
        let name = format!("back-{at}");
        let (session, parent) = (SessionId::random(), place.dir.path());
        let restoring = Restoring::new(session, (parent, &name), &NEVER);
        match vault.restore(cut.root, &restoring) {
            Ok(_) => assert_eq!(seen(&parent.join(&name)), before),
            Err(SnapshotError::Damaged { .. }) => {
                let left = fs::read_dir(parent).unwrap().count();
                assert!(left <= 3 && !parent.join(&name).exists());
            }
            Err(other) => panic!("{other}"),
        }
        let _ = fs::remove_dir_all(parent.join(name));
    }
    fs::write(pack, &whole).unwrap();
    open(place.dir.path()).check(cut.root, true).unwrap();
}

#[test]
fn what_a_lost_point_may_need_stays_and_the_rest_is_collected() {
    let place = Place::new();
    let old = place.cut_without("file", 1);
    let kept = place.cut().root;
    // Nobody knows what this one needed: perhaps the first pack.
    let lost = Root([7; 32]);
    let collected = place.collect(&[lost, kept]);
    assert_eq!((collected.packs, collected.damaged), (0, 1), "{collected:?}");
    assert!(collected.held > 0 && old.exists());
    // What is written later it cannot need.
    let young = place.cut_without("other", 2);
    let newest = place.cut().root;
    let place = place.again();
    let collected = place.collect(&[lost, newest]);
    assert!(collected.packs > 0 && old.exists() && !young.exists(), "{collected:?}");
    place.vault.check(newest, true).unwrap();
    // Another one that is lost may need what there is by now.
    let (_, third) = place.cut_with("third", 3);
    place.collect(&[lost, Root([8; 32]), newest]);
    assert!(third.exists());
    // Forgotten, they keep nothing.
    place.collect(&[newest]);
    assert!(!old.exists() && !third.exists());
    assert_eq!(place.vault.damaged(), 0);
    place.vault.check(newest, true).unwrap();
}

/// It is brought back from elsewhere later, or only its table was damaged.
#[test]
fn what_a_lost_point_may_need_stays_also_when_the_index_did_not_know_of_it() {
    let place = Place::new();
    let (_, pack) = place.cut_with("file", 1);
    let (path, lost) = (place.store().join("index.db"), Root([7; 32]));
    let Place { dir, vault, session } = place;
    drop(vault);
    fs::remove_file(path).unwrap();
    let end = fs::metadata(&pack).unwrap().len() - 1;
    flip_at(&pack, end);
    let place = Place { vault: open(dir.path()), dir, session };
    assert_eq!(place.collect(&[lost]).damaged, 1);
    flip_at(&pack, end);
    let place = place.again();
    place.collect(&[lost]);
    assert!(pack.exists());
    place.collect(&[]);
    assert!(!pack.exists());
}

#[test]
fn a_flipped_byte_is_told_and_stored_again() {
    let place = Place::new();
    let (root, pack) = place.cut_with("file", 1);
    flip(&pack);
    assert!(place.survey(&[root], false).damaged.is_empty(), "nothing is read");
    let survey = place.survey(&[root], true);
    assert_eq!(survey.damaged.len(), 1);
    assert_eq!(survey.damaged[0].path, "workspace/file");
    let place = place.again();
    let known = place.vault.damage(root).unwrap().to_string();
    assert!(known.starts_with("workspace/file: chunk ") && known.contains("damaged"), "{known}");
    // A look that reads nothing takes nothing back.
    place.survey(&[root], false);
    assert_eq!(place.vault.damaged(), 1);
    // Looking changes nothing; setting right does, and the next cut heals the point.
    assert_eq!(place.cut().root, root);
    assert_eq!(place.survey(&[root], true).damaged.len(), 1);
    assert!(place.vault.set_right(&survey).unwrap());
    assert_eq!(place.cut().root, root);
    assert!(place.survey(&[root], true).damaged.is_empty());
    assert_eq!(place.vault.damaged(), 0);
    assert_same(&place.live(), &place.restore(root, "back"));
}

#[test]
fn a_pack_that_is_gone_or_cut_off_is_stored_again() {
    for cut_off in [false, true] {
        let place = Place::new();
        let (root, pack) = place.cut_with("file", 1);
        lose(&pack, cut_off);
        let told = place.survey(&[root], true);
        assert_eq!((told.damaged.len(), told.packs.len()), (1, 1), "{told:?}");
        // What was known of the files must not make the next point as damaged as this one.
        let place = place.again();
        let next = place.cut().root;
        assert!(place.survey(&[root, next], true).damaged.is_empty());
        assert_same(&place.live(), &place.restore(root, "back"));
    }
}

/// Else a daemon that dies in between has left nothing that says so.
#[test]
fn what_is_known_of_files_goes_before_it_is_forgotten_that_it_is_stored() {
    let place = Place::new();
    let (root, pack) = place.cut_with("file", 1);
    let scan = place.vault.scan(place.session);
    fs::remove_file(&pack).unwrap();
    let survey = place.survey(&[root], false);
    assert!(scan.exists() && survey.packs.len() == 1, "{survey:?}");
    let bad = survey.packs[0].pack;
    assert!(place.vault.forget_packs(&[bad]).unwrap() && !scan.exists());
    // It is not known any more.
    drop(place.cut());
    assert!(scan.exists() && !place.vault.forget_packs(&[bad]).unwrap() && scan.exists());
}

/// A point with a file, and the pack that has it and nothing of what leads to it.
pub(super) fn apart() -> (Place, PathBuf, Root) {
    let place = Place::new();
    drop(place.cut());
    let (_, pack) = place.cut_with("file", 1);
    fs::write(place.workspace().join("other"), "other").unwrap();
    let root = place.cut().root;
    (place, pack, root)
}

#[test]
fn a_pack_that_is_brought_back_while_it_is_decided_what_goes_still_counts() {
    let (place, pack, root) = apart();
    let away = pack.with_extension("away");
    fs::rename(&pack, &away).unwrap();
    meanwhile(&place, 2, root, || {
        fs::rename(&away, &pack).unwrap();
        None
    });
    assert!(place.survey(&[root], true).damaged.is_empty());
}

#[test]
fn a_pack_that_vanishes_counts_as_stored_till_the_next_collecting() {
    let (place, pack, root) = apart();
    fs::remove_file(&pack).unwrap();
    assert_eq!(place.cut().root, root);
    assert_eq!(place.survey(&[root], true).damaged.len(), 1);
    place.collect(&[root]);
    assert_eq!(place.cut().root, root);
    let survey = place.survey(&[root], true);
    assert!(survey.damaged.is_empty() && survey.packs.is_empty(), "{survey:?}");
    assert_same(&place.live(), &place.restore(root, "back"));
}

#[test]
fn what_leads_to_files_and_vanishes_is_stored_again_behind_the_next_collecting() {
    let place = Place::new();
    let (root, pack) = place.cut_with("file", 1);
    let top = Vault::top(root);
    assert!(!place.vault.is_rotten(top).unwrap());
    fs::remove_file(&pack).unwrap();
    assert!(place.vault.is_rotten(top).unwrap());
    assert_eq!(place.collect(&[root]).damaged, 1);
    assert_eq!(place.cut().root, root);
    assert!(place.survey(&[root], true).damaged.is_empty());
}

#[test]
fn what_cannot_be_read_now_is_not_damaged() {
    let place = Place::new();
    let (root, pack) = place.cut_with("file", 1);
    let place = place.again();
    let away = pack.with_extension("away");
    fs::rename(&pack, &away).unwrap();
    // It is there, and cannot be opened.
    symlink(&pack, &pack).unwrap();
    let refused = place.refused(root);
    assert!(matches!(refused, SnapshotError::Store(_)), "{refused}");
    fs::remove_file(&pack).unwrap();
    fs::rename(&away, &pack).unwrap();
    // As when a disk is away.
    let packs = pack.parent().unwrap();
    let away = packs.with_extension("away");
    fs::rename(packs, &away).unwrap();
    let refused = place.refused(root);
    assert!(matches!(refused, SnapshotError::Store(_)), "{refused}");
    assert!(place.vault.survey(true, || Ok::<_, SnapshotError>(vec![root])).is_err());
    fs::rename(&away, packs).unwrap();
    assert_eq!(place.vault.damaged(), 0);
    assert_same(&place.live(), &place.restore(root, "back"));
}

#[test]
fn a_pack_that_is_not_there_and_one_that_is_cut_off_are_damage() {
    for cut_off in [false, true] {
        let place = Place::new();
        let (root, pack) = place.cut_with("file", 1);
        let place = place.again();
        lose(&pack, cut_off);
        let damaged = place.refused(root);
        assert!(matches!(damaged, SnapshotError::Damaged { .. }), "{damaged}");
        assert_eq!(place.vault.damaged(), 1);
    }
}

#[test]
fn a_pack_that_cannot_be_read_is_not_collected_and_keeps_no_others() {
    let place = Place::new();
    let one = place.cut_without("one", 1);
    let two = place.cut_without("two", 2);
    let root = place.cut().root;
    let away = two.with_extension("away");
    fs::rename(&two, &away).unwrap();
    fs::create_dir(&two).unwrap();
    let collected = place.collect(&[root]);
    assert!(!one.exists() && collected.held == 1, "{collected:?}");
    fs::remove_dir(&two).unwrap();
    fs::rename(&away, &two).unwrap();
    assert_eq!(place.collect(&[root]).held, 0);
    assert!(!two.exists());
    place.vault.check(root, true).unwrap();
}

#[test]
fn one_damaged_pack_does_not_keep_others() {
    let place = Place::new();
    let gone = place.cut_without("gone", 1);
    let (_, bad) = place.cut_with("kept", 2);
    // Most of the damaged pack is not needed, so that it would be moved.
    let both = place.cut_without("more", 3);
    let root = place.cut().root;
    flip(&bad);
    let place = place.again();
    let collected = place.collect(&[root]);
    assert!(!gone.exists() && !both.exists() && bad.exists(), "{collected:?}");
    assert_eq!(place.survey(&[root], true).damaged.len(), 1);
}

/// A point with something of each of some packs, most of which is not needed.
pub(super) fn scattered(seeds: &[u64]) -> (Place, Vec<PathBuf>, Root) {
    let place = Place::new();
    // What every point has is in a pack of its own.
    drop(place.cut());
    let pack = |seed: &u64| {
        let kept = place.workspace().join(seed.to_string());
        fs::write(kept, noise(*seed, 10_000)).unwrap();
        let (_, pack) = place.cut_with("gone", seed + 1000);
        fs::remove_file(place.workspace().join("gone")).unwrap();
        pack
    };
    let packs = seeds.iter().map(pack).collect();
    let root = place.cut().root;
    (place, packs, root)
}

#[test]
fn what_is_damaged_is_not_moved_and_keeps_no_others() {
    let (place, packs, root) = scattered(&[1, 2, 3]);
    let at = place_of(&noise(2, 64), &packs[1]);
    flip_at(&packs[1], at);
    let collected = place.collect(&[root]);
    let there: Vec<_> = packs.iter().map(|pack| pack.exists()).collect();
    assert_eq!((there, collected.held), (vec![false, true, false], 1), "{collected:?}");
    assert_eq!(place.survey(&[root], true).damaged[0].path, "workspace/2");
    // It is where it was.
    flip_at(&packs[1], at);
    assert!(place.survey(&[root], true).damaged.is_empty());
    assert_same(&place.live(), &place.restore(root, "back"));
}

#[test]
fn what_cannot_be_read_now_keeps_no_others_from_being_removed() {
    let (place, packs, root) = scattered(&[1, 2, 3]);
    // Something was purged, which is remembered until nothing is left of it.
    place.vault.note_purge(place.session, vec![]).unwrap();
    let (away, asked) = (packs[1].with_extension("away"), AtomicUsize::new(0));
    let points = || {
        // When it is known what goes.
        if asked.fetch_add(1, Ordering::SeqCst) == 2 {
            fs::rename(&packs[1], &away).unwrap();
            // It is there, and cannot be opened, as when too many files are open.
            symlink(&packs[1], &packs[1]).unwrap();
        }
        Ok::<_, SnapshotError>(vec![root])
    };
    let collected = place.vault.collect(&AT_ONCE, points).unwrap().unwrap();
    assert!(!packs[0].exists() && !packs[2].exists());
    assert_eq!(collected.held, 1, "{collected:?}");
    fs::remove_file(&packs[1]).unwrap();
    fs::rename(&away, &packs[1]).unwrap();
    assert!(place.survey(&[root], true).damaged.is_empty());
    assert_same(&place.live(), &place.restore(root, "back"));
    assert!(place.vault.was_purged());
    assert_eq!(place.collect(&[root]).held, 0);
    assert!(!packs[1].exists() && !place.vault.was_purged());
    place.vault.check(root, true).unwrap();
}

/// A daemon that died before it removed a pack has left what it has moved out of it in two.
#[test]
fn of_two_copies_the_sound_one_is_kept() {
    let (place, packs, root) = scattered(&[1]);
    let old = fs::read(&packs[0]).unwrap();
    place.collect(&[root]);
    assert!(!packs[0].exists());
    fs::write(&packs[0], old).unwrap();
    let place = place.again();
    let moved = place.vault.index().find(chunk::ChunkId::of(&noise(1, 10_000))).unwrap().unwrap();
    flip_at(&pack::path(&place.store().join("packs"), moved.pack), moved.row.offset);
    let collected = place.collect(&[root]);
    assert!(!packs[0].exists(), "{collected:?}");
    place.vault.check(root, true).unwrap();
    assert_same(&place.live(), &place.restore(root, "back"));
}

#[test]
fn the_newest_whole_point_is_found() {
    let place = Place::new();
    let (first, _) = place.cut_with("first", 1);
    let (second, pack) = place.cut_with("second", 2);
    fs::write(place.workspace().join("third"), "third").unwrap();
    let third = place.cut().root;
    flip(&pack);
    let found = place.vault.first_whole(&[third, second, first]).unwrap();
    assert_eq!(found, Some(first));
    assert_eq!(place.vault.damaged(), 2);
    assert_eq!(place.vault.first_whole(&[third]).unwrap(), None);
    // Whoever needs it finds out as well.
    assert!(matches!(place.refused(third), SnapshotError::Damaged { .. }));
}

#[test]
fn whoever_counts_damage_waits_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = Snapshots::open(dir.path()).unwrap();
    let tenants = ["one", "two"].map(|name| name.parse::<Tenant>().unwrap());
    let vaults = tenants.each_ref().map(|tenant| snapshots.vault(tenant).unwrap());
    let lost = |n| Damage { root: Root([n; 32]), path: String::new(), how: "gone".to_owned() };
    vaults[0].note(&[], &[lost(1), lost(2)], false).unwrap();
    vaults[1].note(&[], &[lost(3)], false).unwrap();
    {
        // What is held while something is written, and while a vault is opened.
        let door = snapshots.door(&tenants[0]);
        let (_noting, _opening) = (vaults[0].notes(), door.lock());
        assert_eq!((snapshots.damaged(), vaults[0].damaged()), (3, 2));
    }
    vaults[0].keep_notes_of(&[Root([2; 32])]).unwrap();
    assert_eq!((snapshots.damaged(), vaults[0].damaged()), (2, 1));
    drop(vaults);
    snapshots.remove(&tenants[1], Duration::ZERO).unwrap();
    assert_eq!(snapshots.damaged(), 1);
    let again = Snapshots::open(dir.path()).unwrap();
    assert_eq!(again.damaged(), 1, "it is known before a vault is opened");
    again.vault(&tenants[0]).unwrap();
    assert_eq!(again.damaged(), 1);
    again.remove(&tenants[0], Duration::ZERO).unwrap();
    assert_eq!(again.damaged(), 0);
}
