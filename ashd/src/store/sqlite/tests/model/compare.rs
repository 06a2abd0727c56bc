//! Whether store and maps have come to the same.

use std::collections::BTreeSet;
use std::fmt::Debug;

use super::maps::{Outcome, Whole};
use super::*;

pub(super) fn same<T: Debug>(store: Outcome<T>, model: Outcome<T>) -> Result<(), TestCaseError> {
    prop_assert_eq!(format!("{store:?}"), format!("{model:?}"));
    Ok(())
}

pub(super) async fn compare(store: &Sqlite, model: &Model) -> Result<(), TestCaseError> {
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
    let counts: SessionCounts = all.iter().map(|s| (s.status, 1)).collect();
    prop_assert_eq!(store.count_sessions().await.unwrap(), counts);
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
