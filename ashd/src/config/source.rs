//! What was written, in files and in the environment, before it is checked as a whole.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ash_broker::file::open_regular;
use strsim::normalized_damerau_levenshtein;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::problem::{Origin, Problem};
use super::table::{Key, keys};
use super::value::Written;

/// The configuration file, if no other is named.
const FILE: &str = "/etc/ash/ashd.toml";

/// Names another file.
const FILE_VARIABLE: &str = "ASH_CONFIG";

/// Values by key, as they were written last; and what was wrong on the way.
#[derive(Default)]
pub(super) struct Raw {
    /// What was written for each key, and where.
    pub(super) values: BTreeMap<&'static str, (Origin, Written)>,
    /// What could not be understood.
    pub(super) problems: Vec<Problem>,
}

impl Raw {
    /// Reads everything there is. `file` is what the command line says.
    pub(super) fn read(file: Option<&Path>, env: &BTreeMap<OsString, OsString>) -> Raw {
        let mut raw = Raw::default();
        let named = file.map(Path::to_owned).or_else(|| set(env, FILE_VARIABLE).map(PathBuf::from));
        let path = named.clone().unwrap_or_else(|| FILE.into());
        raw.file(&path, named.is_some());
        for path in raw.drop_ins(&path) {
            raw.file(&path, true);
        }
        keys().for_each(|key| raw.variable(key, env));
        raw
    }

    fn problem(&mut self, origin: Origin, key: &str, reason: impl Into<String>) {
        self.problems.push(Problem { origin, key: key.into(), reason: reason.into() });
    }

    /// The `*.toml` files of the directory that is named as the file with `.d` behind it, in order.
    fn drop_ins(&mut self, file: &Path) -> Vec<PathBuf> {
        let mut dir = OsString::from(file);
        dir.push(".d");
        let entries = fs::read_dir(&dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let mut paths = match entries {
            Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => {
                self.problem(Origin::File(dir.into(), 1), "", format!("cannot be read: {e}"));
                Vec::new()
            }
        };
        paths.retain(|path| path.extension() == Some(OsStr::new("toml")));
        paths.sort();
        paths
    }

    fn file(&mut self, path: &Path, must_exist: bool) {
        let text = match read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !must_exist => return,
            Err(e) => {
                let reason = format!("cannot be read: {e}");
                return self.problem(Origin::File(path.to_owned(), 1), "", reason);
            }
        };
        let place = |at: usize| Origin::File(path.to_owned(), line(&text, at));
        let (document, errors) = DeTable::parse_recoverable(&text);
        for error in errors {
            let origin = place(error.span().map_or(0, |span| span.start));
            self.problem(origin, "", format!("is not TOML: {}", error.message()));
        }
        for (section, content) in document.into_inner() {
            let origin = place(section.span().start);
            match content.into_inner() {
                DeValue::Table(content) => self.section(section.get_ref(), content, &place),
                _ => self.problem(origin, section.get_ref(), "must stand in a section like [http]"),
            }
        }
    }

    fn section(&mut self, section: &str, content: DeTable<'_>, place: &dyn Fn(usize) -> Origin) {
        for (name, value) in content {
            let (origin, path) =
                (place(name.span().start), format!("{section}.{}", name.get_ref()));
            match keys().find(|key| key.path == path) {
                None => self.problem(origin, &path, unknown(&path)),
                Some(key) if key.traits.env_only => self.problem(origin, &path, misplaced(key)),
                Some(key) => match written(&value) {
                    Some(written) => self.put(key, origin, written),
                    None => self.problem(origin, &path, "must be no table or date"),
                },
            }
        }
    }

    fn put(&mut self, key: &'static Key, origin: Origin, written: Written) {
        self.values.insert(key.path, (origin, written));
    }

    /// Takes a variable of the environment. An empty one counts as not set.
    fn variable(&mut self, key: &'static Key, env: &BTreeMap<OsString, OsString>) {
        let first = key.traits.env.iter().find_map(|name| Some((*name, set(env, name)?)));
        let Some((name, value)) = first else { return };
        let (origin, unit) = (Origin::Variable(name), key.traits.unit);
        match value.to_str().map(str::trim) {
            None => self.problem(origin, key.path, "is not UTF-8"),
            Some(text) if !unit.is_empty() && text.parse::<u64>().is_err() => {
                self.problem(origin, key.path, format!("must be a whole number of {unit}"));
            }
            Some(text) => self.put(key, origin, Written::Plain(format!("{text}{unit}"))),
        }
    }
}

/// What a configuration file says. A link to `/dev/null` takes the place of one that says nothing, as
/// it does among systemd's.
fn read(path: &Path) -> io::Result<String> {
    match path.canonicalize().is_ok_and(|real| real == Path::new("/dev/null")) {
        true => Ok(String::new()),
        false => io::read_to_string(open_regular(path)?),
    }
}

fn set<'a>(env: &'a BTreeMap<OsString, OsString>, name: &str) -> Option<&'a OsString> {
    env.get(OsStr::new(name)).filter(|value| !value.is_empty())
}

/// Counts from 1.
fn line(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// How alike a key's path must be to what was written to be meant by it, of 1.
const ALIKE: f64 = 0.7;

fn unknown(path: &str) -> String {
    let name = path.rsplit('.').next().unwrap_or(path);
    let elsewhere = keys().find(|key| key.path.rsplit('.').next() == Some(name));
    let alike = |key: &Key| normalized_damerau_levenshtein(path, key.path);
    let nearest = || {
        let best = keys().max_by(|one, other| alike(one).total_cmp(&alike(other)));
        best.filter(|key| alike(key) >= ALIKE)
    };
    match elsewhere.or_else(nearest) {
        Some(key) => format!("is no key of the configuration; did you mean {}?", key.path),
        None => "is no key of the configuration; ashd.toml(5) has them all".into(),
    }
}

fn misplaced(key: &Key) -> String {
    let variable = key.traits.env.first().unwrap_or(&"");
    format!("does not belong into a file; set the environment variable {variable}")
}

fn written(value: &Spanned<DeValue<'_>>) -> Option<Written> {
    match value.get_ref() {
        DeValue::String(text) => Some(Written::Text(text.to_string())),
        DeValue::Integer(number) => Some(Written::Bare(number.to_string())),
        DeValue::Float(number) => Some(Written::Bare(number.to_string())),
        DeValue::Boolean(truth) => Some(Written::Bare(truth.to_string())),
        DeValue::Array(items) => Some(list(items)),
        DeValue::Table(_) | DeValue::Datetime(_) => None,
    }
}

/// An array that holds anything but strings is no list of ours: as a bare value it is refused.
fn list(items: &DeArray<'_>) -> Written {
    let strings: Option<Vec<_>> =
        items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect();
    strings.map_or_else(|| Written::Bare("[…]".into()), Written::List)
}
