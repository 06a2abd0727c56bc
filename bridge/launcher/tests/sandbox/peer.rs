//! The other end of a bridge: speaks the wire protocol as ashd does.

use std::os::unix::net::UnixStream;

use ash_wire::frame::{self, Kind};
use ash_wire::words::{
    ControlReply, Exec, ExecExit, Hello, Notice, Permissions, Start, Turn, TurnOutcome, Welcome,
};
use ash_wire::{OLDEST_VERSION, VERSION};
use serde::Serialize;
use serde_json::value::RawValue;

/// A connection to a bridge.
pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    pub(crate) welcome: Welcome,
    /// Everything that came, in order.
    pub(crate) seen: Vec<Frame>,
}

/// A frame that came.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    pub(crate) fn notice(&self) -> Option<Notice> {
        (self.kind == Kind::Notice).then(|| serde_json::from_slice(&self.body).unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) exit: ExecExit,
}

impl Peer {
    pub(crate) fn greet(stream: UnixStream, resend_from: u64) -> std::io::Result<Peer> {
        let hello = Hello { version: VERSION, oldest: OLDEST_VERSION, resend_from };
        send(&stream, Kind::Hello, 0, &hello);
        let (header, body) =
            frame::read(&mut &stream)?.ok_or(std::io::ErrorKind::ConnectionReset)?;
        assert_eq!(header.kind, Kind::Welcome);
        let welcome = serde_json::from_slice(&body).unwrap();
        Ok(Peer { stream, welcome, seen: Vec::new() })
    }

    pub(crate) fn send(&self, kind: Kind, number: u64, body: &impl Serialize) {
        send(&self.stream, kind, number, body);
    }

    /// Sends a frame without a body.
    pub(crate) fn signal(&self, kind: Kind, number: u64) {
        frame::write(&mut &self.stream, kind, number, &[]).unwrap();
    }

    /// The next frame, or `None` when the bridge closed the connection.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let (header, body) = frame::read(&mut &self.stream).unwrap()?;
        let frame = Frame { kind: header.kind, number: header.number, body };
        self.seen.push(frame.clone());
        Some(frame)
    }

    /// Waits for the first frame that `wanted` makes something of.
    pub(crate) fn wait<T>(&mut self, mut wanted: impl FnMut(&Frame) -> Option<T>) -> T {
        loop {
            let frame = self.next().expect("the bridge closed the connection");
            if let Some(found) = wanted(&frame) {
                return found;
            }
        }
    }

    pub(crate) fn wait_notice<T>(&mut self, mut wanted: impl FnMut(Notice) -> Option<T>) -> T {
        self.wait(|frame| frame.notice().and_then(&mut wanted))
    }

    /// Starts a CLI and waits until it is ready.
    pub(crate) fn start(&mut self, start: &Start) {
        self.send(Kind::Start, 0, start);
        self.wait_notice(|notice| match notice {
            Notice::CliReady { .. } => Some(()),
            Notice::CliExited { expected: false, .. } => panic!("{notice:?}"),
            _ => None,
        });
    }

    pub(crate) fn turn(&self, id: &str, text: &str) {
        let content = serde_json::value::to_raw_value(text).unwrap();
        self.send(Kind::Turn, 0, &Turn { id: id.to_owned(), content });
    }

    /// How a turn ended, which may have been seen before.
    pub(crate) fn wait_turn_end(&mut self, id: &str) -> TurnOutcome {
        self.wait_any(|frame| match frame.notice()? {
            Notice::TurnEnded { turn, outcome } if turn == id => Some(outcome),
            _ => None,
        })
    }

    /// The notice of the CLI's end, which may have been seen before.
    pub(crate) fn wait_exit(&mut self) -> Notice {
        let is_it = |notice: &Notice| matches!(notice, Notice::CliExited { .. });
        self.wait_any(|frame| frame.notice().filter(is_it))
    }

    fn wait_any<T>(&mut self, mut wanted: impl FnMut(&Frame) -> Option<T>) -> T {
        match self.seen.iter().find_map(&mut wanted) {
            Some(found) => found,
            None => self.wait(wanted),
        }
    }

    pub(crate) fn wait_reply(&mut self, id: u64) -> ControlReply {
        self.wait(|frame| {
            let is_it = frame.kind == Kind::ControlReply && frame.number == id;
            is_it.then(|| serde_json::from_slice(&frame.body).unwrap())
        })
    }

    /// Runs a command and waits for its end.
    pub(crate) fn run(&mut self, command: &str) -> Ran {
        self.run_with(&exec(command))
    }

    pub(crate) fn run_with(&mut self, exec: &Exec) -> Ran {
        let id = 1 << 40;
        let from = self.seen.len();
        self.send(Kind::Exec, id, exec);
        let exit = self.wait(|frame| {
            let is_it = frame.kind == Kind::ExecExit && frame.number == id;
            is_it.then(|| serde_json::from_slice(&frame.body).unwrap())
        });
        let all = |kind| {
            let frames = self.seen[from..].iter().filter(|f| f.kind == kind && f.number == id);
            frames.map(Frame::text).collect::<String>()
        };
        Ran { stdout: all(Kind::ExecStdout), stderr: all(Kind::ExecStderr), exit }
    }

    /// The notices that came, as one writes them.
    pub(crate) fn notices(&self) -> Vec<Notice> {
        self.seen.iter().filter_map(Frame::notice).collect()
    }

    /// Texts of frames of a kind.
    pub(crate) fn texts(&self, kind: Kind) -> Vec<String> {
        self.seen.iter().filter(|frame| frame.kind == kind).map(Frame::text).collect()
    }
}

fn send(mut stream: &UnixStream, kind: Kind, number: u64, body: &impl Serialize) {
    frame::write(&mut stream, kind, number, &serde_json::to_vec(body).unwrap()).unwrap();
}

pub(crate) fn exec(command: &str) -> Exec {
    let env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
    Exec { command: command.to_owned(), env, timeout_ms: 60_000, output_limit: 1 << 20 }
}

/// How the stand-in for the CLI is started; `mode` is what it is asked to do wrong.
pub(crate) fn stand_in(mode: &str) -> Start {
    let env = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Start {
        program: "/usr/bin/python3".to_owned(),
        args: ["-c", include_str!("stand_in.py"), mode].map(str::to_owned).into(),
        env: vec![env("PATH", "/usr/bin:/bin"), env("HOME", "/home/agent")],
        initialize: RawValue::from_string("{}".to_owned()).unwrap(),
        permissions: Permissions::Allow,
        ready_timeout_ms: 20_000,
        tag: String::new(),
    }
}
