//! The first agent, and its first answer.

use std::fs::File;
use std::io;

use ash_dbus::SessionProxy;
use ash_dbus::value::DeployOptions;
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;
use zbus::zvariant::Fd;

use super::turn::Talk;
use crate::bus::Bus;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::out::Out;
use crate::show::Show;

/// The agent that is deployed when there is none of this name.
const NAME: &str = "hello";
const CLAUDE: &str = include_str!("../../../examples/hello/CLAUDE.md");

/// What it is asked.
const QUESTION: &str = "Hello! What are you for?";

/// Deploys the agent unless it is there, and prints its answer to a question.
pub(crate) async fn first_answer(bus: &Bus, as_json: bool) -> Result<(), Failure> {
    let mut out = Out::stdout();
    let begun = begun(bus, &mut out, as_json);
    let (session, id) = Ending::told_or_interrupted()?.unless(begun).await??;
    let mut talk = Talk::new(bus.clone(), (session.clone(), id), Show::new(out, as_json))?;
    // Ctrl-C interrupts the turn.
    let answered = Ending::told()?.unless(talk.turn(QUESTION, "queue")).await.flatten();
    session.end().await?;
    answered.map_err(|failure| match failure {
        Failure::Failed(why) => Failure::Failed(format!(
            "there is no answer: {why}; `ashctl logs` says more, and `ashctl setup` takes another \
             key"
        )),
        failure => failure,
    })
}

/// Deploys the agent if need be, and makes a session of it.
async fn begun(
    bus: &Bus,
    out: &mut Out,
    as_json: bool,
) -> Result<(SessionProxy<'static>, String), Failure> {
    let agents = bus.manager.list_agents().await?;
    let is_there = agents.iter().any(|agent| agent.name == NAME);
    if !is_there {
        deploy(bus).await?;
    }
    let done = if is_there { "is there already" } else { "is deployed" };
    match as_json {
        true => out.line(&json!({"step": "agent", "name": NAME, "changed": !is_there}).to_string()),
        false => out.line(&format!("Agent: {NAME} {done}\n\n> {QUESTION}")),
    }?;
    let (_, id) = bus.manager.create_session(NAME, "").await?;
    let (session, _) = bus.session(&id).await?;
    Ok((session, id))
}

async fn deploy(bus: &Bus) -> Result<(), Failure> {
    let no_pipe = |error: io::Error| Failure::Failed(format!("no pipe can be made: {error}"));
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| no_pipe(error.into()))?;
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(CLAUDE.len() as u64);
    // All of it fits into the pipe.
    let mut archive = tar::Builder::new(File::from(writer));
    archive.append_data(&mut header, "CLAUDE.md", CLAUDE.as_bytes()).map_err(no_pipe)?;
    archive.into_inner().map(drop).map_err(no_pipe)?;
    bus.manager.deploy(NAME, Fd::from(&reader), DeployOptions::default()).await?;
    Ok(())
}
