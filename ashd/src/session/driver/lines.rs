//! What the bridge says: lines become events and frames, notices move the machine.

use ash_wire::words::{Notice, TurnOutcome};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Driver;
use super::times::end_of;
use crate::domain::event::Origin;
use crate::domain::{EventKind, NewEvent, SessionChange, Timestamp, TurnId};
use crate::fault;
use crate::sandbox::link::{Incoming, LinkError};
use crate::session::api::Frame;
use crate::session::frames::Numbering;
use crate::session::machine::{Event, Turn};
use crate::store::Usage;
use crate::telemetry::metrics::labels::TurnEnd;

/// Bytes of deltas that are acknowledged together: one by one, they would wake the bridge as often as
/// it wakes us.
const TOGETHER: usize = 64 * 1024;

/// Bytes of what a sandbox says that the log quotes.
const QUOTED: usize = 1024;

/// US dollars that a turn may cost to be believed. An agent can have its CLI say what it likes, and the sum
/// over all tenants is not to be spoilt by it.
const MOST_USD: f64 = 1e6;

/// What was taken from a batch and waits for its commit.
#[derive(Default)]
pub(super) struct Pending {
    events: Vec<NewEvent>,
    pub(super) frames: Vec<Frame>,
    change: SessionChange,
    ends_turn: Option<TurnEnd>,
    /// The newest event that was taken, 0 for none.
    ack: u64,
    /// There is more than deltas.
    ack_now: bool,
    /// Behind the last frame that did not wait for the commit.
    shown: Option<Numbering>,
}

impl Driver {
    /// Takes what came from the bridge, or that nothing comes any more.
    pub(super) async fn said(
        &mut self,
        said: Result<Option<usize>, LinkError>,
        batch: &mut Vec<Incoming>,
    ) {
        match said {
            Ok(Some(_)) => self.heard(batch).await,
            Ok(None) => self.lost("the bridge hung up").await,
            Err(error) => self.lost(&error.to_string()).await,
        }
    }

    /// Takes what the bridge said. What history keeps is committed as one, then shown in order.
    pub(super) async fn heard(&mut self, batch: &mut Vec<Incoming>) {
        if self.is_deaf {
            return batch.clear();
        }
        let mut pending =
            Pending { change: std::mem::take(&mut self.carried), ..Pending::default() };
        for incoming in batch.drain(..) {
            match incoming {
                Incoming::Line { number, line } => {
                    if !self.count(number, &mut pending).await {
                        return self.lost("its events are out of order").await;
                    }
                    self.line(number, line, &mut pending);
                    (pending.ack, pending.ack_now) = (number, true);
                }
                Incoming::Delta { number, line } => {
                    if !self.count(number, &mut pending).await {
                        return self.lost("its events are out of order").await;
                    }
                    self.delta(&line, &mut pending);
                    pending.ack = number;
                    self.owed += line.len();
                }
                Incoming::Notice { number, notice } => {
                    if !self.count(number, &mut pending).await {
                        return self.lost("its events are out of order").await;
                    }
                    // Acknowledged only when what follows from it is on disk.
                    if !self.flush(&mut pending).await || !self.notice(number, notice).await {
                        self.is_deaf = true;
                        return;
                    }
                    (pending.ack, pending.ack_now) = (number, true);
                }
                Incoming::ControlReply { reply, .. } => self.control_reply(reply.error.as_deref()),
                Incoming::ExecStdout { id, bytes } => self.execs.stdout(id, bytes),
                Incoming::ExecStderr { id, bytes } => self.execs.stderr(id, bytes),
                Incoming::ExecExit { id, exit } => self.exec_ended(id, exit),
                Incoming::Stderr(line) => self.logs.stderr(&line),
                // Or whoever asks for a cut has seen it.
                Incoming::Drained { id } => self.idle.heard(id),
                Incoming::Tasks { running } => self.idle.tasks_run(running),
            }
        }
        if !self.flush(&mut pending).await {
            self.is_deaf = true;
            return;
        }
        self.carried = pending.change;
        self.caught_up().await;
    }

    /// Commits and shows what is pending; false if it could not be committed, which means that
    /// the sandbox is about to be ended, or the daemon is going away.
    async fn flush(&mut self, pending: &mut Pending) -> bool {
        let Pending { events, frames, change, ends_turn, ack, ack_now, shown } =
            std::mem::take(pending);
        if events.is_empty() {
            // No reason for a commit of its own: it goes with the next.
            pending.change = change;
        } else if self.commit_stubbornly(change, events).await.is_err() {
            // Nobody has seen the numbers of what is not on disk.
            self.numbering = shown.unwrap_or(self.numbering);
            return false;
        }
        if ends_turn.is_some() {
            self.note_end();
        }
        self.show(frames);
        if let Some(end) = ends_turn {
            self.end_turn(end);
        }
        self.acknowledge(ack, ack_now);
        true
    }

    fn acknowledge(&mut self, number: u64, now: bool) {
        if let Some(link) = &self.link
            && number > 0
            && (now || self.owed >= TOGETHER)
        {
            fault::point("ack.before");
            let _ = link.sender.ack(number);
            fault::point("ack.after");
            self.owed = 0;
        }
    }

    /// Takes an event's number: false if it cannot be one. Leaves room in the numbering of frames
    /// for lines that the bridge had to drop.
    async fn count(&mut self, number: u64, pending: &mut Pending) -> bool {
        if number <= self.last_number || i64::try_from(number).is_err() {
            return false;
        }
        if self.replay.active {
            self.show_known(number, pending).await;
        }
        let awaited = self.current_turn().is_some() || self.replay.active;
        if (self.replay.in_turn || !awaited) && self.last_number > 0 {
            self.numbering.skip_lines(number - self.last_number - 1);
        }
        self.last_number = number;
        true
    }

    /// A line that history keeps.
    fn line(&mut self, number: u64, line: Bytes, pending: &mut Pending) {
        // A cheap second handle: the event keeps the line that the head looks into.
        let body = line.clone();
        let Some(head) = Head::of(&line) else { return self.delta(&line, pending) };
        let known = self.replay.known.remove(&number);
        if known.is_none() && number <= self.replay.committed {
            return;
        }
        if pending.events.is_empty() {
            // These need not wait for the commit.
            self.show(std::mem::take(&mut pending.frames));
            pending.shown = Some(self.numbering);
        }
        self.replay.in_turn |= known.is_some();
        let next = self.session.last_seq + pending.events.len() as u64 + 1;
        let event = NewEvent {
            seq: known.unwrap_or(next),
            kind: head.kind,
            turn: self.current_turn(),
            origin: Some(Origin { epoch: self.session.sandbox.epoch(), number }),
            replaces: self.replaces(&head),
            body,
            at: Timestamp::now(),
        };
        pending.frames.extend(self.encoder.event(&event, &mut self.numbering));
        if known.is_none() {
            self.note(&head, &event, pending);
            pending.events.push(event);
        }
    }

    /// A line that history does not keep. What the CLI said before our turn began, such as that
    /// it is idle, is in no stream of the turn: the bridge does not send it again, and a stream
    /// that is rebuilt must have the same ids.
    fn delta(&mut self, line: &[u8], pending: &mut Pending) {
        let awaited = self.current_turn().is_some() || self.replay.active;
        if awaited && !self.replay.in_turn {
            return;
        }
        match message_bound(line) {
            Some(Bound::Start(id)) => self.partial = Some(id),
            Some(Bound::Stop) => self.partial = None,
            None => {}
        }
        self.note_conversation(line, pending);
        pending.frames.extend(self.encoder.line(line, &mut self.numbering));
    }

    /// The turn that the CLI's lines belong to.
    fn current_turn(&self) -> Option<TurnId> {
        match self.state.turn {
            Turn::Ours(turn) if !self.own_turn => Some(turn),
            _ => None,
        }
    }

    /// Whether a message stands for the deltas of another one: after a cut stream, the CLI asks
    /// again without streaming, and the partial text that was shown is void.
    fn replaces(&mut self, head: &Head<'_>) -> bool {
        if head.kind != EventKind::Assistant || head.parent.is_some() {
            return false;
        }
        match (&self.partial, head.message_id()) {
            (Some(partial), Some(id)) if partial != id => {
                self.partial = None;
                true
            }
            _ => false,
        }
    }

    /// What a line changes in the session besides adding to its history.
    fn note(&mut self, head: &Head<'_>, event: &NewEvent, pending: &mut Pending) {
        if let Some(id) =
            head.session_id.filter(|id| is_conversation(id, &self.session.cli_session))
        {
            pending.change.cli_session = Some(id.to_owned());
        }
        if head.kind != EventKind::Result {
            return;
        }
        self.partial = None;
        if event.turn.is_some() {
            pending.change.turn = Some(None);
            pending.change.last_active_at = Some(event.at);
            pending.ends_turn = Some(TurnEnd::of_result(head.is_error));
        } else {
            // It has not failed, whatever ends before its end is told.
            self.own_turn = false;
        }
        if let Some(total) = head.total_cost_usd {
            self.note_cost(total, event.at);
        }
    }

    /// The conversation's id can change with a line that history does not keep (`init`).
    fn note_conversation(&mut self, line: &[u8], pending: &mut Pending) {
        #[derive(Deserialize)]
        struct Init<'a> {
            subtype: Option<&'a str>,
            claude_code_version: Option<&'a str>,
        }
        if self.session.cli_version.is_some() && pending.change.cli_version.is_none() {
            return;
        }
        let Ok(init) = serde_json::from_slice::<Init<'_>>(line) else { return };
        if init.subtype == Some("init") {
            let version = init.claude_code_version.filter(|version| version.len() <= 64);
            pending.change.cli_version = version.map(str::to_owned);
        }
    }

    /// The CLI names what it has cost since it started; the difference is the turn's.
    fn note_cost(&mut self, total: f64, at: Timestamp) {
        let Some(cli) = &mut self.cli else { return };
        let cost_usd = if total >= cli.cost { total - cli.cost } else { total };
        cli.cost = total;
        if cost_usd > 0.0 && cost_usd <= MOST_USD {
            self.shared.metrics().cost.inc_by(cost_usd);
            let usage = Usage { cost_usd, ..Usage::default() };
            self.shared.record_usage(self.session.id, at, usage);
        }
    }

    fn control_reply(&self, error: Option<&str>) {
        if let Some(error) = error {
            let error = &error[..error.floor_char_boundary(QUOTED)];
            self.logs.system(&format!("the CLI refused a control request: {error}"));
        }
    }

    /// Takes a notice; false if what follows from it could not be recorded.
    async fn notice(&mut self, number: u64, notice: Notice) -> bool {
        match notice {
            Notice::CliReady { after_ms } => {
                self.idle.is_starting = false;
                self.shared.metrics().cli_ready.observe(after_ms as f64 / 1000.0);
                tracing::debug!(ash_session = %self.session.id, after_ms, "CLI ready");
            }
            Notice::CliExited { reason, stderr, expected, .. } => {
                return self.cli_exited(number, (reason, &stderr), expected).await;
            }
            Notice::TurnBegan { turn } => {
                let running = self.session.turn.map(|running| running.id.to_string());
                self.replay.in_turn |= running.is_some_and(|running| running == turn);
            }
            Notice::TurnEnded { turn, outcome } => return self.turn_ended(&turn, outcome).await,
            Notice::SelfTurnBegan => {
                self.own_turn = true;
                let _ = self.step(Event::OwnTurnBegan).await;
            }
            Notice::SelfTurnEnded => {
                self.own_turn = false;
                self.save();
                let _ = self.step(Event::OwnTurnEnded).await;
            }
            Notice::Held { bytes } => {
                self.logs.system(&format!("the CLI is held until {bytes} bytes of its are stored"));
            }
            Notice::Released => self.logs.system("the CLI goes on"),
            Notice::BadLine { reason, length } => {
                self.logs.system(&format!("a line of {length} bytes was thrown away: {reason}"));
            }
        }
        true
    }

    /// Takes the end of the CLI; false if what it did by itself could not be recorded to have failed. A
    /// turn of ours is told to have ended behind it.
    async fn cli_exited(
        &mut self,
        number: u64,
        (reason, stderr): (String, &str),
        expected: bool,
    ) -> bool {
        self.logs.system(&format!("the CLI ended: {reason}"));
        if expected {
            return true;
        }
        self.cli = None;
        self.idle.is_starting = false;
        let text = match stderr.trim() {
            "" => format!("The agent's CLI ended: {reason}"),
            last => format!("The agent's CLI ended: {reason}; its last words: {last}"),
        };
        self.cli_gone = Some(text.clone());
        self.fail_own_turn(&text, Some(number)).await.is_ok()
    }

    async fn turn_ended(&mut self, turn: &str, outcome: TurnOutcome) -> bool {
        let Ok(turn) = turn.parse::<TurnId>() else { return true };
        if self.state.turn != Turn::Ours(turn) {
            return true;
        }
        // The result, if there was one, has cleared this in its commit.
        if self.session.turn.is_some_and(|running| running.id == turn) {
            let (end, text) = (end_of(outcome), self.why_ended(outcome));
            if self.record_failure(turn, end, &text).await.is_err() {
                return false;
            }
        }
        self.save();
        let _ = self.step(Event::TurnEnded(turn)).await;
        true
    }

    fn why_ended(&mut self, outcome: TurnOutcome) -> String {
        match outcome {
            TurnOutcome::Interrupted => "Interrupted before it began".to_owned(),
            TurnOutcome::Refused | TurnOutcome::CliExited => {
                self.cli = None;
                let gone = || "The agent's CLI is not running".to_owned();
                self.cli_gone.clone().unwrap_or_else(gone)
            }
            TurnOutcome::Result | TurnOutcome::NoResult => {
                "The agent's CLI ended the turn without a result".to_owned()
            }
        }
    }
}

/// What a durable line of the CLI says about itself.
#[derive(Deserialize)]
struct RawHead<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    session_id: Option<&'a str>,
    #[serde(borrow)]
    parent_tool_use_id: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    total_cost_usd: Option<f64>,
    is_error: Option<bool>,
}

struct Head<'a> {
    kind: EventKind,
    session_id: Option<&'a str>,
    parent: Option<&'a RawValue>,
    message: Option<&'a RawValue>,
    total_cost_usd: Option<f64>,
    is_error: bool,
}

impl<'a> Head<'a> {
    fn of(line: &'a [u8]) -> Option<Head<'a>> {
        let raw: RawHead<'a> = serde_json::from_slice(line).ok()?;
        let kind = match raw.kind {
            "assistant" => EventKind::Assistant,
            "user" => EventKind::ToolResult,
            "result" => EventKind::Result,
            _ => return None,
        };
        let parent = raw.parent_tool_use_id.filter(|parent| parent.get() != "null");
        let RawHead { session_id, message, total_cost_usd, .. } = raw;
        let is_error = raw.is_error == Some(true);
        Some(Head { kind, session_id, parent, message, total_cost_usd, is_error })
    }

    fn message_id(&self) -> Option<&'a str> {
        message_id(self.message?)
    }
}

fn message_id(message: &RawValue) -> Option<&str> {
    #[derive(Deserialize)]
    struct Message<'a> {
        id: Option<&'a str>,
    }
    serde_json::from_str::<Message<'_>>(message.get()).ok()?.id
}

/// Where a message of the main conversation begins or ends in its deltas.
enum Bound {
    Start(String),
    Stop,
}

fn message_bound(line: &[u8]) -> Option<Bound> {
    // Deltas are many and these are few: looked for before they are parsed.
    memchr::memmem::find(line, b"message_st")?;
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        parent_tool_use_id: Option<&'a RawValue>,
        #[serde(borrow)]
        event: Option<Bounding<'a>>,
    }
    #[derive(Deserialize)]
    struct Bounding<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(borrow)]
        message: Option<&'a RawValue>,
    }
    let line: Line<'_> = serde_json::from_slice(line).ok()?;
    if line.parent_tool_use_id.is_some_and(|parent| parent.get() != "null") {
        return None;
    }
    match line.event? {
        Bounding { kind: "message_stop", .. } => Some(Bound::Stop),
        Bounding { kind: "message_start", message } => {
            message_id(message?).map(|id| Bound::Start(id.to_owned()))
        }
        Bounding { .. } => None,
    }
}

/// Whether this is another conversation than the one known, and fit to be one: it becomes part of
/// a file name and of a command line.
fn is_conversation(id: &str, known: &str) -> bool {
    id != known && uuid::Uuid::try_parse(id).is_ok() && id.len() == 36
}
