//! Files that `EnvironmentFile=` of a unit names, read as systemd.exec(5) has them. They differ from
//! `.env` files of agents: lines go on behind a backslash, and what cannot be used is passed over.

use std::iter::Peekable;
use std::str::Chars;

/// What may follow a backslash between double quotes without it.
const ESCAPED: &str = "\"\\`$";

/// The assignments of a file, in order. As systemd does, what is none is left out.
pub(super) fn parse(text: &str) -> Vec<(String, String)> {
    let mut rest = text.chars().peekable();
    let mut assignments = Vec::new();
    loop {
        while rest.next_if(|next| next.is_ascii_whitespace()).is_some() {}
        match rest.peek() {
            None => return assignments,
            Some('#' | ';') => while rest.next_if(|next| !is_end(*next)).is_some() {},
            Some(_) => assignments.extend(assignment(&mut rest)),
        }
    }
}

fn is_end(next: char) -> bool {
    matches!(next, '\n' | '\r')
}

fn assignment(rest: &mut Peekable<Chars>) -> Option<(String, String)> {
    let mut name = String::new();
    while let Some(next) = rest.next_if(|next| *next != '=' && !is_end(*next)) {
        name.push(next);
    }
    rest.next_if_eq(&'=')?;
    let value = value(rest);
    let name = name.trim_end();
    let begins = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    let is_name = begins && name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
    is_name.then(|| (name.to_owned(), value))
}

/// Quoted parts and what stands unquoted behind them, to the end of the line.
fn value(rest: &mut Peekable<Chars>) -> String {
    let mut value = String::new();
    loop {
        while rest.next_if(|next| next.is_ascii_whitespace() && !is_end(*next)).is_some() {}
        match rest.next_if(|next| matches!(next, '\'' | '"')) {
            Some('\'') => value.extend(rest.by_ref().take_while(|next| *next != '\'')),
            Some(_) => quoted(rest, &mut value),
            None => {
                unquoted(rest, &mut value);
                return value;
            }
        }
    }
}

/// What stands between double quotes, over as many lines as it takes.
fn quoted(rest: &mut Peekable<Chars>, value: &mut String) {
    while let Some(next) = rest.next().filter(|next| *next != '"') {
        match (next, rest.peek().copied()) {
            ('\\', Some('\n')) => drop(rest.next()),
            ('\\', Some(escaped)) if ESCAPED.contains(escaped) => value.extend(rest.next()),
            _ => value.push(next),
        }
    }
}

/// The rest of the line, and of the next one behind a backslash. Spaces at the end do not count,
/// unless they are escaped.
fn unquoted(rest: &mut Peekable<Chars>, value: &mut String) {
    let mut kept = value.len();
    while let Some(next) = rest.next_if(|next| !is_end(*next)) {
        if next != '\\' {
            value.push(next);
            kept = if next.is_ascii_whitespace() { kept } else { value.len() };
        } else if let Some(escaped) = rest.next() {
            value.extend((!is_end(escaped)).then_some(escaped));
            kept = value.len();
        }
    }
    value.truncate(kept);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_forms_of_systemd_are_read() {
        let text = "# a comment\n; another\n\nA=1\n B = two words \nC='a \"b\" \\n'\nD=\"x\\n\\\"y\\\nz\"\n\
                    E=\nF=a#b # c\nG=one \\\n two\nH=\"a\"'b' c\nI=\"over\nlines\"\nJ=sp\\ \\ \nK=\\\"q\n\
                    export L=1\n1M=x\nN\n=x\nO=last";
        let want = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a \"b\" \\n"),
            ("D", "x\\n\"yz"),
            ("E", ""),
            ("F", "a#b # c"),
            ("G", "one  two"),
            ("H", "abc"),
            ("I", "over\nlines"),
            ("J", "sp  "),
            ("K", "\"q"),
            ("O", "last"),
        ];
        assert_eq!(parse(text), want.map(|(name, value)| (name.into(), value.into())));
    }

    proptest! {
        #[test]
        fn anything_is_read(text in "[A\"'=#\\\\ \r\n]{0,40}") {
            let _ = parse(&text);
        }
    }
}
