use std::any::Any;
use std::sync::atomic::AtomicBool;

use futures_util::StreamExt;

use super::*;
use crate::domain::{Scope, Session};
use crate::session::keeping::point_of;
use crate::session::stage::Stage;
use crate::snapshot::Cutting;

fn top(root: &std::path::Path) -> Dir {
    Tree::open(root).unwrap().top().unwrap()
}

fn bundle(root: &std::path::Path, all: bool) -> Bundle {
    let top = top(root);
    let names = names(&top, NAMES).unwrap();
    Bundle::new(Origin::Sandbox, Entries::Disk(top, names), (None, None), all)
}

async fn bytes(bundle: Bundle) -> Vec<u8> {
    let pieces: Vec<_> = bundle.bytes().collect().await;
    pieces.into_iter().flat_map(|piece| piece.unwrap()).collect()
}

fn unpacked(archive: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let owner = rustix::process::geteuid().as_raw();
    let tree = Tree::open(dir.path()).unwrap();
    tree.unpack_tar(MultiGzDecoder::new(archive), (owner, Links::All), LIMITS).unwrap();
    dir
}

#[tokio::test]
async fn what_is_packed_can_be_unpacked() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    let large: Vec<u8> = (0..PIECE * 5 + 3).map(|at| (at * at % 251) as u8).collect();
    std::fs::write(root.join("a/b/large"), &large).unwrap();
    std::fs::write(root.join("a/empty"), "").unwrap();
    std::fs::write(root.join(".env"), "SECRET=1").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", root.join("a/link")).unwrap();
    let read = |from: &tempfile::TempDir, path: &str| std::fs::read(from.path().join(path));
    for all in [false, true] {
        let copy = unpacked(&bytes(bundle(root, all)).await);
        assert!(read(&copy, "a/b/large").unwrap() == large);
        assert_eq!(read(&copy, "a/empty").unwrap(), b"");
        assert_eq!(read(&copy, ".env").is_ok(), all);
        let link = std::fs::read_link(copy.path().join("a/link")).unwrap();
        assert_eq!(link.to_str(), Some("/etc/passwd"));
    }
}

/// Records a point of a session's workspace, and begins to send it.
async fn point_on_its_way(stage: &Stage, session: &Session) -> Bundle {
    let (shared, never) = (&stage.shared, AtomicBool::new(false));
    let workspace = shared.places.session(session.id).join("workspace");
    let roots = [("workspace", workspace.as_path())];
    let nobody = || -> io::Result<Box<dyn Any>> { Ok(Box::new(())) };
    let vault = shared.snapshots.vault(&session.tenant).unwrap();
    let cut = vault.cut(&Cutting::new(session.id, &roots, &never), &nobody, &|_| true).unwrap();
    shared.store.add_point(point_of(&cut, session, None), 9).await.unwrap();
    let caller = Caller { tenant: session.tenant.clone(), scope: Scope::Manage };
    stage.service.bundle(&caller, session.id, (Some(Which::Newest), true)).await.unwrap()
}

#[tokio::test]
async fn a_point_that_is_removed_while_it_goes_out_ends_it() {
    // More than goes out at once.
    let mut large = vec![0; PIECE * 8];
    blake3::Hasher::new().finalize_xof().fill(&mut large);
    for is_purged in [false, true] {
        let (stage, session) = (Stage::set().await, Session::example(1));
        stage.add_with_files(&session).await;
        let workspace = stage.shared.places.session(session.id).join("workspace");
        std::fs::write(workspace.join("large"), &large).unwrap();
        let mut pieces = Box::pin(point_on_its_way(&stage, &session).await.bytes());
        let mut went = pieces.next().await.unwrap().unwrap().to_vec();
        if is_purged {
            stage.shared.store.purge_session(session.id).await.unwrap();
            let said = pieces.next().await.unwrap().unwrap_err().to_string();
            assert_eq!(said, "the checkpoint was removed meanwhile");
            assert!(pieces.next().await.is_none());
            continue;
        }
        while let Some(piece) = pieces.next().await {
            went.extend(piece.unwrap());
        }
        assert!(std::fs::read(unpacked(&went).path().join("large")).unwrap() == large);
    }
}

#[tokio::test]
async fn zeros_that_go_out_as_nothing_end_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("zeros")).unwrap();
    file.set_len(9 << 20).unwrap();
    let packed = bytes(bundle(dir.path(), false)).await;
    assert!(packed.len() < 1 << 20, "{}", packed.len());
    let copy = unpacked(&packed);
    assert_eq!(std::fs::metadata(copy.path().join("zeros")).unwrap().len(), 9 << 20);
}

#[test]
fn what_changes_is_left_out_and_what_fails_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let top = top(dir.path());
    assert!(matches!(on_disk(&top, &c"gone".to_owned(), NAMES), Ok(Found::Other)));
    for error in [Errno::NOENT, Errno::LOOP, Errno::XDEV] {
        assert!(is_one_of(&io::Error::from(error), &CHANGED), "{error:?}");
    }
    for error in [Errno::IO, Errno::NOMEM, Errno::AGAIN, Errno::MFILE, Errno::STALE] {
        assert!(!is_one_of(&io::Error::from(error), &CHANGED), "{error:?}");
    }
    assert!(!is_one_of(&io::Error::other("else"), &CHANGED));
}

#[tokio::test]
async fn directories_that_nest_too_deep_end_it() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d/".repeat(DEEP));
    std::fs::create_dir_all(&deep).unwrap();
    bytes(bundle(dir.path(), false)).await;
    std::fs::create_dir(deep.join("d")).unwrap();
    let pieces: Vec<_> = bundle(dir.path(), false).bytes().collect().await;
    let said = pieces.last().unwrap().as_ref().err().unwrap().to_string();
    assert_eq!(said, "directories nest more than 512 deep");
}

#[test]
fn no_more_names_are_held_than_there_is_room_for() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("d")).unwrap();
    for name in ["d/a", "d/b", "d/c"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let (top, name) = (top(dir.path()), c"d".to_owned());
    let found = on_disk(&top, &name, 3);
    assert!(matches!(found, Ok(Found::Dir(entries, ..)) if entries.left() == 3));
    let refused = on_disk(&top, &name, 2).err().unwrap().to_string();
    assert_eq!(refused, "directories have too many entries");
}

#[test]
fn names_that_were_packed_are_not_held() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a/b/c", "d", "e/f"] {
        std::fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    let mut packing = bundle(dir.path(), false).packing;
    assert_eq!(packing.names, 3);
    while !packing.is_over() {
        packing.next().unwrap();
        let left = packing.levels.iter().map(|level| level.entries.left()).sum::<usize>();
        assert_eq!(packing.names, left);
    }
}
