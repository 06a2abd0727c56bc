//! What the service manager is told, and what it gives (sd_notify(3), sd_listen_fds(3)). Without
//! one nothing of this has an effect.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How much longer the start or the end may take, each time that it is said to be still going on.
const MORE_TIME: Duration = Duration::from_secs(20);

/// How long that is said.
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// The first descriptor that a service manager passes.
const FIRST: u32 = 3;

/// Tells the service manager, if there is one.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// It is up, and listens there.
pub(super) fn ready(address: SocketAddr) {
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("listening on http://{address}"))]);
}

/// It goes on with the configuration of before.
pub(super) fn not_reloaded(why: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(&format!("nothing was reloaded: {why}"))]);
}

/// `Type=notify-reload` wants the time of the reload as well.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "the service manager was not told of the reload"),
    }
}

/// Tells the watchdog twice in its time that tasks are being run, until what is returned is dropped.
pub(super) fn feed_watchdog() -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tasks.spawn(async move {
            let mut pulse = tokio::time::interval(limit / 2);
            loop {
                pulse.tick().await;
                notify(&[NotifyState::Watchdog]);
            }
        });
    }
    tasks
}

/// Asks for more time than the unit gives, again and again, as long as what is returned is there: for a
/// start that brings a large database up to date, and an end that saves much. What takes longer than
/// [`LONGEST`] hangs, and is left to the service manager.
pub(super) fn more_time() -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let micros = u32::try_from(MORE_TIME.as_micros()).unwrap_or(u32::MAX);
    tasks.spawn(async move {
        let mut pulse = tokio::time::interval(MORE_TIME / 2);
        let begun = Instant::now();
        while begun.elapsed() < LONGEST {
            pulse.tick().await;
            notify(&[NotifyState::ExtendTimeoutUsec(micros)]);
        }
    });
    tasks
}

/// The listening socket that came from a socket unit; absent when none did.
///
/// # Errors
/// When what came is no single listening TCP socket.
pub(super) fn inherited_listener() -> io::Result<Option<TcpListener>> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => {
            let listener = TcpListener::from(ash_sys::fds::take_inherited(FIRST)?);
            // What is no TCP socket has no such address.
            listener.local_addr()?;
            listener.set_nonblocking(true)?;
            Ok(Some(listener))
        }
        Some(_) => Err(io::Error::other("more than one socket came; ashd takes one")),
    }
}

/// Says why the daemon ends: on standard error, and in `systemctl status`.
#[expect(clippy::print_stderr, reason = "the log may not be set up")]
pub fn report(error: &dyn std::error::Error) {
    // A status is one line.
    let sentence = error.to_string();
    notify(&[NotifyState::Status(&sentence.replace('\n', "; "))]);
    // The journal reads the level off the line (sd-daemon(3)).
    let level = if crate::telemetry::stderr_is_journal() { "<3>" } else { "" };
    eprintln!("{level}ashd: {}", sentence.replace('\n', &format!("\n{level}")));
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// Tells the child below that the service manager is a socket of its own.
    const CHILD: &str = "ASH_TEST_NOTIFY";

    #[test]
    fn more_time_is_asked_for_again_and_again_but_not_for_ever() {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "app::manager::tests::child", "--nocapture"]);
        child.env(CHILD, "1").env("NOTIFY_SOCKET", dir.path().join("notify"));
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "there is no child");
    }

    /// No test of its own: see above.
    #[tokio::test(start_paused = true)]
    async fn child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let manager = UnixDatagram::bind(std::env::var_os("NOTIFY_SOCKET").unwrap()).unwrap();
        // Beside the runtime: a queue that is full holds up who writes.
        let told = std::thread::spawn(move || {
            let (mut told, mut buffer) = (Vec::new(), [0; 256]);
            while told.last().is_none_or(|last| last != "READY=1\n") {
                let length = manager.recv(&mut buffer).unwrap();
                told.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            told
        });
        let begun = Instant::now();
        more_time().join_next().await;
        assert!(begun.elapsed() >= LONGEST);
        notify(&[NotifyState::Ready]);
        let mut told = told.join().unwrap();
        told.pop();
        let asked = format!("EXTEND_TIMEOUT_USEC={}\n", MORE_TIME.as_micros());
        assert!(told.iter().all(|each| *each == asked), "{told:?}");
        // At once, and then twice in the time that each gives.
        assert_eq!(told.len(), 1 + LONGEST.div_duration_f64(MORE_TIME / 2) as usize);
    }
}
