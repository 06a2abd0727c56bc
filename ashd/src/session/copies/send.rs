//! How a session gets into the object store.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::NotCopied;
use super::choose::{named, still_ours, to_put};
use crate::domain::{Point, PointId, Root, Session, SessionId, Tenant};
use crate::fault;
use crate::objects::{
    AgentCopy, Claimed, FORMAT, FolderCopy, HistoryName, Limit, Manifest, ManifestName, Objects,
    Place, PointCopy, SessionCopy, history,
};
use crate::session::shared::Shared;
use crate::snapshot::{Cutting, SnapshotError};
use crate::store::EventRange;
use crate::tree::{Found, RelPath, Tree, TreeError};

type Done<T> = Result<T, NotCopied>;

/// The largest manifest, in bytes.
pub(super) const MANIFEST: Limit = Limit(64 << 20);

/// Points without a name that are kept of a session.
const KEPT: usize = 3;

/// Events of one stretch of history.
const STRETCH: u32 = 500;

/// The generation that stands for a session that came from a backup and was not copied since; of one that was
/// purged, for any.
pub(in crate::session) const RESTORED: u32 = 0;

/// What was put there longer ago than this, and is named by no manifest that is known, may be about
/// to be removed. Half of what [`sweep`](super::sweep) waits.
const FRESH: Duration = Duration::from_secs(3 * 24 * 3600);

/// Brings what is new of a session into the object store, if it is still this machine's.
pub(super) async fn session(
    shared: &Arc<Shared>,
    objects: &Objects,
    session: &Session,
) -> Done<()> {
    let id = session.id;
    let wanted = shared.store.points_to_copy(id).await?;
    if wanted.is_empty() && shared.store.generation(id).await?.is_none() {
        return Ok(());
    }
    let (generation, restored) = match own(shared, objects, session).await? {
        Owned::Still(generation) => (generation, false),
        Owned::Anew(generation) => (generation, true),
    };
    let all = shared.store.points(id).await?;
    if all.is_empty() || wanted.is_empty() && !restored {
        return prune(shared, objects, (session, generation)).await;
    }
    let Some(agent) = agent(shared, objects, session).await? else {
        tracing::debug!(ash_session = %id, "not copied: its agent is deleted");
        return Ok(());
    };
    let names = manifests(objects, &session.tenant, id).await?;
    // Since it was asked whose it is, much may have been sent of the agent.
    still_ours(&names, generation)?;
    // What is there of a session from a backup may have happened otherwise here.
    let mut before = match names.iter().max().filter(|_| !restored) {
        Some(name) => newest(objects, session, *name).await?,
        None => None,
    };
    match (&mut before, names.iter().any(|name| name.generation == generation)) {
        (Some(before), true) => forget(objects, session, &names, (before, &all)).await?,
        // What its owner of before wrote behind our points never happened here.
        (Some(before), false) => before.history.clear(),
        (None, _) => {}
    }
    for point in to_put(&all, &wanted, (&names, generation)) {
        let named = named(&all, point);
        let around = Around { named: &named, agent: &agent, before: before.as_ref() };
        let manifest = match one(shared, objects, (session, point, generation), around).await {
            // It keeps no others away.
            Err(NotCopied::Snapshots(error @ SnapshotError::Damaged { .. }))
                if point.id != all[0].id =>
            {
                tracing::error!(ash_session = %id, point = %point.id, %error, "a point is not copied");
                continue;
            }
            manifest => manifest?,
        };
        if restored {
            shared.store.set_generation(id, generation).await?;
        }
        shared.store.copied(id, point.clone(), named).await?;
        fault::point("copy.recorded");
        tracing::debug!(ash_session = %id, seq = point.seq, "point copied to the object store");
        before = Some(manifest);
    }
    prune(shared, objects, (session, generation)).await
}

/// The newest manifest there; `None` when it is damaged.
async fn newest(
    objects: &Objects,
    session: &Session,
    name: ManifestName,
) -> Done<Option<Manifest>> {
    match read(objects, &session.tenant, session.id, name).await {
        Err(error) if error.is_passing() => Err(error),
        manifest => Ok(manifest.ok()),
    }
}

/// Sees to it that the session is this machine's, and says in which generation.
async fn own(shared: &Arc<Shared>, objects: &Objects, session: &Session) -> Done<Owned> {
    let (tenant, id) = (&session.tenant, session.id);
    let ours = shared.store.generation(id).await?;
    let there = objects.generation(tenant, id).await?;
    if ours == Some(RESTORED) {
        return next(objects, session, there).await.map(Owned::Anew);
    }
    let generation = match (ours, there) {
        (Some(ours), Some(there)) if ours == there => return Ok(Owned::Still(ours)),
        // Also one that this machine took, of which it was not recorded any more.
        (_, Some(there)) if ours.is_none_or(|ours| ours < there) => there,
        (ours, _) => ours.unwrap_or(1),
    };
    if ours.is_none() {
        // Before that: of one that is purged meanwhile it would not be known that something of it is there.
        shared.store.note_claim(id).await?;
    }
    match objects.claim(tenant, id, generation).await? {
        // It was copied first behind the backup that it came from.
        Claimed::Inherited | Claimed::Purged { here: true } if ours.is_none() => {
            // When it is purged before it is copied, what is there goes as well.
            shared.store.set_generation(id, RESTORED).await?;
            next(objects, session, there).await.map(Owned::Anew)
        }
        Claimed::Inherited | Claimed::Taken | Claimed::Purged { .. } => Err(NotCopied::Lost),
        Claimed::Ours => {
            fault::point("copy.claimed");
            shared.store.set_generation(id, generation).await?;
            Ok(Owned::Still(generation))
        }
    }
}

/// In which generation a session is this machine's.
enum Owned {
    /// What is there is what happened here.
    Still(u32),
    /// What is there may have happened otherwise here. It is recorded with the first copy.
    Anew(u32),
}

/// Takes the generation behind the newest, which is this machine's or that of the one whose backup it
/// was: of what was put there in that one the session, which came from the backup, may know nothing.
async fn next(objects: &Objects, session: &Session, there: Option<u32>) -> Done<u32> {
    let (tenant, id) = (&session.tenant, session.id);
    if let Some(there) = there {
        match objects.owner(tenant, id, there).await? {
            // Who has purged it, and goes back to a backup of before, has it again.
            Claimed::Ours | Claimed::Inherited | Claimed::Purged { here: true } => {}
            Claimed::Taken | Claimed::Purged { here: false } => return Err(NotCopied::Lost),
        }
    }
    let next = there.unwrap_or(0) + 1;
    match objects.claim(tenant, id, next).await? {
        Claimed::Ours => Ok(next),
        Claimed::Inherited | Claimed::Taken | Claimed::Purged { .. } => Err(NotCopied::Lost),
    }
}

/// Removes what had a name in the newest point there and has none here any more, whoever put it there.
/// That comes before it is left out of what the next one names, so that nothing stays that nobody
/// knows of.
async fn forget(
    objects: &Objects,
    session: &Session,
    names: &[ManifestName],
    (before, all): (&Manifest, &[Point]),
) -> Done<()> {
    let is_there = |id: &Uuid| all.iter().any(|point| point.id.0 == *id && point.name.is_some());
    let gone: BTreeSet<_> =
        before.named.iter().flatten().filter(|id| !is_there(id)).copied().collect();
    for name in names.iter().filter(|name| gone.contains(&name.point.0)) {
        remove_point(objects, session, *name).await?;
    }
    Ok(())
}

/// Removes what says that a point is there.
async fn remove_point(objects: &Objects, session: &Session, name: ManifestName) -> Done<()> {
    objects.remove(&Place::Point(&session.tenant, session.id, name)).await?;
    fault::point("copy.pruned");
    Ok(())
}

/// What goes along with a point.
struct Around<'a> {
    /// The other points up to it that have a name.
    named: &'a [PointId],
    agent: &'a AgentCopy,
    /// The point there before it.
    before: Option<&'a Manifest>,
}

/// Brings one point there: what it is made of first, then what says that it is there.
async fn one(
    shared: &Arc<Shared>,
    objects: &Objects,
    (session, point, generation): (&Session, &Point, u32),
    Around { named, agent, before }: Around<'_>,
) -> Done<Manifest> {
    let known: BTreeSet<Uuid> =
        before.iter().flat_map(|manifest| manifest.packs.iter().copied()).collect();
    let packs = packs(shared, objects, (&session.tenant, point.root), &known).await?;
    fault::point("copy.packs");
    let before = before.map(|manifest| manifest.history.clone()).unwrap_or_default();
    let history = stretches(shared, objects, (session, point, generation), before).await?;
    fault::point("copy.history");
    let manifest = Manifest {
        format: FORMAT,
        session: SessionCopy::from(session),
        point: PointCopy::from(point),
        undone: shared.store.undone_at(point.id).await?,
        history,
        packs,
        named: Some(named.iter().map(|point| point.0).collect()),
        agent: agent.clone(),
    };
    let at = u64::try_from(point.created_at.0).unwrap_or(0);
    let name = ManifestName { generation, seq: point.seq, at, point: point.id };
    let place = Place::Point(&session.tenant, session.id, name);
    objects.put(&session.tenant, &place, &manifest.encode()).await?;
    fault::point("copy.published");
    Ok(manifest)
}

/// Brings the packs of a root there, and says which they are.
async fn packs(
    shared: &Arc<Shared>,
    objects: &Objects,
    (tenant, root): (&Tenant, Root),
    known: &BTreeSet<Uuid>,
) -> Done<Vec<Uuid>> {
    let (snapshots, owned) = (shared.snapshots.clone(), tenant.clone());
    let find = move || {
        let vault = snapshots.vault(&owned)?;
        let _pin = vault.pin_point(root);
        vault.packs_of(root)
    };
    let packs = blocking(find).await??;
    for pack in &missing(shared, objects, tenant, (&packs, known)).await? {
        let name = *pack;
        // One that was merged with others meanwhile is found under another name the next time.
        let file = shared.whole_pack(objects, (tenant, name)).await?;
        objects.send(tenant, &Place::Pack(tenant, name), file).await?;
        fault::point("copy.pack");
        shared.copies.packs.put(tenant, name);
    }
    Ok(packs.into_iter().collect())
}

/// Which packs are not there, or not for long any more unless a manifest that is `known` names them.
/// Those that are there are listed once, and noted from then on.
async fn missing(
    shared: &Arc<Shared>,
    objects: &Objects,
    tenant: &Tenant,
    (packs, known): (&BTreeSet<Uuid>, &BTreeSet<Uuid>),
) -> Done<Vec<Uuid>> {
    let there = &shared.copies.packs;
    if !there.are_listed(tenant) {
        there.list(tenant, packs_there(objects, tenant).await?);
    }
    let mut missing = vec![];
    for pack in packs {
        let at = there.get(tenant, *pack).map(|there| there.at);
        let is_fresh = at.and_then(|at| at.elapsed().ok()).is_some_and(|age| age < FRESH);
        let is_named = at.is_some() && known.contains(pack);
        let is_there = is_named || is_fresh && shared.is_open(objects, (tenant, *pack)).await?;
        if !is_there {
            missing.push(*pack);
        }
    }
    Ok(missing)
}

/// The packs that are there, and since when.
pub(in crate::session) async fn packs_there(
    objects: &Objects,
    tenant: &Tenant,
) -> Done<HashMap<Uuid, SystemTime>> {
    let listed = objects.list(&Place::Packs(tenant)).await?;
    let packs = listed.iter().filter_map(|pack| Some((Uuid::try_parse(&pack.name).ok()?, pack.at)));
    Ok(packs.collect())
}

/// Brings the history up to a point there. A short last stretch is written anew with what follows.
async fn stretches(
    shared: &Arc<Shared>,
    objects: &Objects,
    (session, point, generation): (&Session, &Point, u32),
    mut known: Vec<(u32, u64, u64)>,
) -> Done<Vec<(u32, u64, u64)>> {
    let covered = known.last().map_or(0, |(_, _, last)| *last);
    if covered >= point.seq {
        return Ok(known);
    }
    let mut after = covered;
    if let Some((_, first, last)) = known.last().copied()
        && last - first + 1 < u64::from(STRETCH) / 2
    {
        known.pop();
        after = first - 1;
    }
    while after < point.seq {
        let range = EventRange { after, limit: STRETCH, kinds: vec![], undone: true };
        let mut events = shared.store.events(session.id, range).await?;
        events.retain(|event| event.seq <= point.seq);
        let (Some(first), Some(last)) = (events.first(), events.last()) else { break };
        let name = HistoryName { generation, first: first.seq, last: last.seq };
        let bytes = blocking(move || history::encode(&events)).await??;
        let place = Place::History(&session.tenant, session.id, name);
        objects.put(&session.tenant, &place, &bytes).await?;
        known.push((generation, name.first, name.last));
        after = name.last;
    }
    Ok(known)
}

/// The session's agent and what is in its folder, brought there; `None` when it is deleted.
async fn agent(
    shared: &Arc<Shared>,
    objects: &Objects,
    session: &Session,
) -> Done<Option<AgentCopy>> {
    let tenant = &session.tenant;
    let Some(agent) = shared.store.agent(tenant, &session.agent).await? else { return Ok(None) };
    let folder = shared.places.version(tenant, &session.agent, session.agent_version);
    if !folder.is_dir() {
        return Ok(None);
    }
    let key = (agent.id, session.agent_version);
    let known = {
        let folders = shared.copies.folders.lock().unwrap_or_else(PoisonError::into_inner);
        folders.get(&key).filter(|(at, _)| at.elapsed() < FRESH / 3).cloned()
    };
    if let Some((_, folder)) = known {
        return Ok(Some(AgentCopy::of(&agent, &folder)));
    }
    let (snapshots, owned, path) = (shared.snapshots.clone(), tenant.clone(), folder.clone());
    let cut = move || -> Done<_> {
        let vault = snapshots.vault(&owned)?;
        let session = SessionId::random();
        let roots = [("agent", path.as_path())];
        let cancel = AtomicBool::new(false);
        let cutting = Cutting::new(session, &roots, &cancel);
        let nobody = || -> io::Result<Box<dyn std::any::Any>> { Ok(Box::new(())) };
        let cut = vault.cut(&cutting, &nobody, &|_| true)?;
        vault.forget(session)?;
        Ok((digest(&path)?, cut))
    };
    let (digest, cut) = blocking(cut).await??;
    let root = cut.root;
    // It counts as recorded meanwhile: whoever collects would wait for who has cut it, as long as it is sent.
    let _on_its_way = shared.copies.on_its_way.begin((tenant.clone(), root));
    drop(cut);
    let packs = packs(shared, objects, (tenant, root), &BTreeSet::new()).await?;
    let folder = FolderCopy { digest, root, packs };
    let copy = AgentCopy::of(&agent, &folder);
    let mut folders = shared.copies.folders.lock().unwrap_or_else(PoisonError::into_inner);
    folders.insert(key, (Instant::now(), folder));
    Ok(Some(copy))
}

/// Tells folders with other files apart, whatever their times. However large they are, little of them is
/// in memory.
pub(in crate::session) fn digest(folder: &Path) -> Result<[u8; 32], TreeError> {
    let tree = Tree::open(folder)?;
    let mut hash = blake3::Hasher::new();
    for Found { path, .. } in tree.list(u64::MAX, &|_| true)?.files {
        let (content, stat) = tree.open_file(&RelPath::parse(&path)?)?;
        hash.update(&(path.len() as u64).to_le_bytes()).update(path.as_bytes());
        hash.update(&stat.size.to_le_bytes());
        let before = hash.count();
        let read = hash.update_reader(content.take(stat.size)).map(|hash| hash.count() - before);
        let whole = read.and_then(|read| match read == stat.size {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        });
        whole.map_err(|error| TreeError::Io { path, error })?;
    }
    Ok(*hash.finalize().as_bytes())
}

/// The names of a session's manifests that make sense.
pub(in crate::session) async fn manifests(
    objects: &Objects,
    tenant: &Tenant,
    id: SessionId,
) -> Done<Vec<ManifestName>> {
    let listed = objects.list(&Place::Points(tenant, id)).await?;
    Ok(listed.iter().filter_map(|object| object.name.parse().ok()).collect())
}

/// Reads a manifest.
pub(in crate::session) async fn read(
    objects: &Objects,
    tenant: &Tenant,
    id: SessionId,
    name: ManifestName,
) -> Done<Manifest> {
    let place = Place::Point(tenant, id, name);
    let bytes = objects.get(tenant, &place, MANIFEST).await?;
    let wrong = |how: String| {
        NotCopied::Objects(crate::objects::ObjectsError::Damaged { what: place.to_string(), how })
    };
    let manifest = Manifest::decode(&bytes).map_err(|error| wrong(error.to_string()))?;
    let point = manifest.point().map_err(|error| wrong(error.to_string()))?;
    match point.id == name.point && point.session == id {
        true => Ok(manifest),
        false => Err(wrong("it is another one's".to_owned())),
    }
}

/// Removes points that nobody would look for any more: what has no name, but for the newest few, and what
/// was removed here. Which of those of this generation have a name, the rows here say; what others wrote
/// says so itself.
async fn prune(
    shared: &Arc<Shared>,
    objects: &Objects,
    (session, generation): (&Session, u32),
) -> Done<()> {
    let (tenant, id) = (&session.tenant, session.id);
    let mut names = manifests(objects, tenant, id).await?;
    still_ours(&names, generation)?;
    names.sort_unstable_by(|one, other| other.cmp(one));
    let points = shared.store.points(id).await?;
    let named: BTreeSet<_> =
        points.iter().filter(|point| point.name.is_some()).map(|point| point.id).collect();
    let there: BTreeSet<_> = points.iter().map(|point| point.id).collect();
    let newest_of: HashMap<_, _> = names.iter().rev().map(|name| (name.point, *name)).collect();
    // What was put there again in this generation is of no use in those before.
    let is_removed = |name: &ManifestName| {
        let here = name.generation == generation && !there.contains(&name.point);
        here || newest_of.get(&name.point).is_some_and(|newest| newest > name)
    };
    // Without any the session would not be there.
    let newest = names.iter().find(|name| !is_removed(name)).or(names.first()).copied();
    for name in names.iter().filter(|name| Some(**name) != newest && is_removed(name)) {
        remove_point(objects, session, *name).await?;
    }
    names.retain(|name| Some(*name) == newest || !is_removed(name));
    let unnamed = names.into_iter().filter(|name| !named.contains(&name.point));
    for name in unnamed.skip(KEPT) {
        if name.generation == generation || !has_name(shared, objects, (tenant, id), name).await? {
            remove_point(objects, session, name).await?;
        }
    }
    Ok(())
}

/// Whether a point there has a name, or may have one: it cannot be read. What was read once is not
/// read again.
async fn has_name(
    shared: &Arc<Shared>,
    objects: &Objects,
    (tenant, id): (&Tenant, SessionId),
    name: ManifestName,
) -> Done<bool> {
    let known = || shared.copies.named.lock().unwrap_or_else(PoisonError::into_inner);
    if known().contains(&name.point) {
        return Ok(true);
    }
    match read(objects, tenant, id, name).await {
        Ok(manifest) if manifest.has_name() => {}
        Ok(_) => return Ok(false),
        Err(error) if error.is_passing() => return Err(error),
        Err(error) => {
            tracing::warn!(ash_session = %id, point = %name.point, %error, "an older copy stays");
        }
    }
    known().insert(name.point);
    Ok(true)
}

/// Does something on a thread for what blocks.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Done<T> {
    Ok(spawn_blocking(work).await.map_err(io::Error::other)?)
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
