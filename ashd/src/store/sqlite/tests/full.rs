//! A disk that is full, and then no longer.

use std::fs;
use std::process::Command;

use super::*;
use crate::domain::SessionChange;
use crate::store::StoreError;

/// Tells the child that it runs in a mount namespace of its own, and where its disk is.
const DISK: &str = "ASH_TEST_SMALL_DISK";

/// Starts the test below again where it can mount a disk of 4 MiB that nobody else sees.
#[test]
fn a_full_disk_changes_nothing_and_is_survived() {
    let dir = tempfile::tempdir().unwrap();
    let mount = "mount -t tmpfs -o size=4m,mode=0700 none \"$0\" && exec \"$@\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--propagation", "private", "sh", "-c"]);
    if !unshare.args(["true"]).status().is_ok_and(|status| status.success()) {
        println!("SKIP: mount namespaces are not permitted here");
        return;
    }
    let mut child = Command::new("unshare");
    child.args(["--mount", "--propagation", "private", "sh", "-c", mount]).arg(dir.path());
    child.arg(std::env::current_exe().unwrap());
    child.args(["--exact", "store::sqlite::tests::full::child", "--nocapture"]);
    let output = child.env(DISK, dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// No test of its own: see above.
#[test]
fn child() {
    let Some(disk) = std::env::var_os(DISK) else { return };
    let disk = Path::new(&disk);
    let ballast = disk.join("ballast");
    fs::write(&ballast, vec![0; 1 << 20]).unwrap();
    let store = open(disk);
    block_on(async {
        store.create_session(session(1), vec![event(1)]).await.unwrap();
        let last = fill(&store).await;
        assert_eq!(status(&store).await, Status::Active);
        assert_eq!(numbers(&store, 1).await, (1..=last).collect::<Vec<_>>());

        fs::remove_file(&ballast).unwrap();
        store.commit(large(last + 1)).await.unwrap();
        assert_eq!(status(&store).await, Status::Error);
    });
    drop(store);
    assert_eq!(block_on(status(&open(disk))), Status::Error);
}

/// Writes until there is no room; the number of the last event that was kept.
async fn fill(store: &Sqlite) -> u64 {
    for seq in 2.. {
        let commit = Commit { change: SessionChange::none(), ..large(seq) };
        match store.commit(commit).await {
            Ok(()) => {}
            Err(StoreError::Full) => break,
            Err(other) => panic!("{other}"),
        }
    }
    let kept = numbers(store, 1).await.len() as u64;
    let refused = store.commit(large(kept + 1)).await.unwrap_err();
    assert!(matches!(refused, StoreError::Full), "{refused}");
    kept
}

/// A commit that changes the session's status as well.
fn large(seq: u64) -> Commit {
    let event = NewEvent { body: vec![b'x'; 50_000].into(), ..event(seq) };
    Commit { change: SessionChange::status(Status::Error), ..append(1, vec![event]) }
}

async fn status(store: &Sqlite) -> Status {
    store.session(SessionId(uuid(1))).await.unwrap().unwrap().status
}
