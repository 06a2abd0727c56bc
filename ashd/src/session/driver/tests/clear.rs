//! Sessions at rest that give their files and uids back, and have them again.

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};

use super::*;
use crate::domain::{Changed, SandboxId, Which};
use crate::session::survey;
use crate::telemetry::metrics::labels::Want;

/// A session at rest, and the point that has all of its files.
struct Resting {
    stage: Stage,
    driver: Driver,
    point: PointId,
}

impl Resting {
    async fn set() -> Resting {
        Resting::with(|_| ()).await
    }

    /// With something more in its workspace.
    async fn with(more: impl FnOnce(&Path)) -> Resting {
        let stage = Stage::set().await;
        let slot = Some(stage.shared.slots.take().unwrap());
        let session = Session { status: Status::Stopped, slot, ..Session::example(1) };
        stage.add_with_files(&session).await;
        more(&stage.shared.places.session(session.id).join("workspace"));
        let (mut driver, _) = Driver::new(stage.shared.clone(), session);
        let point = driver.save_now().await.unwrap().id;
        driver.tend().await;
        Resting { stage, driver, point }
    }

    async fn clear_after(&mut self, rest: Duration) -> Cleared {
        let (reply, cleared) = oneshot::channel();
        let point = Some(self.point);
        self.driver.command(Command::Clear { point, rest, reply }).await;
        cleared.await.unwrap().unwrap()
    }

    /// What is said to whoever only asks.
    async fn may_be_cleared(&mut self) -> Cleared {
        let (reply, cleared) = oneshot::channel();
        let (point, rest) = (None, Duration::ZERO);
        self.driver.command(Command::Clear { point, rest, reply }).await;
        cleared.await.unwrap().unwrap()
    }

    async fn clear(&mut self) -> Cleared {
        self.clear_after(Duration::ZERO).await
    }

    fn file(&self) -> PathBuf {
        self.stage.shared.places.session(self.driver.session.id).join("workspace/file")
    }

    async fn row(&self) -> Session {
        self.stage.shared.store.session(self.driver.session.id).await.unwrap().unwrap()
    }

    /// Nothing was given back.
    fn has_all(&self) -> bool {
        self.file().exists() && self.stage.shared.slots.used().len() == 1
    }
}

#[tokio::test]
async fn files_and_uids_are_given_back_and_had_again() {
    let mut resting = Resting::set().await;
    let shared = resting.stage.shared.clone();
    let id = resting.driver.session.id;
    assert_eq!((resting.may_be_cleared().await, resting.has_all()), (Cleared::May, true));
    assert_eq!(resting.clear().await, Cleared::Done);
    assert!(!shared.places.session(id).exists() && shared.slots.used().is_empty());
    let row = resting.row().await;
    assert_eq!((row.status, row.slot, row.restore), (Status::Stopped, None, Some(resting.point)));
    assert_eq!(row, resting.driver.session);
    let rested = shared.ladder.rested();
    assert_eq!((rested.cleared, rested.cleared_bytes), (1, 8));
    // That is as it should be, and there is nothing left to give back.
    let found = survey::look(&shared).await.unwrap();
    assert!(!found.iter().any(|difference| difference.session() == Some(id)), "{found:?}");
    assert_eq!(resting.clear().await, Cleared::Later);
    let other = shared.slots.take().unwrap();
    resting.driver.settle_files().await.unwrap();
    assert_eq!(fs::read(resting.file()).unwrap(), b"kept");
    let row = resting.row().await;
    assert!(row.slot.is_some_and(|slot| slot != other) && row.restore.is_none(), "{row:?}");
    assert!(shared.making.all().is_empty());
}

#[tokio::test]
async fn what_is_in_no_point_stays_and_is_saved() {
    let mut resting = Resting::set().await;
    fs::write(resting.file(), "changed").unwrap();
    assert_eq!((resting.clear().await, resting.has_all()), (Cleared::Kept, true));
    assert_eq!(resting.row().await.restore, None);
    resting.driver.finish_saving().await;
    let id = resting.driver.session.id;
    let newest = resting.stage.shared.store.point(id, Which::Newest).await.unwrap().unwrap();
    assert_ne!(newest.id, resting.point);
    resting.point = newest.id;
    assert_eq!(resting.clear().await, Cleared::Done);
    resting.driver.settle_files().await.unwrap();
    assert_eq!(fs::read(resting.file()).unwrap(), b"changed");
}

#[tokio::test]
async fn nothing_goes_of_one_that_is_used_or_waited_for() {
    let used: [fn(&mut Driver); 5] = [
        |driver| driver.settles_at = Some(tokio::time::Instant::now()),
        |driver| driver.writes.add(Box::new(|_| {})),
        |driver| driver.state.resuming = true,
        |driver| driver.leaving.store(true, Ordering::Relaxed),
        |driver| driver.session.changed = Changed::Maybe,
    ];
    for (each, uses) in used.into_iter().enumerate() {
        let mut resting = Resting::set().await;
        uses(&mut resting.driver);
        assert_eq!((resting.clear().await, resting.has_all()), (Cleared::Later, true), "{each}");
    }
    let mut resting = Resting::set().await;
    assert_eq!(resting.clear_after(Duration::from_secs(3600)).await, Cleared::Later);
    let in_hand = resting.stage.shared.clearing.in_hand.begin(resting.driver.session.id);
    assert_eq!((resting.clear().await, resting.has_all()), (Cleared::Later, true));
    drop(in_hand);
    assert_eq!(resting.clear().await, Cleared::Done);
}

#[tokio::test]
async fn whoever_asks_for_something_waits_for_no_look_at_the_files() {
    let Resting { stage, mut driver, .. } = Resting::set().await;
    let place = stage.shared.places.session(driver.session.id);
    let (commands, asked) = mpsc::channel(1);
    driver.commands = asked;
    assert!(driver.cut_unless_asked(place.clone()).await.unwrap().is_some());
    let (reply, _answer) = oneshot::channel();
    assert!(commands.send(Command::Interrupt { reply }).await.is_ok());
    assert!(driver.cut_unless_asked(place.clone()).await.unwrap().is_none());
    drop(driver.commands.recv().await);
    assert!(driver.cut_unless_asked(place).await.unwrap().is_some());
}

#[tokio::test]
async fn nor_of_one_whose_point_may_lack_something() {
    // What a point cannot have: a device that anybody may make.
    let mut resting = Resting::with(|workspace| {
        let (device, kind) = (workspace.join("device"), FileType::CharacterDevice);
        rustix::fs::mknodat(CWD, device, kind, Mode::RUSR, 0).unwrap();
    })
    .await;
    assert_eq!((resting.clear().await, resting.has_all()), (Cleared::Kept, true));
    // Another point.
    let mut resting = Resting::set().await;
    resting.point = PointId::random();
    assert_eq!((resting.clear().await, resting.has_all()), (Cleared::Later, true));
    // What nobody knows to be on the disk.
    let mut resting = Resting::set().await;
    let (id, build) = (resting.driver.session.id, SandboxId::random());
    resting.stage.shared.store.note_unsynced(id, build).await.unwrap();
    assert_eq!((resting.clear().await, resting.has_all()), (Cleared::Kept, true));
    resting.stage.shared.store.synced(vec![(id, build)]).await.unwrap();
    assert_eq!(resting.clear().await, Cleared::Done);
    assert_eq!(resting.stage.shared.store.unsynced().await.unwrap(), []);
}

/// The sandbox in which somebody listened is gone.
#[tokio::test]
async fn a_socket_that_was_left_keeps_nothing_else() {
    let bind = |workspace: &Path| drop(UnixListener::bind(workspace.join("socket")).unwrap());
    let mut resting = Resting::with(bind).await;
    let socket = resting.file().with_file_name("socket");
    assert!(socket.exists());
    assert_eq!(resting.clear().await, Cleared::Done);
    resting.driver.settle_files().await.unwrap();
    assert_eq!(fs::read(resting.file()).unwrap(), b"kept");
    assert!(!socket.exists());
}

#[tokio::test]
async fn what_was_begun_is_brought_to_its_end() {
    let mut resting = Resting::set().await;
    let (id, point) = (resting.driver.session.id, resting.point);
    assert!(resting.stage.shared.store.put_away(id, point).await.unwrap());
    resting.driver.session.restore = Some(point);
    // What is in place is not the session's any more.
    fs::write(resting.file(), "torn").unwrap();
    assert_eq!(resting.clear().await, Cleared::Done);
    assert!(resting.stage.shared.slots.used().is_empty());
    resting.driver.settle_files().await.unwrap();
    assert_eq!(fs::read(resting.file()).unwrap(), b"kept");
}

#[tokio::test]
async fn one_that_wants_uids_when_there_are_none_is_refused_and_loses_nothing() {
    let mut resting = Resting::set().await;
    assert_eq!(resting.clear().await, Cleared::Done);
    let slots = &resting.stage.shared.slots;
    while slots.take().is_ok() {}
    let refused = resting.driver.settle_files().await;
    assert!(matches!(refused, Err(Refusal::Capacity { .. })), "{refused:?}");
    assert_eq!(resting.stage.shared.metrics().refused.of(Want::Uids).get(), 1);
    assert_eq!(resting.row().await.restore, Some(resting.point));
    resting.stage.shared.slots.give_back(2);
    resting.driver.settle_files().await.unwrap();
    assert_eq!((resting.row().await.slot, resting.file().exists()), (Some(2), true));
}
