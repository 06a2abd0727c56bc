//! `/api/agents`.

use std::collections::BTreeMap;

use axum::extract::{Request, State};
use http::StatusCode;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::context::{Context, Of, Who};
use super::deploy;
use super::error::{Answer, json};
use crate::domain::json::object;
use crate::domain::{Agent, AgentConfig, AgentId, AgentName, ConfigChange, Tenant, Timestamp};
use crate::session::api::AgentChange;
use crate::session::view::MASK;

/// An agent as API users see it: values of its environment are masked, and its path is a name
/// within the store of agents, not a place on this machine.
struct Shown<'a>(&'a Agent);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let agent = self.0;
        Shape {
            id: agent.id,
            tenant_id: &agent.tenant,
            name: &agent.name,
            version: agent.version,
            path: format!("agents/{}/{}/{}", agent.tenant, agent.name, agent.version),
            env: agent.env.keys().map(|name| (name.as_str(), MASK)).collect(),
            config: &agent.config,
            created_at: agent.created_at,
            updated_at: agent.updated_at,
        }
        .serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    id: AgentId,
    tenant_id: &'a Tenant,
    name: &'a AgentName,
    version: u32,
    path: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<&'a str, &'static str>,
    config: &'a AgentConfig,
    created_at: Timestamp,
    updated_at: Timestamp,
}

#[derive(Serialize)]
struct One<'a> {
    agent: Shown<'a>,
}

#[derive(Serialize)]
struct Many<'a> {
    agents: Vec<Shown<'a>>,
}

/// Deploys the next version of an agent.
pub(super) async fn deploy(
    State(context): State<Context>,
    Who(caller): Who,
    request: Request,
) -> Answer {
    let body = context.read(request, |limits| limits.deployment).await?;
    let deployment = deploy::parse(&body)?;
    drop(body);
    let agent = context.service.deploy(&caller, deployment).await?;
    Ok(json(StatusCode::CREATED, &One { agent: Shown(&agent) }))
}

/// Lists agents by name.
pub(super) async fn list(State(context): State<Context>, Who(caller): Who) -> Answer {
    let agents = context.service.agents(&caller).await?;
    Ok(json(StatusCode::OK, &Many { agents: agents.iter().map(Shown).collect() }))
}

/// Shows one agent.
pub(super) async fn show(State(context): State<Context>, Who(caller): Who, Of(name): Of) -> Answer {
    let agent = context.service.agent(&caller, &name).await?;
    Ok(json(StatusCode::OK, &One { agent: Shown(&agent) }))
}

#[derive(Deserialize)]
struct Change {
    env: Option<BTreeMap<String, String>>,
    config: Option<Map<String, Value>>,
}

/// Changes an agent: replaces its environment, merges its config.
pub(super) async fn change(
    State(context): State<Context>,
    Who(caller): Who,
    Of(name): Of,
    request: Request,
) -> Answer {
    let body = context.read(request, |limits| limits.other).await?;
    let Change { env, config } = object("", &body)?;
    let config = config.map(|members| ConfigChange::new("config", members)).transpose()?;
    let agent = context.service.change_agent(&caller, &name, AgentChange { env, config }).await?;
    Ok(json(StatusCode::OK, &One { agent: Shown(&agent) }))
}

/// Shows an agent's config.
pub(super) async fn config(
    State(context): State<Context>,
    Who(caller): Who,
    Of(name): Of,
) -> Answer {
    let agent = context.service.agent(&caller, &name).await?;
    Ok(json(StatusCode::OK, &json!({ "config": agent.config })))
}

/// Merges members into an agent's config.
pub(super) async fn change_config(
    State(context): State<Context>,
    Who(caller): Who,
    Of(name): Of,
    request: Request,
) -> Answer {
    let body = context.read(request, |limits| limits.other).await?;
    let config = ConfigChange::new("", object("", &body)?)?;
    let change = AgentChange { env: None, config: Some(config) };
    let agent = context.service.change_agent(&caller, &name, change).await?;
    Ok(json(StatusCode::OK, &json!({ "config": agent.config })))
}

/// Deletes an agent; ends its sessions.
pub(super) async fn delete(
    State(context): State<Context>,
    Who(caller): Who,
    Of(name): Of,
) -> Answer {
    context.service.delete_agent(&caller, &name).await?;
    Ok(json(StatusCode::OK, &json!({ "ok": true })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_neither_secrets_nor_places() {
        let agent = Agent {
            id: "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b".parse().unwrap(),
            tenant: Tenant::default(),
            name: "helper".parse().unwrap(),
            version: 2,
            env: [("TOKEN".to_owned(), "SECRET".to_owned())].into(),
            config: serde_json::from_value(json!({"model": "m"})).unwrap(),
            created_at: Timestamp(0),
            updated_at: Timestamp(1),
        };
        assert_eq!(
            serde_json::to_value(Shown(&agent)).unwrap(),
            json!({
                "id": "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b", "tenantId": "default",
                "name": "helper", "version": 2, "path": "agents/default/helper/2",
                "env": {"TOKEN": "***"}, "config": {"model": "m"},
                "createdAt": "1970-01-01T00:00:00.000Z", "updatedAt": "1970-01-01T00:00:00.001Z",
            })
        );
        let bare = Agent { env: BTreeMap::new(), ..agent };
        assert!(serde_json::to_value(Shown(&bare)).unwrap().get("env").is_none());
    }
}
