//! What a reader of a session's stream holds.
//!
//! A reader is at a place in the journal, or behind it: then it reads the store until it has
//! caught up. Either way it gets every frame after the last one it saw, once, in order.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::api::{Frame, FrameClass, Reading, Refusal};
use super::frames::{self, Encoder, Numbering};
use super::journal::{Ahead, Journal, Place};
use super::standing::Standing;
use crate::domain::{EventId, SessionId};
use crate::store::{EventRange, Store, StoreError};

/// Events read from the store at once.
const PAGE: u32 = 256;

/// Stands for no frame: every one is behind it.
const NOTHING: EventId = EventId { seq: 0, k: u64::MAX };

/// A reader's place in a session's stream. Dropping it leaves the turn alone.
pub struct Subscription {
    session: SessionId,
    store: Arc<dyn Store>,
    reader: Reader,
    reading: Reading,
    source: Source,
    /// Where the message stands whose turn is waited for.
    standing: Option<Standing>,
}

/// Where the next frames come from.
enum Source {
    /// The turn has not begun.
    Waiting(oneshot::Receiver<Result<Begin, Refusal>>),
    /// The store, from the event behind `after` on; frames up to `seen` are known.
    Stored { after: u64, seen: EventId },
    /// The journal; frames up to `seen` are known.
    Live { place: Place, seen: EventId },
    /// The stream is over.
    Over,
}

/// Where a turn begins.
struct Begin {
    place: Place,
    user_seq: u64,
}

/// Tells a [`Subscription`] that waits how its turn begins.
pub struct Starter(oneshot::Sender<Result<Begin, Refusal>>);

impl Starter {
    /// Whether nobody waits any longer.
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }

    /// Waits until nobody waits any longer.
    pub(super) async fn left(&mut self) {
        self.0.closed().await;
    }

    /// The turn begins with this user message, at this place of the journal.
    pub(super) fn begin(self, place: Place, user_seq: u64) {
        // Nobody may be waiting any longer; the turn runs all the same.
        let _ = self.0.send(Ok(Begin { place, user_seq }));
    }

    /// The turn will not begin.
    pub fn refuse(self, refusal: Refusal) {
        let _ = self.0.send(Err(refusal));
    }
}

impl Subscription {
    /// A reader of a turn that has not begun yet.
    pub(super) fn of_turn(
        session: SessionId,
        store: Arc<dyn Store>,
        journal: Arc<Journal>,
        reading: Reading,
    ) -> (Subscription, Starter) {
        let (starter, waiting) = oneshot::channel();
        let reading = Reading { until_done: true, ..reading };
        let source = Source::Waiting(waiting);
        let reader = Reader::join(journal);
        let standing = None;
        let subscription = Subscription { session, store, reader, reading, source, standing };
        (subscription, Starter(starter))
    }

    /// The same, which knows where its message stands.
    pub(super) fn standing(self, standing: Standing) -> Subscription {
        Subscription { standing: Some(standing), ..self }
    }

    /// A reader of the session, behind the frame that `reading` names or from now on.
    pub(super) fn of_session(
        session: SessionId,
        store: Arc<dyn Store>,
        journal: Arc<Journal>,
        reading: Reading,
    ) -> Subscription {
        let reader = Reader::join(journal);
        let source = match reading.after {
            Some(seen) => Source::Stored { after: seen.seq.saturating_sub(1), seen },
            None => from_now(&reader.journal),
        };
        Subscription { session, store, reader, reading, source, standing: None }
    }

    /// Where the message stands whose turn is waited for: how many of its tenant are known to go first, and
    /// this one. `None` when none is.
    pub fn position(&self) -> Option<u64> {
        match self.source {
            Source::Waiting(_) => self.standing.as_ref()?.position(),
            Source::Stored { .. } | Source::Live { .. } | Source::Over => None,
        }
    }

    /// The next frames, in order, at least one; `None` when the stream is over for this reader.
    ///
    /// Cancel safe: a call that is dropped before it is done has taken nothing.
    pub async fn next(&mut self) -> Option<Vec<Frame>> {
        loop {
            let (frames, source) = match &mut self.source {
                Source::Waiting(waiting) => begun(self.session, waiting).await,
                Source::Stored { after, seen } => {
                    let (after, seen) = (*after, *seen);
                    self.read_store(after, seen).await
                }
                Source::Live { place, seen } => {
                    let (place, seen) = (*place, *seen);
                    self.read_journal(place, seen).await
                }
                Source::Over => return None,
            };
            self.source = source;
            let frames = self.select(frames);
            if !frames.is_empty() {
                return Some(frames);
            }
        }
    }

    /// Leaves out what the reader did not ask for, and what lies behind the end of its turn.
    fn select(&mut self, mut frames: Vec<Frame>) -> Vec<Frame> {
        if self.reading.until_done {
            let done = frames.iter().position(|frame| frame.class == FrameClass::Done);
            if let Some(done) = done {
                frames.truncate(done + 1);
                self.source = Source::Over;
            }
        }
        if !self.reading.partial {
            frames.retain(|frame| frame.class != FrameClass::Partial);
        }
        frames
    }

    async fn read_store(&self, after: u64, seen: EventId) -> (Vec<Frame>, Source) {
        let journal = &self.reader.journal;
        if let Some(place) = journal.behind(seen) {
            return (vec![], Source::Live { place, seen });
        }
        // Looked at before the store, so that nothing falls between the two.
        let place = journal.start();
        let idle = journal.is_idle();
        match stored_frames(self.session, self.store.as_ref(), after, seen).await {
            Ok(Some((frames, after))) => {
                let seen = frames.last().map_or(seen, |frame| frame.id);
                (frames, Source::Stored { after, seen })
            }
            Ok(None) if self.reading.until_done && idle => (vec![], Source::Over),
            // No such event: a history that was taken over, or brought back from a backup, had been
            // further. What comes now under numbers up to this one was never seen.
            Ok(None) if after < seen.seq => (vec![], from_now(journal)),
            Ok(None) => (vec![], Source::Live { place, seen }),
            Err(error) => (frames::refusal(self.session, &error.into()), Source::Over),
        }
    }

    async fn read_journal(&self, place: Place, seen: EventId) -> (Vec<Frame>, Source) {
        // Registered before looking: what is appended in between wakes it.
        let mut grown = std::pin::pin!(self.reader.journal.grown());
        grown.as_mut().enable();
        match self.reader.journal.read(place) {
            Ahead::Frames(mut frames, place) => {
                frames.retain(|frame| frame.id > seen);
                let seen = frames.last().map_or(seen, |frame| frame.id);
                (frames, Source::Live { place, seen })
            }
            // Of a history that nothing was seen of, nothing is missed.
            Ahead::Behind if seen == NOTHING => (vec![], from_now(&self.reader.journal)),
            Ahead::Behind => {
                self.reader.journal.leave_behind();
                (vec![], Source::Stored { after: seen.seq.saturating_sub(1), seen })
            }
            Ahead::Idle if self.reading.until_done => (vec![], Source::Over),
            Ahead::Nothing | Ahead::Idle => {
                grown.await;
                (vec![], Source::Live { place, seen })
            }
            Ahead::Closed => (vec![], Source::Over),
        }
    }
}

/// What comes next, or the running turn from its beginning.
fn from_now(journal: &Journal) -> Source {
    let (place, before) = journal.now();
    Source::Live { place, seen: before.unwrap_or(NOTHING) }
}

/// Waits until the turn begins or is refused.
async fn begun(
    session: SessionId,
    waiting: &mut oneshot::Receiver<Result<Begin, Refusal>>,
) -> (Vec<Frame>, Source) {
    match waiting.await {
        Ok(Ok(Begin { place, user_seq })) => {
            let seen = EventId { seq: user_seq.saturating_sub(1), k: u64::MAX };
            (vec![], Source::Live { place, seen })
        }
        Ok(Err(refusal)) => (frames::refusal(session, &refusal), Source::Over),
        Err(_) => (frames::refusal(session, &Refusal::ShuttingDown), Source::Over),
    }
}

/// Frames of the next stored events and the number of the last of them; `None` when there are no
/// more events.
async fn stored_frames(
    session: SessionId,
    store: &dyn Store,
    after: u64,
    seen: EventId,
) -> Result<Option<(Vec<Frame>, u64)>, StoreError> {
    let events = store
        .events(session, EventRange { after, limit: PAGE, kinds: vec![], undone: true })
        .await?;
    let Some(last) = events.last().map(|event| event.seq) else { return Ok(None) };
    let mut encoder = Encoder::new(session);
    let mut numbering = Numbering::behind(after);
    let mut frames: Vec<Frame> =
        events.iter().flat_map(|event| encoder.event(event, &mut numbering)).collect();
    frames.retain(|frame| frame.id > seen);
    Ok(Some((frames, last)))
}

/// Counts itself in its journal while it lives.
struct Reader {
    journal: Arc<Journal>,
}

impl Reader {
    fn join(journal: Arc<Journal>) -> Reader {
        journal.join();
        Reader { journal }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.journal.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{EventKind, NewEvent, Session, SessionChange, Timestamp};
    use crate::session::stage::Stage;
    use crate::store::Commit;
    use crate::telemetry::metrics::labels::Dropped;

    /// How long it is looked whether somebody waits, and how long something may take that happens.
    const A_WHILE: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(20);

    fn frame(seq: u64, k: u64) -> Frame {
        let (id, bytes) = (EventId { seq, k }, bytes::Bytes::from_static(b"x"));
        Frame { id, class: FrameClass::Whole, bytes }
    }

    /// A session with one event, and its journal in the middle of a turn.
    async fn running() -> (Stage, SessionId, Arc<Journal>) {
        let (stage, session) = (Stage::set().await, Session::example(1));
        let (kind, body, at) = (EventKind::User, bytes::Bytes::from_static(b"{}"), Timestamp(0));
        let user = NewEvent { seq: 1, kind, turn: None, origin: None, replaces: false, body, at };
        stage.shared.store.create_session(session.clone(), vec![user]).await.unwrap();
        let journal = Arc::new(Journal::counting(stage.shared.metrics()));
        journal.begin_turn();
        journal.append(vec![frame(1, 0)]);
        (stage, session.id, journal)
    }

    fn behind(
        (stage, id, journal): &(Stage, SessionId, Arc<Journal>),
        after: Option<EventId>,
    ) -> Subscription {
        let reading = Reading { after, partial: true, until_done: false };
        let store = stage.shared.store.clone();
        Subscription::of_session(*id, store, journal.clone(), reading)
    }

    #[tokio::test]
    async fn an_id_that_this_history_does_not_have_is_as_good_as_none() {
        let running = running().await;
        let mut reader = behind(&running, Some(EventId { seq: 9, k: 3 }));
        let read = tokio::time::timeout(LONG, reader.next()).await;
        assert_eq!(read.unwrap().unwrap(), [frame(1, 0)]);
    }

    #[tokio::test]
    async fn what_an_earlier_daemon_showed_behind_the_newest_event_is_not_shown_again() {
        let running = running().await;
        let mut reader = behind(&running, Some(EventId { seq: 1, k: 2 }));
        assert!(tokio::time::timeout(A_WHILE, reader.next()).await.is_err());
        running.2.append(vec![frame(1, 1), frame(1, 2), frame(1, 3)]);
        let read = tokio::time::timeout(LONG, reader.next()).await;
        assert_eq!(read.unwrap().unwrap(), [frame(1, 3)]);
    }

    /// The turn that is running, of which nothing has been read yet, ends, and another one begins.
    async fn next_turn((stage, id, journal): &(Stage, SessionId, Arc<Journal>)) {
        let (kind, body, at) = (EventKind::User, bytes::Bytes::from_static(b"{}"), Timestamp(0));
        let user = NewEvent { seq: 2, kind, turn: None, origin: None, replaces: false, body, at };
        let commit = Commit::of(*id, SessionChange::none(), vec![user]);
        stage.shared.store.commit(commit).await.unwrap();
        journal.append(vec![frame(2, 0)]);
        journal.end_turn();
        journal.begin_turn();
    }

    #[tokio::test]
    async fn who_joins_now_and_reads_late_reads_on_from_where_it_joined() {
        let running = running().await;
        running.2.end_turn();
        running.2.begin_turn();
        let mut reader = behind(&running, None);
        next_turn(&running).await;
        let read = tokio::time::timeout(LONG, reader.next()).await.unwrap().unwrap();
        assert_eq!(read.iter().map(|frame| frame.id).collect::<Vec<_>>(), [frame(2, 0).id]);
        assert_eq!(left_behind(&running.0), 1);
    }

    /// How many readers were too slow.
    fn left_behind(stage: &Stage) -> u64 {
        stage.shared.metrics().dropped.of(Dropped::Readers).get()
    }

    #[tokio::test]
    async fn where_that_is_not_known_it_is_not_all_of_history() {
        let running = running().await;
        let mut reader = behind(&running, None);
        next_turn(&running).await;
        assert!(tokio::time::timeout(A_WHILE, reader.next()).await.is_err());
        running.2.append(vec![frame(3, 0)]);
        let read = tokio::time::timeout(LONG, reader.next()).await;
        assert_eq!(read.unwrap().unwrap(), [frame(3, 0)]);
        assert_eq!(left_behind(&running.0), 0, "nothing was seen that more could follow on");
    }
}
