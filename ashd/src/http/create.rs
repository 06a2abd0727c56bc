//! What the bodies about sessions must look like.

use serde::Deserialize;

use super::error::ApiError;
use crate::domain::{AgentName, ExecRequest, Settings, Unfit, json};
use crate::session::api::NewSession;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    agent: String,
    credential_id: Option<String>,
}

/// Reads a new session out of a request body.
///
/// # Errors
/// 400 that names the place and what was expected there.
pub(super) fn parse(body: &[u8]) -> Result<NewSession, ApiError> {
    let shape: Shape = json::object("", body)?;
    let agent: AgentName =
        shape.agent.parse().map_err(|error| ApiError::invalid(format!("agent: {error}")))?;
    if shape.credential_id.is_some() {
        return Err(ApiError::invalid("Invalid or inaccessible credential"));
    }
    Ok(NewSession { agent, settings: Settings::read("", body)? })
}

/// Reads a command out of a request body.
///
/// # Errors
/// 400 that names the place and what was expected there.
pub(super) fn parse_exec(body: &[u8]) -> Result<ExecRequest, Unfit> {
    #[derive(Deserialize)]
    struct Shape {
        command: String,
        timeout: Option<u64>,
    }
    let shape: Shape = json::object("", body)?;
    ExecRequest::new(&shape.command, shape.timeout)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::http::tests::error_text;

    fn complaint(body: Value) -> String {
        error_text(parse(body.to_string().as_bytes()).unwrap_err())
    }

    #[test]
    fn sessions_are_read() {
        let new = parse(br#"{"agent":"helper","model":"m","unknown":5}"#).unwrap();
        assert_eq!((new.agent.as_str(), new.settings.model.as_deref()), ("helper", Some("m")));
    }

    #[test]
    fn wrong_sessions_are_explained() {
        for (body, text) in [
            (json!({}), "agent: is required"),
            (json!({"agent": ""}), "agent: must be 1 to 255 of the characters A-Z a-z 0-9 _ -"),
            (json!({"agent": "a", "credentialId": "x"}), "Invalid or inaccessible credential"),
            (json!({"agent": "a", "model": ""}), "model: must not be empty"),
        ] {
            assert_eq!(complaint(body), text);
        }
    }

    #[test]
    fn commands_are_read() {
        let exec = parse_exec(br#"{"command":"ls"}"#).unwrap();
        assert_eq!((exec.command.as_str(), exec.timeout_ms), ("ls", 30_000));
        for (body, text) in [
            (json!({}), "command: is required"),
            (
                json!({"command": "x", "timeout": "5"}),
                "timeout: expected a whole number that is not negative",
            ),
        ] {
            let error = parse_exec(body.to_string().as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }
}
