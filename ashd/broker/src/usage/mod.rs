//! Reads the token counts out of an answer while it goes by, in bounded memory.

use http::HeaderValue;
use serde::Deserialize;

use crate::control::Tokens;

mod document;
mod stream;

use document::Document;
use stream::Stream;

/// Longest model name that is kept, in bytes.
const MODEL_LIMIT: usize = 128;

/// Follows the body of one answer.
#[derive(Debug)]
pub(crate) struct Meter {
    form: Form,
    tokens: Tokens,
}

#[derive(Debug)]
enum Form {
    Stream(Stream),
    Document(Document),
    /// Neither: nothing can be read from it.
    Opaque,
}

impl Meter {
    /// A meter for a body of this content type.
    pub(crate) fn new(content_type: Option<&HeaderValue>) -> Self {
        let essence = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
        let form = match essence.split(';').next().unwrap_or_default().trim() {
            "text/event-stream" => Form::Stream(Stream::default()),
            "application/json" => Form::Document(Document::default()),
            _ => Form::Opaque,
        };
        Self { form, tokens: Tokens::default() }
    }

    /// Follows the next bytes.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        match &mut self.form {
            Form::Stream(stream) => stream.feed(bytes, &mut self.tokens),
            Form::Document(document) => document.feed(bytes, &mut self.tokens),
            Form::Opaque => {}
        }
    }

    /// What was read.
    pub(crate) fn finish(&mut self) -> Tokens {
        std::mem::take(&mut self.tokens)
    }
}

/// A usage object. Later ones are totals, not differences: what they say replaces what was said.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Counts {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
}

impl Counts {
    fn apply(&self, tokens: &mut Tokens) {
        replace(&mut tokens.input_tokens, self.input_tokens);
        replace(&mut tokens.output_tokens, self.output_tokens);
        replace(&mut tokens.cache_creation_input_tokens, self.cache_creation_input_tokens);
        replace(&mut tokens.cache_read_input_tokens, self.cache_read_input_tokens);
    }
}

fn replace(count: &mut u64, by: Option<u64>) {
    *count = by.unwrap_or(*count);
}

fn set_model(tokens: &mut Tokens, model: String) {
    if model.len() <= MODEL_LIMIT {
        tokens.model = Some(model);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = concat!(
        "event: message_start\r\n",
        r#"data: {"type":"message_start","message":{"id":"msg_1","model":"claude-x","content":[],"#,
        r#""usage":{"input_tokens":7,"cache_creation_input_tokens":20,"cache_read_input_tokens":300,"#,
        r#""output_tokens":1,"service_tier":"standard","cache_creation":{"a":1}}}}"#,
        "\r\n\r\n",
        "event: content_block_delta\n",
        r#"data: {"type":"content_block_delta","usage":{"output_tokens":999},"delta":{"text":"\n"}}"#,
        "\n\n: a comment\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\n",
        "event: message_delta\n",
        r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":45,"input_tokens":null}}"#,
        "\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );

    const DOCUMENT: &str = r#" {"id":"msg_1", "content":[{"model":"no","usage":{"output_tokens":5},
        "text":"\"usage\":{\"output_tokens\":6} } \\"}], "model" : "claude-x", "x":[{}],
        "usage": {"input_tokens":7,"cache_creation_input_tokens":20,"cache_read_input_tokens":300,
        "output_tokens":45,"server_tool_use":{"web_search_requests":0}}}"#;

    fn expected() -> Tokens {
        Tokens {
            model: Some("claude-x".into()),
            input_tokens: 7,
            output_tokens: 45,
            cache_creation_input_tokens: 20,
            cache_read_input_tokens: 300,
        }
    }

    fn read<'a>(kind: &'static str, parts: impl Iterator<Item = &'a [u8]>) -> Tokens {
        let mut meter = Meter::new(Some(&HeaderValue::from_static(kind)));
        parts.for_each(|part| meter.feed(part));
        meter.finish()
    }

    /// Cuts `bytes` into pieces of the given lengths, over and over.
    fn cut<'a>(mut bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
        lengths.iter().cycle().map_while(move |&length| {
            let (part, rest) = bytes.split_at(length.min(bytes.len()));
            bytes = rest;
            (!part.is_empty()).then_some(part)
        })
    }

    #[test]
    fn other_bodies_count_nothing() {
        assert_eq!(read("text/html", std::iter::once(DOCUMENT.as_bytes())), Tokens::default());
    }

    #[test]
    fn a_broken_stream_keeps_what_it_said_before() {
        let start = STREAM.find("event: content").unwrap();
        let tokens = read("text/event-stream", std::iter::once(&STREAM.as_bytes()[..start + 30]));
        assert_eq!((tokens.input_tokens, tokens.output_tokens), (7, 1));
    }

    #[test]
    fn endless_lines_and_values_are_not_kept() {
        let long = "x".repeat(200_000);
        let line = format!("event: message_delta\ndata: {long}\n\n{STREAM}");
        assert_eq!(read("text/event-stream", std::iter::once(line.as_bytes())), expected());
        let value = format!("{{\"usage\":{{\"a\":\"{long}\"}},\"model\":\"claude-x\"}}");
        let tokens = read("application/json", std::iter::once(value.as_bytes()));
        assert_eq!(tokens.model, Some("claude-x".into()));
    }

    proptest! {
        #[test]
        fn any_chunking_of_a_stream_counts_the_same(
            lengths in prop::collection::vec(1_usize..40, 1..8),
        ) {
            let parts = cut(STREAM.as_bytes(), &lengths);
            prop_assert_eq!(read("text/event-stream; charset=utf-8", parts), expected());
        }

        #[test]
        fn any_chunking_of_a_document_counts_the_same(
            lengths in prop::collection::vec(1_usize..40, 1..8),
        ) {
            let parts = cut(DOCUMENT.as_bytes(), &lengths);
            prop_assert_eq!(read("application/json", parts), expected());
        }

        #[test]
        fn no_bytes_upset_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            read("application/json", std::iter::once(bytes.as_slice()));
            read("text/event-stream", std::iter::once(bytes.as_slice()));
        }
    }
}
