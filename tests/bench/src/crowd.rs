//! Many clients at once, all of them in one thread: what they cost must not be what is measured.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ash_journey::{Api, Ash, PATIENCE};
use ash_modelapi::monotonic_ns;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use serde_json::Value;

/// Clients that come at a time: a daemon's queue of those who were not accepted yet is not endless.
const LOT: usize = 250;

/// Clients of which it is heard at a time.
const HEARD: usize = 1024;

/// The most that is read of one at a time, in bytes.
const PIECE: usize = 64 * 1024;

/// Clients with a connection each.
pub struct Crowd {
    address: String,
    epoll: OwnedFd,
    clients: Vec<Client>,
    ready: Vec<epoll::Event>,
    piece: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    /// A line whose end has not come.
    rest: Vec<u8>,
}

impl Crowd {
    /// Nobody yet.
    pub fn of(ash: &Ash) -> Result<Crowd> {
        Ok(Crowd {
            address: ash.address().to_owned(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            clients: vec![],
            ready: Vec::with_capacity(HEARD),
            piece: vec![0; PIECE],
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// Connects one more; returns its number.
    pub fn connect(&mut self) -> Result<usize> {
        let stream = TcpStream::connect(&self.address)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let number = self.clients.len();
        let data = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.epoll, &stream, data, epoll::EventFlags::IN)?;
        self.clients.push(Client { stream, rest: vec![] });
        Ok(number)
    }

    /// Sends a request, which must be small.
    pub fn send(&self, client: usize, request: &[u8]) -> Result<()> {
        Ok((&self.clients[client].stream).write_all(request)?)
    }

    /// Connects many that follow a session, and waits until all are answered.
    pub fn follow(&mut self, api: &Api, session: &str, count: usize) -> Result<()> {
        let request = api.head("GET", &format!("/api/sessions/{session}/stream")) + "\r\n";
        let mut left = count;
        while left > 0 {
            let lot = left.min(LOT);
            for _ in 0..lot {
                let client = self.connect()?;
                self.send(client, request.as_bytes())?;
            }
            self.until(lot, |_, _, line| match line.strip_prefix("HTTP/1.1 ") {
                Some(status) if status.starts_with("200 ") => Ok(true),
                Some(status) => bail!("{status} instead of a stream"),
                None => Ok(false),
            })?;
            left -= lot;
        }
        Ok(())
    }

    /// Hears everybody until so many lines are wanted ones. `see` gets the client, the time (ns of
    /// CLOCK_MONOTONIC) at which the line was there, and the line, and says whether it is.
    pub fn until(
        &mut self,
        wanted: usize,
        mut see: impl FnMut(usize, u64, &str) -> Result<bool>,
    ) -> Result<()> {
        let mut seen = 0;
        while seen < wanted {
            let heard = self.hear(PATIENCE, &mut |client, now, line| {
                seen += usize::from(see(client, now, line)?);
                Ok(())
            })?;
            ensure!(heard > 0, "nothing for a minute; {seen} of {wanted} lines were there");
        }
        Ok(())
    }

    /// Waits until something comes and gives every line of it to `see`. Returns of how many clients.
    fn hear(
        &mut self,
        patience: Duration,
        see: &mut dyn FnMut(usize, u64, &str) -> Result<()>,
    ) -> Result<usize> {
        self.ready.clear();
        let patience = Timespec::try_from(patience)?;
        match epoll::wait(&self.epoll, spare_capacity(&mut self.ready), Some(&patience)) {
            Ok(_) => {}
            // It was not for long.
            Err(Errno::INTR) => return Ok(1),
            Err(error) => return Err(error.into()),
        }
        for event in &self.ready {
            let data = event.data;
            let number = usize::try_from(data.u64())?;
            let client = self.clients.get_mut(number).context("an event of nobody")?;
            let read = match client.stream.read(&mut self.piece) {
                Ok(0) => bail!("client {number} was hung up on"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            let now = monotonic_ns();
            client.take(&self.piece[..read], |line| see(number, now, line))?;
        }
        Ok(self.ready.len())
    }
}

impl Client {
    /// Gives every line that is complete now to `see`.
    fn take(&mut self, piece: &[u8], mut see: impl FnMut(&str) -> Result<()>) -> Result<()> {
        self.rest.extend_from_slice(piece);
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in self.rest[..end].split_inclusive(|byte| *byte == b'\n') {
            see(std::str::from_utf8(line)?.trim_end())?;
        }
        self.rest.drain(..end);
        Ok(())
    }
}

/// A message to a session, as it goes over the wire.
pub fn message(api: &Api, session: &str, message: &Value) -> Vec<u8> {
    let (path, body) = (format!("/api/sessions/{session}/messages"), message.to_string());
    let head = api.head("POST", &path);
    let length = body.len();
    format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// The time that the stand-in for the CLI has put in front of a delta: ns of CLOCK_MONOTONIC.
pub fn stamp(line: &str) -> Result<Option<u64>> {
    let Some(delta) = line.strip_prefix(r#"data: {"delta":""#) else { return Ok(None) };
    let stamp = delta.split(' ').next().and_then(|stamp| stamp.parse().ok());
    stamp.with_context(|| format!("a delta without a time: {line}")).map(Some)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn lines_are_whole_however_they_come() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut client = Client { stream, rest: vec![] };
        let mut lines = vec![];
        for piece in ["a\r\nb", "", "c\n\n", "d"] {
            let keep = |line: &str| {
                lines.push(line.to_owned());
                Ok(())
            };
            client.take(piece.as_bytes(), keep).unwrap();
        }
        assert_eq!(lines, ["a", "bc", ""]);
        assert_eq!(client.rest, b"d");
    }

    #[test]
    fn deltas_have_their_time() {
        assert_eq!(stamp(r#"data: {"delta":"17 xx"}"#).unwrap(), Some(17));
        assert_eq!(stamp("event: text_delta").unwrap(), None);
        assert!(stamp(r#"data: {"delta":"xx"}"#).is_err());
    }
}
