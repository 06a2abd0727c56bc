//! Files that an agent stores into through a mapping, without a call.

use ash_sys::files::Mapping;

use super::*;

/// A file of two pages of which the first is mapped; `None` where stores do not change times.
fn mapped(place: &Place) -> Option<(PathBuf, Mapping)> {
    let path = place.workspace().join("mapped");
    fs::write(&path, [0; 8192]).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mapping = Mapping::of(&file).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    mapping.store(0, 1);
    if file.metadata().unwrap().modified().unwrap() == SystemTime::UNIX_EPOCH {
        println!("SKIP: the file system of {} tells of no stores", place.dir.path().display());
        return None;
    }
    Some((path, mapping))
}

#[test]
fn every_store_into_a_mapped_page_is_in_the_next_point() {
    let place = Place::new();
    let Some((_, mapping)) = mapped(&place) else { return };
    // Until its times are old enough to tell.
    while place.cut().held {}
    for at in 1..4 {
        mapping.store(at, 7);
        let cut = place.cut();
        assert_same(&place.live(), &place.restore(cut.root, &format!("back-{at}")));
        while place.cut().held {}
    }
}

#[test]
fn what_was_read_while_the_agent_stood_still_is_read_again() {
    let place = Place::new();
    let Some((path, mapping)) = mapped(&place) else { return };
    while place.cut().held {}
    let moves = |stage| {
        if stage == Stage::Moment {
            mapping.store(1, 7);
        }
        true
    };
    let hold = || -> io::Result<Box<dyn Any>> {
        // As when looking takes long: by the time it is read, its times are old.
        let changed = fs::metadata(&path).unwrap().modified().unwrap();
        while changed.elapsed().unwrap_or_default() < Duration::from_millis(100) {
            std::thread::yield_now();
        }
        nobody()
    };
    assert!(place.cut_as((&NEVER, Limits::default()), &hold, &moves).unwrap().held);
    mapping.store(2, 7);
    let cut = place.cut();
    assert_same(&place.live(), &place.restore(cut.root, "back"));
}
