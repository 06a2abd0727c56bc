//! How the host lays out its programs.

use std::fs;
use std::io;
use std::path::Path;

/// Directories of the root that hold programs and libraries, on one system or another.
const NAMES: [&str; 6] = ["bin", "lib", "lib32", "lib64", "libx32", "sbin"];

/// What of the host's root a sandbox must show besides `/usr`, so that programs start.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Host {
    /// `/bin` and its like: what the symbolic link says, or `None` for a real directory.
    pub usr_links: Vec<(String, Option<String>)>,
}

impl Host {
    /// Looks at the root directory `root`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn inspect(root: &Path) -> io::Result<Host> {
        let mut usr_links = Vec::new();
        for name in NAMES {
            let path = root.join(name);
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_symlink() {
                let target = fs::read_link(&path)?.to_string_lossy().into_owned();
                usr_links.push((format!("/{name}"), Some(target)));
            } else if metadata.is_dir() {
                usr_links.push((format!("/{name}"), None));
            }
        }
        Ok(Host { usr_links })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_directories_are_told_apart() {
        let root = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("usr/bin", root.path().join("bin")).unwrap();
        fs::create_dir(root.path().join("lib")).unwrap();
        let expected =
            vec![("/bin".to_owned(), Some("usr/bin".to_owned())), ("/lib".to_owned(), None)];
        assert_eq!(Host::inspect(root.path()).unwrap().usr_links, expected);
    }
}
