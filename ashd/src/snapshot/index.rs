//! Where each chunk is.
//!
//! A cache of what the packs' tables say, in a database of its own, so that it needs neither much
//! memory nor long at the start. What was written lately is kept in memory only, and goes into the
//! database many packs at a time: a small pack would cost more there than in itself. Whatever the
//! database does not know at the start is read from the packs again; what it knows and is gone, it
//! forgets.
//!
//! To open it takes no longer the more it knows: whether the database is sound is looked at later, see
//! [`sound`](super::sound).
//!
//! Packs do not say whose saves have stored what is in them. That is noted here as long as it is known:
//! when it is not any more, a chunk counts as anybody's.

mod file;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::json;
use uuid::Uuid;

use self::file::connect;
pub(super) use self::file::{INDEX, copy, damage_of, remove};
use super::SnapshotError;
use super::check::BadPack;
use super::chunk::ChunkId;
use super::pack::{self, Row};
use crate::domain::SessionId;

/// Chunks that are kept in memory until they go into the database.
const FRESH: usize = 8192;

/// Where a chunk is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) pack: Uuid,
    pub(super) row: Row,
}

/// A pack: its name, and its size.
pub(super) type Known = (Uuid, u64);

/// A chunk that the database does not know yet.
struct Fresh {
    place: Place,
    /// Whose save has stored it, if that is known.
    writer: Option<SessionId>,
}

/// Packs that are about to go, and what of each of them nobody needs, sorted by name.
pub(super) type Going = HashMap<Uuid, Arc<[Row]>>;

pub(super) struct Index {
    conn: Connection,
    packs: PathBuf,
    fresh: HashMap<ChunkId, Fresh>,
    fresh_packs: Vec<Known>,
    going: Going,
    /// Packs that are there, are not known, and could not be read: they may be sound.
    left_out: Vec<Uuid>,
}

/// What an index and the packs had to say to each other.
#[derive(Debug)]
pub(super) struct Agreed {
    /// Packs that it knew, and that are not there.
    pub(super) gone: Vec<Uuid>,
    /// Packs that are there and cannot be used.
    pub(super) useless: Vec<BadPack>,
}

/// Forgets what is known of sessions' files: it may name what an index is about to forget.
type Forget<'a> = &'a dyn Fn() -> Result<(), SnapshotError>;

impl Index {
    /// Opens the index at `path`, made anew when it is found damaged, and brings it into agreement with
    /// the packs. Packs that cannot be read are left alone. Before it forgets something, and before it is made
    /// when there is none, `forget` is called: whoever dies behind that leaves nothing that says so.
    pub(super) fn open(
        path: &Path,
        packs: &Path,
        forget: Forget<'_>,
    ) -> Result<(Index, Agreed), SnapshotError> {
        if !path.exists() {
            forget()?;
        }
        match Index::begin(path, packs, forget) {
            Err(SnapshotError::Index(how)) => {
                tracing::warn!(how, "the index of a snapshot store is made anew");
                forget()?;
                remove(path)?;
                Index::begin(path, packs, forget)
            }
            opened => opened,
        }
    }

    fn begin(
        path: &Path,
        packs: &Path,
        forget: Forget<'_>,
    ) -> Result<(Index, Agreed), SnapshotError> {
        let mut index = Index::of(connect(path)?, packs);
        let agreed = index.agree(false, forget)?;
        Ok((index, agreed))
    }

    /// Opens a copy of an index, brings it into agreement with the packs, and keeps what was in those that
    /// are gone: see [`lost_with`](Self::lost_with).
    pub(super) fn look(copy: &Path, packs: &Path) -> Result<(Index, Agreed), SnapshotError> {
        let mut index = Index::of(connect(copy)?, packs);
        let agreed = index.agree(true, &|| Ok(()))?;
        Ok((index, agreed))
    }

    fn of(conn: Connection, packs: &Path) -> Index {
        let (packs, fresh, fresh_packs) = (packs.to_owned(), HashMap::new(), vec![]);
        Index { conn, packs, fresh, fresh_packs, going: Going::new(), left_out: vec![] }
    }

    /// Makes the index at `path` anew, out of the packs that are there. When that fails it says nothing any
    /// more, until it is made anew. Nothing is known of sessions' files that relies on the one of before.
    pub(super) fn make_anew(&mut self, path: &Path) -> Result<(), SnapshotError> {
        // In which nothing is found, not even tables. The one of before is closed with this.
        self.conn = Connection::open_in_memory()?;
        self.fresh.clear();
        self.fresh_packs.clear();
        remove(path)?;
        self.conn = connect(path)?;
        self.agree(false, &|| Ok(())).map(drop)
    }

    /// Packs never change: one of another size is not what it was.
    fn agree(&mut self, keeps_lost: bool, forget: Forget<'_>) -> Result<Agreed, SnapshotError> {
        let there: HashSet<Known> = on_disk(&self.packs)?.into_iter().collect();
        let known: HashSet<Known> = self.known()?.into_iter().collect();
        let names: HashSet<Uuid> = there.iter().map(|(name, _)| *name).collect();
        let other: Vec<Uuid> = known.difference(&there).map(|(name, _)| *name).collect();
        let gone: Vec<Uuid> = other.iter().copied().filter(|name| !names.contains(name)).collect();
        if keeps_lost {
            self.keep_lost(&gone)?;
        }
        if !other.is_empty() {
            forget()?;
            self.forget(&other)?;
        }
        let useless = self.add_all_found(there.difference(&known).map(|(name, _)| *name))?;
        Ok(Agreed { gone, useless })
    }

    /// Takes in packs that are there and not known. Returns those that cannot be used.
    fn add_all_found(
        &mut self,
        packs: impl Iterator<Item = Uuid>,
    ) -> Result<Vec<BadPack>, SnapshotError> {
        let (mut useless, mut left_out) = (vec![], vec![]);
        for pack in packs {
            match self.read(pack) {
                Ok((bytes, rows)) => self.add_found((pack, bytes), &rows)?,
                Err(error) => {
                    if !matches!(error, SnapshotError::Damaged { .. }) {
                        left_out.push(pack);
                        if !self.left_out.contains(&pack) {
                            tracing::error!(%pack, %error, "a pack cannot be read");
                        }
                    }
                    useless.push(BadPack { pack, how: error.to_string() });
                }
            }
        }
        self.left_out = left_out;
        Ok(useless)
    }

    /// How large a pack is, and what is in it.
    fn read(&self, pack: Uuid) -> Result<(u64, Vec<Row>), SnapshotError> {
        let file = pack::open(&self.packs, pack)?;
        Ok((file.metadata()?.len(), pack::read_table(&file, pack)?))
    }

    /// Tries packs once more that could not be read; whether there are still some. What is not found may be in
    /// them then.
    pub(super) fn leaves_out(&mut self) -> Result<bool, SnapshotError> {
        if !self.left_out.is_empty() {
            let known: HashSet<Uuid> = self.known()?.into_iter().map(|pack| pack.0).collect();
            let left_out = self.left_out.clone().into_iter();
            self.add_all_found(left_out.filter(|pack| !known.contains(pack)))?;
        }
        Ok(!self.left_out.is_empty())
    }

    /// Keeps what is in packs that are about to be forgotten.
    fn keep_lost(&mut self, packs: &[Uuid]) -> Result<(), SnapshotError> {
        let keys = packs.iter().filter_map(|name| key_of(&self.conn, *name).transpose());
        let keys = keys.collect::<Result<Vec<i64>, _>>()?;
        let step = self.conn.transaction()?;
        step.execute_batch(
            "DROP TABLE IF EXISTS lost;
             CREATE TABLE lost (id BLOB PRIMARY KEY, name BLOB NOT NULL) WITHOUT ROWID, STRICT",
        )?;
        if !packs.is_empty() {
            let sql = "INSERT INTO lost SELECT id, name FROM chunks JOIN packs ON pack = packs.key
                 WHERE pack IN (SELECT value FROM json_each(?))";
            step.execute(sql, [json!(keys).to_string()])?;
        }
        Ok(step.commit()?)
    }

    /// The pack in which a chunk was, if that is gone. Only a copy that is looked at knows that.
    pub(super) fn lost_with(&self, id: ChunkId) -> Result<Option<Uuid>, SnapshotError> {
        let mut query = self.conn.prepare_cached("SELECT name FROM lost WHERE id = ?")?;
        let name = |row: &rusqlite::Row<'_>| Ok(Uuid::from_bytes(row.get(0)?));
        Ok(query.query_row([id.0], name).optional()?)
    }

    /// Every pack.
    pub(super) fn known(&self) -> Result<Vec<Known>, SnapshotError> {
        let mut query = self.conn.prepare_cached("SELECT name, bytes FROM packs")?;
        let rows = query.query_map([], |row| Ok((Uuid::from_bytes(row.get(0)?), row.get(1)?)))?;
        let stored = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(stored.into_iter().chain(self.fresh_packs.iter().copied()).collect())
    }

    /// Where a chunk is; `None`: nowhere.
    pub(super) fn find(&self, id: ChunkId) -> Result<Option<Place>, SnapshotError> {
        if let Some(fresh) = self.fresh.get(&id) {
            return Ok(Some(fresh.place));
        }
        let sql = "SELECT name, offset, stored, length, compressed
             FROM chunks JOIN packs ON pack = packs.key WHERE id = ?";
        let place = |row: &rusqlite::Row<'_>| {
            let pack = Uuid::from_bytes(row.get(0)?);
            let (offset, stored, length) = (row.get(1)?, row.get(2)?, row.get(3)?);
            Ok(Place { pack, row: Row { id, offset, stored, length, compressed: row.get(4)? } })
        };
        Ok(self.conn.prepare_cached(sql)?.query_row([id.0], place).optional()?)
    }

    /// Whether a chunk counts as stored: it is somewhere, and stays. What is about to go can still be
    /// found by those who need it now.
    pub(super) fn counts(&self, id: ChunkId) -> Result<bool, SnapshotError> {
        let Some(place) = self.find(id)? else { return Ok(false) };
        let spare = self.going.get(&place.pack);
        Ok(spare.is_none_or(|rows| rows.binary_search_by_key(&id, |row| row.id).is_err()))
    }

    /// Those of some chunks that do not count as stored. What is read is locked once for all of them.
    pub(super) fn uncounted(&self, ids: &[ChunkId]) -> Result<HashSet<ChunkId>, SnapshotError> {
        let _step = self.conn.unchecked_transaction()?;
        let mut uncounted = HashSet::new();
        for id in ids {
            if !self.counts(*id)? {
                uncounted.insert(*id);
            }
        }
        Ok(uncounted)
    }

    /// Notes which packs are about to go, and no others.
    pub(super) fn set_going(&mut self, going: Going) {
        self.going = going;
    }

    /// Whether a pack is about to go.
    pub(super) fn is_going(&self, pack: Uuid) -> bool {
        self.going.contains_key(&pack)
    }

    /// Sees to it that a pack stays, if it was about to go.
    pub(super) fn let_stay(&mut self, pack: Uuid) {
        self.going.remove(&pack);
    }

    /// Whose save has stored a chunk; `None`: anybody's, it is not known, or not any more.
    pub(super) fn writer(&self, id: ChunkId) -> Result<Option<SessionId>, SnapshotError> {
        if let Some(fresh) = self.fresh.get(&id) {
            return Ok(fresh.writer);
        }
        let sql = "SELECT session FROM chunks JOIN writers ON writer = writers.key WHERE id = ?";
        let session =
            |row: &rusqlite::Row<'_>| Ok(SessionId(Uuid::from_bytes(row.get::<_, [u8; 16]>(0)?)));
        Ok(self.conn.prepare_cached(sql)?.query_row([id.0], session).optional()?)
    }

    /// Takes a pack in, with what the save of a session has stored, or what may be anybody's.
    pub(super) fn add(
        &mut self,
        pack: Known,
        rows: &[Row],
        writer: Option<SessionId>,
    ) -> Result<(), SnapshotError> {
        self.take_in(pack, rows.iter().map(|row| (*row, writer)))
    }

    /// Takes a pack in, with what was in others: whose that is stays as it is.
    pub(super) fn add_moved(&mut self, pack: Known, rows: &[Row]) -> Result<(), SnapshotError> {
        let writers = rows.iter().map(|row| self.writer(row.id));
        let writers = writers.collect::<Result<Vec<_>, _>>()?;
        self.take_in(pack, rows.iter().copied().zip(writers))
    }

    fn take_in(
        &mut self,
        pack: Known,
        rows: impl Iterator<Item = (Row, Option<SessionId>)>,
    ) -> Result<(), SnapshotError> {
        let place = |row| Place { pack: pack.0, row };
        self.fresh_packs.push(pack);
        self.fresh.extend(rows.map(|(row, writer)| (row.id, Fresh { place: place(row), writer })));
        if self.fresh.len() >= FRESH || self.fresh_packs.len() >= FRESH {
            self.flush()?;
        }
        Ok(())
    }

    /// Takes a pack in that was there and not known, as when a daemon died before it removed it.
    /// What is known to be elsewhere stays there: it may have been found damaged in this one.
    fn add_found(&mut self, pack: Known, rows: &[Row]) -> Result<(), SnapshotError> {
        let mut new = vec![];
        for row in rows {
            // Nor is it left in one that is about to go, with which it would be forgotten.
            if !self.counts(row.id)? {
                new.push(*row);
            }
        }
        self.add(pack, &new, None)
    }

    /// Brings what is in memory only into the database.
    pub(super) fn flush(&mut self) -> Result<(), SnapshotError> {
        let step = self.conn.transaction()?;
        let mut keys = HashMap::new();
        for (name, bytes) in &self.fresh_packs {
            let sql = "INSERT OR REPLACE INTO packs (name, bytes) VALUES (?, ?)";
            step.prepare_cached(sql)?.execute(params![name.as_bytes(), bytes])?;
            keys.insert(*name, step.last_insert_rowid());
        }
        let mut writers = HashMap::new();
        for Fresh { place, writer } in self.fresh.values() {
            let sql = "INSERT OR REPLACE INTO chunks
                 (id, pack, offset, stored, length, compressed, writer)
                 VALUES (?, ?, ?, ?, ?, ?, ?)";
            let Row { id, offset, stored, length, compressed } = place.row;
            let Some(pack) = keys.get(&place.pack) else { continue };
            let writer = writer.map(|writer| key_of_writer(&step, &mut writers, writer));
            let writer = writer.transpose()?;
            let row = params![id.0, pack, offset, stored, length, compressed, writer];
            step.prepare_cached(sql)?.execute(row)?;
        }
        step.commit()?;
        self.fresh.clear();
        self.fresh_packs.clear();
        Ok(())
    }

    /// Forgets packs and what is in them; false if none of them is known.
    pub(super) fn forget(&mut self, names: &[Uuid]) -> Result<bool, SnapshotError> {
        self.flush()?;
        let step = self.conn.transaction()?;
        let mut keys = vec![];
        for name in names {
            keys.extend(key_of(&step, *name)?);
        }
        if keys.is_empty() {
            return Ok(false);
        }
        // Every chunk is looked at, so that this is asked once, however many packs go.
        let keys = json!(keys).to_string();
        for sql in [
            "DELETE FROM chunks WHERE pack IN (SELECT value FROM json_each(?))",
            "DELETE FROM packs WHERE key IN (SELECT value FROM json_each(?))",
        ] {
            step.execute(sql, [&keys])?;
        }
        step.commit()?;
        Ok(true)
    }

    /// Forgets packs, each with every chunk that is in it, and that they are about to go. Unlike
    /// [`forget`](Self::forget) this looks at no others: whoever saves meanwhile does not wait for long.
    pub(super) fn forget_with(
        &mut self,
        packs: &[(Uuid, Vec<ChunkId>)],
    ) -> Result<(), SnapshotError> {
        self.flush()?;
        let step = self.conn.transaction()?;
        for (name, ids) in packs {
            let Some(key) = key_of(&step, *name)? else { continue };
            disown_all(&step, key, ids)?;
            step.prepare_cached("DELETE FROM packs WHERE key = ?")?.execute([key])?;
        }
        step.commit()?;
        packs.iter().for_each(|(name, _)| self.let_stay(*name));
        Ok(())
    }

    /// Forgets who these sessions were, or whoever has stored anything: what is left of theirs is anybody's.
    /// On the disk when this returns, so that the power cannot bring them back.
    pub(super) fn forget_writers(
        &mut self,
        sessions: Option<&HashSet<SessionId>>,
    ) -> Result<(), SnapshotError> {
        // Else what is in memory would make them known again.
        self.flush()?;
        self.conn.execute_batch("PRAGMA synchronous = FULL")?;
        let forgotten = forget_all(&self.conn, sessions);
        self.conn.execute_batch("PRAGMA synchronous = NORMAL")?;
        forgotten
    }

    /// Forgets one chunk, so that it is stored again when it is there again.
    pub(super) fn disown(&mut self, id: ChunkId) -> Result<(), SnapshotError> {
        self.flush()?;
        self.conn.execute("DELETE FROM chunks WHERE id = ?", [id.0])?;
        Ok(())
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // What cannot be written now is read from the packs at the next start.
        let _ = self.flush();
    }
}

fn key_of(conn: &Connection, pack: Uuid) -> Result<Option<i64>, SnapshotError> {
    let mut query = conn.prepare_cached("SELECT key FROM packs WHERE name = ?")?;
    Ok(query.query_row([pack.as_bytes()], |row| row.get(0)).optional()?)
}

/// The number of a session that has stored something. Numbers are not given twice: that of one who was
/// forgotten is nobody's.
fn key_of_writer(
    conn: &Connection,
    known: &mut HashMap<SessionId, i64>,
    session: SessionId,
) -> Result<i64, SnapshotError> {
    if let Some(key) = known.get(&session) {
        return Ok(*key);
    }
    let id = session.0.as_bytes();
    let sql = "INSERT INTO writers (session) VALUES (?) ON CONFLICT DO NOTHING";
    conn.prepare_cached(sql)?.execute([id])?;
    let mut query = conn.prepare_cached("SELECT key FROM writers WHERE session = ?")?;
    let key = query.query_row([id], |row| row.get(0))?;
    known.insert(session, key);
    Ok(key)
}

fn forget_all(
    conn: &Connection,
    sessions: Option<&HashSet<SessionId>>,
) -> Result<(), SnapshotError> {
    let step = conn.unchecked_transaction()?;
    match sessions {
        None => drop(step.execute("DELETE FROM writers", [])?),
        Some(sessions) => {
            for session in sessions {
                let sql = "DELETE FROM writers WHERE session = ?";
                step.prepare_cached(sql)?.execute([session.0.as_bytes()])?;
            }
        }
    }
    Ok(step.commit()?)
}

/// Forgets that chunks are in this pack; those that are in another one by now stay.
fn disown_all(conn: &Connection, key: i64, ids: &[ChunkId]) -> Result<(), SnapshotError> {
    let mut step = conn.prepare_cached("DELETE FROM chunks WHERE id = ? AND pack = ?")?;
    for id in ids {
        step.execute(params![id.0, key])?;
    }
    Ok(())
}

/// The packs that are there.
pub(super) fn on_disk(packs: &Path) -> Result<Vec<Known>, SnapshotError> {
    let mut found = vec![];
    for entry in std::fs::read_dir(packs)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().and_then(pack::name_of) else { continue };
        match entry.metadata() {
            // Whoever collects has removed it just now.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            stat => found.push((name, stat?.len())),
        }
    }
    Ok(found)
}
