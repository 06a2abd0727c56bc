//! The connection to `ashd`.

use std::time::Duration;

use ash_dbus::value::{AgentInfo, SessionFilter, SessionInfo};
use ash_dbus::{AgentProxy, BUS_NAME, ManagerProxy, SessionProxy};
use futures_util::StreamExt;
use tokio::time::timeout;
use zbus::connection::Builder;
use zbus::fdo::DBusProxy;
use zbus::{Connection, proxy::CacheProperties};

use crate::failure::Failure;
use crate::id::{Kind, is_beginning, only};

/// How long a bus may take to let us in: some seconds, where a machine is overloaded.
const GREETING: Duration = Duration::from_secs(15);

/// How long to wait for `ashd` to come back.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sessions that are asked for at once.
const PAGE: u32 = 1000;

/// A connection to the bus that `ashd` is on.
#[derive(Clone)]
pub(crate) struct Bus {
    connection: Connection,
    /// The daemon.
    pub(crate) manager: ManagerProxy<'static>,
}

impl Bus {
    /// Connects to the bus at this address, or to the system bus.
    pub(crate) async fn connect(address: Option<&str>) -> Result<Self, Failure> {
        let builder = match address {
            Some(address) => Builder::address(address),
            None => Builder::system(),
        };
        let unusable = |error| Failure::Usage(format!("the bus address is not valid: {error}"));
        let connection = timeout(GREETING, builder.map_err(unusable)?.build()).await;
        let connection = connection.map_err(|_| silent())?.map_err(unreachable)?;
        let manager = ManagerProxy::builder(&connection)
            .cache_properties(CacheProperties::No)
            .build()
            .await?;
        Ok(Bus { connection, manager })
    }

    /// An agent by name.
    pub(crate) async fn agent(
        &self,
        name: &str,
    ) -> Result<(AgentProxy<'static>, AgentInfo), Failure> {
        let (path, info) = self.manager.get_agent(name).await?;
        let agent = AgentProxy::builder(&self.connection).path(path)?;
        Ok((agent.cache_properties(CacheProperties::No).build().await?, info))
    }

    /// A session by its id, or by how no other id begins.
    pub(crate) async fn session(
        &self,
        id: &str,
    ) -> Result<(SessionProxy<'static>, SessionInfo), Failure> {
        let id = self.whole_id(id).await?;
        let (path, info) = self.manager.get_session(&id).await?;
        let session = SessionProxy::builder(&self.connection).path(path)?;
        Ok((session.cache_properties(CacheProperties::No).build().await?, info))
    }

    /// The only id of a session that begins like this. What is whole, or says too little to be looked
    /// for, comes back as it is: the daemon says what is wrong with it.
    ///
    /// # Errors
    /// When none begins so, or more than one.
    pub(crate) async fn whole_id(&self, id: &str) -> Result<String, Failure> {
        if !is_beginning(id) {
            return Ok(id.to_owned());
        }
        only(id, self.beginning_with(&id.to_ascii_lowercase()).await?, Kind::Session)
    }

    /// The ids of all sessions that begin like this, the newest first.
    async fn beginning_with(&self, beginning: &str) -> Result<Vec<String>, Failure> {
        let (mut found, mut seen) = (Vec::new(), 0_u32);
        loop {
            let filter =
                SessionFilter { limit: Some(PAGE), offset: Some(seen), ..SessionFilter::default() };
            let (page, _) = self.manager.list_sessions(filter).await?;
            if page.is_empty() {
                return Ok(found);
            }
            seen = seen.saturating_add(u32::try_from(page.len()).unwrap_or(u32::MAX));
            for SessionInfo { id, .. } in page {
                // One that is made meanwhile moves others to the next page once more.
                if id.starts_with(beginning) && !found.contains(&id) {
                    found.push(id);
                }
            }
        }
    }

    /// Whether somebody has this name on the bus, or is started when the name is called.
    pub(crate) async fn has(&self, name: &str) -> zbus::Result<bool> {
        let bus = DBusProxy::new(&self.connection).await?;
        let (there, startable) = (bus.list_names().await?, bus.list_activatable_names().await?);
        Ok(there.iter().chain(&startable).any(|known| known.as_str() == name))
    }

    /// Waits until `ashd` is on the bus, at once if it is.
    pub(crate) async fn wait_for_daemon(&self) -> Result<(), Failure> {
        let bus = DBusProxy::new(&self.connection).await?;
        let mut changes = bus.receive_name_owner_changed_with_args(&[(0, BUS_NAME)]).await?;
        let back = async {
            while !bus.name_has_owner(BUS_NAME.try_into()?).await? {
                changes.next().await;
            }
            zbus::Result::Ok(())
        };
        match timeout(PATIENCE, back).await {
            Ok(waited) => Ok(waited?),
            Err(_) => Err(Failure::Absent("ashd went away and did not come back".into())),
        }
    }
}

fn silent() -> Failure {
    Failure::Absent(
        "the message bus does not answer; see `systemctl status dbus`, and reboot if it hangs"
            .into(),
    )
}

fn unreachable(error: zbus::Error) -> Failure {
    Failure::Absent(format!(
        "the message bus cannot be reached ({error}); start it with `systemctl start dbus`, or \
         correct --bus"
    ))
}
