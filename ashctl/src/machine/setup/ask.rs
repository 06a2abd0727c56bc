//! Questions, and keys that nobody sees.
//!
//! Whoever is asked is waited for on a thread of its own, so that this one hears when the program is
//! told to end.

use std::fs::File;
use std::io::{self, Read, Write, stderr, stdin};
use std::path::{Path, PathBuf};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use crate::ending::give_back;
use crate::failure::Failure;

/// The broker takes no longer one.
const LONGEST: usize = 4096;

/// A yes or no from the terminal; nothing but a line end means `usual`.
pub(super) async fn confirm(question: &str, usual: bool) -> Result<bool, Failure> {
    prompt(&format!("{question} [{}] ", if usual { "Y/n" } else { "y/N" }))?;
    let read = move || {
        let mut line = String::new();
        match stdin().read_line(&mut line).map_err(unusable)? {
            0 => Err(Failure::Interrupted),
            _ => Ok(answer(&line, usual)),
        }
    };
    waited_for(read).await
}

fn answer(line: &str, usual: bool) -> bool {
    match line.trim().to_ascii_lowercase().as_str() {
        "" => usual,
        word => matches!(word, "y" | "yes"),
    }
}

/// A key from the terminal, which does not show it.
pub(super) async fn key() -> Result<Zeroizing<String>, Failure> {
    // Before the question: whoever answers it at once is not seen either.
    let quiet = Quiet::begin()?;
    prompt("Model API key (it is not shown): ")?;
    let typed = waited_for(|| typed(stdin().lock())).await;
    drop(quiet);
    checked(&typed?)
}

/// A key from a file; `-` is standard input.
pub(super) async fn key_in(path: PathBuf) -> Result<Zeroizing<String>, Failure> {
    waited_for(move || read_key(&path)).await
}

fn read_key(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let read = |source: &mut dyn Read| {
        // Room for all of it from the start: growing would leave copies behind.
        let mut text = Zeroizing::new(String::with_capacity(LONGEST + 2));
        source.take(LONGEST as u64 + 2).read_to_string(&mut text).map(|_| text)
    };
    let text = match path == Path::new("-") {
        true => read(&mut stdin().lock()),
        false => File::open(path).and_then(|mut file| read(&mut file)),
    };
    let text = text.map_err(|error| {
        Failure::Usage(format!("the key cannot be read from {}: {error}", path.display()))
    })?;
    checked(&text)
}

/// What the broker would refuse is not stored.
fn checked(text: &str) -> Result<Zeroizing<String>, Failure> {
    let key = text.trim();
    let sentence = match key {
        "" => "the key is empty",
        key if key.len() > LONGEST => "the key is longer than 4096 bytes",
        key if !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
            "the key has characters that no key has; it must be one line of text"
        }
        key => return Ok(Zeroizing::new(key.to_owned())),
    };
    Err(Failure::Usage(sentence.into()))
}

/// What is typed up to a line end.
fn typed(mut source: impl Read) -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::with_capacity(LONGEST + 2));
    let mut byte = [0];
    while text.len() <= LONGEST && source.read(&mut byte).map_err(unusable)? == 1 {
        match byte[0] {
            b'\r' | b'\n' => return Ok(text),
            // Ctrl-C and Ctrl-D, which mean nothing else to a quiet terminal.
            3 | 4 => return Err(Failure::Interrupted),
            8 | 127 => {
                text.pop();
            }
            byte => text.push(byte.into()),
        }
    }
    Ok(text)
}

/// What somebody says, who may take long.
async fn waited_for<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let asked = spawn_blocking(ask).await;
    asked.map_err(|error| Failure::Failed(error.to_string()))?
}

/// The terminal, showing nothing, until this goes. Then its line has ended.
struct Quiet(Termios);

impl Quiet {
    fn begin() -> Result<Self, Failure> {
        let before = tcgetattr(stdin()).map_err(|error| unusable(error.into()))?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        tcsetattr(stdin(), OptionalActions::Flush, &quiet)
            .map_err(|error| unusable(error.into()))?;
        Ok(Quiet(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // What was typed of a key and not read is for nobody else.
        give_back(&self.0, OptionalActions::Flush);
        let _ = prompt("\n");
    }
}

fn prompt(text: &str) -> Result<(), Failure> {
    stderr().write_all(text.as_bytes()).map_err(unusable)
}

fn unusable(error: io::Error) -> Failure {
    Failure::Failed(format!("the terminal cannot be used: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_can_be_corrected() {
        assert_eq!(*typed(&b"sk-x\x7f1\nrest"[..]).unwrap(), "sk-1");
        assert_eq!(*typed(&b"sk-1"[..]).unwrap(), "sk-1");
        assert!(matches!(typed(&b"sk\x03"[..]), Err(Failure::Interrupted)));
        assert!(typed(&[b'x'; 5000][..]).unwrap().len() <= LONGEST + 1);
    }

    #[test]
    fn what_the_broker_refuses_is_not_stored() {
        assert_eq!(*checked(" sk-ant-1\r\n").unwrap(), "sk-ant-1");
        for wrong in ["", " \n", "two words", "a\nb", "grün", &"a".repeat(LONGEST + 1)] {
            let failure = checked(wrong).unwrap_err();
            assert_eq!(failure.code(), 2);
            assert!(wrong.is_empty() || !failure.to_string().contains(wrong));
        }
    }

    #[test]
    fn answers_are_yes_or_no() {
        assert!(answer("\n", true) && !answer("\n", false));
        assert!(answer("Yes\n", false) && answer("y", false) && !answer("no", true));
    }
}
