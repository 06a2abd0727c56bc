//! Why a runtime cannot be installed, used or removed.

use std::io;
use std::path::PathBuf;

use crate::failure::Failure;

/// Why a runtime cannot be installed, used or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// Not root.
    #[error("only root can change the installed runtimes; run it with sudo")]
    NotRoot,
    /// A version that cannot name a directory.
    #[error("{0:?} is no version; one looks like 2.1.197")]
    Version(String),
    /// No sandbox to try it in.
    #[error(
        "the program cannot be tried without bubblewrap, and what was not tried is not installed; \
         install the package bubblewrap"
    )]
    NoBwrap,
    /// The sandbox or the program in it does not start.
    #[error("{0} does not run in a sandbox: {1}")]
    Broken(PathBuf, String),
    /// It says something else than a version.
    #[error(
        "{path} says {said:?} when asked for its version; give the native program of the Claude \
         Code CLI, not its npm wrapper", path = .path.display()
    )]
    Odd {
        /// The program.
        path: PathBuf,
        /// What it says.
        said: String,
    },
    /// It is another one.
    #[error("the program says that it is {said}, not {wanted}; nothing was installed")]
    OtherVersion {
        /// The version that was asked for.
        wanted: String,
        /// The version that it says it is.
        said: String,
    },
    /// No npm.
    #[error(
        "npm is missing; install it, or fetch {0} elsewhere and give its program `claude` with \
         --file"
    )]
    NoNpm(String),
    /// No build for this processor.
    #[error("there is no Claude Code CLI for {0}")]
    Processor(String),
    /// npm failed.
    #[error("npm cannot fetch {package}: {said}")]
    Npm {
        /// Package and version.
        package: String,
        /// The end of what it said.
        said: String,
    },
    /// No such version.
    #[error("version {0} is not installed; see `ashctl runtime list`")]
    Missing(String),
    /// It is the one in use.
    #[error("version {0} is in use; choose another with `ashctl runtime use` first")]
    InUse(String),
    /// The link is something else.
    #[error("{0} is not a link that `ashctl runtime` made; move it away first")]
    NoLink(PathBuf),
    /// The system failed.
    #[error("{path}: {error}", path = .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// How.
        error: io::Error,
    },
}

impl RuntimeError {
    /// A failure of the system at a path.
    pub(super) fn io<E: Into<io::Error>>(path: &std::path::Path) -> impl FnOnce(E) -> Self {
        |error| RuntimeError::Io { path: path.to_owned(), error: error.into() }
    }
}

impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Self {
        let text = error.to_string();
        match error {
            RuntimeError::NotRoot => Failure::Denied(text),
            RuntimeError::Version(_) => Failure::Usage(text),
            RuntimeError::Missing(_) => Failure::NotFound(text),
            RuntimeError::Odd { .. }
            | RuntimeError::OtherVersion { .. }
            | RuntimeError::Processor(_)
            | RuntimeError::InUse(_)
            | RuntimeError::NoLink(_) => Failure::Refused(text),
            RuntimeError::NoBwrap
            | RuntimeError::Broken(..)
            | RuntimeError::NoNpm(_)
            | RuntimeError::Npm { .. }
            | RuntimeError::Io { .. } => Failure::Failed(text),
        }
    }
}
