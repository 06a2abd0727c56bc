use std::any::Any;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::{fs, io};

use super::*;
use crate::domain::{Point, SessionChange};
use crate::session::keeping::point_of;
use crate::session::stage::Stage;
use crate::snapshot::Cutting;
use crate::store::Commit;
use crate::store::sqlite::{Options, Sqlite};

/// As long as the slowest disk takes.
const A_LONG_TIME: Duration = Duration::from_secs(60);

fn nobody() -> io::Result<Box<dyn Any>> {
    Ok(Box::new(()))
}

/// A session with files and a point of them; and what is known of them.
async fn saved(stage: &Stage) -> (Session, PathBuf) {
    let session = Session::example(1);
    stage.add_with_files(&session).await;
    let places = &stage.shared.places;
    let workspace = places.session(session.id).join("workspace");
    let (roots, cancel) = ([("workspace", workspace.as_path())], AtomicBool::new(false));
    let vault = stage.shared.snapshots.vault(&session.tenant).unwrap();
    let cutting = Cutting::new(session.id, &roots, &cancel);
    let cut = vault.cut(&cutting, &nobody, &|_| true).unwrap();
    let point = point_of(&cut, &session, None);
    stage.shared.store.add_point(point, u32::MAX).await.unwrap();
    let scans = places.vaults().join(session.tenant.as_str()).join("scans");
    let known = scans.join(session.id.to_string());
    assert!(known.exists());
    (session, known)
}

/// A fork that is made, and may not be on the disk.
async fn forked(stage: &Stage, number: u128) -> Built {
    let fork = Session::example(number);
    stage.add_with_files(&fork).await;
    stage.shared.store.note_unsynced(fork.id, fork.sandbox).await.unwrap();
    Built { session: fork.id, build: fork.sandbox, since: stage.shared.disk.now() }
}

/// Which sessions are left, and of what was built, as the next daemon finds it.
async fn left_to_the_next(shared: &Shared) -> Vec<(SessionId, Option<SandboxId>)> {
    shared.watch_disk().await.unwrap();
    left(shared).await
}

#[tokio::test]
async fn what_was_made_and_is_on_the_disk_is_in_no_doubt_behind_the_daemon() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    let mut ids = vec![];
    for number in 1..=3 {
        let made = forked(&stage, number).await;
        ids.push((made.session, made.build));
        shared.sync_made_later(made);
    }
    // As a daemon does that goes and leaves sandboxes: it waits for no others.
    stage.service.sync_made().await;
    let on_the_disk: Vec<(_, Option<SandboxId>)> =
        ids.iter().map(|(session, _)| (*session, None)).collect();
    assert_eq!(left_to_the_next(shared).await, on_the_disk, "they have sandboxes");
    shared.put_to_rest(ids).await.unwrap();
    assert_eq!(left(shared).await, []);
    // There is nothing more to do, and nothing to record.
    shared.sync_made().await;
}

/// It may have waited for long for somebody to have it.
#[tokio::test]
async fn what_was_laid_out_before_a_write_failed_and_recorded_behind_is_in_doubt() {
    let stage = Stage::set().await;
    let (shared, before) = (&stage.shared, stage.shared.disk.now());
    shared.disk.failed();
    shared.disk.settle(shared.disk.now());
    let (made, sure) = (forked(&stage, 1).await, forked(&stage, 2).await);
    shared.note_doubt(made.session, before).await;
    shared.note_doubt(sure.session, sure.since).await;
    let (session, sandbox) = (made.session, made.build);
    let rest = vec![(session, sandbox), (sure.session, sure.build)];
    shared.sync_made_later(Built { since: before, ..made });
    shared.sync_made().await;
    shared.put_to_rest(rest).await.unwrap();
    assert_eq!(left(shared).await, [(session, Some(IN_DOUBT))]);
}

/// Has another sandbox of a session recorded.
async fn go_on(stage: &Stage, session: SessionId) {
    let sandbox = Some(SandboxId::random());
    let change = SessionChange { sandbox, ..SessionChange::none() };
    stage.shared.store.commit(Commit::of(session, change, vec![])).await.unwrap();
}

#[tokio::test]
async fn a_fork_that_goes_on_while_it_is_flushed_with_others_is_not_at_rest() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    let mut forks = vec![];
    for number in 1..=3 {
        forks.push(forked(&stage, number).await);
    }
    let in_use = forks[1].session;
    go_on(&stage, in_use).await;
    shared.rest_forks(forks).await.unwrap();
    let left = shared.store.unsynced().await.unwrap();
    let left: Vec<_> = left.iter().map(|files| (files.session, files.build)).collect();
    assert_eq!(left, [(in_use, None)], "the others are at rest");
}

#[tokio::test]
async fn a_fork_comes_to_rest_whenever_it_comes() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    for number in 1..=3 {
        shared.sync_fork_later(forked(&stage, number).await);
        let rests = async {
            while !shared.store.unsynced().await.unwrap().is_empty() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(A_LONG_TIME, rests).await.expect("nobody flushes it");
    }
}

#[tokio::test]
async fn what_was_built_for_a_sandbox_that_never_came_is_put_on_the_disk() {
    let stage = Stage::set().await;
    let (shared, built) = (&stage.shared, forked(&stage, 1).await);
    let (session, build, since) = (built.session, built.build, built.since);
    // What was built for another one is not its to see to.
    shared.sync_abandoned(Built { session, build: SandboxId::random(), since }).await;
    assert_eq!(left(shared).await, [(session, Some(build))]);
    shared.sync_abandoned(built).await;
    let synced = async {
        while left(shared).await != [(session, None)] {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(A_LONG_TIME, synced).await.expect("nobody flushes it");
}

#[tokio::test]
async fn nothing_of_a_machine_that_is_shut_down_is_built_again() {
    let stage = Stage::set().await;
    let fork = forked(&stage, 1).await;
    // It goes on before its files are known to be on the disk.
    go_on(&stage, fork.session).await;
    stage.shared.sync_all().await.unwrap();
    assert_eq!(stage.shared.store.unsynced().await.unwrap(), []);
}

/// Whose files may not be on the disk, and for which sandboxes all of them were built.
async fn left(shared: &Shared) -> Vec<(SessionId, Option<SandboxId>)> {
    let left = shared.store.unsynced().await.unwrap();
    left.iter().map(|files| (files.session, files.build)).collect()
}

/// Whoever flushes behind that is told nothing of it.
#[tokio::test]
async fn what_was_begun_before_a_write_failed_is_not_known_to_be_on_the_disk() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    let before = forked(&stage, 1).await;
    let (session, sandbox) = (before.session, before.build);
    // As when a write has failed, so that there is nothing to ask.
    let sessions = shared.places.sessions();
    let away = sessions.with_extension("away");
    fs::rename(&sessions, &away).unwrap();
    fs::write(&sessions, "").unwrap();
    assert!(shared.flush().await.is_err());
    fs::remove_file(&sessions).unwrap();
    fs::rename(&away, &sessions).unwrap();
    let behind = forked(&stage, 2).await;
    shared.rest_forks(vec![before, behind]).await.unwrap();
    shared.put_to_rest(vec![(session, sandbox)]).await.unwrap();
    shared.sync_all().await.unwrap();
    assert_eq!(left(shared).await, [(session, Some(IN_DOUBT))]);
    // Until it is built anew.
    shared.store.note_unsynced(session, sandbox).await.unwrap();
    let again = Built { session, build: sandbox, since: shared.disk.now() };
    shared.rest_forks(vec![again]).await.unwrap();
    assert_eq!(left(shared).await, []);
}

#[tokio::test]
async fn nobody_is_at_rest_until_it_is_known_what_is_in_doubt() {
    let stage = Stage::set().await;
    let (shared, fork) = (&stage.shared, forked(&stage, 1).await);
    shared.disk.failed();
    let sandbox = || vec![(fork.session, fork.build)];
    assert!(shared.put_to_rest(sandbox()).await.is_err());
    assert_eq!(left(shared).await, [(fork.session, Some(fork.build))]);
    shared.disk.settle(shared.disk.now());
    shared.put_to_rest(sandbox()).await.unwrap();
    assert_eq!(left(shared).await, []);
}

/// It may have been told of a write that failed, and nobody else is then.
#[tokio::test]
async fn what_a_daemon_before_has_left_is_not_known_to_be_on_the_disk() {
    let stage = Stage::set().await;
    let shared = &stage.shared;
    let (unused, used) = (forked(&stage, 1).await, forked(&stage, 2).await);
    let point = Point { session: unused.session, ..Point::example(0) };
    shared.store.add_point(point.clone(), 9).await.unwrap();
    // As the next daemon does.
    shared.watch_disk().await.unwrap();
    shared.sync_left().await.unwrap();
    let restore = shared.store.session(unused.session).await.unwrap().unwrap().restore;
    assert_eq!(restore, Some(point.id), "it can be built from what it has");
    shared.put_to_rest(vec![(used.session, used.build)]).await.unwrap();
    shared.sync_all().await.unwrap();
    assert_eq!(left(shared).await, [(used.session, Some(IN_DOUBT))]);
    // What is put there from outside stays where it is, should the machine go down.
    shared.sync_before_change(used.session).await.unwrap();
    assert_eq!(left(shared).await, [(used.session, None)]);
}

#[tokio::test]
async fn nothing_is_known_of_files_that_may_be_torn() {
    let stage = Stage::set().await;
    let (session, known) = saved(&stage).await;
    stage.shared.give_up_files(&session).await.unwrap();
    assert!(!known.exists());
    let session = stage.shared.store.session(session.id).await.unwrap().unwrap();
    assert!(session.restore.is_some());
}

#[tokio::test]
async fn nor_of_those_that_stay_as_another_boot_has_left_them() {
    let stage = Stage::set().await;
    let (session, known) = saved(&stage).await;
    let database = stage.shared.places.data_dir.join("ash.db");
    let options = Options { boot: "before".to_owned(), ..Options::default() };
    let before = Sqlite::open(&database, options).unwrap();
    before.in_use(vec![session.id]).await.unwrap();
    let change = SessionChange { changed: Some(Changed::Kept), ..SessionChange::none() };
    before.commit(Commit::of(session.id, change, vec![])).await.unwrap();
    before.close().await;
    assert!(stage.shared.store.unsynced().await.unwrap()[0].lost);
    stage.shared.sync_left().await.unwrap();
    assert!(!known.exists());
    assert!(stage.shared.store.unsynced().await.unwrap().is_empty());
}
