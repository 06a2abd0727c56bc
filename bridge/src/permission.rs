//! What the CLI asks, and the answers. Nobody sits in front of a session.

use std::borrow::Cow;

use ash_wire::brief::brief;
use ash_wire::words::Permissions;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

#[derive(Deserialize)]
struct Question<'a> {
    #[serde(borrow)]
    subtype: Cow<'a, str>,
    #[serde(borrow, default)]
    tool_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(tag = "behavior", rename_all = "snake_case")]
enum Verdict<'a> {
    Allow {
        #[serde(rename = "updatedInput")]
        updated_input: &'a RawValue,
    },
    Deny {
        message: String,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename = "control_response")]
struct Reply<'a> {
    response: Body<'a>,
}

#[derive(Serialize)]
#[serde(tag = "subtype", rename_all = "snake_case")]
enum Body<'a> {
    Success { request_id: &'a str, response: Verdict<'a> },
    Error { request_id: &'a str, error: String },
}

/// The line that answers the CLI's question `id`.
pub fn answer(id: &str, request: &RawValue, permissions: Permissions) -> Vec<u8> {
    let response = match verdict(request, permissions) {
        Ok(response) => Body::Success { request_id: id, response },
        Err(error) => Body::Error { request_id: id, error },
    };
    let mut line = serde_json::to_vec(&Reply { response }).unwrap_or_default();
    line.push(b'\n');
    line
}

fn verdict(request: &RawValue, permissions: Permissions) -> Result<Verdict<'_>, String> {
    let question: Question<'_> = serde_json::from_str(request.get())
        .map_err(|error| format!("not understood: {}", brief(&error)))?;
    match (&*question.subtype, question.tool_name, question.input) {
        ("can_use_tool", Some(tool), Some(input)) => Ok(judge(&tool, input, permissions)),
        (other, ..) => Err(format!("this session does not serve {other}")),
    }
}

fn judge<'a>(tool: &str, input: &'a RawValue, permissions: Permissions) -> Verdict<'a> {
    let deny = |message| Verdict::Deny { message };
    match (tool, permissions) {
        ("AskUserQuestion", _) => deny("nobody is there to ask".to_owned()),
        (_, Permissions::Allow) => Verdict::Allow { updated_input: input },
        (_, Permissions::Deny) => deny(format!(
            "permission to use {tool} was denied: this session runs without a person to ask"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn asked(request: &str, permissions: Permissions) -> Value {
        let request = RawValue::from_string(request.to_owned()).unwrap();
        let line = answer("q\"1", &request, permissions);
        assert_eq!(line.last(), Some(&b'\n'));
        let reply: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(reply["type"], "control_response");
        assert_eq!(reply["response"]["request_id"], "q\"1");
        reply["response"].clone()
    }

    const BASH: &str = r#"{"subtype":"can_use_tool","tool_name":"Bash","input":{"command":"ls"}}"#;

    #[test]
    fn allow_gives_the_input_back() {
        let reply = asked(BASH, Permissions::Allow);
        assert_eq!(reply["subtype"], "success");
        assert_eq!(reply["response"]["behavior"], "allow");
        assert_eq!(reply["response"]["updatedInput"]["command"], "ls");
    }

    #[test]
    fn deny_says_why() {
        let reply = asked(BASH, Permissions::Deny);
        assert_eq!(reply["response"]["behavior"], "deny");
        let message = reply["response"]["message"].as_str().unwrap();
        assert!(message.starts_with("permission to use Bash was denied"), "{message}");
    }

    #[test]
    fn a_question_to_a_person_is_never_allowed() {
        let ask = BASH.replace("Bash", "AskUserQuestion");
        assert_eq!(asked(&ask, Permissions::Allow)["response"]["behavior"], "deny");
    }

    #[test]
    fn the_answer_to_nonsense_does_not_grow_with_it() {
        let request = format!("\"{}\"", "\u{7f}".repeat(1 << 20));
        let request = RawValue::from_string(request).unwrap();
        let line = answer("q", &request, Permissions::Allow);
        assert!(line.len() < 2048, "{} bytes", line.len());
    }

    #[test]
    fn what_was_not_registered_is_an_error() {
        for request in [r#"{"subtype":"hook_callback","input":{}}"#, r#"{"subtype":"x"}"#, "[]"] {
            assert_eq!(asked(request, Permissions::Allow)["subtype"], "error");
        }
    }
}
