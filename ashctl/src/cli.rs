//! The grammar of the command line.

mod machine;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCandidates;
use serde_json::Value;

pub(crate) use machine::{Config, Logs, Machine, Places, Runtime, Setup};

use crate::complete;
use crate::folder::assignment;

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  it failed
  2  the command line cannot be used
  3  no message bus, or no ashd on it
  4  no such agent, session, checkpoint or key; or several, when an id is not whole
  5  refused: wrong state, bad input, busy, no room
  6  permission denied
  130  interrupted
`fsck` and `snapshot check` exit with 10, 11 or 12 when they find something: see there;
`session exec` exits with the code of the command; `doctor` with 1 when something is missing;
`config`, `restore`, `logs`, `start`, `stop` and `restart` with that of ashd, journalctl and
systemctl; any command with -H with its own over there, or 255 when ssh cannot get there.";

/// Manage agents and sessions of the local ashd
#[derive(Debug, Parser)]
#[command(name = "ashctl", version, after_long_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) task: Task,
}

/// What every command takes.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Address of the message bus [default: the system bus]
    #[arg(long, global = true, env = "ASH_BUS_ADDRESS", hide_env_values = true)]
    pub(crate) bus: Option<String>,
    /// Run this command on another machine, through ssh; files that it names are those over there
    #[arg(short = 'H', long, global = true, value_name = "USER@HOST")]
    pub(crate) host: Option<String>,
    /// Print JSON: one document, or one line per event of a stream
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Never ask for a password: what needs one is refused. Without a terminal none is asked for
    #[arg(long, global = true)]
    pub(crate) no_ask_password: bool,
}

/// What is to be done, and who does it.
#[derive(Debug, Subcommand)]
pub(crate) enum Task {
    #[command(flatten)]
    Daemon(Command),
    #[command(flatten)]
    Machine(Machine),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say how the daemon is
    Status,
    /// Deploy a folder with a CLAUDE.md as the next version of an agent
    Deploy(Deploy),
    /// Look at agents, delete them
    #[command(subcommand)]
    Agent(Agent),
    /// Make sessions, look at them, talk to them
    #[command(subcommand)]
    Session(Session),
    /// Talk to an agent
    Chat(Chat),
    /// Show what sessions cost: processor, memory, disk, tokens
    ///
    /// Of those that the daemon has in memory. On a terminal it goes on until Ctrl-C; else it is
    /// one table.
    ///
    /// Lines above it are of sandboxes that nobody uses: after which time they stand still (frozen), give
    /// their memory back (reclaimed) and end, and the files of a session without one are removed (cleared),
    /// how many take each step at a look, and for how long a task in the background keeps one from it; what
    /// that has saved; and how many are kept warm.
    ///
    /// SANDBOX says what a session's sandbox does: running; background, which is nothing but a task of the
    /// CLI's; waiting, frozen or reclaimed. It says cleared when there is none and the files are in a
    /// checkpoint only.
    Top {
        /// Seconds between two looks
        #[arg(short, long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
        interval: u64,
    },
    /// Make API keys, list and revoke them
    #[command(subcommand)]
    Key(Key),
    /// Look whether everything agrees that has to, and change nothing
    ///
    /// Database, disk, control groups, processes, mounts, sockets, user ids and checkpoints are looked
    /// at while ashd runs; what is under way is no difference. Exits with 10 when ashd mends at its
    /// next start all that was found, with 11 when somebody has to, and with 12 when something that
    /// was kept is damaged or lost. A damaged database can only be mended without ashd. While ashd is
    /// stopped, root can look at what lies on the disk.
    Fsck {
        /// Read every chunk of every checkpoint, and all of the database
        #[arg(long)]
        deep: bool,
    },
    /// Look after what is kept of sessions' files
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Delete tenants
    #[command(subcommand)]
    Tenant(Tenant),
    /// Save everything into a directory, while ashd runs
    ///
    /// Conversations, workspaces, agents, attachments and API keys of all tenants, each session as it
    /// is at one moment. What an earlier backup has brought into the directory is not written again,
    /// and stays until this one is whole. The directory is made if there is none; it belongs to root
    /// and is closed to others. The configuration and the key of the model API are not in it.
    Backup {
        /// The directory
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Tenant {
    /// Delete a tenant and everything of it, for good
    ///
    /// Its API keys are revoked first, its sessions ended; then go history, checkpoints, attachments
    /// and agents, and its copies in the object store, also those that other machines have put there.
    /// One that was interrupted is finished by ashd when it starts. Backups are not changed.
    Delete {
        /// Its name
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Snapshot {
    /// Remove what no checkpoint needs, now instead of at the next time
    ///
    /// What was written less than ten minutes ago stays. So does what a damaged checkpoint may need.
    Collect {
        /// Only say what would be removed
        #[arg(long)]
        preview: bool,
    },
    /// Read every chunk of every checkpoint, and say which are damaged
    ///
    /// What is damaged is stored again with the next checkpoint of a session that still has it; older
    /// checkpoints that have it in common are whole again then. Exits as `fsck` does.
    Check,
}

/// Deploy a folder with a CLAUDE.md as the next version of an agent
///
/// `.env` and then `.env.local` of the folder become the agent's environment; files with these
/// endings are not uploaded, nor are .git, node_modules, virtual environments and caches. Links
/// are uploaded as the files they lead to, which must lie in the folder.
#[derive(Args, Debug)]
pub(crate) struct Deploy {
    /// The folder
    pub(crate) path: PathBuf,
    /// Name of the agent [default: made from the folder's name]
    #[arg(short, long)]
    pub(crate) name: Option<String>,
    /// Environment variable of the agent; wins over the folder's files
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) env: Vec<(String, String)>,
    /// The agent's config: a file with a JSON object, or with TOML when its name ends in .toml
    ///
    /// It takes the place of the config there is, which stays as it is without this; `agent config`
    /// says what may be in it, and changes single members.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    /// List agents
    List,
    /// Show one agent
    Info {
        /// Its name
        #[arg(add = ArgValueCandidates::new(complete::agents))]
        name: String,
    },
    /// Show the config of an agent, or change it for sessions that will be made
    ///
    /// These have an effect: model; systemPrompt, `replace` (as without it) or `append`, which keeps
    /// the preset of Claude Code before the CLAUDE.md; permissionMode; allowedTools and
    /// disallowedTools, arrays; preWarmCount, how many sandboxes are made beforehand. Others are kept
    /// as they are.
    Config {
        /// Its name
        #[arg(add = ArgValueCandidates::new(complete::agents))]
        name: String,
        /// Set KEY to VALUE, which is JSON or else text; null or nothing removes it
        #[arg(value_name = "KEY=VALUE", value_parser = member)]
        changes: Vec<(String, Value)>,
    },
    /// Show an agent's environment, or replace it for sessions that will be made
    ///
    /// Names are shown, and never values. What is given takes the place of all that there is. What
    /// stands on the command line can be seen by others on this machine while this runs; what is
    /// secret is better in a file.
    Env {
        /// Its name
        #[arg(add = ArgValueCandidates::new(complete::agents))]
        name: String,
        /// A variable of the new environment; wins over the file
        #[arg(value_name = "NAME=VALUE", value_parser = pair)]
        env: Vec<(String, String)>,
        /// Take variables from this file, which is written as `.env` is
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        /// Give it no variables
        #[arg(long, conflicts_with_all = ["env", "file"])]
        clear: bool,
    },
    /// Delete an agent and end its sessions
    Delete {
        /// Its name
        #[arg(add = ArgValueCandidates::new(complete::agents))]
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Make an API key and print it, this once: it is not kept
    Create {
        /// What it is for
        name: String,
        /// What it lets its holder do
        #[arg(long, value_enum, default_value_t)]
        scope: Scope,
    },
    /// List API keys, oldest first
    List,
    /// Take an API key away; requests with it are refused at once
    Revoke {
        /// Its id, or at least 4 of its first characters
        #[arg(add = ArgValueCandidates::new(complete::keys))]
        id: String,
    },
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum Scope {
    /// Look at agents and sessions
    Read,
    /// Also make sessions, talk to them, end them
    #[default]
    Run,
    /// Everything
    Manage,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Session {
    /// Make a session and print its id
    Create(Create),
    /// Send a message and print the answer as it comes
    Send(Send),
    /// Print the answer that is running, or what came behind an event
    Follow {
        #[command(flatten)]
        id: Id,
        /// Begin behind this event, as `--json` numbers them
        #[arg(long, value_name = "EVENT")]
        after: Option<String>,
    },
    /// List sessions, newest first
    List(List),
    /// Show one session and its usage
    Info(Id),
    /// Set a session aside; its sandbox stays for a while
    Pause(Id),
    /// Set a session aside and end its sandbox
    Stop(Id),
    /// Make a session active again
    Resume(Id),
    /// Interrupt the running turn
    Interrupt(Id),
    /// End a session for good
    End {
        #[command(flatten)]
        id: Id,
        /// Remove its history and workspace as well
        #[arg(long)]
        purge: bool,
    },
    /// Run a shell command in the workspace; Ctrl-C kills it
    Exec {
        #[command(flatten)]
        id: Id,
        /// For `/bin/sh -c`
        command: String,
        /// Milliseconds until it is killed
        #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1..=300_000))]
        timeout: u64,
    },
    /// Fork a session, as it is now or was at a checkpoint, and print the new one's id
    Fork {
        #[command(flatten)]
        id: Id,
        /// Id of the checkpoint, or at least 4 of its first characters, or its name
        #[arg(long, value_name = "CHECKPOINT")]
        from: Option<String>,
    },
    /// Take a session over from another machine, through the object store, and print its id
    Import {
        /// Its id
        id: String,
        /// Id of the checkpoint to go on from, instead of the newest
        #[arg(long, value_name = "CHECKPOINT")]
        from: Option<String>,
    },
    /// Save conversation and workspace, list and remove what was saved
    #[command(subcommand)]
    Checkpoint(Checkpoint),
    /// Bring conversation and workspace back to a checkpoint
    Restore {
        #[command(flatten)]
        id: Id,
        /// Id of the checkpoint, or at least 4 of its first characters, or its name
        checkpoint: String,
    },
    /// Bring conversation and workspace back to how they were before a message
    Rewind {
        #[command(flatten)]
        id: Id,
        /// Number of the message, as `messages` shows it
        message: u64,
    },
    /// Print the log of the sandbox
    Logs {
        #[command(flatten)]
        id: Id,
        /// Go on with new lines as they come
        #[arg(short, long)]
        follow: bool,
    },
    /// Print the conversation
    Messages {
        #[command(flatten)]
        id: Id,
        /// Only messages with numbers above this
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// At most this many
        #[arg(long)]
        limit: Option<usize>,
    },
    /// Print all that happened, not only the conversation
    Events(Events),
}

#[derive(Args, Debug)]
pub(crate) struct Events {
    #[command(flatten)]
    pub(crate) id: Id,
    /// Only events with numbers above this
    #[arg(long, default_value_t = 0)]
    pub(crate) after: u64,
    /// At most this many
    #[arg(long)]
    pub(crate) limit: Option<usize>,
    /// Only user, assistant, tool_result, result, error or lifecycle; may be given again
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Checkpoint {
    /// Save a session as it is, also in mid-turn
    Create {
        #[command(flatten)]
        id: Id,
        /// What to call it
        name: Option<String>,
    },
    /// List what was saved of a session, newest first
    List(Id),
    /// Remove a checkpoint; the newest one only loses its name
    Delete {
        #[command(flatten)]
        id: Id,
        /// Id of the checkpoint, or at least 4 of its first characters, or its name
        checkpoint: String,
    },
}

#[derive(Args, Debug)]
pub(crate) struct Id {
    /// Id of the session, or at least 4 of its first characters
    #[arg(add = ArgValueCandidates::new(complete::sessions))]
    pub(crate) id: String,
}

#[derive(Args, Debug)]
pub(crate) struct Create {
    /// Name of the agent
    #[arg(add = ArgValueCandidates::new(complete::agents))]
    pub(crate) agent: String,
    /// Model id
    #[arg(short, long)]
    pub(crate) model: Option<String>,
    /// Environment variable of the session
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) env: Vec<(String, String)>,
    /// Further settings, as in the body of the HTTP request
    #[arg(long, value_name = "JSON")]
    pub(crate) settings: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Send {
    #[command(flatten)]
    pub(crate) id: Id,
    /// The message
    pub(crate) message: String,
    /// What to do when a turn is running, or as many as may of all sessions
    #[arg(long, value_enum, default_value_t)]
    pub(crate) when_busy: WhenBusy,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub(crate) enum WhenBusy {
    /// Wait for the turn to end
    #[default]
    Queue,
    /// Fail
    Reject,
    /// Interrupt the turn and go first
    Interrupt,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    /// Only of this agent
    #[arg(short, long, add = ArgValueCandidates::new(complete::agents))]
    pub(crate) agent: Option<String>,
    /// Only with this status
    #[arg(short, long)]
    pub(crate) status: Option<String>,
    /// At most this many
    #[arg(short, long)]
    pub(crate) limit: Option<usize>,
}

/// Talk to an agent
///
/// Without MESSAGE, on a terminal: line by line. Ctrl-C during an answer interrupts it; Ctrl-C at
/// an empty prompt or Ctrl-D leaves. Otherwise sends one message, read from standard input when
/// MESSAGE is missing, and prints the answer.
#[derive(Args, Debug)]
pub(crate) struct Chat {
    /// Name of the agent
    #[arg(add = ArgValueCandidates::new(complete::agents))]
    pub(crate) agent: String,
    /// The message
    pub(crate) message: Option<String>,
    /// Go on with this session instead of a new one
    #[arg(short, long, value_name = "ID", add = ArgValueCandidates::new(complete::sessions))]
    pub(crate) session: Option<String>,
    /// End the session afterwards
    #[arg(long)]
    pub(crate) end: bool,
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    assignment(text).map(|(name, value)| (name, value.to_owned()))
}

/// A member of a config.
fn member(text: &str) -> Result<(String, Value), &'static str> {
    let (key, value) =
        text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or("no KEY=VALUE")?;
    let value = match value {
        "" => Value::Null,
        text => serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)),
    };
    Ok((key.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use clap::CommandFactory;

    use super::*;

    #[test]
    fn verify_cli() {
        Cli::command().debug_assert();
    }

    fn helps(command: &mut clap::Command, all: &mut String) {
        let help = command.render_long_help();
        let _ = writeln!(all, "===== {}\n{help}", command.get_bin_name().unwrap_or("ashctl"));
        for inner in command.get_subcommands_mut().filter(|inner| inner.get_name() != "help") {
            helps(inner, all);
        }
    }

    #[test]
    fn members_are_json_or_text() {
        let value = |text| member(text).map(|(_, value)| value.to_string());
        assert_eq!(value("model=claude-opus-4-6"), Ok("\"claude-opus-4-6\"".into()));
        assert_eq!(value("a=b=c"), Ok("\"b=c\"".into()));
        assert_eq!(value("tools=[\"Bash\"]"), Ok("[\"Bash\"]".into()));
        assert_eq!(value("model=null"), Ok("null".into()));
        assert_eq!(value("model="), Ok("null".into()));
        assert!(value("model").is_err() && value("=x").is_err());
    }

    #[test]
    fn help_of_every_command() {
        let mut command = Cli::command().term_width(100);
        command.build();
        let mut all = String::new();
        helps(&mut command, &mut all);
        insta::assert_snapshot!(all);
    }
}
