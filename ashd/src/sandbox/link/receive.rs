//! From the bridge.

use ash_wire::brief::brief;
use ash_wire::frame::{HEADER, Header, Kind};
use ash_wire::words::{ControlReply, ExecExit, Notice, Welcome};
use bytes::{Bytes, BytesMut};
use serde::de::DeserializeOwned;
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedReadHalf;

use super::{LinkError, LinkSender};

/// Room that is made for one read, in bytes. A body kept by a reader keeps a block of this size.
const CHUNK: usize = 64 * 1024;

/// One message of a bridge. Bodies are slices of what was read: whoever keeps a small one for
/// long copies it.
#[derive(Debug)]
pub enum Incoming {
    /// A complete line of the CLI that history keeps.
    Line {
        /// Its event number.
        number: u64,
        /// The line, without the newline.
        line: Bytes,
    },
    /// A line of the CLI that history does not keep.
    Delta {
        /// Its event number.
        number: u64,
        /// The line, without the newline.
        line: Bytes,
    },
    /// Something happened to a turn or to the CLI.
    Notice {
        /// Its event number.
        number: u64,
        /// What happened.
        notice: Notice,
    },
    /// Answer to a control request or an interrupt.
    ControlReply {
        /// The number of the request.
        id: u64,
        /// The answer.
        reply: ControlReply,
    },
    /// Standard output of a command.
    ExecStdout {
        /// The number of the command.
        id: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Standard error of a command.
    ExecStderr {
        /// The number of the command.
        id: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// A command ended.
    ExecExit {
        /// The number of the command.
        id: u64,
        /// How.
        exit: ExecExit,
    },
    /// One line of the CLI's standard error.
    Stderr(Bytes),
    /// What the agent had said when that was asked for has come before this, every event of it.
    Drained {
        /// The number of the request.
        id: u64,
    },
    /// How many tasks the CLI runs beside its turns has changed.
    Tasks {
        /// How many it runs.
        running: u64,
    },
}

/// The receiving end of a conversation. Dropping it ends the conversation, after what waits to be
/// sent has been sent.
#[derive(Debug)]
pub struct LinkReceiver {
    socket: OwnedReadHalf,
    buffer: BytesMut,
    /// A broken frame behind messages that were handed over before it.
    broken: Option<LinkError>,
    sender: LinkSender,
}

impl Drop for LinkReceiver {
    fn drop(&mut self) {
        self.sender.close();
    }
}

impl LinkReceiver {
    pub(super) fn new(socket: OwnedReadHalf, sender: LinkSender) -> Self {
        LinkReceiver { socket, buffer: BytesMut::new(), broken: None, sender }
    }

    /// Waits for messages and appends those that are there, at most `max`, to `into`; returns how
    /// many, or `None` at the end of the conversation. Losing the future
    /// loses no message.
    ///
    /// # Errors
    /// At the first frame that breaks the rules. Messages before it have been handed over.
    pub async fn recv_batch(
        &mut self,
        into: &mut Vec<Incoming>,
        max: usize,
    ) -> Result<Option<usize>, LinkError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        loop {
            let taken = self.take(into, max)?;
            if taken > 0 {
                return Ok(Some(taken));
            }
            if !self.fill().await? {
                return Ok(None);
            }
        }
    }

    /// Keeps no room for what may come next; it is made when something comes. For a bridge that may be
    /// silent for long.
    pub fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    /// Bytes that are kept for what may come next.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.buffer.capacity()
    }

    pub(super) async fn welcome(&mut self) -> Result<Welcome, LinkError> {
        loop {
            match self.frame()? {
                Some((header, body)) if header.kind == Kind::Welcome => return json(header, &body),
                Some((header, _)) => return Err(LinkError::OutOfPlace(header.kind)),
                None if self.fill().await? => {}
                None => return Err(LinkError::Gone),
            }
        }
    }

    fn take(&mut self, into: &mut Vec<Incoming>, max: usize) -> Result<usize, LinkError> {
        for taken in 0..max {
            match self.frame().and_then(|frame| frame.map(incoming).transpose()) {
                Ok(Some(message)) => into.push(message),
                Ok(None) => return Ok(taken),
                Err(error) if taken == 0 => return Err(error),
                Err(error) => {
                    self.broken = Some(error);
                    return Ok(taken);
                }
            }
        }
        Ok(max)
    }

    /// The next frame, if all of it is here.
    fn frame(&mut self) -> Result<Option<(Header, Bytes)>, LinkError> {
        let Some(head) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::decode(head)?;
        if self.buffer.len() < HEADER + header.body {
            return Ok(None);
        }
        let frame = self.buffer.split_to(HEADER + header.body).freeze();
        Ok(Some((header, frame.slice(HEADER..))))
    }

    /// Reads what is there; `false` at a clean end. Room grows with what arrives, not with what
    /// is announced.
    async fn fill(&mut self) -> Result<bool, LinkError> {
        if self.buffer.capacity() == 0 {
            // Room is made for what is there, not for what may never come.
            self.socket.readable().await?;
        }
        if self.buffer.capacity() - self.buffer.len() < CHUNK / 4 {
            self.buffer.reserve(CHUNK);
        }
        let read = self.socket.read_buf(&mut self.buffer).await?;
        match (read, self.buffer.is_empty()) {
            (0, true) => Ok(false),
            (0, false) => Err(LinkError::Cut),
            _ => Ok(true),
        }
    }
}

fn incoming((header, body): (Header, Bytes)) -> Result<Incoming, LinkError> {
    let number = header.number;
    Ok(match header.kind {
        Kind::Line => Incoming::Line { number, line: body },
        Kind::Delta => Incoming::Delta { number, line: body },
        Kind::Notice => Incoming::Notice { number, notice: json(header, &body)? },
        Kind::ControlReply => Incoming::ControlReply { id: number, reply: json(header, &body)? },
        Kind::ExecStdout => Incoming::ExecStdout { id: number, bytes: body },
        Kind::ExecStderr => Incoming::ExecStderr { id: number, bytes: body },
        Kind::ExecExit => Incoming::ExecExit { id: number, exit: json(header, &body)? },
        Kind::Stderr => Incoming::Stderr(body),
        Kind::Drained => Incoming::Drained { id: number },
        Kind::Tasks => Incoming::Tasks { running: number },
        kind => return Err(LinkError::OutOfPlace(kind)),
    })
}

fn json<T: DeserializeOwned>(header: Header, body: &[u8]) -> Result<T, LinkError> {
    serde_json::from_slice(body)
        .map_err(|error| LinkError::Malformed { kind: header.kind, reason: brief(&error) })
}
