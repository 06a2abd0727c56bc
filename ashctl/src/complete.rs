//! Completion of the command line in shells, names of agents and ids of sessions and keys included: the
//! shell's script asks this program what may come next.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ash_dbus::value::SessionFilter;
use clap_complete::engine::CompletionCandidate;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use clap_complete::{CompleteEnv, Shell};

use crate::bus::Bus;
use crate::failure::Failure;
use crate::machine::{self, Shelf};

/// The variable by which the script tells this program that a shell asks, and which one.
const VARIABLE: &str = "ASHCTL_COMPLETE";

/// How long somebody who pressed a key waits.
const PATIENCE: Duration = Duration::from_secs(1);

/// Sessions that are offered: the newest.
const MOST: u32 = 50;

/// Answers a shell, and ends the program, if it is a shell that asks.
pub(crate) fn answer_shell() {
    CompleteEnv::with_factory(crate::command).var(VARIABLE).complete();
}

/// The script that a shell needs; nothing for a shell that is not known.
///
/// # Errors
/// None in practice: it is written into memory.
pub(crate) fn script(shell: Shell) -> io::Result<Vec<u8>> {
    let mut script = Vec::new();
    let completer: &dyn EnvCompleter = match shell {
        Shell::Bash => &Bash,
        Shell::Fish => &Fish,
        Shell::Zsh => &Zsh,
        _ => return Ok(script),
    };
    completer.write_registration(VARIABLE, "ashctl", "ashctl", "ashctl", &mut script)?;
    if shell == Shell::Zsh {
        // Loaded by the first completion, it has to answer that one, too.
        let first = "\n[ \"$funcstack[1]\" = _ashctl ] && _clap_dynamic_completer_ashctl \"$@\"\n";
        script.extend(first.as_bytes());
    }
    Ok(script)
}

/// Names of agents.
pub(crate) fn agents() -> Vec<CompletionCandidate> {
    asked(async |bus: Bus| {
        let agents = bus.manager.list_agents().await?;
        let candidate = |agent: ash_dbus::value::AgentInfo| {
            let about = format!("version {}", agent.version);
            CompletionCandidate::new(agent.name).help(Some(about.into()))
        };
        Ok(agents.into_iter().map(candidate).collect())
    })
}

/// Ids of sessions.
pub(crate) fn sessions() -> Vec<CompletionCandidate> {
    asked(async |bus: Bus| {
        let filter =
            SessionFilter { limit: Some(MOST), offset: Some(0), ..SessionFilter::default() };
        let (sessions, _) = bus.manager.list_sessions(filter).await?;
        let candidate = |session: ash_dbus::value::SessionInfo| {
            let about = format!("{}, {}", session.agent_name, session.status);
            CompletionCandidate::new(session.id).help(Some(about.into()))
        };
        Ok(sessions.into_iter().map(candidate).collect())
    })
}

/// Ids of API keys, for who may see them without being asked for a password.
pub(crate) fn keys() -> Vec<CompletionCandidate> {
    asked(async |bus: Bus| {
        let keys = bus.manager.list_keys().await?;
        let candidate = |key: ash_dbus::value::KeyInfo| {
            let about = format!("{}, {}", key.name, key.scope);
            CompletionCandidate::new(key.id).help(Some(about.into()))
        };
        Ok(keys.into_iter().map(candidate).collect())
    })
}

/// Installed versions of the CLI.
pub(crate) fn versions() -> Vec<CompletionCandidate> {
    let libexec = std::env::var_os("ASH_LIBEXEC_DIR").map(PathBuf::from);
    let shelf = Shelf::at(libexec.unwrap_or_else(machine::libexec_dir));
    let installed = shelf.list().unwrap_or_default().into_iter();
    installed.map(|one| CompletionCandidate::new(one.version)).collect()
}

/// What the command line that is being completed says of where the daemon is.
#[derive(Debug, Eq, PartialEq)]
enum Where {
    /// On another machine, which nobody asks who only pressed a key.
    Elsewhere,
    /// On this bus; without one, on the system bus.
    Here(Option<String>),
}

impl Where {
    /// What the shell hands over begins with this program's name, its own words behind `--`.
    fn read(words: impl Iterator<Item = String>, variable: Option<String>) -> Where {
        let mut bus = variable.filter(|address| !address.is_empty());
        let mut words = words.skip_while(|word| word != "--").skip(1);
        while let Some(word) = words.next() {
            let is_host = word.starts_with("--host") || word.starts_with("-H");
            match word.strip_prefix("--bus") {
                _ if is_host => return Where::Elsewhere,
                Some("") => bus = words.next(),
                Some(rest) => bus = rest.strip_prefix('=').map(str::to_owned).or(bus),
                None => {}
            }
        }
        Where::Here(bus)
    }
}

/// What the daemon answers; nothing when it does not, or is on another machine.
fn asked<F>(question: impl FnOnce(Bus) -> F) -> Vec<CompletionCandidate>
where
    F: Future<Output = Result<Vec<CompletionCandidate>, Failure>>,
{
    let variable = std::env::var("ASH_BUS_ADDRESS").ok();
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let Where::Here(address) = Where::read(words, variable) else { return Vec::new() };
    let asked = async { question(Bus::connect(address.as_deref()).await?).await };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, asked).await });
    answer.unwrap_or_else(|_| Ok(Vec::new())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_where_the_command_will_go() {
        let read = |line: &str, variable: Option<&str>| {
            let words = line.split(' ').map(str::to_owned);
            Where::read(words, variable.map(str::to_owned))
        };
        let here = |bus: &str| Where::Here(Some(bus.to_owned()));
        assert_eq!(read("ashctl -- ashctl session end ", None), Where::Here(None));
        assert_eq!(read("ashctl -- ashctl session end ", Some("unix:a")), here("unix:a"));
        assert_eq!(
            read("ashctl -- ashctl --bus unix:b session end ", Some("unix:a")),
            here("unix:b")
        );
        assert_eq!(read("ashctl -- ashctl session --bus=unix:b end ", None), here("unix:b"));
        for host in ["-H prod", "-Hprod", "--host prod", "--host=prod"] {
            assert_eq!(
                read(&format!("ashctl -- ashctl {host} session end "), None),
                Where::Elsewhere
            );
        }
    }

    #[test]
    fn every_shell_has_its_script() {
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            let script = String::from_utf8(script(shell).unwrap()).unwrap();
            assert!(script.contains(VARIABLE) && script.contains("ashctl"), "{shell}: {script}");
        }
        assert!(script(Shell::Elvish).unwrap().is_empty());
    }
}
