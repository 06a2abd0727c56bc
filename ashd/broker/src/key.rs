//! The model API key in memory.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::file::open_regular;

/// The names of the credentials that may hold the key: one that was encrypted and one that was not
/// (systemd.exec(5), LoadCredential=). The first that is there counts.
pub const CREDENTIALS: [&str; 2] = ["ash-model-key.sealed", "ash-model-key"];

/// Longest key, in bytes.
const LIMIT: usize = 4096;

/// Why a key was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The descriptor cannot be read.
    #[error("the model API key cannot be read: {0}")]
    Read(#[from] io::Error),
    /// Nothing in it.
    #[error("the model API key is empty")]
    Empty,
    /// Too much in it.
    #[error("the model API key is longer than {LIMIT} bytes")]
    Long,
    /// Not the text of one header.
    #[error("the model API key has characters that no key has; it must be one line of text")]
    Text,
}

/// The key that the service manager gave; absent when it gave none.
///
/// # Errors
/// When it is there and cannot be used.
pub fn from_service_manager() -> Result<Option<HeaderValue>, Error> {
    let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
    for name in CREDENTIALS {
        match open_regular(&Path::new(&directory).join(name)) {
            Ok(file) => return read(file.into()).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Why the service manager did not even execute the broker, if that was because of the key. `status` is
/// how it says that the service ended (EXIT_STATUS of systemd.exec(5)).
pub fn why_absent(status: Option<&str>) -> Option<&'static str> {
    // EXIT_CREDENTIALS.
    (status == Some("243")).then_some(
        "the model API key cannot be decrypted here: it was sealed on another machine, or for \
         another name; `ashctl setup --key-file FILE` stores it anew, and `systemctl restart \
         ash-broker` takes it over",
    )
}

/// Reads the key from its file, without the line end that editors leave. The value's own memory is
/// overwritten when the last request that uses it is done; what connections have buffered to send is
/// not. `Debug` never shows it.
pub(crate) fn read(fd: OwnedFd) -> Result<HeaderValue, Error> {
    let mut file = File::from(fd);
    file.rewind()?;
    // Room for all of it from the start: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LIMIT + 2));
    file.take(LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > LIMIT {
        return Err(Error::Long);
    }
    let length = bytes.trim_ascii_end().len();
    bytes.truncate(length);
    if bytes.is_empty() {
        return Err(Error::Empty);
    }
    if !bytes.iter().all(u8::is_ascii_graphic) {
        return Err(Error::Text);
    }
    let mut value =
        HeaderValue::from_maybe_shared(Bytes::from_owner(bytes)).map_err(|_| Error::Text)?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::secret;

    fn parse(text: &[u8]) -> Result<HeaderValue, Error> {
        read(secret(text).unwrap())
    }

    #[test]
    fn a_key_loses_its_line_end_and_hides_from_debug() {
        let key = parse(b"sk-ant-1\r\n").unwrap();
        assert_eq!(key.as_bytes(), b"sk-ant-1");
        assert_eq!(format!("{key:?}"), "Sensitive");
    }

    #[test]
    fn only_a_key_that_cannot_be_decrypted_is_explained() {
        assert!(why_absent(Some("243")).unwrap().contains("ashctl setup --key-file"));
        for other in [None, Some("0"), Some("1"), Some("KILL")] {
            assert_eq!(why_absent(other), None);
        }
    }

    #[test]
    fn what_is_not_a_key_is_refused_without_being_told() {
        assert!(matches!(parse(b" \n"), Err(Error::Empty)));
        assert!(matches!(parse(b"two lines\nhere"), Err(Error::Text)));
        assert!(matches!(parse(&[b'a'; LIMIT + 1]), Err(Error::Long)));
        assert!(!parse(b"se\0cret").unwrap_err().to_string().contains("se"));
    }
}
