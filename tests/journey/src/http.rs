//! A small blocking HTTP/1.1 client: one connection per request, every byte under the caller's
//! control.

use std::io::{self, BufRead as _, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpStream};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::patience;

/// Where requests go, and with which key.
#[derive(Clone, Debug)]
pub struct Http {
    address: String,
    headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The body as JSON, if the status is this one.
    ///
    /// # Errors
    /// With status and body when it is another.
    pub fn expect(&self, status: u16) -> Result<Value> {
        if self.status != status {
            bail!("{} instead of {status}: {}", self.status, self.text());
        }
        Ok(self.json())
    }
}

impl Http {
    /// A client with a bearer key.
    pub fn new(address: &str, key: &str) -> Http {
        let bare = Http { address: address.to_owned(), headers: vec![] };
        bare.with("host", address).with("authorization", &format!("Bearer {key}"))
    }

    /// A client that sends one more header; an empty value removes it.
    pub fn with(&self, name: &str, value: &str) -> Http {
        let mut headers = self.headers.clone();
        headers.retain(|(known, _)| known != name);
        headers.extend((!value.is_empty()).then(|| (name.to_owned(), value.to_owned())));
        Http { headers, ..self.clone() }
    }

    /// Sends a request and reads the whole answer. The body, if there is one, is sent as JSON.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer> {
        let bytes = body.map(|body| body.to_string().into_bytes());
        self.open(method, path, bytes.as_deref())?.answer()
    }

    /// Sends a request and returns without waiting for the answer.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn open(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Connection> {
        let mut head = self.head(method, path);
        if let Some(body) = body {
            head +=
                &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len());
        }
        head += "\r\n";
        self.raw(&[head.as_bytes(), body.unwrap_or_default()].concat())
    }

    /// The request line and this client's headers; the empty line is still to come.
    pub fn head(&self, method: &str, path: &str) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        head
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// When the connection fails. That it breaks off while sending is none: the server may have
    /// answered early.
    pub fn raw(&self, bytes: &[u8]) -> Result<Connection> {
        let stream = TcpStream::connect(&self.address)
            .with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience()))?;
        stream.set_write_timeout(Some(patience()))?;
        match (&stream).write_all(bytes) {
            Err(error) if !broken(&error) => Err(error.into()),
            _ => Ok(Connection { stream }),
        }
    }
}

fn broken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Names and values, as they came.
pub type Headers = Vec<(String, String)>;

/// A request on its way.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
}

impl Connection {
    /// The whole answer.
    ///
    /// # Errors
    /// When the connection fails, or what comes is no HTTP.
    pub fn answer(self) -> Result<Answer> {
        let (status, headers, mut reader) = self.body()?;
        let mut body = Vec::new();
        reader.read_to_end(&mut body)?;
        Ok(Answer { status, headers, body })
    }

    /// Status, headers, and the body as it comes.
    ///
    /// # Errors
    /// When the connection fails, or what comes is no HTTP.
    pub fn body(self) -> Result<(u16, Headers, Body)> {
        let mut reader = BufReader::new(self.stream);
        let status_line = line(&mut reader)?;
        let status = status_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status: u16 = status.with_context(|| format!("not a status line: {status_line:?}"))?;
        let mut headers = Vec::new();
        loop {
            let header = line(&mut reader)?;
            let Some((name, value)) = header.split_once(':') else { break };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let left = match find(&headers, "content-length") {
            // These never have a body (RFC 9110, section 6.4.1).
            _ if matches!(status, 204 | 304) => Left::Bytes(0),
            Some(length) => Left::Bytes(length.parse()?),
            None if find(&headers, "transfer-encoding").is_some() => Left::Chunks(0),
            None => Left::UntilClosed,
        };
        Ok((status, headers, Body { reader, left }))
    }

    /// Hangs up from another thread.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn cutter(&self) -> Result<impl FnOnce() + Send + 'static> {
        let stream = self.stream.try_clone()?;
        // It may be closed already.
        Ok(move || drop(stream.shutdown(Shutdown::Both)))
    }
}

/// A body as it comes, without its framing.
#[derive(Debug)]
pub struct Body {
    reader: BufReader<TcpStream>,
    left: Left,
}

#[derive(Clone, Copy, Debug)]
enum Left {
    /// So many bytes of the body.
    Bytes(u64),
    /// So many bytes of a chunk; then another one.
    Chunks(u64),
    UntilClosed,
}

impl Read for Body {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if matches!(self.left, Left::Chunks(0)) {
            self.left = match self.next_chunk()? {
                0 => Left::Bytes(0),
                length => Left::Chunks(length),
            };
        }
        let most = match self.left {
            Left::Bytes(left) | Left::Chunks(left) => left,
            Left::UntilClosed => u64::MAX,
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.reader.read(&mut buffer[..most])?;
        if read == 0 && !matches!(self.left, Left::UntilClosed) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.took(read as u64)?;
        Ok(read)
    }
}

impl Body {
    fn took(&mut self, read: u64) -> io::Result<()> {
        match &mut self.left {
            Left::Bytes(left) => *left -= read,
            Left::Chunks(left) => {
                *left -= read;
                if *left == 0 {
                    line(&mut self.reader)?;
                }
            }
            Left::UntilClosed => {}
        }
        Ok(())
    }

    fn next_chunk(&mut self) -> io::Result<u64> {
        let size = line(&mut self.reader)?;
        let length = u64::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        if length == 0 {
            line(&mut self.reader)?;
        }
        Ok(length)
    }
}

fn line(reader: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}
