//! A disk that is nearly full: what is needed of packs that go is moved as far as there is room.

use std::process::Command;

use super::*;

const MIB: u64 = 1 << 20;

/// What is needed of each pack, and what is not.
const NEEDED: u64 = 2 * MIB;
const REST: u64 = 3 * MIB;

/// Tells the child that its temporary directory is a small disk of its own.
const SMALL: &str = "ASH_TEST_SMALL_VAULT";

/// Starts the test below again where it can mount a disk that nobody else sees.
#[test]
fn what_does_not_fit_at_once_is_moved_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let alone = ["--mount", "--propagation", "private"];
    if !Command::new("unshare").args(alone).arg("true").status().is_ok_and(|ran| ran.success()) {
        println!("SKIP: mount namespaces are not permitted here");
        return;
    }
    let mount = "mount -t tmpfs -o size=48m,mode=0700 none \"$0\" && exec \"$@\"";
    let mut child = Command::new("unshare");
    child.args(alone).args(["sh", "-c", mount]).arg(dir.path());
    child.arg(std::env::current_exe().unwrap());
    child.args(["--exact", "snapshot::tests::full::child", "--nocapture"]);
    let output = child.env(SMALL, "1").env("TMPDIR", dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// No test of its own: see above.
#[test]
fn child() {
    if std::env::var_os(SMALL).is_none() {
        return;
    }
    let place = Place::new();
    let (root, packs) = half_needed(&place);
    let points = || Ok::<_, SnapshotError>(vec![root]);

    // Not even for one of them.
    leave(&place, NEEDED / 2);
    let full = place.vault.collect(&AT_ONCE, points);
    assert!(matches!(full, Err(SnapshotError::Full)), "{full:?}");
    assert!(packs.iter().all(|pack| pack.exists()));
    let tmp = place.dir.path().join("store/default/tmp");
    assert_eq!(fs::read_dir(tmp).unwrap().count(), 0, "of what did not fit nothing is left");
    place.vault.check(root, true).unwrap();

    // For one, and for the other only in the place of the first.
    leave(&place, NEEDED + MIB);
    let collected = place.vault.collect(&AT_ONCE, points).unwrap().unwrap();
    assert_eq!((collected.packs, collected.held), (2, 0), "{collected:?}");
    assert!(packs.iter().all(|pack| !pack.exists()));
    place.vault.check(root, true).unwrap();
    fs::remove_file(place.dir.path().join("ballast")).unwrap();
    assert_same(&place.live(), &place.restore(root, "back"));
}

/// A point, and two packs of which it needs less than half.
fn half_needed(place: &Place) -> (Root, Vec<PathBuf>) {
    for n in 0..2 {
        let write = |name: &str, seed, length: u64| {
            let path = place.workspace().join(format!("{name}-{n}"));
            fs::write(path, noise(seed, length as usize)).unwrap();
        };
        write("kept", 2 * n + 1, NEEDED);
        write("gone", 2 * n + 2, REST);
        drop(place.cut());
    }
    let packs = place.packs();
    assert_eq!(packs.len(), 2, "{packs:?}");
    for n in 0..2 {
        fs::remove_file(place.workspace().join(format!("gone-{n}"))).unwrap();
    }
    (place.cut().root, packs)
}

/// Leaves so many bytes free on the disk.
fn leave(place: &Place, bytes: u64) {
    let ballast = place.dir.path().join("ballast");
    fs::write(&ballast, "").unwrap();
    let disk = rustix::fs::statvfs(place.dir.path()).unwrap();
    let free = disk.f_bavail * disk.f_frsize;
    fs::write(&ballast, vec![0; (free - bytes) as usize]).unwrap();
}
