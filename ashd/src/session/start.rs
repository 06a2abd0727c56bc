//! How a session was when it was made: its agent's folder, and nothing said.
//!
//! Nobody saves that, since it can be had at any time. A session that goes back to it gets a point of it
//! first: from then on going back is what it is to any other point, also for whoever comes behind a
//! daemon that died on the way.

use super::agents;
use super::api::Refusal;
use super::keeping::{beside, point_of, unkept};
use super::service::blocking;
use super::shared::Shared;
use crate::domain::{Point, Session};
use crate::fault;
use crate::tree::{TreeError, remove_all};

impl Shared {
    /// Makes a point of how a session was when it was made, at a number of its history up to which
    /// nothing was said. What it takes is laid out where files are built, and left there.
    pub(super) async fn start_point(&self, session: &Session, seq: u64) -> Result<Point, Refusal> {
        let name = beside(session.id);
        self.lay_out_again(session, &name).await?;
        let cut = self.cut_at_rest(session, self.places.sessions().join(name)).await;
        let cut = cut.map_err(|error| unkept(session.id, error))?;
        // The conversation is one that the CLI does not know yet.
        let cli_session = session.id.to_string();
        let start = Session { last_seq: seq, turn: None, cli_session, ..session.clone() };
        let point = point_of(&cut, &start, None);
        // None of the others makes room for it.
        self.store.add_point(point.clone(), u32::MAX).await?;
        fault::point("back.start");
        // From here on the point keeps what was cut from being collected.
        drop(cut);
        Ok(point)
    }

    /// Makes workspace and home of a session once more as they were when it was made, under a name
    /// beside the other sessions'. They may not be on the disk.
    pub(super) async fn lay_out_again(&self, session: &Session, name: &str) -> Result<(), Refusal> {
        let (places, options) = (self.places.clone(), self.options.clone());
        let (owner, session, name) = (self.owner(session)?, session.clone(), name.to_owned());
        let lay_out = move || {
            let version = (&session.tenant, &session.agent, session.agent_version);
            if !places.version(version.0, version.1, version.2).is_dir() {
                return Err(agents::named(&session.agent));
            }
            let failed = |error: TreeError| Refusal::Internal(error.to_string());
            remove_all(&places.sessions(), &name).map_err(failed)?;
            agents::lay_out(&places, version, &places.sessions().join(name), owner, &options)
        };
        blocking(lay_out).await
    }
}
