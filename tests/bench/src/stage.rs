//! An `ashd` to measure, and the requests that all figures make.

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use ash_journey::http::Connection;
use ash_journey::{Api, Ash, Client as _, Options, PATIENCE, process, programs};
use ash_modelapi::monotonic_ns;
use serde_json::{Value, json};

use crate::files::Fill;
use crate::stats::Times;

/// The agent that all sessions are of.
pub const AGENT: &str = "bench";

/// How many threads do what is done for many sessions: as many as keep a small machine busy.
const HANDS: usize = 4;

/// No turn waits for others.
pub const ALL_AT_ONCE: &str = "[admission]\nturns = 1000\n";

/// How often a checkpoint is looked for.
const LOOK: Duration = Duration::from_micros(500);

/// An `ashd` whose sessions are answered by the stand-in for the CLI.
pub fn stub() -> Result<Ash> {
    stub_with(Options::stub())
}

/// The same, set up like this.
pub fn stub_with(options: Options) -> Result<Ash> {
    with_agent(options, |_| Ok(()))
}

/// The stand-in for the CLI, where so many sandboxes can live at a time, and some more.
pub fn room_for(sandboxes: usize) -> Options {
    let most = sandboxes + 100;
    let uids = u32::try_from(2 * most + 2).unwrap_or(u32::MAX);
    Options { uids, ..Options::stub() }.env("ASH_MAX_SANDBOXES", most)
}

/// Waits until so many are warm, or more, as there are when they are taken quickly; returns how many
/// sessions have been given one of them until now.
pub fn until_full(api: &Api, count: u64) -> Result<u64> {
    let is_full = || api.pool("warm").is_ok_and(|warm| warm >= count);
    process::until("the pool to be full", is_full)?;
    api.pool("preWarmHits")
}

/// Fails unless so many sessions more have been given a warm sandbox since there were `before`.
pub fn ensure_claimed(api: &Api, before: u64, count: u64) -> Result<()> {
    let hits = api.pool("preWarmHits")?;
    ensure!(
        hits == before + count,
        "of {count} sessions {} were from the pool",
        hits.abs_diff(before)
    );
    Ok(())
}

/// An `ashd` with the real CLI, and this beside its configuration.
pub fn cli(config: &str) -> Result<Ash> {
    with_agent(with_cli()?.config(config), |_| Ok(()))
}

/// An `ashd` with the real CLI, whose sessions find this program in their workspace, as
/// [`crate::alone::PROGRAM`].
pub fn real() -> Result<Ash> {
    with_agent(with_cli()?, |folder| {
        let program = folder.join(crate::alone::PROGRAM);
        std::fs::create_dir_all(program.parent().unwrap_or(folder))?;
        std::fs::copy(std::env::current_exe()?, program)?;
        Ok(())
    })
}

fn with_cli() -> Result<Options> {
    let cli = programs::real_cli();
    let cli = cli.context("there is no Claude Code CLI; CLAUDE_CODE_EXECUTABLE can name one")?;
    Ok(Options::with(cli))
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

/// A new session; how long that took, its connection included, is one more of the times.
pub fn timed_session(api: &Api, times: &mut Times) -> Result<String> {
    let begin = monotonic_ns();
    let session = session(api)?;
    times.add(begin, monotonic_ns());
    Ok(session)
}

/// Does something for each of these, several at a time.
pub fn for_each<T: Sync, R: Send>(
    items: &[T],
    act: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let share = items.len().div_ceil(HANDS).max(1);
    std::thread::scope(|scope| {
        let act = &act;
        let begin = |some| scope.spawn(move || all_of(some, act));
        let threads: Vec<_> = items.chunks(share).map(begin).collect();
        let mut done = vec![];
        for thread in threads {
            done.extend(thread.join().map_err(|_| anyhow!("a thread is gone"))??);
        }
        Ok(done)
    })
}

fn all_of<T, R>(some: &[T], act: impl Fn(&T) -> Result<R>) -> Result<Vec<R>> {
    some.iter().map(act).collect()
}

/// A new session that has had a turn and is saved.
pub fn used_session(ash: &Ash) -> Result<String> {
    let session = session(&ash.api())?;
    turn(&ash.api(), &session)?;
    Ok(session)
}

/// One that has had its turn with this in its workspace.
pub fn filled_session(ash: &Ash, fill: Fill) -> Result<String> {
    let session = session(&ash.api())?;
    fill.put(&workspace(ash, &session)?)?;
    turn(&ash.api(), &session)?;
    Ok(session)
}

/// A turn, and the checkpoint behind it.
fn turn(api: &Api, session: &str) -> Result<()> {
    let done = send(api, session, "a turn", false)?.done()?;
    saved(api, session, done.sequence).map(drop)
}

/// The workspace of a session, also where `ashd` has a disk of its own.
pub fn workspace(ash: &Ash, session: &str) -> Result<PathBuf> {
    Ok(state(ash)?.join("sessions").join(session).join("workspace"))
}

/// The state directory, as `ashd` sees it.
pub fn state(ash: &Ash) -> Result<PathBuf> {
    let root = PathBuf::from(format!("/proc/{}/root", ash.pid()?));
    Ok(root.join(ash.data_dir().strip_prefix("/")?))
}

/// Waits until a session has a checkpoint at or behind an event.
pub fn saved(api: &Api, session: &str, sequence: u64) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let path = format!("/api/sessions/{session}/checkpoints");
        let mut listed = api.call("GET", &path, None)?.expect(200)?;
        let newest = listed["checkpoints"].get_mut(0).map(Value::take).unwrap_or_default();
        if newest["sequence"].as_u64() >= Some(sequence) {
            return Ok(newest);
        }
        ensure!(Instant::now() < deadline, "no checkpoint behind event {sequence}: {newest}");
        std::thread::sleep(LOOK);
    }
}

/// Calls a verb of a session, with an empty body.
pub fn verb(api: &Api, session: &str, verb: &str) -> Result<Value> {
    let path = format!("/api/sessions/{session}/{verb}");
    let answer = api.call("POST", &path, Some(&json!({})))?;
    ensure!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.text());
    Ok(answer.json())
}

/// Pauses or stops a session that is saved, and waits until it is saved as it is then.
pub fn set_aside(api: &Api, session: &str, how: &str) -> Result<()> {
    let before = saved(api, session, 0)?["sequence"].as_u64().unwrap_or_default();
    verb(api, session, how)?;
    saved(api, session, before + 1).map(drop)
}

/// The end of an answer.
pub struct Done {
    /// When it was there, in ns of CLOCK_MONOTONIC.
    pub at: u64,
    /// The number of the last event before.
    pub sequence: u64,
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

    /// Reads the answer to its end, and says when that was.
    pub fn done(self) -> Result<Done> {
        let mut done = Done { at: 0, sequence: 0 };
        self.each_line(|now, line| {
            done.at = now;
            if let Some((sequence, _)) = line.strip_prefix("id: ").and_then(|id| id.split_once('.'))
            {
                done.sequence = sequence.parse()?;
            }
            Ok(())
        })?;
        Ok(done)
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
