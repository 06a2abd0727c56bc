//! The directives.

use std::io::{self, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use ash_modelapi::content::Content;
use ash_modelapi::directive::Directive;
use ash_modelapi::{history, id};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

use crate::input::Input;
use crate::model;
use crate::stub::{News, Stop, Stub};
use crate::turn::{ToolAnswer, Turn, stamped};

/// How often the model API is asked that does not answer, and the pause in between.
const TRIES: u32 = 300;
const PAUSE: Duration = Duration::from_millis(100);

impl Stub {
    /// Does what one directive says.
    pub(crate) fn act(&mut self, turn: &mut Turn, directive: &Directive<'_>) -> Result<(), Stop> {
        if let Some(content) = Content::read(directive) {
            return self.send(turn, &content);
        }
        match directive.name {
            "env" => self.say(turn, environment()),
            "history" => self.tell_history(turn),
            "stamp" => {
                turn.stamped = true;
                Ok(())
            }
            "selfturn" => {
                self.own_turns.push_back(("stub".to_owned(), directive.args.to_owned()));
                Ok(())
            }
            "stderr" => Ok(writeln!(io::stderr(), "{}", directive.args)?),
            "exec" => self.execute(turn, directive.args),
            "background" => self.begin_task(turn, directive.args),
            "ask" => self.ask(turn, directive),
            "model" => self.ask_model(turn),
            "events" => match two_numbers(directive) {
                Some((count, bytes)) => self.events(turn, count, bytes),
                None => self.send(turn, &Content::complaint(directive)),
            },
            _ => self.misbehave(turn, directive),
        }
    }

    fn misbehave(&mut self, turn: &mut Turn, directive: &Directive<'_>) -> Result<(), Stop> {
        let number = directive.args.parse::<usize>();
        match (directive.name, number) {
            ("exit", Ok(code)) => Err(Stop::Exit(u8::try_from(code).unwrap_or(1))),
            ("crash", _) => {
                self.out.flush()?;
                std::process::abort()
            }
            ("garbage", _) => self.spill(b"this is no JSON {\n"),
            ("binary", _) => self.spill(b"{\"type\":\"assistant\",\"x\":\"\xff\xfe\xc3\x28\"}\n"),
            ("huge", Ok(bytes)) => self.huge(bytes),
            ("noline", Ok(bytes)) => {
                self.spill(&b"x".repeat(bytes))?;
                loop {
                    thread::park();
                }
            }
            ("hang", _) => self.hang(),
            _ => self.send(turn, &Content::complaint(directive)),
        }
    }

    fn say(&mut self, turn: &mut Turn, text: String) -> Result<(), Stop> {
        self.send(turn, &Content::Say(text))
    }

    fn tell_history(&mut self, turn: &mut Turn) -> Result<(), Stop> {
        let text = history(&self.transcript.messages()[..turn.first]);
        self.say(turn, text)
    }

    fn spill(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        self.out.raw(bytes)?;
        Ok(self.out.flush()?)
    }

    /// One valid line of that many bytes, its line break not counted.
    fn huge(&mut self, bytes: usize) -> Result<(), Stop> {
        let (head, tail) = (r#"{"type":"system","subtype":"huge","filler":""#, r#""}"#);
        let filler = "x".repeat(bytes.saturating_sub(head.len() + tail.len()));
        self.spill(format!("{head}{filler}{tail}\n").as_bytes())
    }

    /// Does nothing until it is interrupted, or until nobody can do that any more.
    fn hang(&mut self) -> Result<(), Stop> {
        while !matches!(self.news()?, News::Closed) {}
        Err(Stop::Exit(1))
    }

    /// Complete messages as fast as they can be written, each a line of about `bytes` bytes.
    ///
    /// They are not kept in the transcript: this measures those who read the lines.
    fn events(&mut self, turn: &mut Turn, count: usize, bytes: usize) -> Result<(), Stop> {
        let line = json!({
            "message": {
                "content": [{"text": "@text", "type": "text"}], "id": "@id",
                "model": self.model, "role": "assistant", "type": "message"
            },
            "parent_tool_use_id": null, "session_id": self.transcript.session,
            "type": "assistant", "uuid": "@uuid"
        })
        .to_string();
        let mut parts = Template::new(&line);
        let filler = "x".repeat(bytes.saturating_sub(parts.bytes()).max(1));
        for number in 0..count {
            self.attend()?;
            let text = if turn.stamped { stamped(&filler) } else { numbered(number, &filler) };
            self.out.raw(parts.fill(&text))?;
            if turn.stamped {
                self.out.flush()?;
            }
        }
        Ok(())
    }

    /// Asks the host for a permission and tells what it said.
    fn ask(&mut self, turn: &mut Turn, directive: &Directive<'_>) -> Result<(), Stop> {
        let (tool, input) = directive.head_and_rest();
        let Ok(parsed) = serde_json::from_str::<Value>(input) else {
            return self.send(turn, &Content::complaint(directive));
        };
        let call = self.call(turn, tool, input)?;
        let request = self.request(&json!({"subtype": "can_use_tool", "tool_name": tool,
            "display_name": tool, "input": parsed, "tool_use_id": call,
            "permission_suggestions": []}))?;
        let response = self.answer_to(&request)?;
        let failed = response["behavior"] != "allow";
        let text = match response["message"].as_str() {
            Some(message) if failed => message.to_owned(),
            _ => response["updatedInput"].to_string(),
        };
        self.hand_in(turn, ToolAnswer { id: call, text, failed, details: Value::Null })?;
        if response["interrupt"] == true {
            return Err(Stop::Interrupted("aborted_tools"));
        }
        self.say(turn, format!("answer: {response}"))
    }

    /// Asks the model API about the conversation so far. Says nothing of it, but when there is no answer.
    fn ask_model(&mut self, turn: &mut Turn) -> Result<(), Stop> {
        for _ in 0..TRIES {
            self.out.flush()?;
            match model::ask(&self.model, self.transcript.messages()) {
                Ok(200) => return Ok(()),
                Ok(status) => return self.say(turn, format!("the model API answers {status}")),
                // The real one tries again as well.
                Err(_) => self.attend_for(PAUSE)?,
            }
        }
        self.say(turn, "the model API does not answer".to_owned())
    }

    fn answer_to(&mut self, request: &Value) -> Result<Value, Stop> {
        loop {
            match self.news() {
                Ok(News::Answer { id, response }) if id == *request => return Ok(response),
                Ok(News::Closed) => return Err(Stop::Exit(1)),
                Ok(_) => {}
                Err(stop) => {
                    self.out
                        .bare(&json!({"type": "control_cancel_request", "request_id": request}))?;
                    return Err(stop);
                }
            }
        }
    }

    /// Runs a shell command as the Bash tool would.
    fn execute(&mut self, turn: &mut Turn, command: &str) -> Result<(), Stop> {
        let call = self.call(turn, "Bash", &json!({"command": command}).to_string())?;
        let output = match shell(command) {
            Ok(child) => {
                let group = Pid::from_child(&child);
                let (inbox, its_call) = (self.inbox.clone(), call.clone());
                // The turn may have been stopped meanwhile; then nobody wants to know.
                thread::spawn(move || {
                    let output = child.wait_with_output();
                    inbox.send(Input::Executed { call: its_call, output })
                });
                self.output_of(&call, group)?
            }
            Err(error) => Err(error),
        };
        let answer = tool_answer(call, output);
        self.hand_in(turn, answer)
    }

    /// Runs a shell command as the Bash tool would in the background: the turn goes on, and behind its end
    /// comes one by itself.
    fn begin_task(&mut self, turn: &mut Turn, command: &str) -> Result<(), Stop> {
        let input = json!({"command": command, "run_in_background": true});
        let call = self.call(turn, "Bash", &input.to_string())?;
        let child = match shell(command) {
            Ok(child) => child,
            Err(error) => return self.hand_in(turn, tool_answer(call, Err(error))),
        };
        let task = id::with_prefix("b");
        self.out.line(json!({"type": "system", "subtype": "task_started", "task_id": task,
            "tool_use_id": call, "description": command, "task_type": "local_bash"}))?;
        let text = format!("Command running in background with ID: {task}");
        let inbox = self.inbox.clone();
        // Nobody wants to know any more when the program has ended by then.
        thread::spawn(move || {
            let output = child.wait_with_output();
            inbox.send(Input::TaskEnded { task, output })
        });
        self.hand_in(turn, ToolAnswer { id: call, text, failed: false, details: Value::Null })
    }

    /// Says that a command in the background has ended, and then in a turn what it has said.
    pub(crate) fn task_ended(
        &mut self,
        task: String,
        output: io::Result<Output>,
    ) -> Result<(), Stop> {
        let answer = tool_answer(Value::Null, output);
        let status = if answer.failed { "failed" } else { "completed" };
        self.out.line(json!({"type": "system", "subtype": "task_updated", "task_id": task,
            "patch": {"status": status}}))?;
        self.own_turns.push_back((task, answer.text.trim_end().to_owned()));
        Ok(())
    }

    /// Commands of turns that were stopped may still end meanwhile.
    fn output_of(&mut self, wanted: &Value, group: Pid) -> Result<io::Result<Output>, Stop> {
        loop {
            match self.news() {
                Ok(News::Executed { call, output }) if call == *wanted => return Ok(output),
                Ok(_) => {}
                Err(stop) => {
                    // It may have ended by itself.
                    let _ = kill_process_group(group, Signal::KILL);
                    return Err(match stop {
                        Stop::Interrupted(_) => Stop::Interrupted("aborted_tools"),
                        other => other,
                    });
                }
            }
        }
    }
}

/// Begins a shell command, in a process group of its own.
fn shell(command: &str) -> io::Result<Child> {
    Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

fn tool_answer(id: Value, output: io::Result<Output>) -> ToolAnswer {
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let text = format!("cannot run sh: {error}");
            return ToolAnswer { id, text, failed: true, details: Value::Null };
        }
    };
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let mut text = format!("{stdout}{stderr}");
    if !output.status.success() {
        let code = output.status.code().or(output.status.signal()).unwrap_or(0);
        text = format!("Exit code {code}\n{text}");
    }
    ToolAnswer {
        id,
        failed: !output.status.success(),
        details: json!({"stdout": stdout, "stderr": stderr, "interrupted": false}),
        text,
    }
}

fn environment() -> String {
    let mut lines: Vec<String> = std::env::vars_os()
        .map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
        .collect();
    lines.sort();
    lines.join("\n")
}

fn two_numbers(directive: &Directive<'_>) -> Option<(usize, usize)> {
    let mut words = directive.words();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// The number, then as much of the filler as keeps its length.
fn numbered(number: usize, filler: &str) -> String {
    let number = format!("{number} ");
    let rest = filler.get(number.len()..).unwrap_or_default();
    format!("{number}{rest}")
}

/// A line with places to fill in, so that nothing is built or escaped per line.
struct Template<'a> {
    /// What stands before, between and behind the places.
    parts: [&'a str; 4],
    line: Vec<u8>,
}

impl<'a> Template<'a> {
    /// Splits a line at its `@text`, `@id` and `@uuid`, which stand in this order.
    fn new(line: &'a str) -> Self {
        let split = |text: &'a str, mark: &str| text.split_once(mark).unwrap_or((text, ""));
        let (one, rest) = split(line, "@text");
        let (two, rest) = split(rest, "@id");
        let (three, four) = split(rest, "@uuid");
        Self { parts: [one, two, three, four], line: Vec::new() }
    }

    /// The size of a line without its text.
    fn bytes(&self) -> usize {
        let ids = id::with_prefix("msg_01").len() + id::uuid().len();
        self.parts.iter().map(|part| part.len()).sum::<usize>() + ids
    }

    /// The line with a text and new ids.
    fn fill(&mut self, text: &str) -> &[u8] {
        self.line.clear();
        let [one, two, three, four] = self.parts;
        let (message, line) = (id::with_prefix("msg_01"), id::uuid());
        for part in [one, text, two, &message, three, &line, four, "\n"] {
            self.line.extend_from_slice(part.as_bytes());
        }
        &self.line
    }
}
