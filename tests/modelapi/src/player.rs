//! Plays a script: sends the events of an answer at their time, or goes wrong as told.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;
use tokio::sync::mpsc::Sender;

use crate::compose::Composer;
use crate::content::Content;
use crate::routes::{State, error_body};
use crate::script::{Fault, FaultKind, Script, Step};

/// Frames are gathered up to this size while nobody has to see them at once.
const FLUSH_BYTES: usize = 16 * 1024;

/// Between the last delta and the end of the connection. Without it the CLI may learn of both at
/// once, and then takes the request for one that got no answer at all.
const CUT_PAUSE: Duration = Duration::from_millis(100);

/// A part of an answer on its way to the connection.
pub(crate) enum Part {
    /// The whole answer.
    Whole(Whole),
    /// Frames of a stream.
    Frames(Bytes),
    /// The connection is to be closed here.
    Cut,
}

/// An answer in one piece.
pub(crate) struct Whole {
    pub(crate) status: u16,
    pub(crate) retry_after: Option<String>,
    pub(crate) body: Value,
    /// Its message is to be the headers of the request.
    pub(crate) quotes: bool,
}

/// The answer went wrong as the script wanted, or its reader has gone.
struct Ended;

/// Plays a script until its end, or until nobody listens any more.
pub(crate) async fn play(state: Arc<State>, script: Script, out: Sender<Part>) {
    let player = Player::new(&state, &script, out.clone());
    tokio::select! {
        () = out.closed() => {}
        _ = player.run(&script.steps, &script.faults) => {}
    }
}

struct Player<'a> {
    state: &'a State,
    out: Sender<Part>,
    composer: Composer,
    stream: bool,
    /// Frames that were not sent yet.
    frames: BytesMut,
    deltas: u64,
    /// The fault that waits for its delta.
    fault: Option<FaultKind>,
}

impl<'a> Player<'a> {
    fn new(state: &'a State, script: &Script, out: Sender<Part>) -> Self {
        Self {
            state,
            out,
            composer: Composer::new(&script.model, script.usage),
            stream: script.stream,
            frames: BytesMut::new(),
            deltas: 0,
            fault: None,
        }
    }

    async fn run(mut self, steps: &[Step], faults: &[Fault]) -> Result<(), Ended> {
        self.fault =
            faults.iter().find(|fault| self.state.faults.spend(fault)).map(|f| f.kind.clone());
        if let Some(FaultKind::Status { code, retry_after, quotes }) = &self.fault {
            return self.refuse(*code, retry_after.clone(), *quotes).await;
        }
        for step in steps {
            self.step(step).await?;
        }
        if self.fault.is_some() {
            return self.trip().await;
        }
        self.finish(steps).await
    }

    async fn step(&mut self, step: &Step) -> Result<(), Ended> {
        match step {
            Step::Send(content) => self.send(content).await,
            Step::Tool { name, input } => {
                self.composer.tool(name, input);
                self.pump().await
            }
            Step::Silence(time) => {
                self.flush().await?;
                match time {
                    Some(time) => tokio::time::sleep(*time).await,
                    None => std::future::pending().await,
                }
                Ok(())
            }
            Step::Hold(name) => {
                self.flush().await?;
                self.state.gates.pass(name).await;
                Ok(())
            }
        }
    }

    async fn send(&mut self, content: &Content) -> Result<(), Ended> {
        self.composer.paragraph();
        for piece in content.pieces() {
            if content.delay() > Duration::ZERO {
                self.flush().await?;
                tokio::time::sleep(content.delay()).await;
            }
            match content {
                Content::Think(_) => self.composer.think(&piece),
                _ => self.composer.text(&piece),
            }
            self.pump().await?;
        }
        Ok(())
    }

    /// Takes over what the composer made.
    async fn pump(&mut self) -> Result<(), Ended> {
        for event in self.composer.take() {
            self.deltas += u64::from(event.is_delta());
            if self.stream {
                self.frame(event.name, &event.json);
            }
            if self.is_due() {
                return self.trip().await;
            }
        }
        if self.frames.len() >= FLUSH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    fn is_due(&self) -> bool {
        match self.fault {
            Some(FaultKind::Cut { after } | FaultKind::Event { after, .. }) => self.deltas >= after,
            _ => false,
        }
    }

    /// Lets the fault happen.
    async fn trip(&mut self) -> Result<(), Ended> {
        match self.fault.take() {
            Some(FaultKind::Event { error, .. }) if self.stream => {
                let body = error_body(&error, "the script asked for this error");
                self.frame("error", &body.to_string());
                self.flush().await?;
                Err(Ended)
            }
            Some(FaultKind::Event { error, .. }) => {
                self.refuse(status_of(&error), None, false).await
            }
            _ => {
                self.flush().await?;
                tokio::time::sleep(CUT_PAUSE).await;
                self.deliver(Part::Cut).await?;
                Err(Ended)
            }
        }
    }

    async fn refuse(
        &mut self,
        status: u16,
        retry_after: Option<String>,
        quotes: bool,
    ) -> Result<(), Ended> {
        let body = error_body(kind_of(status), "the script asked for this error");
        self.deliver(Part::Whole(Whole { status, retry_after, body, quotes })).await?;
        Err(Ended)
    }

    async fn finish(&mut self, steps: &[Step]) -> Result<(), Ended> {
        let asks = matches!(steps.last(), Some(Step::Tool { .. }));
        let stop_reason = if asks { "tool_use" } else { "end_turn" };
        self.composer.finish(stop_reason);
        self.pump().await?;
        if self.stream {
            return self.flush().await;
        }
        let body = self.composer.message(stop_reason);
        let whole = Whole { status: 200, retry_after: None, body, quotes: false };
        self.deliver(Part::Whole(whole)).await
    }

    fn frame(&mut self, name: &str, json: &str) {
        self.frames.reserve(name.len() + json.len() + 16);
        for part in ["event: ", name, "\ndata: ", json, "\n\n"] {
            self.frames.put_slice(part.as_bytes());
        }
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        if self.frames.is_empty() {
            return Ok(());
        }
        let frames = self.frames.split().freeze();
        self.deliver(Part::Frames(frames)).await
    }

    async fn deliver(&self, part: Part) -> Result<(), Ended> {
        self.out.send(part).await.map_err(|_| Ended)
    }
}

/// The API's name for an error status.
pub(crate) fn kind_of(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        529 => "overloaded_error",
        _ => "api_error",
    }
}

fn status_of(kind: &str) -> u16 {
    [400, 401, 403, 404, 413, 429, 529].into_iter().find(|s| kind_of(*s) == kind).unwrap_or(500)
}
