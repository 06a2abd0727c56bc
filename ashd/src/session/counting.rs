//! What is counted of sessions: what the broker saw of their calls of the model.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, sleep};

use super::service::Service;
use super::shared::Shared;
use crate::domain::{SandboxId, SessionId, Timestamp};
use crate::sandbox::broker::{Failures, Standing, Usage as Seen};
use crate::sandbox::cgroup::OutOfMemory;
use crate::store::{StoreError, Usage};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::labels::{Answered, Denied, Exhausted, TokenKind, Unanswered};

/// How often the broker is asked what it has refused, and what got no answer.
const ASKED_EVERY: Duration = Duration::from_secs(10);

/// Calls whose usage is being added at a time. While the store stands still further ones wait where the
/// broker's reports do, of which there are so many and no more.
const AT_ONCE: usize = 256;

/// How long to wait before what the disk had no room for is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl Service {
    /// Where it is counted what happens.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.options.metrics
    }
}

impl Shared {
    /// Where it is counted what happens.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.options.metrics
    }

    /// Counts what was killed in a sandbox for want of memory. Asked before it is ended.
    pub(super) fn count_oom_kills(&self, sandbox: SandboxId) {
        let whose = match self.sandboxes.out_of_memory(sandbox) {
            Some(OutOfMemory::Sandbox) => Exhausted::Sandbox,
            Some(OutOfMemory::Server) => Exhausted::Server,
            None => return,
        };
        self.metrics().oom_kills.of(whose).inc_by(self.sandboxes.oom_kills(sandbox));
    }

    /// Adds to a session's usage, in the background: a turn does not wait for its accounting. While the disk is
    /// full, it waits for that.
    pub(super) fn record_usage(
        self: &Arc<Self>,
        session: SessionId,
        at: Timestamp,
        usage: Usage,
    ) -> JoinHandle<()> {
        let shared = self.clone();
        tokio::spawn(async move {
            let add = || shared.store.add_usage(session, at, usage.clone());
            if let Err(error) = while_full(add, || shared.is_shutting_down()).await {
                tracing::warn!(ash_session = %session, %error, "usage was not recorded");
            }
        })
    }

    /// Counts a call of the model that is over, and adds it to the usage of its session, if it is one's.
    fn note_call(self: &Arc<Self>, seen: Seen) -> Option<JoinHandle<()>> {
        let took = Duration::from_millis(seen.duration_ms);
        self.count_call(&seen, took);
        let session = self.registry.of_sandbox(SandboxId(seen.sandbox))?;
        // To a millisecond and what the report took on its way.
        let began = Instant::now().checked_sub(took);
        let first_call = self.registry.handle(session).map(|handle| handle.first_call);
        if let Some(waited) = first_call.zip(began).and_then(|(first, began)| first.heard_of(began))
        {
            self.metrics().time_to_model.observe(waited.as_secs_f64());
        }
        let usage = Usage {
            model: seen.tokens.model.unwrap_or_default(),
            input_tokens: seen.tokens.input_tokens,
            output_tokens: seen.tokens.output_tokens,
            cache_creation_tokens: seen.tokens.cache_creation_input_tokens,
            cache_read_tokens: seen.tokens.cache_read_input_tokens,
            cost_usd: 0.0,
            calls: 1,
        };
        Some(self.record_usage(session, Timestamp::now(), usage))
    }

    fn count_call(&self, Seen { status, tokens, .. }: &Seen, took: Duration) {
        let metrics = self.metrics();
        metrics.broker_requests.of(Answered::of(*status)).observe(took.as_secs_f64());
        for (kind, count) in [
            (TokenKind::Input, tokens.input_tokens),
            (TokenKind::Output, tokens.output_tokens),
            (TokenKind::CacheCreation, tokens.cache_creation_input_tokens),
            (TokenKind::CacheRead, tokens.cache_read_input_tokens),
        ] {
            metrics.tokens.of(kind).inc_by(count);
        }
    }
}

/// Records something. While the disk is full, waits and tries again, unless nobody is to wait any longer.
async fn while_full<R: Future<Output = Result<(), StoreError>>>(
    record: impl Fn() -> R,
    gives_up: impl Fn() -> bool,
) -> Result<(), StoreError> {
    loop {
        match record().await {
            Err(StoreError::Full) if !gives_up() => sleep(RETRY).await,
            recorded => return recorded,
        }
    }
}

/// Takes what the broker saw on the wire, as long as there is one.
pub(super) async fn account(shared: Arc<Shared>, mut calls: mpsc::Receiver<Seen>) {
    let mut adding = FuturesUnordered::new();
    while let Some(seen) = calls.recv().await {
        adding.extend(shared.note_call(seen));
        while adding.len() > AT_ONCE {
            // It has said itself what went wrong.
            let _ = adding.next().await;
        }
    }
}

/// Counts what the broker refuses, and what gets no answer, as long as the daemon lives.
pub(super) async fn count_refusals(shared: Arc<Shared>) {
    let mut pulse = tokio::time::interval(ASKED_EVERY);
    pulse.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A broker outlives daemons: what it has counted by now the one before this has.
    let mut told = Told::default();
    told.hear(shared.sandboxes.broker_standing().await);
    while !shared.is_shutting_down() {
        pulse.tick().await;
        told.count(shared.metrics(), shared.sandboxes.broker_standing().await);
    }
}

/// What the broker has said last.
#[derive(Default)]
struct Told {
    refused: u64,
    failed: Failures,
}

impl Told {
    /// Remembers what is said. What is not stays as it was.
    fn hear(&mut self, Standing { refused, failed, .. }: Standing) {
        self.refused = refused.unwrap_or(self.refused);
        self.failed = failed.unwrap_or(self.failed);
    }

    /// Counts what is new of it.
    fn count(&mut self, metrics: &Metrics, said: Standing) {
        let (was_refused, was) = (self.refused, self.failed);
        self.hear(said);
        let now = self.failed;
        metrics.denied.of(Denied::Broker).inc_by(new_since(was_refused, self.refused));
        for (why, before, now) in [
            (Unanswered::NotReady, was.not_ready, now.not_ready),
            (Unanswered::NoKey, was.no_key, now.no_key),
            (Unanswered::Unreachable, was.unreachable, now.unreachable),
            (Unanswered::BadAnswer, was.bad_answer, now.bad_answer),
            (Unanswered::Silent, was.silent, now.silent),
        ] {
            metrics.broker_failures.of(why).inc_by(new_since(before, now));
        }
    }
}

/// How many are new. A broker that was started meanwhile has begun with none.
fn new_since(before: u64, now: u64) -> u64 {
    now.checked_sub(before).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use ash_broker::control::Tokens;

    use super::*;
    use crate::domain::Session;
    use crate::session::stage::Stage;

    #[test]
    fn a_new_broker_begins_with_none() {
        assert_eq!(
            [new_since(0, 5), new_since(5, 5), new_since(5, 7), new_since(7, 2)],
            [5, 0, 2, 2]
        );
    }

    #[test]
    fn what_got_no_answer_is_counted_once_and_by_why() {
        let (metrics, mut told) = (Metrics::new(), Told::default());
        let before = Failures { no_key: 4, ..Failures::default() };
        let said = |refused, failed| Standing { refused, failed, ..Standing::default() };
        told.hear(said(Some(9), Some(before)));
        let now = Failures { silent: 2, unreachable: 1, not_ready: 3, bad_answer: 5, ..before };
        for heard in [said(Some(10), Some(now)), Standing::default(), said(Some(10), Some(now))] {
            told.count(&metrics, heard);
        }
        let all = [
            Unanswered::NotReady,
            Unanswered::NoKey,
            Unanswered::Unreachable,
            Unanswered::BadAnswer,
            Unanswered::Silent,
        ];
        let counted = || all.map(|why| metrics.broker_failures.of(why).get());
        assert_eq!((counted(), metrics.denied.of(Denied::Broker).get()), ([3, 0, 1, 5, 2], 1));
        // Another one that has begun meanwhile.
        told.count(&metrics, said(Some(0), Some(Failures { no_key: 1, ..Failures::default() })));
        assert_eq!((counted(), metrics.denied.of(Denied::Broker).get()), ([3, 1, 1, 5, 2], 1));
    }

    /// Nothing else tells what it was.
    #[tokio::test]
    async fn what_is_used_is_recorded_when_the_disk_has_room_again() {
        tokio::time::pause();
        let tries = Cell::new(0);
        // When there is room, and when nobody waits any longer.
        for (room, end, expected) in [(3, 9, 3), (9, 2, 2)] {
            tries.set(0);
            let record = || async {
                tries.set(tries.get() + 1);
                if tries.get() < room { Err(StoreError::Full) } else { Ok(()) }
            };
            let recorded = while_full(record, || tries.get() >= end).await;
            assert_eq!((recorded.is_ok(), tries.get()), (room < end, expected));
        }
        let broken = || async { Err(StoreError::Closed) };
        assert!(while_full(broken, || false).await.is_err());
    }

    #[tokio::test]
    async fn calls_are_counted_whosever_they_were() {
        let stage = Stage::set().await;
        let tokens = Tokens { input_tokens: 3, cache_read_input_tokens: 40, ..Tokens::default() };
        let seen = |sandbox, status| Seen {
            sandbox,
            request_id: None,
            status,
            duration_ms: 1500,
            complete: true,
            tokens: tokens.clone(),
        };
        stage.shared.note_call(seen(Session::example(1).sandbox.0, 200));
        stage.shared.note_call(seen(uuid::Uuid::nil(), 529));
        let metrics = stage.service.metrics();
        for (class, count) in
            [(Answered::Successful, 1_u64), (Answered::ServerError, 1), (Answered::ClientError, 0)]
        {
            let calls = metrics.broker_requests.of(class);
            let expected = (count, 1.5 * count as f64);
            assert_eq!((calls.get_sample_count(), calls.get_sample_sum()), expected, "{class:?}");
        }
        let tokens = [TokenKind::Input, TokenKind::Output, TokenKind::CacheRead];
        assert_eq!(tokens.map(|kind| metrics.tokens.of(kind).get()), [6, 0, 80]);
    }
}
