//! Packs that come from elsewhere.

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
        let name = pack::name_of(pack.file_name().unwrap().to_str().unwrap()).unwrap();
        let arriving = self.vault.arriving(name).unwrap();
        io::Write::write_all(&mut arriving.writer().unwrap(), bytes).unwrap();
        self.vault.take_in_pack(pin, &arriving).unwrap();
    }
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
