//! What a new session must look like.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::body;
use super::error::ApiError;
use super::words;
use crate::domain::{AgentName, PermissionMode, Settings};
use crate::session::api::{ExecRequest, NewSession};

/// The most characters of the name of a tool, a beta or a subagent.
const LONGEST_NAME: usize = 1000;

/// The most names in a list.
const MOST_NAMES: usize = 1000;

/// Milliseconds that a command may run when nothing is said.
const EXEC_DEFAULT_MS: u64 = 30_000;

/// The most milliseconds that a command may run.
const EXEC_LONGEST_MS: u64 = 300_000;

/// The most bytes of a command: what Linux passes to a program as one argument.
const LONGEST_COMMAND: usize = 128 * 1024 - 1;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    agent: String,
    credential_id: Option<String>,
    extra_env: Option<BTreeMap<String, String>>,
    model: Option<String>,
    mcp_servers: Option<Map<String, Value>>,
    system_prompt: Option<String>,
    permission_mode: Option<PermissionMode>,
    allowed_tools: Option<Vec<String>>,
    disallowed_tools: Option<Vec<String>>,
    betas: Option<Vec<String>>,
    subagents: Option<Map<String, Value>>,
    initial_agent: Option<String>,
}

/// Reads a new session out of a request body.
///
/// # Errors
/// 400 that names the place and what was expected there.
pub(super) fn parse(body: &[u8]) -> Result<NewSession, ApiError> {
    let shape: Shape = body::parse(body)?;
    let agent: AgentName =
        shape.agent.parse().map_err(|error| ApiError::invalid(format!("agent: {error}")))?;
    if shape.credential_id.is_some() {
        return Err(ApiError::invalid("Invalid or inaccessible credential"));
    }
    let settings = Settings {
        model: shape.model,
        system_prompt: shape.system_prompt.filter(|prompt| !prompt.is_empty()),
        permission_mode: shape.permission_mode,
        allowed_tools: shape.allowed_tools.unwrap_or_default(),
        disallowed_tools: shape.disallowed_tools.unwrap_or_default(),
        betas: shape.betas.unwrap_or_default(),
        subagents: shape.subagents.unwrap_or_default(),
        initial_agent: shape.initial_agent,
        mcp_servers: shape.mcp_servers.unwrap_or_default(),
        extra_env: shape.extra_env.unwrap_or_default(),
    };
    check(&settings)?;
    Ok(NewSession { agent, settings })
}

fn check(settings: &Settings) -> Result<(), ApiError> {
    if let Some(model) = &settings.model {
        words::word("model", model, words::LONGEST_MODEL)?;
    }
    if let Some(prompt) = &settings.system_prompt {
        words::at_most("systemPrompt", prompt, words::LONGEST_PROMPT)?;
    }
    if let Some(agent) = &settings.initial_agent {
        words::line("initialAgent", agent, LONGEST_NAME)?;
    }
    check_names("allowedTools", &settings.allowed_tools)?;
    check_names("disallowedTools", &settings.disallowed_tools)?;
    check_names("betas", &settings.betas)?;
    check_servers(&settings.mcp_servers)?;
    words::environment("extraEnv", &settings.extra_env)
}

fn check_names(place: &str, names: &[String]) -> Result<(), ApiError> {
    if names.len() > MOST_NAMES {
        return Err(ApiError::invalid(format!("{place}: expected at most {MOST_NAMES} names")));
    }
    names
        .iter()
        .enumerate()
        .try_for_each(|(index, name)| words::line(&format!("{place}[{index}]"), name, LONGEST_NAME))
}

/// The known members of a server must have their shape; others pass through.
fn check_servers(servers: &Map<String, Value>) -> Result<(), ApiError> {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only the shape is checked")]
    struct Server {
        url: Option<String>,
        command: Option<String>,
        args: Option<Vec<String>>,
        env: Option<BTreeMap<String, String>>,
    }
    servers.iter().try_for_each(|(name, server)| {
        words::line("mcpServers", name, LONGEST_NAME)?;
        if !server.is_object() {
            return Err(ApiError::invalid(format!("mcpServers.{name}: expected an object")));
        }
        let json = server.to_string();
        body::parse_at::<Server>(&format!("mcpServers.{name}"), json.as_bytes()).map(|_| ())
    })
}

/// Reads a command out of a request body.
///
/// # Errors
/// 400 that names the place and what was expected there.
pub(super) fn parse_exec(body: &[u8]) -> Result<ExecRequest, ApiError> {
    #[derive(Deserialize)]
    struct Shape {
        command: String,
        timeout: Option<u64>,
    }
    let shape: Shape = body::parse(body)?;
    if shape.command.is_empty() || shape.command.len() > LONGEST_COMMAND {
        let text = format!("command: expected 1 to {LONGEST_COMMAND} bytes");
        return Err(ApiError::invalid(text));
    }
    if shape.command.contains('\0') {
        return Err(ApiError::invalid("command: must not contain NUL"));
    }
    let timeout_ms = shape.timeout.unwrap_or(EXEC_DEFAULT_MS);
    if !(1..=EXEC_LONGEST_MS).contains(&timeout_ms) {
        let text = format!("timeout: expected a whole number from 1 to {EXEC_LONGEST_MS}");
        return Err(ApiError::invalid(text));
    }
    Ok(ExecRequest { command: shape.command, timeout_ms })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::tests::error_text;

    fn complaint(body: Value) -> String {
        error_text(parse(body.to_string().as_bytes()).unwrap_err())
    }

    #[test]
    fn settings_are_read() {
        let body = json!({
            "agent": "helper", "model": "m", "systemPrompt": "", "permissionMode": "permissionsByAgent",
            "allowedTools": ["Bash(git:*)"], "extraEnv": {"A": "b"}, "backend": "ignored",
            "mcpServers": {"x": {"command": "c", "args": ["-v"], "headers": {"h": "v"}}},
        });
        let new = parse(body.to_string().as_bytes()).unwrap();
        assert_eq!(new.agent.as_str(), "helper");
        assert_eq!(new.settings.system_prompt, None);
        assert_eq!(new.settings.permission_mode, Some(PermissionMode::DontAsk));
        assert_eq!(new.settings.mcp_servers["x"]["headers"]["h"], "v");
    }

    #[test]
    fn wrong_sessions_are_explained() {
        for (body, text) in [
            (json!({}), "agent: is required"),
            (json!({"agent": ""}), "agent: must be 1 to 255 of the characters A-Z a-z 0-9 _ -"),
            (json!({"agent": "a", "credentialId": "x"}), "Invalid or inaccessible credential"),
            (
                json!({"agent": "a", "extraEnv": {"PATH": "x"}}),
                "extraEnv: PATH is reserved and cannot be set from outside",
            ),
            (json!({"agent": "a", "extraEnv": []}), "extraEnv: expected an object"),
            (json!({"agent": "a", "allowedTools": "Bash"}), "allowedTools: expected an array"),
            (
                json!({"agent": "a", "allowedTools": ["Bash\n"]}),
                "allowedTools[0]: must not contain control characters",
            ),
            (json!({"agent": "a", "mcpServers": {"x": 5}}), "mcpServers.x: expected an object"),
            (
                json!({"agent": "a", "mcpServers": {"x": {"args": "y"}}}),
                "mcpServers.x.args: expected an array",
            ),
            (json!({"agent": "a", "initialAgent": ""}), "initialAgent: must not be empty"),
        ] {
            assert_eq!(complaint(body), text);
        }
        let modes = complaint(json!({"agent": "a", "permissionMode": "x"}));
        assert!(modes.starts_with("permissionMode: expected one of `default`"), "{modes}");
    }

    #[test]
    fn commands_are_read() {
        let exec = parse_exec(br#"{"command":"ls"}"#).unwrap();
        assert_eq!((exec.command.as_str(), exec.timeout_ms), ("ls", 30_000));
        for (body, text) in [
            (json!({}), "command: is required"),
            (json!({"command": ""}), "command: expected 1 to 131071 bytes"),
            (json!({"command": "a\0"}), "command: must not contain NUL"),
            (
                json!({"command": "x", "timeout": 0}),
                "timeout: expected a whole number from 1 to 300000",
            ),
            (
                json!({"command": "x", "timeout": 300_001}),
                "timeout: expected a whole number from 1 to 300000",
            ),
            (
                json!({"command": "x", "timeout": "5"}),
                "timeout: expected a whole number that is not negative",
            ),
        ] {
            let error = parse_exec(body.to_string().as_bytes()).unwrap_err();
            assert_eq!(error_text(error), text);
        }
    }
}
