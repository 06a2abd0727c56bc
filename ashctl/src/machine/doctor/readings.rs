//! What was seen of the machine, before anybody judges it. Nothing here looks anything up.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// Everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Readings {
    /// Release of the kernel.
    pub(super) kernel: String,
    /// What systemd says first when asked for its version; absent when it is not there.
    pub(super) systemd: Option<String>,
    /// Whether systemd runs this machine.
    pub(super) is_systemd_running: bool,
    /// Control groups.
    pub(super) cgroups: Cgroups,
    /// The newest landlock ABI that the kernel knows, of those ash uses; 0 without landlock.
    pub(super) landlock: u8,
    /// The actions of seccomp filters; absent when the kernel has none.
    pub(super) seccomp: Option<String>,
    /// bubblewrap.
    pub(super) bwrap: Bwrap,
    /// Security modules.
    pub(super) modules: Modules,
    /// How many user namespaces there may be, and whether everybody may make one.
    pub(super) user_namespaces: UserNamespaces,
    /// The disk of the state directory.
    pub(super) disk: Disk,
    /// Swap.
    pub(super) swap: Swap,
    /// The Claude Code CLI.
    pub(super) runtime: Runtime,
    /// The model API key.
    pub(super) key: Key,
    /// What `ashd` says about its configuration.
    pub(super) config: Config,
    /// Whether the clock is synchronised; absent when nobody can tell.
    pub(super) is_clock_synchronised: Option<bool>,
    /// Weaknesses of the processor and what is done about them, as the kernel says.
    pub(super) vulnerabilities: Vec<(String, String)>,
    /// Whether cores run two threads.
    pub(super) is_smt_on: bool,
    /// What the service manager says of `ashd`: `active`, `inactive`, …; absent without one.
    pub(super) unit: Option<String>,
    /// The same of the services that it works with, broker and launcher.
    pub(super) helpers: [(&'static str, Option<String>); 2],
    /// The daemon on the bus.
    pub(super) daemon: Daemon,
    /// Checkpoints that it knows to be damaged; absent when it does not say.
    pub(super) damaged: Option<u64>,
    /// Whether polkit is on the bus, or starts when it is asked; absent when the bus cannot be reached.
    pub(super) has_polkit: Option<bool>,
    /// Who asks.
    pub(super) user: User,
}

/// Control groups.
#[derive(Clone, Debug, Default)]
pub(super) struct Cgroups {
    /// Whether version 2 is mounted at `/sys/fs/cgroup`.
    pub(super) is_unified: bool,
    /// Controllers of version 2 on this machine.
    pub(super) controllers: Vec<String>,
    /// Controllers in the group of the unit that holds sandboxes; absent when it does not run.
    pub(super) delegated: Option<Vec<String>>,
}

/// bubblewrap.
#[derive(Clone, Debug, Default)]
pub(super) struct Bwrap {
    /// What the distribution's says when asked for its version.
    pub(super) system: Option<String>,
    /// Where our copy should be.
    pub(super) copy: PathBuf,
    /// Whether it is there, and if so whether it is the distribution's.
    pub(super) is_copy_current: Option<bool>,
}

/// Security modules.
#[derive(Clone, Debug, Default)]
pub(super) struct Modules {
    /// Those that run, separated by commas.
    pub(super) list: String,
    /// Whether AppArmor keeps programs without a profile from making user namespaces.
    pub(super) does_apparmor_restrict: bool,
    /// Whether AppArmor has a profile for the distribution's bubblewrap.
    pub(super) has_bwrap_profile: bool,
    /// Whether SELinux enforces; absent without SELinux.
    pub(super) is_selinux_enforcing: Option<bool>,
}

/// The policy for user namespaces.
#[derive(Clone, Debug, Default)]
pub(super) struct UserNamespaces {
    /// How many there may be.
    pub(super) most: Option<u64>,
    /// Whether users other than root may make them.
    pub(super) are_for_everybody: bool,
}

/// The disk of the state directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    /// The state directory, or the nearest above it that exists.
    pub(super) path: PathBuf,
    /// Bytes free for root.
    pub(super) free: u64,
    /// Bytes that `ashd` leaves free.
    pub(super) reserve: u64,
    /// Type of the file system.
    pub(super) kind: String,
    /// Whether files can share blocks; absent when it could not be tried.
    pub(super) can_reflink: Option<bool>,
    /// Whether it keeps quotas per project.
    pub(super) has_quota: bool,
}

/// Swap.
#[derive(Clone, Debug, Default)]
pub(super) struct Swap {
    /// Bytes of it.
    pub(super) size: u64,
    /// Whether all of it is compressed memory.
    pub(super) is_zram: bool,
    /// Whether pages are compressed on their way to it.
    pub(super) is_zswap_on: bool,
}

/// The Claude Code CLI.
#[derive(Clone, Debug, Default)]
pub(super) struct Runtime {
    /// The program that `ashd` starts.
    pub(super) program: PathBuf,
    /// The version that the link names; or why it names none.
    pub(super) version: Option<String>,
    /// Whether the program is there, and if so whether everybody may execute it.
    pub(super) is_executable: Option<bool>,
}

/// A file with a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct KeyFile {
    /// Its permissions.
    pub(super) mode: u32,
    /// Its owner.
    pub(super) uid: u32,
}

/// Where the model API key may be.
#[derive(Clone, Debug, Default)]
pub(super) struct Key {
    /// `/etc/credstore/ash-model-key`.
    pub(super) plain: Option<KeyFile>,
    /// `/etc/credstore.encrypted/ash-model-key.sealed`.
    pub(super) encrypted: Option<KeyFile>,
    /// Whether the two directories may not be looked into by whoever asks.
    pub(super) is_hidden: bool,
    /// Whether the broker that runs has one; absent when nobody can tell.
    pub(super) is_at_broker: Option<bool>,
    /// Whether the service manager could not decrypt it when it last started the broker.
    pub(super) is_undecryptable: bool,
    /// Whether `ANTHROPIC_API_KEY` is set here.
    pub(super) is_in_environment: bool,
}

/// What `ashd` says about its configuration.
#[derive(Clone, Debug, Default)]
pub(super) enum Config {
    /// There is no `ashd` to ask.
    #[default]
    Unknown,
    /// It can be used: values by key.
    Good(BTreeMap<String, String>),
    /// Some of it is for root alone, and somebody else asks: what.
    Closed(String),
    /// It cannot: what is wrong.
    Bad(String),
}

/// The daemon on the bus.
#[derive(Clone, Debug, Default)]
pub(super) enum Daemon {
    /// The bus cannot be reached: the whole sentence.
    NoBus(String),
    /// It is not on the bus.
    #[default]
    Absent,
    /// It answers, and refuses whoever asks.
    Denied,
    /// It answers something else than it should.
    Odd(String),
    /// It answers: its version, and the layers of protection it misses.
    There(String, Vec<String>),
}

/// Who asks.
#[derive(Clone, Debug, Default)]
pub(super) struct User {
    /// Whether it is root.
    pub(super) is_root: bool,
    /// Whether it is in the group `ash`.
    pub(super) is_in_group: bool,
}
