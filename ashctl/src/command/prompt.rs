//! The prompt of a conversation: a line editor on the terminal, which is as it was on every way out.
//!
//! The editor lives for one line only: as long as it lives, it keeps Ctrl-C from us. It changes the
//! terminal, and gives it back when the line is done. When the program is told to end meanwhile, nobody
//! can wake the thread that waits for a key: then the terminal is given back for it.

use std::fs::DirBuilder;
use std::io::{self, Write, stdin};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::termios::{OptionalActions, Termios, tcgetattr};
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{
    Cmd, ConditionalEventHandler, Context, Editor, Event, EventContext, EventHandler, Helper,
    KeyEvent, Modifiers, Movement, RepeatCount,
};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::sleep;

use crate::ending::{Ending, give_back};
use crate::failure::Failure;

/// How long the editor may take to begin. On a terminal that can do too little for it, it never does.
const BEGINNING: Duration = Duration::from_secs(1);

/// Ends what the editor asks of a terminal beside its settings (that what is pasted is marked), and
/// the line.
const LEFT: &str = "\u{1b}[?2004l\n";

/// Where a person types.
pub(super) struct Prompt {
    ending: Ending,
    /// The terminal's settings while nobody edits a line.
    before: Option<Termios>,
    history: Option<PathBuf>,
}

impl Prompt {
    /// From now on the program ends when it is told to only where that is waited for: see
    /// [`unless_told_to_end`](Self::unless_told_to_end).
    ///
    /// # Errors
    /// When signals cannot be received.
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Prompt {
            ending: Ending::told()?,
            before: tcgetattr(stdin()).ok(),
            history: history_file(),
        })
    }

    /// Reads a line; `None` when the user leaves.
    ///
    /// # Errors
    /// When the terminal cannot be used, or the program is told to end.
    pub(super) async fn line(&mut self) -> Result<Option<String>, Failure> {
        let (begun, history) = (Arc::new(Notify::new()), self.history.clone());
        let begins = Begins(begun.clone());
        let mut editing = spawn_blocking(move || line(begins, history.as_deref()));
        let line = tokio::select! {
            line = &mut editing => Some(line),
            () = self.ending.comes() => None,
        };
        let Some(line) = line else {
            self.give_back(&begun, &mut editing).await;
            return Err(Failure::Interrupted);
        };
        line.map_err(|error| Failure::Failed(error.to_string()))?
    }

    /// Waits for something that leaves the terminal as it is.
    ///
    /// # Errors
    /// When the program is told to end.
    pub(super) async fn unless_told_to_end<T>(
        &mut self,
        what: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        self.ending.unless(what).await
    }

    /// Gives the terminal back while somebody edits. Not before the editor has begun: it would change
    /// the terminal behind us.
    async fn give_back<T>(&self, begun: &Notify, editing: &mut JoinHandle<T>) {
        tokio::select! {
            () = begun.notified() => {}
            // It has given it back.
            _ = editing => return,
            () = sleep(BEGINNING) => {}
        }
        if self.before.as_ref().is_some_and(|before| give_back(before, OptionalActions::Now)) {
            let mut screen = io::stdout();
            let _ = screen.write_all(LEFT.as_bytes()).and_then(|()| screen.flush());
        }
    }
}

/// Reads a line with the editor, on a thread that may block.
fn line(begins: Begins, history: Option<&Path>) -> Result<Option<String>, Failure> {
    let unusable = |error| Failure::Failed(format!("the terminal cannot be used: {error}"));
    let mut editor: Editor<Begins, FileHistory> = Editor::new().map_err(unusable)?;
    editor.set_helper(Some(begins));
    editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(CtrlC)));
    // There is nothing to complete.
    editor.bind_sequence(KeyEvent::new('\t', Modifiers::NONE), Cmd::Noop);
    if let Some(path) = history {
        // There is none yet, or it is lost: then it begins anew.
        let _ = editor.load_history(path);
    }
    let line = match editor.readline("> ") {
        Ok(line) => line,
        Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(None),
        Err(error) => return Err(unusable(error)),
    };
    if let (Ok(true), Some(path)) = (editor.add_history_entry(&line), history) {
        // A history that cannot be kept must not spoil the conversation.
        let _ = editor.append_history(path);
    }
    Ok(Some(line))
}

/// Tells that the editor has begun: it asks for a hint with the first line that it shows, when it has
/// changed the terminal.
struct Begins(Arc<Notify>);

impl Hinter for Begins {
    type Hint = String;

    fn hint(&self, _line: &str, _at: usize, _context: &Context<'_>) -> Option<String> {
        self.0.notify_one();
        None
    }
}

impl Completer for Begins {
    type Candidate = String;
}

impl Highlighter for Begins {}

impl Validator for Begins {}

impl Helper for Begins {}

/// Ctrl-C empties a line; on an empty one it leaves.
struct CtrlC;

impl ConditionalEventHandler for CtrlC {
    fn handle(
        &self,
        _event: &Event,
        _count: RepeatCount,
        _positive: bool,
        context: &EventContext<'_>,
    ) -> Option<Cmd> {
        (!context.line().is_empty()).then_some(Cmd::Kill(Movement::WholeLine))
    }
}

/// `$XDG_STATE_HOME/ash/history`, its directory made.
fn history_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")))?;
    let directory = state.join("ash");
    DirBuilder::new().recursive(true).mode(0o700).create(&directory).ok()?;
    Some(directory.join("history"))
}
