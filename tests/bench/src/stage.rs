//! An `ashd` to measure, and the requests that all figures make.

use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ash_journey::http::Connection;
use ash_journey::{Api, Ash, Client as _, Options, programs};
use ash_modelapi::monotonic_ns;
use serde_json::{Value, json};

/// The agent that all sessions are of.
pub const AGENT: &str = "bench";

/// An `ashd` whose sessions are answered by the stand-in for the CLI.
pub fn stub() -> Result<Ash> {
    with_agent(Options::stub(), |_| Ok(()))
}

/// An `ashd` with the real CLI, whose sessions find this program in their workspace, as
/// [`crate::alone::PROGRAM`].
pub fn real() -> Result<Ash> {
    let cli = programs::real_cli();
    let cli = cli.context("there is no Claude Code CLI; CLAUDE_CODE_EXECUTABLE can name one")?;
    with_agent(Options::with(cli), |folder| {
        let program = folder.join(crate::alone::PROGRAM);
        std::fs::create_dir_all(program.parent().unwrap_or(folder))?;
        std::fs::copy(std::env::current_exe()?, program)?;
        Ok(())
    })
}

fn with_agent(options: Options, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Ash> {
    let ash = Ash::start(options)?;
    let folder = ash.folder(AGENT, "Be brief.")?;
    fill(&folder)?;
    ash.api().deploy(AGENT, &folder)?;
    Ok(ash)
}

/// A new session.
pub fn session(api: &Api) -> Result<String> {
    api.create(AGENT, json!({}))
}

/// A message on its way.
pub struct Sent {
    /// CLOCK_MONOTONIC in ns, before the connection was opened.
    pub at: u64,
    connection: Connection,
}

/// Sends a message.
pub fn send(api: &Api, session: &str, text: &str, partial: bool) -> Result<Sent> {
    let message = json!({ "content": text, "includePartialMessages": partial });
    let at = monotonic_ns();
    Ok(Sent { at, connection: api.post_message(session, &message)? })
}

impl Sent {
    /// Gives every line of the answer to `see`, up to `done`, with the time at which it was there.
    pub fn each_line(self, mut see: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
        let (status, _, body) = self.connection.body()?;
        ensure!(status == 200, "{status} instead of a stream");
        let mut reader = BufReader::with_capacity(256 * 1024, body);
        let (mut line, mut begun) = (String::new(), false);
        loop {
            line.clear();
            ensure!(reader.read_line(&mut line)? > 0, "the stream ended without done");
            see(monotonic_ns(), line.trim_end())?;
            ensure!(line != "event: error\n", "the turn failed: {}", rest(&mut reader));
            begun |= line == "event: done\n";
            if begun && line == "\n" {
                return Ok(());
            }
        }
    }

    /// Reads the answer to its end.
    pub fn finish(self) -> Result<()> {
        self.each_line(|_, _| Ok(()))
    }
}

fn rest(reader: &mut impl Read) -> String {
    let mut text = String::new();
    // What there is of it.
    let _ = reader.take(500).read_to_string(&mut text);
    text
}

/// When the model API was asked with a prompt that contains this word, in ns of CLOCK_MONOTONIC.
/// It must have been.
pub fn asked_at(ash: &Ash, word: &str) -> Result<u64> {
    let asks = |request: &ash_modelapi::Request| {
        request.is_message() && last_message(&request.body).contains(word)
    };
    let found = ash.model().requests().into_iter().find(|request| asks(request));
    Ok(found.with_context(|| format!("the model API was not asked with {word}"))?.at_ns)
}

fn last_message(body: &Value) -> String {
    let messages = body["messages"].as_array().and_then(|messages| messages.last());
    messages.map(Value::to_string).unwrap_or_default()
}
