//! JSON from clients: read as a type, and explained when it is wrong.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::error::Category;

use super::check::{Unfit, join};

/// Reads a value out of a JSON object that stands at `root` (empty: it is the whole body). Empty
/// text is an empty object.
///
/// # Errors
/// When it is no such object; names the place and what was expected there.
pub fn object<'a, T: Deserialize<'a>>(root: &str, json: &'a [u8]) -> Result<T, Unfit> {
    let json = if json.trim_ascii().is_empty() { b"{}" } else { json };
    if json.trim_ascii_start().first() == Some(&b'[') {
        // Structs can be read from arrays too; no client of ours means that.
        return Err(Unfit::value(place(root), "expected an object"));
    }
    value(root, json)
}

/// Reads a value out of the JSON that stands at `root` (empty: it is the whole body).
///
/// # Errors
/// When it is no such value; names the place and what was expected there.
pub fn value<'a, T: Deserialize<'a>>(root: &str, json: &'a [u8]) -> Result<T, Unfit> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { "" } else { &path };
        if is_no_word(error.inner(), json) {
            return Unfit::value(place(&join(root, path)), "expected a string");
        }
        explain(root, path, error.inner())
    })?;
    reader.end().map_err(|error| explain(root, "", &error))?;
    Ok(value)
}

/// Whether something else stands where one of a few words should: the reader calls that bad syntax.
fn is_no_word(error: &serde_json::Error, json: &[u8]) -> bool {
    error.classify() == Category::Syntax
        && error.to_string().starts_with("expected value at ")
        && serde_json::from_slice::<IgnoredAny>(json).is_ok()
}

/// How the whole is called.
fn place(path: &str) -> &str {
    if path.is_empty() { "body" } else { path }
}

/// Explains why a body that was read piece by piece is none; `path` is where that was found out.
pub fn explained(path: &str, error: &serde_json::Error) -> Unfit {
    explain("", if path == "." { "" } else { path }, error)
}

fn explain(root: &str, path: &str, error: &serde_json::Error) -> Unfit {
    let text = error.to_string();
    if error.classify() != Category::Data {
        return Unfit::json(place(root), &text);
    }
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(text, _)| text);
    let (path, what) = match member_of(text) {
        Some((member, what)) => (join(root, &join(path, member)), what.to_owned()),
        None => (join(root, path), expectation(text)),
    };
    Unfit::value(place(&path), what)
}

/// Complaints about a member are made at the object that should have it.
fn member_of(text: &str) -> Option<(&str, &'static str)> {
    let named = |prefix| text.strip_prefix(prefix)?.strip_suffix('`');
    named("missing field `")
        .map(|member| (member, "is required"))
        .or_else(|| named("duplicate field `").map(|member| (member, "is given twice")))
}

/// What was expected, in a client's words and without the value that came instead.
fn expectation(text: &str) -> String {
    let Some((_, expected)) = text.rsplit_once("expected ") else {
        return text.to_owned();
    };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number that is not negative",
        "f64" | "f32" => "a number",
        "a sequence" => "an array",
        "a map" => "an object",
        "a borrowed string" | "string" => "a string",
        other if other.starts_with("struct ") => "an object",
        other => other,
    };
    format!("expected {expected}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase")]
    #[expect(dead_code, reason = "only read")]
    struct Sample {
        name: String,
        max_turns: Option<u32>,
        budget: Option<f64>,
        list: Option<Vec<Inner>>,
        map: Option<BTreeMap<String, String>>,
    }

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "only read")]
    struct Inner {
        path: String,
    }

    fn complaint(body: &str) -> String {
        object::<Sample>("", body.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn complaints_name_the_place_and_the_expectation() {
        for (body, text) in [
            ("", "name: is required"),
            ("  ", "name: is required"),
            ("[]", "body: expected an object"),
            ("5", "body: expected an object"),
            ("null", "body: expected an object"),
            (r#"{"name":5}"#, "name: expected a string"),
            (r#"{"name":"a","name":"b"}"#, "name: is given twice"),
            (
                r#"{"name":"a","maxTurns":"5"}"#,
                "maxTurns: expected a whole number that is not negative",
            ),
            (
                r#"{"name":"a","maxTurns":-5}"#,
                "maxTurns: expected a whole number that is not negative",
            ),
            (r#"{"name":"a","budget":"x, expected y"}"#, "budget: expected a number"),
            (r#"{"name":"a","list":{}}"#, "list: expected an array"),
            (r#"{"name":"a","list":[{"path":"x"},{}]}"#, "list[1].path: is required"),
            (r#"{"name":"a","list":[5]}"#, "list[0]: expected an object"),
            (r#"{"name":"a","map":{"k":1}}"#, "map.k: expected a string"),
        ] {
            assert_eq!(complaint(body), text, "{body}");
        }
    }

    #[test]
    fn a_part_is_called_by_its_name() {
        for (json, text) in [
            ("{}", "options.name: is required"),
            (r#"{"name":5}"#, "options.name: expected a string"),
            ("[]", "options: expected an object"),
            ("5", "options: expected an object"),
        ] {
            let said = object::<Sample>("options", json.as_bytes()).unwrap_err();
            assert_eq!(said.to_string(), text, "{json}");
        }
        let said = object::<Sample>("options", b"{").unwrap_err().to_string();
        assert!(said.starts_with("options is not valid JSON: "), "{said}");
    }

    #[test]
    fn what_is_not_json_is_called_so() {
        for body in
            ["{", "{\"name\":}", "{\"name\":\"a\"} x", "\u{feff}{}", "{\"name\":\"\\ud800\"}"]
        {
            let text = complaint(body);
            assert!(text.starts_with("body is not valid JSON: "), "{body}: {text}");
        }
        assert!(object::<Sample>("", b"{\"name\":\"\xff\"}").is_err());
    }

    #[test]
    fn what_is_no_word_is_called_so() {
        #[derive(Debug, Deserialize)]
        #[expect(dead_code, reason = "only read")]
        struct Mood {
            mode: crate::domain::PermissionMode,
        }
        let said = |json: &[u8]| object::<Mood>("config", json).unwrap_err().to_string();
        assert_eq!(said(br#"{"mode":5}"#), "config.mode: expected a string");
        assert_eq!(said(br#"{"mode":[]}"#), "config.mode: expected a string");
        assert!(said(br#"{"mode":}"#).starts_with("config is not valid JSON: "));
    }

    #[test]
    fn unknown_members_are_ignored_and_null_is_absent() {
        let body = br#"{"name":"a","other":[1,{"x":2}],"maxTurns":null}"#;
        let sample: Sample = object("", body).unwrap();
        assert_eq!((sample.name.as_str(), sample.max_turns), ("a", None));
    }

    #[test]
    fn deep_and_long_nonsense_is_bounded() {
        assert!(complaint(&format!("{{\"list\":{}", "[".repeat(100_000))).len() < 400);
        assert!(complaint(&format!(r#"{{"maxTurns":"{}"}}"#, "x".repeat(1_000_000))).len() < 400);
        assert!(complaint(&format!(r#"{{"map":{{"{}":1}}}}"#, "x".repeat(1_000_000))).len() < 400);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_explained(body: Vec<u8>) {
            if let Err(unfit) = object::<Sample>("", &body) {
                prop_assert!(!unfit.to_string().is_empty());
            }
        }
    }
}
