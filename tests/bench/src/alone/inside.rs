//! Within the sandbox.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use ash_modelapi::monotonic_ns;
use ashd::session::cli::{self, HOME_CONFIG};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Answer, Cli, Order};

/// Does what it is told by whoever connects to the socket first, until they hang up.
///
/// # Errors
/// When the socket cannot be made or breaks.
pub fn serve(socket: &Path) -> Result<()> {
    let (stream, _) = UnixListener::bind(socket)?.accept()?;
    let mut answers = stream.try_clone()?;
    let mut running = None;
    for order in BufReader::new(stream).lines() {
        let began = obey(serde_json::from_str(&order?)?, &mut running);
        let answer = match began {
            Ok(began) => Answer::Began(began),
            Err(error) => Answer::Failed(format!("{error:#}")),
        };
        writeln!(answers, "{}", serde_json::to_string(&answer)?)?;
    }
    Ok(())
}

fn obey(order: Order, running: &mut Option<Running>) -> Result<u64> {
    match order {
        Order::Start { cli, prompt } => {
            running.take();
            let (started, began) = Running::start(&cli, prompt.as_deref())?;
            *running = Some(started);
            Ok(began)
        }
        Order::Prime => running.as_mut().context("no CLI runs")?.prime(),
        Order::Turn(text) => running.as_mut().context("no CLI runs")?.turn(&text),
    }
}

/// A CLI, and our ends of its streams.
struct Running {
    child: Child,
    stdin: UnixStream,
    stdout: BufReader<UnixStream>,
}

impl Running {
    fn start(cli: &Cli, prompt: Option<&str>) -> Result<(Running, u64)> {
        if !cli.home.exists() {
            fs::create_dir(&cli.home).with_context(|| cli.home.display().to_string())?;
            fs::write(cli.home.join(HOME_CONFIG.0), HOME_CONFIG.1)?;
        }
        let (stdin, its_stdin) = UnixStream::pair()?;
        let (stdout, its_stdout) = UnixStream::pair()?;
        let mut command = Command::new(&cli.program);
        command.args(&cli.args).env_clear().envs(cli.env.iter().cloned()).env("HOME", &cli.home);
        command.stdin(OwnedFd::from(its_stdin)).stdout(OwnedFd::from(its_stdout));
        command.stderr(Stdio::null());
        let began = monotonic_ns();
        let child = command.spawn().with_context(|| cli.program.clone())?;
        // With it go our copies of its ends: when it dies, reading ends.
        drop(command);
        let mut running = Running { child, stdin, stdout: BufReader::new(stdout) };
        running.control(1, json!({ "subtype": "initialize" }))?;
        match prompt {
            Some(text) => drop(running.turn(text)?),
            None => running.read_to("control_response")?,
        }
        Ok((running, began))
    }

    /// Asks it the question of the pool, as often as the pool does; returns when that began.
    fn prime(&mut self) -> Result<u64> {
        let began = monotonic_ns();
        for number in 0..cli::PRIMERS {
            self.control(2 + number, serde_json::from_str(cli::QUESTION)?)?;
            self.read_to("control_response")?;
        }
        Ok(began)
    }

    fn control(&mut self, number: usize, request: Value) -> Result<()> {
        let id = format!("ash-{number}");
        self.say(&json!({ "type": "control_request", "request_id": id, "request": request }))
    }

    /// Says a prompt, returns when that was, after the answer's end.
    fn turn(&mut self, text: &str) -> Result<u64> {
        let message = json!({ "role": "user", "content": text });
        let line = json!({
            "type": "user",
            "message": message,
            "parent_tool_use_id": null,
            "session_id": "",
            "uuid": Uuid::new_v4(),
        });
        let began = monotonic_ns();
        self.say(&line)?;
        self.read_to("result")?;
        Ok(began)
    }

    fn say(&mut self, line: &Value) -> Result<()> {
        Ok(self.stdin.write_all(format!("{line}\n").as_bytes())?)
    }

    /// Reads to the first line of this type.
    fn read_to(&mut self, kind: &str) -> Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.stdout.read_line(&mut line)? == 0 {
                bail!("the CLI ended before it sent a {kind}");
            }
            if serde_json::from_str::<Value>(&line)?["type"] == kind {
                return Ok(());
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
