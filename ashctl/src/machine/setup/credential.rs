//! The model API key as a credential of the broker's service: encrypted with the key of this
//! machine where systemd can do that, else as a file for root alone.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use zeroize::Zeroizing;

use crate::failure::Failure;

/// What the broker's unit calls it, in the clear and encrypted. It is encrypted for the second name.
const PLAIN: &str = "ash-model-key";
const SEALED: &str = "ash-model-key.sealed";

/// What it is called until it is complete.
const FRESH: &str = ".ash-model-key.new";

/// The two places where the service manager looks for it.
pub(super) struct Credentials {
    sealed: PathBuf,
    plain: PathBuf,
}

impl Credentials {
    /// Those beneath `/etc`, or what stands for it.
    pub(super) fn beneath(etc: &Path) -> Self {
        let sealed = etc.join("credstore.encrypted").join(SEALED);
        Credentials { sealed, plain: etc.join("credstore").join(PLAIN) }
    }

    /// Where a key is.
    pub(super) fn found(&self) -> Option<PathBuf> {
        [&self.sealed, &self.plain].into_iter().find(|path| path.exists()).cloned()
    }

    /// Stores a key in the better of the two places, and sees to it that none is in the other.
    /// Returns where it is.
    pub(super) async fn store(&self, key: &str) -> Result<PathBuf, Failure> {
        let fresh = prepare(&self.sealed).map_err(failed(&self.sealed))?;
        let is_sealed = sealed(&fresh, key).await;
        let (path, other) = match is_sealed {
            true => (&self.sealed, &self.plain),
            false => (&self.plain, &self.sealed),
        };
        if !is_sealed {
            // What this machine could not encrypt, or could not read again, goes.
            remove(&fresh).map_err(failed(&self.sealed))?;
        }
        let written = if is_sealed { Ok(()) } else { prepare(path).and_then(|it| write(&it, key)) };
        placed(path, written).map_err(failed(path))?;
        remove(other).map_err(failed(other))?;
        Ok(path.clone())
    }
}

/// Puts what was written in its place. Where that fails, nothing is left of a key that nobody uses.
fn placed(path: &Path, written: io::Result<()>) -> io::Result<()> {
    let placed = written.and_then(|()| put(path));
    if placed.is_err() {
        let _ = remove(&fresh(path));
    }
    placed
}

/// Encrypts the key into a file, and reads it again.
async fn sealed(fresh: &Path, key: &str) -> bool {
    let name = format!("--name={SEALED}");
    let mut encrypt = Command::new("systemd-creds");
    encrypt.args(["encrypt", &name, "-"]).arg(fresh);
    if spoken(encrypt, key).await.is_none() {
        return false;
    }
    let mut decrypt = Command::new("systemd-creds");
    decrypt.args(["decrypt", &name]).arg(fresh).arg("-");
    spoken(decrypt, "").await.is_some_and(|read| read.as_slice() == key.as_bytes())
}

fn write(fresh: &Path, key: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(fresh)?;
    file.write_all(key.as_bytes())
}

/// What a program says to a text, if it succeeds.
async fn spoken(mut command: Command, text: &str) -> Option<Zeroizing<Vec<u8>>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().ok()?;
    let mut input = child.stdin.take()?;
    input.write_all(text.as_bytes()).await.ok()?;
    drop(input);
    let output = child.wait_with_output().await.ok()?;
    let said = Zeroizing::new(output.stdout);
    output.status.success().then_some(said)
}

/// Where a file is written before it is complete.
fn fresh(path: &Path) -> PathBuf {
    path.with_file_name(FRESH)
}

/// Makes the directory, closed to everybody but root; returns the path to write to, where nothing
/// is.
fn prepare(path: &Path) -> io::Result<PathBuf> {
    let directory = path.parent().unwrap_or(path);
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let fresh = fresh(path);
    remove(&fresh).map(|()| fresh)
}

/// Puts what was written in its place.
fn put(path: &Path) -> io::Result<()> {
    let fresh = fresh(path);
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    File::open(&fresh)?.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    |error| Failure::Failed(format!("the key cannot be stored as {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_takes_both() {
        let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../systemd/ash-broker.service");
        let unit = fs::read_to_string(unit).unwrap();
        assert!(unit.contains(&format!("\nLoadCredential={PLAIN}\n")));
        assert!(unit.contains(&format!("\nLoadCredentialEncrypted={SEALED}\n")));
    }

    #[test]
    fn a_key_that_cannot_be_put_in_its_place_is_not_left_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credstore").join(PLAIN);
        write(&prepare(&path).unwrap(), "key").unwrap();
        fs::create_dir(&path).unwrap();
        assert!(placed(&path, Ok(())).is_err());
        assert!(!fresh(&path).exists());
    }

    /// Also what was left by one that was killed.
    #[test]
    fn purging_the_package_takes_every_key_away() {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/deb/postrm");
        let script = fs::read_to_string(script).unwrap();
        for name in [PLAIN, FRESH] {
            assert!(script.contains(&format!("/etc/credstore/{name}")), "{name}");
        }
        for name in [SEALED, FRESH] {
            assert!(script.contains(&format!("/etc/credstore.encrypted/{name}")), "{name}");
        }
    }
}
