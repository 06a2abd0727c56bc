//! How the Claude Code CLI is started and steered for a session. Pure.
//!
//! Three things decide how a turn runs: the session's settings, the message's options and the
//! daemon's defaults. Some of it the CLI takes only when it starts ([`StartKey`]): when that
//! changes, it is started again with `--resume`. The rest ([`Controls`]) is set by control
//! requests before the turn.

use std::collections::BTreeMap;

use ash_wire::words::{Permissions, Start};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::domain::turn::{Effort, Thinking, ThinkingKind};
use crate::domain::{PermissionMode, PromptMode, Session, TurnOptions};

/// Where things are inside every sandbox.
pub mod place {
    /// The workspace: constant, because the CLI files its transcripts under it.
    pub const WORKSPACE: &str = "/workspace";
    /// The agent's home.
    pub const HOME: &str = "/home/agent";
    /// The CLI.
    pub const PROGRAM: &str = "/opt/ash/claude";
    /// The broker's socket.
    pub const MODEL_SOCKET: &str = "/run/ash/model/api.sock";
    /// The system prompt.
    pub const PROMPT: &str = "/etc/ash/prompt.md";
    /// MCP servers of the session.
    pub const MCP: &str = "/etc/ash/mcp.json";
    /// Policy for the CLI that nothing inside can change.
    pub const MANAGED_SETTINGS: &str = "/etc/claude-code/managed-settings.json";
}

/// What the daemon's configuration adds.
#[derive(Clone, Debug)]
pub struct Defaults {
    /// Model where neither message, session, agent nor folder name one: a full id, because what an
    /// alias means changes with the CLI.
    pub model: String,
    /// Permission mode of sessions that name none.
    pub permission_mode: PermissionMode,
    /// Milliseconds until the CLI must have answered `initialize`.
    pub ready_timeout_ms: u64,
}

/// What the CLI takes only at its start.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct StartKey {
    max_turns: Option<u32>,
    max_budget_usd: Option<f64>,
    effort: Option<Effort>,
    schema: Option<Map<String, Value>>,
}

impl StartKey {
    /// What a message asks for.
    pub fn of(options: &TurnOptions) -> StartKey {
        StartKey {
            max_turns: options.max_turns,
            max_budget_usd: options.max_budget_usd,
            effort: options.effort,
            schema: options.output_format.as_ref().map(|format| format.schema.clone()),
        }
    }

    /// The key as text, for the bridge to keep and to give to the next daemon.
    pub fn to_tag(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The key that was kept.
    pub fn from_tag(tag: &str) -> Option<StartKey> {
        serde_json::from_str(tag).ok()
    }

    /// Whether a CLI that was started with this key and has run a turn can run one with `wanted`.
    /// A budget is of one message, but the CLI counts over its whole life: it needs a fresh one.
    pub fn serves(&self, wanted: &StartKey) -> bool {
        self == wanted && wanted.max_budget_usd.is_none()
    }
}

/// What the CLI takes between turns.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Controls {
    /// The model: always a full id.
    pub model: String,
    /// Thinking, if the message says something about it.
    pub thinking: Option<Thinking>,
}

impl Controls {
    /// What a turn wants: the message's model, the session's, the daemon's.
    pub fn of(options: &TurnOptions, session: &Session, defaults: &Defaults) -> Controls {
        let model = options.model.as_deref().or(session.settings.model.as_deref());
        let model = model.unwrap_or(&defaults.model).to_owned();
        Controls { model, thinking: options.thinking.clone() }
    }

    /// The control requests that lead from what is set to this; all, when that is not known.
    pub fn requests_from(&self, set: Option<&Controls>) -> Vec<Box<RawValue>> {
        let mut requests = vec![];
        if set.is_none_or(|set| set.model != self.model) {
            requests.push(raw(&json!({ "subtype": "set_model", "model": self.model })));
        }
        if set.is_none_or(|set| set.thinking != self.thinking) {
            let tokens = self.thinking.as_ref().map_or(Value::Null, thinking_tokens);
            let subtype = "set_max_thinking_tokens";
            requests.push(raw(&json!({ "subtype": subtype, "max_thinking_tokens": tokens })));
        }
        requests
    }
}

/// Whether a CLI that was started in one permission mode, and has run no turn, can be told to go on as if it
/// had been started in another. One that may do everything keeps the right to go back to that, and does
/// everything while it plans; one that plans says so when that ends, and where it came from counts then.
pub fn takes_mode(from: PermissionMode, to: PermissionMode) -> bool {
    use PermissionMode::{AcceptEdits, Default, DontAsk};
    let is_simple = |mode: PermissionMode| matches!(mode, Default | AcceptEdits | DontAsk);
    from == to || is_simple(from) && is_simple(to)
}

/// The control request that tells it.
pub fn set_mode(mode: PermissionMode) -> Box<RawValue> {
    raw(&json!({ "subtype": "set_permission_mode", "mode": mode.as_str() }))
}

fn thinking_tokens(thinking: &Thinking) -> Value {
    match thinking.kind {
        ThinkingKind::Disabled => json!(0),
        ThinkingKind::Enabled => json!(thinking.budget_tokens),
        ThinkingKind::Adaptive => Value::Null,
    }
}

fn raw(value: &Value) -> Box<RawValue> {
    // A JSON value written out is JSON.
    RawValue::from_string(value.to_string()).unwrap_or_default()
}

/// Whether a conversation is begun or gone on with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Conversation {
    /// There is no transcript yet.
    New,
    /// There is none any more, although there was one: begun like a new one.
    Lost,
    /// There is one.
    Resumed,
    /// There is one that belongs to another session: it is gone on with in one of its own.
    Forked,
}

/// The request that starts the CLI.
pub fn start(
    session: &Session,
    conversation: Conversation,
    key: &StartKey,
    controls: &Controls,
    defaults: &Defaults,
) -> Start {
    let mode = session.settings.permission_mode.unwrap_or(defaults.permission_mode);
    let bypass = mode == PermissionMode::BypassPermissions;
    Start {
        program: place::PROGRAM.to_owned(),
        args: arguments(session, conversation, key, controls, mode),
        env: environment(session),
        initialize: initialize(session),
        permissions: if bypass { Permissions::Allow } else { Permissions::Deny },
        ready_timeout_ms: defaults.ready_timeout_ms,
        tag: key.to_tag(),
    }
}

/// Values are joined to their flags with `=`: one that begins with a dash must not become a flag.
fn arguments(
    session: &Session,
    conversation: Conversation,
    key: &StartKey,
    controls: &Controls,
    mode: PermissionMode,
) -> Vec<String> {
    let settings = &session.settings;
    let mut args: Vec<String> = [
        "-p",
        "--input-format=stream-json",
        "--output-format=stream-json",
        "--verbose",
        "--include-partial-messages",
        "--replay-user-messages",
        "--permission-prompt-tool=stdio",
    ]
    .map(str::to_owned)
    .into();
    args.push(format!("--permission-mode={}", mode.as_str()));
    args.push(format!("--model={}", controls.model));
    args.push(match settings.system_prompt_mode {
        PromptMode::Replace => format!("--system-prompt-file={}", place::PROMPT),
        PromptMode::Append => format!("--append-system-prompt-file={}", place::PROMPT),
    });
    match conversation {
        Conversation::New | Conversation::Lost => {
            args.push(format!("--session-id={}", session.cli_session))
        }
        Conversation::Resumed => args.push(format!("--resume={}", session.cli_session)),
        Conversation::Forked => args.extend([
            format!("--resume={}", session.cli_session),
            "--fork-session".to_owned(),
            format!("--session-id={}", session.id),
        ]),
    }
    if !settings.mcp_servers.is_empty() {
        args.push(format!("--mcp-config={}", place::MCP));
    }
    for (flag, values) in [
        ("allowedTools", &settings.allowed_tools),
        ("disallowedTools", &settings.disallowed_tools),
        ("betas", &settings.betas),
    ] {
        if !values.is_empty() {
            args.push(format!("--{flag}={}", values.join(",")));
        }
    }
    args.extend(settings.initial_agent.as_ref().map(|agent| format!("--agent={agent}")));
    args.extend(thinking_flag(controls.thinking.as_ref()));
    args.extend(key.max_turns.map(|turns| format!("--max-turns={turns}")));
    args.extend(key.max_budget_usd.map(|usd| format!("--max-budget-usd={usd}")));
    args.extend(key.effort.map(|effort| format!("--effort={}", effort.as_str())));
    args.extend(key.schema.as_ref().map(|s| format!("--json-schema={}", Value::from(s.clone()))));
    args
}

fn thinking_flag(thinking: Option<&Thinking>) -> Option<String> {
    let thinking = thinking?;
    match (thinking.kind, thinking.budget_tokens) {
        (ThinkingKind::Disabled, _) => Some("--thinking=disabled".to_owned()),
        (ThinkingKind::Enabled, Some(tokens)) => Some(format!("--max-thinking-tokens={tokens}")),
        (ThinkingKind::Enabled | ThinkingKind::Adaptive, _) => None,
    }
}

/// The whole environment of everything in the sandbox.
pub fn environment(session: &Session) -> Vec<(String, String)> {
    let id = session.id.to_string();
    let own = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", place::HOME),
        ("USER", "agent"),
        ("LOGNAME", "agent"),
        ("SHELL", "/bin/bash"),
        ("PWD", place::WORKSPACE),
        ("ASH_SESSION_ID", &id),
        ("ANTHROPIC_API_KEY", "the-broker-holds-the-key"),
        ("ANTHROPIC_BASE_URL", "http://model.ash.internal"),
        ("ANTHROPIC_UNIX_SOCKET", place::MODEL_SOCKET),
        ("DISABLE_AUTOUPDATER", "1"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        // A turn whose result was seen is in the transcript: a kill may come right behind it.
        ("CLAUDE_CODE_EAGER_FLUSH", "1"),
        // A slow MCP server is waited for, instead of being missing from the first turn.
        ("MCP_CONNECTION_NONBLOCKING", "0"),
        // The bridge tells the CLI's own turns from ours by these.
        ("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1"),
    ];
    // Unless something else is given: all that is ours for good cannot be.
    let mut all: BTreeMap<&str, &str> = [("LANG", "C.UTF-8")].into();
    let given = session.settings.extra_env.iter();
    all.extend(given.map(|(name, value)| (name.as_str(), value.as_str())));
    all.extend(own);
    all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn initialize(session: &Session) -> Box<RawValue> {
    if session.settings.subagents.is_empty() {
        return raw(&json!({}));
    }
    raw(&json!({ "agents": session.settings.subagents }))
}

/// The read-only files that the sandbox gets for the CLI: path, content.
pub fn files(session: &Session, agent_prompt: &[u8]) -> Vec<(&'static str, Bytes)> {
    let prompt = match &session.settings.system_prompt {
        Some(prompt) => Bytes::copy_from_slice(prompt.as_bytes()),
        None => Bytes::copy_from_slice(agent_prompt),
    };
    // The prompt is CLAUDE.md; the CLI would add the workspace's copy of it a second time.
    let claude_md = format!("{}/CLAUDE.md", place::WORKSPACE);
    let managed = json!({ "claudeMdExcludes": [claude_md] }).to_string().into();
    let mut files = vec![(place::PROMPT, prompt), (place::MANAGED_SETTINGS, managed)];
    if !session.settings.mcp_servers.is_empty() {
        let servers = json!({ "mcpServers": session.settings.mcp_servers }).to_string().into();
        files.push((place::MCP, servers));
    }
    files
}

/// What the agent's home begins with: the folder is trusted, so that the permissions in its
/// settings count.
pub const HOME_CONFIG: (&str, &[u8]) =
    (".claude.json", br#"{"projects":{"/workspace":{"hasTrustDialogAccepted":true}}}"#);

/// A question beside the conversation: the CLI loads what it would load for its first prompt, and the
/// conversation has nothing of it.
pub const QUESTION: &str = r#"{"subtype":"side_question","question":"Are you there?"}"#;

/// How often it is asked that. The first time it loads what it needs, and is still slow; from the second on
/// it is nearly as quick as with a prompt that is not its first.
pub const PRIMERS: usize = 2;

/// Where the CLI keeps the transcript of a conversation, beneath the agent's home.
pub fn transcript(cli_session: &str) -> String {
    format!(".claude/projects/-workspace/{cli_session}.jsonl")
}

/// The model that a folder's `.claude/settings.json` names.
pub fn folder_model(settings: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct FolderSettings {
        model: Option<String>,
    }
    serde_json::from_slice::<FolderSettings>(settings).ok()?.model.filter(|model| !model.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Settings;
    use crate::domain::environment::check_all;

    fn session(settings: Settings) -> Session {
        let cli_session = "7d7c2a1e-0000-4000-8000-000000000000".to_owned();
        Session { agent: "hello".parse().unwrap(), settings, cli_session, ..Session::example(1) }
    }

    fn defaults() -> Defaults {
        let permission_mode = PermissionMode::BypassPermissions;
        Defaults { model: "default-model".to_owned(), permission_mode, ready_timeout_ms: 30_000 }
    }

    fn started(settings: Settings, options: &TurnOptions) -> Start {
        let session = session(settings);
        let controls = Controls::of(options, &session, &defaults());
        start(&session, Conversation::New, &StartKey::of(options), &controls, &defaults())
    }

    #[test]
    fn a_plain_session_starts_with_the_flags_it_needs() {
        insta::assert_json_snapshot!(started(Settings::default(), &TurnOptions::default()).args);
    }

    #[test]
    fn settings_and_options_become_flags() {
        let settings: Settings = serde_json::from_value(json!({
            "permissionMode": "default", "allowedTools": ["Bash", "Read"],
            "disallowedTools": ["--model=x"], "betas": ["b"], "initialAgent": "a",
            "mcpServers": {"notes": {"command": "x"}}, "model": "session-model"
        }))
        .unwrap();
        let options: TurnOptions = serde_json::from_value(json!({
            "maxTurns": 3, "maxBudgetUsd": 0.5, "effort": "low",
            "thinking": {"type": "enabled", "budgetTokens": 2000},
            "outputFormat": {"type": "json_schema", "schema": {"type": "object"}}
        }))
        .unwrap();
        let start = started(settings, &options);
        assert_eq!(start.permissions, Permissions::Deny);
        insta::assert_json_snapshot!(start.args);
    }

    #[test]
    fn only_a_mode_that_leaves_nothing_behind_is_changed() {
        use PermissionMode::{AcceptEdits, BypassPermissions, Default, DontAsk, Plan};
        for (from, to) in [
            (Default, AcceptEdits),
            (AcceptEdits, DontAsk),
            (DontAsk, Default),
            (Plan, Plan),
            (BypassPermissions, BypassPermissions),
        ] {
            assert!(takes_mode(from, to), "{from:?} {to:?}");
        }
        for (from, to) in [
            (BypassPermissions, Default),
            (BypassPermissions, Plan),
            (Default, BypassPermissions),
            (AcceptEdits, Plan),
            (Plan, DontAsk),
        ] {
            assert!(!takes_mode(from, to), "{from:?} {to:?}");
        }
        let request: Value = serde_json::from_str(set_mode(DontAsk).get()).unwrap();
        assert_eq!(request, json!({ "subtype": "set_permission_mode", "mode": "dontAsk" }));
    }

    #[test]
    fn a_prompt_replaces_the_preset_or_comes_behind_it() {
        let flags = |mode| {
            let settings = Settings { system_prompt_mode: mode, ..Settings::default() };
            let args = started(settings, &TurnOptions::default()).args;
            args.into_iter().filter(|arg| arg.contains("prompt-file")).collect::<Vec<_>>()
        };
        assert_eq!(flags(PromptMode::Replace), ["--system-prompt-file=/etc/ash/prompt.md"]);
        assert_eq!(flags(PromptMode::Append), ["--append-system-prompt-file=/etc/ash/prompt.md"]);
    }

    #[test]
    fn what_is_ours_in_the_environment_cannot_be_set() {
        let extra_env = [("HOME", "/x"), ("ASH_SESSION_ID", "x"), ("B", "b")];
        let extra_env = extra_env.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let start = started(Settings { extra_env, ..Settings::default() }, &TurnOptions::default());
        let get = |name| start.env.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str());
        assert_eq!(get("HOME"), Some(place::HOME));
        assert_ne!(get("ASH_SESSION_ID"), Some("x"));
        assert_eq!(get("B"), Some("b"));
    }

    #[test]
    fn what_may_be_given_in_the_environment_counts() {
        let env = |given: &[(&str, &str)]| -> BTreeMap<String, String> {
            let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let settings = Settings { extra_env: given.collect(), ..Settings::default() };
            environment(&session(settings)).into_iter().collect()
        };
        assert_eq!(env(&[])["LANG"], "C.UTF-8");
        assert_eq!(env(&[("LANG", "de_DE.UTF-8")])["LANG"], "de_DE.UTF-8");
        for (name, value) in env(&[]) {
            let given: BTreeMap<_, _> = [(name.clone(), value)].into();
            let may_be_given = check_all("env", &given).is_ok();
            assert_eq!(may_be_given, name == "LANG", "{name}");
        }
    }

    #[test]
    fn the_model_is_the_message_s_the_session_s_or_the_daemon_s() {
        let model = |options: Option<&str>, settings: Option<&str>| {
            let options =
                TurnOptions { model: options.map(str::to_owned), ..TurnOptions::default() };
            let settings = Settings { model: settings.map(str::to_owned), ..Settings::default() };
            Controls::of(&options, &session(settings), &defaults()).model
        };
        assert_eq!(model(Some("m"), Some("s")), "m");
        assert_eq!(model(None, Some("s")), "s");
        assert_eq!(model(None, None), "default-model");
        assert_eq!(folder_model(br#"{"model":"f","x":1}"#).as_deref(), Some("f"));
        assert_eq!(folder_model(b"{"), None);
    }

    #[test]
    fn controls_say_what_changed_and_a_budget_wants_a_fresh_cli() {
        let set = Controls { model: "a".to_owned(), thinking: None };
        assert!(set.requests_from(Some(&set)).is_empty());
        let thinking = Some(Thinking { kind: ThinkingKind::Disabled, budget_tokens: None });
        let wanted = Controls { model: "b".to_owned(), thinking };
        let requests: Vec<_> =
            wanted.requests_from(Some(&set)).iter().map(|raw| raw.get().to_owned()).collect();
        assert_eq!(
            requests,
            [
                r#"{"model":"b","subtype":"set_model"}"#,
                r#"{"max_thinking_tokens":0,"subtype":"set_max_thinking_tokens"}"#
            ]
        );
        let plain = StartKey::default();
        let budget = StartKey { max_budget_usd: Some(1.0), ..StartKey::default() };
        assert!(plain.serves(&plain) && !plain.serves(&budget) && !budget.serves(&budget));
    }
}
