use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::domain::{AgentId, AttachmentId, Node, SessionId, Tenant, Timestamp};

const SCHEMA: u32 = 6;

fn private() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    dir
}

fn open(dir: &Path) -> Result<Target, BackupError> {
    Target::open(OwnedFd::from(File::open(dir).unwrap()))
}

const NODE: &str = "11111111-2222-4333-8444-555555555555\n";

fn pack() -> Name {
    Name::Pack(Tenant::default(), Uuid::from_u128(1))
}

fn agent() -> Name {
    Name::Agent("acme".parse().unwrap(), "hello".parse().unwrap(), AgentId(Uuid::from_u128(2)), 3)
}

fn attachment() -> Name {
    Name::Attachment(SessionId(Uuid::from_u128(4)), AttachmentId(Uuid::from_u128(5)))
}

fn folder(out: &mut dyn Write) -> std::io::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("CLAUDE.md"), "Be brief.")?;
    fs::create_dir(folder.path().join("bin"))?;
    fs::write(folder.path().join("bin/run"), "#!/bin/sh")?;
    fs::set_permissions(folder.path().join("bin/run"), Permissions::from_mode(0o755))?;
    std::os::unix::fs::symlink("bin/run", folder.path().join("run"))?;
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(false);
    archive.append_dir_all("", folder.path())?;
    archive.finish()
}

/// Parts of a backup that are written, or there.
fn written(target: &mut Target, database: &str) -> Manifest {
    let id = Uuid::new_v4();
    let mut entries = vec![];
    for name in [pack(), agent(), attachment()] {
        entries.push(target.has(&name).unwrap_or_else(|| match &name {
            Name::Agent(..) => target.add(name, folder).unwrap(),
            _ => target.copy(name, &mut &b"content"[..]).unwrap(),
        }));
    }
    for (name, text) in [(Name::Node(id), NODE), (Name::Database(id), database)] {
        entries.push(target.copy(name, &mut text.as_bytes()).unwrap());
    }
    let purged = vec![Tenant::default()];
    let version = "0.1.0".to_owned();
    Manifest { id, at: Timestamp(7), version, schema: SCHEMA, sessions: 1, purged, entries }
}

fn back_up(dir: &Path, database: &str) -> u64 {
    let mut target = open(dir).unwrap();
    let manifest = written(&mut target, database);
    let bytes = target.written();
    target.publish(&manifest).unwrap();
    bytes
}

fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        names.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn what_is_saved_comes_back() {
    let (dir, data) = (private(), private());
    back_up(dir.path(), "one");
    assert_eq!(check(dir.path(), SCHEMA).unwrap().files, 5);
    let restored = restore(dir.path(), data.path(), SCHEMA).unwrap();
    assert_eq!((restored.sessions, restored.at), (1, Timestamp(7)));
    let of = |path: &str| data.path().join(path);
    assert_eq!(text(&of("ash.db")), "one");
    // Whose backup it is may live on.
    let (node, before): (Node, Node) = (text(&of("node")).parse().unwrap(), NODE.parse().unwrap());
    assert_ne!(node.id, before.id);
    assert_eq!(node.before, [before.id]);
    let pack = format!("snapshots/store/default/packs/{}.pack", Uuid::from_u128(1));
    assert_eq!(text(&of(&pack)), "content");
    assert_eq!(text(&of(&attachment().to_string())), "content");
    assert_eq!(text(&of("agents/acme/hello/3/CLAUDE.md")), "Be brief.");
    assert_eq!(text(&of("agents/acme/hello/3/run")), "#!/bin/sh");
    let mode = |path: &str| fs::metadata(of(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("agents/acme/hello/3/bin/run"), mode("ash.db")), (0o755, 0o600));
    // What was purged before is removed by whoever collects next.
    assert!(of("snapshots/store/default/purged").exists());
    assert!(!of(RESTORING).exists());
}

#[test]
fn what_is_there_is_not_written_again_and_what_is_not_needed_goes() {
    let dir = private();
    let first = back_up(dir.path(), "one");
    let (second, node) = (back_up(dir.path(), "two"), NODE.len() as u64);
    assert_eq!(second, 3 + node, "the database and a small file of {first} bytes");
    let top = names(dir.path());
    assert_eq!(top.iter().filter(|name| name.starts_with("database-")).count(), 1, "{top:?}");
    // One that was cut off is not taken for whole.
    let path = dir.path().join(pack().to_string());
    fs::write(&path, "con").unwrap();
    assert!(open(dir.path()).unwrap().has(&pack()).is_none());
    assert_eq!(back_up(dir.path(), "three"), 5 + node + 7);
    assert_eq!(text(&path), "content");
}

#[test]
fn what_is_not_what_was_written_any_more_is_written_again() {
    let (dir, data, node) = (private(), private(), NODE.len() as u64);
    back_up(dir.path(), "one");
    let path = dir.path().join(pack().to_string());
    // As large as it was, and as old.
    let file = File::options().write(true).open(&path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"X", 3).unwrap();
    file.set_modified(modified).unwrap();
    let target = open(dir.path()).unwrap();
    assert!(target.has(&pack()).is_none());
    assert!(target.has(&attachment()).is_some() && target.has(&agent()).is_some());
    drop(target);
    assert!(check(dir.path(), SCHEMA).is_err());
    assert_eq!(back_up(dir.path(), "two"), 3 + node + 7);
    assert_eq!(text(&path), "content");
    restore(dir.path(), data.path(), SCHEMA).unwrap();
    assert_eq!(text(&data.path().join("ash.db")), "two");
    assert_eq!(back_up(dir.path(), "three"), 5 + node, "it is whole, and stays");
}

#[test]
fn one_that_is_interrupted_leaves_the_one_before() {
    let (dir, data) = (private(), private());
    back_up(dir.path(), "one");
    let mut target = open(dir.path()).unwrap();
    let _never_published = written(&mut target, "two");
    drop(target);
    restore(dir.path(), data.path(), SCHEMA).unwrap();
    assert_eq!(text(&data.path().join("ash.db")), "one");
    // And the next one goes on, and removes what was left.
    back_up(dir.path(), "three");
    let top = names(dir.path());
    assert_eq!(top.iter().filter(|name| name.starts_with("database-")).count(), 1, "{top:?}");
}

#[test]
fn directories_of_others_are_refused() {
    let dir = private();
    let busy = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(BackupError::InUse)));
    drop(busy);
    fs::set_permissions(dir.path(), Permissions::from_mode(0o750)).unwrap();
    let refused = open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("chmod 0700"), "{refused}");
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    fs::write(dir.path().join("letter"), "").unwrap();
    assert!(matches!(open(dir.path()), Err(BackupError::Foreign(name)) if name == "letter"));
    let file = OwnedFd::from(File::open(dir.path().join("letter")).unwrap());
    assert!(matches!(Target::open(file), Err(BackupError::NoDirectory)));
}

#[test]
fn damage_is_found_before_anything_is_written() {
    let (dir, data) = (private(), private());
    assert!(matches!(check(dir.path(), SCHEMA), Err(BackupError::None)));
    back_up(dir.path(), "one");
    for name in [pack().to_string(), agent().to_string(), attachment().to_string()] {
        let path = dir.path().join(&name);
        let whole = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[whole[3] ^ 1], 3).unwrap();
        let refused = restore(dir.path(), data.path(), SCHEMA).unwrap_err().to_string();
        assert!(refused.contains(&name) && refused.contains("not what was written"), "{refused}");
        fs::write(&path, &whole[1..]).unwrap();
        let refused = restore(dir.path(), data.path(), SCHEMA).unwrap_err().to_string();
        assert!(refused.contains("another size"), "{refused}");
        fs::remove_file(&path).unwrap();
        let refused = restore(dir.path(), data.path(), SCHEMA).unwrap_err().to_string();
        assert!(refused.contains("is missing"), "{refused}");
        fs::write(&path, &whole).unwrap();
        assert!(names(data.path()).is_empty());
    }
    restore(dir.path(), data.path(), SCHEMA).unwrap();
}

#[test]
fn a_newer_schema_is_refused() {
    let (dir, data) = (private(), private());
    back_up(dir.path(), "one");
    let refused = restore(dir.path(), data.path(), SCHEMA - 1).unwrap_err().to_string();
    assert!(refused.contains("schema 6, this ashd knows up to 5"), "{refused}");
    assert!(names(data.path()).is_empty());
    restore(dir.path(), data.path(), SCHEMA + 1).unwrap();
}

#[test]
fn only_what_a_restore_has_left_is_overwritten() {
    let (dir, data) = (private(), private());
    back_up(dir.path(), "one");
    fs::write(data.path().join("lock"), "1").unwrap();
    fs::write(data.path().join("ash.db"), "precious").unwrap();
    let refused = restore(dir.path(), data.path(), SCHEMA).unwrap_err().to_string();
    assert!(refused.contains("holds `ash.db` already"), "{refused}");
    assert_eq!(text(&data.path().join("ash.db")), "precious");
    // As a restore leaves it that was killed.
    fs::write(data.path().join(RESTORING), "").unwrap();
    fs::create_dir(data.path().join("attachments")).unwrap();
    restore(dir.path(), data.path(), SCHEMA).unwrap();
    assert_eq!(text(&data.path().join("ash.db")), "one");
    assert!(!data.path().join(RESTORING).exists());
}

#[test]
fn a_restore_that_fails_leaves_nothing() {
    let (dir, data) = (private(), private());
    let mut target = open(dir.path()).unwrap();
    let mut manifest = written(&mut target, "one");
    // What is whole and can be no folder is found only when it is unpacked.
    let broken = target.copy(agent(), &mut &b"no archive"[..]).unwrap();
    manifest.entries.retain(|entry| entry.name != agent());
    manifest.entries.push(broken);
    target.publish(&manifest).unwrap();
    let refused = restore(dir.path(), data.path(), SCHEMA).unwrap_err().to_string();
    assert!(refused.contains("hello"), "{refused}");
    assert!(names(data.path()).is_empty());
}
