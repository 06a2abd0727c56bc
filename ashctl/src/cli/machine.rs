//! The commands that are about this machine, not about agents and sessions.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCandidates;

use crate::{complete, machine};

#[derive(Debug, Subcommand)]
pub(crate) enum Machine {
    /// Look whether this machine can run ash, and say how to mend what is missing
    ///
    /// Exits with 1 when something is missing that is needed; warnings do not count. As root it
    /// sees more than as anybody else.
    Doctor {
        #[command(flatten)]
        places: Places,
    },
    /// Store the model API key, install the CLI, start ashd, have a first answer
    ///
    /// Every step looks first whether it has been done, so that it can be run again at any time:
    /// to replace the key, say. The key becomes a credential of the broker's service, encrypted
    /// where systemd can do that. Without a terminal nothing is asked: give --key-file and --yes.
    Setup(Setup),
    /// Start ashd, through systemctl
    Start,
    /// Stop ashd, through systemctl: running turns are interrupted, sessions are paused
    Stop,
    /// Restart ashd, through systemctl: sandboxes and running turns go on
    Restart,
    /// Put a backup into the data directory, which must be empty, while ashd is stopped
    ///
    /// All of the backup is read and checked before anything is written; a restore that fails leaves
    /// the data directory empty. A backup of an older ash is brought up to date when ashd starts.
    Restore {
        /// The directory that `backup` was given
        directory: PathBuf,
        /// Only read the backup and say whether it is whole
        #[arg(long)]
        check: bool,
    },
    /// Print the journal of ash's services, or what it has of one session
    ///
    /// For members of group `systemd-journal` and root. `session logs` prints what a sandbox
    /// said, and needs only the right to look at the session.
    Logs(Logs),
    /// Look at the configuration of this machine's ashd
    #[command(subcommand)]
    Config(Config),
    /// Install versions of the Claude Code CLI, and choose between them
    #[command(subcommand)]
    Runtime(Runtime),
}

/// Where the programs lie; other than where packages put them only for tests.
#[derive(Args, Debug)]
pub(crate) struct Places {
    /// Directory of ashd's own programs
    #[arg(long, env = "ASH_LIBEXEC_DIR", hide = true, default_value_os_t = machine::libexec_dir())]
    pub(crate) libexec_dir: PathBuf,
    /// Directory of the machine's configuration
    #[arg(long, env = "ASH_ETC_DIR", hide = true, default_value = "/etc")]
    pub(crate) etc_dir: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Setup {
    /// Take the model API key from this file; - is standard input
    #[arg(long, value_name = "PATH")]
    pub(crate) key_file: Option<PathBuf>,
    /// Install this program as the CLI instead of fetching one
    #[arg(long, value_name = "PATH")]
    pub(crate) runtime_file: Option<PathBuf>,
    /// Ask nothing: keep a key that is there, start ashd
    #[arg(short, long)]
    pub(crate) yes: bool,
    #[command(flatten)]
    pub(crate) places: Places,
}

#[derive(Args, Debug)]
pub(crate) struct Logs {
    /// Id of a session, or at least 4 of its first characters
    #[arg(add = ArgValueCandidates::new(complete::sessions))]
    pub(crate) session: Option<String>,
    /// Go on with new lines as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only the newest lines
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub(crate) lines: Option<u32>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    /// Show every value that holds and where it was written; secrets are hidden
    ///
    /// What has no origin behind it is the default, or follows from other values. Variables are
    /// those of this shell, and those of the unit ashd.service, with the files of its
    /// EnvironmentFile=, that this shell has not.
    Show,
    /// Say everything that is wrong; exits with 78 if anything is
    Check {
        /// Configuration file, instead of /etc/ash/ashd.toml; its drop-ins count
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Runtime {
    /// Install a version of the CLI, fetched with npm or from a file
    ///
    /// Whatever its source, it is started once in a sandbox without network before it is
    /// installed, and must say which version it is. The first version that is installed is used
    /// at once.
    Install {
        /// The version to fetch [default: the one that this ash is tried with]
        #[arg(conflicts_with = "file")]
        version: Option<String>,
        /// Take this program instead of fetching one
        #[arg(long, value_name = "PATH")]
        file: Option<PathBuf>,
        #[command(flatten)]
        places: Places,
    },
    /// List the versions that are installed
    List {
        #[command(flatten)]
        places: Places,
    },
    /// Use another version for sandboxes that are started from now on
    Use {
        /// The version
        #[arg(add = ArgValueCandidates::new(complete::versions))]
        version: String,
        #[command(flatten)]
        places: Places,
    },
    /// Remove a version that is not in use
    Remove {
        /// The version
        #[arg(add = ArgValueCandidates::new(complete::versions))]
        version: String,
        #[command(flatten)]
        places: Places,
    },
}
