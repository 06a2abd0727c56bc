//! Going wrong before the first word, as the environment or a file in the workspace asks.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use crate::stub::Stop;

/// Does what `ASH_STUB_MODE`, or else the file `stub-mode`, says.
pub(crate) fn misbehave() -> Result<(), Stop> {
    let from_file = || std::fs::read_to_string("stub-mode").unwrap_or_default();
    let mode = std::env::var("ASH_STUB_MODE").unwrap_or_else(|_| from_file());
    let mut words = mode.split_whitespace();
    match words.next() {
        None => Ok(()),
        Some("garbage-at-start") => garbage().map_err(Stop::Output),
        Some("exit-at-start") => Err(Stop::Fatal("the stub exits at once, as asked".to_owned())),
        Some("never-ready") => Err(ignore_all()),
        Some("slow-ready") => match words.next().and_then(|word| word.parse().ok()) {
            Some(pause) => {
                thread::sleep(Duration::from_millis(pause));
                Ok(())
            }
            None => Err(unknown(&mode)),
        },
        Some(_) => Err(unknown(&mode)),
    }
}

fn garbage() -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(b"this is no JSON\n\xff\xfe\x00\n[]\n")?;
    out.flush()
}

/// Reads all of standard input and answers nothing.
fn ignore_all() -> Stop {
    io::copy(&mut io::stdin(), &mut io::sink()).map_or_else(Stop::Output, |_| Stop::Exit(0))
}

fn unknown(mode: &str) -> Stop {
    Stop::Fatal(format!(
        "no such mode: {}; there are garbage-at-start, exit-at-start, never-ready and slow-ready MS",
        mode.trim()
    ))
}
