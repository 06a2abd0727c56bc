//! How a session looks to API users.

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::domain::{
    AgentName, PermissionMode, SandboxId, Session, SessionId, Settings, Status, Tenant, Timestamp,
};

/// What is shown in place of a value that may be a secret.
pub const MASK: &str = "***";

/// The whole body `{"session":{…}}`.
pub fn session_json(session: &Session) -> Bytes {
    #[derive(Serialize)]
    struct Envelope<'a> {
        session: Shown<'a>,
    }
    let envelope = Envelope { session: Shown(session) };
    serde_json::to_vec(&envelope).map(Bytes::from).unwrap_or_default()
}

/// A session as API users see it: without the system prompt, which may be a megabyte, and with
/// every value that may be a secret masked.
pub struct Shown<'a>(pub &'a Session);

impl Serialize for Shown<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let session = self.0;
        Shape {
            id: session.id,
            tenant_id: &session.tenant,
            agent_name: &session.agent,
            agent_version: session.agent_version,
            sandbox_id: session.sandbox,
            status: session.status,
            running: session.turn.is_some(),
            runner_id: None,
            parent_session_id: session.parent,
            model: session.settings.model.as_deref(),
            permission_mode: session.settings.permission_mode,
            cli_version: session.cli_version.as_deref(),
            config: config(&session.settings),
            created_at: session.created_at,
            last_active_at: session.last_active_at,
        }
        .serialize(serializer)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    id: SessionId,
    tenant_id: &'a Tenant,
    agent_name: &'a AgentName,
    agent_version: u32,
    sandbox_id: SandboxId,
    status: Status,
    /// Whether a turn is running.
    running: bool,
    runner_id: Option<&'a str>,
    parent_session_id: Option<SessionId>,
    model: Option<&'a str>,
    permission_mode: Option<PermissionMode>,
    cli_version: Option<&'a str>,
    config: Settings,
    created_at: Timestamp,
    last_active_at: Timestamp,
}

fn config(settings: &Settings) -> Settings {
    let mut shown = Settings { system_prompt: None, ..settings.clone() };
    shown.extra_env.values_mut().for_each(|value| MASK.clone_into(value));
    for server in shown.mcp_servers.values_mut().filter_map(Value::as_object_mut) {
        mask_members(server, "env");
        mask_members(server, "headers");
    }
    shown
}

/// Masks a member that maps names to secrets; whatever else stands in its place goes whole.
fn mask_members(server: &mut Map<String, Value>, member: &str) {
    match server.get_mut(member) {
        Some(Value::Object(secrets)) => {
            secrets.values_mut().for_each(|secret| *secret = Value::from(MASK));
        }
        Some(other) => *other = Value::from(MASK),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::Changed;

    fn session(settings: Value) -> Session {
        Session {
            id: "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b".parse().unwrap(),
            tenant: Tenant::default(),
            agent: "helper".parse().unwrap(),
            agent_version: 3,
            status: Status::Active,
            sandbox: "4f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b".parse().unwrap(),
            settings: serde_json::from_value(settings).unwrap(),
            cli_session: "cli".into(),
            cli_version: Some("2.1.197".into()),
            parent: None,
            restore: None,
            cold: false,
            changed: Changed::No,
            altered: None,
            last_error: None,
            turn: None,
            slot: Some(7),
            last_seq: 12,
            created_at: Timestamp(0),
            last_active_at: Timestamp(1),
        }
    }

    fn shown(settings: Value) -> Value {
        serde_json::from_slice(&session_json(&session(settings))).unwrap()
    }

    #[test]
    fn has_every_field_that_clients_read() {
        assert_eq!(
            shown(json!({"model": "m", "permissionMode": "plan"})),
            json!({"session": {
                "id": "3f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b",
                "tenantId": "default",
                "agentName": "helper",
                "agentVersion": 3,
                "sandboxId": "4f0c6a52-0c3e-4b1e-9a57-2f1f0e9d8c7b",
                "status": "active",
                "running": false,
                "runnerId": null,
                "parentSessionId": null,
                "model": "m",
                "permissionMode": "plan",
                "cliVersion": "2.1.197",
                "config": {"model": "m", "permissionMode": "plan"},
                "createdAt": "1970-01-01T00:00:00.000Z",
                "lastActiveAt": "1970-01-01T00:00:00.001Z",
            }})
        );
    }

    #[test]
    fn shows_no_secret_and_no_prompt() {
        let text = shown(json!({
            "systemPrompt": "PROMPT",
            "extraEnv": {"TOKEN": "SECRET"},
            "mcpServers": {
                "a": {"command": "x", "env": {"K": "SECRET"}},
                "b": {"url": "https://b", "headers": {"Authorization": ["SECRET"]}, "env": ["SECRET"]},
                "c": "odd",
            },
        }))
        .to_string();
        assert!(!text.contains("SECRET") && !text.contains("PROMPT"), "{text}");
        assert!(text.contains(r#""TOKEN":"***""#) && text.contains("https://b"), "{text}");
    }
}
