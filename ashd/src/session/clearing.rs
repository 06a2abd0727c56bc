//! Files of sessions at rest: they go when another copy of them is safe.
//!
//! A session without a sandbox has its workspace and its home on the disk, so that it goes on at once, and uids
//! that own them. After long enough both are given back, sooner where the disk or the uids run short: the files
//! are those of its newest point then, and whoever wants them has them built from that, as when they are lost.
//!
//! Here it is decided whose turn it is, and seen that every chunk of the point is there, and what was saved. The
//! rest is its driver's, beside which nothing happens to a session: it looks whether the point has all that is
//! on the disk. What is not sure keeps the files where they are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};

use super::api::Refusal;
use super::driver::{Command, Driver, Handle};
use super::keeping::unkept;
use super::ladder::Times;
use super::retention::before;
use super::service::Result;
use super::shared::Shared;
use super::under_way::UnderWay;
use crate::domain::{Point, PointId, Session, SessionId, Timestamp, Which};
use crate::sandbox::admission::Room;
use crate::snapshot::SnapshotError;

/// The pause between two looks, at least and at most; and behind one that has found as many as may go.
const SHORTEST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_secs(5);

/// How long a session must be at rest where something runs short.
const HASTY: Duration = Duration::from_secs(10 * 60);

/// Uids run short when fewer than one in so many are free.
const SPARE_UIDS: u32 = 16;

/// The disk runs short below so many times what has to stay free.
const SPARE_DISK: u64 = 2;

/// How long a session is left alone whose files stay, and at least one that somebody used or read: others come
/// before it is looked at again.
const AGAIN: Duration = Duration::from_secs(60 * 60);
const SHORTLY: Duration = Duration::from_secs(5);

/// How long one may take, in whose files much may have to be looked at.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long whoever makes a session waits for another one's uids, and of how many it is tried.
const BRIEF: Duration = Duration::from_secs(5);
const TRIED: usize = 4;

/// What became of a session that was to be cleared.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Cleared {
    /// It has neither files nor uids any more.
    Done,
    /// Nothing was done, and nothing is known that stands in the way.
    May,
    /// Somebody uses it, waits for it, or reads its files.
    Later,
    /// Its files stay: something of them is in no point.
    Kept,
}

/// What is known of sessions at rest.
#[derive(Default)]
pub(super) struct Clearing {
    /// Sessions whose files somebody reads, or is about to add to: they stay where they are.
    pub(super) in_hand: UnderWay<SessionId>,
    /// Those that could not be cleared, and until when they are left alone.
    left: Mutex<HashMap<SessionId, Instant>>,
    /// Held by whoever clears one for somebody who makes a session: to find one all sessions are looked at,
    /// and all of a point is read. Until when that is not tried again, because none was found.
    brief: Arc<tokio::sync::Mutex<Option<Instant>>>,
    /// Whether a session was refused that has no uids.
    is_lacking: AtomicBool,
    wanted: Notify,
}

impl Clearing {
    /// A session needs the uids that others at rest have, and was refused for the want of them.
    pub(super) fn look_now(&self) {
        self.is_lacking.store(true, Ordering::Relaxed);
        self.wanted.notify_one();
    }

    fn leave(&self, id: SessionId, time: Duration) {
        self.lock().insert(id, Instant::now() + time);
    }

    /// Those that are left alone for now.
    fn left(&self) -> Vec<SessionId> {
        let mut left = self.lock();
        let now = Instant::now();
        left.retain(|_, until| *until > now);
        left.keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Instant>> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Clears sessions whose time has come, as long as the daemon lives.
pub(super) async fn clear_for_ever(shared: Arc<Shared>) {
    let mut pause = pace(&shared.live().times);
    while !shared.is_shutting_down() {
        tokio::select! {
            () = sleep(pause) => {}
            () = shared.clearing.wanted.notified() => {}
        }
        let times = shared.live().times;
        let cleared = shared.clear_due(&times).await;
        // There may be more of them.
        pause = if cleared > 0 && cleared == times.at_once { SOON } else { LONGEST };
        pause = pause.min(pace(&times));
    }
}

/// How long to wait before the next look.
fn pace(times: &Times) -> Duration {
    times.clear.map_or(LONGEST, |after| (after / 4).clamp(SHORTEST, LONGEST))
}

/// How long a session is left alone that has to be at rest for so long, and is not yet. One that a reader keeps in
/// memory may say so for as long, and there may be many: those behind them have their turn.
fn shortly(rest: Duration) -> Duration {
    (rest / 4).clamp(SHORTLY, AGAIN)
}

/// Whether what sessions at rest have will soon be needed: the disk, or uids, of which so many are free.
fn runs_short(disk: &Room, (free, all): (u32, u32)) -> bool {
    let is_full = disk.disk_free < disk.disk_reserve.saturating_mul(SPARE_DISK);
    is_full || free < all / SPARE_UIDS
}

impl Shared {
    /// Clears those whose time has come, no more than may go at one look; how many it were.
    async fn clear_due(self: &Arc<Self>, times: &Times) -> usize {
        let Some(after) = times.clear else { return 0 };
        let free = self.slots.free();
        let is_short = runs_short(&self.disk(), free);
        // Where there are few uids none are spare, but what was cleared is to be had again.
        let lacks = self.clearing.is_lacking.swap(false, Ordering::Relaxed);
        let is_one_wanted = lacks && !is_short && free.0 == 0;
        let rest = if is_short || is_one_wanted { after.min(HASTY) } else { after };
        let most = if is_one_wanted { 1 } else { times.at_once };
        let mut cleared = 0;
        for id in self.longest_at_rest(rest, times.at_once).await {
            if self.is_shutting_down() || cleared == most {
                break;
            }
            cleared += usize::from(self.clear_at_rest(id, rest).await);
        }
        cleared
    }

    /// A place in the range of leased uids for a session that is to be made. When all are taken, that of a
    /// spare, or of a session at rest that can be cleared soon, which may take a few seconds.
    ///
    /// # Errors
    /// [`Refusal::Capacity`] when there is none.
    pub(super) async fn take_new_slot(self: &Arc<Self>) -> Result<u32> {
        match self.take_any_slot().await {
            Err(no_room) => self.cleared_slot().await.ok_or_else(|| self.refuse(no_room)),
            Ok(slot) => Ok(slot),
        }
    }

    /// The place of a session at rest; none when nobody gives it back in time, or nobody could a
    /// moment ago.
    async fn cleared_slot(self: &Arc<Self>) -> Option<u32> {
        let rest = self.live().times.clear?.min(HASTY);
        let clear = async {
            let mut turn = self.clearing.brief.clone().lock_owned().await;
            // While it was waited for, somebody may have given one back.
            if let Ok(slot) = self.take_slot() {
                return Some(slot);
            }
            if turn.is_some_and(|until| Instant::now() < until) {
                return None;
            }
            // What is begun is brought to its end: it may be free for the next who asks.
            let shared = self.clone();
            let clearing = tokio::spawn(async move {
                let is_cleared = shared.clear_first(rest).await;
                *turn = (!is_cleared).then(|| Instant::now() + SOON);
                turn
            });
            // Nobody else has its turn before this one has the place.
            let _turn = clearing.await.ok()?;
            self.take_slot().ok()
        };
        timeout(BRIEF, clear).await.ok().flatten()
    }

    /// Clears the first session that may be, of a few that have been at rest for so long; whether there was one.
    async fn clear_first(self: &Arc<Self>, rest: Duration) -> bool {
        for id in self.longest_at_rest(rest, TRIED).await {
            if self.clear_at_rest(id, rest).await {
                return true;
            }
        }
        false
    }

    /// Sessions that have been at rest for so long, those first that have for longest; so many at most.
    async fn longest_at_rest(&self, rest: Duration, most: usize) -> Vec<SessionId> {
        let mut spared = self.clearing.left();
        spared.extend(self.ladder.places().into_iter().map(|(session, _)| session));
        let limit = u32::try_from(most + spared.len()).unwrap_or(u32::MAX);
        let since = before(Timestamp::now(), rest);
        match self.store.resting_sessions(since, limit).await {
            Ok(mut found) => {
                found.retain(|id| !spared.contains(id));
                found.truncate(most);
                found
            }
            Err(error) => {
                tracing::warn!(%error, "it is not known which sessions are at rest");
                vec![]
            }
        }
    }

    /// Clears a session, if it may be; whether it was.
    async fn clear_at_rest(self: &Arc<Self>, id: SessionId, rest: Duration) -> bool {
        let cleared = timeout(PATIENCE, self.try_to_clear(id, rest)).await;
        let cleared = cleared.unwrap_or(Ok(Cleared::Kept)).unwrap_or_else(|error| {
            tracing::warn!(ash_session = %id, %error, "the files of a session at rest stay");
            match error {
                // On a disk that is full this is what makes room, as soon as there is some to begin with.
                Refusal::Store(_) => Cleared::Later,
                _ => Cleared::Kept,
            }
        });
        match cleared {
            Cleared::Done => {}
            Cleared::May | Cleared::Later => self.clearing.leave(id, shortly(rest)),
            Cleared::Kept => self.clearing.leave(id, AGAIN),
        }
        cleared == Cleared::Done
    }

    async fn try_to_clear(self: &Arc<Self>, id: SessionId, rest: Duration) -> Result<Cleared> {
        let Some(session) = self.store.session(id).await? else { return Ok(Cleared::Later) };
        let which = session.restore.map_or(Which::Newest, Which::Id);
        let Some(point) = self.store.point(id, which).await? else { return Ok(Cleared::Later) };
        let Some((handle, rest)) = self.driver_of(&session, rest) else {
            return Ok(Cleared::Later);
        };
        let clear = |point: Option<PointId>| {
            move |reply: oneshot::Sender<Result<Cleared>>| Command::Clear { point, rest, reply }
        };
        // First: all of a point may be much to read.
        if ask(&handle, clear(None)).await? != Some(Cleared::May) {
            return Ok(Cleared::Later);
        }
        if !self.is_whole(&session, &point).await? {
            tracing::warn!(ash_session = %id, point = %point.id, "what is on the disk is needed");
            self.save_again(&session, &handle).await?;
            return Ok(Cleared::Kept);
        }
        Ok(ask(&handle, clear(Some(point.id))).await?.unwrap_or(Cleared::Later))
    }

    /// Whether every chunk of a point is here, and what was saved.
    async fn is_whole(&self, session: &Session, point: &Point) -> Result<bool> {
        let (snapshots, tenant, root) =
            (self.snapshots.clone(), session.tenant.clone(), point.root);
        let look = move || match snapshots.known_vault(&tenant)? {
            Some(vault) => vault.is_whole(root),
            None => Ok(false),
        };
        let is_whole = spawn_blocking(look).await.unwrap_or(Err(SnapshotError::Cancelled));
        is_whole.map_err(|error| unkept(session.id, error))
    }

    /// Stores what a point lacks, of a session that still has it.
    async fn save_again(&self, session: &Session, handle: &Handle) -> Result<()> {
        if session.restore.is_none() {
            ask(handle, |reply| Command::Save { name: None, reply }).await?;
        }
        Ok(())
    }

    /// The driver of a session, and how long nobody must have asked it for anything: one that begins for
    /// this was asked for nothing.
    fn driver_of(
        self: &Arc<Self>,
        session: &Session,
        rest: Duration,
    ) -> Option<(Handle, Duration)> {
        if let Some(handle) = self.registry.handle(session.id) {
            return Some((handle, rest));
        }
        let id = session.id;
        let is_made = !session.is_arriving() && !self.making.has(|(made, _)| *made == id);
        if !is_made || self.is_shutting_down() {
            return None;
        }
        Some((Driver::of(self, session), Duration::ZERO))
    }
}

/// Asks a driver for something. None: it takes nothing any more.
async fn ask<T>(
    handle: &Handle,
    command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
) -> Result<Option<T>> {
    let (reply, answer) = oneshot::channel();
    if handle.commands.send(command(reply)).await.is_err() {
        return Ok(None);
    }
    answer.await.ok().transpose()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::domain::{Scope, Status};
    use crate::session::api::Caller;
    use crate::session::files::Origin;
    use crate::session::keeping::point_of;
    use crate::session::stage::Stage;
    use crate::telemetry::metrics::labels::Want;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    /// A session that has long been at rest, saved as it is.
    async fn resting(stage: &Stage, number: u8) -> Session {
        let shared = &stage.shared;
        let slot = Some(shared.slots.take().unwrap());
        let last_active_at = Timestamp(number.into());
        let example = Session::example(number.into());
        let session = Session { status: Status::Stopped, slot, last_active_at, ..example };
        stage.add_with_files(&session).await;
        let place = shared.places.session(session.id);
        let cut = shared.cut_at_rest(&session, place).await.unwrap();
        let point = Point { created_at: Timestamp(0), ..point_of(&cut, &session, None) };
        shared.store.add_point(point, 9).await.unwrap();
        session
    }

    /// As an hour later: those that were left alone are looked at again, and nobody needs their drivers.
    fn later(stage: &Stage, sessions: &[&Session]) {
        stage.shared.clearing.lock().clear();
        sessions.iter().for_each(|session| stage.shared.registry.remove(session.id));
    }

    fn has_files(stage: &Stage, sessions: &[Session]) -> Vec<bool> {
        sessions.iter().map(|session| stage.shared.places.has_files(session.id)).collect()
    }

    fn clear(at_once: usize) -> Times {
        Times { clear: Some(HOUR), at_once, ..Times::default() }
    }

    #[tokio::test]
    async fn those_go_first_that_rest_for_longest_and_no_more_than_may() {
        let stage = Stage::set().await;
        let sessions =
            [resting(&stage, 3).await, resting(&stage, 1).await, resting(&stage, 2).await];
        assert_eq!(stage.shared.clear_due(&Times { clear: None, ..clear(9) }).await, 0);
        let ages = Times { clear: Some(100_000 * HOUR * 24), ..clear(9) };
        assert_eq!(stage.shared.clear_due(&ages).await, 0, "they do not rest for that long");
        assert_eq!(stage.shared.clear_due(&clear(2)).await, 2);
        assert_eq!(has_files(&stage, &sessions), [true, false, false]);
        assert_eq!(stage.shared.slots.free(), (3, 4));
        assert_eq!(stage.shared.clear_due(&clear(2)).await, 1);
        assert_eq!(stage.shared.clear_due(&clear(2)).await, 0);
        assert_eq!(stage.shared.ladder.rested().cleared, 3);
    }

    #[tokio::test]
    async fn whoever_makes_a_session_gets_the_uids_of_one_at_rest() {
        let stage = Stage::set().await;
        let shared = &stage.shared;
        let mut sessions = vec![];
        for number in 1..=4 {
            sessions.push(resting(&stage, number).await);
        }
        assert!(shared.take_new_slot().await.is_err(), "nothing is ever cleared");
        assert_eq!(shared.metrics().refused.of(Want::Uids).get(), 1);
        shared.live.write().unwrap().times = clear(9);
        assert_eq!(shared.take_new_slot().await.ok(), sessions[0].slot);
        assert_eq!(has_files(&stage, &sessions), [false, true, true, true]);
        assert_eq!(shared.metrics().refused.of(Want::Uids).get(), 1, "that one has some");
    }

    /// Else each of those who are refused would look at all sessions, one after the other.
    #[tokio::test]
    async fn where_no_uids_were_found_a_moment_ago_nobody_looks_again() {
        let stage = Stage::set().await;
        let shared = &stage.shared;
        let mut sessions = vec![];
        for number in 1..=4 {
            sessions.push(resting(&stage, number).await);
        }
        shared.live.write().unwrap().times = clear(9);
        let in_hand = |session: &Session| shared.clearing.in_hand.begin(session.id);
        let in_hand: Vec<_> = sessions.iter().map(in_hand).collect();
        assert!(shared.take_new_slot().await.is_err());
        drop(in_hand);
        later(&stage, &sessions.iter().collect::<Vec<_>>());
        let until = Instant::now() + HOUR;
        assert!(shared.clearing.brief.lock().await.replace(until).is_some());
        assert!(shared.take_new_slot().await.is_err());
        // But what is given back is had.
        shared.slots.give_back(3);
        assert_eq!(shared.take_new_slot().await.ok(), Some(3));
        *shared.clearing.brief.lock().await = None;
        assert_eq!(shared.take_new_slot().await.ok(), sessions[0].slot);
    }

    #[tokio::test]
    async fn what_is_damaged_in_the_store_stays_on_the_disk_and_is_stored_again() {
        let stage = Stage::set().await;
        let session = resting(&stage, 1).await;
        let vault = stage.shared.places.vaults().join(session.tenant.as_str());
        for pack in fs::read_dir(vault.join("packs")).unwrap() {
            fs::remove_file(pack.unwrap().path()).unwrap();
        }
        assert_eq!(stage.shared.clear_due(&clear(9)).await, 0);
        assert!(stage.shared.places.has_files(session.id));
        assert_eq!(stage.shared.clear_due(&clear(9)).await, 0, "it is left alone for now");
        later(&stage, &[&session]);
        assert_eq!(stage.shared.clear_due(&clear(9)).await, 1);
    }

    #[tokio::test]
    async fn files_that_somebody_reads_stay_and_later_the_point_is_read() {
        let stage = Stage::set().await;
        let session = resting(&stage, 1).await;
        let caller = Caller { tenant: session.tenant.clone(), scope: Scope::Run };
        let bundle = stage.service.bundle(&caller, session.id, (None, true)).await.unwrap();
        assert_eq!(bundle.origin, Origin::Sandbox);
        assert_eq!(stage.shared.clear_due(&clear(9)).await, 0);
        drop(bundle);
        later(&stage, &[&session]);
        assert_eq!(stage.shared.clear_due(&clear(9)).await, 1);
        let (listing, origin) = stage.service.files(&caller, session.id, true).await.unwrap();
        let names: Vec<_> = listing.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!((names, origin), (vec!["file"], Origin::Snapshot));
        let bundle = stage.service.bundle(&caller, session.id, (None, true)).await.unwrap();
        assert_eq!(bundle.origin, Origin::Snapshot);
    }

    /// As the newest one does of every session that has not ended.
    #[tokio::test]
    async fn the_point_that_has_the_files_can_lose_its_name_and_stays() {
        let stage = Stage::set().await;
        let (session, store) = (resting(&stage, 1).await, &stage.shared.store);
        let newest = async || store.point(session.id, Which::Newest).await.unwrap().unwrap();
        let (id, name) = (PointId::random(), Some("kept".parse().unwrap()));
        store.add_point(Point { id, name, ..newest().await }, 9).await.unwrap();
        assert_eq!(stage.shared.clear_due(&clear(9)).await, 1);
        let caller = Caller { tenant: session.tenant.clone(), scope: Scope::Run };
        let remove = async || stage.service.remove_point(&caller, session.id, Which::Id(id)).await;
        assert!(remove().await.is_ok());
        assert_eq!((newest().await.id, newest().await.name), (id, None));
        assert!(matches!(remove().await, Err(Refusal::NewestCheckpoint)));
        assert_eq!(newest().await.id, id);
    }

    #[test]
    fn it_is_hurried_where_the_disk_or_uids_run_short() {
        let disk = |disk_free| Room { disk_free, disk_reserve: 10, ..Room::default() };
        assert!(!runs_short(&disk(20), (4, 64)) && runs_short(&disk(19), (4, 64)));
        assert!(runs_short(&disk(20), (3, 64)));
        // Of so few none is spare.
        assert!(!runs_short(&disk(20), (0, 15)));
    }

    /// It had uids till it was cleared, and is not to be refused for as long as others keep theirs.
    #[tokio::test]
    async fn where_a_session_lacks_uids_one_other_gives_its_own_back() {
        let stage = Stage::set().await;
        let mut sessions = vec![];
        for number in 1..=4 {
            sessions.push(resting(&stage, number).await);
        }
        let ages = Times { clear: Some(100_000 * HOUR * 24), ..clear(9) };
        assert_eq!(stage.shared.clear_due(&ages).await, 0);
        stage.shared.clearing.look_now();
        assert_eq!(stage.shared.clear_due(&ages).await, 1);
        assert_eq!(has_files(&stage, &sessions), [false, true, true, true]);
        // It is for whoever was refused.
        stage.shared.clearing.look_now();
        assert_eq!(stage.shared.clear_due(&ages).await, 0);
    }

    /// Of those that are found first, as many as may go at one look are still in use.
    #[tokio::test]
    async fn those_that_are_in_use_keep_no_others_from_their_turn() {
        let stage = Stage::set().await;
        let sessions = [resting(&stage, 1).await, resting(&stage, 2).await];
        let _in_hand = stage.shared.clearing.in_hand.begin(sessions[0].id);
        assert_eq!(stage.shared.clear_due(&clear(1)).await, 0);
        assert_eq!(stage.shared.clear_due(&clear(1)).await, 1);
        assert_eq!(has_files(&stage, &sessions), [true, false]);
        assert_eq!(shortly(Duration::from_secs(1)), SHORTLY);
        assert!(shortly(HASTY) > LONGEST && shortly(48 * HOUR) == AGAIN);
    }

    #[test]
    fn it_is_looked_often_enough() {
        let pace = |clear| pace(&Times { clear, ..Times::default() });
        assert_eq!(pace(None), LONGEST);
        assert_eq!(pace(Some(48 * HOUR)), LONGEST);
        assert_eq!(pace(Some(Duration::from_secs(8))), Duration::from_secs(2));
        assert_eq!(pace(Some(Duration::ZERO)), SHORTEST);
    }
}
