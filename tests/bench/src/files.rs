//! Workspaces of a size.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// How much there is in a workspace.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// Files, 45 in a directory.
    pub files: usize,
    /// Bytes of all of them together, about.
    pub bytes: usize,
}

/// The workspace of a usual session.
pub const USUAL: Fill = Fill { files: 2_000, bytes: 200_000_000 };

/// The workspace of a large one.
pub const LARGE: Fill = Fill { files: 20_000, bytes: 2_000_000_000 };

impl Fill {
    /// Fills a workspace. What is in it belongs to whom the workspace does.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn put(self, workspace: &Path) -> Result<()> {
        let owner = fs::metadata(workspace).with_context(|| workspace.display().to_string())?;
        let owner = (Some(owner.uid()), Some(owner.gid()));
        for number in 0..self.files {
            let path = workspace.join(place(number));
            if let Some(dir) = path.parent().filter(|dir| !dir.is_dir()) {
                fs::create_dir_all(dir)?;
                for made in dir.ancestors().take_while(|made| *made != workspace) {
                    chown(made, owner.0, owner.1)?;
                }
            }
            // From a fifth of the mean to nearly twice as much.
            let length = self.bytes / self.files * (20 + number * 7919 % 161) / 100;
            fs::write(&path, text(number as u64, length))?;
            chown(&path, owner.0, owner.1)?;
        }
        Ok(())
    }
}

/// Writes other content of the same length into a file of a workspace that was filled. Returns how
/// many bytes these are.
///
/// # Errors
/// When it cannot be written.
pub fn change(workspace: &Path, number: usize, seed: u64) -> Result<usize> {
    let path = workspace.join(place(number));
    let length = usize::try_from(fs::metadata(&path)?.len())?;
    fs::write(&path, text(seed, length))?;
    Ok(length)
}

fn place(number: usize) -> PathBuf {
    PathBuf::from(format!("d{}/e{}/f{number}", number / 900, number / 45))
}

/// Text that compresses to about half of it, and is like no other.
fn text(seed: u64, length: usize) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        // xorshift
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.extend((0..16).map(|digit| DIGITS[(state >> (digit * 4)) as usize & 15]));
    }
    text.truncate(length);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workspace_has_the_size_it_should_have() {
        let dir = tempfile::tempdir().unwrap();
        let fill = Fill { files: 161, bytes: 161_000 };
        fill.put(dir.path()).unwrap();
        let sizes = (0..161).map(|n| fs::metadata(dir.path().join(place(n))).unwrap().len());
        assert_eq!(sizes.sum::<u64>(), 161_000);
        let before = fs::read(dir.path().join(place(7))).unwrap();
        assert_eq!(change(dir.path(), 7, 1).unwrap(), before.len());
        assert_ne!(fs::read(dir.path().join(place(7))).unwrap(), before);
    }
}
