//! A program's fault points: what is called and what is listed are the same, each once.

use std::collections::BTreeMap;
use std::path::Path;

use proc_macro2::{Delimiter, Group, TokenTree};

use crate::tokens;

/// The functions that pass a point, in the module `fault`.
const PASSES: [&str; 2] = ["point", "fail"];

/// What gives a file another name.
const RENAMES: [&str; 3] = ["rename", "renameat", "renameat_with"];

/// The names that the table of points lists, in order: the first text in each of its rows.
///
/// # Errors
/// When the text is not Rust.
pub fn listed(table: &str) -> Result<Vec<String>, String> {
    let mut names = Vec::new();
    visit(&tokens::parse(table)?, &mut |tokens| {
        if let [TokenTree::Literal(name), TokenTree::Punct(_), TokenTree::Literal(_), ..] = tokens {
            names.extend(text(&TokenTree::from(name.clone())));
        }
    });
    Ok(names)
}

/// The points that a source passes, its tests left out, with their lines. A name that is no literal
/// is given as the empty one.
///
/// # Errors
/// When the text is not Rust.
pub fn passed(source: &str) -> Result<Vec<(String, usize)>, String> {
    let (product, _) = tokens::split_tests(tokens::parse(source)?);
    let mut points = Vec::new();
    visit(&product, &mut |tokens| {
        for call in tokens.windows(5) {
            let [module, _, _, function, TokenTree::Group(arguments)] = call else { continue };
            let called = arguments.delimiter() == Delimiter::Parenthesis;
            let is_pass = PASSES.iter().any(|name| is(function, name));
            if called && is_pass && is(module, "fault") {
                let name = arguments.stream().into_iter().next().as_ref().and_then(text);
                points.push((name.unwrap_or_default(), function.span().start().line));
            }
        }
    });
    Ok(points)
}

/// The functions of a source that give files other names and pass no point, by their names. Its tests are left
/// out.
///
/// # Errors
/// When the text is not Rust.
pub fn unmarked_renames(source: &str) -> Result<Vec<String>, String> {
    let (product, _) = tokens::split_tests(tokens::parse(source)?);
    let mut found = Vec::new();
    functions(&product, &mut |name, body| {
        if renames(body) && !marks(body) {
            found.push(name.to_owned());
        }
    });
    Ok(found)
}

/// What is wrong, one sentence each, when sources pass these points and the table lists those.
pub fn check(passed: &[(&Path, String, usize)], listed: &[String]) -> Vec<String> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for (path, name, line) in passed {
        *seen.entry(name).or_default() += 1;
        if !listed.contains(name) {
            wrong
                .push(format!("{}:{line}: the fault point {name:?} is not listed", path.display()));
        }
    }
    for name in listed {
        let times = seen.get(name.as_str()).copied().unwrap_or_default();
        if times != 1 {
            wrong.push(format!("the fault point {name:?} is passed in {times} places, not in one"));
        }
        if listed.iter().filter(|other| *other == name).count() != 1 {
            wrong.push(format!("the fault point {name:?} is listed more than once"));
        }
    }
    wrong
}

/// Shows every sequence of tokens, those in groups as well.
fn visit(tokens: &[TokenTree], see: &mut impl FnMut(&[TokenTree])) {
    see(tokens);
    for token in tokens {
        if let TokenTree::Group(group) = token {
            visit(&children(group), see);
        }
    }
}

/// Shows every function that has a body, but those within others.
fn functions(tokens: &[TokenTree], see: &mut impl FnMut(&str, &[TokenTree])) {
    let mut rest = tokens.iter();
    while let Some(token) = rest.next() {
        match token {
            TokenTree::Ident(word) if *word == "fn" => {
                // Else it is a type.
                let Some(TokenTree::Ident(name)) = rest.next() else { continue };
                let end = rest.by_ref().find(|token| is_end(token));
                if let Some(TokenTree::Group(body)) = end {
                    see(&name.to_string(), &children(body));
                }
            }
            TokenTree::Group(group) => functions(&children(group), see),
            _ => {}
        }
    }
}

/// Whether a function ends with this: with its body, or without one.
fn is_end(token: &TokenTree) -> bool {
    match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(sign) => sign.as_char() == ';',
        _ => false,
    }
}

/// Whether something is called that gives a file another name.
fn renames(tokens: &[TokenTree]) -> bool {
    let mut found = false;
    visit(tokens, &mut |tokens| {
        found |= tokens.windows(2).any(|pair| {
            let [name, TokenTree::Group(arguments)] = pair else { return false };
            let is_called = arguments.delimiter() == Delimiter::Parenthesis;
            is_called && RENAMES.iter().any(|rename| is(name, rename))
        });
    });
    found
}

/// Whether a point is passed.
fn marks(tokens: &[TokenTree]) -> bool {
    let mut found = false;
    visit(tokens, &mut |tokens| found |= tokens.iter().any(|token| is(token, "fault")));
    found
}

fn children(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

fn is(token: &TokenTree, name: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident == name)
}

/// What a plain string literal says.
fn text(token: &TokenTree) -> Option<String> {
    let TokenTree::Literal(literal) = token else { return None };
    Some(literal.to_string().strip_prefix('"')?.strip_suffix('"')?.to_owned())
}
