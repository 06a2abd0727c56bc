//! API keys: how a fresh installation becomes usable without being open to anyone, and the verbs
//! that make, list and revoke keys.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::api::{Caller, Refusal};
use crate::auth::{Grant, Keys, generate, hash};
use crate::domain::{Scope, Tenant, Timestamp, Unfit, check};
use crate::fault;
use crate::store::{Store, StoreError};
use crate::telemetry::message;

pub use crate::store::Key;

/// The file in the data directory that hands the first key to the operator's tools: mode 0600,
/// the key without a newline. Tools may take the file away once they have read it.
pub const KEY_FILE: &str = "initial-api-key";

/// The longest name of a key, in characters.
const LONGEST_NAME: usize = 100;

/// Why there are no keys to start with.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The store failed.
    #[error("API keys cannot be read or added: {0}")]
    Store(#[from] StoreError),
    /// The key file cannot be written.
    #[error("the file {KEY_FILE} cannot be written in the data directory: {0}")]
    KeyFile(#[source] io::Error),
}

/// Loads the keys and, unless the configuration brings one of its own, makes sure that the default
/// tenant has a key that can be read from [`KEY_FILE`]: a new one labelled `auto-generated` when
/// there is none, one labelled `cli-recovery` when the file is gone.
///
/// # Errors
/// When the store or the file cannot be used. A key that was added but not written to the file is
/// harmless: the next start makes another.
pub async fn bootstrap(
    store: &dyn Store,
    operator: Option<&str>,
    data_dir: &Path,
) -> Result<Keys, KeysError> {
    let stored = store.keys().await?;
    let grants = stored.iter().map(|key| (key.hash, grant(key)));
    let keys = Keys::new(operator, grants);
    if operator.is_some() {
        return Ok(keys);
    }
    let home = Tenant::default();
    let has_key = stored.iter().any(|key| key.tenant == home);
    let file = data_dir.join(KEY_FILE);
    if !has_key {
        issue(store, &keys, &file, "auto-generated").await?;
    } else if !file.try_exists().map_err(KeysError::KeyFile)? {
        issue(store, &keys, &file, "cli-recovery").await?;
    }
    Ok(keys)
}

fn grant(key: &Key) -> Grant {
    Grant { tenant: key.tenant.clone(), scope: key.scope, label: key.label.clone() }
}

/// A new key and its text, which nobody can find out again.
fn fresh(tenant: Tenant, label: &str, scope: Scope) -> (Key, String) {
    let text = generate();
    let key = Key {
        id: uuid::Uuid::new_v4(),
        tenant,
        hash: hash(text.as_bytes()),
        label: label.to_owned(),
        scope,
        created_at: Timestamp::now(),
    };
    (key, text)
}

async fn issue(store: &dyn Store, keys: &Keys, file: &Path, label: &str) -> Result<(), KeysError> {
    let (key, text) = fresh(Tenant::default(), label, Scope::Manage);
    store.add_key(key.clone()).await?;
    write_private(file, &text).map_err(KeysError::KeyFile)?;
    keys.add(key.hash, grant(&key));
    Ok(())
}

/// The keys of the store and those in memory, changed together. The operator's key from the
/// configuration is none of them.
#[derive(Clone)]
pub struct KeyRing {
    /// Where they survive.
    pub store: Arc<dyn Store>,
    /// What the edges ask.
    pub keys: Arc<Keys>,
    /// Where the first key is handed over: [`KEY_FILE`] in the data directory.
    pub file: PathBuf,
}

impl KeyRing {
    /// Makes a key and returns it with its text, which is not kept.
    ///
    /// # Errors
    /// When the name is not what it has to be, or the store fails.
    pub async fn create(
        &self,
        caller: &Caller,
        name: &str,
        scope: Scope,
    ) -> Result<(Key, String), Refusal> {
        check_name(name)?;
        let (key, text) = fresh(caller.tenant.clone(), name, scope);
        // Before others find it in the store: who takes it away from there takes it away here as
        // well, and must not come first. Nobody knows its text yet.
        self.keys.add(key.hash, grant(&key));
        if let Err(error) = self.store.add_key(key.clone()).await {
            self.keys.remove(&key.hash);
            return Err(error.into());
        }
        tracing::info!(
            message_id = message::KEY_MADE, key = %key.id, name, %scope, ash_tenant = %key.tenant,
            "API key created"
        );
        Ok((key, text))
    }

    /// The caller's keys, oldest first.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn list(&self, caller: &Caller) -> Result<Vec<Key>, Refusal> {
        let mut keys = self.store.keys().await?;
        keys.retain(|key| key.tenant == caller.tenant);
        Ok(keys)
    }

    /// Takes a key away. Requests that come from now on are refused; streams that it opened go on.
    ///
    /// # Errors
    /// When there is no such key, or the store fails: then the key is still valid.
    pub async fn revoke(&self, caller: &Caller, id: uuid::Uuid) -> Result<(), Refusal> {
        let (ring, tenant) = (self.clone(), caller.tenant.clone());
        // To its end, also when whoever asked has gone: what is off the list must not be valid.
        let revoked = tokio::spawn(async move {
            let removed = ring.store.remove_key(&tenant, id).await?;
            let key = removed.ok_or(Refusal::NoKey)?;
            ring.keys.remove(&key.hash);
            ring.take_back(&key);
            tracing::info!(
                message_id = message::KEY_REVOKED, key = %id, name = key.label, ash_tenant = %tenant,
                "API key revoked"
            );
            Ok(())
        });
        revoked.await.unwrap_or(Err(Refusal::ShuttingDown))
    }

    /// Takes all keys of a tenant away that is being deleted, and says how many; `None`: there is no
    /// such tenant.
    ///
    /// # Errors
    /// When the store fails: then the keys are still valid.
    pub(super) async fn leave(&self, tenant: &Tenant) -> Result<Option<u64>, Refusal> {
        let Some(removed) = self.store.leave_tenant(tenant).await? else { return Ok(None) };
        for key in &removed {
            self.keys.remove(&key.hash);
            self.take_back(key);
        }
        Ok(Some(removed.len() as u64))
    }

    /// Removes the file that hands over this key, so that no tool goes on with it.
    fn take_back(&self, key: &Key) {
        let is_its = |text: Vec<u8>| hash(text.trim_ascii()) == key.hash;
        if std::fs::read(&self.file).is_ok_and(is_its)
            && let Err(error) = std::fs::remove_file(&self.file)
        {
            tracing::warn!(%error, "{KEY_FILE} holds a key that was revoked");
        }
    }
}

fn check_name(name: &str) -> Result<(), Unfit> {
    check::at_most("name", name, LONGEST_NAME)?;
    match name.trim().is_empty() || name.chars().any(char::is_control) {
        true => Err(Unfit::value("name", "must be words without control characters")),
        false => Ok(()),
    }
}

/// Replaces the file at once: a reader sees the old key or the new one, never half of one.
fn write_private(file: &Path, text: &str) -> io::Result<()> {
    let draft = file.with_extension("new");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    out.set_permissions(Permissions::from_mode(0o600))?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fault::fail("key.publish")?;
    std::fs::rename(&draft, file)?;
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use futures_util::FutureExt;

    use super::*;
    use crate::store::sqlite::{Options, Sqlite};

    /// One without keys, and what it keeps them in.
    fn ring(dir: &Path) -> (KeyRing, Arc<Sqlite>) {
        let store = Arc::new(Sqlite::open(&dir.join("ash.db"), Options::default()).unwrap());
        let (keys, file) = (Arc::new(Keys::new(None, [])), dir.join(KEY_FILE));
        (KeyRing { store: store.clone(), keys, file }, store)
    }

    fn caller(tenant: &str) -> Caller {
        Caller { tenant: tenant.parse().unwrap(), scope: Scope::Manage }
    }

    fn labels(keys: &[Key]) -> Vec<&str> {
        keys.iter().map(|key| key.label.as_str()).collect()
    }

    #[tokio::test]
    async fn a_fresh_installation_gets_a_key_and_a_lost_file_another() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(KEY_FILE);
        let store = Sqlite::open(&dir.path().join("ash.db"), Options::default()).unwrap();
        let keys = bootstrap(&store, None, dir.path()).await.unwrap();
        let first = std::fs::read(&file).unwrap();
        assert_eq!(keys.check(&first).unwrap().scope, Scope::Manage);

        let keys = bootstrap(&store, None, dir.path()).await.unwrap();
        assert!(keys.check(&first).is_some());
        assert_eq!(labels(&store.keys().await.unwrap()), ["auto-generated"]);

        std::fs::remove_file(&file).unwrap();
        let keys = bootstrap(&store, None, dir.path()).await.unwrap();
        let second = std::fs::read(&file).unwrap();
        assert_ne!(first, second);
        assert!(keys.check(&first).is_some() && keys.check(&second).is_some());
        let mut stored = store.keys().await.unwrap();
        stored.sort_by_key(|key| key.label.clone());
        assert_eq!(labels(&stored), ["auto-generated", "cli-recovery"]);
        store.close().await;
    }

    #[tokio::test]
    async fn a_key_from_the_configuration_is_enough() {
        let dir = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&dir.path().join("ash.db"), Options::default()).unwrap();
        let keys = bootstrap(&store, Some("ours"), dir.path()).await.unwrap();
        assert!(keys.check(b"ours").is_some());
        assert!(!dir.path().join(KEY_FILE).exists());
        assert!(store.keys().await.unwrap().is_empty());
        store.close().await;
    }

    #[tokio::test]
    async fn keys_are_made_listed_and_revoked_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (ring, store) = ring(dir.path());
        let file = ring.file.clone();
        let (ours, theirs) = (caller("default"), caller("acme"));
        let (key, text) = ring.create(&ours, "shop floor", Scope::Run).await.unwrap();
        let granted = ring.keys.check(text.as_bytes()).unwrap();
        assert_eq!((granted.scope, granted.label.as_str()), (Scope::Run, "shop floor"));
        assert_eq!(ring.list(&ours).await.unwrap(), std::slice::from_ref(&key));
        assert_eq!(ring.list(&theirs).await.unwrap(), []);
        // Another daemon on this database would know it as well.
        let again = bootstrap(store.as_ref(), Some("x"), dir.path()).await.unwrap();
        assert_eq!(again.check(text.as_bytes()).unwrap().scope, Scope::Run);

        assert!(matches!(ring.revoke(&theirs, key.id).await, Err(Refusal::NoKey)));
        assert!(ring.keys.check(text.as_bytes()).is_some());
        write_private(&file, &text).unwrap();
        ring.revoke(&ours, key.id).await.unwrap();
        assert!(!file.exists(), "tools would go on with it");
        assert_eq!(ring.keys.check(text.as_bytes()), None);
        assert!(matches!(ring.revoke(&ours, key.id).await, Err(Refusal::NoKey)));
        assert!(store.keys().await.unwrap().is_empty());
        for bad in ["", " ", "a\nb", &"x".repeat(101)] {
            let refused = ring.create(&ours, bad, Scope::Read).await.unwrap_err();
            assert!(refused.to_string().starts_with("name: must"), "{refused}");
        }
        store.close().await;
    }

    #[tokio::test]
    async fn a_revocation_that_nobody_waits_for_is_complete() {
        let dir = tempfile::tempdir().unwrap();
        let (ring, store) = ring(dir.path());
        let ours = caller("default");
        let (key, text) = ring.create(&ours, "lost", Scope::Run).await.unwrap();
        // Asked once, and dropped.
        assert!(ring.revoke(&ours, key.id).now_or_never().is_none());
        while ring.keys.check(text.as_bytes()).is_some() {
            tokio::task::yield_now().await;
        }
        assert!(store.keys().await.unwrap().is_empty());
        store.close().await;
    }

    #[tokio::test]
    async fn a_key_that_is_revoked_while_it_is_made_is_not_valid() {
        let dir = tempfile::tempdir().unwrap();
        let (ring, store) = ring(dir.path());
        let ours = caller("default");
        let mut made = std::pin::pin!(ring.create(&ours, "late", Scope::Run));
        let early = made.as_mut().now_or_never();
        let stored = loop {
            if let Some(key) = ring.list(&ours).await.unwrap().pop() {
                break key;
            }
            tokio::task::yield_now().await;
        };
        ring.revoke(&ours, stored.id).await.unwrap();
        let made = if let Some(made) = early { made } else { made.await };
        let (key, text) = made.unwrap();
        assert_eq!(key, stored);
        assert_eq!(ring.keys.check(text.as_bytes()), None);
        store.close().await;
    }

    #[test]
    fn the_key_file_is_private_and_complete() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(KEY_FILE);
        for text in ["ash_first", "ash_2"] {
            write_private(&file, text).unwrap();
            assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_planted_link_is_not_written_through() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = dir.path().join("elsewhere");
        std::fs::write(&elsewhere, "precious").unwrap();
        let file = dir.path().join(KEY_FILE);
        symlink(&elsewhere, &file).unwrap();
        symlink(&elsewhere, file.with_extension("new")).unwrap();
        write_private(&file, "ash_key").unwrap();
        assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "precious");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "ash_key");
    }
}
