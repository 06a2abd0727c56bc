//! What a user can do, whichever way.

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::PATIENCE;
use crate::sse::{Frame, Id};

/// How a command ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Exec {
    /// Its exit code.
    pub code: i64,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// The verbs.
pub trait Client {
    /// Deploys a folder; returns the version.
    ///
    /// # Errors
    /// When it is refused. So with all verbs.
    fn deploy(&self, agent: &str, folder: &Path) -> Result<u64>;

    /// Makes a session; `settings` as in the body of the HTTP request, without the agent.
    fn create(&self, agent: &str, settings: Value) -> Result<String>;

    /// Sends a message, partial messages included; `message` as in the body of the HTTP request.
    fn send(&self, session: &str, message: Value) -> Result<Turn>;

    /// Follows a session behind a frame, to the end of the running turn.
    fn follow(&self, session: &str, after: Option<Id>) -> Result<Turn>;

    /// Interrupts; false if nothing was running.
    fn interrupt(&self, session: &str) -> Result<bool>;

    /// Runs a command.
    fn exec(&self, session: &str, command: &str) -> Result<Exec>;

    /// `pause`, `stop`, `resume` or `end`; returns the new status.
    fn turn_to(&self, session: &str, verb: &str) -> Result<String>;

    /// The session's status.
    fn status(&self, session: &str) -> Result<String>;

    /// The texts of the session's messages, with their roles.
    fn messages(&self, session: &str) -> Result<Vec<(String, Value)>>;
}

/// Hangs up.
type Cut = Box<dyn FnOnce() + Send>;

/// A stream of frames, and those seen so far.
pub struct Turn {
    frames: Receiver<Result<Frame>>,
    cut: Option<Cut>,
    /// What was read.
    pub seen: Vec<Frame>,
}

impl Turn {
    /// Reads frames on a thread of its own, so that waiting for one can be given up.
    pub(crate) fn read(
        mut next: impl FnMut() -> Result<Option<Frame>> + Send + 'static,
        cut: impl FnOnce() + Send + 'static,
    ) -> Turn {
        // A reader that lags holds up the stream, as a socket's buffer would.
        let (sender, frames) = sync_channel(64);
        std::thread::spawn(move || {
            while let Some(frame) = next().transpose() {
                let failed = frame.is_err();
                if sender.send(frame).is_err() || failed {
                    return;
                }
            }
        });
        Turn { frames, cut: Some(Box::new(cut)), seen: vec![] }
    }

    /// The next frame; `None` at the stream's end.
    ///
    /// # Errors
    /// When the stream breaks, or nothing comes for a minute.
    #[expect(clippy::should_implement_trait, reason = "an iterator cannot lend what it keeps")]
    pub fn next(&mut self) -> Result<Option<&Frame>> {
        match self.frames.recv_timeout(PATIENCE) {
            Ok(frame) => {
                self.seen.push(frame?);
                Ok(self.seen.last())
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!("no frame for a minute behind {:?}", self.seen.last().map(|f| &f.raw))
            }
        }
    }

    /// Reads up to and including the first frame that is wanted.
    ///
    /// # Errors
    /// When the stream ends before.
    pub fn until(&mut self, wanted: impl Fn(&Frame) -> bool) -> Result<&Frame> {
        while let Some(frame) = self.next()? {
            if wanted(frame) {
                return self.seen.last().context("just pushed");
            }
        }
        bail!("the stream ended behind {:?}", self.seen.last().map(|frame| &frame.raw))
    }

    /// Reads up to and including the frame of this name.
    ///
    /// # Errors
    /// When the stream ends before.
    pub fn until_named(&mut self, name: &str) -> Result<&Frame> {
        self.until(|frame| frame.name == name)
    }

    /// Reads so many text deltas more.
    ///
    /// # Errors
    /// When the stream ends before.
    pub fn deltas(&mut self, count: usize) -> Result<()> {
        for _ in 0..count {
            self.until_named("text_delta")?;
        }
        Ok(())
    }

    /// Reads to the end, which must be a `done`.
    ///
    /// # Errors
    /// When it is not.
    pub fn to_end(mut self) -> Result<Turn> {
        while self.next()?.is_some() {}
        match self.seen.last() {
            Some(last) if last.name == "done" => Ok(self),
            last => bail!("the stream ended without done, behind {:?}", last.map(|f| &f.raw)),
        }
    }

    /// Hangs up; what has been seen stays.
    pub fn cut(&mut self) {
        if let Some(cut) = self.cut.take() {
            cut();
        }
    }

    /// The id of the last frame that has one.
    ///
    /// # Errors
    /// When none has.
    pub fn last_id(&self) -> Result<Id> {
        self.seen.iter().rev().find_map(|frame| frame.id).context("no frame with an id was seen")
    }

    /// All text deltas together.
    pub fn deltas_text(&self) -> String {
        deltas_text(&self.seen)
    }

    /// The turn's result; empty without one.
    pub fn text(&self) -> String {
        let result = self.named("turn_complete").last().map(|frame| frame.data["result"].clone());
        result.and_then(|result| result.as_str().map(str::to_owned)).unwrap_or_default()
    }

    /// The texts of errors.
    pub fn errors(&self) -> Vec<String> {
        self.named("error").map(|f| f.data["error"].as_str().unwrap_or_default().into()).collect()
    }

    /// The frames with this name.
    pub fn named(&self, name: &str) -> impl DoubleEndedIterator<Item = &Frame> {
        self.seen.iter().filter(move |frame| frame.name == name)
    }

    /// Every byte that was seen.
    pub fn raw(&self) -> String {
        self.seen.iter().map(|frame| frame.raw.as_str()).collect()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.cut();
    }
}

/// All text deltas together.
pub(crate) fn deltas_text(frames: &[Frame]) -> String {
    let deltas = frames.iter().filter(|frame| frame.name == "text_delta");
    deltas.filter_map(|frame| frame.data["delta"].as_str()).collect()
}
