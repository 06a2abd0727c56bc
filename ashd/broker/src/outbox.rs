//! Events on their way to `ashd`, kept while nobody takes them.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::control::Event;

/// How many events are kept; beyond that the oldest are dropped and counted.
const LIMIT: usize = 4096;

/// A bounded queue with one taker at a time.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Event>,
    lost: u64,
}

impl Outbox {
    pub(crate) fn push(&self, event: Event) {
        let mut queue = self.lock();
        if queue.events.len() == LIMIT {
            queue.events.pop_front();
            queue.lost += 1;
        }
        queue.events.push_back(event);
        drop(queue);
        self.filled.notify_one();
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        let queue = self.lock();
        queue.events.is_empty() && queue.lost == 0
    }

    /// Waits for the next event. It goes back to its place unless it is said to be sent.
    pub(crate) async fn next(&self) -> Ticket<'_> {
        loop {
            if let Some(event) = self.take() {
                return Ticket { outbox: self, event, sent: false };
            }
            self.filled.notified().await;
        }
    }

    fn take(&self) -> Option<Event> {
        let mut queue = self.lock();
        match std::mem::take(&mut queue.lost) {
            0 => queue.events.pop_front(),
            count => Some(Event::Lost { count }),
        }
    }

    fn put_back(&self, event: Event) {
        let mut queue = self.lock();
        match event {
            Event::Lost { count } => queue.lost += count,
            _ if queue.events.len() == LIMIT => queue.lost += 1,
            event => queue.events.push_front(event),
        }
        drop(queue);
        self.filled.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An event that somebody is trying to send.
pub(crate) struct Ticket<'a> {
    outbox: &'a Outbox,
    event: Event,
    sent: bool,
}

impl Ticket<'_> {
    pub(crate) fn event(&self) -> &Event {
        &self.event
    }

    /// The event is on its way and need not be kept.
    pub(crate) fn sent(mut self) {
        self.sent = true;
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if !self.sent {
            self.outbox.put_back(self.event.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::control::{Tokens, Usage};

    fn usage(status: u16) -> Event {
        Event::Usage(Usage {
            sandbox: Uuid::nil(),
            request_id: None,
            status,
            duration_ms: 0,
            complete: true,
            tokens: Tokens::default(),
        })
    }

    async fn take(outbox: &Outbox) -> Event {
        let ticket = outbox.next().await;
        let event = ticket.event().clone();
        ticket.sent();
        event
    }

    #[tokio::test]
    async fn the_oldest_are_dropped_and_counted() {
        let outbox = Outbox::default();
        (0..LIMIT as u16 + 3).for_each(|status| outbox.push(usage(status)));
        assert_eq!(take(&outbox).await, Event::Lost { count: 3 });
        assert_eq!(take(&outbox).await, usage(3));
    }

    #[tokio::test]
    async fn what_was_not_sent_comes_again() {
        let outbox = Outbox::default();
        outbox.push(usage(1));
        outbox.push(usage(2));
        drop(outbox.next().await);
        assert_eq!(take(&outbox).await, usage(1));
        assert_eq!(take(&outbox).await, usage(2));
    }
}
