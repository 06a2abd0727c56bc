//! The beginning of a sandbox.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ash_wire::plan::Plan;
use ash_wire::words::Welcome;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::broker::Peer;
use super::cgroup::Cgroups;
use super::error::SandboxError;
use super::lease::Uids;
use super::limits::Limits;
use super::link::{self, LinkReceiver, LinkSender};
use super::manager::Sandboxes;
use super::plan::{Host, PlacedFile, Spec, plan};
use super::said::Said;
use super::socket;
use crate::domain::{SandboxId, SessionId};
use crate::fault;
use crate::telemetry::metrics::labels::SpawnPhase;
use crate::telemetry::metrics::timed;

/// How long a bridge that is there may take to answer a daemon that came back. One that does not
/// is ended, so this is long enough for a machine that has just come up with all of them.
const GREETING: Duration = Duration::from_secs(10);

/// Where a sandbox's way out leads.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// To the broker, and so to the model API.
    Broker,
    /// Nowhere, until [`Sandboxes::open`]: what is asked is answered by nobody's model.
    Nowhere,
}

/// A sandbox about to be made.
#[derive(Clone, Debug)]
pub struct NewSandbox {
    /// Its id.
    pub id: SandboxId,
    /// The session that it serves: what logs call it.
    pub session: SessionId,
    /// Its users.
    pub uids: Uids,
    /// The workspace on the host, owned by the agent's uid.
    pub workspace: PathBuf,
    /// The home on the host, owned by the agent's uid.
    pub home: PathBuf,
    /// Read-only files of root.
    pub files: Vec<PlacedFile>,
    /// Bounds.
    pub limits: Limits,
    /// What it calls itself; what no host name may have is replaced.
    pub hostname: String,
    /// Where its way out leads.
    pub way: Way,
}

/// A sandbox whose bridge answers. Dropping it hangs up and ends nothing.
#[derive(Debug)]
pub struct Running {
    /// Its id.
    pub id: SandboxId,
    /// Towards the bridge.
    pub sender: LinkSender,
    /// From the bridge.
    pub receiver: LinkReceiver,
    /// What the bridge said of itself.
    pub welcome: Welcome,
}

/// Everything that the launcher needs, and what it leaves us.
struct Prepared {
    plan: Plan,
    fds: Vec<OwnedFd>,
    said: OwnedFd,
}

impl Sandboxes {
    /// Makes a sandbox and waits until its bridge answers. When it fails nothing of it is left;
    /// the same, some time later, when the future is lost.
    ///
    /// # Errors
    /// When a part cannot be made, or the bridge does not answer in time.
    pub async fn launch(self: &Arc<Self>, new: NewSandbox) -> Result<Running, SandboxError> {
        let (all, id) = (self.clone(), new.id);
        let (tell, told) = oneshot::channel();
        all.making().insert(id);
        tokio::spawn(async move {
            let made = timed(&all.setup.metrics.spawns, all.make(new)).await;
            if made.is_err() {
                all.end_and_log(id).await;
            }
            // One that was made is among those that live by now.
            all.making().remove(&id);
            if let Err(Ok(_)) = tell.send(made) {
                // Nobody waits any more.
                all.end_and_log(id).await;
            }
        });
        told.await.unwrap_or(Err(SandboxError::ShuttingDown))
    }

    /// Nobody answers any more in a sandbox whose way out leads nowhere: who asks, waits.
    pub fn hold(&self, sandbox: SandboxId) {
        self.broker.hold(sandbox);
    }

    /// Has the way out of a sandbox lead to the broker.
    ///
    /// # Errors
    /// When the broker does not take it.
    pub async fn open(&self, sandbox: SandboxId) -> Result<(), SandboxError> {
        Ok(self.broker.open(sandbox).await?)
    }

    /// Finds a sandbox again that a daemon before this one left, and asks for its events from
    /// number `resend_from` on. When it does not answer, what is left of it is removed: `None`.
    ///
    /// # Errors
    /// When what is left cannot be removed.
    pub async fn adopt(
        &self,
        id: SandboxId,
        session: SessionId,
        uids: Uids,
        resend_from: u64,
    ) -> Result<Option<Running>, SandboxError> {
        let socket = self.bridge_socket(id);
        let greeted = match self.cgroups.group(id).exists() {
            true => timeout(GREETING, link::connect(&socket, id, resend_from)).await.ok(),
            false => None,
        };
        let Some(Ok(link)) = greeted else {
            self.end(id).await?;
            return Ok(None);
        };
        fault::point("reconcile.greeted");
        // Whoever froze it is no more.
        if let Err(error) = self.cgroups.group(id).thaw() {
            tracing::warn!(
                ash_session = %session, ash_sandbox = %id, %error,
                "an agent may stand still"
            );
        }
        // Without a broker a turn waits; that is no reason to end it.
        if let Err(error) = self.broker.adopt(id, peer(session, uids)).await {
            tracing::warn!(
                ash_session = %session, ash_sandbox = %id, %error,
                "a sandbox has no way to the model for now"
            );
        }
        Ok(Some(self.running(id, link)))
    }

    async fn make(&self, new: NewSandbox) -> Result<Running, SandboxError> {
        let (id, session, socket) = (new.id, new.session, self.bridge_socket(new.id));
        let (way, peer) = (new.way, peer(session, new.uids));
        let granted = async {
            match way {
                Way::Broker => self.broker.grant(id, peer).await,
                Way::Nowhere => self.broker.grant_closed(id, peer),
            }
        };
        let phases = &self.setup.metrics.spawn_phases;
        let granted = timed(phases.of(SpawnPhase::Grant), granted);
        let prepared = self.prepare(new, socket.clone());
        let prepared = timed(phases.of(SpawnPhase::Prepare), prepared);
        let (granted, prepared) = tokio::join!(granted, prepared);
        granted?;
        let Prepared { plan, fds, said } = prepared?;
        fault::fail("spawn.launch.before")?;
        let launched = self.launcher.launch(&plan, &fds);
        let launched = timed(phases.of(SpawnPhase::Launch), launched).await;
        fault::fail("spawn.launch.after")?;
        // With our own copies gone, the death of the sandbox shows on its socket and its pipe.
        drop(fds);
        launched?;
        let greeted = self.greet(id, &socket, Said::listen(id, session, said)?);
        let link = timed(phases.of(SpawnPhase::Greet), greeted).await?;
        fault::fail("spawn.greeted")?;
        Ok(self.running(id, link))
    }

    async fn prepare(&self, new: NewSandbox, socket: PathBuf) -> Result<Prepared, SandboxError> {
        let (cgroups, host) = (self.cgroups.clone(), self.host.clone());
        let spec = self.spec(new);
        spawn_blocking(move || prepare(&cgroups, &host, &spec, &socket)).await?
    }

    fn spec(&self, new: NewSandbox) -> Spec {
        Spec {
            sandbox: new.id,
            uids: new.uids,
            runtime: self.runtime(),
            workspace: new.workspace,
            home: new.home,
            model_dir: self.broker.directory(new.id),
            files: new.files,
            limits: new.limits,
            hostname: new.hostname,
            orphan_timeout_s: self.setup.orphan_timeout.as_secs(),
        }
    }

    async fn greet(
        &self,
        id: SandboxId,
        socket: &Path,
        said: Said,
    ) -> Result<(LinkSender, LinkReceiver, Welcome), SandboxError> {
        let after = self.setup.ready_timeout;
        match timeout(after, link::connect(socket, id, 0)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(source)) => Err(SandboxError::Link { source, said: said.last_words().await }),
            Err(_) => Err(SandboxError::Silent { after, said: said.last_words().await }),
        }
    }

    fn running(
        &self,
        id: SandboxId,
        (sender, receiver, welcome): (LinkSender, LinkReceiver, Welcome),
    ) -> Running {
        self.live_ones().insert(id, sender.clone());
        Running { id, sender, receiver, welcome }
    }
}

/// Who comes to the broker from a sandbox.
fn peer(session: SessionId, uids: Uids) -> Peer {
    Peer { uid: uids.agent, session: Some(session.0) }
}

/// Makes everything of a sandbox that is no process. Blocks.
fn prepare(
    cgroups: &Cgroups,
    host: &Host,
    spec: &Spec,
    bridge: &Path,
) -> Result<Prepared, SandboxError> {
    let (plan, files) = plan(spec, host)?;
    let group = cgroups.create(spec.sandbox, &spec.limits)?;
    fault::fail("spawn.cgroup")?;
    let listener = socket::listen(bridge, 0)?;
    fault::fail("spawn.listening")?;
    let (said, stderr) = socket::pipe()?;
    let mut fds = vec![listener, group.open_bridge()?, group.open_agent()?, stderr];
    for file in &files {
        fds.push(sealed(file)?);
    }
    Ok(Prepared { plan, fds, said })
}

fn sealed(file: &Bytes) -> Result<OwnedFd, SandboxError> {
    Ok(socket::sealed(file)?)
}
