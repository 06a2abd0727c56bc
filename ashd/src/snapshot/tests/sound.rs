//! An index that is damaged: it is made anew before anybody relies on what it does not say.

use super::arriving::name_of;
use super::damaged::scattered;
use super::*;

/// How the page is spoilt on which an index has all chunks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spoilt {
    /// It is no page.
    Senseless,
    /// It says that there is nothing on it.
    Silent,
}

const BOTH: [Spoilt; 2] = [Spoilt::Senseless, Spoilt::Silent];

/// Spoils an index that nobody has open.
pub(super) fn spoil(store: &Path, how: Spoilt) {
    spoil_page(&store.join("index.db"), "chunks", |page| {
        assert_eq!(page[0], 10, "there are chunks on other pages");
        match how {
            Spoilt::Senseless => page.fill(0),
            // Two bytes say how many rows there are.
            Spoilt::Silent => page[3..5].fill(0),
        }
    });
}

/// Spoils the first page of a table of an index that nobody has open.
fn spoil_page(path: &Path, table: &str, spoil: impl FnOnce(&mut [u8])) {
    let index = rusqlite::Connection::open(path).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?";
    let page: usize = index.query_row(sql, [table], |row| row.get(0)).unwrap();
    let size: usize = index.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
    index.close().unwrap();
    let mut bytes = fs::read(path).unwrap();
    spoil(&mut bytes[(page - 1) * size..page * size]);
    fs::write(path, bytes).unwrap();
}

impl Place {
    /// As after a restart, with an index that was spoilt before.
    fn with_spoilt(self, how: Spoilt) -> Place {
        let store = self.store();
        let Place { dir, vault, session } = self;
        drop(vault);
        spoil(&store, how);
        Place { vault: open(dir.path()), dir, session }
    }

    /// What is wrong with the index.
    fn wrong(&self) -> Option<String> {
        index::damage_of(&self.store().join("index.db")).unwrap()
    }
}

/// A point, and an index that was spoilt.
fn spoilt(how: Spoilt) -> (Place, Root) {
    let place = Place::new();
    let (root, _) = place.cut_with("file", 1);
    (place.with_spoilt(how), root)
}

#[test]
fn it_is_not_looked_through_when_a_vault_is_opened() {
    for how in BOTH {
        let (place, _) = spoilt(how);
        assert!(place.wrong().is_some(), "{how:?}");
    }
}

#[test]
fn nothing_is_said_to_be_missing_because_of_that() {
    for how in BOTH {
        let (place, root) = spoilt(how);
        assert_same(&place.live(), &place.restore(root, "back"));
        assert_eq!((place.vault.damaged(), place.wrong()), (0, None), "{how:?}");
        // What was known of files is not relied on either.
        assert!(!place.vault.scan(place.session).exists());
    }
}

/// What it says of places may be of another time as well.
#[test]
fn nothing_is_said_to_be_damaged_because_of_that() {
    let place = Place::new();
    let (root, _) = place.cut_with("file", 1);
    let path = place.store().join("index.db");
    let Place { dir, vault, session } = place;
    drop(vault);
    let index = rusqlite::Connection::open(&path).unwrap();
    index.execute("UPDATE chunks SET offset = offset + 1", []).unwrap();
    index.close().unwrap();
    // Who reads does not meet it.
    spoil_page(&path, "writers", |page| page.fill(0));
    let place = Place { vault: open(dir.path()), dir, session };
    assert_same(&place.live(), &place.restore(root, "back"));
    assert_eq!((place.vault.damaged(), place.wrong()), (0, None));
}

#[test]
fn whoever_looks_follows_or_collects_has_it_made_anew() {
    let acts: [fn(&Place, Root); 4] = [
        |place, _| place.vault.look_through(false).unwrap(),
        |place, root| assert!(place.survey(&[root], false).damaged.is_empty()),
        |place, root| assert!(!place.vault.packs_of(root).unwrap().is_empty()),
        |place, root| assert_eq!(place.collect(&[root]).damaged, 0),
    ];
    for how in BOTH {
        for (n, act) in acts.iter().enumerate() {
            let (place, root) = spoilt(how);
            act(&place, root);
            assert_eq!(place.wrong(), None, "{how:?}: {n}");
            place.vault.check(root, true).unwrap();
        }
    }
}

#[test]
fn what_is_missing_is_missing_also_then() {
    for how in BOTH {
        let place = Place::new();
        let (root, pack) = place.cut_with("file", 1);
        let place = place.with_spoilt(how);
        fs::remove_file(pack).unwrap();
        let refused = place.refused(root);
        assert!(matches!(refused, SnapshotError::Damaged { .. }), "{how:?}: {refused}");
        assert_eq!(place.vault.damaged(), 1);
        // And is stored again.
        assert_eq!(place.cut().root, root);
        assert!(place.survey(&[root], true).damaged.is_empty());
    }
}

#[test]
fn whoever_saves_does_not_need_it() {
    for how in BOTH {
        let (place, root) = spoilt(how);
        fs::write(place.workspace().join("more"), noise(2, 100_000)).unwrap();
        let next = place.cut().root;
        assert!(place.survey(&[root, next], true).damaged.is_empty(), "{how:?}");
        assert_same(&place.live(), &place.restore(next, "back"));
    }
}

/// More than is kept in memory.
#[test]
fn what_it_cannot_take_in_is_in_the_one_that_is_made_anew() {
    let (place, root) = spoilt(Spoilt::Senseless);
    let stash = Mutex::new(vault::Stash::new(&place.vault));
    let many = 0..10_000_u32;
    let put = |n: u32| vault::put(&stash, n.to_le_bytes().to_vec()).unwrap();
    let chunks: Vec<_> = many.clone().map(put).collect();
    stash.lock().unwrap().publish().unwrap();
    drop(stash);
    assert_eq!(place.wrong(), None);
    for (n, chunk) in many.zip(chunks) {
        assert_eq!(place.vault.piece(chunk).unwrap(), n.to_le_bytes());
    }
    place.vault.check(root, true).unwrap();
}

/// It is none, or one of something else.
#[test]
fn one_that_nothing_can_be_asked_of_is_made_anew_when_the_vault_is_opened() {
    for is_database in [false, true] {
        let place = Place::new();
        let (root, _) = place.cut_with("file", 1);
        let path = place.store().join("index.db");
        let Place { dir, vault, session } = place;
        drop(vault);
        fs::write(&path, noise(1, 8192)).unwrap();
        if is_database {
            fs::remove_file(&path).unwrap();
            let other = rusqlite::Connection::open(&path).unwrap();
            other.execute_batch("CREATE TABLE packs (other)").unwrap();
        }
        let place = Place { vault: open(dir.path()), dir, session };
        assert!(!place.vault.scan(session).exists());
        assert_same(&place.live(), &place.restore(root, "back"));
        assert_eq!(place.wrong(), None);
    }
}

/// It is wanted of a deep look, however often somebody has looked.
#[test]
fn one_that_is_damaged_later_is_found() {
    let place = Place::new();
    let (root, _) = place.cut_with("file", 1);
    place.vault.look_through(false).unwrap();
    fs::remove_file(place.store().join("index.db")).unwrap();
    place.vault.look_through(false).unwrap();
    assert!(place.wrong().is_some());
    assert!(place.survey(&[root], true).damaged.is_empty());
    assert_eq!(place.wrong(), None);
}

#[test]
fn one_that_cannot_be_made_anew_says_nothing_until_it_is() {
    let (place, root) = spoilt(Spoilt::Senseless);
    let packs = place.store().join("packs");
    let away = packs.with_extension("away");
    fs::rename(&packs, &away).unwrap();
    for _ in 0..2 {
        let refused = place.refused(root);
        assert!(matches!(refused, SnapshotError::Store(_)), "{refused}");
        assert!(place.vault.look_through(false).is_err());
    }
    fs::rename(&away, &packs).unwrap();
    assert_same(&place.live(), &place.restore(root, "back"));
    assert_eq!((place.vault.damaged(), place.wrong()), (0, None));
}

/// As when too many files were open.
#[test]
fn what_could_not_be_read_when_it_was_made_is_not_missing() {
    let place = Place::new();
    let (root, pack) = place.cut_with("file", 1);
    let (path, away) = (place.store().join("index.db"), pack.with_extension("away"));
    let Place { dir, vault, session } = place;
    drop(vault);
    fs::remove_file(path).unwrap();
    fs::rename(&pack, &away).unwrap();
    symlink(&pack, &pack).unwrap();
    let place = Place { vault: open(dir.path()), dir, session };
    for _ in 0..2 {
        let refused = place.refused(root);
        assert!(matches!(refused, SnapshotError::Store(_)), "{refused}");
        assert_eq!(place.survey(&[], false).packs.len(), 1);
    }
    fs::remove_file(&pack).unwrap();
    fs::rename(&away, &pack).unwrap();
    assert_same(&place.live(), &place.restore(root, "back"));
    assert!(place.survey(&[root], true).damaged.is_empty() && place.vault.damaged() == 0);
}

/// Else it would be forgotten with the other one, and be there all the same.
#[test]
fn what_lies_in_two_packs_is_found_in_the_one_that_stays() {
    let (place, packs, root) = scattered(&[1]);
    let old = fs::read(&packs[0]).unwrap();
    place.collect(&[root]);
    fs::write(&packs[0], old).unwrap();
    let place = place.again();
    let (path, id) = (place.store().join("index.db"), chunk::ChunkId::of(&noise(1, 10_000)));
    let mut index = place.vault.index();
    let moved = index.find(id).unwrap().unwrap();
    let both = [moved.pack, name_of(&packs[0])];
    assert_ne!(both[0], both[1]);
    for (n, going) in both.iter().enumerate() {
        index.set_going(index::Going::from([(*going, Arc::from([moved.row]))]));
        index.make_anew(&path).unwrap();
        assert_eq!(index.find(id).unwrap().unwrap().pack, both[1 - n]);
    }
}
