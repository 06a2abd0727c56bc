//! What is taken from a live tree although the store has lost it: it is stored again.

use super::damaged::apart;
use super::returned::put_in_place;
use super::*;

/// Brings a point back for a session of its own, with what the session has that has the point.
fn give(place: &Place, root: Root) -> (SessionId, PathBuf) {
    let (session, parent, live) = (SessionId::random(), place.dir.path(), place.live());
    let donor = Some(Donor { session: place.session, root: &live });
    let plain = Restoring::new(session, (parent, "given"), &NEVER);
    place.vault.restore(root, &Restoring { donor, ..plain }).unwrap();
    (session, parent.join("given"))
}

#[test]
fn what_was_lost_and_is_taken_from_a_donor_is_stored_again() {
    let (place, pack, _) = apart();
    fs::hard_link(place.workspace().join("file"), place.workspace().join("too")).unwrap();
    // Until times tell that nothing has changed since.
    while place.cut().held {}
    let root = place.cut().root;
    let noted = place.vault.scan(place.session);
    let known = fs::read(&noted).unwrap();
    fs::remove_file(&pack).unwrap();
    assert!(place.vault.set_right(&place.survey(&[root], true)).unwrap());
    // A save that was under way has noted it again, and is about to forget it.
    fs::write(&noted, known).unwrap();
    let (session, built) = give(&place, root);
    assert_same(&place.live(), &built);
    let known = scan::Scan::load(&place.vault.scan(session)).files;
    let paths = ["file", "too", "other", ""];
    let is_known = paths.map(|name| {
        let path = format!("workspace/{name}");
        known.contains_key(path.trim_end_matches('/').as_bytes())
    });
    assert_eq!(is_known, [false, false, true, true]);
    let given = put_in_place(&place, (session, built));
    assert_eq!(given.cut().root, root);
    place.vault.check(root, true).unwrap();
}
