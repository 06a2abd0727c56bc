//! Manual pages: what clap knows of a program, then what is written by hand.

use std::io;

use clap::{Arg, Command};
use clap_mangen::Man;

use crate::markdown::{escaped, quoted, to_roff};

/// The page of a program: its commands in one page, where one can search.
///
/// # Errors
/// When a page cannot be put together; it is in memory, so it can.
pub(crate) fn program(command: &Command, section: &str, more: &str) -> io::Result<String> {
    let man = Man::new(command.clone().version(None::<&str>));
    let mut page = title(command.get_name(), section);
    page += &rendered(|to| man.render_name_section(to))?;
    page += &rendered(|to| man.render_synopsis_section(to))?;
    page += &rendered(|to| man.render_description_section(to))?;
    page += &rendered(|to| man.render_options_section(to))?;
    if command.has_subcommands() {
        page += ".SH COMMANDS\n";
        page += &commands(command, command.get_name())?;
    }
    Ok(page + &exit_codes(command) + &to_roff(more))
}

/// The page of the configuration file, of its reference in Markdown.
pub(crate) fn configuration(reference: &str) -> String {
    let name = "ashd.toml \\- configuration of ashd";
    let see = "## SEE ALSO\n\n`ashd`(8), `ashctl`(1)\n";
    let text = to_roff(reference) + &to_roff(see);
    format!("{}.SH NAME\n{name}\n.SH DESCRIPTION\n{text}", title("ashd.toml", "5"))
}

fn title(name: &str, section: &str) -> String {
    format!(".TH {name} {section} \"\" \"ash {}\"\n", env!("CARGO_PKG_VERSION"))
}

/// Every command that does something, under its whole name.
fn commands(command: &Command, path: &str) -> io::Result<String> {
    let mut page = String::new();
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        let path = format!("{path} {}", inner.get_name());
        if inner.has_subcommands() {
            page += &commands(inner, &path)?;
        } else {
            page += &entry(inner, &path)?;
        }
    }
    Ok(page)
}

/// One command: how it is written, what it does, its own options.
fn entry(command: &Command, path: &str) -> io::Result<String> {
    let own = command.get_arguments().filter(|argument| !argument.is_global_set());
    let own: Vec<Arg> = own.cloned().collect();
    let alone = Command::new("command").bin_name(path.to_owned()).disable_help_flag(true).args(own);
    let described = Man::new(alone.clone().about(about(command)));
    let man = Man::new(alone);
    let mut page = format!(".SS {}\n", quoted(path));
    page += &body(&rendered(|to| man.render_synopsis_section(to))?);
    page += ".PP\n";
    page += &body(&rendered(|to| described.render_description_section(to))?);
    page += &body(&rendered(|to| man.render_options_section(to))?);
    Ok(page)
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or_else(|| command.get_about());
    about.map(ToString::to_string).unwrap_or_default()
}

/// What the long help says behind everything else, as it stands there.
fn exit_codes(command: &Command) -> String {
    let Some(text) = command.get_after_long_help() else { return String::new() };
    let text = text.to_string();
    let lines = text.lines().filter(|line| *line != "Exit codes:").map(str::trim_start);
    let lines: Vec<_> = lines.map(escaped).collect();
    format!(".SH \"EXIT STATUS\"\n.nf\n{}.fi\n", highlighted(&lines.join("\n")))
}

fn rendered(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<String> {
    let mut page = Vec::new();
    render(&mut page)?;
    String::from_utf8(page).map(|page| highlighted(&page)).map_err(io::Error::other)
}

/// What help texts have between backquotes, in bold. Roff reads by lines, and so does this.
fn highlighted(page: &str) -> String {
    let line = |line: &str| {
        let parts: Vec<_> = line.split('`').collect();
        let whole = parts.len() % 2 == 1;
        let font = |(at, part): (usize, &&str)| match at % 2 {
            1 => format!("\\fB{part}\\fP"),
            _ => (*part).to_owned(),
        };
        if whole { parts.iter().enumerate().map(font).collect() } else { line.to_owned() }
    };
    page.lines().map(|text| line(text) + "\n").collect()
}

/// What stands below a section's heading.
fn body(section: &str) -> String {
    section
        .split_once(".SH ")
        .and_then(|(_, rest)| rest.split_once('\n'))
        .map_or("", |it| it.1)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backquotes_become_bold_where_they_are_pairs() {
        assert_eq!(highlighted("`a` and `b`\n.SH X\n"), "\\fBa\\fP and \\fBb\\fP\n.SH X\n");
        assert_eq!(highlighted("a ` alone"), "a ` alone\n");
    }
}
