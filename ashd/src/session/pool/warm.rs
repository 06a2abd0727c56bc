//! How a spare is made, and how it waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ash_wire::words::{ControlReply, Notice};
use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Claim, Kind, Stamp};
use crate::domain::{Agent, PermissionMode, SandboxId, Session, SessionId, TurnOptions};
use crate::sandbox::Running;
use crate::sandbox::link::Incoming;
use crate::session::api::Refusal;
use crate::session::cli::{self, Controls, Conversation, StartKey};
use crate::session::create;
use crate::session::disk::Since;
use crate::session::driver::Claimed;
use crate::session::gate::Place;
use crate::session::owners::Counted;
use crate::session::shared::{Shared, Taken};
use crate::session::under_way::Begun;
use crate::telemetry::metrics::labels::SpareEnd;

/// What a CLI may take longer than its bridge gives it, to be told of that.
const GRACE: Duration = Duration::from_secs(5);

/// How long the primer may take.
const PRIMER: Duration = Duration::from_secs(30);

/// How long a CLI may take to say that it goes on in another permission mode. Somebody waits for that, and
/// would have a session of another sandbox meanwhile.
const ANSWER: Duration = Duration::from_secs(2);

/// Bytes of what a CLI says of itself that the log quotes.
const QUOTED: usize = 256;

/// What is kept of what a bridge says before there is a session that hears it: messages, and their bytes.
/// A CLI that nobody has asked anything says a handful of things, and never knows when it is heard.
const HEARD: usize = 1024;
const HEARD_BYTES: usize = 4 * 1024 * 1024;

/// Messages that are taken from a bridge at a time.
const BATCH: usize = 64;

/// Says that a session is being made.
pub(in crate::session) type Making = Begun<(SessionId, u32)>;

/// A session that nobody has yet. When it is dropped, everything of it goes, some time later.
pub(super) struct Spare {
    pub(super) id: SessionId,
    pub(super) stamp: Stamp,
    /// As one that its agent and its tenant have.
    _counted: Counted,
    take: oneshot::Sender<()>,
    waiting: JoinHandle<Option<(Claim, Option<String>)>>,
    is_lost: Arc<AtomicBool>,
}

impl Spare {
    /// Takes it, with the model that its folder names; `None` when it was lost. What is left of it then goes,
    /// and nobody waits for that.
    pub(super) async fn take(self) -> Option<(Claim, Option<String>)> {
        // Whoever waits may be about to say that it was lost.
        let _ = self.take.send(());
        self.waiting.await.ok().flatten()
    }

    /// Clears it away; returns when nothing of it is left. Nobody has to wait for that.
    pub(super) async fn clear_away(self) {
        drop(self.take);
        // Whoever waits for it to be taken does it.
        let _ = self.waiting.await;
    }

    /// Whether it was lost, and cannot be taken.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::SeqCst)
    }
}

/// A spare that is being made.
struct Draft {
    session: Session,
    controls: Controls,
    folder_model: Option<String>,
    /// From before its files were laid out.
    since: Since,
    making: Making,
}

/// Makes a spare: files, sandbox, a CLI that has answered and is primed. The place is free again when there
/// is a sandbox, or will be none. It counts as long as there is the spare.
///
/// # Errors
/// When a step fails, or the shelf is gone that it is for; nothing of it is left then.
pub(super) async fn make(
    shared: &Arc<Shared>,
    agent: &Agent,
    (stamp, gone): (Stamp, &CancellationToken),
    (place, counted): (Place, Counted),
) -> Result<Spare, Refusal> {
    let sandbox = SandboxId::random();
    let room = shared.room_to_spare(sandbox)?;
    let slot = shared.take_slot()?;
    let mut session = create::draft(agent, stamp.settings.clone(), (slot, sandbox));
    let making = shared.making.begin((session.id, slot));
    let since = shared.disk.now();
    let launched = launch(shared, &mut session, room, gone).await;
    // The next one may begin.
    drop(place);
    shared.pool.look_again();
    let (running, folder_model) = match launched {
        Ok(launched) => launched,
        Err(refusal) => {
            shared.unmake(&session).await;
            return Err(refusal);
        }
    };
    let controls = Controls::of(&TurnOptions::default(), &session, &shared.options.cli);
    let draft = Draft { session, controls, folder_model, since, making };
    let _starting = Starting::new(shared);
    let mut claimed = Claimed { running, controls: draft.controls.clone(), heard: vec![] };
    let warmed = gone.run_until_cancelled(warm_up(shared, &draft, &mut claimed)).await;
    match warmed.unwrap_or_else(|| Err(unwanted())) {
        Ok(()) => Ok(wait(shared, (stamp, counted), draft, claimed)),
        Err(refusal) => {
            shared.clear_away(&draft.session, claimed.running).await;
            Err(refusal)
        }
    }
}

/// Lays its files out and makes its sandbox; returns that, and the model that its folder names.
async fn launch(
    shared: &Shared,
    session: &mut Session,
    room: Taken,
    gone: &CancellationToken,
) -> Result<(Running, Option<String>), Refusal> {
    let folder_model = create::lay_out(shared, session).await?;
    if gone.is_cancelled() {
        return Err(unwanted());
    }
    session.settings.model = session.settings.model.take().or_else(|| folder_model.clone());
    let running = shared.launch_spare(room, session).await?;
    Ok((running, folder_model))
}

/// Nobody sees it.
fn unwanted() -> Refusal {
    Refusal::Capacity { reason: "nobody wants it any more".to_owned(), retry_after_s: 1 }
}

/// Starts the CLI, waits until it has answered, and primes it.
async fn warm_up(shared: &Shared, draft: &Draft, claimed: &mut Claimed) -> Result<(), Refusal> {
    let defaults = &shared.options.cli;
    let key = StartKey::default();
    let start = cli::start(&draft.session, Conversation::New, &key, &draft.controls, defaults);
    claimed.running.sender.start_cli(&start).map_err(lost)?;
    let patience = Duration::from_millis(defaults.ready_timeout_ms) + GRACE;
    let ready = until(claimed, |incoming| match incoming {
        Incoming::Notice { notice: Notice::CliReady { .. }, .. } => Some(()),
        _ => None,
    });
    let silent = |_| Refusal::Sandbox("the CLI of a spare sandbox does not answer".to_owned());
    timeout(patience, ready).await.map_err(silent)??;
    for _ in 0..cli::PRIMERS {
        // One that still owes the answer when a session has it would ask the model for it.
        let primed = timeout(PRIMER, prime(claimed)).await.map_err(silent)??;
        if let Some(error) = primed {
            // It serves all the same, a little later.
            tracing::debug!(ash_session = %draft.session.id, error, "a CLI was not primed");
        }
    }
    shared.sandboxes.hold(claimed.running.id);
    Ok(())
}

/// Asks the CLI the question; returns why it does not answer it, if it says no.
async fn prime(claimed: &mut Claimed) -> Result<Option<String>, Refusal> {
    let question = serde_json::from_str::<&RawValue>(cli::QUESTION);
    tell(claimed, question.map_err(|error| Refusal::Internal(error.to_string()))?).await
}

/// Has the CLI go on in another permission mode; returns when it has said that it does.
///
/// # Errors
/// When it does not. It must not be used then: in which mode it is nobody knows.
pub(super) async fn set_mode(claimed: &mut Claimed, mode: PermissionMode) -> Result<(), Refusal> {
    let silent = |_| Refusal::Sandbox("its CLI does not answer".to_owned());
    let told = timeout(ANSWER, tell(claimed, &cli::set_mode(mode))).await.map_err(silent)??;
    match told {
        None => Ok(()),
        Some(error) => {
            let error = &error[..error.floor_char_boundary(QUOTED)];
            Err(Refusal::Sandbox(format!("its CLI refuses: {error}")))
        }
    }
}

/// Sends the CLI a control request; returns why it refuses that, if it does.
async fn tell(claimed: &mut Claimed, request: &RawValue) -> Result<Option<String>, Refusal> {
    let asked = claimed.running.sender.next_id();
    claimed.running.sender.control(asked, request).map_err(lost)?;
    let answered = until(claimed, |incoming| match incoming {
        Incoming::ControlReply { id, reply: ControlReply { error, .. } } if *id == asked => {
            Some(error.take())
        }
        _ => None,
    });
    answered.await
}

/// Hears what the bridge says until there is what is looked for, and keeps it for the session. The CLI must
/// not end meanwhile.
async fn until<T>(
    claimed: &mut Claimed,
    found: impl Fn(&mut Incoming) -> Option<T>,
) -> Result<T, Refusal> {
    loop {
        let from = hear(claimed).await?;
        alive(claimed, from)?;
        if let Some(found) = claimed.heard[from..].iter_mut().find_map(&found) {
            return Ok(found);
        }
    }
}

/// Hears more; returns from where on it is new. Losing the future loses nothing.
async fn hear(claimed: &mut Claimed) -> Result<usize, Refusal> {
    if is_too_much(&claimed.heard) {
        claimed.heard.retain(|incoming| !matches!(incoming, Incoming::Stderr(_)));
    }
    if is_too_much(&claimed.heard) {
        return Err(Refusal::Sandbox("a spare sandbox says too much".to_owned()));
    }
    let from = claimed.heard.len();
    match claimed.running.receiver.recv_batch(&mut claimed.heard, BATCH).await {
        Ok(Some(_)) => {
            claimed.heard[from..].iter_mut().for_each(keep_alone);
            Ok(from)
        }
        Ok(None) => Err(Refusal::Sandbox("a spare sandbox hung up".to_owned())),
        Err(error) => Err(lost(error)),
    }
}

/// Whether more was said than is kept.
fn is_too_much(heard: &[Incoming]) -> bool {
    heard.len() > HEARD || heard.iter().map(size).sum::<usize>() > HEARD_BYTES
}

/// Bytes of a message, as far as what is in the sandbox decides how many there are.
fn size(incoming: &Incoming) -> usize {
    match incoming {
        Incoming::Line { line: bytes, .. }
        | Incoming::Delta { line: bytes, .. }
        | Incoming::Stderr(bytes)
        | Incoming::ExecStdout { bytes, .. }
        | Incoming::ExecStderr { bytes, .. } => bytes.len(),
        Incoming::ControlReply { reply: ControlReply { response, error }, .. } => {
            let response = response.as_ref().map_or(0, |response| response.get().len());
            response + error.as_ref().map_or(0, String::len)
        }
        Incoming::Notice { .. }
        | Incoming::ExecExit { .. }
        | Incoming::Drained { .. }
        | Incoming::Tasks { .. } => 0,
    }
}

/// Keeps a message without the block that it was read into.
fn keep_alone(incoming: &mut Incoming) {
    if let Incoming::Line { line, .. } | Incoming::Delta { line, .. } | Incoming::Stderr(line) =
        incoming
    {
        *line = Bytes::copy_from_slice(line);
    }
}

fn lost(error: crate::sandbox::link::LinkError) -> Refusal {
    Refusal::Sandbox(error.to_string())
}

/// Has it wait until it is taken. One that is lost meanwhile, or that nobody can take any more, is
/// cleared away.
fn wait(
    shared: &Arc<Shared>,
    (stamp, counted): (Stamp, Counted),
    draft: Draft,
    claimed: Claimed,
) -> Spare {
    let (take, taken) = oneshot::channel();
    let (id, is_lost) = (draft.session.id, Arc::new(AtomicBool::new(false)));
    let there = shared.pool.there.begin(Kind::of_session(&draft.session));
    let kept = keep(shared.clone(), draft, claimed, (taken, is_lost.clone(), there));
    let waiting = tokio::spawn(kept);
    Spare { id, stamp, _counted: counted, take, waiting, is_lost }
}

async fn keep(
    shared: Arc<Shared>,
    Draft { session, folder_model, since, making, .. }: Draft,
    mut claimed: Claimed,
    (mut taken, is_lost, there): (oneshot::Receiver<()>, Arc<AtomicBool>, Begun<Kind>),
) -> Option<(Claim, Option<String>)> {
    let failed = loop {
        tokio::select! {
            biased;
            asked = &mut taken => match asked {
                Ok(()) => {
                    return Some((Claim { session, claimed, since, making }, folder_model));
                }
                Err(_) => break None,
            },
            heard = hear(&mut claimed) => match heard.and_then(|from| alive(&claimed, from)) {
                Ok(()) => {}
                Err(refusal) => break Some(refusal),
            },
        }
    };
    let is_unwanted = failed.is_none();
    is_lost.store(true, Ordering::SeqCst);
    // One that nobody can take any more is on no shelf.
    if let Some(error) = failed {
        tracing::warn!(
            ash_agent = %session.agent, ash_tenant = %session.tenant, %error,
            "a spare sandbox was lost"
        );
        shared.metrics().lost.inc();
        shared.metrics().spares_ended.of(SpareEnd::Lost).inc();
        shared.pool.lost(&session);
    }
    let going = shared.let_go(Claim { session, claimed, since, making }, there);
    // Whoever takes one that was lost a moment ago has another one made meanwhile.
    if is_unwanted {
        let _ = going.await;
    }
    None
}

/// Whether the CLI is still there.
fn alive(claimed: &Claimed, from: usize) -> Result<(), Refusal> {
    let exited = claimed.heard[from..].iter().find_map(|incoming| match incoming {
        Incoming::Notice { notice: Notice::CliExited { reason, .. }, .. } => Some(reason),
        _ => None,
    });
    match exited {
        Some(reason) => Err(Refusal::Sandbox(format!("its CLI ended: {reason}"))),
        None => Ok(()),
    }
}

/// Counts a spare as starting while it lives.
struct Starting<'a>(&'a Shared);

impl Starting<'_> {
    fn new(shared: &Shared) -> Starting<'_> {
        shared.pool.starting.fetch_add(1, Ordering::Relaxed);
        Starting(shared)
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.0.pool.starting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
impl Spare {
    /// One without a sandbox.
    pub(super) fn of_nobody(stamp: Stamp) -> Spare {
        Spare::counted(stamp, Counted::any())
    }

    /// The same, which counts as this.
    pub(super) fn counted(stamp: Stamp, counted: Counted) -> Spare {
        let (take, _) = oneshot::channel();
        let (id, is_lost) = (SessionId::random(), Arc::default());
        let waiting = tokio::spawn(async { None });
        Spare { id, stamp, _counted: counted, take, waiting, is_lost }
    }

    /// One with a sandbox that says nothing.
    pub(super) fn of(
        shared: &Arc<Shared>,
        stamp: Stamp,
        session: Session,
        running: Running,
    ) -> Spare {
        let controls = Controls { model: "m".to_owned(), thinking: None };
        let making = shared.making.begin((session.id, session.slot.unwrap_or(0)));
        let (since, folder_model) = (shared.disk.now(), None);
        let counted = shared.gates.spares.count(&Kind::of_session(&session).owner());
        let draft = Draft { session, controls: controls.clone(), folder_model, since, making };
        wait(shared, (stamp, counted), draft, Claimed { running, controls, heard: vec![] })
    }

    /// One that has uids, and nothing else.
    pub(super) fn with_slot(shared: &Arc<Shared>, slot: u32, stamp: Stamp) -> Spare {
        let (take, taken) = oneshot::channel::<()>();
        let shared = shared.clone();
        let waiting = tokio::spawn(async move {
            let _ = taken.await;
            shared.slots.give_back(slot);
            None
        });
        Spare { take, waiting, ..Spare::of_nobody(stamp) }
    }

    /// One without a sandbox of which something is left until that is dropped.
    pub(super) fn that_lasts(stamp: Stamp, until: oneshot::Receiver<()>) -> Spare {
        let waiting = tokio::spawn(async move {
            let _ = until.await;
            None
        });
        Spare { waiting, ..Spare::of_nobody(stamp) }
    }

    /// Says that it was lost.
    pub(super) fn lose(&self) {
        self.is_lost.store(true, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use ash_wire::frame::{self, Kind};
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;
    use crate::session::stage::linked;

    /// A CLI that is being made ready, and its bridge's end.
    async fn claimed() -> (Claimed, UnixStream) {
        let (running, bridge) = linked().await;
        let controls = Controls { model: "m".to_owned(), thinking: None };
        (Claimed { running, controls, heard: vec![] }, bridge)
    }

    fn said(kind: Kind, number: u64, body: &[u8]) -> Vec<u8> {
        let mut said = vec![];
        frame::write(&mut said, kind, number, body).unwrap();
        said
    }

    #[tokio::test]
    async fn a_cli_that_says_no_is_primed_enough_and_one_that_ends_is_not() {
        for ends in [false, true] {
            let (mut claimed, mut bridge) = claimed().await;
            let (reason, stderr) = ("it was killed".to_owned(), String::new());
            let (code, signal, expected) = (None, Some(9), false);
            let ended = Notice::CliExited { reason, code, signal, stderr, expected };
            if ends {
                let ended = serde_json::to_vec(&ended).unwrap();
                bridge.write_all(&said(Kind::Notice, 1, &ended)).await.unwrap();
            }
            // The next one is one more.
            let asked = claimed.running.sender.next_id() + 1;
            let reply = ControlReply { response: None, error: Some("unknown".to_owned()) };
            let reply = serde_json::to_vec(&reply).unwrap();
            bridge.write_all(&said(Kind::ControlReply, asked, &reply)).await.unwrap();
            match prime(&mut claimed).await {
                Ok(told) => assert!(!ends && told.as_deref() == Some("unknown")),
                Err(refusal) => assert!(ends && refusal.to_string().contains("it was killed")),
            }
        }
    }

    /// A CLI whose bridge says something without end.
    async fn talking(kind: Kind) -> Claimed {
        let (claimed, mut bridge) = claimed().await;
        tokio::spawn(async move {
            let body = vec![b'x'; HEARD_BYTES / 4];
            for number in 1.. {
                // Nobody hears it any more.
                if bridge.write_all(&said(kind, number, &body)).await.is_err() {
                    return;
                }
            }
        });
        claimed
    }

    #[tokio::test]
    async fn what_nobody_hears_is_kept_up_to_a_bound() {
        let is_bounded =
            |claimed: &Claimed| claimed.heard.iter().map(size).sum::<usize>() < 2 * HEARD_BYTES;
        let mut claimed = talking(Kind::Delta).await;
        let refusal = loop {
            if let Err(refusal) = hear(&mut claimed).await {
                break refusal;
            }
            assert!(is_bounded(&claimed));
        };
        assert!(refusal.to_string().contains("says too much"), "{refusal}");
        // Of what is for a log nothing has to be kept.
        let mut claimed = talking(Kind::Stderr).await;
        for _ in 0..20 {
            hear(&mut claimed).await.unwrap();
            assert!(is_bounded(&claimed));
        }
    }
}
