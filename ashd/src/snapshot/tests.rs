//! The whole store, on real trees.

use std::any::Any;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::*;
use crate::domain::{Root, SessionId};

mod collected;
mod damaged;
mod held;
mod large;
mod limited;
mod mapped;
mod reading;

/// A store, and a session's directories.
struct Place {
    dir: tempfile::TempDir,
    vault: Arc<Vault>,
    session: SessionId,
}

/// What is not needed goes, whatever its age; whoever is in the way is not waited for.
const AT_ONCE: Collecting =
    Collecting { grace: Duration::ZERO, preview: false, patience: Duration::ZERO };

static NEVER: AtomicBool = AtomicBool::new(false);

fn nobody() -> io::Result<Box<dyn Any>> {
    Ok(Box::new(()))
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        for root in ["workspace", "home"] {
            fs::create_dir_all(dir.path().join("live").join(root)).unwrap();
        }
        let vault = open(dir.path());
        Place { dir, vault, session: SessionId::random() }
    }

    fn live(&self) -> PathBuf {
        self.dir.path().join("live")
    }

    fn workspace(&self) -> PathBuf {
        self.live().join("workspace")
    }

    fn try_cut(&self, hold: &Hold<'_>) -> Result<Cut, SnapshotError> {
        self.cut_as((&NEVER, Limits::default()), hold, &|_| true)
    }

    fn cut_within(&self, limits: Limits) -> Result<Cut, SnapshotError> {
        self.cut_as((&NEVER, limits), &nobody, &|_| true)
    }

    fn cut_as(
        &self,
        (cancel, limits): (&AtomicBool, Limits),
        hold: &Hold<'_>,
        tell: &Tell<'_>,
    ) -> Result<Cut, SnapshotError> {
        let paths = [self.live().join("workspace"), self.live().join("home")];
        let roots = [("workspace", paths[0].as_path()), ("home", paths[1].as_path())];
        let cutting = Cutting { limits, ..Cutting::new(self.session, &roots, cancel) };
        self.vault.cut(&cutting, hold, tell)
    }

    fn cut(&self) -> Cut {
        self.try_cut(&nobody).unwrap()
    }

    fn try_restore(&self, root: Root, name: &str, donor: bool) -> Result<PathBuf, SnapshotError> {
        let live = self.live();
        let donor = donor.then(|| Donor { session: self.session, root: &live });
        let parent = self.dir.path();
        let session = SessionId::random();
        let plain = Restoring::new(session, (parent, name), &NEVER);
        let restoring = Restoring { donor, ..plain };
        self.vault.restore(root, &restoring)?;
        Ok(parent.join(name))
    }

    fn restore(&self, root: Root, name: &str) -> PathBuf {
        self.try_restore(root, name, false).unwrap()
    }
}

fn open(dir: &Path) -> Arc<Vault> {
    Snapshots::open(&dir.join("store")).unwrap().vault(&Tenant::default()).unwrap()
}

/// What a tree is, read by nothing of ours.
type Seen = BTreeMap<PathBuf, (u32, i64, i64, u64, Vec<u8>, u64)>;

fn seen(root: &Path) -> Seen {
    let mut all = Seen::new();
    let mut todo = vec![root.to_owned()];
    let mut groups = BTreeMap::new();
    while let Some(dir) = todo.pop() {
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        for path in names.into_iter().chain([dir.clone()]) {
            let stat = fs::symlink_metadata(&path).unwrap();
            let kind = stat.file_type();
            let body = match () {
                () if kind.is_symlink() => {
                    fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()
                }
                () if kind.is_file() => fs::read(&path).unwrap(),
                () => vec![],
            };
            // Directories differ in size without being different.
            let size = if kind.is_dir() { 0 } else { stat.size() };
            let name = path.strip_prefix(root).unwrap().to_owned();
            let next = groups.len() as u64;
            let group = *groups.entry(stat.ino()).or_insert(next);
            let group = if kind.is_file() && stat.nlink() > 1 { group + 1 } else { 0 };
            let fresh = all
                .insert(name, (stat.mode(), stat.mtime(), stat.mtime_nsec(), size, body, group))
                .is_none();
            if fresh && kind.is_dir() && path != dir {
                todo.push(path);
            }
        }
    }
    // The directory around the roots is in no point.
    all.remove(Path::new(""));
    // Which number a group has depends on the order of inodes; which names it has does not.
    let firsts: BTreeMap<u64, PathBuf> = all
        .iter()
        .rev()
        .filter(|(_, entry)| entry.5 > 0)
        .map(|(path, entry)| (entry.5, path.clone()))
        .collect();
    let order: Vec<_> = {
        let mut paths: Vec<_> = firsts.values().cloned().collect();
        paths.sort();
        paths
    };
    for entry in all.values_mut().filter(|entry| entry.5 > 0) {
        let first = &firsts[&entry.5];
        entry.5 = 1 + order.iter().position(|path| path == first).unwrap() as u64;
    }
    all
}

fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (seen(left), seen(right));
    for (path, entry) in &left {
        assert_eq!(Some(entry), right.get(path), "{}", path.display());
    }
    assert_eq!(left.len(), right.len());
}

/// Long enough ago that times tell everything.
fn settle(path: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    for entry in fs::read_dir(path).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            settle(&entry.path());
        } else if entry.file_type().unwrap().is_file() {
            let times = FileTimes::new().set_modified(long_ago);
            File::open(entry.path()).unwrap().set_times(times).unwrap();
        }
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

/// One of everything.
fn furnish(workspace: &Path) {
    let file = |name: &str, body: &[u8]| {
        let path = workspace.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, body).unwrap();
        path
    };
    file(".git/objects/aa/bb", b"object");
    file("node_modules/.bin/x", b"#!/bin/sh\n");
    for lock in ["Cargo.lock", "yarn.lock", "a.pid", "empty"] {
        file(lock, if lock == "empty" { b"" } else { b"kept" });
    }
    file("large", &noise(1, 3_000_000));
    let tool = file("tool", b"run me");
    fs::set_permissions(&tool, Permissions::from_mode(0o4755)).unwrap();
    fs::create_dir_all(workspace.join("a/b/c/none")).unwrap();
    fs::set_permissions(workspace.join("a/b"), Permissions::from_mode(0o2750)).unwrap();
    fs::create_dir(workspace.join("shared")).unwrap();
    fs::set_permissions(workspace.join("shared"), Permissions::from_mode(0o1777)).unwrap();
    for (name, target) in
        [("up", "../.."), ("abs", "/etc/passwd"), ("gone", "no where"), ("self", "self")]
    {
        symlink(target, workspace.join(name)).unwrap();
    }
    fs::hard_link(workspace.join("large"), workspace.join("a/large too")).unwrap();
    fs::hard_link(workspace.join("large"), workspace.join("../home/large as well")).unwrap();
    let sparse = File::create(workspace.join("sparse")).unwrap();
    sparse.write_all_at(b"in the middle", 40_000_000).unwrap();
    sparse.set_len(1 << 30).unwrap();
    for name in
        [&b"new\nline"[..], b"\xff\xfe not text", &[b'n'; 255], b" ", b"-rf", "ü".as_bytes()]
    {
        fs::write(workspace.join(OsStr::from_bytes(name)), name).unwrap();
    }
    rustix::fs::mknodat(
        rustix::fs::CWD,
        workspace.join("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o620),
        0,
    )
    .unwrap();
    let times = FileTimes::new()
        .set_modified(SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789));
    File::open(workspace.join("a/b/c")).unwrap().set_times(times).unwrap();
}

#[test]
fn everything_comes_back() {
    let place = Place::new();
    furnish(&place.workspace());
    rustix::fs::setxattr(
        place.workspace().join("tool"),
        "user.note",
        b"mine",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
    let cut = place.cut();
    let back = place.restore(cut.root, "back");
    assert_same(&place.live(), &back);
    assert_eq!(cut.left_out.count, 0);
    let sparse = fs::metadata(back.join("workspace/sparse")).unwrap();
    assert!(sparse.blocks() * 512 < 1_000_000, "holes are holes");
    let mut note = [0; 8];
    let length = rustix::fs::getxattr(back.join("workspace/tool"), "user.note", &mut note[..]);
    assert_eq!(&note[..length.unwrap()], b"mine");
    place.vault.check(cut.root, true).unwrap();
    // The same from the live tree.
    let given = place.try_restore(cut.root, "given", true).unwrap();
    assert_same(&place.live(), &given);
}

#[test]
fn what_cannot_be_kept_is_said() {
    let place = Place::new();
    let _socket = UnixListener::bind(place.workspace().join("socket")).unwrap();
    let mut deep = place.workspace();
    for _ in 0..600 {
        deep.push("d");
    }
    // Deeper than a path can be named at once.
    fs::create_dir_all(&deep).unwrap();
    let cut = place.cut();
    assert_eq!(cut.left_out.count, 2, "{}", cut.left_out);
    assert!(cut.left_out.to_string().contains("workspace/socket (a socket)"));
    place.restore(cut.root, "back");
}

#[test]
fn what_has_not_changed_is_not_written_again() {
    let place = Place::new();
    for n in 0..300 {
        let dir = place.workspace().join(format!("d{}", n % 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("f{n}")), noise(n, 5_000)).unwrap();
    }
    settle(&place.workspace());
    let first = place.cut();
    assert!(first.written > 1_000_000, "{}", first.written);
    let again = place.cut();
    assert_eq!(again.root, first.root);
    // Everything is younger than its times tell, so it may be read again, and the scan grows once.
    let third = place.cut();
    assert_eq!(third.root, first.root);
    fs::write(place.workspace().join("d7/f7"), noise(1_000, 5_000)).unwrap();
    let changed = place.cut();
    assert!(changed.root != first.root);
    assert!(changed.written < 5_000 + 64 * 1024, "{}", changed.written);
    // Another session with the same files finds them there.
    let other = Place { session: SessionId::random(), vault: place.vault.clone(), ..Place::new() };
    let copied = place.restore(changed.root, "other");
    fs::remove_dir_all(other.live()).unwrap();
    fs::rename(copied, other.live()).unwrap();
    let theirs = other.cut();
    assert_eq!(theirs.root, changed.root);
    assert_eq!(theirs.files, changed.files);
}

#[test]
fn one_of_many_entries_writes_little() {
    let place = Place::new();
    for n in 0..6_000 {
        fs::write(place.workspace().join(format!("file-{n:05}")), format!("{n}")).unwrap();
    }
    place.cut();
    std::thread::sleep(Duration::from_millis(25));
    place.cut();
    fs::write(place.workspace().join("file-03777"), "changed").unwrap();
    let changed = place.cut();
    assert!(changed.written < 64 * 1024, "{}", changed.written);
}

#[test]
fn a_tree_that_moves_is_held() {
    let place = Place::new();
    fs::write(place.workspace().join("a"), "0").unwrap();
    let (stop, held) = (AtomicBool::new(false), AtomicBool::new(false));
    let rounds = AtomicUsize::new(0);
    let cut = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                if !held.load(Ordering::SeqCst) {
                    let n = rounds.fetch_add(1, Ordering::SeqCst).to_string();
                    // Always both, so that a point with different ones is no moment.
                    fs::write(place.workspace().join("b"), &n).unwrap();
                    fs::rename(place.workspace().join("b"), place.workspace().join("a")).unwrap();
                    fs::write(place.workspace().join("c"), &n).unwrap();
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let hold = || -> io::Result<Box<dyn Any>> {
            held.store(true, Ordering::SeqCst);
            // Until the round under way is over: what a freezer does.
            while rounds.load(Ordering::SeqCst) % 2 == 1 {
                std::thread::yield_now();
            }
            Ok(Box::new(()))
        };
        while rounds.load(Ordering::SeqCst) < 100 {
            std::thread::yield_now();
        }
        // Nothing moves while others have the processors; that is a moment as well.
        let mut cut = place.try_cut(&hold);
        while cut.as_ref().is_ok_and(|cut| !cut.held) {
            cut = place.try_cut(&hold);
        }
        stop.store(true, Ordering::SeqCst);
        cut.unwrap()
    });
    assert!(cut.held);
    let back = place.restore(cut.root, "back").join("workspace");
    let read = |name: &str| fs::read_to_string(back.join(name)).unwrap();
    assert_eq!(read("a"), read("c"));
    assert_eq!(fs::read_dir(&back).unwrap().count(), 2);
}

#[test]
fn one_that_is_given_up_is_gone_on_with() {
    let place = Place::new();
    for n in 0..50 {
        fs::write(place.workspace().join(format!("f{n}")), noise(n, 100_000)).unwrap();
    }
    settle(&place.workspace());
    let cancel = AtomicBool::new(false);
    let hold = || -> io::Result<Box<dyn Any>> {
        cancel.store(true, Ordering::SeqCst);
        nobody()
    };
    let given_up = place.cut_as((&cancel, Limits::default()), &hold, &|_| true);
    assert!(matches!(given_up, Err(SnapshotError::Cancelled)));
    let cut = place.cut();
    assert!(cut.written < 200_000, "{}", cut.written);
    assert_same(&place.live(), &place.restore(cut.root, "back"));
}

#[test]
fn one_that_is_given_up_does_not_wait_for_who_collects() {
    let place = Place::new();
    let _alone = place.vault.gate.alone(Duration::ZERO).unwrap();
    let cancel = AtomicBool::new(true);
    let given_up = place.cut_as((&cancel, Limits::default()), &nobody, &|_| true);
    assert!(matches!(given_up, Err(SnapshotError::Cancelled)));
}

#[test]
fn damage_is_told_and_leaves_nothing() {
    let place = Place::new();
    furnish(&place.workspace());
    let cut = place.cut();
    let packs = place.dir.path().join("store/default/packs");
    let pack = fs::read_dir(&packs).unwrap().next().unwrap().unwrap().path();
    let whole = fs::read(&pack).unwrap();
    let before = seen(&place.live());
    for at in (8..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0xff;
        fs::write(&pack, &bytes).unwrap();
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
    fs::write(&pack, &whole).unwrap();
    open(place.dir.path()).check(cut.root, true).unwrap();
}

#[test]
fn a_lost_index_and_a_lost_scan_cost_nothing_but_time() {
    let place = Place::new();
    furnish(&place.workspace());
    let first = place.cut();
    let store = place.dir.path().join("store/default");
    let Place { dir, vault, session } = place;
    drop(vault);
    fs::remove_file(store.join("index.db")).unwrap();
    fs::remove_dir_all(store.join("scans")).unwrap();
    fs::write(store.join("tmp/left"), "over").unwrap();
    let place = Place { vault: open(dir.path()), dir, session };
    assert!(!store.join("tmp/left").exists());
    let second = place.cut();
    assert_eq!(second.root, first.root);
    assert_same(&place.live(), &place.restore(first.root, "back"));
}

#[test]
fn a_pack_that_the_index_does_not_know_is_taken_in() {
    let place = Place::new();
    furnish(&place.workspace());
    let cut = place.cut();
    // Two at a time: the second has never heard of what the first wrote, as after a crash.
    let other = open(place.dir.path());
    other.check(cut.root, true).unwrap();
}

/// The node of a directory of a point.
fn node_of(vault: &Vault, root: Root, path: &[&str]) -> chunk::ChunkId {
    path.iter().fold(Vault::top(root), |node, part| {
        match vault.entry(node, part.as_bytes()).unwrap().unwrap().what {
            node::What::Dir(child) => child,
            other => panic!("{other:?}"),
        }
    })
}

#[test]
fn a_file_that_reads_like_a_directory_hides_nothing() {
    let place = Place::new();
    fs::create_dir(place.workspace().join("dir")).unwrap();
    fs::write(place.workspace().join("dir/large"), noise(1, 3_000_000)).unwrap();
    let first = place.cut().root;
    let dir = node_of(&place.vault, first, &["workspace", "dir"]);
    let entry = place.vault.entry(dir, b"large").unwrap().unwrap();
    let node::What::File(content) = entry.what else { panic!("{entry:?}") };
    let node::Data::Listed(lists) = &content.extents[0].data else { panic!("{content:?}") };
    // They come before the directory, and are the same chunks as it and its file's list.
    fs::write(place.workspace().join("a"), place.vault.chunk(dir).unwrap()).unwrap();
    fs::write(place.workspace().join("b"), place.vault.chunk(lists[0].id).unwrap()).unwrap();
    let second = place.cut().root;
    place.vault.collect(&AT_ONCE, || Ok::<_, SnapshotError>(vec![second])).unwrap().unwrap();
    assert_same(&place.live(), &place.restore(second, "back"));
}

#[test]
fn names_of_different_files_are_told_apart_when_directories_move() {
    let place = Place::new();
    let at = |path: &str| place.workspace().join(path);
    for dir in ["d", "e"] {
        fs::create_dir(at(dir)).unwrap();
    }
    fs::write(at("d/a"), "one").unwrap();
    fs::hard_link(at("d/a"), at("e/b")).unwrap();
    // Until times tell that nothing has changed since.
    while place.cut().held {}
    // The file keeps its second name, and its times; its first name is another file's now.
    fs::rename(at("d"), at("f")).unwrap();
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/a"), "two").unwrap();
    fs::hard_link(at("d/a"), at("d/c")).unwrap();
    let cut = place.cut();
    let back = place.restore(cut.root, "back");
    assert_same(&place.live(), &back);
    let inode = |path: &str| fs::metadata(back.join("workspace").join(path)).unwrap().ino();
    assert_eq!(inode("e/b"), inode("f/a"));
    assert_eq!(inode("d/a"), inode("d/c"));
    assert_ne!(inode("d/a"), inode("e/b"));
}

#[test]
fn what_could_not_be_published_is_not_forgotten() {
    let place = Place::new();
    let packs = place.dir.path().join("store/default/packs");
    let away = packs.with_extension("away");
    let stash = Mutex::new(vault::Stash::new(&place.vault));
    vault::put(&stash, noise(1, 10_000)).unwrap();
    fs::rename(&packs, &away).unwrap();
    assert!(stash.lock().unwrap().publish().is_err());
    fs::rename(&away, &packs).unwrap();
    // Else files would be noted as stored whose chunks are nowhere.
    assert!(stash.lock().unwrap().publish().is_err());
}

#[test]
fn a_point_can_be_looked_into() {
    let place = Place::new();
    furnish(&place.workspace());
    let browser = place.vault.browse(place.cut().root);
    let names = |path: &[u8]| -> Option<Vec<String>> {
        let listed = browser.list(path).unwrap()?;
        Some(listed.iter().map(|entry| String::from_utf8_lossy(&entry.name).into()).collect())
    };
    assert_eq!(names(b"").unwrap(), ["home", "workspace"]);
    assert_eq!(names(b"workspace/a").unwrap(), ["b", "large too"]);
    assert_eq!((names(b"workspace/tool"), names(b"nowhere")), (None, None));
    assert_eq!(browser.find(b"workspace/abs").unwrap().unwrap().target, b"/etc/passwd");
    let large = browser.open(b"workspace/large").unwrap().unwrap();
    let whole = noise(1, 3_000_000);
    for (offset, length) in [(0, 10), (65_000, 300_000), (2_999_990, 100), (3_000_000, 1)] {
        let mut buffer = vec![1; length];
        let read = large.read_at(&mut buffer, offset as u64).unwrap();
        let end = (offset + length).min(whole.len());
        assert_eq!(buffer[..read], whole[offset..end]);
    }
    let sparse = browser.open(b"workspace/sparse").unwrap().unwrap();
    let mut buffer = [1; 15];
    assert_eq!(sparse.read_at(&mut buffer, 39_999_999).unwrap(), 15);
    assert_eq!(&buffer, b"\0in the middle\0");
    assert!(browser.open(b"workspace/up").unwrap().is_none());
}

#[derive(Clone, Debug)]
enum Change {
    Write(u8, u64, usize),
    Append(u8, u64),
    Remove(u8),
    Link(u8, u8),
    Symlink(u8, u8),
    Dir(u8),
    Mode(u8, u32),
    Rename(u8, u8),
}

fn change() -> impl Strategy<Value = Change> {
    let n = || 0..12u8;
    prop_oneof![
        4 => (n(), any::<u64>(), 0..200_000usize).prop_map(|(f, s, l)| Change::Write(f, s, l)),
        2 => (n(), any::<u64>()).prop_map(|(f, s)| Change::Append(f, s)),
        2 => n().prop_map(Change::Remove),
        1 => (n(), n()).prop_map(|(a, b)| Change::Link(a, b)),
        1 => (n(), n()).prop_map(|(a, b)| Change::Symlink(a, b)),
        2 => n().prop_map(Change::Dir),
        1 => (n(), 0..0o1000u32).prop_map(|(f, mode)| Change::Mode(f, mode | 0o400)),
        1 => (n(), n()).prop_map(|(a, b)| Change::Rename(a, b)),
    ]
}

/// A third of the names lie in each of two directories, if these are there.
fn name(root: &Path, n: u8) -> PathBuf {
    match n % 3 {
        0 => root.join(n.to_string()),
        k => root.join(format!("d{k}")).join(n.to_string()),
    }
}

fn apply(root: &Path, change: &Change) -> io::Result<()> {
    match change {
        Change::Write(n, seed, length) => fs::write(name(root, *n), noise(*seed, *length)),
        Change::Append(n, seed) => {
            let mut file = fs::OpenOptions::new().append(true).open(name(root, *n))?;
            io::Write::write_all(&mut file, &noise(*seed, 100))
        }
        Change::Remove(n) => fs::remove_file(name(root, *n)),
        Change::Link(a, b) => fs::hard_link(name(root, *a), name(root, *b)),
        Change::Symlink(a, b) => symlink(a.to_string(), name(root, *b)),
        Change::Dir(n) => fs::create_dir(root.join(format!("d{}", n % 3))),
        Change::Mode(n, mode) => {
            let path = name(root, *n);
            // Not through links: they lead to other names.
            match fs::symlink_metadata(&path)?.is_file() {
                true => fs::set_permissions(path, Permissions::from_mode(*mode)),
                false => Ok(()),
            }
        }
        Change::Rename(a, b) => fs::rename(name(root, *a), name(root, *b)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn every_moment_comes_back(
        rounds in proptest::collection::vec(proptest::collection::vec(change(), 0..20), 1..6),
    ) {
        let place = Place::new();
        let mut moments = vec![];
        for changes in &rounds {
            for change in changes {
                // What cannot be done is no change.
                let _ = apply(&place.workspace(), change);
            }
            moments.push((place.cut().root, seen(&place.live())));
        }
        for (n, (root, expected)) in moments.iter().enumerate() {
            let back = place.restore(*root, &format!("back-{n}"));
            prop_assert_eq!(&seen(&back), expected);
            let given = place.try_restore(*root, &format!("given-{n}"), true).unwrap();
            prop_assert_eq!(&seen(&given), expected);
        }
        // The same files are the same content, whoever looks at them.
        let fresh = Place { session: SessionId::random(), vault: place.vault.clone(), ..Place::new() };
        let (last, _) = moments.last().unwrap();
        fs::remove_dir_all(fresh.live()).unwrap();
        fs::rename(place.restore(*last, "fresh"), fresh.live()).unwrap();
        prop_assert_eq!(fresh.cut().root, *last);
    }
}
