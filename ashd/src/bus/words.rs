//! From the words of the domain to those of the bus.

use std::time::Duration;

use ash_dbus::Error;
use ash_dbus::value::{
    AgentInfo, BackupInfo, CheckpointInfo, CollectionInfo, DifferenceInfo, Event, Health, KeyInfo,
    LogLine, Message, SessionInfo, Usage,
};

use crate::domain::{Agent, NewEvent, Point, Session, Status, Unfit};
use crate::session::api::{self, Refusal};
use crate::session::backup::BackedUp;
use crate::session::keys::Key;
use crate::session::{self, Collection, Difference, Kept, Service};
use crate::telemetry::SharedPace;

/// Bytes of text in one reply: far below the 32 MiB at which a system bus cuts us off.
const PAGE: usize = 4 << 20;

/// A refusal under its name on the bus. What is for the log only goes there.
pub(super) fn refused(refusal: Refusal) -> Error {
    let text = refusal.public_text();
    if matches!(refusal, Refusal::Store(_) | Refusal::Internal(_)) {
        static PACE: SharedPace = SharedPace::new();
        if let Some(left_out) = PACE.step(0) {
            tracing::error!(%refusal, left_out, "a call was not served");
        }
    }
    match refusal {
        Refusal::NoAgent
        | Refusal::NoAgentNamed(_)
        | Refusal::NoSession
        | Refusal::NoCheckpoint
        | Refusal::NoWorkspace
        | Refusal::NoFile
        | Refusal::NoAttachment
        | Refusal::AttachmentLost
        | Refusal::NotStored
        | Refusal::NoTenant
        | Refusal::NoKey => Error::NotFound(text),
        Refusal::NotActive(_)
        | Refusal::Arriving
        | Refusal::WrongStatus { .. }
        | Refusal::NotAtCheckpoint { .. }
        | Refusal::NameTaken
        | Refusal::LastCheckpoint
        | Refusal::NewestCheckpoint
        | Refusal::NoObjectStore
        | Refusal::HereAlready
        | Refusal::TakenElsewhere
        | Refusal::OtherAgent { .. }
        | Refusal::FilesNotReady
        | Refusal::ReadOnly
        | Refusal::InTheWay(_)
        | Refusal::Precondition(_)
        | Refusal::TooManyAttachments(_)
        | Refusal::TooMuch(_)
        | Refusal::Ended => Error::WrongState(text),
        Refusal::Invalid(_)
        | Refusal::TooLarge(_)
        | Refusal::AttachmentTooLarge(_)
        | Refusal::Stalled => Error::Invalid(text),
        Refusal::Forbidden(_) => Error::Forbidden(text),
        Refusal::Busy | Refusal::Overtaken(_) | Refusal::QueueFull(_) => Error::Busy(text),
        Refusal::Capacity { .. } => Error::Capacity(text),
        Refusal::ShuttingDown => Error::ShuttingDown(text),
        Refusal::Sandbox(_)
        | Refusal::Store(_)
        | Refusal::ObjectStore
        | Refusal::NothingKept
        | Refusal::Damaged { .. }
        | Refusal::Backup(_)
        | Refusal::Internal(_) => Error::Failed(text),
    }
}

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Self {
        Error::Invalid(unfit.to_string())
    }
}

/// Text that D-Bus can carry: it forbids NUL, agents do not.
pub(super) fn carried(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

pub(super) fn health(health: api::Health) -> Health {
    Health {
        active_sessions: health.sessions.of(Status::Active),
        live_sandboxes: health.live_sandboxes,
        running: health.running,
        warming: health.warming,
        frozen: health.rested.frozen,
        cold: health.cold,
        reclaimed_bytes: health.rested.reclaimed_bytes,
        cooled: health.rested.cooled,
        evictions: health.rested.evictions,
        cleared: Some(health.rested.cleared),
        cleared_bytes: Some(health.rested.cleared_bytes),
        max_sandboxes: health.max_sandboxes,
        resume_warm_hits: health.resume_warm_hits,
        resume_cold_hits: health.resume_cold_hits,
        uptime: health.uptime_s,
        missing: health.missing,
        damaged_checkpoints: health.damaged_checkpoints,
        model_key: health.model_key,
        copies_waiting: health.copying.map(|copying| copying.waiting),
        copies_failing: health.copying.map(|copying| copying.failing),
        purged_sessions: health.gone.map(|gone| gone.sessions),
        forgotten_events: health.gone.map(|gone| gone.events),
        removed_checkpoints: health.gone.map(|gone| gone.points),
        retention_over: health.gone.map(|gone| gone.over),
        retention_failing: health.gone.map(|gone| gone.failing),
        reclaimed: Some(health.rested.reclaimed),
        freezes: Some(health.rested.freezes),
        freeze_after_ms: Some(ms(health.times.freeze)),
        reclaim_after_ms: Some(ms(health.times.reclaim)),
        idle_timeout_ms: Some(ms(health.times.cool)),
        background_ms: Some(ms(Some(health.times.background))),
        per_tick: Some(health.times.at_once as u64),
        clear_after_ms: Some(ms(health.times.clear)),
        warm: Some(health.warm),
        pre_warm_hits: Some(health.pre_warm_hits),
        max_warm: Some(health.max_warm),
        ..admitted(&health.admission)
    }
}

/// A time in milliseconds; 0 for what is never done.
fn ms(time: Option<Duration>) -> u64 {
    time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// What of how the daemon is has to do with admission; all else is nothing.
fn admitted(admitted: &api::Admitted) -> Health {
    let api::Admitted { turns, launches, short, refused } = admitted;
    Health {
        turns_running: turns.taken,
        turns_waiting: turns.waiting,
        turns_max: turns.max,
        launches_running: launches.taken,
        launches_waiting: launches.waiting,
        launches_max: launches.max,
        pressure: short.iter().map(|of| of.as_str().to_owned()).collect(),
        refused: refused.iter().map(|(of, times)| ((*of).to_owned(), *times)).collect(),
        ..Health::default()
    }
}

pub(super) fn agent(service: &Service, agent: &Agent) -> AgentInfo {
    AgentInfo {
        id: agent.id.to_string(),
        name: agent.name.to_string(),
        version: agent.version,
        path: service.agent_path(agent).display().to_string(),
        env_names: env_names(agent),
        created_at: agent.created_at.to_string(),
        updated_at: agent.updated_at.to_string(),
    }
}

/// Names of the variables that an agent gives its sessions.
pub(super) fn env_names(agent: &Agent) -> Vec<String> {
    agent.env.keys().cloned().collect()
}

pub(super) fn key(key: Key) -> KeyInfo {
    KeyInfo {
        id: key.id.to_string(),
        name: key.label,
        scope: key.scope.to_string(),
        created_at: key.created_at.to_string(),
    }
}

pub(super) fn session(session: &Session) -> SessionInfo {
    SessionInfo {
        id: session.id.to_string(),
        agent_name: session.agent.to_string(),
        agent_version: session.agent_version,
        status: session.status.to_string(),
        model: carried(session.settings.model.as_deref().unwrap_or_default()),
        tenant: session.tenant.to_string(),
        cli_version: session.cli_version.clone().unwrap_or_default(),
        last_error: carried(session.last_error.as_deref().unwrap_or_default()),
        turn: session.turn.map(|turn| turn.id.to_string()).unwrap_or_default(),
        last_seq: session.last_seq,
        created_at: session.created_at.to_string(),
        last_active_at: session.last_active_at.to_string(),
    }
}

pub(super) fn backup(made: &BackedUp) -> BackupInfo {
    BackupInfo {
        id: made.id.to_string(),
        created_at: made.at.to_string(),
        sessions: made.sessions,
        files: made.files,
        bytes: made.bytes,
        written: made.written,
        left_out: made.left_out,
        stale: made.stale,
    }
}

pub(super) fn kept(kept: &Kept) -> CheckpointInfo {
    let damage = carried(kept.damage.as_deref().unwrap_or_default());
    CheckpointInfo { damage, ..checkpoint(&kept.point) }
}

pub(super) fn difference(found: &Difference) -> DifferenceInfo {
    DifferenceInfo {
        kind: found.kind().to_owned(),
        mending: found.mending().as_str().to_owned(),
        session: found.session().map(|id| id.to_string()).unwrap_or_default(),
        text: carried(&found.to_string()),
        advice: carried(&found.advice()),
    }
}

pub(super) fn collection(one: &Collection) -> CollectionInfo {
    let collected = one.collected.unwrap_or_default();
    CollectionInfo {
        tenant: one.tenant.to_string(),
        busy: one.collected.is_none(),
        packs: collected.packs,
        bytes: collected.bytes,
        needed: collected.needed,
        damaged: collected.damaged,
        held: collected.held,
    }
}

pub(super) fn checkpoint(point: &Point) -> CheckpointInfo {
    CheckpointInfo {
        id: point.id.to_string(),
        name: point.name.as_ref().map(|name| carried(name.as_str())).unwrap_or_default(),
        sequence: point.seq,
        running: point.turn.is_some(),
        files: point.files,
        bytes: point.bytes,
        written: point.written,
        left_out: point.left_out,
        created_at: point.created_at.to_string(),
        damage: String::new(),
    }
}

pub(super) fn usage(usage: session::Usage) -> Usage {
    Usage {
        model: carried(&usage.model),
        input_tokens: usage.input_tokens,
        output_tokens: usage.output_tokens,
        cache_creation_tokens: usage.cache_creation_tokens,
        cache_read_tokens: usage.cache_read_tokens,
        cost_usd: usage.cost_usd,
        calls: usage.calls,
    }
}

pub(super) fn message(event: &NewEvent) -> Message {
    (event.seq, event.kind.as_str().into(), body(event), event.at.to_string())
}

pub(super) fn event(event: &NewEvent) -> Event {
    let turn = event.turn.map(|turn| turn.to_string()).unwrap_or_default();
    (event.seq, event.kind.as_str().into(), turn, body(event), event.at.to_string())
}

pub(super) fn log_line(line: &api::LogLine) -> LogLine {
    (line.index, line.level.into(), carried(&line.text), line.ts.to_string())
}

/// The JSON of an event. One too large for a reply is described; its stream has the whole.
fn body(event: &NewEvent) -> String {
    if event.body.len() > PAGE {
        return format!("{{\"type\":\"too_large\",\"bytes\":{}}}", event.body.len());
    }
    carried(&String::from_utf8_lossy(&event.body))
}

/// As many items from the front as fit into one reply, at least one.
pub(super) fn page<T, R>(items: &[T], size: impl Fn(&R) -> usize, row: impl Fn(&T) -> R) -> Vec<R> {
    let mut total = 0;
    let mut rows = Vec::new();
    for item in items.iter().map(row) {
        total += size(&item);
        if total > PAGE && !rows.is_empty() {
            break;
        }
        rows.push(item);
    }
    rows
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Seek;

    use super::*;
    use crate::session::StoreError;

    #[test]
    fn refusals_have_names() {
        use zbus::DBusError;
        let name = |refusal| refused(refusal).name().to_string();
        assert_eq!(name(Refusal::NoSession), "org.ashd.Ash1.Error.NotFound");
        assert_eq!(name(Refusal::NotActive(Status::Paused)), "org.ashd.Ash1.Error.WrongState");
        let full = Refusal::Capacity { reason: "no room".into(), retry_after_s: 5 };
        assert_eq!(refused(full).to_string(), "no room; try again in 5 s");
    }

    #[test]
    fn what_the_database_says_is_for_the_log() {
        let mut log = tempfile::tempfile().unwrap();
        let subscriber = tracing_subscriber::fmt().with_writer(log.try_clone().unwrap()).finish();
        let failed = StoreError::Database("cannot open /var/lib/ash/ash.db".into());
        let call = || refused(Refusal::Store(failed)).to_string();
        let shown = tracing::subscriber::with_default(subscriber, call);
        assert_eq!(shown, "The server cannot use its database right now; try again later");
        log.rewind().unwrap();
        let logged = std::io::read_to_string(log).unwrap();
        assert!(logged.contains("cannot open /var/lib/ash/ash.db"), "{logged}");
        // What somebody can do something about is shown.
        let full = refused(Refusal::Store(StoreError::Full)).to_string();
        assert!(full.contains("the disk that holds the database is full"), "{full}");
    }

    #[test]
    fn what_is_admitted_is_told() {
        let found = admitted(&api::Admitted {
            turns: api::Places { max: 32, taken: 2, waiting: 3 },
            launches: api::Places { max: 4, taken: 1, waiting: 5 },
            short: vec![api::Scarce::Memory, api::Scarce::Processes],
            refused: vec![("disk", 1), ("turns", 0)],
        });
        let turns = [found.turns_running, found.turns_waiting, found.turns_max];
        let launches = [found.launches_running, found.launches_waiting, found.launches_max];
        assert_eq!((turns, launches), ([2, 3, 32], [1, 5, 4]));
        assert_eq!(found.pressure, ["memory", "processes"]);
        let refused = [("disk", 1), ("turns", 0)].map(|(of, times)| (of.to_owned(), times));
        assert_eq!(found.refused, HashMap::from(refused));
        let none = admitted(&api::Admitted::default());
        assert_eq!(none, Health::default());
    }

    #[test]
    fn what_is_kept_warm_is_told_and_when_files_are_removed() {
        let clear = Some(Duration::from_secs(9));
        let found = health(api::Health {
            times: api::Times { clear, ..api::Times::default() },
            warm: 1,
            pre_warm_hits: 7,
            max_warm: 16,
            ..api::Health::default()
        });
        assert_eq!(found.clear_after_ms, Some(9000));
        let warm = (found.warm, found.pre_warm_hits, found.max_warm);
        assert_eq!(warm, (Some(1), Some(7), Some(16)));
    }

    #[test]
    fn what_is_never_done_is_told_as_zero() {
        let told = [None, Some(Duration::from_millis(1500)), Some(Duration::MAX)].map(ms);
        assert_eq!(told, [0, 1500, u64::MAX]);
    }

    #[test]
    fn pages_end_at_their_size_but_are_never_empty() {
        let sizes = [PAGE + 1, 10, PAGE - 10, 1];
        let rows = |from: usize| page(&sizes[from..], |size| *size, |size| *size);
        assert_eq!(rows(0), [PAGE + 1]);
        assert_eq!(rows(1), [10, PAGE - 10]);
        assert_eq!(rows(4), Vec::<usize>::new());
    }

    #[test]
    fn nul_is_replaced() {
        assert_eq!(carried("a\0b"), "a\u{fffd}b");
    }
}
