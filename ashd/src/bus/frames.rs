//! Messages on the wire, one by one, whatever is in them.
//!
//! A bus passes on what its clients send, as long as it is well formed: types and flags that nobody
//! knows yet, too. zbus takes these for errors of the connection, so messages are first cut out by
//! their lengths (D-Bus Specification, Message Format), and one that cannot be read costs nothing but
//! itself.

use std::io;
use std::os::fd::OwnedFd;

use async_trait::async_trait;
use tokio::net::unix::OwnedReadHalf;
use zbus::Message;
use zbus::connection::socket::ReadHalf;

/// The fixed part of a header: endianness, type, flags, version, three lengths and numbers.
const HEAD: usize = 16;

/// The largest message of the specification, in bytes.
const LARGEST: usize = 128 << 20;

/// Where the flags are.
const FLAGS: usize = 2;

/// The flags that the specification knows; others are to be ignored.
const KNOWN_FLAGS: u8 = 0x7;

/// Reads from a connection, message by message.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) socket: OwnedReadHalf,
    /// What was read already.
    pub(super) bytes: Vec<u8>,
    pub(super) fds: Vec<OwnedFd>,
}

/// The bytes of a message, and what came with them.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    taken: usize,
    fds: Vec<OwnedFd>,
}

impl Frames {
    /// The next message. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the connection fails or ends, or what comes is no D-Bus.
    pub(super) async fn next(&mut self) -> io::Result<Frame> {
        self.fill(HEAD).await?;
        let length = length(&self.bytes).ok_or(io::ErrorKind::InvalidData)?;
        self.fill(length).await?;
        let rest = self.bytes.split_off(length);
        let mut bytes = std::mem::replace(&mut self.bytes, rest);
        bytes[FLAGS] &= KNOWN_FLAGS;
        Ok(Frame { bytes, taken: 0, fds: std::mem::take(&mut self.fds) })
    }

    /// Reads until there are so many bytes, and no more: the descriptors that come belong to them.
    async fn fill(&mut self, length: usize) -> io::Result<()> {
        let mut buffer = vec![0; length.saturating_sub(self.bytes.len())];
        while self.bytes.len() < length {
            let wanted = length - self.bytes.len();
            let (count, fds) = self.socket.recvmsg(&mut buffer[..wanted]).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.bytes.extend_from_slice(&buffer[..count]);
            self.fds.extend(fds);
        }
        Ok(())
    }
}

impl Frame {
    /// The message, if it can be read; it gets this number.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) async fn message(mut self, seq: u64) -> zbus::Result<Message> {
        self.receive_message(seq, &mut Vec::new(), &mut Vec::new()).await
    }
}

/// Reads from what is there.
#[async_trait]
impl ReadHalf for Frame {
    async fn recvmsg(&mut self, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let rest = &self.bytes[self.taken..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.taken += count;
        Ok((count, std::mem::take(&mut self.fds)))
    }
}

/// How long the message that begins like this is; `None` for what no message begins with.
fn length(head: &[u8]) -> Option<usize> {
    let number = |at: usize| {
        let bytes: [u8; 4] = head.get(at..at + 4)?.try_into().ok()?;
        let number = match head.first()? {
            b'l' => u32::from_le_bytes(bytes),
            b'B' => u32::from_be_bytes(bytes),
            _ => return None,
        };
        usize::try_from(number).ok().filter(|number| *number <= LARGEST)
    };
    let (body, fields) = (number(4)?, number(12)?);
    let length = (HEAD + fields).next_multiple_of(8) + body;
    (length <= LARGEST).then_some(length)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    use super::*;

    fn call() -> Vec<u8> {
        let call = Message::method_call("/a", "Call").unwrap().build(&("text", 7_u32)).unwrap();
        call.data().to_vec()
    }

    #[test]
    fn lengths_are_those_of_whole_messages() {
        let call = call();
        assert_eq!(length(&call), Some(call.len()));
        let huge = [&call[..4], &[0xff; 12]].concat();
        assert_eq!((length(&huge), length(b"x"), length(&[b'x'; 16])), (None, None, None));
    }

    #[tokio::test]
    async fn what_cannot_be_read_ends_with_itself() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let (socket, _write) = ours.into_split();
        let (mut flags, mut kind, mut field) = (call(), call(), call());
        flags[FLAGS] |= 0xf8;
        kind[1] = 9;
        // The number of the first field, behind the head.
        field[HEAD] = 0xee;
        // A part of the first was read with the handshake.
        let begun = flags.drain(..5).collect();
        for message in [&flags, &kind, &field, &call()] {
            theirs.write_all(message).await.unwrap();
        }
        let mut frames = Frames { socket, bytes: begun, fds: Vec::new() };
        let mut readable = Vec::new();
        for seq in 1..=4 {
            readable.push(frames.next().await.unwrap().message(seq).await.is_ok());
        }
        assert_eq!(readable, [true, false, false, true]);
        drop(theirs);
        assert!(frames.next().await.is_err());
    }
}
