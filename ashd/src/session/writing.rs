//! Files of a session, changed from outside.

use std::io;
use std::time::SystemTime;

use futures_util::Stream;

use super::api::{Caller, Refusal};
use super::driver::{Command, Workspace};
use super::files::{Tag, no_file, refused, tag_of};
use super::incoming::{Incoming, Parts, Upload, take_out, unwritable};
use super::service::{Result, Service, blocking};
use crate::domain::{Session, SessionId, Status};
use crate::fault;
use crate::tree::dir::{self, Kind, Stat};
use crate::tree::{Over, RelPath, TreeError};

/// Permission bits of files that are new.
const MODE: u16 = 0o644;

/// What a client takes for granted of a file that it changes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Condition {
    /// It has one of these tags, and no weak one; with none among them, it is there.
    pub is: Option<Vec<String>>,
    /// It has none of these; with none among them, it is not there.
    pub is_not: Option<Vec<String>>,
}

/// A file that was put.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Written {
    /// Whether nothing was there before.
    pub created: bool,
    /// Bytes.
    pub size: u64,
    /// The tag of what was put, unless the agent has changed it since.
    pub tag: Option<Tag>,
}

/// One file of a batch.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Piece {
    /// Its path, as the client wrote it.
    pub path: String,
    /// Where it belongs, what it is called beside what came, and its bytes; or why not.
    pub content: std::result::Result<(RelPath, String, u64), String>,
}

impl Service {
    /// Takes in what is to become files of a session, which must be one that can be changed.
    pub async fn receive<S>(
        &self,
        caller: &Caller,
        id: SessionId,
        upload: Upload<S>,
    ) -> Result<Incoming>
    where
        S: Stream<Item = Result<bytes::Bytes>> + Unpin,
    {
        self.changeable(caller, id).await?;
        upload.receive(&self.shared).await
    }

    /// Puts what came in at a path of the workspace, in one step.
    pub async fn put_file(
        &self,
        caller: &Caller,
        id: SessionId,
        path: RelPath,
        (incoming, condition): (Incoming, Condition),
    ) -> Result<Written> {
        self.change(caller, id, move |workspace| {
            put(workspace, &path, (&incoming, incoming.body().1), &condition)
        })
        .await
    }

    /// Takes apart what came in. `take` is called on a thread that may block.
    pub async fn take_apart<T: Send + 'static>(
        &self,
        incoming: Incoming,
        take: impl FnOnce(&mut dyn io::Read, &mut Parts<'_>) -> T + Send + 'static,
    ) -> Result<(Incoming, T)> {
        blocking(move || {
            let (mut reader, mut parts) = incoming.open()?;
            let taken = take(&mut reader, &mut parts);
            drop(parts);
            Ok((incoming, taken))
        })
        .await
    }

    /// Puts the files of a batch, each in one step; what fails does not stop the others.
    pub async fn put_files(
        &self,
        caller: &Caller,
        id: SessionId,
        (incoming, mut pieces): (Incoming, Vec<Piece>),
    ) -> Result<Vec<Piece>> {
        self.change(caller, id, move |workspace| {
            for piece in &mut pieces {
                let Ok((path, name, _)) = &piece.content else { continue };
                let put = put(workspace, path, (&incoming, name), &Condition::default());
                if let Err(refusal) = put {
                    piece.content = Err(refusal.public_text());
                }
            }
            Ok(pieces)
        })
        .await
    }

    /// Removes a file of the workspace; with `whole` also a directory and everything in it.
    pub async fn remove_file(
        &self,
        caller: &Caller,
        id: SessionId,
        path: RelPath,
        (whole, condition): (bool, Condition),
    ) -> Result<()> {
        self.changeable(caller, id).await?;
        let shared = self.shared.clone();
        self.change(caller, id, move |workspace| {
            let there = workspace.tree.look(&path).map_err(refused)?;
            let there = there.ok_or(Refusal::NoFile)?;
            if there.kind == Kind::Dir && !whole {
                let text =
                    "Path is a directory; it goes with everything in it with ?recursive=true";
                return Err(Refusal::Invalid(text.to_owned()));
            }
            condition.check(Some(&there))?;
            if there.kind != Kind::Dir {
                return workspace.tree.remove(&path).map_err(unchanged);
            }
            take_out(&shared, &workspace.tree, &path)
        })
        .await
    }

    /// Whether the files of a session can be changed.
    pub(super) async fn changeable(&self, caller: &Caller, id: SessionId) -> Result<()> {
        match self.stored(caller, id).await?.status {
            Status::Starting => Err(Refusal::FilesNotReady),
            Status::Ended => Err(Refusal::ReadOnly),
            _ => Ok(()),
        }
    }

    /// The user that the files of a session belong to. One that has none on the disk gets them back.
    pub(super) async fn owner_of(&self, caller: &Caller, id: SessionId) -> Result<u32> {
        match self.stored(caller, id).await? {
            Session { slot: Some(slot), restore: None, .. } => {
                Ok(self.shared.slots.uids(slot).agent)
            }
            Session { status: Status::Ended, .. } => Err(Refusal::ReadOnly),
            _ => self.change(caller, id, |workspace| Ok(workspace.owner)).await,
        }
    }

    /// Changes files of a session in its turn.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        caller: &Caller,
        id: SessionId,
        work: impl FnOnce(&Workspace) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        // Here nobody else waits for it.
        self.shared.sync_before_change(id).await?;
        let changed = self.ask(caller, id, |reply| {
            Command::Write(Box::new(move |workspace| {
                // Whoever is gone does not need the answer.
                let _ = reply.send(workspace.and_then(work));
            }))
        });
        changed.await.map_err(|refusal| match refusal {
            Refusal::Ended => Refusal::ReadOnly,
            other => other,
        })
    }
}

/// Gives a file that came in to the agent, in one step and on the disk.
fn put(
    workspace: &Workspace,
    path: &RelPath,
    (incoming, name): (&Incoming, &str),
    condition: &Condition,
) -> Result<Written> {
    let there = workspace.tree.look(path).map_err(unchanged)?;
    if there.is_some_and(|there| there.kind == Kind::Dir) {
        return Err(no_file());
    }
    condition.check(there.as_ref())?;
    let mode = there.filter(|there| there.kind == Kind::File).map_or(MODE, |there| there.mode);
    let ready = || -> io::Result<(std::fs::File, Stat)> {
        let c_name = std::ffi::CString::new(name)?;
        let file = incoming.tree().top()?.file(&c_name)?;
        let (seconds, nanoseconds) = dir::stat_of(&file)?.modified;
        // A time that nothing gets by being written: a change by the agent shows, also in the same tick.
        let at = (seconds, nanoseconds ^ 1);
        dir::finish(&file, workspace.owner, mode & 0o777, at)?;
        file.sync_all()?;
        let stat = dir::stat_of(&file)?;
        Ok((file, stat))
    };
    let (file, staged) = ready().map_err(|error| unwritable(&error))?;
    fault::point("write.staged");
    let over = if condition.is_new() { Over::Nothing } else { Over::Files };
    let from = (incoming.tree(), name);
    workspace.tree.put(path, from, over, workspace.owner).map_err(unchanged)?;
    fault::point("write.placed");
    let now = dir::stat_of(&file).ok();
    let same = |now: &Stat| (now.size, now.modified) == (staged.size, staged.modified);
    let tag = now.filter(same).map(|now| tag_of(&now, SystemTime::now()));
    Ok(Written { created: there.is_none(), size: staged.size, tag })
}

impl Condition {
    fn check(&self, there: Option<&Stat>) -> Result<()> {
        let tag = there.map(|there| tag_of(there, SystemTime::now()));
        let among = |tags: &[String], also_weak: bool| match &tag {
            Some(Tag { opaque, weak }) => {
                tags.is_empty() || (also_weak || !weak) && tags.contains(opaque)
            }
            None => false,
        };
        if self.is.as_ref().is_some_and(|tags| !among(tags, false)) {
            return Err(Refusal::Precondition("it is not there, or was changed since"));
        }
        if self.is_not.as_ref().is_some_and(|tags| among(tags, true)) {
            return Err(Refusal::Precondition("it is there already"));
        }
        Ok(())
    }

    /// Whether nothing may be there.
    fn is_new(&self) -> bool {
        self.is_not.as_ref().is_some_and(Vec::is_empty)
    }
}

/// What a change of the workspace that failed is to the caller.
pub(super) fn unchanged(error: TreeError) -> Refusal {
    match error {
        TreeError::Duplicate(_) => Refusal::Precondition("it is there already"),
        TreeError::NotDirectory(path) => {
            Refusal::InTheWay(format!("{path}: a file or a link is where a directory is needed"))
        }
        TreeError::ThroughLink(path) => Refusal::InTheWay(format!(
            "{path} leads through a symbolic link, which is not followed"
        )),
        TreeError::Io { error, .. } => unwritable(&error),
        error => refused(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat() -> Stat {
        let stat = dir::stat_of(tempfile::tempfile().unwrap()).unwrap();
        Stat { modified: (0, 0), ..stat }
    }

    fn own(stat: &Stat) -> Option<Vec<String>> {
        Some(vec![tag_of(stat, SystemTime::now()).opaque])
    }

    #[test]
    fn conditions_are_about_what_is_there() {
        let stat = stat();
        let (own, other) = (own(&stat), Some(vec!["x".to_owned()]));
        let any = || Some(vec![]);
        let holds = |is: &Option<Vec<String>>, is_not: &Option<Vec<String>>, there| {
            Condition { is: is.clone(), is_not: is_not.clone() }.check(there).is_ok()
        };
        assert!(holds(&None, &None, None) && holds(&None, &None, Some(&stat)));
        assert!(holds(&own, &None, Some(&stat)) && holds(&any(), &None, Some(&stat)));
        assert!(!holds(&other, &None, Some(&stat)) && !holds(&any(), &None, None));
        assert!(holds(&None, &other, Some(&stat)) && holds(&None, &any(), None));
        assert!(!holds(&None, &own, Some(&stat)) && !holds(&None, &any(), Some(&stat)));
    }

    #[test]
    fn what_may_be_another_content_is_not_taken_for_the_same() {
        // It was changed this very moment, for as long as this test takes.
        let changed = (i64::MAX, 0);
        let stat = Stat { modified: changed, changed, ..stat() };
        let holds = |is: Option<Vec<String>>, is_not: Option<Vec<String>>| {
            Condition { is, is_not }.check(Some(&stat)).is_ok()
        };
        assert!(!holds(own(&stat), None) && holds(Some(vec![]), None));
        assert!(!holds(None, own(&stat)) && !holds(None, Some(vec![])));
    }
}
