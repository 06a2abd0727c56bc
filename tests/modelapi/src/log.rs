//! The log of received requests.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::Value;

use crate::gates::Changes;

/// A request as it came in.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// When its head had arrived: nanoseconds of CLOCK_MONOTONIC, which all processes of a
    /// machine share.
    pub at_ns: u64,
    /// The method, upper case.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The headers by lower-case name; repeated ones joined with a comma.
    pub headers: BTreeMap<String, String>,
    /// The body; a string if it is not JSON, null if it is empty.
    pub body: Value,
}

impl Request {
    /// Whether it asks for a message.
    pub fn is_message(&self) -> bool {
        self.method == "POST" && self.path.split('?').next() == Some("/v1/messages")
    }
}

/// The time of CLOCK_MONOTONIC in nanoseconds.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

/// The newest requests, in memory and in a file if one is wanted.
pub(crate) struct Log {
    kept: Mutex<VecDeque<Arc<Request>>>,
    keep: usize,
    file: Option<Mutex<File>>,
    pub(crate) changes: Changes,
}

impl Log {
    /// Keeps the newest `keep` requests and writes all of them to `path`, which only its owner
    /// may read: they contain keys.
    pub(crate) fn open(keep: usize, path: Option<&Path>) -> io::Result<Self> {
        let create = |path| File::options().append(true).create(true).mode(0o600).open(path);
        let file = path.map(create).transpose()?.map(Mutex::new);
        Ok(Self { kept: Mutex::default(), keep, file, changes: Changes::default() })
    }

    /// Adds a request. A file that cannot be written is an error, as the log would have a hole.
    pub(crate) fn add(&self, request: Arc<Request>) -> io::Result<()> {
        if let Some(file) = &self.file {
            let mut line = serde_json::to_vec(&*request)?;
            line.push(b'\n');
            file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)?;
        }
        let mut kept = self.lock();
        if kept.len() >= self.keep {
            kept.pop_front();
        }
        kept.push_back(request);
        drop(kept);
        self.changes.tell();
        Ok(())
    }

    /// The kept requests that match, oldest first.
    pub(crate) fn matching(&self, matches: impl Fn(&Request) -> bool) -> Vec<Arc<Request>> {
        self.lock().iter().filter(|request| matches(request)).cloned().collect()
    }

    /// Forgets the kept requests; the file stays as it is.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Request>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
