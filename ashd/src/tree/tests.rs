use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use ash_sys::lease::Lease;
use bytes::Bytes;
use proptest::prelude::*;
use rustix::fs::{CWD, FileType, Mode};
use tempfile::TempDir;

use super::*;

/// A tree beside a secret that it must not lead to.
struct Site {
    dir: TempDir,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        fs::write(dir.path().join("secret"), "secret").unwrap();
        Site { dir }
    }

    fn path(&self, rel: &str) -> PathBuf {
        self.dir.path().join("tree").join(rel)
    }

    fn tree(&self) -> Tree {
        Tree::open(&self.path("")).unwrap()
    }

    fn file(&self, rel: &str, text: &str) {
        let path = self.path(rel);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, rel: &str, target: &str) {
        let path = self.path(rel);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
    }

    fn node(&self, rel: &str, kind: FileType) {
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, self.path(rel), kind, Mode::from_raw_mode(0o666), device).unwrap();
    }

    /// A second tree beside the first.
    fn other(&self) -> Tree {
        Tree::create_root(&self.dir.path().join("other"), 0, 0o755).unwrap()
    }
}

fn limits() -> TreeLimits {
    TreeLimits { files: 100, bytes: 10_000 }
}

#[test]
fn files_are_read_through_no_link_and_nothing_else_is_read() {
    let site = Site::new();
    site.file("a/b", "hello");
    site.link("link", "a/b");
    site.link("out", "../secret");
    site.link("dir", "a");
    site.link("abs", "/etc/passwd");
    site.node("fifo", FileType::Fifo);
    site.node("null", FileType::CharacterDevice);
    site.node("sock", FileType::Socket);
    let tree = site.tree();
    assert_eq!(tree.read("a/b", 5).unwrap(), b"hello");
    assert!(matches!(tree.read("a/b", 4), Err(TreeError::FileTooLarge { limit: 4, .. })));
    assert!(matches!(tree.read("a/c", 9), Err(TreeError::Missing(_))));
    assert!(matches!(tree.read("a/b/c", 9), Err(TreeError::NotDirectory(_))));
    for link in ["link", "out", "dir/b", "abs"] {
        assert!(matches!(tree.read(link, 9), Err(TreeError::ThroughLink(_))), "{link}");
        assert!(!tree.exists_file(link).unwrap());
    }
    for other in ["a", "fifo", "null", "sock"] {
        assert!(matches!(tree.read(other, 9), Err(TreeError::NotFile(_))), "{other}");
        assert!(!tree.exists_file(other).unwrap());
    }
    for bad in ["../secret", "/etc/passwd", "a/../a/b", "a//b", "a\0b", ""] {
        assert!(matches!(tree.read(bad, 9), Err(TreeError::Name { .. })), "{bad}");
        assert!(tree.exists_file(bad).is_err());
    }
    assert!(tree.exists_file("a/b").unwrap());
    assert_eq!(tree.subtree("a").unwrap().read("b", 9).unwrap(), b"hello");
    assert!(matches!(tree.subtree("dir"), Err(TreeError::ThroughLink(_))));
    assert!(matches!(tree.subtree("fifo"), Err(TreeError::NotDirectory(_))));
    assert!(matches!(tree.subtree(".."), Err(TreeError::Name { .. })));
}

#[test]
fn a_file_on_which_somebody_has_a_lease_is_not_waited_for() {
    let site = Site::new();
    site.file("a/b", "hello");
    let file = File::options().read(true).write(true).open(site.path("a/b")).unwrap();
    let Ok(lease) = Lease::take(&file) else {
        println!("SKIP: the file system of temporary files gives no leases");
        return;
    };
    let tree = site.tree();
    assert!(matches!(tree.read("a/b", 5), Err(TreeError::Held(path)) if path == "a/b"));
    // What it is can be asked all the same.
    assert!(tree.exists_file("a/b").unwrap());
    assert_eq!(tree.list(9, &|_| true).unwrap().files[0].size, 5);
    drop(lease);
    assert_eq!(tree.read("a/b", 5).unwrap(), b"hello");
}

#[test]
fn a_root_that_is_a_link_or_no_directory_is_refused() {
    let site = Site::new();
    symlink("tree", site.dir.path().join("alias")).unwrap();
    let open = |name: &str| Tree::open(&site.dir.path().join(name));
    assert!(matches!(open("alias"), Err(TreeError::NotDirectory(_))));
    assert!(matches!(open("secret"), Err(TreeError::NotDirectory(_))));
    assert!(matches!(open("none"), Err(TreeError::Missing(_))));
}

#[test]
fn creating_replaces_at_once_and_never_through_a_link() {
    let site = Site::new();
    site.link("out", "..");
    site.link("file", "../secret");
    let tree = site.tree();
    tree.create("d/e/f", 0o640, 1234, b"one").unwrap();
    tree.create("d/e/f", 0o4600, 1234, b"two").unwrap();
    let meta = fs::metadata(site.path("d/e/f")).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1234, 1234, 0o600));
    assert_eq!(fs::metadata(site.path("d/e")).unwrap().uid(), 1234);
    assert_eq!(tree.read("d/e/f", 9).unwrap(), b"two");
    assert!(matches!(tree.create("out/secret", 0o600, 0, b"x"), Err(TreeError::ThroughLink(_))));
    // A link in the file's place is replaced, not followed.
    tree.create("file", 0o600, 0, b"mine").unwrap();
    assert_eq!(fs::read(site.dir.path().join("secret")).unwrap(), b"secret");
    assert!(tree.create("d/e", 0o600, 0, b"x").is_err());
    assert_eq!(fs::read_dir(site.path("d")).unwrap().count(), 1, "a temporary file was left");
}

#[test]
fn files_are_written_once_within_limits() {
    let site = Site::new();
    let files = |names: &[&str]| -> Vec<_> {
        names.iter().map(|name| ((*name).to_owned(), Bytes::from_static(b"123"))).collect()
    };
    let tree = site.tree();
    tree.write_files(&files(&["CLAUDE.md", "a/b"]), 7, limits()).unwrap();
    assert_eq!(fs::metadata(site.path("a/b")).unwrap().uid(), 7);
    let twice = tree.write_files(&files(&["x", "x"]), 7, limits());
    assert!(matches!(twice, Err(TreeError::Duplicate(name)) if name == "x"));
    let few = TreeLimits { files: 1, bytes: 5 };
    assert!(matches!(tree.write_files(&files(&["p"; 2]), 7, few), Err(TreeError::TooLarge(5))));
    let few = TreeLimits { files: 1, bytes: 50 };
    assert!(matches!(tree.write_files(&files(&["p"; 2]), 7, few), Err(TreeError::TooMany(1))));
}

#[test]
fn a_good_folder_passes() {
    let site = Site::new();
    site.file("CLAUDE.md", "be kind");
    site.file(".claude/skills/x/SKILL.md", "x");
    site.link(".claude/link", "../CLAUDE.md");
    site.link("dangling", "later/made");
    let summary = site.tree().check_agent_folder(limits()).unwrap();
    assert_eq!(summary, Summary { files: 7, bytes: 8 });
}

#[test]
fn a_bad_folder_is_told_why() {
    type Make = fn(&Site);
    type Expected = fn(&TreeError) -> bool;
    let cases: [(Make, Expected); 13] = [
        (|_| (), |e| matches!(e, TreeError::NoInstructions)),
        (|s| s.link("CLAUDE.md", "other"), |e| matches!(e, TreeError::NoInstructions)),
        (|s| s.link("l", "/etc/passwd"), |e| matches!(e, TreeError::Escapes(p) if p == "l")),
        (|s| s.link("d/l", "../../secret"), |e| matches!(e, TreeError::Escapes(p) if p == "d/l")),
        // Each stays inside by its words; together they do not.
        (
            |s| {
                s.link("a/b/up", "../..");
                s.link("l", "a/b/up/../secret");
            },
            |e| matches!(e, TreeError::Escapes(_)),
        ),
        (
            |s| {
                s.link("x", "y");
                s.link("y", "x");
            },
            |e| matches!(e, TreeError::Loop(_)),
        ),
        (|s| s.node("n", FileType::Fifo), |e| matches!(e, TreeError::Special { .. })),
        (|s| s.node("n", FileType::Socket), |e| matches!(e, TreeError::Special { .. })),
        (|s| s.node("n", FileType::CharacterDevice), |e| matches!(e, TreeError::Special { .. })),
        (|s| s.file("big", &"x".repeat(10_001)), |e| matches!(e, TreeError::TooLarge(10_000))),
        (
            |s| (0..101).for_each(|n| s.file(&format!("f{n}"), "")),
            |e| matches!(e, TreeError::TooMany(100)),
        ),
        (|s| s.file("new\nline", ""), |e| matches!(e, TreeError::Name { .. })),
        (
            |s| {
                use std::os::unix::ffi::OsStrExt;
                let name = std::ffi::OsStr::from_bytes(b"not\xfftext");
                fs::write(s.path("").join(name), "").unwrap();
            },
            |e| matches!(e, TreeError::Name { .. }),
        ),
    ];
    for (number, (make, expected)) in cases.into_iter().enumerate() {
        let site = Site::new();
        make(&site);
        let error = site.tree().check_agent_folder(limits()).unwrap_err();
        assert!(expected(&error), "case {number}: {error}");
        let host = site.dir.path().to_string_lossy().into_owned();
        assert!(!error.to_string().contains(&host), "{error}");
    }
}

#[test]
fn folders_that_nest_too_deep_are_refused_and_removed() {
    let site = Site::new();
    let mut dir = rustix::fs::open(site.path(""), OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = rustix::fs::openat(&dir, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        rustix::fs::mkdirat(&dir, "side", Mode::RWXU).unwrap();
    }
    let error = site.tree().check(TreeLimits::default()).unwrap_err();
    assert!(matches!(error, TreeError::Name { .. }), "{error}");
    remove_all(site.dir.path(), "tree").unwrap();
    assert!(!site.path("").exists());
}

#[test]
fn a_copy_is_the_same_but_for_its_owner() {
    let site = Site::new();
    site.file("d/run", "#!/bin/sh");
    fs::set_permissions(site.path("d/run"), fs::Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(site.path("d"), fs::Permissions::from_mode(0o1750)).unwrap();
    site.link("d/l", "run");
    let sparse = File::create(site.path("sparse")).unwrap();
    sparse.set_len(8000).unwrap();
    FileExt::write_all_at(&sparse, b"end", 7990).unwrap();
    let other = site.other();
    let summary = site.tree().copy_into(&other, 4321, limits(), Links::Inside).unwrap();
    assert_eq!(summary, Summary { files: 4, bytes: 8009 });
    let copy = |rel: &str| site.dir.path().join("other").join(rel);
    for rel in ["d", "d/run", "d/l", "sparse"] {
        let (old, new) = (site.path(rel), copy(rel));
        let (old, new) = (old.symlink_metadata().unwrap(), new.symlink_metadata().unwrap());
        assert_eq!((new.uid(), new.gid()), (4321, 4321), "{rel}");
        assert_eq!((old.mtime(), old.mtime_nsec()), (new.mtime(), new.mtime_nsec()), "{rel}");
        let kept = if old.is_symlink() { 0o7777 } else { 0o777 };
        assert_eq!(old.mode() & kept, new.mode() & 0o7777, "{rel}");
    }
    assert_eq!(fs::read(copy("sparse")).unwrap(), fs::read(site.path("sparse")).unwrap());
    assert_eq!(fs::read_link(copy("d/l")).unwrap(), Path::new("run"));
    other.chown(99, limits()).unwrap();
    assert_eq!(copy("d/l").symlink_metadata().unwrap().uid(), 99);
    assert_eq!(copy("").metadata().unwrap().uid(), 99);
}

#[test]
fn a_workspace_is_copied_with_its_foreign_links_and_without_sockets() {
    let site = Site::new();
    site.link("venv/bin/python", "/usr/bin/python3");
    site.node("agent.sock", FileType::Socket);
    let refused = site.tree().copy_into(&site.other(), 0, limits(), Links::Inside);
    assert!(matches!(refused, Err(TreeError::Escapes(_) | TreeError::Special { .. })));
    fs::remove_dir_all(site.dir.path().join("other")).unwrap();
    site.tree().copy_into(&site.other(), 0, limits(), Links::All).unwrap();
    let copied = site.dir.path().join("other/venv/bin/python");
    assert_eq!(fs::read_link(copied).unwrap(), Path::new("/usr/bin/python3"));
    assert!(!site.dir.path().join("other/agent.sock").exists());
}

#[test]
fn a_copy_follows_nothing_and_keeps_the_limits() {
    let site = Site::new();
    site.file("f", &"x".repeat(10_001));
    let copied = site.tree().copy_into(&site.other(), 0, limits(), Links::All);
    assert!(matches!(copied, Err(TreeError::TooLarge(10_000))));
    let site = Site::new();
    site.file("d/f", "x");
    let other = site.other();
    symlink("..", site.dir.path().join("other/d")).unwrap();
    assert!(site.tree().copy_into(&other, 0, limits(), Links::All).is_err());
    assert!(!site.dir.path().join("f").exists());
}

#[test]
fn removing_follows_no_link_and_is_done_when_nothing_is_there() {
    let site = Site::new();
    site.file("a/b/c", "x");
    site.link("a/out", "../..");
    site.node("a/fifo", FileType::Fifo);
    (0..5000).for_each(|n| site.file(&format!("many/{n}"), ""));
    remove_all(site.dir.path(), "tree").unwrap();
    remove_all(site.dir.path(), "tree").unwrap();
    remove_all(&site.dir.path().join("none"), "x").unwrap();
    assert!(site.dir.path().join("secret").exists());
    remove_all(site.dir.path(), "secret").unwrap();
    assert_eq!(fs::read_dir(site.dir.path()).unwrap().count(), 0);
    for bad in ["", "a/b", "x\0"] {
        assert!(remove_all(site.dir.path(), bad).is_err(), "{bad:?}");
    }
}

/// What can be at a name in a hostile tree.
#[derive(Clone, Debug)]
enum Thing {
    File(u16),
    Dir,
    Link(String),
    Fifo,
}

fn things() -> impl Strategy<Value = BTreeMap<String, Thing>> {
    let part = prop::sample::select(vec!["a", "b", "..", ".", "c", "/", "/etc"]);
    let target = prop::collection::vec(part, 1..5).prop_map(|parts| parts.join("/"));
    let thing = prop_oneof![
        (0u16..300).prop_map(Thing::File),
        Just(Thing::Dir),
        target.prop_map(Thing::Link),
        Just(Thing::Fifo),
    ];
    let name = prop::sample::select(vec!["a", "b", "c", "a/a", "a/b", "b/c", "a/a/a", "b/c/b"]);
    prop::collection::btree_map(name.prop_map(str::to_owned), thing, 0..8)
}

/// Whether nothing is at a path and no link on the way to it: through one, what is made could land
/// anywhere, and a file that is really a FIFO would be waited for.
fn is_free(path: &Path) -> bool {
    let there = path.ancestors().find(|ancestor| ancestor.symlink_metadata().is_ok());
    there.is_some_and(|there| {
        there != path && there.is_dir() && there.canonicalize().is_ok_and(|real| real == there)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// What passes the check leads nowhere else when it is followed; a copy of it passes, too;
    /// and whatever it is, it can be removed.
    #[test]
    fn what_passes_stays_inside(things in things()) {
        let site = Site::new();
        for (rel, thing) in &things {
            let path = site.path(rel);
            if !is_free(&path) {
                continue;
            }
            let _ = match thing {
                Thing::File(size) => fs::write(&path, vec![b'x'; usize::from(*size)]),
                Thing::Dir => fs::create_dir_all(&path),
                Thing::Link(target) => symlink(target, &path),
                Thing::Fifo => rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR, 0)
                    .map_err(Into::into),
            };
        }
        let tree = site.tree();
        if let Ok(summary) = tree.check(limits()) {
            let root = site.path("").canonicalize().unwrap();
            for rel in things.keys() {
                if let Ok(end) = site.path(rel).canonicalize() {
                    prop_assert!(end.starts_with(&root), "{rel} leads to {}", end.display());
                }
            }
            let other = site.other();
            prop_assert_eq!(tree.copy_into(&other, 5, limits(), Links::Inside).unwrap(), summary);
            prop_assert_eq!(other.check(limits()).unwrap(), summary);
        }
        remove_all(site.dir.path(), "tree").unwrap();
        prop_assert!(site.dir.path().join("secret").exists());
    }
}
