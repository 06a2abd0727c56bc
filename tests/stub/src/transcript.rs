//! The file that a session is resumed from, where the real CLI keeps it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use ash_modelapi::id;
use serde_json::{Value, json};

use crate::options::{Options, VERSION};
use crate::output::Output;
use crate::stub::Stop;

/// The messages of a session, in memory and on disk.
pub(crate) struct Transcript {
    pub(crate) session: String,
    messages: Vec<Value>,
    path: PathBuf,
    /// Lines that were not written yet.
    pending: Vec<u8>,
}

/// Why a session does not start.
pub(crate) enum Refusal {
    /// `--resume` of a session that is not there.
    Unknown(String),
    /// `--session-id` of one that is.
    Taken(String),
}

impl Refusal {
    /// Says it as the real CLI does.
    pub(crate) fn tell(self) -> Stop {
        match self {
            Self::Taken(id) => Stop::Fatal(format!("Error: Session ID {id} is already in use.")),
            Self::Unknown(id) => {
                let sentence = format!("No conversation found with session ID: {id}");
                let mut out = Output::new(&id);
                let told = out.line(failed_result(&sentence)).and_then(|()| out.flush());
                told.map_or_else(Stop::Output, |()| Stop::Fatal(sentence))
            }
        }
    }
}

impl Transcript {
    /// The transcript that the options ask for.
    pub(crate) fn open(options: &Options) -> Result<Self, Refusal> {
        let folder = folder();
        let Some(old) = &options.resume else { return Self::begin(&folder, options) };
        let Ok(text) = fs::read(path_of(&folder, old)) else {
            return Err(Refusal::Unknown(old.clone()));
        };
        let mut transcript = Self::empty(&folder, old);
        transcript.messages = messages_of(&text);
        if options.fork {
            let new = options.session.clone().unwrap_or_else(id::uuid);
            let messages = transcript.messages;
            transcript = Self::empty(&folder, &new);
            messages.into_iter().for_each(|message| transcript.add(message));
        }
        Ok(transcript)
    }

    fn begin(folder: &Path, options: &Options) -> Result<Self, Refusal> {
        let session = options.session.clone().unwrap_or_else(id::uuid);
        if path_of(folder, &session).exists() {
            return Err(Refusal::Taken(session));
        }
        Ok(Self::empty(folder, &session))
    }

    fn empty(folder: &Path, session: &str) -> Self {
        Self {
            session: session.to_owned(),
            messages: Vec::new(),
            path: path_of(folder, session),
            pending: Vec::new(),
        }
    }

    /// The messages so far.
    pub(crate) fn messages(&self) -> &[Value] {
        &self.messages
    }

    /// Adds a message, to be written with the next [`Transcript::save`].
    pub(crate) fn add(&mut self, message: Value) {
        let line = json!({
            "type": message["role"], "message": message, "uuid": id::uuid(),
            "sessionId": self.session, "version": VERSION, "isSidechain": false
        });
        self.pending.extend_from_slice(line.to_string().as_bytes());
        self.pending.push(b'\n');
        self.messages.push(message);
    }

    /// Appends what was added to the file. A home that cannot be written is no error: the real
    /// CLI goes on without a transcript, too.
    pub(crate) fn save(&mut self) {
        if append(&self.path, &self.pending).is_ok() {
            self.pending.clear();
        }
    }
}

/// The result line of a session or turn that failed outside the model.
pub(crate) fn failed_result(sentence: &str) -> Value {
    json!({
        "type": "result", "subtype": "error_during_execution", "is_error": true,
        "duration_ms": 0, "duration_api_ms": 0, "num_turns": 0, "stop_reason": null,
        "total_cost_usd": 0, "usage": {"input_tokens": 0, "output_tokens": 0},
        "modelUsage": {}, "permission_denials": [], "errors": [sentence]
    })
}

fn append(path: &Path, lines: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    File::options().create(true).append(true).open(path)?.write_all(lines)
}

/// Reads the messages; a torn last line is not one.
fn messages_of(text: &[u8]) -> Vec<Value> {
    let lines = text.split(|byte| *byte == b'\n');
    let values = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    values.map(|line| line["message"].clone()).filter(Value::is_object).collect()
}

fn path_of(folder: &Path, session: &str) -> PathBuf {
    folder.join(format!("{session}.jsonl"))
}

/// `~/.claude/projects/<working directory>`, in the CLI's spelling.
fn folder() -> PathBuf {
    let from_home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".claude");
    let config = std::env::var_os("CLAUDE_CONFIG_DIR").map_or_else(from_home, PathBuf::from);
    let here = std::env::current_dir().unwrap_or_default();
    config.join("projects").join(spelled(&here.to_string_lossy()))
}

fn spelled(path: &str) -> String {
    path.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_spelled_as_the_real_one_does() {
        assert_eq!(spelled("/workspace"), "-workspace");
        assert_eq!(spelled("/x/Ünï_x.y z"), "-x--n--x-y-z");
    }

    #[test]
    fn torn_lines_are_skipped() {
        let text = b"{\"message\":{\"role\":\"user\"}}\n{\"queue\":1}\n{\"message\":{\"ro";
        assert_eq!(messages_of(text), [json!({"role": "user"})]);
    }
}
