//! The frame: a length, a kind, a number and a body.
//!
//! ```text
//!  0        4      5              13
//!  ├────────┼──────┼───────────────┼──────────────── … ┐
//!  │ length │ kind │ number        │ body              │   integers little-endian
//!  └────────┴──────┴───────────────┴──────────────── … ┘
//! ```
//!
//! `length` counts everything behind itself. The meaning of `number` and `body` depends on the
//! kind, see [`Kind`]. Bodies that carry a line of the CLI are that line, byte for byte.

use std::io::{self, Read, Write};

/// Bytes of a frame's header: length, kind and number.
pub const HEADER: usize = 13;

/// The largest body that either side accepts, in bytes.
///
/// The CLI was seen to accept prompts of 12 MB; HTTP accepts messages of 50 MiB.
pub const MAX_BODY: usize = 64 * 1024 * 1024;

/// What a frame is about, and what its number and body mean.
///
/// The first half goes from `ashd` to the bridge, the second half comes back.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum Kind {
    /// First frame on a connection, JSON [`words::Hello`](crate::words::Hello).
    Hello = 1,
    /// Start the CLI, or replace the running one; JSON [`words::Start`](crate::words::Start).
    Start = 2,
    /// Run a turn; JSON [`words::Turn`](crate::words::Turn).
    Turn = 3,
    /// A control request for the CLI: number is the caller's request id, body the JSON `request`
    /// object, which must have a `subtype`.
    Control = 4,
    /// Interrupt the running turn; number is the caller's request id, no body.
    Interrupt = 5,
    /// Run a command beside the turn; number is its id, JSON [`words::Exec`](crate::words::Exec).
    Exec = 6,
    /// Kill a command, its process group and what descends from it; number is the id given in
    /// [`Kind::Exec`].
    ExecKill = 7,
    /// Everything up to and including this event number is on disk; no body.
    Ack = 8,
    /// End everything in the sandbox and exit; no body.
    Shutdown = 9,
    /// Send everything that the agent has said until now, and then say so; number is the caller's
    /// request id, no body. It takes the place of one that was not answered yet. Not before version
    /// [`DRAINS`](crate::DRAINS).
    Drain = 10,

    /// Answer to [`Kind::Hello`], JSON [`words::Welcome`](crate::words::Welcome).
    Welcome = 64,
    /// A complete line of the CLI that history keeps; number is its event number.
    Line = 65,
    /// A line of the CLI that history does not keep (deltas, system lines); number is its event
    /// number.
    Delta = 66,
    /// Something happened to a turn or to the CLI; number is its event number, JSON
    /// [`words::Notice`](crate::words::Notice).
    Notice = 67,
    /// Answer to [`Kind::Control`] or [`Kind::Interrupt`]; number is the caller's request id, JSON
    /// [`words::ControlReply`](crate::words::ControlReply).
    ControlReply = 68,
    /// Standard output of a command; number is its id, body the bytes.
    ExecStdout = 69,
    /// Standard error of a command; number is its id, body the bytes.
    ExecStderr = 70,
    /// A command ended; number is its id, JSON [`words::ExecExit`](crate::words::ExecExit).
    ExecExit = 71,
    /// One line of the CLI's standard error; no number. Not kept, not acknowledged.
    Stderr = 72,
    /// Answer to [`Kind::Drain`], behind every event of what the CLI had written when that was read;
    /// number is the caller's request id, no body. A line that was begun and not ended is not among
    /// them.
    Drained = 73,
    /// How many tasks the CLI runs beside its turns has changed: number is how many, no body. It comes
    /// behind the events of the lines that said so. Not kept, not acknowledged: whoever connects is told
    /// by [`Kind::Welcome`]. Not before version [`TASKS`](crate::TASKS).
    Tasks = 74,
}

impl Kind {
    const ALL: [Kind; 21] = [
        Kind::Hello,
        Kind::Start,
        Kind::Turn,
        Kind::Control,
        Kind::Interrupt,
        Kind::Exec,
        Kind::ExecKill,
        Kind::Ack,
        Kind::Shutdown,
        Kind::Drain,
        Kind::Welcome,
        Kind::Line,
        Kind::Delta,
        Kind::Notice,
        Kind::ControlReply,
        Kind::ExecStdout,
        Kind::ExecStderr,
        Kind::ExecExit,
        Kind::Stderr,
        Kind::Drained,
        Kind::Tasks,
    ];

    /// The kind written as this byte, if there is one.
    pub fn from_byte(byte: u8) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Whether frames of this kind carry an event number that [`Kind::Ack`] acknowledges.
    pub fn is_event(self) -> bool {
        matches!(self, Kind::Line | Kind::Delta | Kind::Notice)
    }
}

/// Why bytes are not a frame. The connection they came from cannot be used any further.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// The length field is smaller than the rest of the header.
    #[error("frame of {0} bytes is shorter than a frame's header")]
    TooShort(u32),
    /// The length field announces more than [`MAX_BODY`].
    #[error("frame of {0} bytes is over the limit of {MAX_BODY}")]
    TooLong(u32),
    /// The kind byte is not one of [`Kind`].
    #[error("frame kind {0} is unknown")]
    UnknownKind(u8),
}

/// A frame's header, decoded.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Header {
    /// What the frame is about.
    pub kind: Kind,
    /// Event number, request id or command id, see [`Kind`].
    pub number: u64,
    /// Bytes of body that follow.
    pub body: usize,
}

impl Header {
    /// Decodes a header.
    pub fn decode(bytes: &[u8; HEADER]) -> Result<Header, FrameError> {
        let [l0, l1, l2, l3, kind, n0, n1, n2, n3, n4, n5, n6, n7] = *bytes;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        let body = (length as usize).checked_sub(HEADER - 4).ok_or(FrameError::TooShort(length))?;
        if body > MAX_BODY {
            return Err(FrameError::TooLong(length));
        }
        let kind = Kind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
        let number = u64::from_le_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
        Ok(Header { kind, number, body })
    }

    /// Encodes the header.
    ///
    /// # Panics
    /// If the body is over [`MAX_BODY`]: whoever builds a frame bounds what goes into it.
    pub fn encode(self) -> [u8; HEADER] {
        assert!(self.body <= MAX_BODY, "frame body of {} bytes", self.body);
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&((self.body + HEADER - 4) as u32).to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }
}

/// Finds the first whole frame in `buffer`: its header and where it ends, or `None` if more bytes
/// are needed. The body is `buffer[HEADER..end]`.
pub fn first(buffer: &[u8]) -> Result<Option<(Header, usize)>, FrameError> {
    let Some(head) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let header = Header::decode(head)?;
    let end = HEADER + header.body;
    Ok((buffer.len() >= end).then_some((header, end)))
}

/// Writes one frame.
pub fn write(to: &mut impl Write, kind: Kind, number: u64, body: &[u8]) -> io::Result<()> {
    to.write_all(&Header { kind, number, body: body.len() }.encode())?;
    to.write_all(body)
}

/// Reads one frame; `None` at a clean end of the stream.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] with a [`FrameError`] inside when the bytes are no frame,
/// [`io::ErrorKind::UnexpectedEof`] when the stream ends inside one.
pub fn read(from: &mut impl Read) -> io::Result<Option<(Header, Vec<u8>)>> {
    let mut head = [0; HEADER];
    let mut filled = 0;
    while filled < HEADER {
        match from.read(&mut head[filled..]) {
            Ok(0) if filled == 0 => return Ok(None),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let header =
        Header::decode(&head).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    // Reserved as bytes arrive, not as announced: a header alone must not cost 64 MiB.
    let mut body = Vec::new();
    from.take(header.body as u64).read_to_end(&mut body)?;
    if body.len() < header.body {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((header, body)))
}
