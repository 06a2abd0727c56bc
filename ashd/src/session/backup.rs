//! Backups of everything, while the daemon runs.
//!
//! First every session that may be ahead of its newest point gets another one. Then the snapshots of
//! all tenants are pinned, so that whatever a point needs stays, and the database is copied at one
//! moment. In the copy each session goes back to its newest point: conversation and files in a backup
//! are of the same moment, also those of a turn that was running. At last come the files that rows of
//! the copy name. Deployments wait until those of agents are written.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use uuid::Uuid;

use super::api::Refusal;
use super::copies::send::RESTORED;
use super::going_on;
use super::keys::KEY_FILE;
use super::service::{Result, Service, blocking, detached};
use super::shared::Shared;
use super::under_way::Begun;
use crate::backup::{BackupError, Entry, Manifest, Name, Target};
use crate::domain::{
    Agent, Attachment, Changed, Point, SandboxId, Session, SessionChange, SessionId, Status,
    Tenant, Timestamp, Which,
};
use crate::fault;
use crate::snapshot::{Pin, SnapshotError, Vault};
use crate::store::sqlite::{Options, Sqlite};
use crate::store::{Commit, Store};
use crate::tree::remove_all;

/// What directories begin with in which a copy of the database is made ready.
pub(super) const ASIDE: &str = "backup-";

/// The file in such a directory.
const COPY: &str = "ash.db";

/// What becomes of a turn that was running at the point.
const INTERRUPTED: &str = "Interrupted: the session was brought back from a backup, in mid-turn";

/// A backup that was made.
#[derive(Clone, Copy, Debug)]
pub struct BackedUp {
    /// Which.
    pub id: Uuid,
    /// When the database was copied.
    pub at: Timestamp,
    /// Sessions in it, ended ones among them.
    pub sessions: u64,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that were not there already.
    pub written: u64,
    /// Sessions that are not in it, because they were being made.
    pub left_out: u64,
    /// Sessions that could not be saved, and are in it as they were saved last: that may be long ago.
    pub stale: u64,
}

/// The vaults of some tenants, pinned.
struct Pinned(Vec<(Tenant, Arc<Vault>, Pin)>);

/// A copy of the database, in a directory that goes when this is dropped.
struct Copied {
    parent: PathBuf,
    name: Begun<String>,
}

impl Drop for Copied {
    fn drop(&mut self) {
        if let Err(error) = remove_all(&self.parent, self.name.thing()) {
            tracing::warn!(%error, "a copy of the database could not be removed");
        }
    }
}

impl Copied {
    fn begin(parent: PathBuf, name: Begun<String>) -> io::Result<Copied> {
        let copied = Copied { parent, name };
        let mut private = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut private, 0o700);
        private.create(copied.parent.join(copied.name.thing()))?;
        Ok(copied)
    }

    fn file(&self) -> PathBuf {
        self.parent.join(self.name.thing()).join(COPY)
    }
}

impl Service {
    /// Brings everything that is needed to go on elsewhere into a directory: what an earlier backup
    /// has brought there already is not written again. Goes on when the caller is gone.
    ///
    /// # Errors
    /// When the directory is not for backups, or the disk or a store fails; then the backup before is
    /// as it was.
    pub async fn back_up(&self, dir: OwnedFd) -> Result<BackedUp> {
        let service = self.clone();
        detached(async move { service.back_up_now(dir).await }).await
    }

    async fn back_up_now(&self, dir: OwnedFd) -> Result<BackedUp> {
        let shared = self.shared.clone();
        let target = blocking(move || Ok(Target::open(dir)?)).await?;
        let unsaved = self.save_all().await?;
        let no_deployment = self.deployments.pause().await;
        let id = Uuid::new_v4();
        let (pinned, copied, at) = shared.copy_database(id).await?;
        fault::point("backup.database");
        let path = copied.file();
        let opened = blocking(move || {
            Ok(Sqlite::open(&path, Options { readers: 1, ..Options::default() })?)
        });
        let copy = opened.await?;
        let left_out = settle(&copy).await?;
        let stale = count_stale(&copy, &unsaved).await?;
        let (sessions, agents) = (copy.count_sessions().await?.all(), copy.all_agents().await?);
        let (target, mut entries) = shared.write_agents(target, agents).await?;
        drop(no_deployment);
        let (target, attachments, lost) =
            shared.write_attachments(target, copy.all_attachments().await?).await?;
        entries.extend(attachments);
        for attachment in lost {
            copy.remove_attachment(attachment.id).await?;
        }
        copy.close().await;
        drop(copy);
        let made = shared.finish((target, entries), (pinned, copied), (id, at, sessions)).await?;
        tracing::info!(
            files = made.files,
            bytes = made.bytes,
            written = made.written,
            sessions,
            left_out,
            stale,
            "backed up"
        );
        if stale > 0 {
            tracing::warn!(stale, "sessions are in the backup as they were saved last");
        }
        Ok(BackedUp { left_out, stale, ..made })
    }

    /// Makes a point of every session whose files may have changed since its newest one: of those
    /// that have been used since the daemon started, and of those that it has not caught up with.
    /// One that cannot be saved is in the backup as it was saved last; which ones, is returned.
    async fn save_all(&self) -> Result<Vec<SessionId>> {
        let used = self.shared.registry.views().into_iter().map(|view| view.session.clone());
        let used = used.filter(|session| session.status != Status::Ended);
        let mut changed: Vec<_> = used.filter(|session| session.restore.is_none()).collect();
        let unsaved = self.shared.store.unsaved_sessions().await?.into_iter();
        let known: HashSet<_> = changed.iter().map(|session| session.id).collect();
        changed.extend(unsaved.filter(|session| !known.contains(&session.id)));
        Ok(self.save_each(changed).await)
    }
}

impl Shared {
    /// Copies the database beside itself, with everything pinned that its points need.
    async fn copy_database(&self, id: Uuid) -> Result<(Pinned, Copied, Timestamp)> {
        let data = self.places.data_dir.clone();
        let size = std::fs::metadata(data.join("ash.db")).map_or(0, |found| found.len());
        self.disk_takes(size)?;
        let mut pinned = Pinned(vec![]);
        loop {
            // A point's packs are there before its row: what is pinned before stays whole.
            pinned = self.pin_more(pinned).await?;
            let (before, parent) = (pinned.0.len(), data.clone());
            let name = self.asides.begin(format!("{ASIDE}{id}"));
            let begin = move || Ok(Copied::begin(parent, name).map_err(broken)?);
            let copied = blocking(begin).await?;
            let at = Timestamp::now();
            self.store.copy_to(&copied.file()).await?;
            // A tenant whose first session was saved meanwhile is in the copy as well.
            pinned = self.pin_more(pinned).await?;
            if pinned.0.len() == before {
                return Ok((pinned, copied, at));
            }
        }
    }

    /// Pins the vaults that are not pinned yet.
    async fn pin_more(&self, mut pinned: Pinned) -> Result<Pinned> {
        let snapshots = self.snapshots.clone();
        blocking(move || {
            let pin = || -> std::result::Result<Pinned, SnapshotError> {
                for tenant in snapshots.tenants()? {
                    if pinned.0.iter().all(|(known, ..)| *known != tenant) {
                        let vault = snapshots.vault(&tenant)?;
                        let pin = vault.pin_packs();
                        pinned.0.push((tenant, vault, pin));
                    }
                }
                Ok(pinned)
            };
            pin().map_err(|error| Refusal::Internal(error.to_string()))
        })
        .await
    }

    /// Writes the folders of every version that there is of agents.
    async fn write_agents(
        self: &Arc<Self>,
        mut target: Target,
        agents: Vec<Agent>,
    ) -> Result<(Target, Vec<Entry>)> {
        let shared = self.clone();
        blocking(move || {
            let mut entries = vec![];
            for agent in agents {
                let Agent { tenant, name, id, .. } = &agent;
                for version in 1..=agent.version {
                    let folder = shared.places.version(tenant, name, version);
                    // One that came from elsewhere has no older ones.
                    if !folder.is_dir() {
                        continue;
                    }
                    shared.go_on()?;
                    let part = Name::Agent(tenant.clone(), name.clone(), *id, version);
                    entries.push(match target.has(&part) {
                        Some(entry) => entry,
                        None => target.add(part, |out| pack(&folder, out))?,
                    });
                }
            }
            Ok((target, entries))
        })
        .await
    }

    /// Writes the contents of attachments. Those that were removed meanwhile are returned.
    async fn write_attachments(
        self: &Arc<Self>,
        mut target: Target,
        attachments: Vec<Attachment>,
    ) -> Result<(Target, Vec<Entry>, Vec<Attachment>)> {
        let shared = self.clone();
        blocking(move || {
            let (mut entries, mut lost) = (vec![], vec![]);
            for attachment in attachments {
                shared.go_on()?;
                let part = Name::Attachment(attachment.session, attachment.id);
                if let Some(entry) = target.has(&part) {
                    entries.push(entry);
                    continue;
                }
                let folder = shared.places.attachments_of(attachment.session);
                match File::open(folder.join(attachment.id.to_string())) {
                    Ok(mut file) => entries.push(target.copy(part, &mut file)?),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => lost.push(attachment),
                    Err(error) => return Err(broken(error).into()),
                }
            }
            Ok((target, entries, lost))
        })
        .await
    }

    /// Writes packs, small files and the database, and makes a backup of it all.
    async fn finish(
        self: &Arc<Self>,
        (mut target, mut entries): (Target, Vec<Entry>),
        (pinned, copied): (Pinned, Copied),
        (id, at, sessions): (Uuid, Timestamp, u64),
    ) -> Result<BackedUp> {
        let shared = self.clone();
        blocking(move || {
            shared.write_packs(&mut target, &pinned, &mut entries)?;
            let data = &shared.places.data_dir;
            let small = [(Name::Node(id), "node"), (Name::ApiKey(id), KEY_FILE)];
            for (part, file) in small {
                match File::open(data.join(file)) {
                    Ok(mut file) => entries.push(target.copy(part, &mut file)?),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(broken(error).into()),
                }
            }
            let mut database = File::open(copied.file()).map_err(broken)?;
            entries.push(target.copy(Name::Database(id), &mut database)?);
            let purged = pinned.0.iter().filter(|(_, vault, _)| vault.was_purged());
            let manifest = Manifest {
                id,
                at,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                schema: Sqlite::SCHEMA,
                sessions,
                purged: purged.map(|(tenant, ..)| tenant.clone()).collect(),
                entries,
            };
            let (files, bytes) = (manifest.entries.len() as u64, manifest.bytes());
            let written = target.written();
            target.publish(&manifest)?;
            Ok(BackedUp { id, at, sessions, files, bytes, written, left_out: 0, stale: 0 })
        })
        .await
    }

    fn write_packs(
        &self,
        target: &mut Target,
        pinned: &Pinned,
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        let failed = |error: SnapshotError| Refusal::Internal(error.to_string());
        for (tenant, vault, _) in &pinned.0 {
            for (pack, bytes) in vault.all_packs().map_err(failed)? {
                self.go_on()?;
                let part = Name::Pack(tenant.clone(), pack);
                // Of two that differ one is not what was written. It takes no whole one's place.
                let is_it = |entry: &Entry| entry.bytes == bytes || !is_whole(vault, pack);
                let there = target.has(&part).filter(is_it);
                entries.push(match there {
                    Some(entry) => entry,
                    None => target.copy(part, &mut vault.open_pack(pack).map_err(failed)?)?,
                });
            }
        }
        Ok(())
    }

    /// A daemon that ends does not wait for a backup.
    fn go_on(&self) -> Result<()> {
        match self.is_shutting_down() {
            true => Err(BackupError::Stopped.into()),
            false => Ok(()),
        }
    }
}

fn is_whole(vault: &Vault, pack: Uuid) -> bool {
    vault.open_whole_pack(pack).is_ok()
}

fn broken(error: io::Error) -> BackupError {
    error.into()
}

/// Packs an agent's folder, which is the daemon's own: links stay links.
fn pack(folder: &Path, out: &mut dyn io::Write) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    archive.follow_symlinks(false);
    archive.append_dir_all("", folder)?;
    archive.finish()
}

/// How many of the sessions that could not be saved are in a copy of the database as they were saved
/// last: some have ended meanwhile, or are not in it.
async fn count_stale(copy: &Sqlite, unsaved: &[SessionId]) -> Result<u64> {
    let mut stale = 0;
    for id in unsaved {
        let session = copy.session(*id).await?;
        stale += u64::from(session.is_some_and(|session| session.status != Status::Ended));
    }
    Ok(stale)
}

/// Brings every session in a copy of the database to its newest point. Those that were being made
/// are not in it; how many, is returned.
async fn settle(copy: &Sqlite) -> Result<u64> {
    let mut left_out = 0;
    for session in copy.unended_sessions().await? {
        if session.status == Status::Ended {
            continue;
        }
        let point = state_of(copy, &session).await?;
        match point.filter(|_| !session.is_arriving()) {
            Some(point) => go_back(copy, &session, &point).await?,
            None => {
                copy.purge_session(session.id).await?;
                left_out += 1;
            }
        }
    }
    // What was being purged when the copy was made is in no backup.
    copy.finish_purges().await?;
    Ok(left_out)
}

/// The point that a session is to be brought to: its newest, or the one that it was going back to.
async fn state_of(copy: &Sqlite, session: &Session) -> Result<Option<Point>> {
    let newest = copy.point(session.id, Which::Newest).await?;
    let Some(id) = session.restore else { return Ok(newest) };
    let wanted = copy.point(session.id, Which::Id(id)).await?;
    // The newest is of the same content once it is on record that the session has gone back.
    let root = wanted.as_ref().map(|wanted| wanted.root);
    let same = newest.filter(|newest| Some(newest.root) == root);
    Ok(same.or(wanted))
}

/// Brings a session to a point of it, as restoring in place does: what happened since is undone. Its
/// files are built when they are needed.
async fn go_back(copy: &Sqlite, session: &Session, point: &Point) -> Result<()> {
    let is_there = point.seq == session.last_seq && point.turn.is_none();
    let now = (session.last_seq, Timestamp::now());
    let events = match is_there {
        true => vec![],
        false => going_on::events(point, now, INTERRUPTED, &going_on::restored(point)),
    };
    let seq = session.last_seq + events.len() as u64;
    let runs = matches!(session.status, Status::Active | Status::Starting);
    let change = SessionChange {
        status: runs.then_some(Status::Paused),
        // Whatever of a sandbox is still there is none of this session's.
        sandbox: Some(SandboxId::random()),
        cli_session: Some(point.cli_session.clone()),
        turn: Some(None),
        restore: Some(Some(point.id)),
        cold: Some(false),
        changed: Some(Changed::No),
        ..SessionChange::none()
    };
    let back_to = (!is_there).then_some(point.id);
    // The same content under the number that history has then.
    let again = (!is_there).then(|| (point.again(session.id, seq), u32::MAX));
    let commit = Commit { back_to, point: again, ..Commit::of(session.id, change, events) };
    copy.commit(commit).await?;
    if copy.generation(session.id).await?.is_some() {
        copy.set_generation(session.id, RESTORED).await?;
    }
    Ok(())
}

impl From<BackupError> for Refusal {
    fn from(error: BackupError) -> Refusal {
        match error {
            BackupError::NoDirectory | BackupError::Open | BackupError::Foreign(_) => {
                Refusal::Invalid(error.to_string())
            }
            BackupError::InUse => Refusal::InTheWay(error.to_string()),
            BackupError::Stopped => Refusal::ShuttingDown,
            error => Refusal::Backup(error.to_string()),
        }
    }
}

#[cfg(test)]
#[path = "backup_tests.rs"]
mod tests;
