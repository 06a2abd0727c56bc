//! What the broker says: to the journal when a service manager runs it, as lines on standard error
//! otherwise.
//!
//! What concerns a session carries it in `ash_session`: `journalctl ASH_SESSION=…` shows it beside what
//! `ashd` says of that session.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, Write};
use std::os::fd::AsFd;

use tracing::error;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Begins to log, up to this level.
pub(crate) fn begin(level: LevelFilter) {
    tracing_subscriber::registry().with(level).with(output()).init();
}

/// Says why the process ends. On standard error: of a line there the journal knows the unit even when
/// the process is gone by the time it is read.
pub(crate) fn last_words(sentence: &dyn Display) {
    if stderr_is_journal() {
        // The journal reads the level off the line (sd-daemon(3)). There is nobody else to be told.
        let _ = writeln!(io::stderr(), "<3>{sentence}");
    } else {
        error!("{sentence}");
    }
}

/// The journal if standard error goes there and it can be reached, else lines there.
fn output<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    if stderr_is_journal()
        && let Ok(journal) = tracing_journald::layer()
    {
        return journal.with_field_prefix(None).boxed();
    }
    // The log may be a pipe to an ashd that was killed; complaining about that on the same pipe would
    // be the broker's end as well.
    let lines = fmt::layer().log_internal_errors(false).with_writer(io::stderr).with_ansi(false);
    lines.with_target(false).without_time().boxed()
}

/// Whether standard error is what the service manager made it: it says in `JOURNAL_STREAM` which file
/// that is, as device and inode.
fn stderr_is_journal() -> bool {
    let stream = std::env::var_os("JOURNAL_STREAM");
    let stream = stream.as_deref().and_then(OsStr::to_str).and_then(|text| text.split_once(':'));
    let stderr = rustix::fs::fstat(io::stderr().as_fd());
    stream.zip(stderr.ok()).is_some_and(|((device, inode), file)| {
        device.parse() == Ok(file.st_dev) && inode.parse() == Ok(file.st_ino)
    })
}
