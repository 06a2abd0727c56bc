//! Towards the bridge.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use ash_wire::DRAINS;
use ash_wire::frame::{Header, Kind, MAX_BODY};
use ash_wire::words::{Exec, Hello, Start, Turn};
use bytes::{Buf, Bytes, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

use super::LinkError;

/// Bytes that may wait to be sent: two of the largest messages.
const BACKLOG: usize = 2 * MAX_BODY;

/// Slices that one system call writes at most.
const SLICES: usize = 64;

/// The sending end of a conversation. Clones send into the same one; nothing here waits.
///
/// Every verb fails with [`LinkError::Gone`] once the conversation is over, and with
/// [`LinkError::Stuck`] when the bridge has not read for so long that too much piled up.
#[derive(Clone, Debug)]
pub struct LinkSender(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Notify,
    next_id: AtomicU64,
    /// Of the conversation; 0 until the bridge has answered.
    version: AtomicU16,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    waiting: usize,
    ack: Option<u64>,
    closed: bool,
}

impl LinkSender {
    pub(super) fn start(socket: OwnedWriteHalf) -> Self {
        let queue = Mutex::new(Queue::default());
        let next_id = AtomicU64::new(first_id());
        let version = AtomicU16::new(0);
        let shared = Arc::new(Shared { queue, wake: Notify::new(), next_id, version });
        tokio::spawn(write(shared.clone(), socket));
        LinkSender(shared)
    }

    pub(super) fn hello(&self, hello: &Hello) -> Result<(), LinkError> {
        self.json(Kind::Hello, 0, hello)
    }

    /// The bridge has answered: this is the version that both speak.
    pub(super) fn agree(&self, version: u16) {
        self.0.version.store(version, Ordering::Relaxed);
    }

    /// Starts the CLI, or replaces the running one.
    pub fn start_cli(&self, start: &Start) -> Result<(), LinkError> {
        self.json(Kind::Start, 0, start)
    }

    /// Runs a turn.
    pub fn turn(&self, turn: &Turn) -> Result<(), LinkError> {
        self.json(Kind::Turn, 0, turn)
    }

    /// A number for [`control`](Self::control), [`interrupt`](Self::interrupt) or
    /// [`exec`](Self::exec) that no other conversation with this bridge has used.
    pub fn next_id(&self) -> u64 {
        self.0.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Passes a control request to the CLI: an object with a `subtype`. The answer carries `id`.
    pub fn control(&self, id: u64, request: &RawValue) -> Result<(), LinkError> {
        self.send(Kind::Control, id, request.get().as_bytes())
    }

    /// Interrupts the running turn. The answer carries `id`.
    pub fn interrupt(&self, id: u64) -> Result<(), LinkError> {
        self.send(Kind::Interrupt, id, &[])
    }

    /// Runs a command beside the turn. Its output and its end carry `id`.
    pub fn exec(&self, id: u64, exec: &Exec) -> Result<(), LinkError> {
        self.json(Kind::Exec, id, exec)
    }

    /// Kills a command.
    pub fn exec_kill(&self, id: u64) -> Result<(), LinkError> {
        self.send(Kind::ExecKill, id, &[])
    }

    /// Says that everything up to and including event `number` is on disk. Only the highest
    /// number that waits is sent.
    pub fn ack(&self, number: u64) -> Result<(), LinkError> {
        let mut queue = self.0.lock();
        if queue.closed {
            return Err(LinkError::Gone);
        }
        queue.ack = queue.ack.max(Some(number));
        drop(queue);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Asks for everything that the agent has said until now. The answer,
    /// [`Incoming::Drained`](super::Incoming::Drained), comes behind it and carries the number that is
    /// returned. `None`: a bridge of before there was such a question, which is not asked.
    pub fn drain(&self) -> Result<Option<u64>, LinkError> {
        if self.0.version.load(Ordering::Relaxed) < DRAINS {
            return Ok(None);
        }
        let id = self.next_id();
        self.send(Kind::Drain, id, &[]).map(|()| Some(id))
    }

    /// Ends everything in the sandbox.
    pub fn shutdown(&self) -> Result<(), LinkError> {
        self.send(Kind::Shutdown, 0, &[])
    }

    /// Takes nothing more; hangs up when what waits has been sent.
    pub(super) fn close(&self) {
        self.0.lock().closed = true;
        self.0.wake.notify_one();
    }

    fn json(&self, kind: Kind, number: u64, body: &impl Serialize) -> Result<(), LinkError> {
        let body = serde_json::to_vec(body)
            .map_err(|error| LinkError::Io(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        self.send(kind, number, &body)
    }

    fn send(&self, kind: Kind, number: u64, body: &[u8]) -> Result<(), LinkError> {
        if body.len() > MAX_BODY {
            return Err(LinkError::TooLong(body.len()));
        }
        let mut queue = self.0.lock();
        if queue.closed {
            return Err(LinkError::Gone);
        }
        if queue.waiting + body.len() > BACKLOG {
            return Err(LinkError::Stuck);
        }
        let bytes = frame(kind, number, body);
        queue.waiting += bytes.len();
        queue.frames.push_back(bytes);
        drop(queue);
        self.0.wake.notify_one();
        Ok(())
    }
}

/// Request ids must not meet those of a conversation before, whose answers may still come: they
/// begin at the time in microseconds, which grows faster than requests are made.
fn first_id() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(1)
}

fn frame(kind: Kind, number: u64, body: &[u8]) -> Bytes {
    let header = Header { kind, number, body: body.len() }.encode();
    let mut bytes = BytesMut::with_capacity(header.len() + body.len());
    bytes.extend_from_slice(&header);
    bytes.extend_from_slice(body);
    bytes.freeze()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that waits, the acknowledgement last; `None` when nothing will come any more.
    fn take(&self) -> Option<VecDeque<Bytes>> {
        let mut queue = self.lock();
        let mut frames = std::mem::take(&mut queue.frames);
        frames.extend(queue.ack.take().map(|number| frame(Kind::Ack, number, &[])));
        (!frames.is_empty() || !queue.closed).then_some(frames)
    }

    /// Gives back the room of what was sent.
    fn sent(&self, bytes: usize) {
        let mut queue = self.lock();
        queue.waiting = queue.waiting.saturating_sub(bytes);
    }

    fn give_up(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.frames.clear();
    }
}

async fn write(shared: Arc<Shared>, mut socket: OwnedWriteHalf) {
    while let Some(mut frames) = shared.take() {
        if frames.is_empty() {
            shared.wake.notified().await;
        } else if write_all(&shared, &mut socket, &mut frames).await.is_err() {
            return shared.give_up();
        }
    }
}

async fn write_all(
    shared: &Shared,
    socket: &mut OwnedWriteHalf,
    frames: &mut VecDeque<Bytes>,
) -> io::Result<()> {
    while !frames.is_empty() {
        let slices: Vec<_> = frames.iter().take(SLICES).map(|frame| IoSlice::new(frame)).collect();
        let written = socket.write_vectored(&slices).await?;
        advance(frames, written);
        shared.sent(written);
    }
    Ok(())
}

fn advance(frames: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = frames.front_mut() {
        if first.len() > written {
            return first.advance(written);
        }
        written -= first.len();
        frames.pop_front();
    }
}
