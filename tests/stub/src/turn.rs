//! One turn: from its init line to its result line.

use std::time::Instant;

use ash_modelapi::compose::{Composer, Usage};
use ash_modelapi::content::Content;
use ash_modelapi::directive::{self, Directive};
use ash_modelapi::{id, monotonic_ns};
use serde_json::{Value, json};

use crate::input::Prompt;
use crate::options::VERSION;
use crate::stub::{Stop, Stub};
use crate::transcript::failed_result;

/// What a turn knows while it runs.
pub(crate) struct Turn {
    pub(crate) composer: Composer,
    /// Blocks of the composer's message that were written out.
    told: usize,
    /// Whether each delta begins with the time.
    pub(crate) stamped: bool,
    /// What the last tool said.
    pub(crate) tool_said: Option<String>,
    /// Where the transcript stood before.
    pub(crate) first: usize,
    /// Requests to the model that a real turn would have made.
    rounds: u64,
    result: String,
    usage: Value,
    began: Instant,
}

impl Stub {
    /// Answers prompts, several as if they were one.
    pub(crate) fn turn(&mut self, prompts: &[Prompt]) -> Result<(), Stop> {
        let text = prompts.iter().map(Prompt::text).collect::<Vec<_>>().join("\n");
        let directives = directive::parse(&text);
        let mut turn = self.open_turn()?;
        for prompt in prompts {
            self.take_in(prompt)?;
        }
        let course = self.run(&mut turn, &directives, &text);
        self.close_turn(turn, course)
    }

    /// Says something that nobody asked for, as after the end of a background task.
    pub(crate) fn turn_of_its_own(&mut self, task: &str, text: &str) -> Result<(), Stop> {
        self.out.line(json!({"type": "system", "subtype": "task_notification",
            "task_id": task, "status": "completed", "summary": text}))?;
        let mut turn = self.open_turn()?;
        let course = self.send(&mut turn, &Content::Say(text.to_owned()));
        let course = course.and_then(|()| self.end_message(&mut turn, "end_turn"));
        self.close_turn(turn, course)
    }

    fn open_turn(&mut self) -> Result<Turn, Stop> {
        let cwd = std::env::current_dir().unwrap_or_default();
        self.out.line(json!({
            "type": "system", "subtype": "init", "cwd": cwd.to_string_lossy(),
            "tools": ["Bash", "Edit", "Read", "Write"], "mcp_servers": [], "model": self.model,
            "permissionMode": self.mode, "slash_commands": [], "apiKeySource": "ANTHROPIC_API_KEY",
            "claude_code_version": VERSION, "output_style": "default", "agents": [], "skills": [],
            "plugins": []
        }))?;
        let mut turn = Turn {
            composer: self.new_message(),
            told: 0,
            stamped: false,
            tool_said: None,
            first: self.transcript.messages().len(),
            rounds: 0,
            result: String::new(),
            usage: Value::Null,
            began: Instant::now(),
        };
        self.begin_message(&mut turn)?;
        Ok(turn)
    }

    /// Keeps a prompt and says that this turn has it.
    fn take_in(&mut self, prompt: &Prompt) -> Result<(), Stop> {
        let message = json!({"role": "user", "content": prompt.content});
        self.transcript.add(message.clone());
        self.transcript.save();
        if self.options.replay {
            self.out.line(json!({"type": "user", "message": message, "uuid": prompt.uuid,
                "parent_tool_use_id": null, "isReplay": true}))?;
        }
        self.out.flush()?;
        Ok(())
    }

    fn run(&mut self, turn: &mut Turn, all: &[Directive<'_>], text: &str) -> Result<(), Stop> {
        for directive in all {
            self.attend()?;
            self.act(turn, directive)?;
        }
        if turn.composer.is_empty() {
            let words = match (&turn.tool_said, all) {
                (Some(said), _) => format!("tool said: {}", said.trim_end()),
                (None, []) => format!("You said: {text}"),
                (None, _) => "done".to_owned(),
            };
            self.send(turn, &Content::Say(words))?;
        }
        self.end_message(turn, "end_turn")
    }

    /// Writes text, delta by delta.
    pub(crate) fn send(&mut self, turn: &mut Turn, content: &Content) -> Result<(), Stop> {
        turn.composer.paragraph();
        for piece in content.pieces() {
            if content.delay().is_zero() {
                self.attend()?;
            } else {
                self.attend_for(content.delay())?;
            }
            match content {
                Content::Think(_) => turn.composer.think(&piece),
                _ if turn.stamped => turn.composer.text(&stamped(&piece)),
                _ => turn.composer.text(&piece),
            }
            self.pump(turn)?;
            if turn.stamped {
                self.out.flush()?;
            }
        }
        Ok(())
    }

    /// Writes out what the composer made.
    pub(crate) fn pump(&mut self, turn: &mut Turn) -> Result<(), Stop> {
        for event in turn.composer.take() {
            if event.name == "content_block_stop" {
                self.tell_block(turn)?;
            }
            if self.options.partials && event.name != "ping" {
                self.out.event(&event)?;
            }
        }
        Ok(())
    }

    fn tell_block(&mut self, turn: &mut Turn) -> Result<(), Stop> {
        let block = turn.composer.content()[turn.told].clone();
        turn.told += 1;
        if let Some(text) = block["text"].as_str() {
            text.clone_into(&mut turn.result);
        }
        self.transcript.add(json!({"role": "assistant", "content": [block]}));
        let message = json!({
            "id": turn.composer.id(), "type": "message", "role": "assistant", "model": self.model,
            "content": [block], "stop_reason": null, "stop_sequence": null,
            "usage": turn.composer.usage()
        });
        Ok(self.out.assistant(&message)?)
    }

    /// Begins the next message of a turn.
    pub(crate) fn begin_message(&mut self, turn: &mut Turn) -> Result<(), Stop> {
        turn.rounds += 1;
        turn.told = 0;
        turn.composer = self.new_message();
        self.out.line(json!({"type": "system", "subtype": "status", "status": "requesting"}))?;
        turn.composer.start();
        self.pump(turn)
    }

    /// Ends the message that is being written.
    pub(crate) fn end_message(&mut self, turn: &mut Turn, reason: &str) -> Result<(), Stop> {
        turn.composer.finish(reason);
        turn.usage = turn.composer.usage();
        self.pump(turn)
    }

    fn new_message(&self) -> Composer {
        let cache_read = 20_000 + 100 * self.transcript.messages().len() as u64;
        Composer::new(&self.model, Usage { input: 12, cache_read, ..Usage::default() })
    }

    fn close_turn(&mut self, mut turn: Turn, course: Result<(), Stop>) -> Result<(), Stop> {
        let result = match course {
            Ok(()) => self.success(&turn),
            Err(Stop::Interrupted(reason)) => self.interrupted(&mut turn, reason)?,
            Err(other) => {
                self.out.flush()?;
                return Err(other);
            }
        };
        self.transcript.save();
        self.last_failed = result["is_error"] == true;
        self.out.line(result)?;
        Ok(self.out.flush()?)
    }

    fn success(&mut self, turn: &Turn) -> Value {
        self.cost += 0.0001;
        let duration = u64::try_from(turn.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        json!({
            "type": "result", "subtype": "success", "is_error": false, "api_error_status": null,
            "duration_ms": duration, "duration_api_ms": duration, "num_turns": turn.rounds,
            "result": turn.result, "stop_reason": "end_turn", "total_cost_usd": self.cost,
            "usage": turn.usage, "modelUsage": {}, "permission_denials": [],
            "terminal_reason": "completed"
        })
    }

    /// What is there of the answer, the mark in the history, and the result of a stopped turn.
    fn interrupted(&mut self, turn: &mut Turn, reason: &str) -> Result<Value, Stop> {
        turn.composer.close();
        let partial = turn.composer.content().len() > turn.told;
        if partial {
            self.tell_block(turn)?;
        }
        let content = json!([{"type": "text", "text": "[Request interrupted by user]"}]);
        let message = json!({"role": "user", "content": content});
        self.transcript.add(message.clone());
        self.out.line(json!({"type": "user", "message": message, "parent_tool_use_id": null}))?;
        let mut result = failed_result("[ede_diagnostic] result_type=user");
        result["num_turns"] = turn.rounds.into();
        result["terminal_reason"] = reason.into();
        Ok(result)
    }

    /// Asks for a tool and ends the message with that. Returns the call's id.
    pub(crate) fn call(&mut self, turn: &mut Turn, tool: &str, input: &str) -> Result<Value, Stop> {
        let id = turn.composer.tool(tool, input);
        self.pump(turn)?;
        self.end_message(turn, "tool_use")?;
        Ok(id.into())
    }

    /// Hands the tool's result in and begins the next message.
    pub(crate) fn hand_in(&mut self, turn: &mut Turn, answer: ToolAnswer) -> Result<(), Stop> {
        let block = json!({"type": "tool_result", "tool_use_id": answer.id,
            "content": answer.text, "is_error": answer.failed});
        let message = json!({"role": "user", "content": [block]});
        self.transcript.add(message.clone());
        self.out.line(json!({"type": "user", "message": message, "parent_tool_use_id": null,
            "tool_use_result": answer.details}))?;
        turn.tool_said = Some(answer.text);
        self.begin_message(turn)
    }

    /// A control request to the host. Returns its id.
    pub(crate) fn request(&mut self, request: &Value) -> Result<Value, Stop> {
        let id = Value::from(id::uuid());
        self.out.bare(&json!({"type": "control_request", "request_id": id, "request": request}))?;
        Ok(id)
    }
}

/// What a tool call came to.
pub(crate) struct ToolAnswer {
    pub(crate) id: Value,
    pub(crate) text: String,
    pub(crate) failed: bool,
    /// The line's `tool_use_result`.
    pub(crate) details: Value,
}

/// The time, then as much of the text as keeps its length.
pub(crate) fn stamped(piece: &str) -> String {
    let stamp = format!("{} ", monotonic_ns());
    let rest = piece.get(stamp.len()..).unwrap_or_default();
    format!("{stamp}{rest}")
}
