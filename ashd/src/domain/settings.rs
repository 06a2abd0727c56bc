//! What a session is created with.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::check::{self, Unfit, join};
use super::{environment, json};

/// What a session is created with. Stored as one JSON document.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Settings {
    /// Model id: the request's, or the one that the agent's config or folder named at creation; the
    /// daemon's when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Replaces the agent's CLAUDE.md as system prompt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// What the system prompt is to the preset: as the agent's config said at creation.
    #[serde(skip_serializing_if = "PromptMode::is_replace")]
    pub system_prompt_mode: PromptMode,
    /// Permission mode; the daemon's default when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<PermissionMode>,
    /// Tools that need no permission.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_tools: Vec<String>,
    /// Tools that are denied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disallowed_tools: Vec<String>,
    /// Beta features of the model API.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub betas: Vec<String>,
    /// Subagent definitions as the CLI takes them.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub subagents: Map<String, Value>,
    /// The agent definition to start with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_agent: Option<String>,
    /// MCP servers beside those of the folder, by name.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub mcp_servers: Map<String, Value>,
    /// Environment: the agent's at creation, and on top of it what the request gave.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra_env: BTreeMap<String, String>,
}

/// What an agent's system prompt is to the preset that the CLI comes with.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptMode {
    /// The prompt stands in the place of the preset.
    #[default]
    Replace,
    /// The prompt comes behind the preset.
    Append,
}

impl PromptMode {
    fn is_replace(&self) -> bool {
        *self == PromptMode::Replace
    }
}

/// What the CLI may do without asking.
///
/// `permissionsByAgent` is a word of existing clients for what the folder's settings say; the CLI
/// calls that `dontAsk`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum PermissionMode {
    /// Ask; nobody answers yet, so: deny what the settings do not allow.
    Default,
    /// Edit files without asking.
    AcceptEdits,
    /// Plan only.
    Plan,
    /// Deny what the settings do not allow, without asking.
    #[serde(alias = "permissionsByAgent")]
    DontAsk,
    /// Everything; the sandbox is the limit.
    BypassPermissions,
}

impl PermissionMode {
    /// The CLI's word.
    pub fn as_str(self) -> &'static str {
        match self {
            PermissionMode::Default => "default",
            PermissionMode::AcceptEdits => "acceptEdits",
            PermissionMode::Plan => "plan",
            PermissionMode::DontAsk => "dontAsk",
            PermissionMode::BypassPermissions => "bypassPermissions",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape {
    model: Option<String>,
    system_prompt: Option<String>,
    permission_mode: Option<PermissionMode>,
    allowed_tools: Option<Vec<String>>,
    disallowed_tools: Option<Vec<String>>,
    betas: Option<Vec<String>>,
    subagents: Option<Map<String, Value>>,
    initial_agent: Option<String>,
    mcp_servers: Option<Map<String, Value>>,
    extra_env: Option<BTreeMap<String, String>>,
}

impl Settings {
    /// What clients may give, by the names that it has in JSON.
    pub const MEMBERS: [&str; 10] = [
        "model",
        "systemPrompt",
        "permissionMode",
        "allowedTools",
        "disallowedTools",
        "betas",
        "subagents",
        "initialAgent",
        "mcpServers",
        "extraEnv",
    ];

    /// Reads settings out of a JSON object; in complaints it is called `root` (empty: the body).
    ///
    /// # Errors
    /// When a value is not what it has to be.
    pub fn read(root: &str, json: &[u8]) -> Result<Settings, Unfit> {
        let shape: Shape = json::object(root, json)?;
        let settings = Settings {
            model: shape.model,
            system_prompt: shape.system_prompt.filter(|prompt| !prompt.is_empty()),
            system_prompt_mode: PromptMode::default(),
            permission_mode: shape.permission_mode,
            allowed_tools: shape.allowed_tools.unwrap_or_default(),
            disallowed_tools: shape.disallowed_tools.unwrap_or_default(),
            betas: shape.betas.unwrap_or_default(),
            subagents: shape.subagents.unwrap_or_default(),
            initial_agent: shape.initial_agent,
            mcp_servers: shape.mcp_servers.unwrap_or_default(),
            extra_env: shape.extra_env.unwrap_or_default(),
        };
        settings.check(root)?;
        Ok(settings)
    }

    /// Checks once more what programs get in one piece, now that what the agent adds is part of it.
    ///
    /// # Errors
    /// When it is more than can be passed to a program.
    pub fn check_sums(&self) -> Result<(), Unfit> {
        check::joined("allowedTools with the agent's", &self.allowed_tools)?;
        check::joined("disallowedTools with the agent's", &self.disallowed_tools)?;
        environment::check_size("extraEnv with the agent's", &self.extra_env)
    }

    fn check(&self, root: &str) -> Result<(), Unfit> {
        let at = |member| join(root, member);
        if let Some(model) = &self.model {
            check::model(&at("model"), model)?;
        }
        if let Some(prompt) = &self.system_prompt {
            check::at_most(&at("systemPrompt"), prompt, check::LONGEST_PROMPT)?;
        }
        if let Some(agent) = &self.initial_agent {
            check::line(&at("initialAgent"), agent, check::LONGEST_NAME)?;
        }
        check::names(&at("allowedTools"), &self.allowed_tools)?;
        check::names(&at("disallowedTools"), &self.disallowed_tools)?;
        check::names(&at("betas"), &self.betas)?;
        check_servers(&at("mcpServers"), &self.mcp_servers)?;
        environment::check_all(&at("extraEnv"), &self.extra_env)
    }
}

/// The known members of a server must have their shape; others pass through.
fn check_servers(place: &str, servers: &Map<String, Value>) -> Result<(), Unfit> {
    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only the shape is checked")]
    struct Server {
        url: Option<String>,
        command: Option<String>,
        args: Option<Vec<String>>,
        env: Option<BTreeMap<String, String>>,
    }
    servers.iter().try_for_each(|(name, server)| {
        check::line(place, name, check::LONGEST_NAME)?;
        let place = join(place, name);
        json::object::<Server>(&place, server.to_string().as_bytes()).map(drop)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn complaint(body: &Value) -> String {
        Settings::read("", body.to_string().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn settings_are_sparse_json() {
        let text = r#"{"model":"m","permissionMode":"permissionsByAgent"}"#;
        let settings: Settings = serde_json::from_str(text).unwrap();
        assert_eq!(settings.permission_mode, Some(PermissionMode::DontAsk));
        let written = serde_json::to_string(&settings).unwrap();
        assert_eq!(written, r#"{"model":"m","permissionMode":"dontAsk"}"#);
    }

    #[test]
    fn settings_are_read() {
        let body = json!({
            "model": "m", "systemPrompt": "", "permissionMode": "permissionsByAgent",
            "allowedTools": ["Bash(git:*)"], "extraEnv": {"A": "b"}, "backend": "ignored",
            "mcpServers": {"x": {"command": "c", "args": ["-v"], "headers": {"h": "v"}}},
            "betas": null,
        });
        let settings = Settings::read("", body.to_string().as_bytes()).unwrap();
        assert_eq!(settings.system_prompt, None);
        assert_eq!(settings.permission_mode, Some(PermissionMode::DontAsk));
        assert_eq!(settings.mcp_servers["x"]["headers"]["h"], "v");
        assert_eq!(Settings::read("settings", b"").unwrap(), Settings::default());
    }

    #[test]
    fn wrong_settings_are_explained() {
        for (body, text) in [
            (
                json!({"extraEnv": {"PATH": "x"}}),
                "extraEnv: PATH is reserved and cannot be set from outside",
            ),
            (json!({"extraEnv": []}), "extraEnv: expected an object"),
            (json!({"allowedTools": "Bash"}), "allowedTools: expected an array"),
            (
                json!({"allowedTools": ["Bash\n"]}),
                "allowedTools[0]: must not contain control characters",
            ),
            (
                json!({"betas": vec!["x".repeat(1000); 130]}),
                "betas: must not be longer than 130000 bytes in all",
            ),
            (json!({"model": "m".repeat(101)}), "model: must not be longer than 100 characters"),
            (json!({"mcpServers": {"x": 5}}), "mcpServers.x: expected an object"),
            (json!({"mcpServers": {"x": []}}), "mcpServers.x: expected an object"),
            (json!({"mcpServers": {"x": {"args": "y"}}}), "mcpServers.x.args: expected an array"),
            (json!({"initialAgent": ""}), "initialAgent: must not be empty"),
        ] {
            assert_eq!(complaint(&body), text);
        }
        let modes = complaint(&json!({"permissionMode": "x"}));
        assert!(modes.starts_with("permissionMode: expected one of `default`"), "{modes}");
    }

    #[test]
    fn every_member_is_known_by_its_name() {
        for member in Settings::MEMBERS {
            let said = complaint(&json!({ member: 5 }));
            assert!(said.starts_with(&format!("{member}: expected ")), "{said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_explained(body in "\\PC*") {
            let _ = Settings::read("settings", body.as_bytes());
        }
    }
}
