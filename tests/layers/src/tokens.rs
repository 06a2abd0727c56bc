//! Rust sources as tokens: comments are gone, strings cannot be mistaken for code, and paths in
//! macros are seen like any other.

use std::iter::Peekable;
use std::slice::Iter;
use std::str::FromStr;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A path in a source: its segments from the crate's root, and the line it is on.
#[derive(Debug, Eq, PartialEq)]
pub struct Named {
    /// Modules, then perhaps an item.
    pub segments: Vec<String>,
    /// Counted from 1.
    pub line: usize,
}

/// The tokens of a source.
///
/// # Errors
/// When the text is not Rust.
pub fn parse(text: &str) -> Result<Vec<TokenTree>, String> {
    let stream = TokenStream::from_str(text).map_err(|error| format!("is not Rust: {error}"))?;
    Ok(stream.into_iter().collect())
}

/// Splits tokens into those of the product and the items that are only compiled for tests.
pub fn split_tests(tokens: Vec<TokenTree>) -> (Vec<TokenTree>, Vec<TokenTree>) {
    let (mut product, mut tests) = (Vec::new(), Vec::new());
    let mut rest = tokens.into_iter().peekable();
    while let Some(token) = rest.next() {
        let attribute = rest.peek().filter(|_| is_punct(&token, '#'));
        if attribute.is_some_and(is_cfg_test) {
            tests.push(token);
            for part in rest.by_ref() {
                let ends = is_punct(&part, ';') || group(&part, Delimiter::Brace).is_some();
                tests.push(part);
                if ends {
                    break;
                }
            }
        } else {
            product.push(token);
        }
    }
    (product, tests)
}

/// How many lines items that are only compiled for tests take.
pub fn test_lines(tests: &[TokenTree]) -> usize {
    let mut lines = 0;
    let mut begin = None;
    for token in tests {
        let first = *begin.get_or_insert(token.span().start().line);
        if is_punct(token, ';') || group(token, Delimiter::Brace).is_some() {
            lines += token.span().end().line + 1 - first;
            begin = None;
        }
    }
    lines
}

/// Every path that begins with `crate`, `super`, or `own_name`, in a source that is the module
/// `module`; uses with braces give one path per leaf.
pub fn paths(tokens: &[TokenTree], module: &[String], own_name: &str) -> Vec<Named> {
    let mut found = Vec::new();
    let mut rest = tokens.iter().peekable();
    while let Some(token) = rest.next() {
        if let TokenTree::Group(inner) = token {
            found.extend(paths(&children(inner), module, own_name));
        } else if is_ident(token, "mod") {
            found.extend(inline_module(&mut rest, module, own_name));
        } else if let Some(start) = beginning(token, &mut rest, module, own_name) {
            found.extend(tails(&mut rest, start));
        }
    }
    found
}

/// The lines on which an attribute with this name stands.
pub fn attributes(tokens: &[TokenTree], name: &str) -> Vec<usize> {
    let mut lines = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let TokenTree::Group(inner) = token else { continue };
        let hash = i.checked_sub(1).and_then(|before| tokens.get(before));
        let is_attribute = hash.is_some_and(|it| is_punct(it, '#') || is_punct(it, '!'));
        let inside = children(inner);
        if is_attribute && inside.first().is_some_and(|first| is_ident(first, name)) {
            lines.push(token.span().start().line);
        }
        lines.extend(attributes(&inside, name));
    }
    lines
}

/// The lines on which a keyword stands.
pub fn keyword(tokens: &[TokenTree], word: &str) -> Vec<usize> {
    let lines = tokens.iter().flat_map(|token| match token {
        TokenTree::Group(inner) => keyword(&children(inner), word),
        _ if is_ident(token, word) => vec![token.span().start().line],
        _ => Vec::new(),
    });
    lines.collect()
}

type Rest<'a> = Peekable<Iter<'a, TokenTree>>;

/// The paths inside `mod name { … }`, when the keyword has just been passed.
fn inline_module(rest: &mut Rest<'_>, module: &[String], own_name: &str) -> Vec<Named> {
    let Some(TokenTree::Ident(name)) = rest.peek() else { return Vec::new() };
    let inner = [module, &[name.to_string()]].concat();
    rest.next();
    match rest.peek().and_then(|token| group(token, Delimiter::Brace)) {
        Some(body) => {
            rest.next();
            paths(&children(body), &inner, own_name)
        }
        None => Vec::new(),
    }
}

/// The module that a path starts from, when `token` begins one and `::` follows, which is passed.
fn beginning(
    token: &TokenTree,
    rest: &mut Rest<'_>,
    module: &[String],
    own_name: &str,
) -> Option<Vec<String>> {
    if is_ident(token, "super") {
        return pass_colons(rest).then(|| above(rest, module));
    }
    let own = is_ident(token, "crate") || is_ident(token, own_name);
    (own && pass_colons(rest)).then(Vec::new)
}

/// The parent of `module`, and further up for each `super::` that follows.
fn above(rest: &mut Rest<'_>, module: &[String]) -> Vec<String> {
    let mut start = module[..module.len().saturating_sub(1)].to_vec();
    while rest.peek().is_some_and(|token| is_ident(token, "super")) {
        rest.next();
        pass_colons(rest);
        start.pop();
    }
    start
}

/// What follows a `::`: a name and more, a choice in braces, or everything.
fn tails(rest: &mut Rest<'_>, mut start: Vec<String>) -> Vec<Named> {
    let Some(token) = rest.peek() else { return Vec::new() };
    let line = token.span().start().line;
    match token {
        TokenTree::Group(choice) if choice.delimiter() == Delimiter::Brace => {
            rest.next();
            let inside = children(choice);
            let parts = inside.split(|token| is_punct(token, ','));
            parts.flat_map(|part| tails(&mut part.iter().peekable(), start.clone())).collect()
        }
        TokenTree::Ident(name) => {
            if *name != "self" {
                start.push(name.to_string());
            }
            rest.next();
            if pass_colons(rest) {
                tails(rest, start)
            } else {
                vec![Named { segments: start, line }]
            }
        }
        _ => vec![Named { segments: start, line }],
    }
}

fn pass_colons(rest: &mut Rest<'_>) -> bool {
    let mut ahead = rest.clone();
    let both = (0..2).all(|_| ahead.next().is_some_and(|token| is_punct(token, ':')));
    if both {
        *rest = ahead;
    }
    both
}

fn is_cfg_test(token: &TokenTree) -> bool {
    group(token, Delimiter::Bracket).is_some_and(|inner| inner.stream().to_string() == "cfg (test)")
}

fn group(token: &TokenTree, delimiter: Delimiter) -> Option<&Group> {
    match token {
        TokenTree::Group(group) if group.delimiter() == delimiter => Some(group),
        _ => None,
    }
}

fn children(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

fn is_ident(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if *ident == word)
}

fn is_punct(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(source: &str, module: &str) -> Vec<String> {
        let module: Vec<String> =
            module.split("::").filter(|part| !part.is_empty()).map(str::to_owned).collect();
        let found = paths(&parse(source).unwrap(), &module, "ashd");
        found
            .into_iter()
            .map(|path| format!("{}@{}", path.segments.join("::"), path.line))
            .collect()
    }

    #[test]
    fn uses_with_braces_give_one_path_per_leaf() {
        let source = "use crate::{\n a::B,\n c::{self, d::*},\n};";
        assert_eq!(named(source, "x"), ["a::B@2", "c@3", "c::d@3"]);
    }

    #[test]
    fn super_is_resolved_also_in_inline_modules() {
        assert_eq!(named("use super::b::C;", "a::x"), ["a::b::C@1"]);
        assert_eq!(named("mod inner { use super::super::b; }", "a::x"), ["a::b@1"]);
        assert_eq!(named("mod inner { fn f() { super::g() } }", "a"), ["a::g@1"]);
    }

    #[test]
    fn paths_in_code_and_macros_are_seen() {
        assert_eq!(named("fn f() { crate::a::b::<u8>(); }", "x"), ["a::b@1"]);
        assert_eq!(named("fn f() { info!(?crate::a::B, \"x\"); }", "x"), ["a::B@1"]);
        assert_eq!(named("fn main() { ashd::store::open() }", ""), ["store::open@1"]);
    }

    #[test]
    fn comments_strings_and_visibilities_are_not_paths() {
        let source = "// crate::a::B\n/// crate::a::B\npub(crate) const C: &str = \"crate::a::B\";";
        assert!(named(source, "x").is_empty());
    }

    #[test]
    fn tests_are_set_apart_with_their_lines() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests {\n use crate::b;\n}\nfn c() {}\n";
        let (product, tests) = split_tests(parse(source).unwrap());
        assert_eq!(test_lines(&tests), 4);
        assert!(paths(&product, &[], "ashd").is_empty());
        assert_eq!(keyword(&product, "fn"), [1, 6]);
    }

    #[test]
    fn attributes_are_found_at_any_depth() {
        let source = "#![allow(x)]\nmod m {\n #[test]\n #[ignore = \"slow\"]\n fn f() {}\n}";
        let tokens = parse(source).unwrap();
        assert_eq!(attributes(&tokens, "allow"), [1]);
        assert_eq!(attributes(&tokens, "ignore"), [4]);
    }
}
