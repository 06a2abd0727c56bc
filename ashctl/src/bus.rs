//! The connection to `ashd`.

use std::time::Duration;

use ash_dbus::value::{AgentInfo, SessionInfo};
use ash_dbus::{AgentProxy, BUS_NAME, ManagerProxy, SessionProxy};
use futures_util::StreamExt;
use tokio::time::timeout;
use zbus::connection::Builder;
use zbus::fdo::DBusProxy;
use zbus::{Connection, proxy::CacheProperties};

use crate::failure::Failure;

/// How long a bus may take to let us in.
const GREETING: Duration = Duration::from_secs(5);

/// How long to wait for `ashd` to come back.
const PATIENCE: Duration = Duration::from_secs(60);

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

    /// A session by id.
    pub(crate) async fn session(
        &self,
        id: &str,
    ) -> Result<(SessionProxy<'static>, SessionInfo), Failure> {
        let (path, info) = self.manager.get_session(id).await?;
        let session = SessionProxy::builder(&self.connection).path(path)?;
        Ok((session.cache_properties(CacheProperties::No).build().await?, info))
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
