//! Files that an operator names.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

/// Opens a regular file. A pipe is not waited for: perhaps nobody ever writes into it, and a start
/// would hang without a word.
///
/// # Errors
/// Those of opening, and for everything that is no regular file.
pub fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_files_is_opened_and_nothing_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        std::fs::write(&file, "text").unwrap();
        assert_eq!(io::read_to_string(open_regular(&file).unwrap()).unwrap(), "text");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR).unwrap();
        for other in [&*pipe, dir.path(), Path::new("/dev/null")] {
            let error = open_regular(other).unwrap_err().to_string();
            assert_eq!(error, "it is no regular file", "{}", other.display());
        }
        assert!(open_regular(&dir.path().join("none")).is_err());
    }
}
