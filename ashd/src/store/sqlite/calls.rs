//! What a store does, each by the one or the few operations that it is here.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Sqlite, agents, attachments, copies, events, keys, open, points, purges, retention, sessions,
    tenants, unsynced, usage,
};
use crate::domain::{
    Agent, AgentId, AgentName, Attachment, AttachmentId, Event, EventKind, NewEvent, Point,
    PointId, Root, SandboxId, Session, SessionCounts, SessionId, Tenant, Timestamp, Which,
};
use crate::store::{
    Commit, Copying, EventRange, Key, Purged, PurgedCopy, Result, SessionFilter, Spared, Store,
    StoreError, Unsynced, Usage,
};

/// How long reads that are under way may go on when the database is closed: to look through all of a
/// large one takes minutes.
const PATIENCE: Duration = Duration::from_secs(5);

#[async_trait]
impl Store for Sqlite {
    async fn keys(&self) -> Result<Vec<Key>> {
        self.readers.read(keys::all).await
    }

    async fn add_key(&self, key: Key) -> Result<()> {
        self.writer.write(move |conn| keys::add(conn, &key)).await
    }

    async fn remove_key(&self, tenant: &Tenant, id: Uuid) -> Result<Option<Key>> {
        let tenant = tenant.clone();
        self.writer.write(move |conn| keys::remove(conn, &tenant, id)).await
    }

    async fn deploy(&self, agent: Agent) -> Result<Agent> {
        self.write_agents(move |conn| agents::deploy(conn, agent)).await
    }

    async fn change_agent(&self, agent: Agent) -> Result<bool> {
        self.write_agents(move |conn| agents::change(conn, &agent)).await
    }

    async fn agent(&self, tenant: &Tenant, name: &AgentName) -> Result<Option<Agent>> {
        let since = match self.agents.find(tenant, name) {
            Ok(agent) => return Ok(Some(agent)),
            Err(since) => since,
        };
        let (tenant, name) = (tenant.clone(), name.clone());
        let found = self.readers.read(move |conn| agents::find(conn, &tenant, &name)).await?;
        if let Some(agent) = &found {
            self.agents.keep(agent, since);
        }
        Ok(found)
    }

    async fn agents(&self, tenant: &Tenant) -> Result<Vec<Agent>> {
        let tenant = tenant.clone();
        self.readers.read(move |conn| agents::of_tenant(conn, &tenant)).await
    }

    async fn all_agents(&self) -> Result<Vec<Agent>> {
        self.readers.read(agents::all).await
    }

    async fn delete_agent(&self, tenant: &Tenant, name: &AgentName) -> Result<bool> {
        let (tenant, name) = (tenant.clone(), name.clone());
        self.write_agents(move |conn| agents::delete(conn, &tenant, &name)).await
    }

    async fn begin_session(
        &self,
        agent: AgentId,
        session: Session,
        events: Vec<NewEvent>,
    ) -> Result<bool> {
        let boot = self.boot.clone();
        self.writer
            .write(move |conn| sessions::begin(conn, agent, (&session, &boot), &events))
            .await
    }

    async fn create_session(&self, session: Session, events: Vec<NewEvent>) -> Result<()> {
        self.writer.write(move |conn| sessions::create(conn, &session, &events).map(drop)).await
    }

    async fn commit(&self, commit: Commit) -> Result<()> {
        let boot = self.boot.clone();
        self.writer.write(move |conn| sessions::commit(conn, (&commit, &boot))).await
    }

    async fn session(&self, id: SessionId) -> Result<Option<Session>> {
        self.readers.read(move |conn| sessions::find(conn, id)).await
    }

    async fn sessions(
        &self,
        tenant: &Tenant,
        filter: SessionFilter,
    ) -> Result<(Vec<Session>, u64)> {
        let tenant = tenant.clone();
        self.readers.read(move |conn| sessions::list(conn, &tenant, &filter)).await
    }

    async fn unended_sessions(&self) -> Result<Vec<Session>> {
        self.readers.read(sessions::unended).await
    }

    async fn unsaved_sessions(&self) -> Result<Vec<Session>> {
        self.readers.read(sessions::unsaved).await
    }

    async fn count_sessions(&self) -> Result<SessionCounts> {
        self.readers.read(sessions::count).await
    }

    async fn purge_session(&self, id: SessionId) -> Result<Option<Purged>> {
        let begun = self.writer.write(move |conn| purges::begin(conn, id)).await?;
        if let Some((_, true)) = begun {
            // It is purged, whatever becomes of this.
            let _ = self.finish_purges().await;
        }
        Ok(begun.map(|(purged, _)| purged))
    }

    async fn finish_purges(&self) -> Result<()> {
        while self.readers.read(purges::are_left).await? {
            self.writer.write(purges::go_on).await?;
        }
        Ok(())
    }

    async fn copy_events(&self, copying: Copying) -> Result<u64> {
        self.writer.write(move |conn| sessions::copy_events(conn, &copying)).await
    }

    async fn add_point(&self, point: Point, keep: u32) -> Result<()> {
        self.writer.write(move |conn| points::add(conn, &point, keep)).await
    }

    async fn points(&self, id: SessionId) -> Result<Vec<Point>> {
        self.readers.read(move |conn| points::of_session(conn, id)).await
    }

    async fn point(&self, id: SessionId, which: Which) -> Result<Option<Point>> {
        self.readers.read(move |conn| points::find(conn, id, &which)).await
    }

    async fn remove_point(&self, id: SessionId, point: PointId) -> Result<bool> {
        self.writer.write(move |conn| points::remove(conn, id, point)).await
    }

    async fn unname_point(&self, id: SessionId, point: PointId) -> Result<bool> {
        self.writer.write(move |conn| points::unname(conn, id, point)).await
    }

    async fn points_with(&self, tenant: &Tenant, root: Root) -> Result<Vec<Point>> {
        let tenant = tenant.clone();
        self.readers.read(move |conn| points::with(conn, &tenant, root)).await
    }

    async fn roots(&self, tenant: &Tenant) -> Result<Vec<Root>> {
        let tenant = tenant.clone();
        self.readers.read(move |conn| points::roots(conn, &tenant)).await
    }

    async fn note_unsynced(&self, id: SessionId, build: SandboxId) -> Result<()> {
        let boot = self.boot.clone();
        self.writer.write(move |conn| unsynced::note(conn, id, (&boot, build))).await
    }

    async fn unsynced_build(&self, id: SessionId) -> Result<Option<SandboxId>> {
        self.readers.read(move |conn| unsynced::build_of(conn, id)).await
    }

    async fn synced(&self, builds: Vec<(SessionId, SandboxId)>) -> Result<()> {
        self.write_each(builds, unsynced::synced).await
    }

    async fn doubt(&self, ids: Vec<SessionId>) -> Result<()> {
        let boot = self.boot.clone();
        self.write_each(ids, move |conn, ids| unsynced::doubt(conn, ids, &boot)).await
    }

    async fn at_rest(&self, sandboxes: Vec<(SessionId, SandboxId)>) -> Result<()> {
        self.write_each(sandboxes, unsynced::at_rest).await
    }

    async fn in_use(&self, ids: Vec<SessionId>) -> Result<()> {
        let boot = self.boot.clone();
        self.write_each(ids, move |conn, ids| unsynced::in_use(conn, ids, &boot)).await
    }

    async fn unsynced(&self) -> Result<Vec<Unsynced>> {
        let boot = self.boot.clone();
        self.readers.read(move |conn| unsynced::all(conn, &boot)).await
    }

    async fn unsynced_of(&self, id: SessionId) -> Result<Option<Unsynced>> {
        let boot = self.boot.clone();
        self.readers.read(move |conn| unsynced::one(conn, id, &boot)).await
    }

    async fn build_again(&self, id: SessionId, told: Option<NewEvent>) -> Result<()> {
        self.writer.write(move |conn| unsynced::build_again(conn, id, told)).await
    }

    async fn resting_sessions(&self, before: Timestamp, limit: u32) -> Result<Vec<SessionId>> {
        self.readers.read(move |conn| sessions::resting(conn, before, limit)).await
    }

    async fn put_away(&self, id: SessionId, point: PointId) -> Result<bool> {
        self.writer.write(move |conn| unsynced::put_away(conn, id, point)).await
    }

    async fn add_attachment(&self, attachment: Attachment, most: u32) -> Result<bool> {
        self.writer.write(move |conn| attachments::add(conn, &attachment, most)).await
    }

    async fn attachments(&self, id: SessionId) -> Result<Vec<Attachment>> {
        self.readers.read(move |conn| attachments::of_session(conn, id)).await
    }

    async fn all_attachments(&self) -> Result<Vec<Attachment>> {
        self.readers.read(attachments::all).await
    }

    async fn attachment(&self, id: AttachmentId) -> Result<Option<Attachment>> {
        self.readers.read(move |conn| attachments::find(conn, id)).await
    }

    async fn remove_attachment(&self, id: AttachmentId) -> Result<bool> {
        self.writer.write(move |conn| attachments::remove(conn, id)).await
    }

    async fn sessions_to_copy(&self) -> Result<Vec<SessionId>> {
        self.readers.read(copies::sessions).await
    }

    async fn points_to_copy(&self, id: SessionId) -> Result<Vec<Point>> {
        self.readers.read(move |conn| copies::points(conn, id)).await
    }

    async fn copied(&self, id: SessionId, point: Point, named: Vec<PointId>) -> Result<()> {
        self.writer.write(move |conn| copies::copied(conn, id, &point, &named)).await
    }

    async fn undone_at(&self, point: PointId) -> Result<Vec<(u64, u64)>> {
        self.readers.read(move |conn| Ok(points::ended(conn, point, None)?.undone)).await
    }

    async fn generation(&self, id: SessionId) -> Result<Option<u32>> {
        self.readers.read(move |conn| copies::generation(conn, id)).await
    }

    async fn note_claim(&self, id: SessionId) -> Result<()> {
        self.writer.write(move |conn| copies::note_claim(conn, id)).await
    }

    async fn set_generation(&self, id: SessionId, generation: u32) -> Result<()> {
        self.writer.write(move |conn| copies::set_generation(conn, id, generation)).await
    }

    async fn purged_copies(&self) -> Result<Vec<SessionId>> {
        self.readers.read(copies::all_purged).await
    }

    async fn purged_copy(&self, id: SessionId) -> Result<Option<PurgedCopy>> {
        self.readers.read(move |conn| copies::purged(conn, id)).await
    }

    async fn forget_purged(&self, id: SessionId) -> Result<()> {
        self.writer.write(move |conn| copies::forget_purged(conn, id)).await
    }

    async fn adopt_points(&self, points: Vec<(Point, Vec<(u64, u64)>)>) -> Result<()> {
        self.writer.write(move |conn| copies::adopt(conn, &points)).await
    }

    async fn adopt_agent(&self, agent: Agent) -> Result<()> {
        self.write_agents(move |conn| agents::adopt(conn, &agent)).await
    }

    async fn events(&self, id: SessionId, range: EventRange) -> Result<Vec<Event>> {
        self.readers.read(move |conn| events::range(conn, id, &range)).await
    }

    async fn newest(
        &self,
        id: SessionId,
        epoch: u64,
        kind: Option<EventKind>,
    ) -> Result<Option<Event>> {
        self.readers.read(move |conn| events::newest(conn, id, epoch, kind)).await
    }

    async fn origins(&self, id: SessionId, epoch: u64, after: u64) -> Result<Vec<(u64, u64)>> {
        self.readers.read(move |conn| events::origins(conn, id, epoch, after)).await
    }

    async fn add_usage(&self, id: SessionId, at: Timestamp, usage: Usage) -> Result<()> {
        self.writer.write(move |conn| usage::add(conn, id, at, &usage)).await
    }

    async fn usage(&self, id: SessionId) -> Result<Usage> {
        self.readers.read(move |conn| usage::sum(conn, id)).await
    }

    async fn ended_before(
        &self,
        before: Timestamp,
        skip: u32,
        limit: u32,
    ) -> Result<Vec<(Tenant, SessionId)>> {
        self.readers.read(move |conn| retention::ended(conn, before, skip, limit)).await
    }

    async fn remove_old_points(
        &self,
        before: Timestamp,
        spared: &Spared,
        limit: u32,
    ) -> Result<u64> {
        let spared = spared.clone();
        self.writer.write(move |conn| retention::old_points(conn, before, &spared, limit)).await
    }

    async fn remove_oldest_points(
        &self,
        bytes: u64,
        spared: &Spared,
        limit: u32,
    ) -> Result<(u64, u64)> {
        let spared = spared.clone();
        self.writer.write(move |conn| retention::oldest_points(conn, bytes, &spared, limit)).await
    }

    async fn sessions_with_old_events(
        &self,
        before: Timestamp,
        after: Option<SessionId>,
        limit: u32,
    ) -> Result<Vec<SessionId>> {
        self.readers.read(move |conn| retention::with_old_events(conn, before, after, limit)).await
    }

    async fn forget_events(&self, id: SessionId, before: Timestamp, limit: u32) -> Result<u64> {
        self.writer.write(move |conn| retention::forget(conn, id, before, limit)).await
    }

    async fn leave_tenant(&self, tenant: &Tenant) -> Result<Option<Vec<Key>>> {
        let tenant = tenant.clone();
        self.writer.write(move |conn| tenants::leave(conn, &tenant)).await
    }

    async fn leaving_tenants(&self) -> Result<Vec<Tenant>> {
        self.readers.read(tenants::leaving).await
    }

    async fn tenant_left(&self, tenant: &Tenant) -> Result<()> {
        let tenant = tenant.clone();
        self.write_agents(move |conn| tenants::left(conn, &tenant)).await
    }

    async fn scrub(&self) -> Result<bool> {
        let path = self.path.clone();
        let scrubbed = tokio::task::spawn_blocking(move || open::scrub(&path)).await;
        scrubbed.unwrap_or_else(|error| Err(StoreError::Database(error.to_string())))
    }

    async fn copy_to(&self, file: &Path) -> Result<()> {
        let file = file.to_owned();
        self.readers.read(move |conn| open::copy(conn, &file)).await
    }

    async fn check(&self) -> Result<Option<String>> {
        self.readers.read(open::check).await
    }

    async fn close(&self) {
        self.readers.close(PATIENCE).await;
        self.agents.forget();
        let writer = Arc::clone(&self.writer);
        // Joining the thread blocks; a caller that goes away does not stop it.
        let _ = tokio::task::spawn_blocking(move || writer.close()).await;
    }
}
