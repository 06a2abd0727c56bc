//! Writes the manual pages, the shell completions and the configuration file that is installed into
//! a directory, from the same definitions that the programs parse their arguments and their
//! configuration with.

mod manual;
mod markdown;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser};
use clap_complete::Shell;

use ashd::app::Arguments;
use ashd::config::Config;

/// Write the manual pages, the shell completions and the configuration file
#[derive(Parser)]
struct Options {
    /// Into this directory
    directory: PathBuf,
}

fn main() -> Result<()> {
    let Options { directory } = Options::parse();
    std::fs::create_dir_all(&directory)?;
    for (name, text) in files()? {
        let path = directory.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Everything, by name.
fn files() -> Result<Vec<(&'static str, Vec<u8>)>> {
    let daemon = manual::program(&Arguments::command(), "8", include_str!("../ashd.md"))?;
    let client = manual::program(&ashctl::command(), "1", include_str!("../ashctl.md"))?;
    let texts = [
        ("ashd.8", daemon),
        ("ashctl.1", client),
        ("ashd.toml.5", manual::configuration(&Config::reference())),
        ("ashd.toml", Config::sample()),
    ];
    let texts = texts.map(|(name, text)| (name, text.into_bytes()));
    let completions = [
        ("ashctl.bash", ashctl::completion(Shell::Bash)?),
        ("ashctl.fish", ashctl::completion(Shell::Fish)?),
        ("_ashctl", ashctl::completion(Shell::Zsh)?),
    ];
    Ok(texts.into_iter().chain(completions).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str) -> String {
        let mut files = files().unwrap().into_iter();
        let (_, text) = files.find(|(other, _)| *other == name).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn pages_know_every_command_and_section() {
        let client = text("ashctl.1");
        for command in ashctl::command().get_subcommands() {
            assert!(client.contains(&format!(".SS \"ashctl {}", command.get_name())), "{client}");
        }
        assert!(client.contains(".SH \"EXIT STATUS\"\n.nf\n0  success\n"), "{client}");
        for (page, heading) in [("ashd.8", "SIGNALS"), ("ashd.toml.5", "[http]")] {
            assert!(text(page).contains(&format!("\n.SH \"{heading}\"\n")), "{page}");
        }
    }

    #[test]
    fn completions_are_of_their_shells() {
        assert!(text("_ashctl").starts_with("#compdef ashctl\n"));
        assert!(text("ashctl.bash").contains("-F _clap_complete_ashctl ashctl"));
        assert!(text("ashctl.fish").contains("--command ashctl"));
    }
}
