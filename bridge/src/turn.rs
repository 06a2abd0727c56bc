//! Which turn runs, and which `result` is whose. Pure: marks of lines, requests and times go in,
//! [`Effect`]s come out.
//!
//! ```text
//!          submit              CLI new or idle               its result
//!   free ─────────► held back ────────────────────► written ────────────► free
//!                      │ interrupt, CLI gone           │ CLI gone, idle without result
//!                      └──────────► free               └──────────────────────────► free
//! ```
//!
//! The CLI also runs turns that nobody asked for: when a background task has ended it tells the
//! model. What was seen of CLI 2.1.197, and what follows from it:
//!
//! * Every turn, of either sort, is `session_state_changed: running`, `init`, …, exactly one
//!   `result`. `session_state_changed: idle` follows the result unless the CLI has the next turn
//!   at hand; then `init` of that one follows, within milliseconds.
//! * The `result` of a turn of its own names an `origin`, also after an interrupt; that of a
//!   prompt does not.
//! * A prompt is replayed (`isReplay`, our uuid) before its result: in ordinary turns, after an
//!   API error, after an interrupt however early. **Slash commands are not replayed.**
//! * A prompt written while a turn of the CLI's own streams waits, and gets `init`, replay and
//!   result of its own. One written while that turn runs a tool is **taken into it**: the replay
//!   comes, then one result, with an `origin`, for both.
//! * A prompt written between a result and `idle` is taken up 100 ms later than one written after
//!   `idle`.
//! * A prompt written right behind `initialize` is taken up after the answer to that, when MCP
//!   servers are there, and sooner than one written when the answer has come. An interrupt right
//!   behind both stops it.
//!
//! Hence the rule. Nothing is written to a CLI that has run a turn until it is idle (or has said
//! nothing about it for [`SETTLE`]); one that starts gets its first prompt at once. A result is the
//! prompt's if the prompt was replayed before it, or if it names no origin; otherwise it is the
//! CLI's own. Two safeguards keep a turn from hanging: `idle` ends a turn whose result was thrown
//! away as a bad line, and a CLI that stays idle for [`LOST`] with a prompt in its hands, or does
//! not end a turn within [`PATIENCE`] after an interrupt, is killed, which ends the turn truthfully.

use ash_wire::words::{CliState, Notice, Turn, TurnOutcome};

use crate::speech::Mark;

/// Milliseconds on a clock that only goes forward.
pub type Millis = u64;

/// How long after a result `idle` is waited for.
pub const SETTLE: Millis = 1_000;

/// How long an idle CLI may sit on a prompt.
pub const LOST: Millis = 60_000;

/// How long a turn may go on after an interrupt.
pub const PATIENCE: Millis = 10_000;

/// What has to be done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// The line whose mark went in goes to the log.
    Forward,
    /// This goes to the log.
    Notice(Notice),
    /// This prompt is written to the CLI.
    Write(Turn),
    /// An interrupt is written to the CLI.
    Interrupt,
    /// The CLI is killed, for this reason.
    Kill(&'static str),
}

/// What an interrupt met.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interrupted {
    /// No turn.
    Nothing,
    /// A turn that was held back; it is gone.
    Held,
    /// A turn of the CLI; [`Effect::Interrupt`] is among the effects.
    Running,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Cli {
    Absent,
    /// Being ended so that another can start.
    Ending,
    /// Gone; the other one is about to start.
    Due,
    Starting,
    Ready,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Work {
    /// Since then.
    Idle(Millis),
    /// A result came; counts as idle from then on.
    Settling(Millis),
    Running,
}

#[derive(Debug)]
enum Slot {
    Free,
    Held(Turn),
    Written {
        id: String,
        /// `init` came for it.
        begun: bool,
        /// It was replayed.
        taken: bool,
    },
}

/// The state.
#[derive(Debug)]
pub struct Turns {
    cli: Cli,
    slot: Slot,
    /// The CLI runs a turn of its own, and that was announced.
    own: bool,
    work: Work,
    /// When the CLI is killed if the interrupted turn still runs.
    patience: Option<Millis>,
}

impl Default for Turns {
    fn default() -> Turns {
        Turns {
            cli: Cli::Absent,
            slot: Slot::Free,
            own: false,
            work: Work::Idle(0),
            patience: None,
        }
    }
}

impl Turns {
    /// What the CLI does.
    pub fn state(&self) -> CliState {
        match (self.cli, self.work) {
            (Cli::Absent, _) => CliState::Absent,
            (Cli::Ending | Cli::Due | Cli::Starting, _) => CliState::Starting,
            (Cli::Ready, Work::Idle(_) | Work::Settling(_)) if !self.runs() => CliState::Idle,
            (Cli::Ready, _) => CliState::Busy,
        }
    }

    /// The turn that is held back or written, if any.
    pub fn turn(&self) -> Option<&str> {
        match &self.slot {
            Slot::Free => None,
            Slot::Held(turn) => Some(&turn.id),
            Slot::Written { id, .. } => Some(id),
        }
    }

    /// Whether a turn was begun and not ended, a prompt's or the CLI's own.
    pub fn runs(&self) -> bool {
        self.own || matches!(self.slot, Slot::Written { .. })
    }

    /// The running CLI is being ended, so that another can start. It gets no further prompt.
    pub fn ending(&mut self) {
        self.cli = Cli::Ending;
    }

    /// A CLI was started, and asked to initialize.
    pub fn starting(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.cli = Cli::Starting;
        self.work = Work::Idle(now);
        self.write(now, out);
    }

    /// The CLI answered `initialize`: from now on it is in its hands how long things take.
    pub fn ready(&mut self, now: Millis) {
        self.cli = Cli::Ready;
        self.work = Work::Idle(now);
        self.patience = self.patience.map(|_| now + PATIENCE);
    }

    /// The CLI is gone, and its last line was seen. When it was to make room for another, a turn
    /// that is held back waits for that one.
    pub fn gone(&mut self, out: &mut Vec<Effect>) {
        let replaced = self.cli == Cli::Ending;
        self.cli = if replaced { Cli::Due } else { Cli::Absent };
        self.patience = None;
        if !(replaced && matches!(self.slot, Slot::Held(_))) {
            self.end_turn(TurnOutcome::CliExited, out);
        }
        self.end_own(out);
    }

    /// A turn is asked for.
    pub fn submit(&mut self, turn: Turn, now: Millis, out: &mut Vec<Effect>) {
        if self.cli == Cli::Absent || !matches!(self.slot, Slot::Free) {
            return out.push(ended(turn.id, TurnOutcome::Refused));
        }
        self.slot = Slot::Held(turn);
        self.write(now, out);
    }

    /// The CLI said something.
    pub fn line(&mut self, mark: &Mark<'_>, now: Millis, out: &mut Vec<Effect>) {
        match mark {
            Mark::Result { own } => return self.result(*own, now, out),
            Mark::Init => self.init(out),
            Mark::Running => self.work = Work::Running,
            Mark::TaskNotification => self.overtaken(out),
            Mark::Replay(uuid) => self.replayed(uuid),
            Mark::Idle | Mark::None => {}
        }
        out.push(Effect::Forward);
        if *mark == Mark::Idle {
            self.idle(now, out);
        }
    }

    /// Whoever waits for the turn wants it to stop.
    pub fn interrupt(&mut self, now: Millis, out: &mut Vec<Effect>) -> Interrupted {
        let held = matches!(self.slot, Slot::Held(_));
        if held {
            self.end_turn(TurnOutcome::Interrupted, out);
        }
        if self.runs() {
            self.patience.get_or_insert(now + PATIENCE);
            out.push(Effect::Interrupt);
            return Interrupted::Running;
        }
        if held { Interrupted::Held } else { Interrupted::Nothing }
    }

    /// When [`Turns::tick`] is due. A CLI that starts is given its time elsewhere.
    pub fn deadline(&self) -> Option<Millis> {
        if self.cli != Cli::Ready {
            return None;
        }
        let written = matches!(self.slot, Slot::Written { .. });
        let work = match self.work {
            Work::Idle(since) if written => Some(since + LOST),
            Work::Settling(since) => Some(since + SETTLE),
            _ => None,
        };
        work.into_iter().chain(self.patience).min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Millis, out: &mut Vec<Effect>) {
        if self.deadline().is_none_or(|due| now < due) {
            return;
        }
        if self.patience.is_some_and(|due| now >= due) {
            self.patience = None;
            out.push(Effect::Kill("the CLI did not end its turn after an interrupt"));
        } else if let Work::Settling(_) = self.work {
            self.idle(now, out);
        } else {
            self.work = Work::Idle(now);
            out.push(Effect::Kill("the CLI did not take up a prompt"));
        }
    }

    fn write(&mut self, now: Millis, out: &mut Vec<Effect>) {
        let open = matches!(self.cli, Cli::Starting | Cli::Ready);
        let free = open && matches!(self.work, Work::Idle(_)) && !self.own;
        match std::mem::replace(&mut self.slot, Slot::Free) {
            Slot::Held(turn) if free => {
                let id = turn.id.clone();
                out.push(Effect::Notice(Notice::TurnBegan { turn: id.clone() }));
                out.push(Effect::Write(turn));
                self.slot = Slot::Written { id, begun: false, taken: false };
                self.work = Work::Idle(now);
            }
            other => self.slot = other,
        }
    }

    fn init(&mut self, out: &mut Vec<Effect>) {
        // Before it is ready a CLI runs nothing, whatever it says.
        if self.cli == Cli::Starting {
            return;
        }
        self.work = Work::Running;
        match &mut self.slot {
            Slot::Written { begun, .. } if !self.own => {
                *begun = true;
                // An interrupt that came before the turn had nothing to stop. One too many does
                // no harm: it is read before any later prompt.
                if self.patience.is_some() {
                    out.push(Effect::Interrupt);
                }
            }
            _ => self.begin_own(out),
        }
    }

    /// A notification between our prompt and its `init`: the CLI was about to begin a turn of its
    /// own when the prompt was written.
    fn overtaken(&mut self, out: &mut Vec<Effect>) {
        if matches!(self.slot, Slot::Written { begun: false, .. }) {
            self.begin_own(out);
        }
    }

    /// The `init` that was taken for our prompt's was of the CLI's own turn.
    fn not_begun(&mut self) {
        if let Slot::Written { begun, .. } = &mut self.slot {
            *begun = false;
        }
    }

    fn replayed(&mut self, uuid: &str) {
        if let Slot::Written { id, taken, .. } = &mut self.slot
            && id == uuid
        {
            *taken = true;
        }
    }

    fn result(&mut self, own: bool, now: Millis, out: &mut Vec<Effect>) {
        let ours = match &self.slot {
            Slot::Written { taken, .. } => *taken || !own,
            _ => false,
        };
        if ours {
            // A prompt that was taken into a turn of the CLI's own gets its result.
            self.end_own(out);
        } else {
            self.begin_own(out);
            self.not_begun();
        }
        out.push(Effect::Forward);
        self.end_own(out);
        if ours {
            self.end_turn(TurnOutcome::Result, out);
        } else if self.patience.is_some() {
            // The interrupt stopped the CLI's own turn, and the prompt behind it starts at once.
            out.push(Effect::Interrupt);
        }
        self.work = Work::Settling(now);
        if !self.runs() {
            self.patience = None;
        }
    }

    fn idle(&mut self, now: Millis, out: &mut Vec<Effect>) {
        self.work = Work::Idle(now);
        self.end_own(out);
        if let Slot::Written { begun, taken, .. } = self.slot
            && (begun || taken)
        {
            self.end_turn(TurnOutcome::NoResult, out);
        }
        if !self.runs() {
            self.patience = None;
        }
        self.write(now, out);
    }

    fn begin_own(&mut self, out: &mut Vec<Effect>) {
        if !std::mem::replace(&mut self.own, true) {
            out.push(Effect::Notice(Notice::SelfTurnBegan));
        }
    }

    fn end_own(&mut self, out: &mut Vec<Effect>) {
        if std::mem::take(&mut self.own) {
            out.push(Effect::Notice(Notice::SelfTurnEnded));
        }
    }

    fn end_turn(&mut self, outcome: TurnOutcome, out: &mut Vec<Effect>) {
        match std::mem::replace(&mut self.slot, Slot::Free) {
            Slot::Free => {}
            Slot::Held(Turn { id, .. }) | Slot::Written { id, .. } => out.push(ended(id, outcome)),
        }
    }
}

fn ended(turn: String, outcome: TurnOutcome) -> Effect {
    Effect::Notice(Notice::TurnEnded { turn, outcome })
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
