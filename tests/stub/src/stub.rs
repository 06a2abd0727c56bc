//! The life of the process: prompts and control requests, one turn at a time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::input::{Input, Prompt, listen};
use crate::options::Options;
use crate::output::Output;
use crate::transcript::Transcript;

/// Set to 1, it makes the CLI say when it begins and ends to work.
const STATE_EVENTS: &str = "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS";

/// What ends a turn early, or the process.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The host interrupted the turn; with the result's `terminal_reason`.
    Interrupted(&'static str),
    /// The process ends with this code.
    Exit(u8),
    /// The process says this on standard error and ends with code 1.
    Fatal(String),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Something that a running turn may wait for.
pub(crate) enum News {
    /// The host answered a request of ours.
    Answer { id: Value, response: Value },
    /// A command has ended.
    Executed { call: Value, output: io::Result<std::process::Output> },
    /// Standard input has ended.
    Closed,
}

/// The process.
pub(crate) struct Stub {
    pub(crate) options: Options,
    pub(crate) model: String,
    pub(crate) mode: String,
    pub(crate) out: Output,
    pub(crate) transcript: Transcript,
    /// For threads that have something to say to the turn.
    pub(crate) inbox: Sender<Input>,
    /// What to say in turns of its own after this one, each with the task that it is about.
    pub(crate) own_turns: VecDeque<(String, String)>,
    pub(crate) last_failed: bool,
    pub(crate) cost: f64,
    /// Whether the host wants to know when it is busy.
    tells_state: bool,
    busy: bool,
    inputs: Receiver<Input>,
    queue: VecDeque<Prompt>,
    closed: bool,
}

impl Stub {
    /// Starts reading; nothing is written before the host asks.
    pub(crate) fn new(options: Options, transcript: Transcript) -> Self {
        let (inbox, inputs) = listen();
        Self {
            model: options.model.clone().unwrap_or_else(|| "claude-opus-4-5".to_owned()),
            mode: options.mode.clone().unwrap_or_else(|| "default".to_owned()),
            out: Output::new(&transcript.session),
            options,
            transcript,
            inbox,
            own_turns: VecDeque::new(),
            last_failed: false,
            cost: 0.0,
            tells_state: std::env::var_os(STATE_EVENTS).is_some_and(|wanted| wanted == "1"),
            busy: false,
            inputs,
            queue: VecDeque::new(),
            closed: false,
        }
    }

    /// Lives until something ends the process.
    pub(crate) fn live(mut self) -> Result<Infallible, Stop> {
        loop {
            if let Some((task, text)) = self.own_turns.pop_front() {
                self.is_busy(true)?;
                self.turn_of_its_own(&task, &text)?;
            } else if !self.queue.is_empty() {
                let prompts = self.queue.drain(..).collect::<Vec<_>>();
                self.is_busy(true)?;
                self.turn(&prompts)?;
            } else if self.closed {
                return Err(Stop::Exit(u8::from(self.last_failed)));
            } else {
                self.is_busy(false)?;
                self.out.flush()?;
                self.next_input()?;
            }
        }
    }

    /// Says so when that has changed, to a host that wants to know.
    fn is_busy(&mut self, busy: bool) -> Result<(), Stop> {
        if std::mem::replace(&mut self.busy, busy) != busy && self.tells_state {
            let state = if busy { "running" } else { "idle" };
            self.out.line(json!({"type": "system", "subtype": "session_state_changed",
                "state": state}))?;
        }
        Ok(())
    }

    fn next_input(&mut self) -> Result<(), Stop> {
        let input = self.inputs.recv().unwrap_or(Input::Closed);
        match self.take(input) {
            Err(Stop::Interrupted(_)) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Handles what came in meanwhile, without waiting.
    pub(crate) fn attend(&mut self) -> Result<(), Stop> {
        while let Ok(input) = self.inputs.try_recv() {
            self.take(input)?;
        }
        Ok(())
    }

    /// Handles what comes in for that long.
    pub(crate) fn attend_for(&mut self, time: Duration) -> Result<(), Stop> {
        let end = Instant::now() + time;
        self.out.flush()?;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.inputs.recv_timeout(left) {
                Ok(input) => drop(self.take(input)?),
                Err(_) => return Ok(()),
            }
        }
    }

    /// Waits for news, handling everything else.
    pub(crate) fn news(&mut self) -> Result<News, Stop> {
        self.out.flush()?;
        loop {
            let input = self.inputs.recv().unwrap_or(Input::Closed);
            if let Some(news) = self.take(input)? {
                return Ok(news);
            }
        }
    }

    /// Handles one input; what only a turn can use comes back.
    fn take(&mut self, input: Input) -> Result<Option<News>, Stop> {
        match input {
            Input::Prompt(prompt) => self.queue.push_back(prompt),
            Input::Control { id, request } => self.control(&id, &request)?,
            Input::Answer { id, response } => return Ok(Some(News::Answer { id, response })),
            Input::Executed { call, output } => return Ok(Some(News::Executed { call, output })),
            Input::TaskEnded { task, output } => self.task_ended(task, output)?,
            Input::Fatal(sentence) => {
                self.out.flush()?;
                return Err(Stop::Fatal(sentence));
            }
            Input::Closed => {
                self.closed = true;
                return Ok(Some(News::Closed));
            }
        }
        Ok(None)
    }

    fn control(&mut self, id: &Value, request: &Value) -> Result<(), Stop> {
        let subtype = request["subtype"].as_str().unwrap_or_default();
        let response = match self.response(subtype, request) {
            Ok(Value::Null) => json!({"subtype": "success", "request_id": id}),
            Ok(data) => json!({"subtype": "success", "request_id": id, "response": data}),
            Err(error) => json!({"subtype": "error", "request_id": id, "error": error}),
        };
        self.out.bare(&json!({"type": "control_response", "response": response}))?;
        if subtype == "set_permission_mode" && response["subtype"] == "success" {
            self.out.line(json!({"type": "system", "subtype": "status", "status": null,
                "permissionMode": self.mode}))?;
        }
        self.out.flush()?;
        match subtype {
            "interrupt" => Err(Stop::Interrupted("aborted_streaming")),
            _ => Ok(()),
        }
    }

    fn response(&mut self, subtype: &str, request: &Value) -> Result<Value, String> {
        match subtype {
            "initialize" => Ok(self.introduction()),
            "interrupt" | "set_max_thinking_tokens" | "apply_flag_settings" => Ok(Value::Null),
            "mcp_status" => Ok(json!({"mcpServers": []})),
            "set_model" => {
                self.model = request["model"].as_str().unwrap_or("claude-opus-4-5").to_owned();
                Ok(Value::Null)
            }
            "set_permission_mode" => self.set_mode(request["mode"].as_str().unwrap_or_default()),
            "side_question" => Ok(json!({"response": "ok", "synthetic": false})),
            other => Err(format!("Unsupported control request subtype: {other}")),
        }
    }

    fn introduction(&self) -> Value {
        json!({
            "commands": [], "agents": [], "output_style": "default",
            "available_output_styles": ["default"], "models": [],
            "account": {"apiKeySource": "ANTHROPIC_API_KEY"}, "pid": std::process::id()
        })
    }

    fn set_mode(&mut self, mode: &str) -> Result<Value, String> {
        if mode == "bypassPermissions" && !self.options.may_bypass {
            return Err("Cannot set permission mode to bypassPermissions because the session was \
                        not launched with --dangerously-skip-permissions"
                .to_owned());
        }
        mode.clone_into(&mut self.mode);
        Ok(json!({"mode": mode}))
    }
}
