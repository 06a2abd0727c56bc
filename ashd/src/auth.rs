//! API keys: who may call, and for whom.
//!
//! A key is 192 random bits, so a plain SHA-256 of it is all that is kept. A presented key is
//! hashed first and only hashes are compared: how long a refusal takes says nothing about how
//! much of a guess was right.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::domain::{Scope, Tenant};

/// SHA-256 of a key.
pub type KeyHash = [u8; 32];

/// What a key lets its holder do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Grant {
    /// Whose agents and sessions it sees.
    pub tenant: Tenant,
    /// What it may do there.
    pub scope: Scope,
    /// What the key is for, in words.
    pub label: String,
}

/// The keys that are valid now, in memory.
pub struct Keys {
    operator: Option<(KeyHash, Arc<Grant>)>,
    stored: RwLock<HashMap<KeyHash, Arc<Grant>>>,
}

impl Keys {
    /// Keys of the store, and the operator's key from the configuration, if there is one.
    pub fn new(operator: Option<&str>, stored: impl IntoIterator<Item = (KeyHash, Grant)>) -> Self {
        let operator = operator.map(|key| {
            let label = "ASH_API_KEY".to_owned();
            let grant = Grant { tenant: Tenant::default(), scope: Scope::Manage, label };
            (hash(key.as_bytes()), Arc::new(grant))
        });
        let stored = stored.into_iter().map(|(hash, grant)| (hash, Arc::new(grant))).collect();
        Keys { operator, stored: RwLock::new(stored) }
    }

    /// Makes a key valid from now on.
    pub fn add(&self, hash: KeyHash, grant: Grant) {
        let mut stored = self.stored.write().unwrap_or_else(PoisonError::into_inner);
        stored.insert(hash, Arc::new(grant));
    }

    /// Makes a key of the store invalid from now on.
    pub fn remove(&self, hash: &KeyHash) {
        self.stored.write().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }

    /// What a presented key grants; `None` when it is not valid.
    pub fn check(&self, presented: &[u8]) -> Option<Arc<Grant>> {
        let presented = hash(presented);
        let stored = self.stored.read().unwrap_or_else(PoisonError::into_inner);
        let known = stored.get(&presented).cloned();
        known.or_else(|| {
            let (operator, grant) = self.operator.as_ref()?;
            bool::from(operator.ct_eq(&presented)).then(|| grant.clone())
        })
    }
}

/// The hash under which a key is kept.
pub fn hash(key: &[u8]) -> KeyHash {
    Sha256::digest(key).into()
}

/// A fresh key: `ash_` and 32 characters that carry 192 random bits.
pub fn generate() -> String {
    format!("ash_{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(tenant: &str, scope: Scope) -> Grant {
        Grant { tenant: tenant.parse().unwrap(), scope, label: "ci".to_owned() }
    }

    #[test]
    fn fresh_keys_have_the_known_shape_and_differ() {
        let key = generate();
        assert_eq!(key.len(), 36);
        assert!(key.starts_with("ash_"));
        assert!(key[4..].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'));
        assert_ne!(key, generate());
    }

    #[test]
    fn both_kinds_of_key_work_at_once() {
        let acme = grant("acme", Scope::Run);
        let keys = Keys::new(Some("from-the-environment"), [(hash(b"stored"), acme.clone())]);
        let operator = keys.check(b"from-the-environment").unwrap();
        assert_eq!((operator.tenant.as_str(), operator.scope), ("default", Scope::Manage));
        assert_eq!(*keys.check(b"stored").unwrap(), acme);
        for wrong in ["", "stored ", "Stored", "from-the-environmen"] {
            assert_eq!(keys.check(wrong.as_bytes()), None, "{wrong:?}");
        }
    }

    #[test]
    fn without_keys_nobody_gets_in() {
        let keys = Keys::new(None, []);
        assert_eq!(keys.check(b""), None);
        keys.add(hash(b"later"), grant("default", Scope::Read));
        assert!(keys.check(b"later").is_some());
        keys.remove(&hash(b"other"));
        assert!(keys.check(b"later").is_some());
        keys.remove(&hash(b"later"));
        assert_eq!(keys.check(b"later"), None);
    }
}
