//! What a backup consists of.
//!
//! A line with the BLAKE3 of all that follows, then JSON. A backup exists from when this has its name.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::BackupError;
use super::name::Name;
use crate::domain::{Tenant, Timestamp};

/// What the file begins with.
const MAGIC: &str = "ash-backup ";

/// The newest form that this program knows.
const FORMAT: u32 = 1;

/// The largest manifest, in bytes.
pub(super) const LARGEST: u64 = 1 << 30;

/// A part of a backup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What it is called.
    pub name: Name,
    /// Its size.
    pub bytes: u64,
    /// BLAKE3 of its content.
    pub hash: blake3::Hash,
}

/// A backup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    /// Which one.
    pub id: Uuid,
    /// When the database was copied.
    pub at: Timestamp,
    /// Version of the daemon that made it.
    pub version: String,
    /// Schema of the database.
    pub schema: u32,
    /// Sessions in it, ended ones among them.
    pub sessions: u64,
    /// Tenants of whom something was purged that the packs may still hold.
    pub purged: Vec<Tenant>,
    /// Everything that is in it.
    pub entries: Vec<Entry>,
}

/// As it is written.
#[derive(Deserialize, Serialize)]
struct Written {
    format: u32,
    id: Uuid,
    at: i64,
    version: String,
    schema: u32,
    sessions: u64,
    purged: Vec<String>,
    /// Name, bytes, hash.
    files: Vec<(String, u64, String)>,
}

impl Manifest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let file = |it: &Entry| (it.name.to_string(), it.bytes, it.hash.to_hex().to_string());
        let written = Written {
            format: FORMAT,
            id: self.id,
            at: self.at.0,
            version: self.version.clone(),
            schema: self.schema,
            sessions: self.sessions,
            purged: self.purged.iter().map(ToString::to_string).collect(),
            files: self.entries.iter().map(file).collect(),
        };
        let body = serde_json::to_vec(&written).expect("a manifest is plain data");
        let mut all = format!("{MAGIC}{}\n", blake3::hash(&body)).into_bytes();
        all.extend(body);
        all
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Manifest, BackupError> {
        let wrong = |how: &str| BackupError::damaged("its manifest", how);
        let line = bytes.iter().position(|byte| *byte == b'\n').ok_or(wrong("is cut off"))?;
        let (first, body) = (&bytes[..line], &bytes[line + 1..]);
        let hash = first.strip_prefix(MAGIC.as_bytes()).ok_or(wrong("is none"))?;
        if hash != blake3::hash(body).to_hex().as_bytes() {
            return Err(wrong("is not what was written"));
        }
        #[derive(Deserialize)]
        struct Form {
            format: u32,
        }
        let json = |error: serde_json::Error| wrong(&format!("makes no sense ({error})"));
        let Form { format: found } = serde_json::from_slice(body).map_err(json)?;
        if found != FORMAT {
            return Err(BackupError::Newer { what: "form", found, known: FORMAT });
        }
        let written: Written = serde_json::from_slice(body).map_err(json)?;
        written.read().ok_or(wrong("names what can be in no backup"))
    }

    /// The database.
    pub(super) fn database(&self) -> Name {
        Name::Database(self.id)
    }

    /// Bytes of everything.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.bytes).sum()
    }
}

impl Written {
    /// Every part has a name that is one, and its own; the database is there, and of this backup.
    fn read(self) -> Option<Manifest> {
        let entry = |(name, bytes, hash): &(String, u64, String)| {
            let hash = blake3::Hash::from_hex(hash).ok()?;
            Some(Entry { name: name.parse().ok()?, bytes: *bytes, hash })
        };
        let entries: Vec<Entry> = self.files.iter().map(entry).collect::<Option<_>>()?;
        let names: BTreeSet<String> = entries.iter().map(|it| it.name.to_string()).collect();
        let purged = self.purged.iter().map(|tenant| tenant.parse().ok()).collect::<Option<_>>()?;
        let manifest = Manifest {
            id: self.id,
            at: Timestamp(self.at),
            version: self.version,
            schema: self.schema,
            sessions: self.sessions,
            purged,
            entries,
        };
        let is_whole = names.len() == manifest.entries.len()
            && names.contains(&manifest.database().to_string())
            && manifest.entries.iter().all(|entry| match &entry.name {
                Name::Database(of) | Name::Node(of) | Name::ApiKey(of) => *of == manifest.id,
                _ => true,
            });
        is_whole.then_some(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        let id = Uuid::from_u128(9);
        let entry = |name| Entry { name, bytes: 3, hash: blake3::hash(b"abc") };
        let entries = vec![
            entry(Name::Database(id)),
            entry(Name::Pack(Tenant::default(), Uuid::from_u128(1))),
        ];
        let (version, purged) = ("0.1.0".to_owned(), vec![Tenant::default()]);
        Manifest { id, at: Timestamp(5), version, schema: 6, sessions: 1, purged, entries }
    }

    #[test]
    fn is_read_as_written() {
        assert_eq!(Manifest::decode(&manifest().encode()).unwrap(), manifest());
        assert_eq!(manifest().bytes(), 6);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = manifest().encode();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            assert!(Manifest::decode(&bytes).is_err(), "byte {at}");
            assert!(Manifest::decode(&whole[..at]).is_err(), "{at} bytes");
        }
    }

    #[test]
    fn one_that_makes_no_sense_is_refused() {
        let refused = |change: &dyn Fn(&mut Manifest)| {
            let mut changed = manifest();
            change(&mut changed);
            Manifest::decode(&changed.encode()).unwrap_err().to_string()
        };
        let twice = refused(&|it| it.entries.push(it.entries[1].clone()));
        assert!(twice.contains("names what can be in no backup"), "{twice}");
        refused(&|it| drop(it.entries.remove(0)));
        refused(&|it| it.entries[1].name = Name::Node(Uuid::nil()));
    }

    #[test]
    fn a_newer_form_is_told_apart_from_damage() {
        let body = br#"{"format":2}"#;
        let bytes = [format!("{MAGIC}{}\n", blake3::hash(body)).as_bytes(), body].concat();
        let refused = Manifest::decode(&bytes).unwrap_err();
        assert!(matches!(refused, BackupError::Newer { found: 2, .. }), "{refused}");
    }
}
