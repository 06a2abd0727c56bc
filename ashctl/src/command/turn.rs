//! One turn: a message out, the answer in; Ctrl-C interrupts it.

use ash_dbus::SessionProxy;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::bus::Bus;
use crate::failure::Failure;
use crate::show::Show;
use crate::sse::Event;
use crate::stream::Stream;

/// A session to talk to.
pub(super) struct Talk {
    bus: Bus,
    session: SessionProxy<'static>,
    id: String,
    show: Show,
    ctrl_c: Signal,
}

enum Next {
    Event(Option<Event>),
    CtrlC,
}

impl Talk {
    pub(super) fn new(
        bus: Bus,
        (session, id): (SessionProxy<'static>, String),
        show: Show,
    ) -> Result<Self, Failure> {
        let ctrl_c = signal(SignalKind::interrupt())
            .map_err(|error| Failure::Failed(format!("cannot listen for Ctrl-C: {error}")))?;
        Ok(Talk { bus, session, id, show, ctrl_c })
    }

    /// Sends a message and shows the answer, to its end. An interrupted turn is waited for; a
    /// second Ctrl-C leaves it alone.
    pub(super) async fn turn(&mut self, message: &str, when_busy: &str) -> Result<(), Failure> {
        let content = json!(message).to_string();
        let options = json!({"includePartialMessages": true, "whenBusy": when_busy}).to_string();
        let session = (&self.session, self.id.as_str());
        let mut stream = Stream::send(&self.bus, session, &content, &options).await?;
        let mut interrupted = false;
        loop {
            let next = tokio::select! {
                event = stream.next() => Next::Event(event?),
                _ = self.ctrl_c.recv() => Next::CtrlC,
            };
            match next {
                Next::Event(Some(event)) => self.show.event(&event)?,
                Next::Event(None) => break,
                Next::CtrlC if interrupted => break,
                Next::CtrlC => {
                    self.session.interrupt().await?;
                    interrupted = true;
                }
            }
        }
        match self.show.end() {
            Err(Failure::Failed(_)) | Ok(()) if interrupted => Err(Failure::Interrupted),
            ended => ended,
        }
    }
}
