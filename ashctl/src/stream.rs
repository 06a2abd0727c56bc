//! The stream of a turn, which goes on when `ashd` restarts in the middle.

use std::collections::VecDeque;

use ash_dbus::SessionProxy;
use ash_dbus::value::FollowOptions;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use zbus::zvariant::OwnedFd;

use crate::bus::Bus;
use crate::failure::Failure;
use crate::sse::{Event, Parser};

/// How often in a row a stream may break off without giving anything.
const FRUITLESS: u32 = 5;
const PIECE: usize = 64 << 10;

/// What a reader of a turn holds.
pub(crate) struct Stream {
    bus: Bus,
    session: String,
    pipe: Option<Receiver>,
    parser: Parser,
    ready: VecDeque<Event>,
    /// Id of the newest event that was handed out.
    last: String,
    over: bool,
    fruitless: u32,
    /// Whether a message of ours is being answered; else there may be nothing to read.
    asked: bool,
}

/// A pipe from the daemon, for reading.
pub(crate) fn receiver(fd: OwnedFd) -> Result<Receiver, Failure> {
    Receiver::from_owned_fd(fd.into())
        .map_err(|error| Failure::Failed(format!("the daemon's pipe cannot be read: {error}")))
}

impl Stream {
    /// Sends a message and reads its answer, deltas included.
    ///
    /// `content` and `options` are JSON as the interface wants them.
    pub(crate) async fn send(
        bus: &Bus,
        session: (&SessionProxy<'_>, &str),
        content: &str,
        options: &str,
    ) -> Result<Self, Failure> {
        let (proxy, id) = session;
        let mut stream = Stream::unattached(bus, id, String::new());
        stream.asked = true;
        stream.pipe = Some(receiver(proxy.send(content, options).await?)?);
        Ok(stream)
    }

    /// Reads the running turn, from behind the event `after`; empty: from its beginning.
    pub(crate) async fn follow(bus: &Bus, session: &str, after: String) -> Result<Self, Failure> {
        let mut stream = Stream::unattached(bus, session, after);
        stream.pipe = Some(stream.attach().await?);
        Ok(stream)
    }

    fn unattached(bus: &Bus, session: &str, last: String) -> Self {
        Stream {
            bus: bus.clone(),
            session: session.into(),
            pipe: None,
            parser: Parser::default(),
            ready: VecDeque::new(),
            last,
            over: false,
            fruitless: 0,
            asked: false,
        }
    }

    /// The next event; `None` behind `done`. Dropping the future loses no event.
    pub(crate) async fn next(&mut self) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last.clone_from(&event.id);
                self.over |= event.name == "done";
                return Ok(Some(event));
            }
            if self.over {
                return Ok(None);
            }
            match &mut self.pipe {
                Some(pipe) => {
                    let mut piece = Vec::with_capacity(PIECE);
                    // A pipe that fails is as much at its end as one that is closed.
                    match pipe.read_buf(&mut piece).await {
                        Ok(1..) => self.take(&piece)?,
                        _ => self.pipe = None,
                    }
                }
                None => self.attach_again().await?,
            }
        }
    }

    fn take(&mut self, piece: &[u8]) -> Result<(), Failure> {
        let events = self.parser.push(piece).map_err(|error| Failure::Failed(error.to_string()))?;
        self.fruitless = if events.is_empty() { self.fruitless } else { 0 };
        self.ready.extend(events);
        Ok(())
    }

    /// Follows the turn from the last event seen, once the daemon is there.
    async fn attach_again(&mut self) -> Result<(), Failure> {
        if self.fruitless == FRUITLESS && !self.asked {
            self.over = true;
            return Ok(());
        }
        if self.asked && self.last.is_empty() {
            return Err(Failure::Failed(format!(
                "ashd went away before it said that it has the message; \
                 see `ashctl session messages {}`",
                self.session
            )));
        }
        if self.fruitless == FRUITLESS {
            return Err(Failure::Failed("the stream breaks off again and again".into()));
        }
        self.fruitless += 1;
        self.bus.wait_for_daemon().await?;
        match self.attach().await {
            Ok(pipe) => (self.parser, self.pipe) = (Parser::default(), Some(pipe)),
            // It has gone again in between: one more fruitless round.
            Err(Failure::Absent(_)) => {}
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    async fn attach(&self) -> Result<Receiver, Failure> {
        let (session, _) = self.bus.session(&self.session).await?;
        let options = FollowOptions {
            after: (!self.last.is_empty()).then(|| self.last.clone()),
            include_partial_messages: Some(true),
            until_done: Some(true),
        };
        receiver(session.follow(options).await?)
    }
}
