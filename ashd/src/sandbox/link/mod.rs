//! The conversation with one bridge.
//!
//! [`connect`] greets the bridge and cuts the connection in two: a [`LinkSender`] that never
//! waits, and a [`LinkReceiver`] that hands over what arrived in batches. What comes from the
//! bridge is the word of a process inside the sandbox: it is bounded and checked, and the first
//! frame that breaks the rules ends the conversation.

mod receive;
mod send;

pub use receive::{Incoming, LinkReceiver};
pub use send::LinkSender;

use std::io;
use std::path::Path;

use ash_wire::frame::{FrameError, Kind};
use ash_wire::words::{Hello, Welcome};
use tokio::net::UnixStream;

use crate::domain::SandboxId;

/// Why a conversation with a bridge failed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The socket failed.
    #[error("the sandbox cannot be reached: {0}")]
    Io(#[from] io::Error),
    /// The other end hung up.
    #[error("the sandbox hung up")]
    Gone,
    /// The other end hung up inside a frame.
    #[error("the sandbox hung up in the middle of a message")]
    Cut,
    /// The bytes are no frame.
    #[error("the sandbox sent nonsense: {0}")]
    Frame(#[from] FrameError),
    /// A frame that a bridge must not send, or not now.
    #[error("the sandbox sent a {0:?} frame out of place")]
    OutOfPlace(Kind),
    /// A frame whose body is not what its kind says.
    #[error("the sandbox sent a malformed {kind:?} frame: {reason}")]
    Malformed {
        /// The frame's kind.
        kind: Kind,
        /// What is wrong with the body, cut.
        reason: String,
    },
    /// The bridge speaks only versions that this build does not.
    #[error("the sandbox speaks version {0} of the protocol, which this build does not; end it")]
    Version(u16),
    /// The bridge belongs to another sandbox.
    #[error("the socket of sandbox {expected} is answered by another one")]
    Stranger {
        /// The sandbox that should have answered.
        expected: SandboxId,
    },
    /// What is to be sent is over the limits of the protocol.
    #[error("a message of {0} bytes is too long for the sandbox")]
    TooLong(usize),
    /// The bridge does not read: too much waits to be sent.
    #[error("the sandbox does not read what it is sent")]
    Stuck,
}

/// Connects to a bridge and greets it: every event that it keeps from number `resend_from` on
/// comes again before new ones. The caller sets the time limit; losing the future hangs up.
///
/// # Errors
/// When nobody listens at `path`, or whoever answers is not the bridge of `sandbox` or speaks no
/// version that this build speaks.
pub async fn connect(
    path: &Path,
    sandbox: SandboxId,
    resend_from: u64,
) -> Result<(LinkSender, LinkReceiver, Welcome), LinkError> {
    let (read, write) = UnixStream::connect(path).await?.into_split();
    let sender = LinkSender::start(write);
    let hello = Hello { version: ash_wire::VERSION, oldest: ash_wire::OLDEST_VERSION, resend_from };
    sender.hello(&hello)?;
    let mut receiver = LinkReceiver::new(read, sender.clone());
    let welcome = receiver.welcome().await?;
    check(&welcome, sandbox)?;
    sender.agree(welcome.version);
    receiver.rest();
    Ok((sender, receiver, welcome))
}

fn check(welcome: &Welcome, sandbox: SandboxId) -> Result<(), LinkError> {
    if !(ash_wire::OLDEST_VERSION..=ash_wire::VERSION).contains(&welcome.version) {
        return Err(LinkError::Version(welcome.version));
    }
    if welcome.sandbox.parse() != Ok(sandbox) {
        return Err(LinkError::Stranger { expected: sandbox });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
