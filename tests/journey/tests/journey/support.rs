//! What the tests share.

use std::process::Command;

use anyhow::{Result, bail, ensure};
pub(crate) use ash_journey::is_long;
use ash_journey::sse::Frame;
use ash_journey::{Api, Ash, Client, Engine, Options};
use ash_modelapi::Server;
use serde_json::json;

/// Runs a test with the stand-in for the CLI and with the real one.
macro_rules! both_engines {
    ($name:ident) => {
        mod $name {
            use ash_journey::Options;

            #[test]
            fn stub() -> anyhow::Result<()> {
                super::$name(Options::stub())
            }

            #[test]
            fn real() -> anyhow::Result<()> {
                let options = Options::real(concat!(stringify!($name), "::real"));
                options.map_or(Ok(()), super::$name)
            }
        }
    };
}
pub(crate) use both_engines;

/// A daemon with the agent `hello`.
pub(crate) fn with_hello(options: Options) -> Result<Ash> {
    let ash = Ash::start(options)?;
    ash.api().deploy("hello", &ash.folder("hello", "Answer briefly.")?)?;
    Ok(ash)
}

/// A daemon with one agent and one session.
pub(crate) struct Talk {
    pub(crate) ash: Ash,
    pub(crate) api: Api,
    pub(crate) session: String,
    real: bool,
}

impl Talk {
    pub(crate) fn begin(options: Options) -> Result<Talk> {
        let real = options.engine != Engine::Stub;
        let ash = with_hello(options)?;
        let api = ash.api();
        let session = api.create("hello", json!({}))?;
        Ok(Talk { ash, api, session, real })
    }

    /// Goes on with a session of another agent, whose folder is beneath the agent roots.
    pub(crate) fn meet(&mut self, agent: &str) -> Result<()> {
        self.api.deploy(agent, &self.ash.agents_dir().join(agent))?;
        self.session = self.api.create(agent, json!({}))?;
        Ok(())
    }

    /// A directive that runs a shell command as the CLI's tool.
    pub(crate) fn bash(&self, command: &str) -> String {
        bash(self.real, command)
    }

    /// A directive that runs a shell command as the CLI's tool in the background.
    pub(crate) fn background(&self, command: &str) -> String {
        match self.real {
            true => {
                let input = json!({ "command": command, "run_in_background": true });
                format!("[[tool Bash {input}]]")
            }
            false => format!("[[background {command}]]"),
        }
    }

    /// Sends a message to the session.
    pub(crate) fn send(&self, content: &str) -> Result<ash_journey::Turn> {
        self.api.send(&self.session, json!({ "content": content }))
    }

    /// Sends a message and waits for the result's text.
    pub(crate) fn ask(&self, content: &str) -> Result<String> {
        let turn = self.send(content)?.to_end()?;
        ensure!(turn.errors().is_empty(), "{:?}", turn.errors());
        Ok(turn.text())
    }

    /// Kills the daemon, starts it again, and follows it to its new address.
    pub(crate) fn crash(&mut self) -> Result<()> {
        self.ash.crash()?;
        self.api = self.ash.api();
        Ok(())
    }

    pub(crate) fn boot(&mut self) -> Result<()> {
        self.ash.boot()?;
        self.api = self.ash.api();
        Ok(())
    }

    /// How often the model was asked to answer this prompt. The stand-in for the CLI asks none.
    pub(crate) fn check_asked_once(&self, prompt: &str) -> Result<()> {
        let times = times_asked(self.ash.model(), prompt);
        let expected = usize::from(self.real);
        ensure!(times == expected, "the model was asked {times} times for {prompt:?}");
        Ok(())
    }
}

pub(crate) fn bash(real: bool, command: &str) -> String {
    match real {
        true => format!("[[tool Bash {}]]", json!({ "command": command, "timeout": 60_000 })),
        false => format!("[[exec {command}]]"),
    }
}

/// Gives a daemon, which must not run, a key of another tenant that may do everything.
pub(crate) fn add_key(ash: &Ash, tenant: &str, key: &str) -> Result<()> {
    const ADD: &str = "import sqlite3, sys, hashlib, os; \
        database = sqlite3.connect(sys.argv[1]); \
        database.execute('INSERT INTO keys (id, tenant, hash, label, created_at, scope) \
        VALUES (?, ?, ?, ?, 0, ?)', (os.urandom(16), sys.argv[2], \
        hashlib.sha256(sys.argv[3].encode()).digest(), sys.argv[2], 'manage')); \
        database.commit()";
    let mut python = Command::new("python3");
    python.args(["-c", ADD]).arg(ash.data_dir().join("ash.db")).args([tenant, key]);
    ensure!(python.status()?.success(), "no key was added");
    Ok(())
}

/// How often a request had this prompt as the newest thing in it.
pub(crate) fn times_asked(model: &Server, prompt: &str) -> usize {
    let asks = |request: &ash_modelapi::Request| {
        let newest = request.body["messages"].as_array().and_then(|messages| messages.last());
        newest.is_some_and(|message| message.to_string().contains(&escaped(prompt)))
    };
    model.requests().iter().filter(|request| request.is_message() && asks(request)).count()
}

/// A text as it stands in JSON.
fn escaped(text: &str) -> String {
    let json = json!(text).to_string();
    json[1..json.len() - 1].to_owned()
}

/// Checks that ids are exact: nothing missing, nothing doubled. Every frame follows the one before
/// directly, or begins the next durable event.
pub(crate) fn check_ids(frames: &[Frame]) -> Result<()> {
    for pair in frames.windows(2) {
        let (Some(before), Some(id)) = (pair[0].id, pair[1].id) else {
            bail!("a frame without id: {:?}", pair)
        };
        let next =
            (id.seq == before.seq && id.k == before.k + 1) || (id.seq > before.seq && id.k == 0);
        ensure!(next, "{id} ({}) follows {before} ({})", pair[1].name, pair[0].name);
    }
    Ok(())
}

/// What `[[count N]]` says.
pub(crate) fn counted(to: usize) -> String {
    (1..=to).map(|n| format!("{n} ")).collect()
}

/// Frames in short, a line each.
pub(crate) fn outline(frames: &[Frame]) -> String {
    let line = |frame: &Frame| {
        let id = frame.id.map(|id| id.to_string()).unwrap_or_default();
        let about: String = frame.data.to_string().chars().take(120).collect();
        format!("{id} {} {about}\n", frame.name)
    };
    frames.iter().map(line).collect()
}
