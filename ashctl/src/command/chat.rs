//! `ashctl chat`.

use std::io::{self, IsTerminal, Read};

use ash_dbus::SessionProxy;
use ash_dbus::value::SessionInfo;

use super::Context;
use super::prompt::Prompt;
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
    let mut prompt = Prompt::new()?;
    while let Some(line) = prompt.line().await? {
        if line.trim().is_empty() {
            continue;
        }
        talk.forget_ctrl_c();
        match prompt.unless_told_to_end(talk.turn(&line, "queue")).await? {
            Ok(()) | Err(Failure::Interrupted) => {}
            // The conversation goes on after a turn that failed.
            Err(failure @ (Failure::Failed(_) | Failure::Refused(_))) => out::complain(&failure),
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}
