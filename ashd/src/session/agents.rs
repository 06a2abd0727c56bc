//! Agents: folders that become immutable versions.
//!
//! A folder is taken into a staging directory, checked there, put on disk, and moved into its
//! place; only then is the version recorded. Whatever breaks off before leaves the version before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Mutex, MutexGuard};

use super::api::{AgentChange, Caller, Deployment, Happened, Refusal, Source};
use super::cli;
use super::difference::Difference;
use super::places::Places;
use super::service::blocking;
use super::shared::{Options, PROMPT_LIMIT, Shared};
use crate::domain::{Agent, AgentId, AgentName, Scope, Tenant, Timestamp, check};
use crate::fault;
use crate::telemetry::message;
use crate::tree::{Links, Tree, TreeError, remove_all};

/// The largest `.claude/settings.json` that is looked into, in bytes.
const SETTINGS_LIMIT: u64 = 1024 * 1024;

/// Deployments and changes, one at a time: they are rare, and each builds upon what is there.
#[derive(Default)]
pub(super) struct Deployments(Mutex<()>);

/// What a folder is made of when it has no CLAUDE.md of its own.
const PROMPT: &str = "CLAUDE.md";

impl Deployments {
    /// Holds deployments off while the guard lives.
    pub(super) async fn pause(&self) -> MutexGuard<'_, ()> {
        self.0.lock().await
    }

    /// Deploys a folder as the next version of an agent.
    pub(super) async fn deploy(
        &self,
        shared: &Arc<Shared>,
        caller: &Caller,
        deployment: Deployment,
    ) -> Result<Agent, Refusal> {
        deployment.check()?;
        let Deployment { name, source, system_prompt, env, config } = deployment;
        let source = permitted(source, caller, &shared.live().agent_roots)?;
        let _one = self.0.lock().await;
        let known = shared.store.agent(&caller.tenant, &name).await?;
        let now = Timestamp::now();
        let agent = Agent {
            id: known.as_ref().map_or_else(AgentId::random, |agent| agent.id),
            tenant: caller.tenant.clone(),
            version: known.as_ref().map_or(0, |agent| agent.version) + 1,
            created_at: known.as_ref().map_or(now, |agent| agent.created_at),
            updated_at: now,
            env: env.or(known.as_ref().map(|agent| agent.env.clone())).unwrap_or_default(),
            config: config.or(known.map(|agent| agent.config)).unwrap_or_default(),
            name,
        };
        let (places, options) = (shared.places.clone(), shared.options.clone());
        let target = places.version(&agent.tenant, &agent.name, agent.version);
        let take = move || {
            let staged = Staged::new(&places)?;
            staged.take(source, system_prompt.as_deref(), &options)?;
            staged.keep(&target)
        };
        let agent = match blocking(take).await {
            Ok(()) => record(shared, agent).await?,
            Err(refusal) => {
                forget(shared, &agent).await;
                return Err(refusal);
            }
        };
        tracing::info!(
            message_id = message::AGENT_DEPLOYED, ash_agent = %agent.name, ash_tenant = %agent.tenant,
            version = agent.version, "agent deployed"
        );
        let (tenant, name) = (agent.tenant.clone(), agent.name.clone());
        shared.tell(Happened::AgentDeployed(tenant, name, agent.version));
        Ok(agent)
    }

    /// Changes what holds for an agent without a new version.
    pub(super) async fn change(
        &self,
        shared: &Shared,
        (caller, name): (&Caller, &AgentName),
        change: AgentChange,
    ) -> Result<Agent, Refusal> {
        let _one = self.0.lock().await;
        let known = shared.store.agent(&caller.tenant, name).await?.ok_or(Refusal::NoAgent)?;
        let mut agent = change.of(&known)?;
        if agent == known {
            return Ok(known);
        }
        agent.updated_at = Timestamp::now();
        if !shared.store.change_agent(agent.clone()).await? {
            return Err(Refusal::NoAgent);
        }
        tracing::info!(ash_agent = %name, ash_tenant = %agent.tenant, "agent changed");
        shared.tell(Happened::AgentChanged(agent.tenant.clone(), agent.name.clone()));
        Ok(agent)
    }
}

/// Records a version whose folder is in its place; when that cannot be done the folder goes.
async fn record(shared: &Arc<Shared>, agent: Agent) -> Result<Agent, Refusal> {
    match shared.store.deploy(agent.clone()).await {
        Ok(agent) => Ok(agent),
        Err(error) => {
            forget(shared, &agent).await;
            Err(error.into())
        }
    }
}

/// Removes the folder of a version that is not recorded, if it is there. What cannot be removed now
/// is found at the next start.
async fn forget(shared: &Arc<Shared>, agent: &Agent) {
    let folder = shared.places.agent(&agent.tenant, &agent.name);
    let version = agent.version.to_string();
    let remove = move || {
        if !folder.exists() {
            return Ok(());
        }
        remove_all(&folder, &version)?;
        // That of an agent with other versions is not empty and stays.
        let _ = std::fs::remove_dir(&folder);
        Ok::<(), TreeError>(())
    };
    if let Ok(Err(error)) = tokio::task::spawn_blocking(remove).await {
        tracing::warn!(%error, "the folder of a version that is not recorded was not removed");
    }
}

/// A path of this machine is taken from those who may, and beneath the configured roots only. What
/// the path means is looked up once; then it is opened from the root on, following no link: what
/// somebody puts in its way meanwhile is refused.
fn permitted(source: Source, caller: &Caller, roots: &[PathBuf]) -> Result<Taken, Refusal> {
    let path = match source {
        Source::Directory(path) => path,
        Source::Files(files) => return Ok(Taken::Files(files)),
        Source::Tar(archive) => return Ok(Taken::Tar(archive)),
    };
    if caller.scope < Scope::Manage {
        return Err(Refusal::Forbidden(
            "Deploying from a path needs a key with the scope manage".to_owned(),
        ));
    }
    let real = std::fs::canonicalize(&path).unwrap_or(path);
    let beneath = |root: &PathBuf| {
        let root = std::fs::canonicalize(root).ok()?;
        let rel = real.strip_prefix(&root).ok()?.to_str()?;
        Tree::open(&root).ok()?.subtree(rel).ok()
    };
    let text = "path is not a directory beneath one of the configured agent roots";
    let tree = roots.iter().find_map(beneath);
    tree.map(Taken::Directory).ok_or_else(|| Refusal::Invalid(text.to_owned()))
}

/// Where a folder comes from, opened.
enum Taken {
    Directory(Tree),
    Files(Vec<(String, Bytes)>),
    Tar(Box<dyn io::Read + Send>),
}

/// A folder on its way in; removed again unless it is kept.
struct Staged {
    parent: PathBuf,
    name: String,
    tree: Tree,
}

impl Staged {
    fn new(places: &Places) -> Result<Staged, Refusal> {
        let parent = places.staging();
        std::fs::create_dir_all(&parent).map_err(|error| unwritable(&error))?;
        let name = uuid::Uuid::new_v4().to_string();
        let tree = Tree::create_root(&parent.join(&name), 0, 0o755).map_err(refused)?;
        Ok(Staged { parent, name, tree })
    }

    fn take(&self, source: Taken, prompt: Option<&str>, options: &Options) -> Result<(), Refusal> {
        let limits = options.folder;
        match source {
            Taken::Directory(from) => {
                from.copy_into(&self.tree, 0, limits, Links::Inside).map(drop)
            }
            Taken::Files(files) => self.tree.write_files(&files, 0, limits),
            Taken::Tar(archive) => {
                let mut archive = Heard { archive, failed: None };
                let unpacked = self.tree.unpack_tar(&mut archive, (0, Links::Inside), limits);
                match (unpacked, archive.failed) {
                    (Err(TreeError::Io { .. }), Some(why)) => return Err(Refusal::Invalid(why)),
                    (unpacked, _) => unpacked.map(drop),
                }
            }
        }
        .map_err(refused)?;
        if let Some(prompt) = prompt
            && !self.tree.exists_file(PROMPT).map_err(refused)?
        {
            let prompt = Bytes::copy_from_slice(prompt.as_bytes());
            self.tree.write_files(&[(PROMPT.to_owned(), prompt)], 0, limits).map_err(refused)?;
        }
        self.tree.check_agent_folder(limits).map_err(refused)?;
        // Whatever sessions could not be started with.
        self.tree.read(PROMPT, PROMPT_LIMIT).map_err(refused)?;
        if let Some(model) = model_in(&self.tree) {
            check::line(".claude/settings.json: model", &model, check::LONGEST_NAME)?;
        }
        self.tree.sync().map_err(refused)
    }

    /// Moves the folder to its place. One that is there already was left by a deployment that was
    /// never recorded.
    fn keep(self, target: &Path) -> Result<(), Refusal> {
        let parent = target.parent().unwrap_or(target);
        let name = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let moved = std::fs::create_dir_all(parent)
            .and_then(|()| remove_all(parent, name).map_err(io::Error::other))
            .and_then(|()| fault::fail("deploy.publish.before"))
            .and_then(|()| std::fs::rename(self.parent.join(&self.name), target))
            .and_then(|()| fault::fail("deploy.publish.after"))
            .and_then(|()| std::fs::File::open(parent)?.sync_all());
        moved.map_err(|error| unwritable(&error))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // After `keep` there is nothing left to remove.
        if let Err(error) = remove_all(&self.parent, &self.name) {
            tracing::warn!(%error, "a staged folder could not be removed");
        }
    }
}

/// Reads an archive, and keeps in mind why it could not be read: that is no fault of the disk.
struct Heard {
    archive: Box<dyn io::Read + Send>,
    failed: Option<String>,
}

impl io::Read for Heard {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.archive.read(into).inspect_err(|error| self.failed = Some(error.to_string()))
    }
}

fn refused(error: TreeError) -> Refusal {
    match error {
        TreeError::Io { error, .. } => unwritable(&error),
        error @ TreeError::Unsure(_) => Refusal::InTheWay(error.to_string()),
        error => Refusal::Invalid(error.to_string()),
    }
}

fn unwritable(error: &io::Error) -> Refusal {
    if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
        return Refusal::Store(crate::store::StoreError::Full);
    }
    tracing::error!(%error, "the agents' directory cannot be written");
    Refusal::Internal("the agents' directory cannot be written".to_owned())
}

/// The model that an agent version's `.claude/settings.json` names.
pub(super) fn folder_model(
    places: &Places,
    (tenant, agent, version): (&Tenant, &AgentName, u32),
) -> Option<String> {
    let folder = places.version(tenant, agent, version);
    model_in(&Tree::open(&folder).ok()?)
}

fn model_in(folder: &Tree) -> Option<String> {
    let settings = folder.read(".claude/settings.json", SETTINGS_LIMIT).ok()?;
    cli::folder_model(&settings)
}

/// Removes every version of an agent.
pub(super) fn remove(places: &Places, agent: &Agent) -> Result<(), TreeError> {
    let parent = places.agents().join(agent.tenant.as_str());
    remove_all(&parent, agent.name.as_str())
}

/// Folders that the store does not know: of agents that are deleted, of versions that were put in
/// their place and not recorded.
pub(super) fn unrecorded(places: &Places, agents: &[Agent]) -> Vec<Difference> {
    let root = places.agents();
    let version_of = |tenant: &str, name: &str| {
        let mut all = agents.iter();
        all.find(|agent| agent.tenant.as_str() == tenant && agent.name.as_str() == name)
            .map(|agent| agent.version)
    };
    let mut found = vec![];
    for tenant in names(&root).into_iter().filter(|name| root.join(name) != places.staging()) {
        for name in names(&root.join(&tenant)) {
            let Some(newest) = version_of(&tenant, &name) else {
                found.push(Difference::AgentDir(tenant.clone(), name));
                continue;
            };
            let is_newer = |version: &String| version.parse::<u32>().is_ok_and(|it| it > newest);
            let versions = names(&root.join(&tenant).join(&name)).into_iter().filter(is_newer);
            found.extend(
                versions.map(|it| Difference::VersionDir(tenant.clone(), name.clone(), it)),
            );
        }
    }
    found
}

/// What lies in a directory; nothing when there is none.
pub(super) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Makes a new session's workspace and home from its agent's folder, owned by the agent's uid.
pub(super) fn lay_out(
    places: &Places,
    (tenant, agent, version): (&Tenant, &AgentName, u32),
    session: &Path,
    owner: u32,
    options: &Options,
) -> Result<(), Refusal> {
    let folder = places.version(tenant, agent, version);
    std::fs::create_dir_all(places.sessions()).map_err(|error| unwritable(&error))?;
    let made = (|| {
        Tree::create_root(session, 0, 0o700)?;
        let workspace = Tree::create_root(&session.join("workspace"), owner, 0o755)?;
        Tree::open(&folder)?.copy_into(&workspace, owner, options.folder, Links::Inside)?;
        let home = Tree::create_root(&session.join("home"), owner, 0o700)?;
        let (name, body) = cli::HOME_CONFIG;
        home.create(name, 0o600, owner, body)
    })();
    made.map_err(|error| match error {
        TreeError::Io { error, .. } => unwritable(&error),
        error => {
            tracing::error!(ash_agent = %agent, %error, "no workspace could be made");
            Refusal::Internal("the session's workspace could not be made".to_owned())
        }
    })
}

/// Names the agent in a refusal to make a session with it.
pub(super) fn named(name: &AgentName) -> Refusal {
    Refusal::NoAgentNamed(name.clone())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::session::stage::Stage;
    use crate::store::StoreError;
    use crate::tree::pack::{self, Entry};

    #[test]
    fn a_quota_that_is_full_is_a_full_disk() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let refusal = unwritable(&kind.into());
            assert!(matches!(refusal, Refusal::Store(StoreError::Full)), "{kind}");
        }
    }

    /// What is larger than it may be.
    struct TooLarge;

    impl Read for TooLarge {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the archive is larger than 512 MiB"))
        }
    }

    #[tokio::test]
    async fn an_archive_that_cannot_be_read_says_why() {
        let stage = Stage::set().await;
        let cut_off = pack::header(PROMPT.as_bytes(), Entry::File(10), 0o644, 0);
        for begin in [vec![], cut_off] {
            let staged = Staged::new(&stage.shared.places).unwrap();
            let archive = Taken::Tar(Box::new(io::Cursor::new(begin).chain(TooLarge)));
            let taken = staged.take(archive, None, &stage.shared.options);
            let Err(Refusal::Invalid(why)) = taken else { panic!("{taken:?}") };
            assert_eq!(why, "the archive is larger than 512 MiB");
        }
    }

    #[tokio::test]
    async fn no_folder_is_deployed_that_no_session_could_be_started_with() {
        let stage = Stage::set().await;
        let caller = Caller { tenant: Tenant::default(), scope: Scope::Manage };
        let name: AgentName = "agent".parse().unwrap();
        let model = format!(r#"{{"model":"{}"}}"#, "m".repeat(1001));
        for (prompt, model, said) in [
            ("x".repeat(4_000_001), "{}", "CLAUDE.md is over the limit of 4000000 bytes"),
            (
                "x".repeat(4_000_000),
                model.as_str(),
                ".claude/settings.json: model: must not be longer than 1000 characters",
            ),
        ] {
            let settings = Bytes::copy_from_slice(model.as_bytes());
            let files = vec![
                (PROMPT.to_owned(), prompt.into()),
                (".claude/settings.json".to_owned(), settings),
            ];
            let source = Source::Files(files);
            let (name, system_prompt, env, config) = (name.clone(), None, None, None);
            let deployment = Deployment { name, source, system_prompt, env, config };
            let refused = stage.service.deploy(&caller, deployment).await.unwrap_err();
            assert_eq!(refused.to_string(), said);
        }
        assert_eq!(stage.shared.store.agent(&caller.tenant, &name).await.unwrap(), None);
    }
}
