//! The connection to `ashd`.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use ash_wire::TASKS;
use ash_wire::frame::{self, HEADER, Kind};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};

use crate::log::Log;
use crate::outbox::Outbox;
use crate::turn::Millis;

/// How long a new connection may take to say hello.
pub const HELLO_TIMEOUT: Millis = 10_000;

/// A frame from `ashd`.
#[derive(Debug)]
pub struct Frame {
    /// What it is about.
    pub kind: Kind,
    /// Its number.
    pub number: u64,
    /// Its body.
    pub body: Vec<u8>,
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
    /// Which connection this is, counted from 1. Answers go to the connection that asked.
    pub serial: u64,
    /// When it was accepted.
    pub since: Millis,
    input: Vec<u8>,
    /// What goes out; `None` until hello was said.
    outbox: Option<Outbox>,
    /// The version that both speak; 0 until hello was said.
    version: u16,
}

/// Accepts a waiting connection. `None` when there is none, or when its other end is not root's:
/// the socket never had a path in the sandbox, but what may be asked is cheap to ask.
pub fn accept(listener: &OwnedFd, serial: u64, now: Millis) -> Option<Link> {
    let socket = accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).ok()?;
    let peer = ash_sys::peer::uid(socket.as_fd()).ok()?;
    (peer == 0).then(|| Link::new(socket, serial, now))
}

impl Link {
    /// A connection that was accepted, over a socket that does not block.
    pub(crate) fn new(socket: OwnedFd, serial: u64, since: Millis) -> Link {
        Link { socket, serial, since, input: Vec::new(), outbox: None, version: 0 }
    }

    /// The socket, to poll.
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether hello was said.
    pub fn is_greeted(&self) -> bool {
        self.outbox.is_some()
    }

    /// Whether there is something to write.
    pub fn has_work(&self, log: &Log) -> bool {
        self.outbox.as_ref().is_some_and(|outbox| outbox.has_work(log))
    }

    /// Whether producers of frames that are not events should pause.
    pub fn is_crowded(&self) -> bool {
        self.outbox.as_ref().is_some_and(Outbox::is_crowded)
    }

    /// Hello was said: `welcome` goes out, which says that both speak this version, and then the events
    /// from number `first` on.
    pub fn greet(&mut self, version: u16, first: u64, welcome: &[u8]) {
        let mut outbox = Outbox::new(first);
        outbox.push(Kind::Welcome, 0, welcome);
        (self.outbox, self.version) = (Some(outbox), version);
    }

    /// Adds a frame that is not an event. Before hello it is dropped.
    pub fn push(&mut self, kind: Kind, number: u64, body: &[u8]) {
        if let Some(outbox) = &mut self.outbox {
            outbox.push(kind, number, body);
        }
    }

    /// Adds a frame without a body that comes behind all events up to number `event`. Before hello it
    /// is dropped.
    pub fn push_behind(&mut self, event: u64, kind: Kind, number: u64) {
        if let Some(outbox) = &mut self.outbox {
            outbox.push_behind(event, kind, number);
        }
    }

    /// Says how many tasks run, behind all events up to number `event`; to an `ashd` that knows of such.
    pub fn tell_tasks(&mut self, event: u64, running: u64) {
        if let Some(outbox) = self.outbox.as_mut().filter(|_| self.version >= TASKS) {
            outbox.push_newest_behind(event, Kind::Tasks, running);
        }
    }

    /// Writes what the socket takes.
    ///
    /// # Errors
    /// When the connection is broken.
    pub fn write(&mut self, log: &Log) -> io::Result<()> {
        match &mut self.outbox {
            Some(outbox) => outbox.write(&self.socket, log),
            None => Ok(()),
        }
    }

    /// Reads what is there and takes the frames that are whole.
    ///
    /// # Errors
    /// When the connection is closed or broken, or the bytes are no frames.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Vec<Frame>> {
        match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
            Ok((_, 0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((_, count)) => self.input.extend_from_slice(&buffer[..count]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        }
        self.whole_frames()
    }

    fn whole_frames(&mut self) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        let mut done = 0;
        while let Some((header, end)) = frame::first(&self.input[done..]).map_err(invalid)? {
            let body = self.input[done + HEADER..done + end].to_vec();
            frames.push(Frame { kind: header.kind, number: header.number, body });
            done += end;
        }
        self.input.drain(..done);
        if done > 0 {
            self.input.shrink_to(HEADER);
        }
        Ok(frames)
    }
}

fn invalid(error: frame::FrameError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
