//! What a reader of a session's stream holds.
//!
//! A reader is at a place in the journal, or behind it: then it reads the store until it has
//! caught up. Either way it gets every frame after the last one it saw, once, in order.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::api::{Frame, FrameClass, Reading, Refusal};
use super::frames::{self, Encoder, Numbering};
use super::journal::{Ahead, Journal, Place};
use crate::domain::{EventId, SessionId};
use crate::store::{EventRange, Store, StoreError};

/// Events read from the store at once.
const PAGE: u32 = 256;

/// A reader's place in a session's stream. Dropping it leaves the turn alone.
pub struct Subscription {
    session: SessionId,
    store: Arc<dyn Store>,
    reader: Reader,
    reading: Reading,
    source: Source,
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
        (Subscription { session, store, reader, reading, source }, Starter(starter))
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
            None => Source::Live { place: reader.journal.now(), seen: EventId { seq: 0, k: 0 } },
        };
        Subscription { session, store, reader, reading, source }
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
            Ahead::Behind => (vec![], Source::Stored { after: seen.seq.saturating_sub(1), seen }),
            Ahead::Idle if self.reading.until_done => (vec![], Source::Over),
            Ahead::Nothing | Ahead::Idle => {
                grown.await;
                (vec![], Source::Live { place, seen })
            }
            Ahead::Closed => (vec![], Source::Over),
        }
    }
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
