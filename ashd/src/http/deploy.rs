//! What a deployment must look like. Prompt and environment are checked by the verb.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::error::ApiError;
use crate::domain::{AgentConfig, AgentName, json};
use crate::session::api::{Deployment, Source};

/// The most bytes of a path.
const LONGEST_PATH: usize = 4096;

/// The most bytes of one name in a path.
const LONGEST_NAME: usize = 255;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Shape<'a> {
    name: String,
    path: Option<String>,
    #[serde(borrow)]
    files: Option<Vec<FileShape<'a>>>,
    system_prompt: Option<String>,
    env: Option<BTreeMap<String, String>>,
    config: Option<Map<String, Value>>,
}

#[derive(Deserialize)]
struct FileShape<'a> {
    #[serde(borrow)]
    path: Cow<'a, str>,
    #[serde(borrow)]
    content: Cow<'a, str>,
}

/// Reads a deployment out of a request body.
///
/// # Errors
/// 400 that names the place and what was expected there.
pub(super) fn parse(body: &[u8]) -> Result<Deployment, ApiError> {
    let shape: Shape = json::object("", body)?;
    let name: AgentName =
        shape.name.parse().map_err(|error| ApiError::invalid(format!("name: {error}")))?;
    let system_prompt = shape.system_prompt.filter(|prompt| !prompt.is_empty());
    let source = match (shape.path, shape.files) {
        (Some(path), _) => directory(path)?,
        (None, Some(files)) => Source::Files(decode(files)?),
        (None, None) if system_prompt.is_some() => Source::Files(Vec::new()),
        (None, None) => {
            return Err(ApiError::invalid("one of path, files and systemPrompt is required"));
        }
    };
    let config = shape.config.map(|members| AgentConfig::new("config", members)).transpose()?;
    Ok(Deployment { name, source, system_prompt, env: shape.env, config })
}

fn directory(path: String) -> Result<Source, ApiError> {
    if path.is_empty() || path.len() > LONGEST_PATH || path.contains('\0') {
        return Err(ApiError::invalid(format!("path: expected 1 to {LONGEST_PATH} bytes, no NUL")));
    }
    Ok(Source::Directory(PathBuf::from(path)))
}

fn decode(files: Vec<FileShape>) -> Result<Vec<(String, Bytes)>, ApiError> {
    check_paths(files.iter().map(|file| &*file.path))?;
    let decode = |(index, file): (usize, FileShape)| {
        let content = STANDARD.decode(file.content.as_bytes()).map_err(|_| {
            ApiError::invalid(format!("files[{index}].content: expected base64 with padding"))
        })?;
        Ok((file.path.into_owned(), Bytes::from(content)))
    };
    files.into_iter().enumerate().map(decode).collect()
}

/// Checks that paths stay inside, that none comes twice, and that none is a file and a directory.
fn check_paths<'a>(paths: impl Iterator<Item = &'a str> + Clone) -> Result<(), ApiError> {
    let mut files = BTreeSet::new();
    for (index, path) in paths.clone().enumerate() {
        let refuse = |what: &str| ApiError::invalid(format!("files[{index}].path: {what}"));
        check_path(path).map_err(refuse)?;
        if !files.insert(path) {
            return Err(refuse("is given twice"));
        }
    }
    for (index, path) in paths.enumerate() {
        let mut parents = path.match_indices('/').map(|(end, _)| &path[..end]);
        if parents.any(|parent| files.contains(parent)) {
            let text = format!("files[{index}].path: lies beneath another file");
            return Err(ApiError::invalid(text));
        }
    }
    Ok(())
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.is_empty() || path.len() > LONGEST_PATH || path.contains('\0') {
        return Err("expected 1 to 4096 bytes, no NUL");
    }
    if path.starts_with('/') {
        return Err("must be relative");
    }
    for name in path.split('/') {
        match name {
            ".." => return Err("must not contain `..`"),
            "" | "." => return Err("must not contain empty names or `.`"),
            _ if name.len() > LONGEST_NAME => return Err("has a name of more than 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::http::tests::error_text;

    fn complaint(body: Value) -> String {
        let Err(error) = parse(body.to_string().as_bytes()) else { panic!("accepted: {body}") };
        error_text(error)
    }

    fn file(path: &str) -> Value {
        json!({"path": path, "content": "aGk="})
    }

    #[test]
    fn files_are_decoded() {
        let body = json!({"name": "a", "files": [file("CLAUDE.md"), file(".claude/s.json")], "env": {"K": "v"},
            "config": {"model": "m", "x": null}});
        let deployment = parse(body.to_string().as_bytes()).unwrap();
        let Source::Files(files) = deployment.source else { panic!("no files") };
        assert_eq!(files[1], (".claude/s.json".into(), Bytes::from("hi")));
        assert_eq!(deployment.env.unwrap()["K"], "v");
        assert_eq!(deployment.config.unwrap().to_json(), r#"{"model":"m"}"#);
    }

    #[test]
    fn a_prompt_alone_or_a_path_is_enough() {
        let prompt = parse(br#"{"name":"a","systemPrompt":"Be brief."}"#).unwrap();
        assert!(matches!(prompt.source, Source::Files(files) if files.is_empty()));
        let path = parse(br#"{"name":"a","path":"/srv/agents/a"}"#).unwrap();
        let Source::Directory(path) = path.source else { panic!("no directory") };
        assert_eq!(path.to_str(), Some("/srv/agents/a"));
    }

    #[test]
    fn wrong_deployments_are_explained() {
        for (body, text) in [
            (json!({}), "name: is required"),
            (
                json!({"name": "../x", "systemPrompt": "p"}),
                "name: must be 1 to 255 of the characters A-Z a-z 0-9 _ -",
            ),
            (json!({"name": "a"}), "one of path, files and systemPrompt is required"),
            (
                json!({"name": "a", "systemPrompt": ""}),
                "one of path, files and systemPrompt is required",
            ),
            (json!({"name": "a", "systemPrompt": "p", "config": []}), "config: expected an object"),
            (
                json!({"name": "a", "systemPrompt": "p", "config": {"model": ""}}),
                "config.model: must not be empty",
            ),
            (json!({"name": "a", "path": ""}), "path: expected 1 to 4096 bytes, no NUL"),
            (json!({"name": "a", "files": [{"path": "x"}]}), "files[0].content: is required"),
            (
                json!({"name": "a", "files": [{"path": "x", "content": "a b="}]}),
                "files[0].content: expected base64 with padding",
            ),
            (
                json!({"name": "a", "files": [{"path": "x", "content": "aGk"}]}),
                "files[0].content: expected base64 with padding",
            ),
            (
                json!({"name": "a", "files": [file("x"), file("x")]}),
                "files[1].path: is given twice",
            ),
            (
                json!({"name": "a", "files": [file("x/y"), file("x")]}),
                "files[0].path: lies beneath another file",
            ),
            (json!({"name": "a", "files": [file("/x")]}), "files[0].path: must be relative"),
            (
                json!({"name": "a", "files": [file("x/../y")]}),
                "files[0].path: must not contain `..`",
            ),
            (
                json!({"name": "a", "files": [file("./x")]}),
                "files[0].path: must not contain empty names or `.`",
            ),
            (
                json!({"name": "a", "files": [file("x//y")]}),
                "files[0].path: must not contain empty names or `.`",
            ),
            (
                json!({"name": "a", "files": [file("x\0")]}),
                "files[0].path: expected 1 to 4096 bytes, no NUL",
            ),
        ] {
            assert_eq!(complaint(body), text);
        }
    }

    #[test]
    fn names_that_only_look_dangerous_pass() {
        for path in ["..foo", "a..b/c", "...", "x\\..\\y", "ä/ö"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    proptest! {
        #[test]
        fn accepted_paths_stay_inside(path in "[./a\\\\]{0,12}") {
            if check_path(&path).is_ok() {
                let parts: Vec<_> = std::path::Path::new(&path).components().collect();
                prop_assert!(parts.iter().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
