//! The person at the terminal, whom polkit may ask for a password when a call needs the right to
//! manage. As systemctl does, polkit's own program for terminals asks, while the call runs.

use std::io::{self, IsTerminal, stdin, stdout};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, getpid, kill_process};
use rustix::termios::{OptionalActions, Termios, tcgetattr};
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use zbus::Proxy;
use zbus::proxy::MethodFlags;
use zbus::zvariant::{DynamicDeserialize, DynamicType};

use crate::ending::{Ending, give_back};
use crate::failure::Failure;

/// polkit's program for terminals.
const AGENT: &str = "pkttyagent";

/// How long it may take to get ready, and to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether somebody can be asked, and how.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    is_there: bool,
    /// Address of the bus that polkit is on, if it is not the system's.
    bus: Option<String>,
}

impl Person {
    /// Whoever is at the terminal; nobody without one, when nobody is to be asked, and for root, who
    /// has every right.
    pub(crate) fn at_terminal(bus: Option<&str>, may_ask: bool) -> Self {
        let is_terminal = stdin().is_terminal() && stdout().is_terminal();
        let is_there = may_ask && is_terminal && !geteuid().is_root();
        Person { is_there, bus: bus.map(str::to_owned) }
    }

    /// Calls a method that needs the right to manage.
    pub(crate) async fn call<B, R>(
        &self,
        object: &Proxy<'static>,
        method: &'static str,
        body: &B,
    ) -> Result<R, Failure>
    where
        B: Serialize + DynamicType,
        R: for<'d> DynamicDeserialize<'d>,
    {
        if !self.is_there {
            // Without a flag that lets polkit ask, what runs unattended is refused at once.
            return object.call(method, body).await.map_err(refused);
        }
        let agent = Agent::start(self.bus.as_deref()).await;
        let flags = MethodFlags::AllowInteractiveAuth.into();
        // The agent has to end before us.
        let call = object.call_with_flags(method, flags, body);
        let answer = match Ending::told_or_interrupted() {
            Ok(mut ending) => ending.unless(call).await,
            Err(failure) => Err(failure),
        };
        if let Some(agent) = agent {
            agent.end().await;
        }
        answer?.map_err(refused)?.ok_or_else(|| Failure::Failed(format!("{method} has no answer")))
    }
}

fn refused(error: zbus::Error) -> Failure {
    ash_dbus::Error::from(error).into()
}

/// The program that asks.
struct Agent {
    program: Child,
    /// The terminal's settings from before: it shows nothing while a password is typed, and is left so
    /// when the program is ended then.
    terminal: Option<Termios>,
}

impl Agent {
    /// Starts it; it can ask when this returns. Without it, another agent may be there.
    async fn start(bus: Option<&str>) -> Option<Self> {
        let mut command = Command::new(AGENT);
        let process = getpid().as_raw_nonzero().to_string();
        command.args(["--process", &process, "--fallback", "--notify-fd", "1"]);
        command.envs(bus.map(|address| ("DBUS_SYSTEM_BUS_ADDRESS", address)));
        let terminal = tcgetattr(stdin()).ok();
        let mut program = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().ok()?;
        // It closes its standard output when it can ask; to ask, it opens the terminal.
        let mut ready = program.stdout.take()?;
        let _ = timeout(PATIENCE, ready.read(&mut [0])).await;
        Some(Agent { program, terminal })
    }

    /// Ends it, and gives the terminal back as it was.
    async fn end(mut self) {
        if let Err(error) = self.stop().await {
            crate::out::note(&format!("ashctl: {AGENT} does not end: {error}"));
        }
        if let Some(terminal) = &self.terminal {
            give_back(terminal, OptionalActions::Now);
        }
    }

    async fn stop(&mut self) -> io::Result<()> {
        let pid = self.program.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        match timeout(PATIENCE, self.program.wait()).await {
            Ok(ended) => ended.map(drop),
            Err(_) => self.program.kill().await,
        }
    }
}
