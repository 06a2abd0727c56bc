//! What is done while the agent stands still, and what is not.

use super::*;

/// Looks, when it ends, whether anything was being stored.
struct Watch<'a>(PathBuf, &'a AtomicBool);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let storing = fs::read_dir(&self.0).unwrap().count() > 0;
        self.1.store(storing, Ordering::SeqCst);
    }
}

#[test]
fn nodes_are_stored_when_the_agent_goes_on() {
    static STORED: AtomicBool = AtomicBool::new(true);
    let place = Place::new();
    for n in 0..20 {
        fs::create_dir(place.workspace().join(n.to_string())).unwrap();
    }
    let tmp = place.dir.path().join("store/default/tmp");
    let hold = || -> io::Result<Box<dyn Any>> {
        // Too late for the first look, so that the second has something new.
        fs::create_dir(place.workspace().join("late")).unwrap();
        Ok(Box::new(Watch(tmp.clone(), &STORED)))
    };
    let moves = |stage| {
        // Not held yet: there is something new in any case.
        let path = place.workspace().join("moved");
        assert!(stage == Stage::Passed || fs::create_dir_all(path).is_ok());
        true
    };
    let cut = place.cut_as((&NEVER, Limits::default()), &hold, &moves).unwrap();
    assert!(cut.held && !STORED.load(Ordering::SeqCst));
    assert_same(&place.live(), &place.restore(cut.root, "back"));
}

#[test]
fn a_name_that_came_between_the_looks_is_found() {
    let place = Place::new();
    fs::create_dir(place.workspace().join("dir")).unwrap();
    fs::write(place.workspace().join("dir/a"), "a").unwrap();
    while place.cut().held {}
    let moved = AtomicBool::new(false);
    let moves = |_| {
        if !moved.swap(true, Ordering::SeqCst) {
            fs::write(place.workspace().join("dir/b"), "b").unwrap();
            fs::remove_file(place.workspace().join("dir/a")).unwrap();
        }
        true
    };
    let cut = place.cut_as((&NEVER, Limits::default()), &nobody, &moves).unwrap();
    assert!(cut.held);
    assert_same(&place.live(), &place.restore(cut.root, "back"));
}
