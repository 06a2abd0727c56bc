//! The configuration as it holds, and where each value comes from.

use std::ffi::OsString;
use std::path::Path;

use super::problem::Origin;
use super::source::Raw;
use super::table::{Key, keys};
use super::{Config, ConfigError};

/// A key, its value, and where that was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explained {
    /// `section.name`.
    pub key: &'static str,
    /// The value as it would be written; absent when it is not set. Secrets are not shown.
    pub value: Option<String>,
    /// Where it was written.
    pub origin: Origin,
}

impl Config {
    /// Every key, in the order of the reference. Arguments are those of [`load`](Self::load).
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn explain(
        file: Option<&Path>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Vec<Explained>, ConfigError> {
        let (config, raw) = Self::read(file, env)?;
        let explained = |key: &Key| {
            let value = (key.show)(&config).filter(|value| !value.is_empty());
            Explained { key: key.path, value, origin: origin(&raw, key.path) }
        };
        Ok(keys().map(explained).collect())
    }
}

fn origin(raw: &Raw, key: &str) -> Origin {
    // The key itself is read from a file that another one names.
    let via = if key == "model.key" { "model.key_file" } else { key };
    let written = raw.values.get(key).or_else(|| raw.values.get(via));
    written.map_or(Origin::Default, |(origin, _)| origin.clone())
}
