//! What an agent's owner settles for the sessions that will be made with it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::check::{self, Unfit, join};
use super::settings::{PermissionMode, PromptMode, Settings};

/// The most bytes of an agent's config, written as JSON.
pub const LARGEST: usize = 64 * 1024;

/// The member that says how many sandboxes are kept warm for an agent.
const SPARES: &str = "preWarmCount";

/// The most sandboxes that are kept warm for an agent because its config says so.
const MOST_SPARES: u64 = 100;

/// An agent's config: a JSON object. Some members have an effect on sessions that are made from
/// then on; the others are kept for whoever put them there.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(transparent)]
pub struct AgentConfig(Map<String, Value>);

/// A change of a config, checked: null removes a member, anything else replaces it or is added.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConfigChange(Map<String, Value>);

/// The members that have an effect.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Effective {
    model: Option<String>,
    system_prompt: Option<PromptMode>,
    permission_mode: Option<PermissionMode>,
    allowed_tools: Option<Vec<String>>,
    disallowed_tools: Option<Vec<String>>,
}

impl Effective {
    fn read(root: &str, members: &Map<String, Value>) -> Result<Effective, Unfit> {
        let json = Value::Object(members.clone()).to_string();
        let effective: Effective = super::json::object(root, json.as_bytes())?;
        let at = |member| join(root, member);
        if let Some(model) = &effective.model {
            check::model(&at("model"), model)?;
        }
        check::names(&at("allowedTools"), effective.allowed_tools.as_deref().unwrap_or(&[]))?;
        check::names(&at("disallowedTools"), effective.disallowed_tools.as_deref().unwrap_or(&[]))?;
        match members.get(SPARES) {
            None | Some(Value::Null) => {}
            Some(count) if count.as_u64().is_some_and(|count| count <= MOST_SPARES) => {}
            Some(_) => {
                let expected = format!("expected a whole number from 0 to {MOST_SPARES}");
                return Err(Unfit::value(&at(SPARES), expected));
            }
        }
        Ok(effective)
    }
}

impl ConfigChange {
    /// A change of these members; in complaints the object is called `root` (empty: the body).
    ///
    /// # Errors
    /// When a member that has an effect is not what it has to be.
    pub fn new(root: &str, members: Map<String, Value>) -> Result<ConfigChange, Unfit> {
        Effective::read(root, &members)?;
        Ok(ConfigChange(members))
    }

    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl AgentConfig {
    /// A config of these members, but for those that are null.
    ///
    /// # Errors
    /// When a member that has an effect is not what it has to be, or all are too large.
    pub fn new(root: &str, members: Map<String, Value>) -> Result<AgentConfig, Unfit> {
        AgentConfig::default().changed(ConfigChange::new(root, members)?)
    }

    /// The config with a change.
    ///
    /// # Errors
    /// When it gets too large.
    pub fn changed(&self, change: ConfigChange) -> Result<AgentConfig, Unfit> {
        let mut members = self.0.clone();
        for (name, value) in change.0 {
            match value {
                Value::Null => members.remove(&name),
                value => members.insert(name, value),
            };
        }
        let config = AgentConfig(members);
        if config.to_json().len() > LARGEST {
            let expected = format!("must not be longer than {LARGEST} bytes of JSON");
            return Err(Unfit::value("config", expected));
        }
        Ok(config)
    }

    /// How many sandboxes are to be kept warm for sessions that are yet to be made.
    pub fn spares(&self) -> u32 {
        let count = self.0.get(SPARES).and_then(Value::as_u64).unwrap_or(0);
        u32::try_from(count.min(MOST_SPARES)).unwrap_or(0)
    }

    /// The config as it is shown.
    pub fn to_json(&self) -> String {
        Value::Object(self.0.clone()).to_string()
    }

    /// Adds what a new session's own settings leave open. Tools add up: what the agent denies, no
    /// session allows.
    ///
    /// # Errors
    /// When the config was not checked, but written by somebody else.
    pub fn complete(&self, settings: &mut Settings) -> Result<(), Unfit> {
        let own = Effective::read("config", &self.0)?;
        settings.model = settings.model.take().or(own.model);
        settings.permission_mode = settings.permission_mode.or(own.permission_mode);
        settings.system_prompt_mode = own.system_prompt.unwrap_or_default();
        add(&mut settings.allowed_tools, own.allowed_tools);
        add(&mut settings.disallowed_tools, own.disallowed_tools);
        Ok(())
    }
}

/// Adds the names that are not there yet.
fn add(names: &mut Vec<String>, more: Option<Vec<String>>) {
    for name in more.into_iter().flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn members(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn config(value: Value) -> AgentConfig {
        AgentConfig::new("config", members(value)).unwrap()
    }

    #[test]
    fn changes_are_merged_and_null_removes() {
        let before = config(json!({"model": "m", "notes": {"a": 1}, "none": null}));
        let change = json!({"model": null, "notes": {"b": 2}, "systemPrompt": "append"});
        let after = before.changed(ConfigChange::new("", members(change)).unwrap()).unwrap();
        assert_eq!(after.to_json(), r#"{"notes":{"b":2},"systemPrompt":"append"}"#);
        assert_eq!(before.to_json(), r#"{"model":"m","notes":{"a":1}}"#);
        assert_eq!(before.changed(ConfigChange::default()).unwrap(), before);
    }

    #[test]
    fn members_with_an_effect_are_checked() {
        for (value, text) in [
            (json!({"model": 5}), "config.model: expected a string"),
            (
                json!({"model": "a b"}),
                "config.model: must not contain spaces or control characters",
            ),
            (
                json!({"model": "m".repeat(101)}),
                "config.model: must not be longer than 100 characters",
            ),
            (
                json!({"systemPrompt": "You are helpful."}),
                "config.systemPrompt: expected `replace` or `append`",
            ),
            (json!({"permissionMode": true}), "config.permissionMode: expected a string"),
            (json!({"allowedTools": "Bash"}), "config.allowedTools: expected an array"),
            (json!({"disallowedTools": [""]}), "config.disallowedTools[0]: must not be empty"),
            (
                json!({"preWarmCount": 101}),
                "config.preWarmCount: expected a whole number from 0 to 100",
            ),
            (
                json!({"preWarmCount": "1"}),
                "config.preWarmCount: expected a whole number from 0 to 100",
            ),
        ] {
            let said = ConfigChange::new("config", members(value)).unwrap_err();
            assert_eq!(said.to_string(), text);
        }
        let said = ConfigChange::new("", members(json!({"model": 5}))).unwrap_err();
        assert_eq!(said.to_string(), "model: expected a string");
    }

    #[test]
    fn a_config_is_bounded() {
        let half = json!({"a": "x".repeat(LARGEST / 2)});
        let other = json!({"b": "x".repeat(LARGEST / 2)});
        let change = ConfigChange::new("", members(other)).unwrap();
        let said = config(half).changed(change).unwrap_err().to_string();
        assert_eq!(said, "config: must not be longer than 65536 bytes of JSON");
    }

    #[test]
    fn a_session_gets_what_its_settings_leave_open() {
        let config = config(json!({
            "model": "agent-model", "systemPrompt": "append", "permissionMode": "permissionsByAgent",
            "allowedTools": ["Read"], "disallowedTools": ["WebFetch", "Bash"], "preWarmCount": 2,
        }));
        assert_eq!(config.spares(), 2);
        let mut open = Settings::default();
        config.complete(&mut open).unwrap();
        assert_eq!(open.model.as_deref(), Some("agent-model"));
        assert_eq!(open.permission_mode, Some(PermissionMode::DontAsk));
        assert_eq!(open.system_prompt_mode, PromptMode::Append);
        let mut own = Settings {
            model: Some("own".to_owned()),
            permission_mode: Some(PermissionMode::Plan),
            disallowed_tools: vec!["Bash".to_owned()],
            ..Settings::default()
        };
        config.complete(&mut own).unwrap();
        assert_eq!(own.model.as_deref(), Some("own"));
        assert_eq!(own.permission_mode, Some(PermissionMode::Plan));
        assert_eq!(own.allowed_tools, ["Read"]);
        assert_eq!(own.disallowed_tools, ["Bash", "WebFetch"]);
        let mut plain = Settings::default();
        AgentConfig::default().complete(&mut plain).unwrap();
        assert_eq!(plain, Settings::default());
    }
}
