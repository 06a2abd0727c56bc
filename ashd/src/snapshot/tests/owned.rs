//! What is brought back has the modes and times that it had and the owner that it is for, whatever was
//! in the way, and what is noted of it is so.

use std::ffi::CString;
use std::io::Write;
use std::os::unix::fs::chown;
use std::thread;

use rustix::fs::{CWD, FileType, Mode, XattrFlags};

use super::*;
use crate::tree::dir::{self, Dir, Kind};
use crate::tree::{RelPath, Tree};

/// Whom it is brought back for.
const OWNER: u32 = 4321;

/// Whose it was.
const FOREIGN: u32 = 1234;

const FILES: [u32; 13] =
    [0, 0o200, 0o400, 0o444, 0o600, 0o666, 0o755, 0o777, 0o1644, 0o2755, 0o4755, 0o6711, 0o7777];

const DIRS: [u32; 7] = [0, 0o500, 0o555, 0o700, 0o777, 0o1777, 0o2775];

/// What is made in a directory is for its owner alone, whatever is asked for (acl(5), as the kernel has
/// it): version 2, then what owner, group and others may.
const OWNER_ONLY: [u8; 28] = [
    2, 0, 0, 0, //
    0x01, 0, 7, 0, 255, 255, 255, 255, //
    0x04, 0, 0, 0, 255, 255, 255, 255, //
    0x20, 0, 0, 0, 255, 255, 255, 255,
];

/// Does something on a thread that has this umask, which has to be the same behind it; `None` when
/// threads cannot have one of their own.
fn under<T: Send>(umask: Mode, act: impl FnOnce() -> T + Send) -> Option<T> {
    let run = || {
        ash_sys::umask::shed().ok()?;
        rustix::process::umask(umask);
        let done = act();
        assert_eq!(rustix::process::umask(umask), umask, "others do not change it");
        Some(done)
    };
    thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// Files and directories of every mode, a file that is empty, and names of other files.
fn furnish_with_modes(workspace: &Path) {
    let set = |path: &Path, mode| {
        chown(path, Some(FOREIGN), Some(FOREIGN + 1)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    };
    for (seed, mode) in (0..).zip(FILES) {
        let path = workspace.join(format!("file {mode:o}"));
        fs::write(&path, noise(seed, 10_000)).unwrap();
        rustix::fs::setxattr(&path, "user.note", b"mine", XattrFlags::empty()).unwrap();
        set(&path, mode);
    }
    for mode in DIRS {
        let path = workspace.join(format!("dir {mode:o}"));
        fs::create_dir_all(path.join("below")).unwrap();
        for name in ["file", "below/file"] {
            fs::write(path.join(name), name).unwrap();
        }
        fs::write(path.join("empty"), "").unwrap();
        fs::hard_link(path.join("file"), path.join("below/once more")).unwrap();
        symlink("file", path.join("link")).unwrap();
        for name in ["empty", "file", "below/file", "below", ""] {
            set(&path.join(name), mode);
        }
    }
    let file = workspace.join("file 4755");
    fs::hard_link(file, workspace.join("../home/file")).unwrap();
}

/// Brings a point back for another owner; returns for which session, and where.
fn restored(place: &Place, root: Root, name: &str, donor: bool) -> (SessionId, PathBuf) {
    let donor = donor.then(|| place.vault.donor(place.session, &place.live()).unwrap());
    let (session, parent) = (SessionId::random(), place.dir.path());
    let plain = Restoring::new(session, (parent, name), &NEVER);
    let restoring = Restoring { owner: OWNER, donor: donor.as_ref(), ..plain };
    place.vault.restore(root, &restoring).unwrap();
    (session, parent.join(name))
}

/// All that is noted of a session's files holds, and nothing is missing that can be noted.
fn assert_noted(place: &Place, (session, built): (SessionId, &Path)) {
    let (scan, tree) = (scan::Scan::load(&place.vault.scan(session)), Tree::open(built).unwrap());
    let mut noted = 0;
    for path in seen(built).keys() {
        let path = path.to_str().unwrap();
        let stat = tree.look(&RelPath::parse(path).unwrap()).unwrap().unwrap();
        if matches!(stat.kind, Kind::File | Kind::Dir) {
            let known = scan.files.get(path.as_bytes());
            assert_eq!(known.map(|known| known.mark), Some(scan::Mark::of(&stat)), "{path}");
            noted += 1;
        }
    }
    assert_eq!(scan.files.len(), noted);
}

/// A point comes back as it is, whatever is in the way of it.
fn assert_restored(place: &Place) {
    furnish_with_modes(&place.workspace());
    let root = place.cut().root;
    for (name, donor) in [("back", false), ("given", true)] {
        let (session, built) = restored(place, root, name, donor);
        assert_same(&place.live(), &built);
        for path in seen(&built).keys() {
            let stat = fs::symlink_metadata(built.join(path)).unwrap();
            assert_eq!((stat.uid(), stat.gid()), (OWNER, OWNER), "{}", path.display());
        }
        for mode in FILES {
            let path = built.join(format!("workspace/file {mode:o}"));
            let mut note = [0; 8];
            let length = rustix::fs::getxattr(path, "user.note", &mut note[..]).unwrap();
            assert_eq!(&note[..length], b"mine", "{mode:o}");
        }
        assert_noted(place, (session, &built));
    }
}

#[test]
fn a_umask_takes_nothing() {
    if under(Mode::RWXG | Mode::RWXO, || assert_restored(&Place::new())).is_none() {
        println!("SKIP: threads cannot have a umask of their own here");
    }
}

#[test]
fn an_access_control_list_takes_nothing() {
    let place = Place::new();
    let (path, none) = (place.dir.path(), XattrFlags::empty());
    if rustix::fs::setxattr(path, "system.posix_acl_default", &OWNER_ONLY, none).is_err() {
        println!("SKIP: the file system of temporary files has no access control lists");
        return;
    }
    assert_restored(&place);
}

#[test]
fn many_directories_are_finished_by_several() {
    let place = Place::new();
    for n in 0..600 {
        let dir = place.workspace().join(format!("{}/{}/{n}", n % 7, n % 31));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("file"), format!("{n}")).unwrap();
        fs::hard_link(dir.join("file"), dir.join("once more")).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o700 | (n % 64))).unwrap();
    }
    let root = place.cut().root;
    for (name, donor) in [("back", false), ("given", true)] {
        let (session, built) = restored(&place, root, name, donor);
        assert_same(&place.live(), &built);
        assert_noted(&place, (session, &built));
    }
}

#[test]
fn what_lies_too_deep_for_a_path_is_finished() {
    let place = Place::new();
    let name = CString::new([b'd'; 250]).unwrap();
    let time = (1_000_000_000, 5);
    let mut deep = Tree::open(&place.workspace()).unwrap().top().unwrap();
    for _ in 0..40 {
        deep = deep.make_dir(&name).unwrap();
    }
    deep.make_file(c"file").unwrap().write_all(b"deep").unwrap();
    deep.make_name(c"once more", (&deep, c"file")).unwrap();
    dir::finish(&deep, FOREIGN, 0o1755, time).unwrap();
    let root = place.cut().root;
    for (to, donor) in [("back", false), ("given", true)] {
        let (_, built) = restored(&place, root, to, donor);
        let mut deep: Dir = Tree::open(&built.join("workspace")).unwrap().top().unwrap();
        for _ in 0..40 {
            deep = deep.dir(&name).unwrap();
        }
        let own = deep.own_stat().unwrap();
        assert_eq!((own.mode, own.modified), (0o1755, time));
        let [file, more] = [c"file", c"once more"].map(|name| deep.stat(name).unwrap());
        assert_eq!(file, more);
        assert_eq!((file.names, file.size), (2, 4));
    }
}

#[test]
fn what_a_donor_has_no_more_is_not_taken_from_it() {
    let place = Place::new();
    let at = |name: &str| place.workspace().join(name);
    fs::create_dir(at("moved")).unwrap();
    fs::create_dir(at("replaced")).unwrap();
    let names = "same,other,aged,grown,cut off,fifo,dir,link,gone,moved/file,replaced/file";
    for (seed, name) in (0..).zip(names.split(',')) {
        fs::write(at(name), noise(seed, 50_000)).unwrap();
    }
    fs::write(at("empty"), "").unwrap();
    // Until times tell that nothing has changed since.
    while place.cut().held {}
    let root = place.cut().root;
    let (_, whole) = restored(&place, root, "whole", false);

    fs::write(at("other"), noise(100, 50_000)).unwrap();
    let modified = fs::metadata(at("aged")).unwrap().modified().unwrap();
    fs::write(at("aged"), noise(101, 50_000)).unwrap();
    File::options().write(true).open(at("aged")).unwrap().set_modified(modified).unwrap();
    for (name, length) in [("grown", 90_000), ("cut off", 10), ("empty", 10)] {
        File::options().write(true).open(at(name)).unwrap().set_len(length).unwrap();
    }
    for name in ["fifo", "dir", "link", "gone"] {
        fs::remove_file(at(name)).unwrap();
    }
    rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    fs::create_dir(at("dir")).unwrap();
    symlink("same", at("link")).unwrap();
    fs::rename(at("moved"), at("elsewhere")).unwrap();
    symlink("elsewhere", at("moved")).unwrap();
    fs::rename(at("replaced"), at("before")).unwrap();
    fs::create_dir(at("replaced")).unwrap();
    fs::write(at("replaced/file"), noise(102, 50_000)).unwrap();
    let (session, given) = restored(&place, root, "given", true);
    assert_same(&whole, &given);
    assert_noted(&place, (session, &given));
}
