//! Finds the prompt of a request: the message that the answer is for.

use serde_json::Value;

use crate::directive;

/// Where a conversation stands.
#[derive(Debug, Default, Eq, PartialEq)]
pub(crate) struct Prompt {
    /// Its text, without reminders.
    pub(crate) text: String,
    /// Its place among the messages.
    pub(crate) at: usize,
    /// How many tools were asked for since.
    pub(crate) tools_used: usize,
    /// What the last tool said, if the last message is its answer.
    pub(crate) tool_said: Option<String>,
}

impl Prompt {
    /// The prompt of a conversation: the last message of the user that is more than reminders
    /// and tool results.
    pub(crate) fn find(messages: &[Value]) -> Self {
        let Some(at) = messages.iter().rposition(is_prompt) else { return Self::default() };
        Self {
            text: prompt_of(&messages[at]),
            at,
            tools_used: messages[at..].iter().map(|message| count(message, "tool_use")).sum(),
            tool_said: messages[at..].last().and_then(tool_result),
        }
    }
}

/// A compact listing of messages, one line `role: text` each.
pub fn history<'a>(messages: impl IntoIterator<Item = &'a Value>) -> String {
    let lines = messages.into_iter().filter_map(|message| {
        let text = text_of(&message["content"]).split_whitespace().collect::<Vec<_>>().join(" ");
        let role = message["role"].as_str().unwrap_or("nobody");
        (!text.is_empty()).then(|| format!("{role}: {}", first_chars(&text, 200)))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A text without its `<system-reminder>` parts.
pub fn without_reminders(text: &str) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some((before, reminder)) = rest.split_once("<system-reminder>") {
        kept.push_str(before);
        rest = reminder.split_once("</system-reminder>").map_or("", |(_, after)| after);
    }
    kept.push_str(rest);
    kept.trim().to_owned()
}

/// The first `count` characters of a text.
pub(crate) fn first_chars(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(end, _)| &text[..end])
}

/// All text of a content, without reminders.
fn text_of(content: &Value) -> String {
    let texts = texts(content).map(without_reminders);
    texts.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
}

/// The text of the last prompt in a message.
///
/// The CLI puts prompts that got no answer (because of an error or an interruption) into the same
/// message as the next one. Reminders or a line break at the end of a text divide them.
fn prompt_of(message: &Value) -> String {
    let mut prompt = Vec::new();
    let mut divided = false;
    for text in texts(&message["content"]) {
        let kept = without_reminders(text);
        if kept.is_empty() {
            divided = true;
            continue;
        }
        if divided {
            prompt.clear();
        }
        divided = text.ends_with('\n');
        prompt.push(kept);
    }
    prompt.join("\n")
}

fn texts(content: &Value) -> impl Iterator<Item = &str> {
    let blocks = content.as_array().into_iter().flatten();
    content.as_str().into_iter().chain(blocks.filter_map(|block| block["text"].as_str()))
}

/// A message with a tool's result takes over only if its text has directives of its own.
fn is_prompt(message: &Value) -> bool {
    let text = prompt_of(message);
    message["role"] == "user"
        && !text.is_empty()
        && (count(message, "tool_result") == 0 || !directive::parse(&text).is_empty())
}

fn count(message: &Value, kind: &str) -> usize {
    blocks(message).filter(|block| block["type"] == kind).count()
}

fn tool_result(message: &Value) -> Option<String> {
    let result = blocks(message).find(|block| block["type"] == "tool_result")?;
    Some(text_of(&result["content"]))
}

fn blocks(message: &Value) -> impl Iterator<Item = &Value> {
    message["content"].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn user(text: &str) -> Value {
        json!({"role": "user", "content": text})
    }

    fn tool_round() -> [Value; 2] {
        [
            json!({"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "B"}]}),
            json!({"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t", "content": "out"},
                {"type": "text", "text": "<system-reminder>[[say no]]</system-reminder>"}
            ]}),
        ]
    }

    #[test]
    fn reminders_are_not_read() {
        let message = json!({"role": "user", "content": [
            {"type": "text", "text": "<system-reminder>\n[[say no]]\n</system-reminder>"},
            {"type": "text", "text": "hello <system-reminder>x</system-reminder>there"}
        ]});
        assert_eq!(Prompt::find(&[message]).text, "hello there");
    }

    #[test]
    fn a_tool_result_continues_the_prompt_before_it() {
        let [call, answer] = tool_round();
        let prompt = Prompt::find(&[user("old"), user("[[tool B {}]]"), call, answer]);
        assert_eq!(prompt.text, "[[tool B {}]]");
        assert_eq!((prompt.at, prompt.tools_used), (1, 1));
        assert_eq!(prompt.tool_said.as_deref(), Some("out"));
    }

    #[test]
    fn a_prompt_put_behind_a_tool_result_takes_over() {
        let [call, mut answer] = tool_round();
        answer["content"][1]["text"] = "[[say now]]".into();
        let prompt = Prompt::find(&[user("[[tool B {}]]"), call, answer]);
        assert_eq!((prompt.text.as_str(), prompt.tools_used), ("[[say now]]", 0));
    }

    fn blocks(texts: &[&str]) -> Value {
        let blocks: Vec<_> =
            texts.iter().map(|text| json!({"type": "text", "text": text})).collect();
        json!({"role": "user", "content": blocks})
    }

    #[test]
    fn prompts_without_an_answer_are_over() {
        let message = blocks(&["[[hold x]]\n", "[Request interrupted by user]\n", "next"]);
        assert_eq!(Prompt::find(std::slice::from_ref(&message)).text, "next");
        assert!(history([&message]).starts_with("user: [[hold x]]"));
        let reminder = "<system-reminder>x</system-reminder>\n";
        assert_eq!(Prompt::find(&[blocks(&["[[status 400]]", reminder, "next"])]).text, "next");
    }

    #[test]
    fn a_prompt_may_have_several_texts() {
        let reminder = "<system-reminder>x</system-reminder>\n";
        assert_eq!(Prompt::find(&[blocks(&[reminder, "a", "b\n", reminder])]).text, "a\nb");
    }

    #[test]
    fn nothing_to_answer() {
        assert_eq!(Prompt::find(&[]), Prompt::default());
    }

    #[test]
    fn a_listing_has_a_line_per_message() {
        let answer = json!({"role": "assistant", "content": [{"type": "text", "text": "b\nc"}]});
        assert_eq!(history([&user("a"), &answer]), "user: a\nassistant: b c");
    }
}
