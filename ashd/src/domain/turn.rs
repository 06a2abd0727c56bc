//! What a client asks for with a message.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// A message to a session.
#[derive(Clone, Debug)]
pub struct TurnRequest {
    /// A JSON string, or an array of content blocks; checked by [`Message`](super::Message).
    pub content: Box<RawValue>,
    /// How to run the turn.
    pub options: TurnOptions,
    /// What to do when a turn is running.
    pub when_busy: WhenBusy,
}

/// How to run a turn. Absent means: as the session says.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TurnOptions {
    /// Model id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Most agentic steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
    /// Most US dollars, over the life of the CLI process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_budget_usd: Option<f64>,
    /// Effort.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effort: Option<Effort>,
    /// Thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<Thinking>,
    /// Structured output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_format: Option<OutputFormat>,
}

/// How hard the model tries.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effort {
    /// Least.
    Low,
    /// Middle.
    Medium,
    /// Much.
    High,
    /// Most.
    Max,
}

impl Effort {
    /// The CLI's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
            Effort::Max => "max",
        }
    }
}

/// Whether and how much the model thinks before it answers.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Thinking {
    /// `enabled`, `adaptive` or `disabled`.
    #[serde(rename = "type")]
    pub kind: ThinkingKind,
    /// Most thinking tokens, with `enabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_tokens: Option<u32>,
}

/// The kinds of thinking.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThinkingKind {
    /// Up to a budget.
    Enabled,
    /// As the model sees fit.
    Adaptive,
    /// Not at all.
    Disabled,
}

/// The shape that the answer must have.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct OutputFormat {
    /// `json_schema`.
    #[serde(rename = "type")]
    pub kind: OutputKind,
    /// The JSON schema.
    pub schema: Map<String, Value>,
}

/// The kinds of output format.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputKind {
    /// JSON that follows a schema.
    JsonSchema,
}

/// What a message does when a turn is running.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenBusy {
    /// Wait for its turn.
    #[default]
    Queue,
    /// Be refused.
    Reject,
    /// Interrupt the running turn and go first.
    Interrupt,
}
