//! Which modules of `ashd` name which.

use std::path::{Component, Path};

use crate::table::{LAYERS, LEAVES, Layer, ROOT, WORDS};
use crate::tokens;

/// What is wrong in one file of `ashd`, one sentence each. `path` is relative to the crate's
/// sources.
pub fn check(path: &Path, text: &str) -> Vec<String> {
    let module = module_of(path);
    let tokens = match tokens::parse(text) {
        Ok(tokens) => tokens::split_tests(tokens).0,
        Err(error) => return vec![format!("{} {error}", path.display())],
    };
    let Some(from) = place(&module, path) else {
        return match module.first() {
            Some(first) => vec![format!("{}: module {first} is in no layer", path.display())],
            None => Vec::new(),
        };
    };
    let named = tokens::paths(&tokens, &module, "ashd");
    let wrong = named.iter().filter_map(|name| {
        let complaint = complaint(from, &name.segments)?;
        Some(format!("{}:{}: {complaint}", path.display(), name.line))
    });
    let mut wrong: Vec<String> = wrong.collect();
    wrong.dedup();
    wrong
}

/// Where a file stands: in a layer, or above all of them.
#[derive(Clone, Copy)]
enum Place {
    Main,
    In(&'static Layer),
}

fn place(module: &[String], path: &Path) -> Option<Place> {
    if path == Path::new("main.rs") {
        return Some(Place::Main);
    }
    layer_of(module).map(Place::In)
}

/// Why a path may not be named from there, if it may not.
fn complaint(from: Place, segments: &[String]) -> Option<String> {
    let Some(to) = layer_of(segments) else {
        return Some(format!("names {}, which is in no layer", segments.join("::")));
    };
    let (name, allowed) = match from {
        Place::Main => ("main", to.module == ROOT),
        Place::In(layer) => (layer.module, may_see(layer, to)),
    };
    (!allowed).then(|| format!("{name} may not name {}", to.module))
}

fn may_see(from: &Layer, to: &Layer) -> bool {
    let leaf = if LEAVES.contains(&from.module) {
        to.module == WORDS
    } else {
        LEAVES.contains(&to.module)
    };
    let below = [&[from.module], from.sees].concat();
    leaf || below.iter().any(|seen| is_within(to.module, seen))
}

/// Whether a module is another one or lies in it.
fn is_within(module: &str, other: &str) -> bool {
    module.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The innermost layer that a path lies in.
fn layer_of(segments: &[String]) -> Option<&'static Layer> {
    let path = segments.join("::");
    LAYERS
        .iter()
        .filter(|layer| is_within(&path, layer.module))
        .max_by_key(|layer| layer.module.len())
}

/// The module that a file is, by its path.
fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> = path
        .with_extension("")
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect();
    if module.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        module.pop();
    }
    module
}
