//! What `--json` prints.

use ash_dbus::value::{
    AgentInfo, BackupInfo, CheckpointInfo, CollectionInfo, DifferenceInfo, Event, Health, KeyInfo,
    LoadInfo, LogLine, Message, SessionInfo, Usage,
};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::sse;

/// Text that should be JSON; a JSON string of it if it is not.
pub(crate) fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text))
}

pub(crate) fn health(version: &str, health: &Health) -> Value {
    let mut shown = json!({
        "version": version,
        "activeSessions": health.active_sessions,
        "liveSandboxes": health.live_sandboxes,
        "running": health.running,
        "warming": health.warming,
        "frozen": health.frozen,
        "cold": health.cold,
        "reclaimedBytes": health.reclaimed_bytes,
        "cooled": health.cooled,
        "evictions": health.evictions,
        "cleared": health.cleared,
        "clearedBytes": health.cleared_bytes,
        "maxSandboxes": health.max_sandboxes,
        "turnsRunning": health.turns_running,
        "turnsWaiting": health.turns_waiting,
        "turnsMax": health.turns_max,
        "launchesRunning": health.launches_running,
        "launchesWaiting": health.launches_waiting,
        "launchesMax": health.launches_max,
        "pressure": health.pressure,
        "refused": health.refused,
        "resumeWarmHits": health.resume_warm_hits,
        "resumeColdHits": health.resume_cold_hits,
        "uptime": health.uptime,
        "missing": health.missing,
        "damagedCheckpoints": health.damaged_checkpoints,
        "modelKey": health.model_key,
        "copiesWaiting": health.copies_waiting,
        "copiesFailing": health.copies_failing,
        "purgedSessions": health.purged_sessions,
        "forgottenEvents": health.forgotten_events,
        "removedCheckpoints": health.removed_checkpoints,
        "retentionOver": health.retention_over,
        "retentionFailing": health.retention_failing,
        "reclaimed": health.reclaimed,
        "freezes": health.freezes,
        "idle": idle(health),
    });
    // One more each, and the macro would recurse deeper than the compiler lets it.
    for (key, number) in
        [("warm", health.warm), ("preWarmHits", health.pre_warm_hits), ("maxWarm", health.max_warm)]
    {
        shown[key] = number.into();
    }
    shown
}

/// When sandboxes that nobody uses take which step, as `/health` has it; nothing from a daemon of before.
fn idle(health: &Health) -> Option<Value> {
    let step = |ms: Option<u64>| ms.filter(|ms| *ms > 0);
    health.per_tick.map(|per_tick| {
        json!({
            "freezeAfterMs": step(health.freeze_after_ms),
            "reclaimAfterMs": step(health.reclaim_after_ms),
            "timeoutMs": step(health.idle_timeout_ms),
            "clearAfterMs": step(health.clear_after_ms),
            "backgroundMs": health.background_ms,
            "perTick": per_tick,
        })
    })
}

pub(crate) fn agent(agent: &AgentInfo) -> Value {
    json!({
        "id": agent.id,
        "name": agent.name,
        "version": agent.version,
        "path": agent.path,
        "envNames": agent.env_names,
        "createdAt": agent.created_at,
        "updatedAt": agent.updated_at,
    })
}

pub(crate) fn session(session: &SessionInfo) -> Value {
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "id": session.id,
        "agentName": session.agent_name,
        "agentVersion": session.agent_version,
        "status": session.status,
        "model": given(&session.model),
        "cliVersion": given(&session.cli_version),
        "lastError": given(&session.last_error),
        "turn": given(&session.turn),
        "lastSeq": session.last_seq,
        "createdAt": session.created_at,
        "lastActiveAt": session.last_active_at,
    })
}

pub(crate) fn checkpoint(point: &CheckpointInfo) -> Value {
    json!({
        "id": point.id,
        "name": (!point.name.is_empty()).then_some(&point.name),
        "sequence": point.sequence,
        "running": point.running,
        "files": point.files,
        "bytes": point.bytes,
        "written": point.written,
        "leftOut": point.left_out,
        "damage": (!point.damage.is_empty()).then_some(&point.damage),
        "createdAt": point.created_at,
    })
}

pub(crate) fn differences(differences: &[DifferenceInfo], chunks: u64) -> Value {
    let difference = |one: &DifferenceInfo| {
        json!({
            "kind": one.kind,
            "mending": one.mending,
            "sessionId": (!one.session.is_empty()).then_some(&one.session),
            "text": one.text,
            "advice": one.advice,
        })
    };
    let differences: Value = differences.iter().map(difference).collect();
    json!({"differences": differences, "chunks": chunks})
}

pub(crate) fn collection(one: &CollectionInfo) -> Value {
    json!({
        "tenant": one.tenant,
        "busy": one.busy,
        "packs": one.packs,
        "bytes": one.bytes,
        "needed": one.needed,
        "damaged": one.damaged,
        "held": one.held,
    })
}

pub(crate) fn backup(made: &BackupInfo) -> Value {
    json!({
        "id": made.id,
        "createdAt": made.created_at,
        "sessions": made.sessions,
        "files": made.files,
        "bytes": made.bytes,
        "written": made.written,
        "leftOut": made.left_out,
        "stale": made.stale,
    })
}

pub(crate) fn key(key: &KeyInfo) -> Value {
    json!({"id": key.id, "name": key.name, "scope": key.scope, "createdAt": key.created_at})
}

pub(crate) fn usage(usage: &Usage) -> Value {
    json!({
        "model": usage.model,
        "inputTokens": usage.input_tokens,
        "outputTokens": usage.output_tokens,
        "cacheCreationTokens": usage.cache_creation_tokens,
        "cacheReadTokens": usage.cache_read_tokens,
        "costUsd": usage.cost_usd,
        "calls": usage.calls,
    })
}

pub(crate) fn load(load: &LoadInfo) -> Value {
    json!({
        "id": load.id,
        "agentName": load.agent_name,
        "status": load.status,
        "turn": (!load.turn.is_empty()).then_some(&load.turn),
        "sandbox": (!load.sandbox.is_empty()).then_some(&load.sandbox),
        "cpuUs": load.cpu_us,
        "memory": load.memory,
        "memoryPeak": load.memory_peak,
        "pids": load.pids,
        "readBytes": load.read_bytes,
        "writtenBytes": load.written_bytes,
        "inputTokens": load.input_tokens,
        "outputTokens": load.output_tokens,
        "costUsd": load.cost_usd,
    })
}

pub(crate) fn message((seq, role, content, at): &Message) -> Value {
    json!({"seq": seq, "role": role, "content": parsed(content), "at": at})
}

pub(crate) fn event((seq, kind, turn, body, at): &Event) -> Value {
    let turn = (!turn.is_empty()).then_some(turn);
    json!({"seq": seq, "kind": kind, "turn": turn, "data": parsed(body), "at": at})
}

pub(crate) fn log_line((index, level, text, at): &LogLine) -> Value {
    json!({"index": index, "level": level, "text": text, "at": at})
}

/// A frame on one line, its data as the daemon wrote it.
pub(crate) fn frame(frame: &sse::Event) -> String {
    let (id, name) = (json!(frame.id), json!(frame.name));
    let data = match serde_json::from_str::<&RawValue>(&frame.data) {
        Ok(data) if !frame.data.contains('\n') => data.get().to_owned(),
        _ => json!(frame.data).to_string(),
    };
    format!("{{\"id\":{id},\"event\":{name},\"data\":{data}}}")
}
