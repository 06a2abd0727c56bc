//! What is done while the agent stands still, and what is not.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;

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
    let tmp = place.store().join("tmp");
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
fn packs_come_to_the_disk_when_the_agent_goes_on() {
    let place = Place::new();
    let count = |part: &str| fs::read_dir(place.store().join(part)).unwrap().count();
    let stash = Mutex::new(vault::Stash::new(&place.vault));
    stash.lock().unwrap().hold(true);
    let mut bytes = noise(1, chunk::LARGEST);
    let mut chunks = vec![];
    // More than a pack holds.
    for n in 0..=vault::PACK / chunk::LARGEST as u64 {
        bytes[..8].copy_from_slice(&n.to_le_bytes());
        chunks.push(vault::put(&stash, bytes.clone()).unwrap());
    }
    assert_eq!((count("packs"), count("tmp")), (0, 2));
    stash.lock().unwrap().hold(false);
    let published = stash.lock().unwrap().publish().unwrap();
    assert!(published > vault::PACK, "{published}");
    assert_eq!((count("packs"), count("tmp")), (2, 0));
    assert_eq!(place.vault.piece(*chunks.last().unwrap()).unwrap(), bytes);
    assert!(chunks.iter().all(|chunk| place.vault.piece(*chunk).is_ok()));
}

#[test]
fn whoever_stands_still_does_not_wait_for_the_index() {
    let place = Place::new();
    let stash = Mutex::new(vault::Stash::new(&place.vault));
    stash.lock().unwrap().hold(true);
    let index = place.vault.index();
    let chunk = vault::put(&stash, noise(1, 1000)).unwrap();
    drop(index);
    stash.lock().unwrap().publish().unwrap();
    assert_eq!(place.vault.piece(chunk).unwrap(), noise(1, 1000));
}

/// Somebody who has the index until the agent goes on, but not for ever: whoever waits for it is to be
/// found out, and not to hang.
struct Busy {
    goes_on: Option<Sender<()>>,
    thread: Option<JoinHandle<bool>>,
    /// Whether it was waited for in vain that the agent goes on.
    in_vain: &'static AtomicBool,
}

impl Busy {
    fn begin(vault: Arc<Vault>, in_vain: &'static AtomicBool) -> Busy {
        let (goes_on, told) = mpsc::channel();
        let (has, had) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let _index = vault.index();
            has.send(()).unwrap();
            told.recv_timeout(Duration::from_secs(20)) == Err(RecvTimeoutError::Timeout)
        });
        had.recv().unwrap();
        Busy { goes_on: Some(goes_on), thread: Some(thread), in_vain }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        drop(self.goes_on.take());
        let in_vain = self.thread.take().is_some_and(|thread| thread.join().unwrap());
        self.in_vain.store(in_vain, Ordering::SeqCst);
    }
}

#[test]
fn a_cut_says_while_the_agent_stands_still_that_it_does() {
    static IN_VAIN: AtomicBool = AtomicBool::new(true);
    let place = Place::new();
    let hold = || -> io::Result<Box<dyn Any>> {
        // Too late for the first look: it is stored while the agent stands still.
        fs::write(place.workspace().join("late"), noise(1, 1000)).unwrap();
        Ok(Box::new(Busy::begin(place.vault.clone(), &IN_VAIN)))
    };
    let moves = |stage| {
        // Not held yet: there is something new in any case.
        let path = place.workspace().join("moved");
        assert!(stage == Stage::Passed || fs::create_dir_all(path).is_ok());
        true
    };
    let cut = place.cut_as((&NEVER, Limits::default()), &hold, &moves).unwrap();
    assert!(cut.held && !IN_VAIN.load(Ordering::SeqCst));
    assert_same(&place.live(), &place.restore(cut.root, "back"));
    place.vault.check(cut.root, true).unwrap();
}

/// Waits until times tell that something has not changed since.
pub(super) fn grow_old(path: &Path) {
    let stat = fs::metadata(path).unwrap();
    let changed = Duration::new(stat.ctime() as u64, stat.ctime_nsec() as u32);
    let changed = SystemTime::UNIX_EPOCH + changed;
    while changed.elapsed().unwrap_or_default() <= 2 * crate::tree::dir::TICK {
        std::thread::yield_now();
    }
}

#[test]
fn behind_much_that_was_read_it_is_looked_once_more_before_the_agent_is_stopped() {
    let place = Place::new();
    let (large, small) = (place.workspace().join("large"), place.workspace().join("small"));
    for (length, held) in [(20 << 20, false), (1 << 20, true)] {
        fs::write(&large, vec![length as u8; length]).unwrap();
        fs::write(&small, "before").unwrap();
        grow_old(&small);
        let moments = AtomicUsize::new(0);
        let moves = |stage| {
            if stage == Stage::Moment && moments.fetch_add(1, Ordering::SeqCst) == 0 {
                fs::write(&small, "after").unwrap();
                grow_old(&small);
            }
            true
        };
        let cut = place.cut_as((&NEVER, Limits::default()), &nobody, &moves).unwrap();
        assert_eq!((cut.held, moments.into_inner()), (held, 2), "{length} bytes");
        let back = place.restore(cut.root, &format!("back-{length}"));
        assert_same(&place.live(), &back);
    }
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
