//! Finding out what goes: what no point needs.
//!
//! Points are followed and packs looked through while others save and bring back. What is saved meanwhile
//! may rely on something that nobody needed till then. So from when it is chosen what may go, that does
//! not count as stored any more: who comes to save then stores it again. When those who came before are
//! gone, the points are asked for once more, and what these need does not go. What somebody brings back or
//! reads is followed as well. Whatever is recorded behind that needs nothing of the rest: there need not be
//! a moment at which nobody saves.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;

use super::chunk::ChunkId;
use super::collect::{Collected, Collecting, Extent};
use super::desks::Worker;
use super::gate::{Closed, Collector, Quiet, Since};
use super::pack::{self, Row};
use super::purged::Purged;
use super::scan::Scan;
use super::sweep::Over;
use super::vault::Vault;
use super::walk::{Depth, Walk};
use super::{Damage, SnapshotError, deeply, index};
use crate::domain::{Root, SessionId};

/// A pack smaller than this is merged with others, in bytes.
const SMALL: u64 = 8 * 1024 * 1024;

/// Small packs that may be there before they are merged.
const MANY: usize = 16;

/// How often points are asked for when somebody comes meanwhile who may rely on anything.
const ROUNDS: usize = 16;

/// A pack, and what of it is needed.
pub(super) struct Weighed {
    pub(super) name: Uuid,
    /// Its bytes.
    pub(super) bytes: u64,
    /// Whether it is not young.
    pub(super) is_old: bool,
    /// Whether something was purged of that which is not needed.
    pub(super) is_purged: bool,
    /// What is needed and found nowhere else.
    pub(super) needed: Vec<Row>,
    /// What is needed and found in another pack.
    pub(super) twice: Vec<Row>,
    /// What is not needed, sorted by name.
    pub(super) rest: Arc<[Row]>,
}

/// What is to go, and what came out so far.
pub(super) struct Going {
    pub(super) packs: Vec<Weighed>,
    pub(super) collected: Collected,
}

/// What is known so far of what goes.
struct Deciding<'v> {
    vault: &'v Vault,
    collector: &'v Collector,
    worker: &'v Worker<'v>,
    how: Collecting,
    /// What was purged: it goes, however little of its packs it is.
    purged: Option<&'v Purged>,
    /// What the points of those had who were purged.
    had: HashSet<ChunkId>,
    walk: Walk<'v>,
    followed: HashSet<Root>,
    /// Points that somebody is at, not recorded as far as is known, that are damaged: they were followed as
    /// far as they can be.
    beside: HashSet<Root>,
    /// Points that are not recorded any more, and stay because somebody was at them.
    read: u64,
    /// Whether points were followed since packs were looked through.
    is_more: bool,
    /// Points that cannot be followed.
    lost: Vec<Damage>,
    /// Packs that stay because of points that cannot be followed.
    held: BTreeSet<Uuid>,
    /// Those of them that would be looked through, and those that cannot be read.
    stay: BTreeSet<Uuid>,
    /// Packs whose files were not there when they were to be looked through.
    gone: Vec<Uuid>,
    /// Packs that may go.
    weighed: Vec<Weighed>,
    /// Chunks that are needed.
    needed: u64,
    /// Sessions of whose files something is known for roots that were in no point when packs were looked
    /// through.
    stale: Vec<(SessionId, Option<Root>)>,
}

impl Weighed {
    /// The bytes that have to be moved.
    pub(super) fn needed_bytes(&self) -> u64 {
        self.needed.iter().map(|row| u64::from(row.stored)).sum()
    }
}

impl Vault {
    /// Finds out what goes. From then on it does not count as stored: whoever saves it again stores it
    /// again, wherever the rest of this has got to. `None` when others were in the way.
    pub(super) fn decide<E: From<SnapshotError>>(
        &self,
        (collector, worker): (&Collector, &Worker<'_>),
        (how, purged): (&Collecting, Option<&Purged>),
        points: impl Fn() -> Result<Vec<Root>, E>,
    ) -> Result<Option<Going>, E> {
        // What may have gone stays, and counts as stored, however this ends.
        let over = Over(self);
        let decided = Deciding::new((self, collector, worker), how, purged).decide(points);
        if matches!(decided, Ok(Some(_))) {
            // It goes: whoever removes it says when that is over.
            std::mem::forget(over);
        }
        decided
    }
}

impl<'v> Deciding<'v> {
    fn new(
        (vault, collector, worker): (&'v Vault, &'v Collector, &'v Worker<'v>),
        how: &Collecting,
        purged: Option<&'v Purged>,
    ) -> Deciding<'v> {
        let extent = match purged {
            Some(Purged::Anything) => Extent::All,
            _ => how.extent,
        };
        Deciding {
            vault,
            collector,
            worker,
            how: Collecting { extent, ..*how },
            purged,
            had: HashSet::new(),
            walk: Walk::new(vault, Depth::Names),
            followed: HashSet::new(),
            beside: HashSet::new(),
            read: 0,
            is_more: false,
            lost: vec![],
            held: BTreeSet::new(),
            stay: BTreeSet::new(),
            gone: vec![],
            weighed: vec![],
            needed: 0,
            stale: vec![],
        }
    }

    fn decide<E: From<SnapshotError>>(
        mut self,
        points: impl Fn() -> Result<Vec<Root>, E>,
    ) -> Result<Option<Going>, E> {
        let is_seen = self.follow_purged()? && self.follow(&points()?)? && self.weigh()?;
        if !is_seen || !self.follow(&points()?)? {
            return Ok(None);
        }
        self.choose()?;
        if self.how.preview {
            return Ok(Some(self.going()));
        }
        // In this order: whoever comes in between is waited for, and may store more than it has to.
        self.vault.index().set_going(self.may_go());
        self.collector.chose();
        let until = Instant::now() + self.how.patience_with_saves;
        for _ in 0..ROUNDS {
            let Some(quiet) = self.quiet(until) else { return Ok(None) };
            let points = points()?;
            if !self.follow(&points)? || !self.follow_read()? {
                return Ok(None);
            }
            self.choose()?;
            if let Some(closed) = self.collector.close(quiet, (&self.followed, &self.beside)) {
                return Ok(Some(self.settle(closed, &points)?));
            }
        }
        Ok(None)
    }

    /// A moment at which nobody has to be waited for, if there is one by then. Nobody who collects another
    /// vault waits for that.
    fn quiet(&self, until: Instant) -> Option<Quiet> {
        for _ in 0..ROUNDS {
            if self.worker.works()
                && let Some(quiet) = self.collector.quiet(Duration::ZERO)
            {
                return Some(quiet);
            }
            self.worker.rest();
            self.collector.quiet(until.saturating_duration_since(Instant::now()))?;
            // By the time it has a place again somebody else may have come.
            if !self.worker.work(|| self.collector.is_in_the_way()) {
                return None;
            }
        }
        None
    }

    /// Follows the points of those who were purged, to know what they had, whoever has stored it. If that
    /// cannot be found out any more, all goes that nobody needs. False: somebody waits until this is over.
    fn follow_purged(&mut self) -> Result<bool, SnapshotError> {
        let Some(Purged::Of { points, .. }) = self.purged else { return Ok(true) };
        let (mut walk, collector) = (Walk::new(self.vault, Depth::Names), self.collector);
        match deeply(|| follow_all(&mut walk, points, collector))? {
            None => return Ok(false),
            Some(lost) if lost.is_empty() => self.had = walk.into_met(),
            Some(_) => self.how.extent = Extent::All,
        }
        Ok(true)
    }

    /// Follows points that were not followed, or could not be. False: somebody waits until this is over.
    fn follow(&mut self, points: &[Root]) -> Result<bool, SnapshotError> {
        let lost: HashSet<Root> = self.lost.drain(..).map(|damage| damage.root).collect();
        let is_open = |root: &&Root| !self.followed.contains(*root) || lost.contains(*root);
        let roots: Vec<Root> = points.iter().filter(is_open).copied().collect();
        if !roots.is_empty() {
            // What was missing a moment ago may have been stored again.
            self.walk.forget_wrong();
            let (walk, collector) = (&mut self.walk, self.collector);
            let followed = deeply(|| follow_all(walk, &roots, collector))?;
            let Some(lost) = followed else { return Ok(false) };
            (self.lost, self.is_more) = (lost, true);
        }
        if self.collector.is_in_the_way() {
            return Ok(false);
        }
        self.followed.extend(roots);
        let lost: Vec<Root> = self.lost.iter().map(|damage| damage.root).collect();
        self.held = self.vault.hold(&lost, self.how.preview)?;
        Ok(true)
    }

    /// Follows points that somebody is at, recorded or not. One that is damaged keeps nothing else when it is
    /// only read: whoever does finds that out. False: somebody waits until this is over.
    fn follow_read(&mut self) -> Result<bool, SnapshotError> {
        let is_open = |root: &Root| !self.followed.contains(root) && !self.beside.contains(root);
        let roots: Vec<Root> = self.collector.points().into_iter().filter(is_open).collect();
        if roots.is_empty() {
            return Ok(true);
        }
        let (walk, collector) = (&mut self.walk, self.collector);
        let followed = deeply(|| follow_all(walk, &roots, collector))?;
        let Some(lost) = followed else { return Ok(false) };
        self.is_more = true;
        self.beside.extend(lost.iter().map(|damage| damage.root));
        let beside = &self.beside;
        self.followed.extend(roots.into_iter().filter(|root| !beside.contains(root)));
        Ok(true)
    }

    /// Looks through packs, and what is known of sessions' files. False: somebody waits until this is
    /// over.
    fn weigh(&mut self) -> Result<bool, SnapshotError> {
        let known = self.vault.index().known()?;
        for (name, bytes) in known {
            if self.collector.is_in_the_way() {
                return Ok(false);
            }
            if self.vault.is_gone(name) {
                self.gone.push(name);
                continue;
            }
            let is_old = is_older(&pack::path(&self.vault.packs(), name), self.how.grace);
            if !is_old && self.purged.is_none() && self.how.extent != Extent::All {
                continue;
            }
            let rows = if self.held.contains(&name) { None } else { self.rows(name) };
            let Some(rows) = rows else {
                self.stay.insert(name);
                continue;
            };
            let (needed, twice, rest) = (vec![], vec![], rows.into());
            let is_purged = self.purged.is_some();
            let mut pack = Weighed { name, bytes, is_old, is_purged, needed, twice, rest };
            self.sort(&mut pack)?;
            // Of what stays in any case nothing is kept in memory.
            if self.may_be_merged(&pack) || self.is_worth(&pack) {
                self.weighed.push(pack);
            }
        }
        self.is_more = false;
        self.stale = self.stale_scans()?;
        Ok(true)
    }

    /// What is in a pack; `None` when it cannot be read: what is in it stays.
    fn rows(&self, name: Uuid) -> Option<Vec<Row>> {
        let file = pack::open(&self.vault.packs(), name);
        match file.and_then(|file| pack::read_table(&file, name)) {
            Ok(rows) => Some(rows),
            Err(error) => {
                tracing::warn!(%error, "a pack of the snapshot store is not collected");
                None
            }
        }
    }

    /// Tells what is needed of a pack from the rest, as far as points have been followed.
    fn sort(&self, pack: &mut Weighed) -> Result<(), SnapshotError> {
        let rows = pack.rest.iter().copied();
        let (met, mut rest): (Vec<Row>, Vec<Row>) =
            rows.partition(|row| self.walk.has_met(&row.id));
        for row in met {
            let place = self.vault.index().find(row.id)?;
            match place.is_none_or(|place| place.pack == pack.name) {
                true => pack.needed.push(row),
                false => pack.twice.push(row),
            }
        }
        rest.sort_unstable_by_key(|row| row.id);
        // That becomes less with each look.
        pack.is_purged = pack.is_purged && self.has_purged(&rest)?;
        pack.rest = rest.into();
        Ok(())
    }

    /// Whether something that is not needed was purged, or may have been: nobody knows whose it is. What
    /// somebody has stored who is still there is left to them.
    fn has_purged(&self, rest: &[Row]) -> Result<bool, SnapshotError> {
        let Some(Purged::Of { sessions, .. }) = self.purged else { return Ok(!rest.is_empty()) };
        for row in rest {
            let was_theirs = self.had.contains(&row.id);
            if was_theirs
                || self.vault.index().writer(row.id)?.is_none_or(|it| sessions.contains(&it))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether what is needed of a pack is to be moved.
    fn is_worth(&self, pack: &Weighed) -> bool {
        let is_little = pack.needed_bytes() * 2 < pack.bytes;
        let is_worth = match self.how.extent {
            Extent::Purged => false,
            Extent::Worthwhile => pack.is_old && is_little,
            Extent::All => is_little || !pack.rest.is_empty(),
        };
        is_worth || pack.is_purged
    }

    /// Whether a pack is merged with others when there are many like it.
    fn may_be_merged(&self, pack: &Weighed) -> bool {
        let may_be = match self.how.extent {
            Extent::Purged => false,
            Extent::Worthwhile => pack.is_old,
            Extent::All => true,
        };
        may_be && pack.bytes < SMALL
    }

    /// Chooses the packs that go: fewer than before, the more is needed.
    fn choose(&mut self) -> Result<(), SnapshotError> {
        let mut weighed = std::mem::take(&mut self.weighed);
        if std::mem::take(&mut self.is_more) {
            weighed.iter_mut().try_for_each(|pack| self.sort(pack))?;
        }
        let (held, mut free): (Vec<_>, Vec<_>) =
            weighed.into_iter().partition(|pack| self.held.contains(&pack.name));
        self.stay.extend(held.iter().map(|pack| pack.name));
        let small = free.iter().filter(|pack| self.may_be_merged(pack)).count();
        free.retain(|pack| (small > MANY && self.may_be_merged(pack)) || self.is_worth(pack));
        self.weighed = free;
        self.needed = self.walk.count() as u64;
        Ok(())
    }

    /// Packs that may go, and what of them nobody needs as far as that is known.
    fn may_go(&self) -> index::Going {
        self.weighed.iter().map(|pack| (pack.name, pack.rest.clone())).collect()
    }

    /// Notes what goes: less than was chosen, as these points and what is followed beside them need the
    /// rest.
    fn settle(mut self, closed: Closed<'_>, points: &[Root]) -> Result<Going, SnapshotError> {
        let since = closed.since();
        self.forget_scans(&since)?;
        self.note_damage()?;
        let recorded: HashSet<&Root> = points.iter().collect();
        let read = since.points.union(&since.trusted);
        self.read = read.filter(|root| !recorded.contains(root)).count() as u64;
        // Who needs these is in a point that could not be followed before they came.
        let is_needed = |pack: &Weighed| since.packs.contains(&pack.name);
        let needed: Vec<_> = self.weighed.extract_if(.., |pack| is_needed(pack)).collect();
        self.stay.extend(needed.iter().map(|pack| pack.name));
        self.vault.index().set_going(self.may_go());
        // What was saved since it was chosen what may go needs nothing of that.
        let mut kept = std::mem::take(&mut self.followed);
        kept.extend(&since.sound_roots);
        closed.remove(kept);
        Ok(self.going())
    }

    /// Notes which points are damaged. When there are more than were known, or others only noted
    /// them, what they lack does not count as stored any more, nor does what was in packs that are gone.
    fn note_damage(&self) -> Result<(), SnapshotError> {
        let points: Vec<Root> = self.followed.iter().copied().collect();
        self.vault.keep_notes_of(&points)?;
        let is_new = |damage: &Damage| self.vault.damage(damage.root).is_none();
        // Some may have been brought back since.
        let is_gone = |pack: &Uuid| self.vault.is_gone(*pack);
        let gone: Vec<Uuid> = self.gone.iter().copied().filter(is_gone).collect();
        for pack in &gone {
            tracing::error!(%pack, "a pack of the snapshot store is gone");
        }
        let is_less = !gone.is_empty() && self.vault.forget_packs(&gone)?;
        if is_less || self.lost.iter().any(is_new) || !self.walk.rotten.is_empty() {
            let rotten: Vec<_> = self.walk.rotten.iter().copied().collect();
            self.vault.store_again(&rotten)?;
        }
        // Last: whoever finds it noted relies on the rest.
        self.vault.note(&[], &self.lost, false)
    }

    /// What came out.
    fn going(self) -> Going {
        let (needed, damaged, held) = (self.needed, self.lost.len() as u64, self.stay.len() as u64);
        let collected =
            Collected { needed, damaged, held, read: self.read, ..Collected::default() };
        Going { packs: self.weighed, collected }
    }

    fn stale_scans(&self) -> Result<Vec<(SessionId, Option<Root>)>, SnapshotError> {
        let mut stale = vec![];
        for entry in std::fs::read_dir(self.vault.scans())? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            // Somebody may be about to give one its name.
            let Some(session) = name.and_then(|name| name.parse().ok()) else { continue };
            let root = Scan::root_of(&path);
            if !self.has_followed(root) {
                stale.push((session, root));
            }
        }
        Ok(stale)
    }

    fn has_followed(&self, root: Option<Root>) -> bool {
        root.is_some_and(|root| self.followed.contains(&root))
    }

    /// What is known of sessions' files must not name what is about to go.
    fn forget_scans(&self, since: &Since) -> Result<(), SnapshotError> {
        let mut last: HashMap<SessionId, Option<Root>> = self.stale.iter().copied().collect();
        last.extend(&since.scans);
        for (session, root) in last {
            if !self.has_followed(root) && !since.sound.contains(&session) {
                self.vault.forget(session)?;
            }
        }
        Ok(())
    }
}

/// Follows points; returns those that cannot be. `None`: somebody waits until this is over, and they were
/// not all followed.
fn follow_all(
    walk: &mut Walk<'_>,
    roots: &[Root],
    collector: &Collector,
) -> Result<Option<Vec<Damage>>, SnapshotError> {
    let mut lost = vec![];
    for root in roots {
        if collector.is_in_the_way() {
            return Ok(None);
        }
        lost.extend(walk.follow(*root)?.map(|wrong| wrong.of(*root)));
    }
    Ok(Some(lost))
}

fn is_older(path: &Path, grace: Duration) -> bool {
    let written = std::fs::metadata(path).and_then(|stat| stat.modified());
    let age = written.ok().and_then(|written| SystemTime::now().duration_since(written).ok());
    age.is_some_and(|age| age >= grace)
}
