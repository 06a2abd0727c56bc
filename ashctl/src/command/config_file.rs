//! The config of an agent, from a file.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::failure::Failure;

/// The members of the object in a file: TOML when its name ends so, else JSON. The daemon says what
/// they mean.
pub(super) fn read(path: &Path) -> Result<Map<String, Value>, Failure> {
    let bad = |why: String| Failure::Refused(format!("{}: {why}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| bad(error.to_string()))?;
    match path.extension().is_some_and(|extension| extension == "toml") {
        true => match text.parse::<toml::Table>() {
            Ok(table) => Ok(members(table)),
            Err(error) => Err(bad(format!("it is no TOML: {}", one_line(&error.to_string())))),
        },
        false => match serde_json::from_str(&text) {
            Ok(Value::Object(members)) => Ok(members),
            Ok(_) => Err(bad("a config is a JSON object".into())),
            Err(error) => Err(bad(format!("it is no JSON: {error}; name it *.toml if it is TOML"))),
        },
    }
}

fn members(table: toml::Table) -> Map<String, Value> {
    table.into_iter().map(|(name, value)| (name, json(value))).collect()
}

/// Times become text: JSON has none.
fn json(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => number.into(),
        toml::Value::Boolean(truth) => truth.into(),
        toml::Value::Datetime(time) => time.to_string().into(),
        toml::Value::Array(values) => values.into_iter().map(json).collect(),
        toml::Value::Table(table) => members(table).into(),
    }
}

/// What the parser said, without its picture of the place.
fn one_line(said: &str) -> String {
    let lines: Vec<&str> = said.lines().filter(|line| !line.contains('|')).collect();
    lines.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(name: &str, text: &str) -> Result<Value, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        read(&path).map(Value::from).map_err(|error| error.to_string())
    }

    #[test]
    fn both_languages_say_the_same() {
        let wanted = json!({"model": "m", "allowedTools": ["Bash"], "mine": {"a": 1, "b": 0.5},
            "is": true, "since": "2026-11-24"});
        let toml = "model = 'm'\nallowedTools = ['Bash']\nis = true\nsince = 2026-11-24\n\
                    [mine]\na = 1\nb = 0.5\n";
        assert_eq!(of("config.toml", toml), Ok(wanted.clone()));
        assert_eq!(of("config.json", &wanted.to_string()), Ok(wanted.clone()));
        assert_eq!(of("config", &wanted.to_string()), Ok(wanted));
    }

    #[test]
    fn what_is_no_config_is_told_on_one_line() {
        for (name, text, want) in [
            ("a.json", "[1]", "a.json: a config is a JSON object"),
            ("a.json", "model = 'm'", "a.json: it is no JSON: expected value at line 1 column 1"),
            ("a.toml", "model = m", "a.toml: it is no TOML: TOML parse error at line 1, column 9"),
        ] {
            let said = of(name, text).unwrap_err();
            assert!(said.contains(want) && said.lines().count() == 1, "{said}");
        }
        assert!(read(Path::new("/gone.json")).unwrap_err().to_string().starts_with("/gone.json: "));
    }
}
