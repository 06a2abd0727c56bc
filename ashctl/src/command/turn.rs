//! One turn: a message out, the answer in; Ctrl-C interrupts it.

use ash_dbus::SessionProxy;
use futures_util::FutureExt;
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

    /// Forgets that Ctrl-C was pressed: what was meant for a turn that is over interrupts none of those
    /// that come.
    pub(super) fn forget_ctrl_c(&mut self) {
        forget(&mut self.ctrl_c);
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

fn forget(pressed: &mut Signal) {
    while pressed.recv().now_or_never().is_some() {}
}

#[cfg(test)]
mod tests {
    use rustix::process::{self, getpid, kill_process};

    use super::*;

    #[tokio::test]
    async fn what_was_pressed_too_late_is_forgotten() {
        let listen = || signal(SignalKind::interrupt()).unwrap();
        let (mut late, mut other) = (listen(), listen());
        kill_process(getpid(), process::Signal::INT).unwrap();
        other.recv().await;
        forget(&mut late);
        assert!(late.recv().now_or_never().is_none());
        kill_process(getpid(), process::Signal::INT).unwrap();
        late.recv().await;
    }
}
