//! On the host.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, bail};
use ash_journey::{Ash, Client as _, Exec, process};
use uuid::Uuid;

use super::{Answer, Cli, Order, PROGRAM};

/// A program inside a session's sandbox that drives a second CLI there.
pub struct Alone {
    cli: Cli,
    orders: UnixStream,
    answers: BufReader<UnixStream>,
    /// The command that it is to `ashd`.
    exec: JoinHandle<Result<Exec>>,
    homes: u32,
    /// The newest CLI's conversation.
    conversation: Uuid,
}

impl Alone {
    /// Goes into the sandbox of a session, which must be the only one and have its CLI.
    ///
    /// # Errors
    /// When that does not work.
    pub fn enter(ash: &Ash, session: &str) -> Result<Alone> {
        let cli = session_cli(ash)?;
        let (api, id) = (ash.api(), session.to_owned());
        let command = format!("exec /workspace/{PROGRAM} --drive /workspace/.bench/socket");
        let exec = std::thread::spawn(move || api.exec(&id, &command));
        let socket = ash.data_dir().join("sessions").join(session);
        let socket = socket.join("workspace/.bench/socket");
        let mut orders = None;
        process::until("the program in the sandbox", || {
            orders = UnixStream::connect(&socket).ok();
            orders.is_some() || exec.is_finished()
        })?;
        let Some(orders) = orders else { bail!("it ended: {:?}", ended(exec)?) };
        let answers = BufReader::new(orders.try_clone()?);
        Ok(Alone { cli, orders, answers, exec, homes: 0, conversation: Uuid::nil() })
    }

    /// Starts a CLI with a home like that of a new session, and initialises it. With a prompt,
    /// says that at once and waits for the answer. Returns when the CLI was started: ns of
    /// CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// When it does not work inside.
    pub fn start(&mut self, prompt: Option<&str>) -> Result<u64> {
        self.homes += 1;
        self.conversation = Uuid::new_v4();
        let argument = format!("--session-id={}", self.conversation);
        self.start_with(argument, prompt)
    }

    /// Ends the CLI, starts one that goes on with its conversation, and says a prompt at once.
    /// Returns when it was started, after the answer's end.
    ///
    /// # Errors
    /// When it does not work inside.
    pub fn resume(&mut self, prompt: &str) -> Result<u64> {
        self.start_with(format!("--resume={}", self.conversation), Some(prompt))
    }

    fn start_with(&mut self, argument: String, prompt: Option<&str>) -> Result<u64> {
        let mut cli = self.cli.clone();
        cli.home = PathBuf::from(format!("/home/agent/alone-{}", self.homes));
        cli.args.push(argument);
        self.ask(&Order::Start { cli, prompt: prompt.map(str::to_owned) })
    }

    /// Has it load what it would load for its first prompt, as `ashd` has the CLIs of its pool.
    ///
    /// # Errors
    /// When it does not work inside.
    pub fn prime(&mut self) -> Result<()> {
        self.ask(&Order::Prime).map(drop)
    }

    /// Says a prompt and waits for the answer. Returns when it was said.
    ///
    /// # Errors
    /// When it does not work inside.
    pub fn turn(&mut self, text: &str) -> Result<u64> {
        self.ask(&Order::Turn(text.to_owned()))
    }

    /// Ends the CLI and the program inside.
    ///
    /// # Errors
    /// When it ends with an error.
    pub fn leave(self) -> Result<()> {
        let Alone { orders, answers, exec, .. } = self;
        drop((orders, answers));
        match ended(exec)? {
            Exec { code: 0, .. } => Ok(()),
            other => bail!("the program in the sandbox failed: {other:?}"),
        }
    }

    fn ask(&mut self, order: &Order) -> Result<u64> {
        writeln!(self.orders, "{}", serde_json::to_string(order)?)?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        match serde_json::from_str(&answer).context("the program in the sandbox is gone")? {
            Answer::Began(at) => Ok(at),
            Answer::Failed(error) => bail!("in the sandbox: {error}"),
        }
    }
}

fn ended(exec: JoinHandle<Result<Exec>>) -> Result<Exec> {
    exec.join().map_err(|_| anyhow::anyhow!("the thread that waits for the command is gone"))?
}

/// How the only session's CLI was started: its arguments without the conversation, its
/// environment.
fn session_cli(ash: &Ash) -> Result<Cli> {
    let is_cli = |pid: &u32| process::command_line(*pid).contains("--replay-user-messages");
    let mut found = None;
    process::until("the session's CLI", || {
        found = process::of_uids(&ash.places().uids).into_iter().find(is_cli);
        found.is_some()
    })?;
    let pid = found.context("just found")?;
    let mut words = strings(pid, "cmdline")?.into_iter();
    let program = words.next().context("the CLI has no name")?;
    let args = words.filter(|word| !word.starts_with("--session-id=")).collect();
    let pairs = strings(pid, "environ")?;
    let pairs = pairs.iter().filter_map(|pair| pair.split_once('='));
    let env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Ok(Cli { program, args, env, home: PathBuf::new() })
}

/// The words of a file in `/proc/<pid>` that are separated by NUL.
fn strings(pid: u32, file: &str) -> Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}"))?;
    Ok(text.split_terminator('\0').map(str::to_owned).collect())
}
