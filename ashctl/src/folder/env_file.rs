//! `.env` files.

/// The assignments of a file, in order, or the line that is none and why.
pub(super) fn parse(text: &str) -> Result<Vec<(String, String)>, (usize, &'static str)> {
    let mut assignments = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let plain = line.strip_prefix("export ").unwrap_or(line);
        let (name, value) = assignment(plain).map_err(|why| (at + 1, why))?;
        assignments.push((name, unquoted(value.trim()).map_err(|why| (at + 1, why))?));
    }
    Ok(assignments)
}

/// `NAME=VALUE`, the value as it stands.
pub(crate) fn assignment(text: &str) -> Result<(String, &str), &'static str> {
    let (name, value) = text.split_once('=').ok_or("it is not of the form NAME=VALUE")?;
    let name = name.trim();
    let starts = name.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !starts || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err("the name must be letters, digits and _");
    }
    Ok((name.into(), value))
}

/// A value without its quotes: single ones keep everything, double ones know `\n \t \" \\`; an
/// unquoted value ends at ` #`.
fn unquoted(value: &str) -> Result<String, &'static str> {
    let rest = match value.chars().next() {
        Some('\'') => {
            let (inner, rest) = value[1..].split_once('\'').ok_or("the quote is not closed")?;
            return after_quote(inner.into(), rest);
        }
        Some('"') => &value[1..],
        _ => return Ok(value.split(" #").next().unwrap_or_default().trim_end().into()),
    };
    let (mut inner, mut chars) = (String::new(), rest.chars());
    loop {
        match chars.next().ok_or("the quote is not closed")? {
            '"' => return after_quote(inner, chars.as_str()),
            '\\' => inner.push(match chars.next().ok_or("the quote is not closed")? {
                'n' => '\n',
                't' => '\t',
                other => other,
            }),
            plain => inner.push(plain),
        }
    }
}

fn after_quote(inner: String, rest: &str) -> Result<String, &'static str> {
    match rest.trim_start() {
        "" => Ok(inner),
        comment if comment.starts_with('#') => Ok(inner),
        _ => Err("there is text behind the closing quote"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_usual_forms_are_read() {
        let text = "# comment\n\nA=1\nexport B = two words # why\nC='a \"b\" \\n'\nD=\"x\\ny\\\"\" # c\n\
                    E=\nF=a#b\n";
        let want = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "a \"b\" \\n"),
            ("D", "x\ny\""),
            ("E", ""),
            ("F", "a#b"),
        ];
        assert_eq!(parse(text).unwrap(), want.map(|(name, value)| (name.into(), value.into())));
    }

    #[test]
    fn the_line_of_an_error_is_named() {
        for (text, line) in [("A=1\nB", 2), ("1A=x", 1), ("A='x", 1), ("A=\"x\" y", 1), ("=x", 1)] {
            assert_eq!(parse(text).unwrap_err().0, line, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_is_read_or_refused(text in "[A\"'=#\\\\ \n]{0,40}") {
            let _ = parse(&text);
        }
    }
}
