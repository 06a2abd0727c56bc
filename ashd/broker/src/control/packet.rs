//! One JSON message per packet, and at most one descriptor beside it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_seqpacket::UnixSeqpacket;
use tokio_seqpacket::ancillary::{AncillaryMessageWriter, OwnedAncillaryMessage};

/// Largest message in bytes: well inside a socket's default send buffer.
pub(crate) const LIMIT: usize = 64 * 1024;

/// Room for the control message that carries descriptors.
const ANCILLARY: usize = 64;

/// A message and the descriptors that came with it.
pub(crate) struct Packet<T> {
    pub(crate) message: T,
    pub(crate) fds: Vec<OwnedFd>,
}

/// Sends one message. Fails when it does not fit a packet or the other end is gone.
pub(crate) async fn send<T: Serialize>(
    link: &UnixSeqpacket,
    message: &T,
    fd: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message larger than a packet"));
    }
    let mut buffer = [0; ANCILLARY];
    let mut ancillary = AncillaryMessageWriter::new(&mut buffer);
    if let Some(fd) = fd {
        ancillary.add_fds([fd]).map_err(|_| io::ErrorKind::InvalidInput)?;
    }
    link.send_with_ancillary(&bytes, &mut ancillary).await.map(drop)
}

/// Receives one message; `None` at the end of the conversation. Losing the future loses no packet.
pub(crate) async fn receive<T: DeserializeOwned>(
    link: &UnixSeqpacket,
) -> io::Result<Option<Packet<T>>> {
    let mut bytes = vec![0; LIMIT];
    let mut buffer = [0; ANCILLARY];
    let (info, ancillary) = link.recv_with_ancillary(&mut bytes, &mut buffer).await?;
    let fds: Vec<OwnedFd> = ancillary.into_messages().flat_map(descriptors).collect();
    if info.bytes_read() == 0 {
        return Ok(None);
    }
    if info.truncated() || info.ancillary_truncated() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "packet larger than a message may be",
        ));
    }
    let message = serde_json::from_slice(&bytes[..info.bytes_read()])?;
    Ok(Some(Packet { message, fds }))
}

fn descriptors(message: OwnedAncillaryMessage<'_>) -> Vec<OwnedFd> {
    match message {
        OwnedAncillaryMessage::FileDescriptors(fds) => fds.collect(),
        _ => Vec::new(),
    }
}
