//! The object of a session.

use std::sync::Arc;

use ash_dbus::Error;
use ash_dbus::value::{CheckpointInfo, Event, FollowOptions, LogLine, Message, SessionInfo, Usage};
use zbus::zvariant::{OwnedFd, OwnedObjectPath};
use zbus::{Connection, fdo};

use super::objects::{Desk, agent_path, behind, session_path};
use super::pipe::{self, Outlet, Outlets};
use super::{parse, words};
use crate::domain::{EventKind, ExecRequest, NewEvent, SessionId};
use crate::session::EventRange;
use crate::session::SessionView;
use crate::session::api::Refusal;

/// `org.ashd.Ash1.Session`.
pub(super) struct Session {
    /// What it stands on.
    pub(super) desk: Arc<Desk>,
    /// Which session it is.
    pub(super) id: SessionId,
}

type Result<T> = std::result::Result<T, Error>;

fn told(changed: std::result::Result<Arc<SessionView>, Refusal>) -> Result<SessionInfo> {
    changed.map(|view| words::session(&view.session)).map_err(words::refused)
}

/// A pipe, and the end of it that the caller gets. What a call begins cannot be taken back, so its pipes
/// are made before it is begun.
fn outlet() -> Result<(Outlet, OwnedFd)> {
    let no_pipe = |error| {
        Error::Failed(format!(
            "no pipe can be made, and nothing was begun: {error}; try again later"
        ))
    };
    let (outlet, reader) = Outlet::new().map_err(no_pipe)?;
    Ok((outlet, reader.into()))
}

/// The pipes of a command: where its output goes, and the ends of them that the caller gets.
fn outlets() -> Result<(Outlets, (OwnedFd, OwnedFd, OwnedFd))> {
    let (stdout, out) = outlet()?;
    let (stderr, err) = outlet()?;
    let (status, end) = outlet()?;
    Ok((Outlets { stdout, stderr, status }, (out, err, end)))
}

impl Session {
    async fn now(&self) -> fdo::Result<Arc<SessionView>> {
        let found = self.desk.service.session(&self.desk.caller, self.id).await;
        found.map_err(|refusal| fdo::Error::Failed(words::refused(refusal).to_string()))
    }

    async fn info(&self) -> fdo::Result<SessionInfo> {
        Ok(words::session(&self.now().await?.session))
    }

    async fn history(&self, after: u64, limit: u32, kinds: &[EventKind]) -> Result<Vec<NewEvent>> {
        let range =
            EventRange { after, limit: parse::limit(limit)?, kinds: kinds.to_vec(), undone: false };
        let events = self.desk.service.history(&self.desk.caller, self.id, range).await;
        events.map_err(words::refused)
    }
}

#[zbus::interface(name = "org.ashd.Ash1.Session", introspection_docs = false)]
impl Session {
    #[zbus(out_args("stream"))]
    async fn send(&self, content: &str, options: &str) -> Result<OwnedFd> {
        let (request, reading) = parse::message(content, options)?;
        let (outlet, stream) = outlet()?;
        let sent = self.desk.service.send(&self.desk.caller, self.id, request, reading).await;
        tokio::spawn(pipe::pour(sent.map_err(words::refused)?, outlet));
        Ok(stream)
    }

    #[zbus(out_args("stream"))]
    async fn follow(&self, options: FollowOptions) -> Result<OwnedFd> {
        let reading = parse::reading(&options)?;
        let (outlet, stream) = outlet()?;
        let followed = self.desk.service.follow(&self.desk.caller, self.id, reading).await;
        tokio::spawn(pipe::pour(followed.map_err(words::refused)?, outlet));
        Ok(stream)
    }

    #[zbus(out_args("interrupted"))]
    async fn interrupt(&self) -> Result<bool> {
        self.desk.service.interrupt(&self.desk.caller, self.id).await.map_err(words::refused)
    }

    #[zbus(out_args("stdout", "stderr", "status"))]
    async fn exec(&self, command: &str, timeout: u64) -> Result<(OwnedFd, OwnedFd, OwnedFd)> {
        let request = ExecRequest::new(command, (timeout != 0).then_some(timeout))?;
        let (outlets, ends) = outlets()?;
        let started = self.desk.service.exec_stream(&self.desk.caller, self.id, request).await;
        tokio::spawn(pipe::run(started.map_err(words::refused)?, outlets));
        Ok(ends)
    }

    #[zbus(out_args("info"))]
    async fn pause(&self) -> Result<SessionInfo> {
        told(self.desk.service.pause(&self.desk.caller, self.id).await)
    }

    #[zbus(out_args("info"))]
    async fn stop(&self) -> Result<SessionInfo> {
        told(self.desk.service.stop(&self.desk.caller, self.id).await)
    }

    #[zbus(out_args("info"))]
    async fn resume(&self) -> Result<SessionInfo> {
        told(self.desk.service.resume(&self.desk.caller, self.id).await)
    }

    #[zbus(out_args("info"))]
    async fn end(&self) -> Result<SessionInfo> {
        told(self.desk.service.end(&self.desk.caller, self.id, false).await)
    }

    #[zbus(out_args("info"))]
    async fn purge(&self) -> Result<SessionInfo> {
        told(self.desk.service.end(&self.desk.caller, self.id, true).await)
    }

    #[zbus(out_args("messages"))]
    async fn messages(&self, after: u64, limit: u32) -> Result<Vec<Message>> {
        let kinds = [EventKind::User, EventKind::Assistant];
        let events = self.history(after, limit, &kinds).await?;
        Ok(words::page(&events, |message: &Message| message.2.len(), words::message))
    }

    #[zbus(out_args("events"))]
    async fn events(&self, after: u64, limit: u32, kinds: Vec<String>) -> Result<Vec<Event>> {
        let events = self.history(after, limit, &parse::kinds(&kinds)?).await?;
        Ok(words::page(&events, |event: &Event| event.3.len(), words::event))
    }

    #[zbus(out_args("lines"))]
    async fn logs(&self, after: i64) -> Result<Vec<LogLine>> {
        let lines = self.desk.service.logs(&self.desk.caller, self.id, after).await;
        let lines = lines.map_err(words::refused)?;
        Ok(words::page(&lines, |line: &LogLine| line.2.len(), words::log_line))
    }

    #[zbus(out_args("info"))]
    async fn save(&self, name: &str) -> Result<CheckpointInfo> {
        let name = parse::point_name(name)?;
        let saved = self.desk.service.save(&self.desk.caller, self.id, name).await;
        saved.map(|point| words::checkpoint(&point)).map_err(words::refused)
    }

    #[zbus(out_args("checkpoints"))]
    async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>> {
        let points = self.desk.service.points(&self.desk.caller, self.id).await;
        let points = points.map_err(words::refused)?;
        Ok(points.iter().map(words::kept).collect())
    }

    async fn remove_checkpoint(&self, checkpoint: &str) -> Result<()> {
        let which = parse::which(checkpoint)?;
        let removed = self.desk.service.remove_point(&self.desk.caller, self.id, which).await;
        removed.map_err(words::refused)
    }

    #[zbus(out_args("info"))]
    async fn restore(&self, checkpoint: &str) -> Result<SessionInfo> {
        let which = parse::which(checkpoint)?;
        told(self.desk.service.go_back(&self.desk.caller, self.id, which).await)
    }

    #[zbus(out_args("info"))]
    async fn rewind(&self, before: u64) -> Result<SessionInfo> {
        told(self.desk.service.rewind(&self.desk.caller, self.id, before).await)
    }

    #[zbus(out_args("path", "id"))]
    async fn fork(
        &self,
        checkpoint: &str,
        #[zbus(connection)] bus: &Connection,
    ) -> Result<(OwnedObjectPath, String)> {
        let from = (!checkpoint.is_empty()).then(|| parse::which(checkpoint)).transpose()?;
        let forked = self.desk.service.fork(&self.desk.caller, self.id, from).await;
        let id = forked.map_err(words::refused)?.session.id;
        self.desk.sync_session(bus, id).await.map_err(behind)?;
        Ok((session_path(id)?, id.to_string()))
    }

    #[zbus(out_args("usage"))]
    async fn usage(&self) -> Result<Usage> {
        let usage = self.desk.service.usage(&self.desk.caller, self.id).await;
        usage.map(words::usage).map_err(words::refused)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn id(&self) -> String {
        self.id.to_string()
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn agent(&self) -> fdo::Result<OwnedObjectPath> {
        let view = self.now().await?;
        agent_path(&view.session.agent).map_err(|error| fdo::Error::Failed(error.to_string()))
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn agent_version(&self) -> fdo::Result<u32> {
        Ok(self.now().await?.session.agent_version)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn tenant(&self) -> fdo::Result<String> {
        Ok(self.info().await?.tenant)
    }

    #[zbus(property)]
    async fn cli_version(&self) -> fdo::Result<String> {
        Ok(self.info().await?.cli_version)
    }

    #[zbus(property)]
    async fn last_error(&self) -> fdo::Result<String> {
        Ok(self.info().await?.last_error)
    }

    #[zbus(property)]
    async fn status(&self) -> fdo::Result<String> {
        Ok(self.now().await?.session.status.to_string())
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn model(&self) -> fdo::Result<String> {
        Ok(self.info().await?.model)
    }

    #[zbus(property)]
    async fn turn(&self) -> fdo::Result<String> {
        Ok(self.info().await?.turn)
    }

    #[zbus(property)]
    async fn last_seq(&self) -> fdo::Result<u64> {
        Ok(self.now().await?.session.last_seq)
    }

    #[zbus(property(emits_changed_signal = "const"))]
    async fn created_at(&self) -> fdo::Result<String> {
        Ok(self.now().await?.session.created_at.to_string())
    }

    #[zbus(property)]
    async fn last_active_at(&self) -> fdo::Result<String> {
        Ok(self.now().await?.session.last_active_at.to_string())
    }
}
