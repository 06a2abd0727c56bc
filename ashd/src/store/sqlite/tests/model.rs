//! Random verbs, done to the store and to a few maps, must come to the same.

mod compare;
mod maps;
mod verbs;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use self::compare::{compare, same};
use self::maps::Model;
use self::verbs::{Verb, verb};
use super::*;
use crate::domain::{Scope, SessionChange};

/// Points without a name that are kept of a session.
const KEPT: u32 = 2;

/// Attachments that a session may have.
const ATTACHED: u32 = 2;

fn key(id: u8, hash: u8) -> Key {
    let (label, created_at) = (format!("{id}-{hash}"), Timestamp(id.into()));
    let scope = Scope::ALL[usize::from(hash) % 3];
    Key { id: uuid(id), tenant: Tenant::default(), hash: [hash; 32], label, scope, created_at }
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
