//! What the CLI says: one line of its standard output, understood as far as the bridge must.
//!
//! Lines are parsed, never compared by their beginning (the order of fields differs between
//! versions of the CLI), and only the outermost fields are looked at. Everything else passes
//! through byte for byte. What comes from inside a sandbox is written by the agent if it wants
//! to: nothing here may cost more than a pass over the line.

use std::borrow::Cow;

use ash_wire::brief::brief;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The longest line that is accepted, in bytes.
pub const MAX_LINE: usize = 32 * 1024 * 1024;

/// The longest request id of the CLI that is answered, in bytes.
const MAX_ID: usize = 256;

/// The longest id of a task that is one, in bytes, as it is written. The CLI's are much shorter.
const MAX_TASK: usize = 64;

/// A line, classified.
#[derive(Debug)]
pub enum Speech<'a> {
    /// A line of the conversation, for `ashd`.
    Said {
        /// Whether history keeps it.
        durable: bool,
        /// What it means for the turn.
        mark: Mark<'a>,
        /// What it says of a task beside the turns.
        task: Option<Task>,
    },
    /// The CLI asks something.
    Asks {
        /// Its id for the question.
        id: Cow<'a, str>,
        /// The question.
        request: &'a RawValue,
    },
    /// The CLI answered one of our requests.
    Answers {
        /// Our id.
        id: Cow<'a, str>,
        /// Its `response` object, or the error.
        answer: Result<Option<&'a RawValue>, Cow<'a, str>>,
    },
    /// Nothing to pass on or to do.
    Nothing,
}

/// What a line means for the turn; see [`crate::turn`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mark<'a> {
    /// Nothing.
    None,
    /// `system/init`: a turn begins.
    Init,
    /// `system/session_state_changed`: the CLI works.
    Running,
    /// `system/session_state_changed`: the CLI has nothing to do and nothing queued.
    Idle,
    /// `system/task_notification`: a background task ended, or a tool's.
    TaskNotification,
    /// A `user` line that repeats our prompt with this uuid: it was taken into the turn.
    Replay(Cow<'a, str>),
    /// The `result` of a turn; `own` when the CLI had started that turn itself.
    Result {
        /// Whether the line names an origin.
        own: bool,
    },
}

/// What a line says of a task, which may run beside the CLI's turns: a command in the background, an
/// agent of the agent's; see [`crate::tasks`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Task {
    /// The CLI's id for it.
    pub id: String,
    /// Whether it runs, or has ended.
    pub runs: bool,
}

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    subtype: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    state: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    uuid: Option<Cow<'a, str>>,
    #[serde(default, rename = "isReplay")]
    is_replay: Option<bool>,
    #[serde(borrow, default)]
    origin: Option<&'a RawValue>,
    #[serde(borrow, default)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    request: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response: Option<Answer<'a>>,
    // Raw: a line of another sort may have something else under these names, and is no bad line for that.
    #[serde(borrow, default)]
    task_id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    patch: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    subtype: Cow<'a, str>,
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(borrow, default)]
    response: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
}

/// Understands a line.
///
/// # Errors
/// One sentence: why the line has to be thrown away.
pub fn understand(line: &[u8]) -> Result<Speech<'_>, String> {
    let text = std::str::from_utf8(line).map_err(|error| format!("not UTF-8: {error}"))?;
    let outer: Outer<'_> = serde_json::from_str(text)
        .map_err(|error| format!("not a line of the CLI: {}", brief(&error)))?;
    match &*outer.kind {
        "control_request" => asks(outer),
        "control_response" => answers(outer),
        "control_cancel_request" | "keep_alive" => Ok(Speech::Nothing),
        _ => Ok(said(outer)),
    }
}

fn said(outer: Outer<'_>) -> Speech<'_> {
    let replay = outer.is_replay == Some(true);
    let durable = match &*outer.kind {
        "assistant" | "result" => true,
        "user" => !replay,
        _ => false,
    };
    let task = task(&outer);
    Speech::Said { durable, mark: mark(outer, replay), task }
}

/// What is said of a task. That it ended is said twice, by what has become of it and by what the model is
/// told; one that was killed may be said only one of them.
fn task(outer: &Outer<'_>) -> Option<Task> {
    let subtype = outer.subtype.as_deref().filter(|_| outer.kind == "system")?;
    let runs = match subtype {
        "task_started" => true,
        "task_updated" => runs(outer.patch?)?,
        "task_notification" => false,
        _ => return None,
    };
    let id = outer.task_id.filter(|id| id.get().len() <= MAX_TASK)?;
    Some(Task { id: serde_json::from_str(id.get()).ok()?, runs })
}

/// Whether a task runs that has changed like this, if that tells.
fn runs(patch: &RawValue) -> Option<bool> {
    #[derive(Deserialize)]
    struct Patch<'a> {
        #[serde(borrow, default)]
        status: Option<Cow<'a, str>>,
    }
    let patch: Patch<'_> = serde_json::from_str(patch.get()).ok()?;
    patch.status.map(|status| matches!(&*status, "pending" | "running"))
}

fn mark(outer: Outer<'_>, replay: bool) -> Mark<'_> {
    match (&*outer.kind, outer.subtype.as_deref(), outer.state.as_deref()) {
        ("result", _, _) => Mark::Result { own: outer.origin.is_some_and(is_its_own) },
        ("user", _, _) if replay => outer.uuid.map_or(Mark::None, Mark::Replay),
        ("system", Some("init"), _) => Mark::Init,
        ("system", Some("task_notification"), _) => Mark::TaskNotification,
        ("system", Some("session_state_changed"), Some("idle")) => Mark::Idle,
        ("system", Some("session_state_changed"), Some(_)) => Mark::Running,
        _ => Mark::None,
    }
}

/// Whether an origin is anything but a person. None is written for our prompts by the CLI that we
/// know; the kind exists in it.
fn is_its_own(origin: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Origin<'a> {
        #[serde(borrow)]
        kind: Cow<'a, str>,
    }
    serde_json::from_str::<Origin<'_>>(origin.get()).map_or(true, |origin| origin.kind != "human")
}

fn asks(outer: Outer<'_>) -> Result<Speech<'_>, String> {
    match (outer.request_id, outer.request) {
        (Some(id), Some(request)) if id.len() <= MAX_ID => Ok(Speech::Asks { id, request }),
        _ => Err("a control_request without request or usable request_id".to_owned()),
    }
}

fn answers(outer: Outer<'_>) -> Result<Speech<'_>, String> {
    let answer = outer.response.ok_or("a control_response without response")?;
    let error = || answer.error.unwrap_or(Cow::Borrowed("the CLI gave no reason"));
    let outcome = if answer.subtype == "success" { Ok(answer.response) } else { Err(error()) };
    Ok(Speech::Answers { id: answer.request_id, answer: outcome })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said_by(line: &str) -> (bool, Mark<'_>) {
        match understand(line.as_bytes()).unwrap() {
            Speech::Said { durable, mark, .. } => (durable, mark),
            other => panic!("{other:?}"),
        }
    }

    fn task_of(line: &str) -> Option<(String, bool)> {
        match understand(line.as_bytes()).unwrap() {
            Speech::Said { task, .. } => task.map(|Task { id, runs }| (id, runs)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_history_keeps() {
        assert!(said_by(r#"{"type":"assistant","message":{}}"#).0);
        assert!(said_by(r#"{"message":{},"type":"user"}"#).0);
        assert!(said_by(r#"{"type":"user","isReplay":false}"#).0);
        assert!(!said_by(r#"{"type":"user","isReplay":true,"uuid":"a"}"#).0);
        assert!(!said_by(r#"{"type":"stream_event","event":{"type":"result"}}"#).0);
        assert!(!said_by(r#"{"type":"of the future"}"#).0);
    }

    #[test]
    fn marks() {
        let result = r#"{"type":"result","subtype":"success","result":"x"}"#;
        assert_eq!(said_by(result), (true, Mark::Result { own: false }));
        let own = r#"{"subtype":"success","origin":{"kind":"task-notification"},"type":"result"}"#;
        assert_eq!(said_by(own), (true, Mark::Result { own: true }));
        let human = r#"{"type":"result","origin":{"kind":"human"}}"#;
        assert_eq!(said_by(human).1, Mark::Result { own: false });
        let replay = r#"{"type":"user","uuid":"u-1","isReplay":true}"#;
        assert_eq!(said_by(replay).1, Mark::Replay("u-1".into()));
        assert_eq!(said_by(r#"{"type":"system","subtype":"init"}"#).1, Mark::Init);
        let idle = r#"{"type":"system","subtype":"session_state_changed","state":"idle"}"#;
        assert_eq!(said_by(idle).1, Mark::Idle);
    }

    #[test]
    fn what_is_said_of_tasks() {
        let runs = |line: &str| task_of(line).map(|(_, runs)| runs);
        let started =
            r#"{"type":"system","subtype":"task_started","task_id":"b1","task_type":"x"}"#;
        assert_eq!(task_of(started), Some(("b1".to_owned(), true)));
        let told =
            r#"{"subtype":"task_notification","status":"stopped","task_id":"b1","type":"system"}"#;
        assert_eq!(task_of(told), Some(("b1".to_owned(), false)));
        let updated = |patch: &str| {
            format!(
                r#"{{"type":"system","subtype":"task_updated","task_id":"b1","patch":{patch}}}"#
            )
        };
        for (patch, expected) in [
            (r#"{"status":"completed","end_time":1}"#, Some(false)),
            (r#"{"status":"killed"}"#, Some(false)),
            (r#"{"status":"running"}"#, Some(true)),
            (r#"{"is_backgrounded":true}"#, None),
            (r#"{"status":7}"#, None),
            ("[]", None),
            ("null", None),
        ] {
            assert_eq!(runs(&updated(patch)), expected, "{patch}");
        }
        assert_eq!(runs(r#"{"type":"system","subtype":"task_progress","task_id":"b1"}"#), None);
        assert_eq!(runs(r#"{"type":"user","subtype":"task_started","task_id":"b1"}"#), None);
    }

    #[test]
    fn what_is_no_id_of_a_task_costs_no_line() {
        let long = format!("\"{}\"", "x".repeat(MAX_TASK));
        for id in ["7", "null", "{}", long.as_str()] {
            let line = format!(r#"{{"type":"system","subtype":"task_started","task_id":{id}}}"#);
            assert_eq!(task_of(&line), None, "{id}");
        }
        let other = r#"{"type":"assistant","task_id":{"a":1},"patch":[1],"message":{}}"#;
        assert_eq!((said_by(other), task_of(other)), ((true, Mark::None), None));
    }

    #[test]
    fn text_of_the_model_is_not_mistaken_for_the_protocol() {
        let line = r#"{"type":"assistant","message":{"content":"{\"type\":\"control_request\"}"}}"#;
        assert_eq!(said_by(line), (true, Mark::None));
    }

    #[test]
    fn what_is_thrown_away() {
        for line in ["", "x", "[]", "{}", r#"{"type":1}"#, r#"{"type":"a","type":"b"}"#] {
            assert!(understand(line.as_bytes()).is_err(), "{line}");
        }
        assert!(understand(b"{\"type\":\"\xff\"}").is_err());
        assert!(understand(br#"{"type":"control_request","request_id":"1"}"#).is_err());
    }

    #[test]
    fn what_is_said_of_a_bad_line_does_not_grow_with_it() {
        let line = format!(r#"{{"type":"x","isReplay":"{}"}}"#, "\u{7f}".repeat(1 << 20));
        let reason = understand(line.as_bytes()).unwrap_err();
        assert!(reason.len() < 1024, "{} bytes", reason.len());
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let line = format!(r#"{{"type":"x","y":{}{}}}"#, "[".repeat(1 << 20), "]".repeat(1 << 20));
        assert!(matches!(understand(line.as_bytes()), Ok(Speech::Said { durable: false, .. })));
    }
}
