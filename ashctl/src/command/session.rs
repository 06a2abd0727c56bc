//! `ashctl session`.

use std::time::Duration;

use ash_dbus::value::{Event, Message, SessionFilter, SessionInfo};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

use super::turn::Talk;
use super::{Context, checkpoint, exec, row};
use crate::cli::{Create, Events, List, Send, Session, WhenBusy};
use crate::failure::Failure;
use crate::json;
use crate::show::Show;
use crate::stream::Stream;

/// How often to ask for new log lines.
const LOG_INTERVAL: Duration = Duration::from_millis(500);
const PAGE: u32 = 1000;

pub(super) async fn run(mut context: Context, command: Session) -> Result<u8, Failure> {
    match command {
        Session::Create(options) => create(&mut context, options).await?,
        Session::Send(options) => send(context, options).await?,
        Session::Follow { id, after } => follow(context, &id.id, after).await?,
        Session::List(options) => list(&mut context, options).await?,
        Session::Info(id) => info(&mut context, &id.id).await?,
        Session::Pause(id) => {
            let (session, _) = context.bus.session(&id.id).await?;
            told(&mut context, session.pause().await)?;
        }
        Session::Stop(id) => {
            let (session, _) = context.bus.session(&id.id).await?;
            told(&mut context, session.stop().await)?;
        }
        Session::Resume(id) => {
            let (session, _) = context.bus.session(&id.id).await?;
            told(&mut context, session.resume().await)?;
        }
        Session::End { id, purge } => {
            let (session, _) = context.bus.session(&id.id).await?;
            let ended = match purge {
                true => context.person.call(session.inner(), "Purge", &()).await,
                false => session.end().await.map_err(Failure::from),
            };
            told(&mut context, ended)?;
        }
        Session::Interrupt(id) => interrupt(&mut context, &id.id).await?,
        Session::Exec { id, command, timeout } => {
            let (session, _) = context.bus.session(&id.id).await?;
            return exec::run(context, &session, &command, timeout).await;
        }
        Session::Fork { id, from } => fork(&mut context, &id.id, from).await?,
        Session::Import { id, from } => import(&mut context, &id, from).await?,
        Session::Checkpoint(command) => checkpoint::run(&mut context, command).await?,
        Session::Restore { id, checkpoint } => {
            let (session, _) = context.bus.session(&id.id).await?;
            let checkpoint = checkpoint::whole(&session, checkpoint).await?;
            told(&mut context, session.restore(&checkpoint).await)?;
        }
        Session::Rewind { id, message } => {
            let (session, _) = context.bus.session(&id.id).await?;
            told(&mut context, session.rewind(message).await)?;
        }
        Session::Logs { id, follow } => logs(&mut context, &id.id, follow).await?,
        Session::Messages { id, after, limit } => {
            messages(&mut context, &id.id, (after, limit)).await?;
        }
        Session::Events(options) => events(&mut context, options).await?,
    }
    Ok(0)
}

async fn create(context: &mut Context, options: Create) -> Result<(), Failure> {
    let settings = settings(&options)?.to_string();
    let (_, id) = context.bus.manager.create_session(&options.agent, &settings).await?;
    if context.as_json {
        let (_, info) = context.bus.session(&id).await?;
        context.document(&json::session(&info))?;
        return Ok(());
    }
    context.out.line(&id)
}

/// The settings as one JSON object; what has an option of its own wins.
fn settings(options: &Create) -> Result<Value, Failure> {
    let wrong = || Failure::Usage("--settings must be a JSON object".into());
    let given = options.settings.as_deref().unwrap_or("{}");
    let mut settings: Map<String, Value> = serde_json::from_str(given).map_err(|_| wrong())?;
    if let Some(model) = &options.model {
        settings.insert("model".into(), json!(model));
    }
    if !options.env.is_empty() {
        let env = settings.entry("extraEnv").or_insert_with(|| json!({}));
        let env = env.as_object_mut().ok_or_else(wrong)?;
        env.extend(options.env.iter().map(|(name, value)| (name.clone(), json!(value))));
    }
    Ok(settings.into())
}

async fn send(context: Context, options: Send) -> Result<(), Failure> {
    let (session, info) = context.bus.session(&options.id.id).await?;
    let show = Show::new(context.out, context.as_json);
    let when_busy = match options.when_busy {
        WhenBusy::Queue => "queue",
        WhenBusy::Reject => "reject",
        WhenBusy::Interrupt => "interrupt",
    };
    Talk::new(context.bus, (session, info.id), show)?.turn(&options.message, when_busy).await
}

async fn follow(context: Context, id: &str, after: Option<String>) -> Result<(), Failure> {
    // Once: when the daemon comes back, another session may begin like this, too.
    let id = context.bus.whole_id(id).await?;
    let mut show = Show::new(context.out, context.as_json);
    let mut stream = Stream::follow(&context.bus, &id, after.unwrap_or_default()).await?;
    while let Some(event) = stream.next().await? {
        show.event(&event)?;
    }
    show.end()
}

async fn list(context: &mut Context, options: List) -> Result<(), Failure> {
    let mut sessions = Vec::new();
    let most = options.limit.unwrap_or(usize::MAX);
    while sessions.len() < most {
        let filter = SessionFilter {
            agent: options.agent.clone(),
            status: options.status.clone(),
            limit: Some(PAGE.min(u32::try_from(most - sessions.len()).unwrap_or(PAGE))),
            offset: u32::try_from(sessions.len()).ok(),
        };
        let (page, _) = context.bus.manager.list_sessions(filter).await?;
        if page.is_empty() {
            break;
        }
        sessions.extend(page);
    }
    if context.document(&sessions.iter().map(json::session).collect::<Value>())? {
        return Ok(());
    }
    let mut rows = vec![["ID", "AGENT", "STATUS", "LAST ACTIVE"].map(String::from).to_vec()];
    rows.extend(sessions.into_iter().map(|session| {
        vec![session.id, session.agent_name, session.status, session.last_active_at]
    }));
    context.out.table(&rows)
}

async fn info(context: &mut Context, id: &str) -> Result<(), Failure> {
    let (session, info) = context.bus.session(id).await?;
    let usage = session.usage().await?;
    let mut document = json::session(&info);
    document["usage"] = json::usage(&usage);
    let points = session.checkpoints().await?;
    let damaged = points.iter().filter(|point| !point.damage.is_empty()).count();
    document["damagedCheckpoints"] = damaged.into();
    if context.document(&document)? {
        return Ok(());
    }
    let mut rows = vec![
        row("id", &info.id),
        row("agent", format!("{}, version {}", info.agent_name, info.agent_version)),
        row("status", &info.status),
        row("model", if info.model.is_empty() { &usage.model } else { &info.model }),
        row("turn", if info.turn.is_empty() { "none is running" } else { &info.turn }),
        row("created", &info.created_at),
        row("last active", &info.last_active_at),
        row("tokens", format!("{} in, {} out", usage.input_tokens, usage.output_tokens)),
        row("cost", format!("{:.4} USD", usage.cost_usd)),
    ];
    if !info.cli_version.is_empty() {
        rows.insert(2, row("made with", format!("Claude Code {}", info.cli_version)));
    }
    if !info.last_error.is_empty() {
        rows.push(row("last error", &info.last_error));
    }
    if damaged > 0 {
        rows.push(row("damaged", format!("{damaged} checkpoints; `checkpoint list` says which")));
    }
    context.out.table(&rows)
}

fn told<E>(context: &mut Context, changed: Result<SessionInfo, E>) -> Result<(), Failure>
where
    Failure: From<E>,
{
    let info = changed?;
    if context.document(&json::session(&info))? {
        return Ok(());
    }
    context.out.line(&format!("Session {} is {}", info.id, info.status))
}

async fn fork(context: &mut Context, id: &str, from: Option<String>) -> Result<(), Failure> {
    let (session, _) = context.bus.session(id).await?;
    let from = match from {
        Some(checkpoint) => checkpoint::whole(&session, checkpoint).await?,
        None => String::new(),
    };
    let (_, id) = session.fork(&from).await?;
    if context.as_json {
        let (_, info) = context.bus.session(&id).await?;
        context.document(&json::session(&info))?;
        return Ok(());
    }
    context.out.line(&id)
}

async fn import(context: &mut Context, id: &str, from: Option<String>) -> Result<(), Failure> {
    let (_, id) = context.bus.manager.import_session(id, &from.unwrap_or_default()).await?;
    if context.as_json {
        let (_, info) = context.bus.session(&id).await?;
        context.document(&json::session(&info))?;
        return Ok(());
    }
    context.out.line(&id)
}

async fn interrupt(context: &mut Context, id: &str) -> Result<(), Failure> {
    let (session, _) = context.bus.session(id).await?;
    let interrupted = session.interrupt().await?;
    if context.document(&json!({"interrupted": interrupted}))? {
        return Ok(());
    }
    context.out.line(if interrupted { "Interrupted the turn" } else { "No turn is running" })
}

async fn logs(context: &mut Context, id: &str, follow: bool) -> Result<(), Failure> {
    let (session, _) = context.bus.session(id).await?;
    let mut after = -1;
    loop {
        let lines = session.logs(after).await?;
        for line in &lines {
            after = i64::try_from(line.0).unwrap_or(i64::MAX);
            match context.as_json {
                true => context.out.line(&json::log_line(line).to_string())?,
                false => context.out.line(&format!("{} {} {}", line.3, line.1, line.2))?,
            }
        }
        match (lines.is_empty(), follow) {
            (false, _) => {}
            (true, true) => sleep(LOG_INTERVAL).await,
            (true, false) => return Ok(()),
        }
    }
}

async fn messages(
    context: &mut Context,
    id: &str,
    (mut after, limit): (u64, Option<usize>),
) -> Result<(), Failure> {
    let (session, _) = context.bus.session(id).await?;
    let mut left = limit.unwrap_or(usize::MAX);
    let mut kept = Vec::new();
    while left > 0 {
        let limit = PAGE.min(u32::try_from(left).unwrap_or(PAGE));
        let page = session.messages(after, limit).await?;
        let Some(last) = page.last() else { break };
        after = last.0;
        left -= page.len().min(left);
        match context.as_json {
            true => kept.extend(page.iter().map(json::message)),
            false => page.iter().try_for_each(|message| show(context, message))?,
        }
    }
    context.document(&Value::from(kept)).map(|_| ())
}

fn show(context: &mut Context, message: &Message) -> Result<(), Failure> {
    let (seq, role, content, at) = message;
    context.out.line(&format!("--- {seq} {role} {at}"))?;
    context.out.line(&readable(&json::parsed(content)))
}

async fn events(context: &mut Context, options: Events) -> Result<(), Failure> {
    let (session, _) = context.bus.session(&options.id.id).await?;
    let kinds: Vec<&str> = options.kind.iter().map(String::as_str).collect();
    let (mut after, mut left) = (options.after, options.limit.unwrap_or(usize::MAX));
    let mut kept = Vec::new();
    while left > 0 {
        let limit = PAGE.min(u32::try_from(left).unwrap_or(PAGE));
        let page = session.events(after, limit, &kinds).await?;
        let Some(last) = page.last() else { break };
        after = last.0;
        left -= page.len().min(left);
        match context.as_json {
            true => kept.extend(page.iter().map(json::event)),
            false => page.iter().try_for_each(|event| show_event(context, event))?,
        }
    }
    context.document(&Value::from(kept)).map(|_| ())
}

/// Messages as people read them, everything else as it is.
fn show_event(context: &mut Context, event: &Event) -> Result<(), Failure> {
    let (seq, kind, _, body, at) = event;
    context.out.line(&format!("--- {seq} {kind} {at}"))?;
    match kind.as_str() {
        "user" | "assistant" => context.out.line(&readable(&json::parsed(body))),
        _ => context.out.line(body),
    }
}

/// The text of a message, tool calls as short lines.
fn readable(message: &Value) -> String {
    let content = message.pointer("/message/content").unwrap_or(&message["content"]);
    if let Some(text) = content.as_str() {
        return text.to_owned();
    }
    let block = |block: &Value| match block["type"].as_str() {
        Some("text" | "thinking") => {
            block["text"].as_str().or(block["thinking"].as_str()).unwrap_or_default().to_owned()
        }
        Some("tool_use") => {
            format!("• {} {}", block["name"].as_str().unwrap_or("tool"), block["input"])
        }
        other => format!("[{}]", other.unwrap_or("unknown")),
    };
    content.as_array().into_iter().flatten().map(block).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_merged() {
        let options = |settings: &str| Create {
            agent: "a".into(),
            model: Some("m".into()),
            env: vec![("K".into(), "v".into())],
            settings: Some(settings.into()),
        };
        assert_eq!(
            settings(&options(r#"{"model":"other","extraEnv":{"A":"b"}}"#)).unwrap(),
            json!({"model": "m", "extraEnv": {"A": "b", "K": "v"}})
        );
        for wrong in ["[]", "x", r#"{"extraEnv":1}"#] {
            assert_eq!(settings(&options(wrong)).unwrap_err().code(), 2, "{wrong}");
        }
    }

    #[test]
    fn messages_are_readable() {
        let user = json!({"type": "user", "content": "hello"});
        assert_eq!(readable(&user), "hello");
        let assistant = json!({"message": {"content": [
            {"type": "text", "text": "hi"},
            {"type": "tool_use", "name": "Bash", "input": {"command": "ls"}},
            {"type": "image"},
        ]}});
        assert_eq!(readable(&assistant), "hi\n• Bash {\"command\":\"ls\"}\n[image]");
    }
}
