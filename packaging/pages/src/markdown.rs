//! Markdown to roff: as much of it as the pages here and the configuration reference use.

/// The text of a page, without its title.
pub(crate) fn to_roff(markdown: &str) -> String {
    let mut roff = String::new();
    for block in markdown.split("\n\n") {
        let block = block.trim_matches('\n');
        roff += &match block.split_once(' ') {
            Some(("#", _)) | None if block.is_empty() || block.starts_with("# ") => String::new(),
            Some(("##", heading)) => format!(".SH {}\n", quoted(&heading.replace('`', ""))),
            Some(("-", item)) => item_to_roff(item),
            _ => format!(".PP\n{}\n", inline(&joined(block))),
        };
    }
    roff
}

/// A list's item: what it is about in its first line, what there is to say in the others.
fn item_to_roff(item: &str) -> String {
    let (head, body) = item.split_once('\n').unwrap_or((item, ""));
    format!(".TP\n{}\n{}\n", inline(head), inline(&joined(body)))
}

fn joined(lines: &str) -> String {
    lines.lines().map(str::trim).collect::<Vec<_>>().join(" ")
}

/// Code and what is strong in bold, what is stressed in italics.
fn inline(text: &str) -> String {
    let mut roff = String::new();
    let mut open = None;
    for (at, part) in text.split('`').enumerate() {
        if at % 2 == 1 {
            roff += &format!("\\fB{}\\fP", escaped(part).replace('-', "\\-"));
        } else {
            roff += &emphasis(part, &mut open);
        }
    }
    // A dot or a quote at the beginning of a line would be a request.
    if roff.starts_with(['.', '\'']) { format!("\\&{roff}") } else { roff }
}

/// `**` and `*` outside of code; `open` is what began before and has not ended.
fn emphasis(text: &str, open: &mut Option<&'static str>) -> String {
    let mut roff = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('*') {
        let mark = if rest[at..].starts_with("**") { "**" } else { "*" };
        roff += &escaped(&rest[..at]);
        roff += match (open.take(), mark) {
            (Some(_), _) => "\\fR",
            (None, mark) => {
                *open = Some(mark);
                if mark == "**" { "\\fB" } else { "\\fI" }
            }
        };
        rest = &rest[at + mark.len()..];
    }
    roff + &escaped(rest)
}

pub(crate) fn escaped(text: &str) -> String {
    text.replace('\\', "\\e")
}

/// As one argument of a request.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text).replace('"', "\\(dq"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_requests() {
        let page = "# Title\n\n## `[http]`\n\nOne\ntwo.\n\n- **`a-b`** (x)\n  What it is.\n";
        let expected =
            ".SH \"[http]\"\n.PP\nOne two.\n.TP\n\\fB\\fBa\\-b\\fP\\fR (x)\nWhat it is.\n";
        assert_eq!(to_roff(page), expected);
    }

    #[test]
    fn text_cannot_be_taken_for_a_request() {
        let text = ".TH is text, *so* is `\\f` and 'x'";
        assert_eq!(inline(text), "\\&.TH is text, \\fIso\\fR is \\fB\\ef\\fP and 'x'");
        assert_eq!(quoted("say \"x\""), "\"say \\(dqx\\(dq\"");
    }
}
