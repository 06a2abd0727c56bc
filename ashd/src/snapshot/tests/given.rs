//! What is taken from a live tree: if the store has lost it, it is stored again.

use super::damaged::apart;
use super::returned::put_in_place;
use super::*;

/// Brings a point back for a session of its own, with what the session has that has the point.
fn give(place: &Place, root: Root) -> (SessionId, PathBuf) {
    give_of(place, root, &place.vault.donor(place.session, &place.live()).unwrap())
}

/// The same, of a donor that has been looked at.
fn give_of(place: &Place, root: Root, donor: &Donor) -> (SessionId, PathBuf) {
    let (session, parent) = (SessionId::random(), place.dir.path());
    let plain = Restoring::new(session, (parent, "given"), &NEVER);
    place.vault.restore(root, &Restoring { donor: Some(donor), ..plain }).unwrap();
    (session, parent.join("given"))
}

#[test]
fn what_changes_behind_the_look_at_a_donor_is_not_taken_from_it() {
    let place = Place::new();
    let at = |name: &str| place.workspace().join(name);
    for (seed, name) in (0..).zip(["changed", "saved anew", "gone", "same"]) {
        fs::write(at(name), noise(seed, 50_000)).unwrap();
    }
    // Until times tell that nothing has changed since.
    while place.cut().held {}
    let root = place.cut().root;
    let whole = place.restore(root, "whole");
    let donor = place.vault.donor(place.session, &place.live()).unwrap();
    fs::write(at("saved anew"), noise(10, 50_000)).unwrap();
    drop(place.cut());
    fs::write(at("changed"), noise(11, 50_000)).unwrap();
    fs::remove_file(at("gone")).unwrap();
    let (_, given) = give_of(&place, root, &donor);
    assert_same(&whole, &given);
    assert!(place.vault.donor(place.session, &at("none")).is_err());
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
