//! `ashctl chat`.

use std::fs::DirBuilder;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ash_dbus::SessionProxy;
use ash_dbus::value::SessionInfo;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{
    Cmd, ConditionalEventHandler, Editor, Event, EventContext, EventHandler, KeyEvent, Movement,
    RepeatCount,
};

use super::Context;
use super::turn::Talk;
use crate::bus::Bus;
use crate::cli::Chat;
use crate::failure::Failure;
use crate::out;
use crate::show::Show;

pub(super) async fn run(context: Context, options: Chat) -> Result<(), Failure> {
    let message = match options.message.clone() {
        None if !io::stdin().is_terminal() => Some(piped()?),
        message => message,
    };
    let (session, info) = session(&context.bus, &options).await?;
    let show = Show::new(context.out, context.as_json);
    let mut talk = Talk::new(context.bus, (session.clone(), info.id.clone()), show)?;
    out::aside(&format!("Session: {}", info.id));
    let talked = match message {
        Some(message) => talk.turn(&message, "queue").await,
        None => converse(&mut talk).await,
    };
    if options.end {
        session.end().await?;
    }
    talked
}

/// The message from standard input.
fn piped() -> Result<String, Failure> {
    let mut message = String::new();
    match io::stdin().read_to_string(&mut message) {
        Ok(_) if message.trim().is_empty() => {
            Err(Failure::Usage("give a message, as an argument or on standard input".into()))
        }
        Ok(_) => Ok(message),
        Err(error) => Err(Failure::Usage(format!("standard input cannot be read: {error}"))),
    }
}

/// The session to talk to: a new one, or the one that was named, woken up if need be.
async fn session(
    bus: &Bus,
    options: &Chat,
) -> Result<(SessionProxy<'static>, SessionInfo), Failure> {
    let Some(id) = &options.session else {
        let (_, id) = bus.manager.create_session(&options.agent, "").await?;
        return bus.session(&id).await;
    };
    let (session, info) = bus.session(id).await?;
    if info.agent_name != options.agent {
        let (id, agent) = (info.id, info.agent_name);
        return Err(Failure::Usage(format!("session {id} belongs to agent {agent}")));
    }
    let info = match info.status.as_str() {
        "paused" | "stopped" | "error" => session.resume().await?,
        _ => info,
    };
    Ok((session, info))
}

/// Line by line, until the user leaves.
async fn converse(talk: &mut Talk) -> Result<(), Failure> {
    let history = history_file();
    loop {
        let history = history.clone();
        let line = tokio::task::spawn_blocking(move || line(history.as_deref())).await;
        let Some(line) = line.map_err(|error| Failure::Failed(error.to_string()))?? else {
            return Ok(());
        };
        if line.trim().is_empty() {
            continue;
        }
        talk.forget_ctrl_c();
        match talk.turn(&line, "queue").await {
            Ok(()) | Err(Failure::Interrupted) => {}
            // The conversation goes on after a turn that failed.
            Err(failure @ (Failure::Failed(_) | Failure::Refused(_))) => out::complain(&failure),
            Err(failure) => return Err(failure),
        }
    }
}

/// Reads a line; `None` when the user leaves.
///
/// The editor lives for one line only: as long as it lives, it keeps Ctrl-C from us.
fn line(history: Option<&Path>) -> Result<Option<String>, Failure> {
    let unusable = |error| Failure::Failed(format!("the terminal cannot be used: {error}"));
    let mut editor: Editor<(), FileHistory> = Editor::new().map_err(unusable)?;
    editor.bind_sequence(KeyEvent::ctrl('C'), EventHandler::Conditional(Box::new(CtrlC)));
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
