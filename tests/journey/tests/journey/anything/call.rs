//! Carrying one call out, and noting everything that comes back of it.

use std::fs;
use std::io::BufReader;

use anyhow::{Context as _, Result, ensure};
use ash_journey::http::{Answer, Connection};
use ash_journey::sse::{Frame, Id, Reader};
use ash_journey::{Api, process};
use serde_json::{Value, json};

use super::files::{ATTACHED, content, packed, place};
use super::model::{Call, Reply};
use super::step::Op;
use crate::writing;

/// A call of a session, on a thread of its own.
pub(super) struct Caller {
    pub(super) api: Api,
    /// The session; none for one that is to be made.
    pub(super) id: Option<String>,
    pub(super) call: Call,
    pub(super) about: About,
}

/// What a call is about, beside its session.
pub(super) enum About {
    Nothing,
    /// The message of this number.
    Message(u64),
    /// The attachment of this id.
    Attached(String),
}

/// What came of it.
pub(super) struct Done {
    pub(super) reply: Reply,
    /// What was seen of its stream.
    pub(super) frames: Vec<Frame>,
}

impl Caller {
    /// Carries it out. A connection that fails is no error here.
    pub(super) fn run(&self) -> Result<Done> {
        let mut frames = vec![];
        let reply = match self.call.op {
            Op::Say(..) | Op::Begin(_) | Op::Recall => self.speak(&mut frames)?,
            Op::Interrupt => self.interrupt(),
            Op::Write(..) | Op::Remove(_) => self.exec()?,
            Op::Put(..) | Op::Unpack(..) | Op::Attach(_) => self.upload()?,
            _ => self.plain(),
        };
        Ok(Done { reply, frames })
    }

    fn path(&self, what: &str) -> String {
        format!("/api/sessions/{}{what}", self.id.as_deref().unwrap_or_default())
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        answered(self.api.call(method, path, body))
    }

    fn plain(&self) -> Reply {
        let post = |what: &str, body: Value| self.ask("POST", &self.path(what), Some(&body));
        match self.call.op {
            Op::Create => self.ask("POST", "/api/sessions", Some(&json!({ "agent": "hello" }))),
            Op::Pause => post("/pause", json!({})),
            Op::Stop => post("/stop", json!({})),
            Op::Resume => post("/resume", json!({})),
            Op::End => self.ask("DELETE", &self.path(""), None),
            Op::Purge => self.ask("DELETE", &self.path("?purge=true"), None),
            Op::Save(name) => match post("/checkpoints", json!({ "name": format!("p{name}") })) {
                Reply::Granted(made) => Reply::Granted(made["checkpoint"].clone()),
                other => other,
            },
            Op::Forget(name) => {
                self.ask("DELETE", &self.path(&format!("/checkpoints/p{name}")), None)
            }
            Op::Restore(name) => post(&format!("/checkpoints/p{name}/restore"), json!({})),
            Op::Rewind(_) => post("/rewind", json!({ "before": self.message() })),
            Op::Fork(None) => post("/fork", json!({})),
            Op::Fork(Some(name)) => post("/fork", json!({ "checkpoint": format!("p{name}") })),
            Op::Delete(file) => {
                self.ask("DELETE", &self.path(&format!("/files/{}", place(file))), None)
            }
            Op::Detach(_) => self.ask("DELETE", &self.attachment(), None),
            _ => Reply::Granted(Value::Null),
        }
    }

    fn message(&self) -> Option<u64> {
        if let About::Message(number) = self.about { Some(number) } else { None }
    }

    fn attachment(&self) -> String {
        let id = if let About::Attached(id) = &self.about { id } else { "none" };
        format!("/api/attachments/{id}")
    }

    /// Sends bytes as they are.
    fn upload(&self) -> Result<Reply> {
        let number = self.call.number;
        let send = |method: &str, what: &str, body: &[u8]| {
            let http = self.api.with("content-length", &body.len().to_string());
            let head = http.head(method, &self.path(what)) + "\r\n";
            let sent = http.raw(&[head.as_bytes(), body].concat());
            answered(sent.and_then(Connection::answer))
        };
        Ok(match self.call.op {
            Op::Put(file, size) => {
                let what = format!("/files/{}", place(file));
                send("PUT", &what, content(number, size).as_bytes())
            }
            Op::Attach(size) => {
                let what = format!("/attachments?filename={ATTACHED}");
                send("POST", &what, content(number, size).as_bytes())
            }
            Op::Unpack(file, size) => send("POST", "/workspace", &archive(number, (file, size))?),
            _ => Reply::Granted(Value::Null),
        })
    }

    /// What the message says: a word of its own, and what the agent does.
    fn prompt(&self) -> String {
        let Call { op, mark, .. } = &self.call;
        let (command, rest) = (self.command(), "[[count 3 1ms]]");
        match op {
            Op::Say(..) => format!("{mark} [[exec echo {mark} >> log; {command}]]{rest}"),
            Op::Begin(_) => {
                format!("{mark} [[exec echo {mark} >> log; {command}]][[count 120 5ms]]")
            }
            _ => format!("{mark} [[history]]"),
        }
    }

    /// What writes or removes the file. A file has its name only when it is whole.
    fn command(&self) -> String {
        let Call { op, mark, number } = &self.call;
        let write = |file: &usize, size: &usize| {
            let from = number * 1000;
            format!("seq {from} 99999999 | head -c {size} > .{mark}; mv .{mark} f{file}")
        };
        match op {
            Op::Say(file, size) | Op::Write(file, size) => write(file, size),
            Op::Begin(file) => write(file, &20),
            Op::Remove(file) => format!("rm -f f{file} # {mark}"),
            _ => String::new(),
        }
    }

    fn exec(&self) -> Result<Reply> {
        let body = json!({ "command": self.command(), "timeout": 60_000 });
        let reply = self.ask("POST", &self.path("/exec"), Some(&body));
        if let Reply::Granted(ended) = &reply {
            ensure!(ended["exitCode"] == 0, "the command failed: {ended}");
        }
        Ok(reply)
    }

    fn interrupt(&self) -> Reply {
        let reply = self.ask("POST", &self.path("/interrupt"), None);
        match (&reply, wait_idle(&self.api, self.id.as_deref().unwrap_or_default())) {
            (Reply::Granted(_), Err(_)) => Reply::Lost,
            _ => reply,
        }
    }

    /// Sends a message and reads: to the end, or until the agent has written its file.
    fn speak(&self, frames: &mut Vec<Frame>) -> Result<Reply> {
        let message = json!({ "content": self.prompt(), "includePartialMessages": true });
        let body = message.to_string();
        let Ok(sent) = self.api.open("POST", &self.path("/messages"), Some(body.as_bytes())) else {
            return Ok(Reply::Lost);
        };
        let begins = matches!(self.call.op, Op::Begin(_));
        read(sent, frames, |frame| begins && frame.name == "tool_result")
    }
}

fn answered(answer: Result<Answer>) -> Reply {
    match answer {
        Err(_) => Reply::Lost,
        Ok(answer) if answer.status < 300 => Reply::Granted(answer.json()),
        Ok(answer) => Reply::Refused(answer.status),
    }
}

/// An archive of these files, as tar makes it.
fn archive(number: usize, first: (usize, usize)) -> Result<Vec<u8>> {
    let dir = tempfile::tempdir()?;
    for (place, content) in packed(number, first) {
        let path = dir.path().join(place);
        fs::create_dir_all(path.parent().context("a file lies in no directory")?)?;
        fs::write(path, &*content)?;
    }
    writing::packed(dir.path(), &[])
}

/// Reads a stream until a frame that is enough, or its end. Granted is the result's text.
fn read(
    from: Connection,
    frames: &mut Vec<Frame>,
    enough: impl Fn(&Frame) -> bool,
) -> Result<Reply> {
    let Ok((status, _, body)) = from.body() else { return Ok(Reply::Lost) };
    if status != 200 {
        return Ok(Reply::Refused(status));
    }
    let mut reader = Reader::new(BufReader::new(body));
    loop {
        match reader.read() {
            Ok(Some(frame)) => {
                frames.push(frame);
                if frames.last().is_some_and(&enough) {
                    return Ok(Reply::Granted(Value::Null));
                }
            }
            Ok(None) => break,
            // The daemon is gone; what it said before counts.
            Err(_) => return Ok(Reply::Lost),
        }
    }
    match frames.last() {
        Some(last) if last.name == "done" => Ok(result(frames)),
        // Refused after it had waited for its turn.
        Some(_) if !is_accepted(frames) => Ok(Reply::Refused(409)),
        _ => Ok(Reply::Lost),
    }
}

/// What a turn's stream says of its result.
fn result(frames: &[Frame]) -> Reply {
    let of = |name: &str| frames.iter().rev().find(move |frame| frame.name == name);
    let text = of("turn_complete").map_or(Value::Null, |frame| frame.data["result"].clone());
    Reply::Granted(text)
}

/// Whether a message was accepted, as far as its sender knows.
pub(super) fn is_accepted(frames: &[Frame]) -> bool {
    frames.iter().any(|frame| frame.name == "session_start")
}

/// Goes on with a turn's stream behind the last frame that was seen, to its end.
pub(super) fn go_on(api: &Api, id: &str, frames: &mut Vec<Frame>) -> Result<Reply> {
    let last: Id = frames.iter().rev().find_map(|frame| frame.id).context("no frame has an id")?;
    let api = api.with("last-event-id", &last.to_string());
    let path = format!("/api/sessions/{id}/stream?until=done");
    read(api.open("GET", &path, None)?, frames, |_| false)
}

/// Waits until no turn runs.
pub(super) fn wait_idle(api: &Api, id: &str) -> Result<()> {
    let mut failed = None;
    process::until("no turn to run", || {
        match api.call("GET", &format!("/api/sessions/{id}"), None) {
            Ok(shown) => shown.status == 404 || shown.json()["session"]["running"] == false,
            Err(error) => {
                failed = Some(error);
                true
            }
        }
    })?;
    failed.map_or(Ok(()), Err)
}
