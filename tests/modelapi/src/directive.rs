//! The bracket syntax that scripts a stand-in: `[[name args]]` anywhere in a prompt.
//!
//! A name is lower-case letters and dashes directly behind the brackets, so that shell tests and
//! wiki links in ordinary text are not taken for directives. The end is the first `]]` outside
//! braces: JSON arguments may contain brackets.

use std::time::Duration;

/// One directive of a prompt.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Directive<'a> {
    /// What to do, for example `say`.
    pub name: &'a str,
    /// Everything between the name and the closing brackets, trimmed.
    pub args: &'a str,
}

impl<'a> Directive<'a> {
    /// The words of the arguments that are not `key=value`.
    pub fn words(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.args.split_whitespace().filter(|word| !word.contains('='))
    }

    /// The value of `key=value` in the arguments.
    pub fn option(&self, key: &str) -> Option<&'a str> {
        self.args
            .split_whitespace()
            .find_map(|word| word.split_once('=').filter(|(name, _)| *name == key))
            .map(|(_, value)| value)
    }

    /// The first word of the arguments and the rest, both trimmed.
    pub fn head_and_rest(&self) -> (&'a str, &'a str) {
        let (head, rest) = self.args.split_once(char::is_whitespace).unwrap_or((self.args, ""));
        (head, rest.trim())
    }
}

/// All directives of a text, in order.
pub fn parse(text: &str) -> Vec<Directive<'_>> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find("[[") {
        rest = &rest[open + 2..];
        if let Some((directive, after)) = parse_one(rest) {
            found.push(directive);
            rest = after;
        }
    }
    found
}

/// Reads `20ms`, `5s`, `300us`, or a bare number of milliseconds.
pub fn duration(word: &str) -> Option<Duration> {
    let digits = word.bytes().take_while(u8::is_ascii_digit).count();
    let number = word[..digits].parse().ok()?;
    match &word[digits..] {
        "us" => Some(Duration::from_micros(number)),
        "ms" | "" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

/// Reads a directive whose opening brackets were just passed.
fn parse_one(text: &str) -> Option<(Directive<'_>, &str)> {
    let end = closing(text)?;
    let inner = &text[..end];
    let name_end = inner.find(|c: char| !(c.is_ascii_lowercase() || c == '-'));
    let (name, args) = inner.split_at(name_end.unwrap_or(inner.len()));
    let separated = args.is_empty() || args.starts_with(char::is_whitespace);
    let named = name.starts_with(|c: char| c.is_ascii_lowercase());
    (named && separated).then(|| (Directive { name, args: args.trim() }, &text[end + 2..]))
}

/// Where the closing brackets are: outside braces if these balance, else simply the first ones.
fn closing(text: &str) -> Option<usize> {
    outside_braces(text).or_else(|| text.find("]]"))
}

fn outside_braces(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut depth, mut quoted, mut at) = (0usize, false, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' if quoted => at += 1,
            b'"' if depth > 0 => quoted = !quoted,
            b'{' if !quoted => depth += 1,
            b'}' if !quoted => depth = depth.saturating_sub(1),
            b']' if depth == 0 && bytes.get(at + 1) == Some(&b']') => return Some(at),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(&str, &str)> {
        parse(text).into_iter().map(|d| (d.name, d.args)).collect()
    }

    #[test]
    fn several_inline_and_on_lines() {
        assert_eq!(
            pairs("please [[say hello world]] and\n[[count 3 20ms]][[history]]"),
            [("say", "hello world"), ("count", "3 20ms"), ("history", "")]
        );
    }

    #[test]
    fn json_may_hold_brackets_and_braces() {
        let text = r#"[[tool Bash {"command":"[[ -f a ]] && echo \"}]]\"","n":[[1]]}]] tail"#;
        let args = r#"Bash {"command":"[[ -f a ]] && echo \"}]]\"","n":[[1]]}"#;
        assert_eq!(pairs(text), [("tool", args)]);
    }

    #[test]
    fn unbalanced_braces_end_at_the_first_brackets() {
        assert_eq!(pairs("[[say {]] [[say b]]"), [("say", "{"), ("say", "b")]);
    }

    #[test]
    fn ordinary_text_is_no_directive() {
        assert_eq!(pairs("if [[ -f x ]]; then [[Wiki Link]] [[a.b]] [[say"), []);
    }

    #[test]
    fn words_and_options() {
        let all = parse("[[status 529 retry-after=1 times=2]]");
        assert_eq!(all[0].words().collect::<Vec<_>>(), ["529"]);
        assert_eq!(all[0].option("times"), Some("2"));
        assert_eq!(all[0].option("after"), None);
    }

    #[test]
    fn durations() {
        assert_eq!(duration("20ms"), Some(Duration::from_millis(20)));
        assert_eq!(duration("5s"), Some(Duration::from_secs(5)));
        assert_eq!(duration("7us"), Some(Duration::from_micros(7)));
        assert_eq!(duration("3"), Some(Duration::from_millis(3)));
        assert_eq!(duration("forever"), None);
    }
}
