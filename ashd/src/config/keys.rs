//! The keys. The comments here are the reference for users as well.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::table::{Key, Section, Traits, sections};
use super::value::{Value, Written};
use super::{Secret, Size};
use crate::domain::PermissionMode;

sections! {
    /// Where the HTTP API listens and whom it answers.
    http: Http {
        /// Address to listen on. Any other than a loopback address needs an API key.
        host: IpAddr = "127.0.0.1" { env: &["ASH_HOST"], }
        /// Port to listen on; 0 takes any that is free.
        port: u16 = "4100" { env: &["ASH_PORT"], }
        /// A further API key, for tenant `default`. Keys are otherwise kept in the database.
        api_key: Option<Secret> = "" { env: &["ASH_API_KEY"], env_only: true, }
        /// Web pages that may call, as browsers write them in Origin: `https://app.example.com`;
        /// `*` for all. Without any: pages of this machine.
        allowed_origins: Vec<String> = "" { env: &["ALLOWED_ORIGINS"], }
        /// Names of this server that requests may have in Host, without port, beside its address
        /// and the loopback names: that of a reverse proxy, say.
        allowed_hosts: Vec<String> = "" {}
        /// Largest deployment.
        max_deployment: Size = "64MiB" {}
        /// Largest message to a session.
        max_message: Size = "50MiB" {}
        /// Largest file or archive that is put into a workspace.
        max_upload: Size = "1GiB" {}
        /// Largest body of any other request.
        max_body: Size = "1MiB" {}
        /// The time for which the three limits below hold. It begins with a client's first request.
        /// A client is an IPv4 address, or the /64 network that an IPv6 address is in. What
        /// `X-Forwarded-For` says is not believed: behind a reverse proxy all clients share the
        /// proxy's address, and it is the proxy that should tell them apart and limit them.
        rate_window: Duration = "15min" {}
        /// The most requests of one client; 0 for any number. Answers say in `x-ratelimit-limit`,
        /// `x-ratelimit-remaining` and `x-ratelimit-reset` (seconds) what is left; a request too many
        /// is answered with 429. The default is out of reach for anything but a load test that takes
        /// as long as the window: set what your clients need.
        rate_requests: u32 = "100000000" {}
        /// The most deployments of one client, counted apart from other requests; with 0 they are
        /// counted among them.
        rate_deployments: u32 = "10000" {}
        /// The most new sessions of one client, counted apart from other requests; with 0 they are
        /// counted among them.
        rate_sessions: u32 = "100000" {}
    }
    /// How `ashctl` reaches the daemon.
    bus: Bus {
        /// D-Bus address; the system bus when absent.
        address: Option<String> = "" { env: &["ASH_BUS_ADDRESS"], }
    }
    /// What is kept, and where.
    state: State {
        /// Directory of database, agents and workspaces. Mode 0700; one daemon at a time.
        data_dir: PathBuf = "/var/lib/ash" { env: &["ASH_DATA_DIR"], }
        /// Directory of sockets.
        run_dir: PathBuf = "" {
            env: &["ASH_RUN_DIR"],
            derived: "`/run/ash` if data_dir is `/var/lib/ash`, else `/run/ash-` and a hash of it",
        }
        /// Directory of the daemon's own programs.
        libexec_dir: PathBuf = "" {
            env: &["ASH_LIBEXEC_DIR"],
            derived: "the directory of `ashd`, or `../lib/ash` beside it, when they lie there, else `/usr/lib/ash`",
        }
        /// Directories beneath which an agent may be deployed by path. None by default. In the
        /// variable they are separated by colons.
        agent_roots: Vec<PathBuf> = "" { env: &["ASH_AGENT_ROOTS"], live: true, }
        /// Room on the disk that is left free: below it nothing new is accepted.
        reserve_disk: Size = "1GiB" {}
        /// Memory that is left free: below it no sandbox is started, and who needs one waits a while.
        reserve_memory: Size = "512MiB" {}
    }
    /// What a sandbox may use. Limits hold for sandboxes that are started from then on.
    sandbox: Sandbox {
        /// Memory of the agent's processes; above it the kernel ends them. The variable counts in
        /// MiB.
        memory: Size = "2GiB" { env: &["ASH_SANDBOX_MEMORY_MB"], unit: "MiB", live: true, }
        /// Processes and threads of the agent.
        pids: u32 = "512" { live: true, }
        /// Processors' worth of time.
        cpus: f64 = "2.0" { live: true, }
        /// Size of `/tmp` and of `/dev/shm` each. What lies there counts as memory, too.
        tmpfs: Size = "256MiB" { live: true, }
        /// The largest file that a process may write.
        file_size: Size = "4GiB" { live: true, }
        /// Most sandboxes alive at the same time. A further one takes the place of one that nobody uses;
        /// it is refused when there is none.
        max: u32 = "1000" { env: &["ASH_MAX_SANDBOXES"], }
        /// How long a sandbox may take until its bridge answers.
        ready_timeout: Duration = "10s" {}
        /// How long the CLI may take until it takes messages; slow MCP servers count.
        cli_timeout: Duration = "30s" {}
        /// How long a sandbox goes on without a daemon before it ends itself.
        orphan_timeout: Duration = "10min" {}
        /// First of the user ids that sandboxes run under. Nothing else may use them.
        uid_base: u32 = "1879048192" {}
        /// How many user ids. A session needs two, the daemon's helpers another two.
        uid_count: u32 = "131072" {}
        /// The Claude Code CLI.
        claude: PathBuf = "" {
            env: &["CLAUDE_CODE_EXECUTABLE"],
            derived: "`claude` in libexec_dir",
        }
        /// bubblewrap.
        bwrap: PathBuf = "" { derived: "`bwrap` in libexec_dir, else `/usr/bin/bwrap`", }
        /// Launcher and broker are services of their own, `ash-sandboxes` and `ash-broker`, instead of
        /// children of the daemon. The unit of `ashd` sets the variable.
        services: bool = "false" { env: &["ASH_SERVICES"], }
        /// Control group that holds the sandboxes, within that of `ash-sandboxes`; when absent that
        /// one, or without the service one of the daemon's own.
        cgroup_root: Option<PathBuf> = "" { env: &["ASH_CGROUP_ROOT"], }
        /// Start although the machine cannot enforce all limits; what is missing is told in the
        /// log and in `/health`. For development only.
        allow_missing_limits: Option<bool> = "" {
            env: &["ASH_ALLOW_MISSING_LIMITS"],
            derived: "`true` when started by hand, `false` when by a service manager",
        }
    }
    /// How much is begun at a time. What is more waits.
    admission: Admission {
        /// Turns that run at the same time, of all sessions; 0 for 16 per processor. Of those that wait
        /// the next is one of the tenant that runs the fewest, there the one that came first. While
        /// the machine is short of memory or processes, no more begin than it has processors.
        turns: u32 = "0" { live: true, }
        /// Sandboxes that are made at the same time; 0 for one per processor, but two at least. Of those
        /// that wait the next is one of the tenant that has the fewest under way. While turns lack
        /// processors or disks it is half as many.
        launches: u32 = "0" { live: true, }
        /// How long it is waited that a sandbox may be made: while others are made, and while memory
        /// or processes are short. Then it is refused.
        patience: Duration = "30s" { live: true, }
    }
    /// How the sandboxes that may be alive (`max` in `[sandbox]`) are shared out, how many are made before
    /// anybody asks, and what becomes of those that nobody uses, until the next message has them go on:
    /// no turn and no command runs in them, nor a task of the CLI's in the background, nor anything of the
    /// agent's own that computes or asks the model. A step down whose time is `0s` is left out.
    pool: Pool {
        /// Most sandboxes of one tenant alive at the same time; 0 for any number. The next one takes the
        /// place of the tenant's own that nobody has used for longest, and is refused when it uses all
        /// of them. Those of paused sessions count. Those that have ended do not, because their session
        /// was stopped or nobody had used them for long. Warm ones that no session has taken go first, and
        /// none is made that would be one too many.
        max_per_tenant: u32 = "0" { live: true, }
        /// Most sandboxes of one agent alive at the same time; 0 for any number. As with those of a
        /// tenant, the next one takes the place of one of the agent's own.
        max_per_agent: u32 = "0" { live: true, }
        /// After this time a sandbox is saved and ended. The session keeps its status; its next message
        /// makes another sandbox, with the files and the conversation. The variable counts in
        /// milliseconds.
        idle_timeout: Duration = "30min" { env: &["ASH_IDLE_TIMEOUT_MS"], unit: "ms", live: true, }
        /// After this time its agent stands still: it uses no processor, and goes on at once.
        freeze_after: Duration = "1min" { live: true, }
        /// After this time an agent that stands still gives its memory back, where the machine has
        /// swap: best in compressed memory (zram, zswap). It goes on with what it needs of it.
        reclaim_after: Duration = "5min" { live: true, }
        /// After this time the files of a session without a sandbox are removed from the disk and its
        /// user ids are given back, when its newest checkpoint has all of the files and is whole. Whoever
        /// wants them next has them built from it. It is 10 min at most while the disk is nearly full
        /// or user ids run short.
        clear_after: Duration = "2d" { live: true, }
        /// The most sandboxes that take each of these steps at one look. It is looked every 5 s, or more
        /// often when the shortest of their times is below 20 s; at sessions without one every minute, or
        /// more often when `clear_after` is below 4 min, and soon again when as many gave up their files as
        /// may at one look.
        per_tick: u32 = "20" { live: true, }
        /// Processors' worth of time. An agent that uses more works on something. An idle Claude Code
        /// CLI uses less than 0.01, of a slow processor more.
        busy_cpus: f64 = "0.02" { live: true, }
        /// How long tasks that the CLI runs in the background keep a sandbox as it is in which nothing else
        /// happens: from when it was used last, or one of them began or ended. From then on it takes its
        /// steps, and what runs in it has ended behind the last of them. With `0s` they keep none.
        background: Duration = "4h" { live: true, }
        /// The most sandboxes that are kept warm for sessions that are yet to be made, for all agents
        /// together; 0 for none. How many an agent has, its config says: `preWarmCount`. One takes
        /// about 120 MB of memory.
        prewarm: u32 = "16" {}
    }
    /// The model API.
    model: Model {
        /// Where it is. `http://` only on this machine.
        base_url: String = "https://api.anthropic.com" { env: &["ANTHROPIC_BASE_URL"], }
        /// The model that is used when neither message, session nor agent name one.
        id: String = "claude-sonnet-4-5-20250929" { env: &["ASH_MODEL"], }
        /// The API key. Sandboxes never see it.
        key: Option<Secret> = "" { env: &["ANTHROPIC_API_KEY"], env_only: true, live: true, }
        /// File with the API key, readable by its owner only. `ANTHROPIC_API_KEY` wins.
        key_file: Option<PathBuf> = "" { live: true, }
        /// PEM file of certificates to trust beside the system's.
        ca_file: Option<PathBuf> = "" { env: &["SSL_CERT_FILE"], }
        /// HTTP proxy on the way there: `http://[user:password@]host:port`. Only for `https://`.
        proxy: Option<Secret> = "" { env: &["HTTPS_PROXY", "HTTP_PROXY"], }
        /// Hosts that are reached without the proxy: names, domains beginning with a dot, or `*`.
        no_proxy: Vec<String> = "" { env: &["NO_PROXY"], }
    }
    /// What holds for every session.
    session: Session {
        /// Messages of a session that may wait for their turns: for those before them, for a place of
        /// `turns` in `[admission]`, or for a sandbox. What is more is refused.
        queue: u32 = "16" {}
        /// Largest attachment of a session. The variable counts in bytes.
        max_attachment: Size = "10MiB" { env: &["ASH_MAX_ATTACHMENT_SIZE"], }
        /// What the agent may do without asking, unless the session says otherwise: `default`,
        /// `acceptEdits`, `plan`, `dontAsk` or `bypassPermissions`. The sandbox holds in any case.
        permission_mode: PermissionMode = "bypassPermissions" { env: &["ASH_PERMISSION_MODE"], }
    }
    /// Checkpoints: conversations and their files as they were at a moment.
    snapshots: Snapshots {
        /// How many of those that were made by themselves are kept of a session; older ones go.
        /// What was given a name is kept until somebody removes it.
        keep: u32 = "100" { live: true, }
        /// How often what no checkpoint needs is removed from the disk. What belongs to a session that
        /// is purged goes at once.
        collect_every: Duration = "1h" {}
        /// An object store that gets a copy of each newest checkpoint, so that a session outlives this
        /// machine: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, or
        /// `file:///directory`. None by default. What else is needed to reach it is in the variables
        /// that its own tools read: `AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`,
        /// `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_NAME` and their like.
        url: String = "" { env: &["ASH_SNAPSHOT_URL"], }
        /// Region of an S3 bucket, unless `AWS_REGION` names one.
        region: String = "us-east-1" { env: &["ASH_S3_REGION"], }
        /// What the copies are sealed with, 64 hexadecimal digits: `openssl rand -hex 32` makes
        /// some. Machines that share an object store share the key; without it nothing there can be
        /// read.
        key: Option<Secret> = "" { env: &["ASH_SNAPSHOT_KEY"], env_only: true, }
        /// File with the key, readable by its owner only. `ASH_SNAPSHOT_KEY` wins.
        key_file: Option<PathBuf> = "" {}
    }
    /// How long what is kept. By default everything is, until somebody removes it. What is removed is
    /// gone; a backup before it is the only way back. With `0s`, or 0, nothing is removed.
    retention: Retention {
        /// Sessions are purged when they have ended longer ago than this, with their history,
        /// checkpoints, attachments and copies.
        ended_sessions: Duration = "0s" { live: true, }
        /// What the history of sessions says is forgotten when it is older than this: events keep
        /// their numbers and times. Of sessions that have not ended the newest two turns stay. The
        /// conversation as the agent itself remembers it is a file of the session, and stays.
        events: Duration = "0s" { live: true, }
        /// Checkpoints without a name are removed when they are older than this. The newest of each
        /// session stays, and all of a session while its newest is known to be damaged.
        checkpoints: Duration = "0s" { live: true, }
        /// What all checkpoints together may take on the disk. Above it what no checkpoint needs is
        /// collected at once, and then those that `checkpoints` could remove go, the oldest first.
        /// Of a tenant of which not all can be collected, because a backup is under way or
        /// something is damaged, none go until it can be, and what they take does not count.
        checkpoint_bytes: Size = "0" { live: true, }
        /// How often it is looked for what was kept long enough.
        every: Duration = "1h" {}
    }
    /// What is written to the journal.
    log: Log {
        /// `error`, `warn`, `info`, `debug` or `trace`; also for single parts: `info,ashd=debug`.
        level: String = "info" { env: &["ASH_LOG"], live: true, }
    }
}

impl Config {
    /// Every key at its default.
    pub(super) fn initial() -> Self {
        defaults().expect("every default can be read")
    }
}
