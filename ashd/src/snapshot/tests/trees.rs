//! Trees: how they are made, and what they are, read by nothing of ours.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

/// What a tree is, read by nothing of ours.
type Seen = BTreeMap<PathBuf, (u32, i64, i64, u64, Vec<u8>, u64)>;

pub(super) fn seen(root: &Path) -> Seen {
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

pub(super) fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (seen(left), seen(right));
    for (path, entry) in &left {
        assert_eq!(Some(entry), right.get(path), "{}", path.display());
    }
    assert_eq!(left.len(), right.len());
}

/// Long enough ago that times tell everything.
pub(super) fn settle(path: &Path) {
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

pub(super) fn noise(seed: u64, length: usize) -> Vec<u8> {
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
pub(super) fn furnish(workspace: &Path) {
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
