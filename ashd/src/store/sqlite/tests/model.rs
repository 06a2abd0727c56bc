//! Random verbs, done to the store and to a few maps, must come to the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::str::FromStr;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use serde_json::Value;

use super::*;
use crate::domain::TurnId;
use crate::domain::session::RunningTurn;
use crate::domain::{AgentConfig, AgentId, Changed, PermissionMode, Scope, SessionChange};
use crate::domain::{Attachment, AttachmentId};
use crate::domain::{Point, PointId, Root, Which};
use crate::store::{Copying, Purged, StoreError};

/// Points without a name that are kept of a session.
const KEPT: u32 = 2;

/// Attachments that a session may have.
const ATTACHED: u32 = 2;

#[derive(Clone, Debug)]
enum Verb {
    AddKey(u8, u8),
    RemoveKey(Tenant, u8),
    Deploy(Agent),
    ChangeAgent(Agent),
    DeleteAgent(Tenant, AgentName),
    Create(Session, Vec<NewEvent>),
    Commit(Commit),
    Purge(SessionId),
    /// So many events behind the newest.
    AddPoint(SessionId, Point, u8),
    RemovePoint(SessionId, u8),
    GoBack(SessionId, u8, Vec<NewEvent>, Option<Point>),
    Copy(SessionId, u8, u32),
    Attach(Attachment),
    Detach(u8),
    AddUsage(SessionId, Timestamp, Usage),
    Reopen,
}

fn key(id: u8, hash: u8) -> Key {
    let (label, created_at) = (format!("{id}-{hash}"), Timestamp(id.into()));
    let scope = Scope::ALL[usize::from(hash) % 3];
    Key { id: uuid(id), tenant: Tenant::default(), hash: [hash; 32], label, scope, created_at }
}

fn name<T: FromStr + Debug + 'static>() -> impl Strategy<Value = T> {
    "[ab]".prop_filter_map("a name", |name| name.parse().ok())
}

fn config() -> impl Strategy<Value = AgentConfig> {
    let members = proptest::collection::btree_map("[a-c]", ".*".prop_map(Value::from), 0..3);
    members.prop_map(|members| AgentConfig::new("config", members.into_iter().collect()).unwrap())
}

fn agent() -> impl Strategy<Value = Agent> {
    let env = proptest::collection::btree_map("[A-Z]", ".*", 0..3);
    (any::<u8>(), name(), name(), 1..4u32, env, config(), 0..9i64).prop_map(
        |(id, tenant, name, version, env, config, at)| Agent {
            id: AgentId(uuid(id)),
            tenant,
            name,
            version,
            env,
            config,
            created_at: Timestamp(at),
            updated_at: Timestamp(at),
        },
    )
}

/// Few sessions, so that verbs meet.
fn session_id() -> impl Strategy<Value = SessionId> {
    (0..3u8).prop_map(|n| SessionId(uuid(n)))
}

fn status() -> impl Strategy<Value = Status> {
    proptest::sample::select(&Status::ALL[..])
}

fn turn() -> impl Strategy<Value = TurnId> {
    (0..2u8).prop_map(|n| TurnId(uuid(n)))
}

fn running() -> impl Strategy<Value = Option<RunningTurn>> {
    proptest::option::of(
        (turn(), any::<u32>()).prop_map(|(id, seq)| RunningTurn { id, user_seq: seq.into() }),
    )
}

fn settings() -> impl Strategy<Value = Settings> {
    (proptest::option::of(".*"), any::<bool>()).prop_map(|(model, plan)| Settings {
        model,
        permission_mode: plan.then_some(PermissionMode::Plan),
        ..Settings::default()
    })
}

fn new_session() -> impl Strategy<Value = Session> {
    let slot = proptest::option::of(0..3u32);
    (session_id(), name(), name(), status(), settings(), running(), slot, 0..9i64).prop_map(
        |(id, tenant, agent, status, settings, turn, slot, at)| Session {
            id,
            tenant,
            agent,
            status,
            settings,
            turn,
            slot,
            created_at: Timestamp(at),
            ..session(0)
        },
    )
}

fn change() -> impl Strategy<Value = SessionChange> {
    let of = proptest::option::of::<BoxedStrategy<Status>>;
    let slot = proptest::option::of(proptest::option::of(0..3u32));
    let text = || proptest::option::of("[a-c]");
    let at = proptest::option::of((0..9i64).prop_map(Timestamp));
    let turn = proptest::option::of(running());
    let settings = proptest::option::of(settings());
    (of(status().boxed()), text(), text(), turn, slot, settings, at).prop_map(
        |(status, cli_session, cli_version, turn, slot, settings, last_active_at)| SessionChange {
            last_error: turn
                .map(|turn: Option<RunningTurn>| turn.is_none().then(|| "lost".to_owned())),
            status,
            sandbox: cli_session.as_ref().map(|s| SandboxId(uuid(s.as_bytes()[0]))),
            cli_session,
            cli_version,
            turn,
            cold: slot.map(|slot| slot.is_none()),
            changed: turn.map(|turn| if turn.is_none() { Changed::Kept } else { Changed::No }),
            restore: slot.map(|slot| slot.map(|n| PointId(uuid(n as u8)))),
            slot,
            settings,
            last_active_at,
        },
    )
}

/// Events behind the session's newest; now and then with a gap or a double.
fn events() -> impl Strategy<Value = Vec<NewEvent>> {
    let kind = proptest::sample::select(&EventKind::ALL[..]);
    let number = proptest::option::weighted(0.7, 0..1_000u64);
    let body = proptest::collection::vec(any::<u8>(), 0..20);
    let rare = prop_oneof![30 => Just(0u64), 1 => 0..3u64];
    let one = (kind, proptest::option::of(turn()), number, any::<bool>(), body, rare).prop_map(
        |(kind, turn, number, replaces, body, skip)| NewEvent {
            seq: 1 + skip,
            kind,
            turn,
            origin: number.map(|number| Origin { epoch: 1, number }),
            replaces,
            body: body.into(),
            at: Timestamp(0),
        },
    );
    proptest::collection::vec(one, 0..6)
}

/// Few names and ids, so that they meet.
fn point() -> impl Strategy<Value = Point> {
    (0..4u8, proptest::option::of("[ab]"), 0..9u8, running(), 0..99u32).prop_map(
        |(id, name, root, turn, count)| Point {
            id: PointId(uuid(id)),
            session: SessionId(uuid(0)),
            name: name.map(|name| name.parse().unwrap()),
            seq: 0,
            turn,
            cli_session: format!("cli-{root}"),
            root: Root([root; 32]),
            files: count.into(),
            bytes: 7,
            written: 8,
            left_out: 9,
            created_at: Timestamp(root.into()),
        },
    )
}

fn attachment() -> impl Strategy<Value = Attachment> {
    (session_id(), 0..4u8, proptest::option::of(0..9u8)).prop_map(|(session, id, message)| {
        Attachment {
            id: AttachmentId(uuid(id)),
            session,
            tenant: Tenant::default(),
            message: message.map(uuid),
            name: format!("{id}.txt").parse().unwrap(),
            media: "text/plain".parse().unwrap(),
            size: id.into(),
            created_at: Timestamp(id.into()),
        }
    })
}

fn usage() -> impl Strategy<Value = Usage> {
    ("[a-c]", 0..100u32, 0..8u32).prop_map(|(model, tokens, eighths)| Usage {
        model,
        input_tokens: tokens.into(),
        output_tokens: 1,
        cache_creation_tokens: 2,
        cache_read_tokens: u64::from(tokens) * 3,
        // Sums of eighths are exact in any order.
        cost_usd: f64::from(eighths) / 8.0,
        calls: 1,
    })
}

fn verb() -> impl Strategy<Value = Verb> {
    prop_oneof![
        2 => (0..4u8, 0..4u8).prop_map(|(id, hash)| Verb::AddKey(id, hash)),
        1 => (prop_oneof![Just(Tenant::default()), name()], 0..4u8)
            .prop_map(|(tenant, id)| Verb::RemoveKey(tenant, id)),
        4 => agent().prop_map(Verb::Deploy),
        2 => agent().prop_map(Verb::ChangeAgent),
        1 => (name(), name()).prop_map(|(tenant, name)| Verb::DeleteAgent(tenant, name)),
        4 => (new_session(), events()).prop_map(|(session, events)| Verb::Create(session, events)),
        12 => (session_id(), change(), events())
            .prop_map(|(session, change, events)| Verb::Commit(Commit::of(session, change, events))),
        1 => session_id().prop_map(Verb::Purge),
        6 => (session_id(), point(), prop_oneof![3 => Just(0), 1 => 0..6u8])
            .prop_map(|(id, point, back)| Verb::AddPoint(id, point, back)),
        1 => (session_id(), 0..4u8).prop_map(|(id, point)| Verb::RemovePoint(id, point)),
        3 => (session_id(), 0..4u8, events(), prop::option::of(point()))
            .prop_map(|(id, point, events, again)| Verb::GoBack(id, point, events, again)),
        3 => (session_id(), 0..4u8, 0..9u32)
            .prop_map(|(id, point, limit)| Verb::Copy(id, point, limit)),
        4 => attachment().prop_map(Verb::Attach),
        1 => (0..4u8).prop_map(Verb::Detach),
        3 => (session_id(), (0..9i64).prop_map(Timestamp), usage())
            .prop_map(|(id, at, usage)| Verb::AddUsage(id, at, usage)),
        1 => Just(Verb::Reopen),
    ]
}

/// A session, its events and its usage, its points with what was undone at their time, and what
/// is undone now.
#[derive(Clone)]
struct Whole(
    Session,
    Vec<Event>,
    Vec<(Timestamp, Usage)>,
    Vec<(Point, BTreeSet<u64>)>,
    BTreeSet<u64>,
);

impl Whole {
    fn is_unsaved(&self) -> bool {
        let Session { status, slot, turn, restore, changed, .. } = &self.0;
        let saved = self.3.iter().map(|(point, _)| point.seq).max().unwrap_or(0);
        let newest = self.1.iter().rfind(|event| event.kind != EventKind::Lifecycle);
        let behind = newest.is_some_and(|event| event.seq > saved);
        let is_there = slot.is_some() && restore.is_none();
        let is_busy = matches!(status, Status::Ended | Status::Starting);
        !is_busy && is_there && turn.is_none() && (*changed > Changed::No || behind)
    }
}

#[derive(Default)]
struct Model {
    keys: Vec<Key>,
    agents: BTreeMap<(Tenant, AgentName), Agent>,
    /// In order of creation.
    sessions: Vec<Whole>,
    /// In order of creation.
    attachments: Vec<Attachment>,
}

type Outcome<T> = Result<T, StoreError>;

fn exists<T>(what: &'static str) -> Outcome<T> {
    Err(StoreError::Exists { what })
}

impl Model {
    fn find(&mut self, id: SessionId) -> Outcome<&mut Whole> {
        let missing = StoreError::Missing { what: "the session" };
        self.sessions.iter_mut().find(|whole| whole.0.id == id).ok_or(missing)
    }

    fn add_key(&mut self, key: Key) -> Outcome<()> {
        if self.keys.iter().any(|k| k.id == key.id || k.hash == key.hash) {
            return exists("the key");
        }
        self.keys.push(key);
        Ok(())
    }

    fn remove_key(&mut self, tenant: &Tenant, id: u8) -> Option<Key> {
        let is_it = |key: &Key| key.id == uuid(id) && key.tenant == *tenant;
        let at = self.keys.iter().position(is_it)?;
        Some(self.keys.remove(at))
    }

    fn deploy(&mut self, mut agent: Agent) -> Outcome<Agent> {
        let place = (agent.tenant.clone(), agent.name.clone());
        let known = self.agents.get(&place);
        if agent.version != known.map_or(0, |known| known.version) + 1 {
            return exists("this version of the agent");
        }
        match known {
            Some(known) => (agent.id, agent.created_at) = (known.id, known.created_at),
            None if self.agents.values().any(|other| other.id == agent.id) => {
                return exists("an agent with this id");
            }
            None => {}
        }
        self.agents.insert(place, agent.clone());
        Ok(agent)
    }

    fn change_agent(&mut self, new: Agent) -> bool {
        let known = self.agents.values_mut().find(|known| known.id == new.id);
        known.is_some_and(|known| {
            (known.env, known.config, known.updated_at) = (new.env, new.config, new.updated_at);
            true
        })
    }

    fn create(&mut self, session: Session, events: Vec<NewEvent>) -> Outcome<()> {
        if self.find(session.id).is_ok() {
            return exists("the session");
        }
        let change = SessionChange { slot: Some(session.slot), ..SessionChange::none() };
        let session = Session { slot: None, ..session };
        let mut whole = Whole(session, vec![], vec![], vec![], BTreeSet::new());
        self.apply(&mut whole, &change, &[])?;
        self.apply(&mut whole, &SessionChange::none(), &events)?;
        self.sessions.push(whole);
        Ok(())
    }

    fn commit(&mut self, commit: Commit) -> Outcome<()> {
        let mut whole = self.find(commit.session)?.clone();
        if let Some(id) = commit.back_to {
            let known = whole.3.iter().find(|(point, _)| point.id == id);
            let (point, undone) = known.ok_or(StoreError::Missing { what: "the point" })?;
            let behind = point.seq + 1..=whole.0.last_seq;
            whole.4 = undone.iter().copied().chain(behind).collect();
        }
        self.apply(&mut whole, &commit.change, &commit.events)?;
        let before = std::mem::replace(self.find(commit.session)?, whole);
        let Some((point, _)) = commit.point else { return Ok(()) };
        let added = self.add_point(point);
        if added.is_err() {
            *self.find(commit.session)? = before;
        }
        added
    }

    fn apply(&self, whole: &mut Whole, change: &SessionChange, new: &[NewEvent]) -> Outcome<()> {
        for event in new {
            let last = whole.0.last_seq;
            if event.seq != last + 1 {
                return Err(StoreError::Gap { last, found: event.seq });
            }
            if event.origin.is_some() && whole.1.iter().any(|e| e.origin == event.origin) {
                return exists("the event");
            }
            whole.1.push(event.clone());
            whole.0.last_seq += 1;
        }
        let others = self.sessions.iter().filter(|other| other.0.id != whole.0.id);
        let taken: Vec<_> = others.filter_map(|other| other.0.slot).collect();
        if change.slot.flatten().is_some_and(|slot| taken.contains(&slot)) {
            return exists("a session with these uids");
        }
        change.apply(&mut whole.0);
        Ok(())
    }

    fn add_point(&mut self, point: Point) -> Outcome<()> {
        let twice = self.sessions.iter().any(|s| s.3.iter().any(|(p, _)| p.id == point.id));
        let whole = self.find(point.session)?;
        let named = |p: &Point| p.name.is_some() && p.name == point.name;
        if twice || whole.3.iter().any(|(p, _)| named(p)) {
            return exists("a point with this name");
        }
        let undone = whole.4.range(..=point.seq).copied().collect();
        whole.3.push((point, undone));
        let mut unnamed: Vec<_> = whole.3.iter().map(|(point, _)| point).cloned().collect();
        unnamed.retain(|point| point.name.is_none() && whole.0.restore != Some(point.id));
        unnamed.reverse();
        unnamed.sort_by_key(|point| std::cmp::Reverse(point.seq));
        let old: Vec<_> = unnamed.iter().skip(KEPT as usize).map(|point| point.id).collect();
        whole.3.retain(|(point, _)| !old.contains(&point.id));
        Ok(())
    }

    fn remove_point(&mut self, session: SessionId, id: PointId) -> bool {
        let Ok(whole) = self.find(session) else { return false };
        let before = whole.3.len();
        whole.3.retain(|(point, _)| point.id != id);
        whole.3.len() < before
    }

    fn attach(&mut self, new: Attachment) -> Outcome<bool> {
        let tenant = self.find(new.session)?.0.tenant.clone();
        let there = self.attachments.iter().filter(|known| known.session == new.session).count();
        if there >= ATTACHED as usize {
            return Ok(false);
        }
        if self.attachments.iter().any(|known| known.id == new.id) {
            return exists("an attachment with this id");
        }
        self.attachments.push(Attachment { tenant, ..new });
        Ok(true)
    }

    fn detach(&mut self, id: AttachmentId) -> bool {
        let before = self.attachments.len();
        self.attachments.retain(|known| known.id != id);
        self.attachments.len() < before
    }

    /// Every point, also of other sessions than the one that gets the copies.
    fn copy(&mut self, copying: &Copying) -> Outcome<u64> {
        let has = |whole: &&Whole| whole.3.iter().any(|(point, _)| point.id == copying.point);
        let from = self.sessions.iter().find(has).cloned();
        let from = from.ok_or(StoreError::Missing { what: "the point" })?;
        let (point, undone) = from.3.iter().find(|(p, _)| p.id == copying.point).unwrap();
        let to = self.find(copying.to)?;
        let up_to = point.seq.min(to.0.last_seq + u64::from(copying.limit));
        let last = to.0.last_seq;
        for event in from.1.iter().filter(|e| e.seq > last && e.seq <= up_to) {
            to.1.push(NewEvent { origin: None, ..event.clone() });
            to.0.last_seq += 1;
        }
        to.4.extend(undone);
        Ok(to.0.last_seq)
    }

    /// Turns distances from the newest event into numbers.
    fn number(&mut self, session: SessionId, events: &mut [NewEvent]) {
        let mut last = self.find(session).map_or(0, |whole| whole.0.last_seq);
        for event in events {
            last += event.seq;
            event.seq = last;
        }
    }
}

fn same<T: Debug>(store: Outcome<T>, model: Outcome<T>) -> Result<(), TestCaseError> {
    prop_assert_eq!(format!("{store:?}"), format!("{model:?}"));
    Ok(())
}

async fn act(store: &Sqlite, model: &mut Model, verb: Verb) -> Result<(), TestCaseError> {
    match verb {
        Verb::AddKey(id, hash) => {
            same(store.add_key(key(id, hash)).await, model.add_key(key(id, hash)))
        }
        Verb::RemoveKey(tenant, id) => {
            let removed = store.remove_key(&tenant, uuid(id)).await;
            same(removed, Ok(model.remove_key(&tenant, id)))
        }
        Verb::Deploy(agent) => same(store.deploy(agent.clone()).await, model.deploy(agent)),
        Verb::ChangeAgent(mut agent) => {
            // Mostly one that is there.
            if let Some(known) = model.agents.get(&(agent.tenant.clone(), agent.name.clone())) {
                agent.id = known.id;
            }
            same(store.change_agent(agent.clone()).await, Ok(model.change_agent(agent)))
        }
        Verb::DeleteAgent(tenant, name) => {
            let deleted = store.delete_agent(&tenant, &name).await;
            same(deleted, Ok(model.agents.remove(&(tenant, name)).is_some()))
        }
        Verb::Create(session, mut events) => {
            model.number(SessionId::random(), &mut events);
            let created = store.create_session(session.clone(), events.clone()).await;
            same(created, model.create(session, events))
        }
        Verb::Commit(mut commit) => {
            model.number(commit.session, &mut commit.events);
            same(store.commit(commit.clone()).await, model.commit(commit))
        }
        Verb::Purge(id) => {
            let known = model.sessions.iter().find(|whole| whole.0.id == id);
            let purged = known.map(|whole| Purged { slot: whole.0.slot });
            model.sessions.retain(|whole| whole.0.id != id);
            model.attachments.retain(|known| known.session != id);
            same(store.purge_session(id).await, Ok(purged))
        }
        Verb::AddPoint(..) | Verb::RemovePoint(..) | Verb::GoBack(..) | Verb::Copy(..) => {
            act_on_points(store, model, verb).await
        }
        Verb::Attach(new) => {
            let added = store.add_attachment(new.clone(), ATTACHED).await;
            same(added, model.attach(new))
        }
        Verb::Detach(n) => {
            let id = AttachmentId(uuid(n));
            same(store.remove_attachment(id).await, Ok(model.detach(id)))
        }
        Verb::AddUsage(id, at, usage) => {
            let added = store.add_usage(id, at, usage.clone()).await;
            same(added, model.find(id).map(|whole| whole.2.push((at, usage))))
        }
        Verb::Reopen => unreachable!("done by the caller"),
    }
}

async fn act_on_points(store: &Sqlite, model: &mut Model, verb: Verb) -> Result<(), TestCaseError> {
    match verb {
        Verb::AddPoint(id, point, back) => {
            let last = model.find(id).map_or(0, |whole| whole.0.last_seq);
            let seq = last.saturating_sub(back.into());
            let point = Point { session: id, seq, ..point };
            same(store.add_point(point.clone(), KEPT).await, model.add_point(point))
        }
        Verb::RemovePoint(id, n) => {
            let point = PointId(uuid(n));
            same(store.remove_point(id, point).await, Ok(model.remove_point(id, point)))
        }
        Verb::GoBack(id, n, mut events, again) => {
            model.number(id, &mut events);
            let back_to = Some(PointId(uuid(n)));
            let seq = model.find(id).map_or(0, |whole| whole.0.last_seq) + events.len() as u64;
            let point = again.map(|point| (Point { session: id, seq, ..point }, KEPT));
            let commit = Commit { back_to, point, ..Commit::of(id, SessionChange::none(), events) };
            same(store.commit(commit.clone()).await, model.commit(commit))
        }
        Verb::Copy(to, n, limit) => {
            let copying = Copying { point: PointId(uuid(n)), to, limit };
            // Into itself there is nothing to copy.
            if model.find(to).is_ok_and(|whole| whole.3.iter().any(|(p, _)| p.id == copying.point))
            {
                return Ok(());
            }
            same(store.copy_events(copying).await, model.copy(&copying))
        }
        _ => unreachable!("done by the caller"),
    }
}

async fn compare(store: &Sqlite, model: &Model) -> Result<(), TestCaseError> {
    prop_assert_eq!(&store.keys().await.unwrap(), &model.keys);
    let agents: Vec<_> = model.agents.values().cloned().collect();
    prop_assert_eq!(&store.all_agents().await.unwrap(), &agents);
    for agent in &agents {
        let found = store.agent(&agent.tenant, &agent.name).await.unwrap();
        prop_assert_eq!(found.as_ref(), Some(agent));
    }
    let all: Vec<_> = model.sessions.iter().map(|whole| whole.0.clone()).collect();
    let mut unended = all.clone();
    unended.retain(|s| s.status != Status::Ended || s.slot.is_some());
    prop_assert_eq!(&store.unended_sessions().await.unwrap(), &unended);
    let unsaved: Vec<_> = model.sessions.iter().filter(|whole| whole.is_unsaved()).collect();
    let unsaved: Vec<_> = unsaved.iter().map(|whole| whole.0.clone()).collect();
    prop_assert_eq!(&store.unsaved_sessions().await.unwrap(), &unsaved);
    for status in Status::ALL {
        let count = all.iter().filter(|s| s.status == status).count() as u64;
        prop_assert_eq!(store.count_sessions(status).await.unwrap(), count);
    }
    let mine = |tenant: &Tenant| {
        let mine = model.sessions.iter().filter(|whole| whole.0.tenant == *tenant);
        mine.flat_map(|whole| whole.3.iter().map(|(p, _)| p.root)).collect::<BTreeSet<_>>()
    };
    let tenant: Tenant = "a".parse().unwrap();
    let roots: Vec<_> = store.roots(&tenant).await.unwrap();
    prop_assert_eq!(roots.len(), mine(&tenant).len());
    prop_assert_eq!(roots.into_iter().collect::<BTreeSet<_>>(), mine(&tenant));
    compare_lists(store, all).await?;
    for whole in &model.sessions {
        compare_whole(store, whole).await?;
        let mine = model.attachments.iter().filter(|known| known.session == whole.0.id);
        let mine: Vec<_> = mine.cloned().collect();
        prop_assert_eq!(&store.attachments(whole.0.id).await.unwrap(), &mine);
        for known in mine {
            prop_assert_eq!(store.attachment(known.id).await.unwrap(), Some(known));
        }
    }
    Ok(())
}

async fn compare_lists(store: &Sqlite, mut all: Vec<Session>) -> Result<(), TestCaseError> {
    all.reverse();
    all.sort_by_key(|s| std::cmp::Reverse(s.created_at));
    let tenant: Tenant = "a".parse().unwrap();
    let names = [None, Some("b".parse::<AgentName>().unwrap())];
    for (agent, status) in names.into_iter().zip([None, Some(Status::Active)]) {
        let mut mine = all.clone();
        mine.retain(|s| s.tenant == tenant);
        mine.retain(|s| agent.as_ref().is_none_or(|name| s.agent == *name));
        mine.retain(|s| status.is_none_or(|status| s.status == status));
        let filter = SessionFilter { agent, status, limit: Some(1), offset: 1 };
        let (page, total) = store.sessions(&tenant, filter.clone()).await.unwrap();
        prop_assert_eq!(total, mine.len() as u64);
        prop_assert_eq!(page, mine.iter().skip(1).take(1).cloned().collect::<Vec<_>>());
        let whole = SessionFilter { limit: None, offset: 0, ..filter };
        prop_assert_eq!(store.sessions(&tenant, whole).await.unwrap().0, mine);
    }
    Ok(())
}

async fn compare_points(store: &Sqlite, whole: &Whole) -> Result<(), TestCaseError> {
    let Whole(session, _, _, points, undone) = whole;
    // Newest first, and of those with the same number the later ones.
    let mut newest: Vec<_> = points.iter().map(|(point, _)| point.clone()).collect();
    newest.reverse();
    newest.sort_by_key(|point| std::cmp::Reverse(point.seq));
    prop_assert_eq!(&store.points(session.id).await.unwrap(), &newest);
    let upto = newest.iter().find(|p| p.seq <= 3 && !undone.contains(&p.seq));
    let find = |which| store.point(session.id, which);
    prop_assert_eq!(find(Which::Upto(3)).await.unwrap(), upto.cloned());
    prop_assert_eq!(find(Which::Newest).await.unwrap(), newest.first().cloned());
    for point in &newest {
        prop_assert_eq!(find(Which::Id(point.id)).await.unwrap(), Some(point.clone()));
        if let Some(name) = &point.name {
            let named = find(Which::Named(name.clone())).await.unwrap();
            prop_assert_eq!(named.as_ref(), Some(point));
        }
    }
    Ok(())
}

async fn compare_whole(store: &Sqlite, whole: &Whole) -> Result<(), TestCaseError> {
    let Whole(session, events, used, _, undone) = whole;
    prop_assert_eq!(store.session(session.id).await.unwrap(), Some(session.clone()));
    prop_assert_eq!(&store.events(session.id, everything()).await.unwrap(), events);
    let kinds = vec![EventKind::User, EventKind::Result];
    let range = EventRange { after: 2, limit: 2, kinds: kinds.clone(), undone: true };
    let some = events.iter().filter(|e| e.seq > 2 && kinds.contains(&e.kind)).take(2);
    let found = store.events(session.id, range).await.unwrap();
    prop_assert_eq!(found, some.cloned().collect::<Vec<_>>());
    let range = EventRange { undone: false, ..everything() };
    let done = events.iter().filter(|e| !undone.contains(&e.seq)).cloned().collect::<Vec<_>>();
    prop_assert_eq!(store.events(session.id, range).await.unwrap(), done);
    compare_points(store, whole).await?;
    for epoch in
        events.iter().filter_map(|event| Some(event.origin?.epoch)).collect::<BTreeSet<_>>()
    {
        let of = |event: &&Event| event.origin.is_some_and(|origin| origin.epoch == epoch);
        let names = |e: &Event| Some((e.origin?.number, e.seq));
        let behind = events.iter().filter(of).filter(|e| e.seq > 2).filter_map(names);
        let found = store.origins(session.id, epoch, 2).await.unwrap();
        prop_assert_eq!(found, behind.collect::<Vec<_>>());
        for kind in [None, Some(EventKind::Result)] {
            let fits = |e: &&Event| kind.is_none_or(|kind| e.kind == kind);
            let newest =
                events.iter().filter(of).filter(fits).max_by_key(|e| e.origin.map(|o| o.number));
            let found = store.newest(session.id, epoch, kind).await.unwrap();
            prop_assert_eq!(found.as_ref(), newest);
        }
    }
    let mut sum = Usage::default();
    for (_, one) in used {
        sum.input_tokens += one.input_tokens;
        sum.output_tokens += one.output_tokens;
        sum.cache_creation_tokens += one.cache_creation_tokens;
        sum.cache_read_tokens += one.cache_read_tokens;
        sum.cost_usd += one.cost_usd;
        sum.calls += one.calls;
    }
    let newest = used.iter().max_by_key(|(at, _)| *at);
    sum.model = newest.map_or_else(String::new, |(_, one)| one.model.clone());
    prop_assert_eq!(store.usage(session.id).await.unwrap(), sum);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_the_model_does(verbs in proptest::collection::vec(verb(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        block_on(async {
            let (mut store, mut model) = (open(dir.path()), Model::default());
            for verb in verbs {
                if let Verb::Reopen = verb {
                    drop(store);
                    store = open(dir.path());
                    compare(&store, &model).await?;
                } else {
                    act(&store, &mut model, verb).await?;
                }
            }
            compare(&store, &model).await
        })?;
    }
}
