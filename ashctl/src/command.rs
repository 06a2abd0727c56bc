//! The commands.

mod agent;
mod backup;
mod chat;
mod checkpoint;
mod config_file;
mod deploy;
mod exec;
mod first;
mod fsck;
mod key;
mod prompt;
mod session;
mod tenant;
mod top;
mod turn;

pub(crate) use first::first_answer;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ash_dbus::value::Health;
use serde_json::Value;
use tokio::time::timeout;

use self::deploy::Deployment;
use crate::bus::Bus;
use crate::cli::{Command, Common};
use crate::failure::Failure;
use crate::json;
use crate::machine;
use crate::out::Out;
use crate::person::Person;
use crate::systemctl;

/// How long `ashd` may take to say how it is: longer than it waits for polkit.
const PATIENCE: Duration = Duration::from_secs(25);

/// What every command has at hand.
struct Context {
    bus: Bus,
    person: Person,
    out: Out,
    as_json: bool,
}

impl Context {
    async fn connect(common: &Common) -> Result<Self, Failure> {
        let address = common.bus.as_deref();
        Ok(Context {
            bus: Bus::connect(address).await?,
            person: Person::at_terminal(address, !common.no_ask_password),
            out: Out::stdout(),
            as_json: common.json,
        })
    }

    /// Prints a JSON document, if that is wanted; says whether it was.
    fn document(&mut self, value: &Value) -> Result<bool, Failure> {
        if self.as_json {
            self.out.line(&value.to_string())?;
        }
        Ok(self.as_json)
    }
}

/// Runs a command that the daemon does; returns the exit code of success.
pub(crate) async fn run(command: Command, common: &Common) -> Result<u8, Failure> {
    let connect = || Context::connect(common);
    match command {
        Command::Status => status(&mut connect().await?).await?,
        Command::Deploy(options) => {
            // What is wrong with the folder is said even when nobody could take it.
            let deployment = Deployment::read(&options)?;
            deploy::run(&mut connect().await?, deployment).await?;
        }
        Command::Agent(command) => agent::run(&mut connect().await?, command).await?,
        Command::Session(command) => return session::run(connect().await?, command).await,
        Command::Chat(options) => chat::run(connect().await?, options).await?,
        Command::Top { interval } => {
            top::run(connect().await?, Duration::from_secs(interval)).await?;
        }
        Command::Key(command) => key::run(&mut connect().await?, command).await?,
        Command::Fsck { deep } => {
            let looked = match connect().await {
                Ok(mut context) => fsck::run(&mut context, deep).await,
                Err(failure) => Err(failure),
            };
            return match looked {
                // Without a daemon what lies on the disk can still be looked at.
                Err(Failure::Absent(why)) if machine::has_ashd() => {
                    Err(at_rest(&why, deep, common.json).await)
                }
                looked => looked,
            };
        }
        Command::Tenant(command) => tenant::run(&mut connect().await?, command).await?,
        Command::Backup { directory } => backup::run(&mut connect().await?, &directory).await?,
        Command::Snapshot(command) => return fsck::snapshot(&mut connect().await?, command).await,
    }
    Ok(0)
}

/// What every turn needs and is missing, by what the broker says of its key: nothing, when it cannot
/// be asked.
fn missing_for_turns(has_key: Option<bool>) -> Option<&'static str> {
    match has_key {
        Some(true) => None,
        Some(false) => Some("missing: a model API key; `ashctl setup` stores one"),
        None => Some(
            "missing: the model broker, turns wait for it or fail; `systemctl status ash-broker` says \
             why",
        ),
    }
}

async fn status(context: &mut Context) -> Result<(), Failure> {
    let asked = timeout(PATIENCE, context.bus.manager.status()).await;
    let health = match asked.map_err(|_| hangs())?.map_err(Failure::from) {
        Err(Failure::Absent(sentence)) => return Err(absent(&sentence).await),
        health => health?,
    };
    let version = context.bus.manager.version().await?;
    if context.document(&json::health(&version, &health))? {
        return Ok(());
    }
    context.out.table(&overview(&version, &health))?;
    if let Some(missing) = missing_for_turns(health.model_key) {
        context.out.line(missing)?;
    }
    if health.damaged_checkpoints > 0 {
        let count = health.damaged_checkpoints;
        context.out.line(&format!("damaged: {count} checkpoints; `ashctl fsck` says which"))?;
    }
    if health.copies_failing == Some(true) {
        let waiting = health.copies_waiting.unwrap_or(0);
        context.out.line(&format!(
            "failing: the object store does not take what is saved; {waiting} sessions wait; \
             `journalctl -u ashd` says why"
        ))?;
    }
    if health.retention_failing == Some(true) {
        context
            .out
            .line("failing: what is too old is not removed; `journalctl -u ashd` says why")?;
    }
    if let Some(over) = health.retention_over.filter(|over| *over > 0) {
        let over = top::bytes(over);
        context.out.line(&format!(
            "over: checkpoints take {over} more than retention.checkpoint_bytes, and what is left are \
             named ones and the newest of each session"
        ))?;
    }
    if !health.pressure.is_empty() {
        let short = health.pressure.join(", ");
        context.out.line(&format!("short: this machine has too little of {short}"))?;
    }
    if let Some(refused) = refusals(&health.refused) {
        context.out.line(&refused)?;
    }
    for layer in &health.missing {
        context.out.line(&format!("missing: {layer}"))?;
    }
    Ok(())
}

/// For want of what something was refused, and how often; nothing, when nothing was.
fn refusals(refused: &HashMap<String, u64>) -> Option<String> {
    let refused: BTreeMap<_, _> = refused.iter().filter(|(_, times)| **times > 0).collect();
    let each: Vec<_> = refused.iter().map(|(of, times)| format!("{of} ({times})")).collect();
    let all = each.join(", ");
    (!all.is_empty()).then(|| format!("refused: since the start, for want of {all}"))
}

/// How the daemon is, when all is well.
fn overview(version: &str, health: &Health) -> Vec<Vec<String>> {
    let minutes = health.uptime / 60;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    let sandboxes = format!(
        "{} of at most {} alive, {} running a turn, {} standing still, {} starting",
        health.live_sandboxes, health.max_sandboxes, health.running, health.frozen, health.warming
    );
    let turns = format!(
        "{} of at most {} running, {} waiting",
        health.turns_running, health.turns_max, health.turns_waiting
    );
    let launches = format!(
        "{} of at most {} under way, {} waiting",
        health.launches_running, health.launches_max, health.launches_waiting
    );
    let mut idle = format!(
        "{} without a sandbox, {} ended since the start, {} of them for others, {} given back",
        health.cold,
        health.cooled,
        health.evictions,
        top::bytes(health.reclaimed_bytes)
    );
    idle += &top::cleared(health).unwrap_or_default();
    let mut rows = vec![
        row("ashd", format!("{version}, up {days} d {hours} h {minutes} min")),
        row("sessions", format!("{} active", health.active_sessions)),
        row("turns", turns),
        row("sandboxes", sandboxes),
    ];
    rows.extend(top::warm(health).map(|warm| row("warm", warm)));
    let resumes = format!("{} warm, {} cold", health.resume_warm_hits, health.resume_cold_hits);
    rows.extend([row("launches", launches), row("idle", idle), row("resumes", resumes)]);
    rows
}

/// Looks without the daemon, through `ashd fsck`, which refuses when a daemon runs that has no bus.
async fn at_rest(why: &str, deep: bool, as_json: bool) -> Failure {
    crate::out::note(&format!("ashctl: {why}; looking at what lies on the disk"));
    machine::become_fsck(deep, as_json).await
}

/// That the daemon does not answer. The watchdog notices that as well, a little later.
fn hangs() -> Failure {
    Failure::Absent(
        "ashd is on the bus and does not answer; `ashctl logs` may say why, and `ashctl restart` \
         keeps sandboxes and turns"
            .into(),
    )
}

/// That the daemon is not there, with what the service manager says of it.
async fn absent(sentence: &str) -> Failure {
    let unit = systemctl::DAEMON;
    let Some(state) = systemctl::state(unit).await else {
        return Failure::Absent(sentence.to_owned());
    };
    let why = match state.as_str() {
        // Between two starts, too: it may be tried again for long.
        "failed" | "activating" => systemctl::last_words(unit).await,
        _ => None,
    };
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    Failure::Absent(format!("{sentence}; systemctl says that {unit} is {state}{why}"))
}

fn row(name: &str, value: impl Into<String>) -> Vec<String> {
    vec![name.to_owned(), value.into()]
}
