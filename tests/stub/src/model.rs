//! Asking the model API, where the real one asks it.

use std::env;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

/// Names the socket of the model API, as for the real one.
const SOCKET: &str = "ANTHROPIC_UNIX_SOCKET";

/// Asks for one token behind these messages, and returns the status of the answer when all of it has come.
pub(crate) fn ask(model: &str, messages: &[Value]) -> io::Result<u16> {
    let socket =
        env::var_os(SOCKET).ok_or_else(|| io::Error::other(format!("{SOCKET} is not set")))?;
    let body = json!({"model": model, "max_tokens": 1, "messages": messages}).to_string();
    let head = format!(
        "POST /v1/messages?beta=true HTTP/1.1\r\nhost: model\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let mut answer = BufReader::new(stream);
    let mut first = String::new();
    answer.read_line(&mut first)?;
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or(io::ErrorKind::UnexpectedEof)?;
    answer.read_to_end(&mut Vec::new())?;
    Ok(status)
}
