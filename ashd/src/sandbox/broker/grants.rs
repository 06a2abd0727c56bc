//! Sandboxes' ways out: sockets, and who answers there.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use ash_broker::control::{self, Control};

use super::{Broker, BrokerError, Peer, Shared};
use crate::domain::SandboxId;
use crate::fault;
use crate::sandbox::socket;
use crate::sandbox::stand_in::{Answer, StandIn};
use crate::tree;

/// A sandbox's way out.
pub(super) struct Grant {
    /// Who comes through it.
    peer: Peer,
    /// Whether it leads anywhere: the socket of one that does not is kept from every broker.
    is_open: bool,
    /// A socket that no broker has yet.
    pub(super) waiting: Option<OwnedFd>,
    /// Who answers there when no broker is to be expected, or when none is to hear of it.
    stand_in: Option<StandIn>,
}

impl Grant {
    fn new(peer: Peer) -> Grant {
        Grant { peer, is_open: true, waiting: None, stand_in: None }
    }

    /// One that leads nowhere yet.
    fn closed(peer: Peer) -> Grant {
        Grant { is_open: false, ..Grant::new(peer) }
    }
}

impl Broker {
    /// Gives a sandbox its way out, a socket in [`directory`](Self::directory). Doing so again
    /// replaces the socket and cuts nothing.
    ///
    /// # Errors
    /// When the socket cannot be made, or the broker does not take it.
    pub async fn grant(&self, sandbox: SandboxId, peer: Peer) -> Result<(), BrokerError> {
        self.shared.grants().insert(sandbox, Grant::new(peer));
        self.shared.prepare(sandbox)?;
        self.let_through(sandbox).await
    }

    /// Gives a sandbox a socket that leads nowhere: whoever asks something there hears a word that
    /// never came from a model, until [`hold`](Self::hold); then it waits, until [`open`](Self::open).
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn grant_closed(&self, sandbox: SandboxId, peer: Peer) -> Result<(), BrokerError> {
        self.shared.grants().insert(sandbox, Grant::closed(peer));
        self.shared.prepare(sandbox)
    }

    /// Nobody answers any more at a socket that leads nowhere.
    pub fn hold(&self, sandbox: SandboxId) {
        if let Some(grant) = self.shared.grants().get_mut(&sandbox).filter(|grant| !grant.is_open) {
            grant.stand_in = None;
        }
    }

    /// Has a socket that led nowhere lead to the model API.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn open(&self, sandbox: SandboxId) -> Result<(), BrokerError> {
        self.shared.open(sandbox)?;
        self.let_through(sandbox).await
    }

    /// Hands a socket that waits to the broker, now or as soon as there is one.
    async fn let_through(&self, sandbox: SandboxId) -> Result<(), BrokerError> {
        if self.shared.is_late() {
            return Ok(());
        }
        match self.hand_over(sandbox).await {
            // It went away in between; the next one gets what this one did not.
            Err(BrokerError::Control(control::Error::Gone | control::Error::Io(_))) => {
                self.hand_over(sandbox).await
            }
            other => other,
        }
    }

    /// The directory with a sandbox's socket, `api.sock`.
    pub fn directory(&self, sandbox: SandboxId) -> PathBuf {
        self.shared.directory(sandbox)
    }

    /// Takes over a sandbox from a daemon before this one: grants what a broker that is new to it
    /// does not know, now or as soon as there is one.
    ///
    /// # Errors
    /// When the broker is not there just now, or the socket cannot be made.
    pub async fn adopt(&self, sandbox: SandboxId, peer: Peer) -> Result<(), BrokerError> {
        self.shared.grants().insert(sandbox, Grant::new(peer));
        if !self.shared.is_late() {
            let control = self.shared.reach().await?;
            if control.granted().await?.contains(&sandbox.0) {
                return Ok(());
            }
        }
        self.shared.prepare(sandbox)?;
        // Only now: a broker that has come meanwhile may not know of this socket.
        if self.shared.is_late() {
            return Ok(());
        }
        self.hand_over(sandbox).await
    }

    /// Takes the way out away, and its directory.
    ///
    /// # Errors
    /// When the directory cannot be removed. A broker that is not there has forgotten it already.
    pub async fn revoke(&self, sandbox: SandboxId) -> Result<(), BrokerError> {
        self.shared.grants().remove(&sandbox);
        let control = self.shared.control.borrow().clone();
        match control {
            Some(control) => self.shared.withdraw(&control, sandbox).await,
            None => self.shared.remove(sandbox),
        }
    }

    async fn hand_over(&self, sandbox: SandboxId) -> Result<(), BrokerError> {
        let control = self.shared.reach().await?;
        self.shared.hand_over(&control, sandbox).await
    }
}

impl Shared {
    pub(super) fn directory(&self, sandbox: SandboxId) -> PathBuf {
        self.setup.model_dir.join(sandbox.to_string())
    }

    /// Makes a listener at the sandbox's place, for the broker to have.
    pub(super) fn prepare(&self, sandbox: SandboxId) -> Result<(), BrokerError> {
        // With the lock held, on purpose: what is handed over must be what is in the place, and what is revoked
        // meanwhile must not be made anew. That is bounded: some ten calls for one sandbox, none of which waits for
        // anybody, in the run directory, which is in memory. And it holds up only those who make, claim or end
        // a sandbox, never a message, a turn or a stream; where it is done for all sandboxes, because another
        // broker comes, each of these has its turn in between.
        let mut grants = self.grants();
        let Some(grant) = grants.get_mut(&sandbox) else { return Ok(()) };
        let directory = self.directory(sandbox);
        let listener = socket::directory(&directory, 0o755)
            .and_then(|()| socket::listen_instead(&directory.join("api.sock"), grant.peer.uid))
            .map_err(BrokerError::Socket)?;
        let stand_in = self.answer(grant.is_open).map(|answer| StandIn::begin(&listener, answer));
        grant.waiting = Some(listener);
        grant.stand_in = stand_in.transpose().map_err(BrokerError::Socket)?;
        Ok(())
    }

    /// What a stand-in says at a socket; absent when there is to be none.
    fn answer(&self, is_open: bool) -> Option<Answer> {
        match is_open {
            false => Some(Answer::Primer),
            true => self.is_hopeless.load(Ordering::SeqCst).then_some(Answer::NoBroker),
        }
    }

    /// A socket that led nowhere waits for a broker, or for whoever stands in for it.
    fn open(&self, sandbox: SandboxId) -> Result<(), BrokerError> {
        let mut grants = self.grants();
        let Some(grant) = grants.get_mut(&sandbox) else { return Ok(()) };
        grant.is_open = true;
        let listener = grant.waiting.as_ref();
        let stand_in = listener.zip(self.answer(true));
        let stand_in = stand_in.map(|(listener, answer)| StandIn::begin(listener, answer));
        grant.stand_in = stand_in.transpose().map_err(BrokerError::Socket)?;
        Ok(())
    }

    /// Gives the broker a listener that waits for it. It stays waiting when the broker goes away.
    pub(super) async fn hand_over(
        &self,
        control: &Control,
        sandbox: SandboxId,
    ) -> Result<(), BrokerError> {
        fault::fail("broker.grant.before").map_err(BrokerError::Socket)?;
        let Some((peer, listener)) = self.take_waiting(sandbox) else { return Ok(()) };
        let handed = control.grant(sandbox.0, peer, listener.as_fd()).await;
        fault::point("broker.grant.after");
        match (self.grants().get_mut(&sandbox), handed) {
            (Some(grant), Err(error)) => {
                grant.waiting.get_or_insert(listener);
                return Err(error.into());
            }
            (Some(_), Ok(())) => return Ok(()),
            // Its end came meanwhile, and must not be undone.
            (None, _) => {}
        }
        self.withdraw(control, sandbox).await
    }

    /// A listener that a broker may have and has not, and who comes through it.
    fn take_waiting(&self, sandbox: SandboxId) -> Option<(Peer, OwnedFd)> {
        let mut grants = self.grants();
        let grant = grants.get_mut(&sandbox).filter(|grant| grant.is_open)?;
        grant.stand_in = None;
        Some((grant.peer, grant.waiting.take()?))
    }

    /// Has those answered who knock, and those who wait already.
    pub(super) fn stand_in(&self, sandbox: SandboxId) -> Result<(), BrokerError> {
        let mut grants = self.grants();
        let Some(Grant { waiting: Some(listener), stand_in, .. }) = grants.get_mut(&sandbox) else {
            drop(grants);
            return self.prepare(sandbox);
        };
        let begun = StandIn::begin(listener, Answer::NoBroker);
        *stand_in = Some(begun.map_err(BrokerError::Socket)?);
        Ok(())
    }

    /// Sandboxes that a broker may know of.
    pub(super) fn open_ones(&self) -> Vec<SandboxId> {
        let grants = self.grants();
        grants.iter().filter(|(_, grant)| grant.is_open).map(|(sandbox, _)| *sandbox).collect()
    }

    pub(super) fn for_each(&self, act: impl Fn(SandboxId) -> Result<(), BrokerError>) {
        for sandbox in self.open_ones() {
            if let Err(error) = act(sandbox) {
                tracing::warn!(ash_sandbox = %sandbox, %error, "a sandbox has no way to the model for now");
            }
        }
    }

    pub(super) async fn withdraw(
        &self,
        control: &Control,
        sandbox: SandboxId,
    ) -> Result<(), BrokerError> {
        if let Err(error) = control.revoke(sandbox.0).await {
            tracing::debug!(ash_sandbox = %sandbox, %error, "the broker did not hear of a sandbox's end");
        }
        self.remove(sandbox)
    }

    fn remove(&self, sandbox: SandboxId) -> Result<(), BrokerError> {
        tree::remove_all(&self.setup.model_dir, &sandbox.to_string())
            .map_err(|error| BrokerError::Socket(io::Error::other(error)))
    }
}
