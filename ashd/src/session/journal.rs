//! The running turn's frames, shared by everyone who reads them.
//!
//! One writer, the session's driver, appends; each reader keeps a place of its own and takes what
//! is behind it. There is no queue per reader: a slow one lags, and one that lags behind what is
//! kept reads the store instead. Nobody waits for a reader.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::api::Frame;
use crate::domain::EventId;
use crate::telemetry::metrics::labels::Dropped;
use crate::telemetry::metrics::{IntCounter, Metrics};

/// Bytes of frames that a turn may keep for readers that come back.
const BUDGET: usize = 32 * 1024 * 1024;

/// The most frames handed out at once, and their bytes, but one frame in any case. A reader that is slow has
/// them for as long as it likes, also when they are not kept here any more.
const BATCH: usize = 512;
const BATCH_BYTES: usize = 1024 * 1024;

/// The frames of the running turn, or of the newest one.
#[derive(Default)]
pub(super) struct Journal {
    inner: Mutex<Inner>,
    grown: Notify,
    /// Counts readers that lag behind what is kept.
    left_behind: Option<IntCounter>,
}

#[derive(Default)]
struct Inner {
    frames: VecDeque<Frame>,
    /// How many frames were dropped from the front so far: the place of the first one kept.
    dropped: u64,
    bytes: usize,
    /// The newest frame that was dropped.
    floor: Option<EventId>,
    readers: usize,
    in_turn: bool,
    closed: bool,
}

/// A place in the journal: how many frames came before it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place(u64);

/// What lies behind a place.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Ahead {
    /// Frames, and the place behind them.
    Frames(Vec<Frame>, Place),
    /// Frames behind this place are no longer kept.
    Behind,
    /// Nothing yet: a turn runs.
    Nothing,
    /// Nothing, and no turn runs. Seen at one moment, or the end of a turn could fall in between.
    Idle,
    /// Nothing, for ever.
    Closed,
}

impl Journal {
    /// One whose readers are counted when they lag behind what is kept.
    pub(super) fn counting(metrics: &Metrics) -> Journal {
        let left_behind = Some(metrics.dropped.of(Dropped::Readers).clone());
        Journal { left_behind, ..Journal::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A reader that panicked has not broken the frames.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A turn begins: what came before it need not be kept any longer.
    pub(super) fn begin_turn(&self) {
        let mut inner = self.lock();
        inner.in_turn = true;
        inner.drop_front_until(|inner| inner.frames.is_empty());
    }

    /// The turn is over; its frames are kept for those who are reading them. Whoever waits for its
    /// end learns of it also when there was none to be seen.
    pub(super) fn end_turn(&self) {
        let mut inner = self.lock();
        inner.in_turn = false;
        inner.forget_if_unread();
        drop(inner);
        self.grown.notify_waiters();
    }

    /// Adds frames and wakes the readers.
    pub(super) fn append(&self, frames: Vec<Frame>) {
        if frames.is_empty() {
            return;
        }
        let mut inner = self.lock();
        inner.bytes += frames.iter().map(|frame| frame.bytes.len()).sum::<usize>();
        inner.frames.extend(frames);
        inner.drop_front_until(|inner| inner.bytes <= BUDGET);
        inner.forget_if_unread();
        drop(inner);
        self.grown.notify_waiters();
    }

    /// Drops the frames of a turn that is over: whoever has not read them by now reads the store.
    pub(super) fn forget(&self) {
        let mut inner = self.lock();
        if !inner.in_turn {
            inner.forget();
        }
    }

    /// Ends every stream of this journal behind what is in it.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.grown.notify_waiters();
    }

    /// Registers a reader. Each call is paired with one of [`Journal::leave`].
    pub(super) fn join(&self) {
        self.lock().readers += 1;
    }

    /// A reader is gone.
    pub(super) fn leave(&self) {
        let mut inner = self.lock();
        inner.readers -= 1;
        inner.forget_if_unread();
    }

    /// Whether no turn runs.
    pub(super) fn is_idle(&self) -> bool {
        !self.lock().in_turn
    }

    /// The place behind everything.
    pub(super) fn end(&self) -> Place {
        let inner = self.lock();
        Place(inner.dropped + inner.frames.len() as u64)
    }

    /// The place of the running turn's first frame, or the end when none runs; and the frame before
    /// it, if there was one.
    pub(super) fn now(&self) -> (Place, Option<EventId>) {
        let inner = self.lock();
        let (kept, before) = match inner.frames.back() {
            Some(newest) if !inner.in_turn => (inner.frames.len() as u64, Some(newest.id)),
            _ => (0, inner.floor),
        };
        (Place(inner.dropped + kept), before)
    }

    /// The place of the first frame that is kept.
    pub(super) fn start(&self) -> Place {
        Place(self.lock().dropped)
    }

    /// The place behind the frame with this id, if everything behind that frame is kept. None when
    /// there was no such frame yet: what would be behind it is not known.
    pub(super) fn behind(&self, id: EventId) -> Option<Place> {
        let inner = self.lock();
        if inner.frames.back().map(|newest| newest.id).or(inner.floor) < Some(id) {
            return None;
        }
        if inner.floor.is_none_or(|floor| floor > id) {
            // Nothing was dropped yet: the first frame may still not be the next one.
            inner.frames.front().filter(|first| first.id <= id)?;
        }
        Some(Place(inner.dropped + inner.frames.partition_point(|frame| frame.id <= id) as u64))
    }

    /// What lies behind a place.
    pub(super) fn read(&self, place: Place) -> Ahead {
        let inner = self.lock();
        let Some(skip) = place.0.checked_sub(inner.dropped) else { return Ahead::Behind };
        let mut room = BATCH_BYTES;
        let fits = |frame: &&Frame| {
            let is_left = room > 0;
            room = room.saturating_sub(frame.bytes.len());
            is_left
        };
        let ahead = inner.frames.iter().skip(skip as usize).take(BATCH);
        let frames: Vec<Frame> = ahead.take_while(fits).cloned().collect();
        match frames.len() as u64 {
            0 if inner.closed => Ahead::Closed,
            0 if inner.in_turn => Ahead::Nothing,
            0 => Ahead::Idle,
            taken => Ahead::Frames(frames, Place(place.0 + taken)),
        }
    }

    /// A reader lags behind what is kept, and reads the store.
    pub(super) fn leave_behind(&self) {
        if let Some(counter) = &self.left_behind {
            counter.inc();
        }
    }

    /// Resolves when frames were added, a turn ended or the journal was closed after this call.
    pub(super) fn grown(&self) -> tokio::sync::futures::Notified<'_> {
        self.grown.notified()
    }
}

impl Inner {
    fn drop_front_until(&mut self, enough: impl Fn(&Inner) -> bool) {
        while !enough(self) {
            let Some(frame) = self.frames.pop_front() else { return };
            self.bytes -= frame.bytes.len();
            self.dropped += 1;
            self.floor = Some(frame.id);
        }
    }

    fn forget_if_unread(&mut self) {
        if !self.in_turn && self.readers == 0 {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.drop_front_until(|inner| inner.frames.is_empty());
        self.frames.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::session::api::FrameClass;

    fn frame(seq: u64, k: u64) -> Frame {
        let bytes = bytes::Bytes::from_static(b"x");
        Frame { id: EventId { seq, k }, class: FrameClass::Whole, bytes }
    }

    #[test]
    fn readers_take_what_lies_behind_their_place() {
        let journal = Journal::default();
        journal.begin_turn();
        let start = journal.end();
        assert_eq!(journal.read(start), Ahead::Nothing);
        journal.append(vec![frame(1, 0), frame(1, 1)]);
        let Ahead::Frames(frames, place) = journal.read(start) else { panic!("no frames") };
        assert_eq!(frames, [frame(1, 0), frame(1, 1)]);
        assert_eq!(journal.read(place), Ahead::Nothing);
        journal.join();
        journal.append(vec![frame(1, 2)]);
        journal.end_turn();
        let Ahead::Frames(frames, place) = journal.read(place) else { panic!("idle too early") };
        assert_eq!(frames, [frame(1, 2)]);
        assert_eq!(journal.read(place), Ahead::Idle);
        journal.close();
        assert_eq!(journal.read(place), Ahead::Closed);
    }

    #[test]
    fn large_frames_are_handed_out_a_few_at_a_time_and_one_at_least() {
        let journal = Journal::default();
        journal.begin_turn();
        for (k, size) in [BATCH_BYTES - 1, 1, 1, 2 * BATCH_BYTES, 1].into_iter().enumerate() {
            let bytes = bytes::Bytes::from(vec![b'x'; size]);
            journal.append(vec![Frame { bytes, ..frame(1, k as u64) }]);
        }
        let (mut place, mut taken) = (journal.start(), vec![]);
        while let Ahead::Frames(frames, behind) = journal.read(place) {
            taken.push(frames.len());
            place = behind;
        }
        assert_eq!(taken, [2, 2, 1]);
    }

    #[test]
    fn a_place_is_found_by_id_or_not_at_all() {
        let journal = Journal::default();
        journal.begin_turn();
        journal.append(vec![frame(4, 0), frame(4, 1), frame(5, 0)]);
        assert_eq!(journal.behind(EventId { seq: 4, k: 1 }), Some(Place(2)));
        assert_eq!(journal.behind(EventId { seq: 5, k: 0 }), Some(Place(3)));
        assert_eq!(journal.behind(EventId { seq: 9, k: 0 }), None);
        assert_eq!(journal.behind(EventId { seq: 3, k: 9 }), None);
        journal.begin_turn();
        assert_eq!(journal.behind(EventId { seq: 4, k: 1 }), None);
        assert_eq!(journal.behind(EventId { seq: 5, k: 0 }), Some(Place(3)));
        assert_eq!(journal.read(Place(1)), Ahead::Behind);
    }

    #[test]
    fn whoever_waits_for_a_turn_learns_of_its_end() {
        let journal = Journal::default();
        journal.begin_turn();
        assert_eq!(journal.read(journal.end()), Ahead::Nothing);
        let mut grown = std::pin::pin!(journal.grown());
        grown.as_mut().enable();
        journal.end_turn();
        assert_eq!(grown.now_or_never(), Some(()));
        assert_eq!(journal.read(journal.end()), Ahead::Idle);
    }

    #[test]
    fn frames_that_nobody_reads_are_forgotten() {
        let journal = Journal::default();
        journal.begin_turn();
        journal.join();
        journal.append(vec![frame(1, 0)]);
        journal.end_turn();
        assert!(matches!(journal.read(journal.start()), Ahead::Frames(..)));
        journal.leave();
        assert_eq!(journal.start(), journal.end());
    }

    #[test]
    fn whoever_follows_does_not_keep_a_turn_that_is_over() {
        let journal = Journal::default();
        journal.begin_turn();
        journal.join();
        journal.append(vec![frame(1, 0)]);
        journal.forget();
        assert!(matches!(journal.read(journal.start()), Ahead::Frames(..)), "it is not over");
        journal.end_turn();
        let (start, end) = (journal.start(), journal.end());
        journal.forget();
        assert_eq!((journal.read(start), journal.read(end)), (Ahead::Behind, Ahead::Idle));
        assert_eq!(journal.start(), end);
    }
}
