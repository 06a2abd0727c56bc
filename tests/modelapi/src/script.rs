//! Turns a request into what its answer does, without doing it.

use std::time::Duration;

use serde_json::Value;

use crate::compose::Usage;
use crate::content::Content;
use crate::directive::{self, Directive};
use crate::prompt::{Prompt, first_chars, history};

/// One thing that an answer does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Step {
    /// Sends text.
    Send(Content),
    /// Asks for a tool; the input is JSON text.
    Tool { name: String, input: String },
    /// Does nothing for a while, or for ever.
    Silence(Option<Duration>),
    /// Waits until the test releases that name.
    Hold(String),
}

/// One way an answer goes wrong, for the first `times` attempts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) times: u32,
    /// Tells this fault from others, also from the same directive of another prompt.
    pub(crate) key: String,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum FaultKind {
    /// An error instead of an answer; one that quotes has the headers of the request in its message.
    Status { code: u16, retry_after: Option<String>, quotes: bool },
    /// The connection closes after that many deltas.
    Cut { after: u64 },
    /// An error event after that many deltas.
    Event { error: String, after: u64 },
}

/// What one request gets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Script {
    pub(crate) model: String,
    pub(crate) stream: bool,
    pub(crate) usage: Usage,
    pub(crate) steps: Vec<Step>,
    pub(crate) faults: Vec<Fault>,
}

impl Script {
    /// Reads a request. `caller` tells conversations with the same prompt apart; `bytes` is the
    /// size of the request. `None` if the body is no request for a message.
    pub(crate) fn read(body: &Value, caller: &str, bytes: usize) -> Option<Self> {
        let messages = body["messages"].as_array().filter(|messages| !messages.is_empty())?;
        let prompt = Prompt::find(messages);
        let mut script = Self {
            model: body["model"].as_str()?.to_owned(),
            stream: body["stream"] == true,
            usage: usage(messages, bytes),
            steps: Vec::new(),
            faults: Vec::new(),
        };
        match side_answer(body) {
            Some(text) => script.steps.push(Step::Send(Content::Say(text))),
            None => script.follow(&prompt, messages, caller),
        }
        Some(script)
    }

    /// Adds what the prompt says for this place in its course.
    fn follow(&mut self, prompt: &Prompt, messages: &[Value], caller: &str) {
        let directives = directive::parse(&prompt.text);
        let key = format!("{caller} {} {}", messages.len(), prompt.text);
        for (number, directive) in segment(&directives, prompt.tools_used).iter().enumerate() {
            let key = format!("{number} {key}");
            self.add(directive, key, &messages[..prompt.at]);
        }
        if self.steps.is_empty() {
            self.steps.push(Step::Send(default_answer(prompt)));
        }
    }

    fn add(&mut self, directive: &Directive<'_>, key: String, before: &[Value]) {
        if let Some(kind) = read_fault(directive) {
            let times = directive.option("times").and_then(|n| n.parse().ok()).unwrap_or(1);
            self.faults.push(Fault { kind, times, key });
        } else if directive.name == "usage" {
            self.set_usage(directive);
        } else if directive.name == "history" {
            self.steps.push(Step::Send(Content::Say(history(before))));
        } else {
            self.steps.push(read_step(directive));
        }
    }

    fn set_usage(&mut self, directive: &Directive<'_>) {
        let number = |key| directive.option(key).and_then(|value| value.parse().ok());
        if let Some(input) = number("in") {
            self.usage = Usage { input, ..Usage::default() };
        }
        self.usage.output = number("out");
    }
}

/// The directives of one request: up to and including the tool call with that number.
fn segment<'a>(directives: &'a [Directive<'a>], tools_used: usize) -> &'a [Directive<'a>] {
    let mut segments = directives.split_inclusive(|directive| directive.name == "tool");
    segments.nth(tools_used).unwrap_or_default()
}

fn read_step(directive: &Directive<'_>) -> Step {
    if let Some(content) = Content::read(directive) {
        return Step::Send(content);
    }
    let step = match directive.name {
        "tool" => read_tool(directive),
        "silence" if directive.args == "forever" => Some(Step::Silence(None)),
        "silence" => directive::duration(directive.args).map(|time| Step::Silence(Some(time))),
        "hold" if !directive.args.is_empty() => Some(Step::Hold(directive.args.to_owned())),
        _ => None,
    };
    step.unwrap_or_else(|| Step::Send(Content::complaint(directive)))
}

fn read_tool(directive: &Directive<'_>) -> Option<Step> {
    let (name, input) = directive.head_and_rest();
    let input = if input.is_empty() { "{}" } else { input };
    let valid = serde_json::from_str::<Value>(input).is_ok_and(|input| input.is_object());
    valid.then(|| Step::Tool { name: name.to_owned(), input: input.to_owned() })
}

fn read_fault(directive: &Directive<'_>) -> Option<FaultKind> {
    let after = directive.option("after").and_then(|n| n.parse().ok()).unwrap_or(0);
    match directive.name {
        "status" => {
            let mut words = directive.words();
            Some(FaultKind::Status {
                code: words.next()?.parse().ok()?,
                retry_after: directive.option("retry-after").map(str::to_owned),
                quotes: words.any(|word| word == "quote"),
            })
        }
        "cut" => Some(FaultKind::Cut { after }),
        "sse-error" => {
            let error = directive.words().next().unwrap_or("overloaded_error").to_owned();
            Some(FaultKind::Event { error, after })
        }
        _ => None,
    }
}

fn default_answer(prompt: &Prompt) -> Content {
    if let Some(said) = &prompt.tool_said {
        return Content::Say(format!("tool said: {}", first_chars(said, 200)));
    }
    let said = prompt.text.split_whitespace().collect::<Vec<_>>().join(" ");
    Content::Sentence(format!(
        "You said: “{}”. I am the stand-in model that comes with ash; \
         set ANTHROPIC_API_KEY to talk to the real one.",
        first_chars(&said, 200)
    ))
}

/// The answer to a request that the CLI makes beside the conversation: it wants an object of
/// some schema (a title, a summary), or one token to see whether it may ask at all.
fn side_answer(body: &Value) -> Option<String> {
    let schema = &body["output_config"]["format"]["schema"];
    if schema.is_object() {
        return Some(instance(schema).to_string());
    }
    (body["max_tokens"] == 1).then(|| "ok".to_owned())
}

/// The smallest plausible value of a JSON schema.
fn instance(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            fields.map(|(name, field)| (name.clone(), instance(field))).collect()
        }
        Some("array") => Value::Array(Vec::new()),
        Some("boolean") => Value::Bool(false),
        Some("integer" | "number") => Value::from(0),
        _ => Value::from("Stand-in"),
    }
}

/// Four bytes per token; everything before the last message comes from the cache.
fn usage(messages: &[Value], bytes: usize) -> Usage {
    let last = messages.last().map_or(0, |message| message.to_string().len());
    let cached = (bytes.saturating_sub(last) / 4) as u64;
    let input = 1 + (last / 4) as u64;
    match messages.len() {
        0 | 1 => Usage { input, cache_creation: cached, ..Usage::default() },
        _ => Usage { input, cache_read: cached, ..Usage::default() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn script(prompt: &str) -> Script {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": prompt}]});
        Script::read(&body, "", 400).unwrap()
    }

    fn say(text: &str) -> Step {
        Step::Send(Content::Say(text.to_owned()))
    }

    #[test]
    fn steps_in_order_up_to_the_first_tool() {
        let script = script(r#"[[say a]][[hold h]][[silence 1s]][[tool B {"x":1}]][[say later]]"#);
        let tool = Step::Tool { name: "B".into(), input: r#"{"x":1}"#.into() };
        let silence = Step::Silence(Some(Duration::from_secs(1)));
        assert_eq!(script.steps, [say("a"), Step::Hold("h".into()), silence, tool]);
    }

    #[test]
    fn behind_a_tool_the_rest_follows_or_its_output_is_told() {
        let after = |prompt: &str| {
            let body = json!({"model": "m", "messages": [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": [{"type": "tool_use"}]},
                {"role": "user", "content": [{"type": "tool_result", "content": "hi\n"}]}
            ]});
            Script::read(&body, "", 0).unwrap().steps
        };
        assert_eq!(after("[[tool B {}]][[say later]]"), [say("later")]);
        assert_eq!(after("[[tool B {}]]"), [say("tool said: hi")]);
    }

    #[test]
    fn faults_have_defaults_and_keep_the_default_answer() {
        let script = script("hi [[status 529 retry-after=1 times=2]] [[cut after=3]]");
        let status = FaultKind::Status { code: 529, retry_after: Some("1".into()), quotes: false };
        assert_eq!((&script.faults[0].kind, script.faults[0].times), (&status, 2));
        assert_eq!(
            (&script.faults[1].kind, script.faults[1].times),
            (&FaultKind::Cut { after: 3 }, 1)
        );
        assert_ne!(script.faults[0].key, script.faults[1].key);
        assert!(matches!(script.steps[..], [Step::Send(Content::Sentence(_))]));
    }

    #[test]
    fn usage_can_be_set() {
        assert_eq!(script("[[usage in=5 out=6]]").usage.input, 5);
        assert_eq!(script("[[usage in=5 out=6]]").usage.output, Some(6));
        assert!(script("x").usage.cache_creation > 0);
    }

    #[test]
    fn unknown_directives_say_so() {
        let Step::Send(Content::Say(text)) = &script("[[sya hello]]").steps[0] else { panic!() };
        assert!(text.contains("sya"), "{text}");
    }

    #[test]
    fn side_calls_get_what_they_ask_for_and_ignore_the_script() {
        let body = json!({
            "model": "m", "messages": [{"role": "user", "content": "[[status 500]] title please"}],
            "output_config": {"format": {"type": "json_schema", "schema": {
                "type": "object", "properties": {"title": {"type": "string"}}
            }}}
        });
        let script = Script::read(&body, "", 0).unwrap();
        assert_eq!(script.steps, [say(r#"{"title":"Stand-in"}"#)]);
        assert_eq!(script.faults, []);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(Script::read(&json!({"model": "m", "messages": []}), "", 0), None);
        assert_eq!(Script::read(&json!([]), "", 0), None);
    }
}
