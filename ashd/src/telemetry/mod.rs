//! What the daemon says about itself: to the journal when a service manager runs it, to the
//! terminal otherwise.
//!
//! What concerns a session, an agent, a turn or a tenant carries it in the field `ash_session`,
//! `ash_agent`, `ash_turn` or `ash_tenant`; the journal writes the names of fields in capitals:
//! `journalctl ASH_SESSION=…` shows one conversation. What operators search for has a `message_id`
//! of [`message`]. Fields and messages never hold keys, prompts, answers, request bodies or
//! environments: what is logged is kept, copied and read by more people than the conversation was
//! meant for.
//!
//! What is counted, and asked for by whoever wants to know, is in [`metrics`].
//! What the kernel says of the machine is read by [`psi`].

mod fields;
pub mod message;
pub mod metrics;
mod pace;
pub mod psi;

use std::ffi::OsStr;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use rustix::fs::fstat;
use tracing::Subscriber;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

pub use pace::{Pace, SharedPace, refused};

/// Why logging cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is none.
    #[error("the log level must be like info or info,ashd=debug: {0}")]
    Level(#[from] ParseError),
    /// It has been set up before.
    #[error("logging is set up already: {0}")]
    Twice(#[from] TryInitError),
    /// It was set up by a program part that is gone.
    #[error("the log level cannot be changed: {0}")]
    Gone(#[from] reload::Error),
}

/// Changes the level while the program runs.
#[derive(Clone, Debug)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// From now on, this level: `info`, or `info,ashd::store=debug`.
    pub fn set(&self, level: &str) -> Result<(), TelemetryError> {
        Ok(self.0.reload(EnvFilter::try_new(level)?)?)
    }
}

/// Sets logging up for the whole program, once.
pub fn init(level: &str) -> Result<Level, TelemetryError> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(level)?);
    tracing_subscriber::registry().with(filter).with(output()).try_init()?;
    Ok(Level(handle))
}

/// The journal if stderr goes there and it can be reached, else lines on stderr.
fn output<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let stderr = io::stderr();
    if stderr_is_journal()
        && let Ok(journal) = journal()
    {
        return journal.boxed();
    }
    lines(io::stderr, stderr.is_terminal()).boxed()
}

/// The journal, with fields under their own names.
fn journal() -> io::Result<tracing_journald::Layer> {
    Ok(tracing_journald::layer()?.with_field_prefix(None))
}

/// Whether what is written to standard error comes to the journal.
pub fn stderr_is_journal() -> bool {
    goes_to_journal(io::stderr(), std::env::var_os("JOURNAL_STREAM").as_deref())
}

/// One line for each event. Control characters in it are escaped; ids of messages are for searching
/// the journal, and left out.
fn lines<S, W>(writer: W, colours: bool) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fmt::layer().compact().fmt_fields(fields::ForPeople).with_ansi(colours).with_writer(writer)
}

/// The service manager says in `JOURNAL_STREAM` which file, as device and inode, is the journal: a
/// program that was started with its stderr elsewhere has inherited the variable only.
fn goes_to_journal(stderr: impl AsFd, stream: Option<&OsStr>) -> bool {
    let Some((device, inode)) = stream.and_then(OsStr::to_str).and_then(|s| s.split_once(':'))
    else {
        return false;
    };
    let same = |file: rustix::fs::Stat| {
        device.parse() == Ok(file.st_dev) && inode.parse() == Ok(file.st_ino)
    };
    fstat(stderr).is_ok_and(same)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::net::UnixDatagram;
    use std::process::{Command, Stdio};
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::config::Secret;

    /// Tells the child below that the journal is a socket of ours.
    const CHILD: &str = "ASH_TEST_JOURNAL";

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, log: impl FnOnce(Level)) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let (filter, handle) = reload::Layer::new(EnvFilter::try_new(level).unwrap());
        let layer = lines(move || writer.clone(), false);
        let subscriber = tracing_subscriber::registry().with(filter).with(layer);
        tracing::subscriber::with_default(subscriber, || log(Level(handle)));
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn the_level_changes_while_running() {
        let text = logged("warn", |level| {
            tracing::info!("too early");
            level.set("info").unwrap();
            tracing::info!("heard");
            assert!(matches!(level.set("a=b=c"), Err(TelemetryError::Level(_))));
        });
        assert!(text.contains("heard") && !text.contains("too early"), "{text}");
    }

    #[test]
    fn secrets_and_control_characters_do_not_get_through() {
        let secret = Secret::new("sk-very-secret".into());
        let text = logged("info", |_| {
            let span = tracing::info_span!("turn", session = "5f", key = ?secret);
            let _inside = span.enter();
            tracing::info!(?secret, ash_agent = "x\x1b[31m\nforged", "configured");
        });
        assert!(text.contains("session=\"5f\"") && !text.contains("very"), "{text}");
        assert!(!text.contains('\x1b') && text.lines().count() == 1, "{text}");
    }

    #[test]
    fn ids_of_messages_are_not_for_people() {
        let text = logged("info", |_| {
            let _inside = tracing::info_span!("turn", message_id = "of the span", n = 7).entered();
            let error = io::Error::other("broken");
            let error: &dyn std::error::Error = &error;
            tracing::info!(message_id = message::ENDING, error, ash_session = %"5f", "going");
        });
        assert!(text.contains("n=7") && text.contains("going"), "{text}");
        assert!(text.contains("error=broken ash_session=5f"), "{text}");
        assert!(!text.contains("message_id") && !text.contains(message::ENDING), "{text}");
    }

    #[test]
    fn the_journal_is_recognised_by_device_and_inode() {
        let file = tempfile::tempfile().unwrap();
        let found = file.metadata().unwrap();
        let stream = |inode| Some(format!("{}:{inode}", found.dev()));
        let asked =
            |stream: Option<String>| goes_to_journal(&file, stream.as_deref().map(OsStr::new));
        assert!(asked(stream(found.ino())));
        assert!(!asked(stream(found.ino() + 1)));
        assert!(!asked(None) && !asked(Some("x".into())));
    }

    /// A journal of our own, at the journal's place, in a mount namespace that nobody else sees.
    #[test]
    fn fields_reach_the_journal_under_their_names() {
        let isolate = ["--mount", "--propagation", "private", "sh", "-c"];
        let permitted = Command::new("unshare").args(isolate).arg("true").status();
        if !permitted.is_ok_and(|status| status.success()) {
            println!("SKIP: mount namespaces are not permitted here");
            return;
        }
        let mut child = Command::new("unshare");
        child.args(isolate).arg("mount -t tmpfs none /run && exec \"$0\" \"$@\"");
        child.arg(std::env::current_exe().unwrap());
        child.args(["--exact", "telemetry::tests::child", "--nocapture"]).env(CHILD, "1");
        let output = child.stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
    }

    /// No test of its own: see above.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        fs::create_dir_all("/run/systemd/journal").unwrap();
        let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
        let subscriber = tracing_subscriber::registry().with(super::journal().unwrap());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(message_id = message::ENDING, ash_session = "5f", "begun");
        });
        let mut datagram = [0; 4096];
        // An empty one came first: the layer looked whether anybody listens.
        assert_eq!(journal.recv(&mut datagram).unwrap(), 0);
        let length = journal.recv(&mut datagram).unwrap();
        // systemd's native protocol: a name, the length of the value, and the value.
        let text = String::from_utf8_lossy(&datagram[..length]);
        let names: Vec<&str> = text.split('\n').filter(|line| !line.contains('\0')).collect();
        for name in ["ASH_SESSION", "MESSAGE_ID", "MESSAGE", "PRIORITY"] {
            assert!(names.contains(&name), "{name} in {text:?}");
        }
        assert!(text.contains("5f\n") && text.contains(message::ENDING), "{text:?}");
    }
}
