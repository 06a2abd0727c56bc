//! What a store is, as a few maps.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::domain::Changed;

/// A session, its events and its usage, its points with what was undone at their time, and what
/// is undone now.
#[derive(Clone)]
pub(super) struct Whole(
    pub(super) Session,
    pub(super) Vec<Event>,
    pub(super) Vec<(Timestamp, Usage)>,
    pub(super) Vec<(Point, BTreeSet<u64>)>,
    pub(super) BTreeSet<u64>,
);

impl Whole {
    pub(super) fn is_unsaved(&self) -> bool {
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
pub(super) struct Model {
    pub(super) keys: Vec<Key>,
    pub(super) agents: BTreeMap<(Tenant, AgentName), Agent>,
    /// In order of creation.
    pub(super) sessions: Vec<Whole>,
    /// In order of creation.
    pub(super) attachments: Vec<Attachment>,
}

pub(super) type Outcome<T> = Result<T, StoreError>;

fn exists<T>(what: &'static str) -> Outcome<T> {
    Err(StoreError::Exists { what })
}

impl Model {
    pub(super) fn find(&mut self, id: SessionId) -> Outcome<&mut Whole> {
        let missing = StoreError::Missing { what: "the session" };
        self.sessions.iter_mut().find(|whole| whole.0.id == id).ok_or(missing)
    }

    pub(super) fn add_key(&mut self, key: Key) -> Outcome<()> {
        if self.keys.iter().any(|k| k.id == key.id || k.hash == key.hash) {
            return exists("the key");
        }
        self.keys.push(key);
        Ok(())
    }

    pub(super) fn remove_key(&mut self, tenant: &Tenant, id: u8) -> Option<Key> {
        let is_it = |key: &Key| key.id == uuid(id) && key.tenant == *tenant;
        let at = self.keys.iter().position(is_it)?;
        Some(self.keys.remove(at))
    }

    pub(super) fn deploy(&mut self, mut agent: Agent) -> Outcome<Agent> {
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

    pub(super) fn change_agent(&mut self, new: Agent) -> bool {
        let known = self.agents.values_mut().find(|known| known.id == new.id);
        known.is_some_and(|known| {
            (known.env, known.config, known.updated_at) = (new.env, new.config, new.updated_at);
            true
        })
    }

    pub(super) fn create(&mut self, session: Session, events: Vec<NewEvent>) -> Outcome<()> {
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

    pub(super) fn commit(&mut self, commit: Commit) -> Outcome<()> {
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

    pub(super) fn add_point(&mut self, point: Point) -> Outcome<()> {
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

    pub(super) fn remove_point(&mut self, session: SessionId, id: PointId) -> bool {
        let Ok(whole) = self.find(session) else { return false };
        // Its files are still to be built from it.
        if whole.0.restore == Some(id) {
            return false;
        }
        let before = whole.3.len();
        whole.3.retain(|(point, _)| point.id != id);
        whole.3.len() < before
    }

    pub(super) fn attach(&mut self, new: Attachment) -> Outcome<bool> {
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

    pub(super) fn detach(&mut self, id: AttachmentId) -> bool {
        let before = self.attachments.len();
        self.attachments.retain(|known| known.id != id);
        self.attachments.len() < before
    }

    /// Every point, also of other sessions than the one that gets the copies.
    pub(super) fn copy(&mut self, copying: &Copying) -> Outcome<u64> {
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
    pub(super) fn number(&mut self, session: SessionId, events: &mut [NewEvent]) {
        let mut last = self.find(session).map_or(0, |whole| whole.0.last_seq);
        for event in events {
            last += event.seq;
            event.seq = last;
        }
    }
}
