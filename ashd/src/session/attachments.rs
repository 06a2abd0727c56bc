//! Attachments: files that are given to a conversation, kept for themselves, and laid into the
//! workspace for the agent.
//!
//! The content lies beside the database under the attachment's id: what it is called comes from
//! outside and is never a path of this machine. It is there before its row, and goes behind it, so
//! that what has no row is a left-over; the next start removes it.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use futures_util::Stream;
use uuid::Uuid;

use super::agents::names;
use super::api::{Caller, Refusal};
use super::difference::Difference;
use super::driver::Workspace;
use super::files::Opened;
use super::incoming::{Incoming, Upload, unwritable};
use super::places::Places;
use super::service::{Result, Service, blocking, detached};
use super::shared::Shared;
use super::writing::unchanged;
use crate::domain::{Attachment, AttachmentId, FileName, MediaType, SessionId, Timestamp};
use crate::fault;
use crate::store::Store;
use crate::tree::dir::{self, Stat};
use crate::tree::{Over, RelPath, Tree, TreeError, remove_all};

/// The most attachments of a session.
const MOST: u32 = 1000;

/// Names that are tried in the workspace for one that is taken there.
const TRIED: u32 = 1000;

/// The directory of the workspace that they are laid into.
const LAID: &str = "attachments";

/// How often it is tried to move a file into a folder that others remove when it is empty.
const MOVES: u32 = 100;

/// What the copy for the workspace is called beside what came in.
const COPY: &str = "copy";

/// What is said of an attachment that comes in.
#[derive(Clone, Debug)]
pub struct NewAttachment {
    /// What it is called.
    pub name: FileName,
    /// What it is.
    pub media: MediaType,
    /// The message that it belongs to.
    pub message: Option<Uuid>,
}

impl Service {
    /// Takes in what is to become an attachment.
    pub async fn receive_attachment<S>(
        &self,
        caller: &Caller,
        id: SessionId,
        upload: Upload<S>,
    ) -> Result<Incoming>
    where
        S: Stream<Item = Result<bytes::Bytes>> + Unpin,
    {
        self.stored(caller, id).await?;
        let most = self.shared.options.max_attachment;
        let received = upload.receive(&self.shared).await;
        let incoming = received.map_err(|refusal| match refusal {
            Refusal::TooLarge(limit) if limit == most => Refusal::AttachmentTooLarge(most),
            other => other,
        })?;
        match incoming.size {
            0 => Err(Refusal::Invalid("Empty attachment content".to_owned())),
            size if size > most => Err(Refusal::AttachmentTooLarge(most)),
            _ => Ok(incoming),
        }
    }

    /// The most bytes of an attachment.
    pub fn largest_attachment(&self) -> u64 {
        self.shared.options.max_attachment
    }

    /// Keeps what came in as an attachment, and lays it into the workspace of a session that has not
    /// ended. Returns where it was laid. Goes on when the caller is gone.
    pub async fn attach(
        &self,
        caller: &Caller,
        id: SessionId,
        (incoming, new): (Incoming, NewAttachment),
    ) -> Result<(Attachment, Option<String>)> {
        let (service, caller) = (self.clone(), caller.clone());
        detached(async move {
            let session = service.stored(&caller, id).await?;
            let changes = service.shared.attaching.begin(id);
            let NewAttachment { name, media, message } = new;
            let attachment = Attachment {
                id: AttachmentId::random(),
                session: id,
                tenant: session.tenant,
                message,
                name,
                media,
                size: incoming.size,
                created_at: Timestamp::now(),
            };
            let incoming = service.shared.keep_attachment(&attachment, incoming).await?;
            drop(changes);
            fault::point("attach.recorded");
            let laid = service.lay(&caller, &attachment, incoming).await;
            let laid = laid.inspect_err(|error| {
                tracing::warn!(ash_session = %id, %error, "an attachment is not in the workspace");
            });
            Ok((attachment, laid.ok()))
        })
        .await
    }

    /// Lays an attachment into the workspace, under a name that nothing has there.
    async fn lay(
        &self,
        caller: &Caller,
        attachment: &Attachment,
        incoming: Incoming,
    ) -> Result<String> {
        self.changeable(caller, attachment.session).await?;
        let name = attachment.name.clone();
        self.change(caller, attachment.session, move |workspace| lay(workspace, &name, &incoming))
            .await
    }

    /// Every attachment of a session, oldest first.
    pub async fn attachments(&self, caller: &Caller, id: SessionId) -> Result<Vec<Attachment>> {
        self.session(caller, id).await?;
        Ok(self.shared.store.attachments(id).await?)
    }

    /// Opens an attachment.
    pub async fn open_attachment(
        &self,
        caller: &Caller,
        id: AttachmentId,
    ) -> Result<(Attachment, Opened)> {
        let attachment = self.attachment(caller, id).await?;
        let folder = self.shared.places.attachments_of(attachment.session);
        let opened = blocking(move || {
            let open = || {
                let tree = Tree::open(&folder)?;
                Opened::on_disk(&tree, &RelPath::parse(&id.to_string())?)
            };
            open().map_err(|error| match error {
                TreeError::Missing(_) => Refusal::AttachmentLost,
                error => Refusal::Internal(error.to_string()),
            })
        });
        Ok((attachment, opened.await?))
    }

    /// Removes an attachment; what was laid into the workspace is the agent's.
    pub async fn detach(&self, caller: &Caller, id: AttachmentId) -> Result<()> {
        let attachment = self.attachment(caller, id).await?;
        let _changes = self.shared.attaching.begin(attachment.session);
        if !self.shared.store.remove_attachment(id).await? {
            return Err(Refusal::NoAttachment);
        }
        fault::point("detach.recorded");
        self.shared.forget_attachment(&attachment).await;
        Ok(())
    }

    async fn attachment(&self, caller: &Caller, id: AttachmentId) -> Result<Attachment> {
        let found = self.shared.store.attachment(id).await?;
        found.filter(|found| found.tenant == caller.tenant).ok_or(Refusal::NoAttachment)
    }
}

impl Shared {
    /// Puts the content of an attachment in its place, and records it. A copy is left beside what
    /// came in.
    async fn keep_attachment(
        &self,
        attachment: &Attachment,
        incoming: Incoming,
    ) -> Result<Incoming> {
        let folder = self.places.attachments_of(attachment.session);
        let name = attachment.id.to_string();
        let incoming = blocking(move || {
            let keep = || -> io::Result<()> {
                let top = incoming.tree().top()?;
                let from = top.file(c"body")?;
                from.sync_all()?;
                let stat: Stat = dir::stat_of(&from)?;
                dir::copy(&from, &top.make_file(c"copy")?, stat.size, &mut true)?;
                move_into(&folder, &name, &incoming.body_path())?;
                // Its own directory, that of all sessions, and the state directory.
                folder.ancestors().take(3).try_for_each(|dir| File::open(dir)?.sync_all())
            };
            keep().map_err(|error| unwritable(&error))?;
            Ok(incoming)
        })
        .await?;
        fault::point("attach.kept");
        let recorded = match self.store.add_attachment(attachment.clone(), MOST).await {
            Ok(true) => return Ok(incoming),
            Ok(false) => Refusal::TooManyAttachments(MOST),
            Err(error) => error.into(),
        };
        self.forget_attachment(attachment).await;
        Err(recorded)
    }

    /// Removes the content of an attachment that is not recorded. What cannot be removed now is
    /// found at the next start.
    async fn forget_attachment(&self, attachment: &Attachment) {
        let folder = self.places.attachments_of(attachment.session);
        let name = attachment.id.to_string();
        let remove = move || {
            let removed = remove_all(&folder, &name);
            // That of others is not empty and stays.
            let _ = fs::remove_dir(&folder);
            removed.map_err(|error| Refusal::Internal(error.to_string()))
        };
        if let Err(error) = blocking(remove).await {
            tracing::warn!(ash_session = %attachment.session, %error, "an attachment was not removed");
        }
    }

    /// Removes what was attached to a session that is not recorded any more.
    pub(super) async fn forget_attachments(&self, id: SessionId) {
        let all = self.places.attachments();
        let remove = move || {
            let removed = remove_all(&all, &id.to_string());
            removed.map_err(|error| Refusal::Internal(error.to_string()))
        };
        if let Err(error) = blocking(remove).await {
            tracing::warn!(ash_session = %id, %error, "attachments were not removed");
        }
    }
}

/// Moves a file into a folder, which is made if there is none. Whoever removes the last of the
/// others takes the empty folder along, maybe just before the file comes: it is made again.
fn move_into(folder: &Path, name: &str, file: &Path) -> io::Result<()> {
    let mut moved = Ok(());
    for _ in 0..MOVES {
        moved = fs::create_dir_all(folder).and_then(|()| fs::rename(file, folder.join(name)));
        match &moved {
            Err(error) if is_raced(error) => {}
            _ => break,
        }
    }
    moved
}

/// What making a folder, or moving something into it, says when the folder goes meanwhile.
fn is_raced(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::AlreadyExists)
}

/// What lies among attachments and belongs to none, but for those of sessions where they are being
/// changed.
///
/// # Errors
/// When the store fails.
pub(super) async fn unrecorded(
    (places, store): (&Places, &dyn Store),
    changing: &BTreeSet<SessionId>,
) -> Result<Vec<Difference>> {
    let all = places.attachments();
    let look = all.clone();
    let mut found = vec![];
    for session in blocking(move || Ok(names(&look))).await? {
        let id: Option<SessionId> = session.parse().ok();
        if id.is_some_and(|id| changing.contains(&id)) {
            continue;
        }
        let folder = all.join(&session);
        let contents = blocking(move || Ok(names(&folder))).await?;
        let known = match id {
            Some(id) => store.attachments(id).await?,
            None => vec![],
        };
        if known.is_empty() {
            found.push(Difference::Attachment(PathBuf::new(), session));
            continue;
        }
        let known: HashSet<_> = known.iter().map(|known| known.id.to_string()).collect();
        let lost = contents.into_iter().filter(|name| !known.contains(name));
        found.extend(lost.map(|name| Difference::Attachment(PathBuf::from(&session), name)));
    }
    Ok(found)
}

fn lay(workspace: &Workspace, name: &FileName, incoming: &Incoming) -> Result<String> {
    let give = || -> io::Result<()> {
        let copy = incoming.tree().top()?.file(c"copy")?;
        dir::give(&copy, workspace.owner, 0o644)?;
        copy.sync_all()
    };
    give().map_err(|error| unwritable(&error))?;
    for number in 1..=TRIED {
        let name = if number == 1 { name.as_str().to_owned() } else { name.numbered(number) };
        let path = format!("{LAID}/{name}");
        let rel = RelPath::parse(&path).map_err(super::files::refused)?;
        let from = (incoming.tree(), COPY);
        match workspace.tree.put(&rel, from, Over::Nothing, workspace.owner) {
            Ok(()) => return Ok(path),
            Err(TreeError::Duplicate(_)) => {}
            Err(error) => return Err(unchanged(error)),
        }
    }
    Err(Refusal::InTheWay(format!("{LAID} has too many files of this name; choose another")))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_folder_that_goes_when_the_last_file_goes_does_not_lose_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("folder"), dir.path().join("file"));
        // How often others remove it yet.
        let (left, stop) = (AtomicU32::new(0), AtomicBool::new(false));
        let moved = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    if left.load(Ordering::Relaxed) > 0 && fs::remove_dir(&folder).is_ok() {
                        left.fetch_sub(1, Ordering::Relaxed);
                    }
                }
            });
            let moved = (0..2_000).try_for_each(|_| {
                left.store(3, Ordering::Relaxed);
                fs::write(&file, "kept")?;
                move_into(&folder, "name", &file)?;
                fs::remove_file(folder.join("name"))
            });
            stop.store(true, Ordering::Relaxed);
            moved
        });
        moved.unwrap();
    }
}
