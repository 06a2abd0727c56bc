//! What a message to a session must look like.
//!
//! The content is checked and then carried on byte by byte as it came.

use std::borrow::Cow;

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::check::{self, Unfit, join};
use super::json;
use super::turn::{Effort, OutputFormat, Thinking, TurnOptions, TurnRequest, WhenBusy};

/// The most characters of a content that is text.
const LONGEST_TEXT: usize = 500_000;

/// The most blocks of a content.
const MOST_BLOCKS: usize = 20;

const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
const DOCUMENTS: [&str; 1] = ["application/pdf"];

/// A message, and how its sender wants the answer.
#[derive(Debug)]
pub struct Message {
    /// What to run.
    pub request: TurnRequest,
    /// Whether the stream shows partial messages.
    pub partial: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    content: Option<&'a RawValue>,
    include_partial_messages: Option<bool>,
    model: Option<String>,
    max_turns: Option<u32>,
    max_budget_usd: Option<f64>,
    effort: Option<Effort>,
    thinking: Option<Thinking>,
    output_format: Option<OutputFormat>,
    when_busy: Option<WhenBusy>,
}

/// What is there, null included.
fn given<'de, D: Deserializer<'de>>(content: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(content).map(Some)
}

impl Message {
    /// What may stand beside the content, by the names that it has in JSON.
    pub const OPTIONS: [&str; 8] = [
        "includePartialMessages",
        "whenBusy",
        "model",
        "maxTurns",
        "maxBudgetUsd",
        "effort",
        "thinking",
        "outputFormat",
    ];

    /// Reads a message out of one JSON object: `content`, and options beside it.
    ///
    /// # Errors
    /// When a value is not what it has to be.
    pub fn read(body: &[u8]) -> Result<Message, Unfit> {
        let shape: Shape = json::object("", body)?;
        let content = shape.content.ok_or_else(|| Unfit::value("content", "is required"))?;
        Message::of("", content, shape)
    }

    /// Reads a message whose content and options are JSON of their own. In complaints they are
    /// called `content` and `options`.
    ///
    /// # Errors
    /// When a value is not what it has to be.
    pub fn read_parts(content: &str, options: &str) -> Result<Message, Unfit> {
        let shape: Shape = json::object("options", options.as_bytes())?;
        let content = json::value("content", content.as_bytes())?;
        Message::of("options", content, shape)
    }

    fn of(root: &str, content: &RawValue, shape: Shape) -> Result<Message, Unfit> {
        check_content(content)?;
        let options = TurnOptions {
            model: shape.model,
            max_turns: shape.max_turns,
            max_budget_usd: shape.max_budget_usd,
            effort: shape.effort,
            thinking: shape.thinking,
            output_format: shape.output_format,
        };
        check_options(root, &options)?;
        let when_busy = shape.when_busy.unwrap_or_default();
        let request = TurnRequest { content: content.to_owned(), options, when_busy };
        Ok(Message { request, partial: shape.include_partial_messages.unwrap_or(false) })
    }
}

fn check_options(root: &str, options: &TurnOptions) -> Result<(), Unfit> {
    if let Some(model) = &options.model {
        check::model(&join(root, "model"), model)?;
    }
    if options.max_turns == Some(0) {
        return Err(Unfit::value(&join(root, "maxTurns"), "expected a whole number from 1 up"));
    }
    if options.max_budget_usd.is_some_and(|budget| !budget.is_finite() || budget < 0.0) {
        let place = join(root, "maxBudgetUsd");
        return Err(Unfit::value(&place, "expected a number that is not negative"));
    }
    options.output_format.as_ref().map_or(Ok(()), |format| check_schema(root, format))
}

fn check_schema(root: &str, format: &OutputFormat) -> Result<(), Unfit> {
    let length = serde_json::to_string(&format.schema).map_or(usize::MAX, |json| json.len());
    if length > check::LONGEST_ARGUMENT {
        let expected = format!("must not be longer than {} bytes of JSON", check::LONGEST_ARGUMENT);
        return Err(Unfit::value(&join(root, "outputFormat.schema"), expected));
    }
    Ok(())
}

fn check_content(content: &RawValue) -> Result<(), Unfit> {
    let json = content.get().as_bytes();
    match json.first() {
        Some(b'"') => check_text(json),
        Some(b'[') => check_blocks(json),
        _ => Err(Unfit::value("content", "expected a string or an array of content blocks")),
    }
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn check_text(json: &[u8]) -> Result<(), Unfit> {
    let Text(text) = json::value("content", json)?;
    if text.is_empty() {
        return Err(Unfit::value("content", "must not be empty"));
    }
    check::at_most("content", &text, LONGEST_TEXT)
}

#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    source: Option<Source<'a>>,
}

#[derive(Deserialize)]
struct Source<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    media_type: Cow<'a, str>,
    #[serde(borrow)]
    data: Cow<'a, str>,
}

fn check_blocks(json: &[u8]) -> Result<(), Unfit> {
    let blocks: Vec<Block> = json::value("content", json)?;
    if blocks.is_empty() || blocks.len() > MOST_BLOCKS {
        return Err(Unfit::value("content", format!("expected 1 to {MOST_BLOCKS} blocks")));
    }
    for (index, block) in blocks.iter().enumerate() {
        check_block(block)
            .map_err(|(place, what)| Unfit::value(&format!("content[{index}]{place}"), what))?;
    }
    Ok(())
}

type Complaint = (&'static str, &'static str);

fn check_block(block: &Block) -> Result<(), Complaint> {
    match &*block.kind {
        "text" => match &block.text {
            None => Err((".text", "is required")),
            Some(text) if text.is_empty() => Err((".text", "must not be empty")),
            Some(_) => Ok(()),
        },
        "image" => {
            check_source(block, &IMAGES, "expected image/jpeg, image/png, image/gif or image/webp")
        }
        "document" => check_source(block, &DOCUMENTS, "expected application/pdf"),
        _ => Err((".type", "expected text, image or document")),
    }
}

fn check_source(block: &Block, media: &[&str], expected: &'static str) -> Result<(), Complaint> {
    let source = block.source.as_ref().ok_or((".source", "is required"))?;
    if source.kind != "base64" {
        return Err((".source.type", "expected base64"));
    }
    if !media.contains(&&*source.media_type) {
        return Err((".source.media_type", expected));
    }
    if !is_base64(source.data.as_bytes()) {
        return Err((".source.data", "expected base64 with padding"));
    }
    Ok(())
}

/// Whether bytes can be base64 of something, without decoding them.
fn is_base64(data: &[u8]) -> bool {
    let bare = data.strip_suffix(b"==").or_else(|| data.strip_suffix(b"=")).unwrap_or(data);
    let digit = |b: &u8| b.is_ascii_alphanumeric() || *b == b'+' || *b == b'/';
    !data.is_empty() && data.len().is_multiple_of(4) && bare.iter().all(digit)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn complaint(body: &Value) -> String {
        Message::read(body.to_string().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn content_is_carried_on_as_it_came() {
        for content in [r#""h\u00e9 \/ there""#, r#"[ {"text":"a", "type":"text","x":1.50} ]"#] {
            let message =
                Message::read(format!(r#"{{"content": {content} }}"#).as_bytes()).unwrap();
            assert_eq!(message.request.content.get(), content);
            assert_eq!(message.request.options, TurnOptions::default());
            assert_eq!((message.request.when_busy, message.partial), (WhenBusy::Queue, false));
        }
    }

    #[test]
    fn options_are_read() {
        let body = json!({
            "content": "x", "includePartialMessages": true, "model": "claude-opus-4-8[1m]",
            "maxTurns": 3, "maxBudgetUsd": 0, "effort": "max", "whenBusy": "interrupt",
            "thinking": {"type": "enabled", "budgetTokens": 2000},
            "outputFormat": {"type": "json_schema", "schema": {"type": "object"}},
            "unknown": true,
        });
        let message = Message::read(body.to_string().as_bytes()).unwrap();
        let options = &message.request.options;
        assert!(message.partial);
        assert_eq!((options.max_turns, options.max_budget_usd), (Some(3), Some(0.0)));
        assert_eq!(options.thinking.as_ref().unwrap().budget_tokens, Some(2000));
        assert_eq!(message.request.when_busy, WhenBusy::Interrupt);
    }

    #[test]
    fn wrong_content_is_explained() {
        let image = |media: &str, data: &str| json!([{"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}]);
        for (content, text) in [
            (json!(null), "content: expected a string or an array of content blocks"),
            (json!(5), "content: expected a string or an array of content blocks"),
            (json!({}), "content: expected a string or an array of content blocks"),
            (json!(""), "content: must not be empty"),
            (json!("x".repeat(500_001)), "content: must not be longer than 500000 characters"),
            (json!([]), "content: expected 1 to 20 blocks"),
            (
                json!(vec![json!({"type": "text", "text": "x"}); 21]),
                "content: expected 1 to 20 blocks",
            ),
            (json!(["x"]), "content[0]: expected an object"),
            (json!([{"text": "x"}]), "content[0].type: is required"),
            (json!([{"type": "text"}]), "content[0].text: is required"),
            (json!([{"type": "text", "text": ""}]), "content[0].text: must not be empty"),
            (json!([{"type": "text", "text": 5}]), "content[0].text: expected a string"),
            (json!([{"type": "tool_result"}]), "content[0].type: expected text, image or document"),
            (json!([{"type": "image"}]), "content[0].source: is required"),
            (
                json!([{"type": "image", "source": {"type": "url", "url": "x"}}]),
                "content[0].source.media_type: is required",
            ),
            (
                image("image/tiff", "AAAA"),
                "content[0].source.media_type: expected image/jpeg, image/png, image/gif or image/webp",
            ),
            (image("image/png", "AAA"), "content[0].source.data: expected base64 with padding"),
            (image("image/png", "AA=A"), "content[0].source.data: expected base64 with padding"),
            (image("image/png", ""), "content[0].source.data: expected base64 with padding"),
        ] {
            assert_eq!(complaint(&json!({ "content": content })), text);
        }
        assert_eq!(complaint(&json!({})), "content: is required");
    }

    #[test]
    fn right_blocks_pass() {
        let source = |media: &str| json!({"type": "base64", "media_type": media, "data": "QUI="});
        let body = json!({"content": [
            {"type": "text", "text": "look"},
            {"type": "image", "source": source("image/webp")},
            {"type": "document", "source": source("application/pdf"), "title": "t"},
        ]});
        assert!(Message::read(body.to_string().as_bytes()).is_ok());
        let longest = json!({"content": "ü".repeat(500_000)});
        assert!(Message::read(longest.to_string().as_bytes()).is_ok());
    }

    #[test]
    fn wrong_options_are_explained() {
        for (name, value, text) in [
            ("maxTurns", json!(0), "maxTurns: expected a whole number from 1 up"),
            ("maxTurns", json!("5"), "maxTurns: expected a whole number that is not negative"),
            ("maxTurns", json!(1.5), "maxTurns: expected a whole number that is not negative"),
            ("maxBudgetUsd", json!(-1), "maxBudgetUsd: expected a number that is not negative"),
            ("model", json!(""), "model: must not be empty"),
            ("model", json!("m".repeat(101)), "model: must not be longer than 100 characters"),
            ("model", json!("a b\u{0}"), "model: must not contain spaces or control characters"),
            ("effort", json!("huge"), "effort: expected one of `low`, `medium`, `high`, `max`"),
            ("thinking", json!({}), "thinking.type: is required"),
            ("outputFormat", json!({"type": "json_schema"}), "outputFormat.schema: is required"),
            (
                "outputFormat",
                json!({"type": "xml", "schema": {}}),
                "outputFormat.type: expected `json_schema`",
            ),
            (
                "outputFormat",
                json!({"type": "json_schema", "schema": {"x": "y".repeat(129_993)}}),
                "outputFormat.schema: must not be longer than 130000 bytes of JSON",
            ),
            ("whenBusy", json!("wait"), "whenBusy: expected one of `queue`, `reject`, `interrupt`"),
            ("includePartialMessages", json!("true"), "includePartialMessages: expected a boolean"),
        ] {
            assert_eq!(complaint(&json!({"content": "x", name: value})), text);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_explained(body in "\\PC*") {
            let _ = Message::read(body.as_bytes());
        }

        #[test]
        fn any_content_is_read_or_explained(content in "[\\[\\]{}\",:a-z0-9\\\\ ]{0,40}") {
            let _ = Message::read(format!(r#"{{"content":{content}}}"#).as_bytes());
        }
    }
}
