//! The object of an agent.

use std::collections::BTreeMap;
use std::sync::Arc;

use ash_dbus::Error;
use zbus::fdo;

use super::objects::Desk;
use super::{parse, words};
use crate::domain::{self, AgentName};
use crate::session::api::AgentChange;

/// `org.ashd.Ash1.Agent`.
pub(super) struct Agent {
    /// What it stands on.
    pub(super) desk: Arc<Desk>,
    /// Which agent it is.
    pub(super) name: AgentName,
}

impl Agent {
    async fn now(&self) -> fdo::Result<domain::Agent> {
        let found = self.desk.service.agent(&self.desk.caller, &self.name).await;
        found.map_err(|refusal| fdo::Error::Failed(words::refused(refusal).to_string()))
    }
}

#[zbus::interface(name = "org.ashd.Ash1.Agent", introspection_docs = false)]
impl Agent {
    async fn delete(&self) -> Result<(), Error> {
        let deleted = self.desk.service.delete_agent(&self.desk.caller, &self.name).await;
        deleted.map_err(words::refused)
    }

    #[zbus(out_args("config"))]
    async fn configure(&self, changes: &str) -> Result<String, Error> {
        let change = AgentChange { env: None, config: Some(parse::config(changes)?) };
        let changed = self.desk.service.change_agent(&self.desk.caller, &self.name, change).await;
        Ok(changed.map_err(words::refused)?.config.to_json())
    }

    #[zbus(out_args("config"))]
    async fn get_config(&self) -> Result<String, Error> {
        let found = self.desk.service.agent(&self.desk.caller, &self.name).await;
        Ok(found.map_err(words::refused)?.config.to_json())
    }

    async fn set_env(&self, env: BTreeMap<String, String>) -> Result<(), Error> {
        let change = AgentChange { env: Some(env), config: None };
        let changed = self.desk.service.change_agent(&self.desk.caller, &self.name, change).await;
        changed.map(drop).map_err(words::refused)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn id(&self) -> fdo::Result<String> {
        Ok(self.now().await?.id.to_string())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn name(&self) -> String {
        self.name.to_string()
    }

    #[zbus(property)]
    async fn version(&self) -> fdo::Result<u32> {
        Ok(self.now().await?.version)
    }

    #[zbus(property)]
    async fn env_names(&self) -> fdo::Result<Vec<String>> {
        Ok(words::env_names(&self.now().await?))
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn created_at(&self) -> fdo::Result<String> {
        Ok(self.now().await?.created_at.to_string())
    }

    #[zbus(property)]
    async fn updated_at(&self) -> fdo::Result<String> {
        Ok(self.now().await?.updated_at.to_string())
    }
}
