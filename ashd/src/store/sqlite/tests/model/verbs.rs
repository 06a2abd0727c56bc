//! Random verbs. There are few names and numbers, so that they meet.

use std::fmt::Debug;
use std::str::FromStr;

use serde_json::Value;

use super::*;
use crate::domain::session::RunningTurn;
use crate::domain::{AgentConfig, AgentId, Changed, PermissionMode};

#[derive(Clone, Debug)]
pub(super) enum Verb {
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

pub(super) fn verb() -> impl Strategy<Value = Verb> {
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
