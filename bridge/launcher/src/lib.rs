//! Makes sandboxes.
//!
//! A small single-threaded program, the only one of ash with CAP_SYS_ADMIN. It knows one request:
//! make this [`Plan`](ash_wire::plan::Plan), with these descriptors. It never reads anything that
//! an agent wrote.
//!
//! In reading order: [`options`]; [`validate`], what may be asked for; [`argv`], how bubblewrap is
//! told; [`launch`], the steps of one launch; [`server`], the loop around it; [`rights`], what all that
//! takes; [`keeper`], what keeps the loop there when it is a service of its own; [`fault`], where
//! tests let it die.

use std::process::ExitCode;

use ash_sys::process::can_fork_into;
use rustix::fs::Mode;

pub mod options;

pub mod validate;

pub mod argv;

pub mod launch;

pub mod server;

pub mod rights;

pub mod keeper;

pub mod fault;

use crate::keeper::KeeperError;
use crate::options::{Options, OptionsError};
use crate::server::{Server, ServerError, listen_at};

/// Why the launcher ended other than for want of use.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    /// The command line is of no use.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// What was inherited could not be shed.
    #[error("cannot close inherited descriptors: {0}")]
    Shed(std::io::Error),
    /// A call that it makes sandboxes with is kept from it.
    #[error(
        "the launcher may not use clone3 ({0}); a filter hides it: RestrictNamespaces= in a drop-in of \
         ash-sandboxes.service, or a container around it"
    )]
    Hidden(std::io::Error),
    /// It cannot serve.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// It cannot be a service.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
}

/// Runs the launcher with these arguments (without the program's name).
///
/// # Errors
/// When it cannot begin to serve, or cannot go on.
pub fn run(args: impl Iterator<Item = String>) -> Result<(), LauncherError> {
    ash_sys::fds::shed(3).map_err(LauncherError::Shed)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let options = Options::parse(args)?;
    can_fork_into().map_err(LauncherError::Hidden)?;
    if options.service {
        return Ok(keeper::keep(&options)?);
    }
    let listener = listen_at(&options.socket)?;
    Ok(Server::new(options, listener, None).run()?)
}

/// What `main` makes of it: the sentence goes to standard error. 64 is for arguments that will be as
/// wrong the next time (EX_USAGE of sysexits(3)), 78 for a machine or a unit that will be (EX_CONFIG), 1
/// for the rest.
pub fn exit_code(outcome: &Result<(), LauncherError>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(code(error))
        }
    }
}

fn code(error: &LauncherError) -> u8 {
    match error {
        LauncherError::Options(_) => 64,
        LauncherError::Hidden(_) => 78,
        LauncherError::Keeper(error) if error.needs_a_person() => 78,
        _ => 1,
    }
}

/// Says a sentence on standard error, at once and whole.
fn complain(sentence: &str) {
    let line = format!("ash-launcher: {sentence}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn what_will_be_as_wrong_the_next_time_is_told_from_what_may_pass() {
        let group = |error: Errno| {
            let (path, error) = ("/sys/fs/cgroup/ash".into(), error.into());
            LauncherError::Keeper(KeeperError::Group { path, error })
        };
        let server = |error| LauncherError::Keeper(KeeperError::Server(error));
        for lasts in [
            group(Errno::ROFS),
            group(Errno::ACCESS),
            group(Errno::PERM),
            LauncherError::Keeper(KeeperError::NoGroups("/proc/self/cgroup".into())),
            server(ServerError::Directory("/run/ash".into())),
        ] {
            assert_eq!(code(&lasts), 78, "{lasts}");
        }
        let busy = server(ServerError::InUse("/run/ash/launcher.sock".into()));
        for passes in [group(Errno::AGAIN), group(Errno::NOMEM), busy] {
            assert_eq!(code(&passes), 1, "{passes}");
        }
        let wrong = Options::parse(["--nonsense".to_owned()].into_iter()).unwrap_err();
        assert_eq!(code(&wrong.into()), 64);
    }
}
