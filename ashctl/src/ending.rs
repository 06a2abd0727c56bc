//! Being told to end where that has to be heard: something would be left as it must not be, a terminal
//! above all.

use std::future::poll_fn;
use std::io::{self, stdin};
use std::task::{Context, Poll};

use rustix::process::getpgrp;
use rustix::termios::{OptionalActions, Termios, tcgetpgrp, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// What tells the program to end. From when there is one on, it ends by that only where it is waited
/// for.
pub(crate) struct Ending(Vec<Signal>);

impl Ending {
    /// SIGTERM, and the end of the terminal.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub(crate) fn told() -> Result<Self, Failure> {
        Self::by(&[SignalKind::terminate(), SignalKind::hangup()])
    }

    /// The same, and Ctrl-C.
    ///
    /// # Errors
    /// When signals cannot be received.
    pub(crate) fn told_or_interrupted() -> Result<Self, Failure> {
        Self::by(&[SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()])
    }

    fn by(kinds: &[SignalKind]) -> Result<Self, Failure> {
        let all: io::Result<Vec<_>> = kinds.iter().map(|kind| signal(*kind)).collect();
        let unheard = |error| Failure::Failed(format!("signals cannot be received: {error}"));
        all.map(Ending).map_err(unheard)
    }

    /// Returns when it comes.
    pub(crate) async fn comes(&mut self) {
        let polled = |context: &mut Context<'_>| {
            let is_there = self.0.iter_mut().any(|it| it.poll_recv(context).is_ready());
            if is_there { Poll::Ready(()) } else { Poll::Pending }
        };
        poll_fn(polled).await;
    }

    /// Waits for something, which is dropped when it comes.
    ///
    /// # Errors
    /// [`Failure::Interrupted`] when it comes.
    pub(crate) async fn unless<T>(&mut self, what: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            done = what => Ok(done),
            () = self.comes() => Err(Failure::Interrupted),
        }
    }
}

/// Gives the terminal back as it was; says whether it did. In the background it is somebody else's,
/// and whoever changes it is stopped.
pub(crate) fn give_back(before: &Termios, how: OptionalActions) -> bool {
    let is_theirs = tcgetpgrp(stdin()).is_ok_and(|group| group != getpgrp());
    // One that has gone needs nothing any more.
    !is_theirs && tcsetattr(stdin(), how, before).is_ok()
}
