//! Where the gate stands: between the socket of the bus and everything that reads from it.
//!
//! zbus reads properties while it holds the lock of its tree of objects, so an interface cannot
//! wait for polkit: everybody would wait with it. So calls are held back before they are
//! dispatched, and nothing behind this door asks who calls.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;
use zbus::address::Transport;
use zbus::address::transport::UnixSocket;
use zbus::connection::Builder;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::fdo::ConnectionCredentials;
use zbus::message::Type;
use zbus::names::BusName;
use zbus::{Address, Connection, Error, Message};

use super::frames::Frames;
use super::gate::{Admitted, Gate};

/// Messages that have been let in and not been read.
const QUEUE: usize = 64;
/// The most bytes of a message that we send: a system bus cuts off whoever sends 32 MiB.
const LARGEST: usize = 31 << 20;
/// What zbus calls an error that has no name. None of ours is without: it says that the arguments of
/// a call cannot be read.
const UNNAMED: &str = "org.freedesktop.zbus.Error";

/// Connects to a bus, behind a gate that is still shut.
///
/// # Errors
/// When the address is no unix socket, or the bus does not answer.
pub(super) async fn connect(address: &Address, gate: &Arc<Gate>) -> zbus::Result<Connection> {
    let socket = Gated { stream: stream(address).await?, gate: gate.clone() };
    Builder::socket(socket).build().await
}

async fn stream(address: &Address) -> zbus::Result<UnixStream> {
    let Transport::Unix(unix) = address.transport() else {
        return Err(Error::Address("only unix sockets are taken".into()));
    };
    let path = match unix.path() {
        UnixSocket::File(path) => path.as_os_str().to_owned(),
        UnixSocket::Abstract(name) => [std::ffi::OsStr::new("\0"), name].into_iter().collect(),
        _ => return Err(Error::Address("only unix:path= and unix:abstract= are taken".into())),
    };
    Ok(UnixStream::connect(path).await?)
}

/// A connection to a bus, and the gate in it.
struct Gated {
    stream: UnixStream,
    gate: Arc<Gate>,
}

impl Socket for Gated {
    type ReadHalf = Door;
    type WriteHalf = Bounded;

    fn split(self) -> Split<Door, Bounded> {
        let (read, write) = self.stream.into_split();
        let closed = self.gate.leaving.clone().drop_guard();
        Split::new(
            Door { gate: self.gate, way: Way::Handshake(read), _closed: closed },
            Bounded(write),
        )
    }
}

/// What zbus reads from.
#[derive(Debug)]
struct Door {
    gate: Arc<Gate>,
    way: Way,
    /// Nothing waits for a connection that is gone.
    _closed: DropGuard,
}

#[derive(Debug)]
enum Way {
    /// Until the bus knows us.
    Handshake(OwnedReadHalf),
    /// From then on.
    Messages(mpsc::Receiver<zbus::Result<Message>>),
    /// There is no more.
    Closed,
}

#[async_trait]
impl ReadHalf for Door {
    async fn receive_message(
        &mut self,
        _seq: u64,
        bytes: &mut Vec<u8>,
        fds: &mut Vec<OwnedFd>,
    ) -> zbus::Result<Message> {
        let mut messages = match std::mem::replace(&mut self.way, Way::Closed) {
            Way::Handshake(socket) => {
                let (admitted, messages) = mpsc::channel(QUEUE);
                let read = (std::mem::take(bytes), std::mem::take(fds));
                tokio::spawn(read_on(socket, read, self.gate.clone(), admitted));
                messages
            }
            Way::Messages(messages) => messages,
            Way::Closed => return Err(closed()),
        };
        let message = messages.recv().await.unwrap_or_else(|| Err(closed()));
        self.way = Way::Messages(messages);
        message
    }

    async fn recvmsg(&mut self, into: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        match &mut self.way {
            Way::Handshake(socket) => socket.recvmsg(into).await,
            Way::Messages(_) | Way::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        match &mut self.way {
            Way::Handshake(socket) => socket.peer_credentials().await,
            Way::Messages(_) | Way::Closed => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// What zbus writes to: an answer that the bus would not carry becomes an error that says so, and an
/// error that only zbus knows gets the name that every client knows.
#[derive(Debug)]
struct Bounded(OwnedWriteHalf);

#[async_trait]
impl WriteHalf for Bounded {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        if let Some(error) = misread(message) {
            return self.0.send_message(&error?).await;
        }
        if message.data().len() <= LARGEST {
            return self.0.send_message(message).await;
        }
        match too_large(message) {
            Some(error) => self.0.send_message(&error?).await,
            None => {
                tracing::warn!("a signal is too large for the bus and was not sent");
                Ok(())
            }
        }
    }

    async fn sendmsg(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.0.sendmsg(bytes, fds).await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.0.close().await
    }

    fn can_pass_unix_fd(&self) -> bool {
        true
    }

    async fn peer_credentials(&mut self) -> io::Result<ConnectionCredentials> {
        self.0.peer_credentials().await
    }
}

/// The error in the place of an answer; nothing stands in the place of a signal.
fn too_large(answer: &Message) -> Option<zbus::Result<Message>> {
    let text = "the answer is larger than a message may be; ask for less at once";
    in_place_of(answer, "org.freedesktop.DBus.Error.LimitsExceeded", text)
}

/// The error in the place of one that says that arguments cannot be read, in the same words.
fn misread(answer: &Message) -> Option<zbus::Result<Message>> {
    if answer.message_type() != Type::Error || answer.header().error_name()?.as_str() != UNNAMED {
        return None;
    }
    let text: String = answer.body().deserialize().unwrap_or_default();
    in_place_of(answer, "org.freedesktop.DBus.Error.InvalidArgs", &text)
}

/// An error for whoever waits for this answer.
fn in_place_of(answer: &Message, name: &str, text: &str) -> Option<zbus::Result<Message>> {
    let header = answer.header();
    let BusName::Unique(caller) = header.destination()? else { return None };
    let error = |serial| {
        // An error is made for a call: one with the same number, from the same caller.
        let call = Message::method_call("/", "Call")?.serial(serial).sender(caller)?.build(&())?;
        Message::error(&call.header(), name)?.build(&text)
    };
    header.reply_serial().map(error)
}

fn closed() -> Error {
    io::Error::from(io::ErrorKind::UnexpectedEof).into()
}

/// Reads messages until the connection ends. Calls go to the gate, which lets them in when it is
/// time; answers and signals pass.
async fn read_on(
    socket: OwnedReadHalf,
    (bytes, fds): (Vec<u8>, Vec<OwnedFd>),
    gate: Arc<Gate>,
    admitted: Admitted,
) {
    let (mut frames, mut left_out) = (Frames { socket, bytes, fds }, 0);
    for seq in 1.. {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            () = admitted.closed() => return,
        };
        let read = match frame {
            Ok(frame) => frame.message(seq).await,
            Err(error) => {
                let _ = admitted.send(Err(error.into())).await;
                return;
            }
        };
        match read {
            Ok(call) if call.message_type() == Type::MethodCall => {
                gate.take(call, admitted.clone())
            }
            Ok(other) => {
                if admitted.send(Ok(other)).await.is_err() {
                    return;
                }
            }
            // Anybody can send it, and nobody else is to suffer from it.
            Err(error) => leave_out(&error, &mut left_out),
        }
    }
}

/// Says so ever more seldom: who sends one such message can send many.
fn leave_out(error: &Error, count: &mut u64) {
    *count += 1;
    if count.is_power_of_two() {
        tracing::debug!(%error, count, "left out a message that cannot be read");
    }
}
