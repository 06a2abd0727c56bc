//! Fetching the CLI. It is not ours to pass on: the user's npm fetches it from its maker.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use super::RuntimeError;

/// Fetches a version into a directory; returns its program.
pub(super) async fn fetch(version: &str, into: PathBuf) -> Result<PathBuf, RuntimeError> {
    let name = package(std::env::consts::ARCH)?;
    let package = format!("{name}@{version}");
    // Nothing of the package runs here: the wrapper package and its installer are not needed.
    let asked = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"])
        .arg("--prefix")
        .arg(&into)
        .arg(&package)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await;
    let output = match asked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RuntimeError::NoNpm(package));
        }
        asked => asked.map_err(RuntimeError::io(Path::new("npm")))?,
    };
    match output.status.success() {
        true => Ok(into.join("node_modules").join(name).join("claude")),
        false => Err(RuntimeError::Npm { package, said: last_words(&output.stderr) }),
    }
}

/// The package that holds the program for a processor.
fn package(processor: &str) -> Result<&'static str, RuntimeError> {
    match processor {
        "x86_64" => Ok("@anthropic-ai/claude-code-linux-x64"),
        "aarch64" => Ok("@anthropic-ai/claude-code-linux-arm64"),
        other => Err(RuntimeError::Processor(other.to_owned())),
    }
}

/// The lines of npm that say something, without the path of its log.
fn last_words(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    let lines = said.lines().filter_map(|line| line.trim().strip_prefix("npm "));
    let lines = lines.filter_map(|line| line.split_once(' ')).map(|(_, words)| words.trim());
    let telling = lines.filter(|line| !line.is_empty() && !line.contains("complete log"));
    let told: Vec<_> = telling.take(3).collect();
    if told.is_empty() { "it gave no reason".to_owned() } else { told.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_has_its_package() {
        assert!(package("x86_64").unwrap().ends_with("-x64"));
        assert!(package("aarch64").unwrap().ends_with("-arm64"));
        assert!(package("riscv64").is_err());
    }

    #[test]
    fn npm_is_quoted_briefly() {
        let said = b"npm error code ETARGET\nnpm error notarget No matching version\n\
            npm error A complete log of this run can be found in: /root/x\n";
        assert_eq!(last_words(said), "code ETARGET; notarget No matching version");
        assert_eq!(last_words(b""), "it gave no reason");
    }
}
