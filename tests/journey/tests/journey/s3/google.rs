//! Copies that are asked for as Google Cloud Storage is, and kept by the same S3 server.
//!
//! No emulator of Google's service that can be installed knows puts on a condition and uploads in
//! parts of its XML API, which `object_store` speaks. That API is S3's but for tokens and conditions: a
//! script in front of the server translates these two, and refuses what else only one of both knows.
//! What Google's own service does with the same requests is not tried.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Result;
use ash_journey::http::Http;
use ash_journey::{Options, process};
use tempfile::TempDir;

use super::one_of_two_wins;
use super::server::python;
use super::troubled::Troubled;
use crate::machines::{KEY, moves};

const SCRIPT: &str = include_str!("../outside/google.py");

/// The server and the script, as one process, and the account that it knows.
struct Google {
    port: u16,
    running: Child,
    dir: TempDir,
}

impl Google {
    /// `None`, and it is said, where the server cannot be installed.
    fn start(test: &str) -> Result<Option<Google>> {
        let Some(python) = python(test) else { return Ok(None) };
        let dir = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT, &port.to_string()]).arg(account(&dir));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let google = Google { port, running: command.spawn()?, dir };
        // Whoever has no token is refused, as soon as somebody is there.
        let http = Http::new(&format!("127.0.0.1:{port}"), "").with("authorization", "");
        process::until("the server answers", || {
            http.call("GET", "/bucket", None).is_ok_and(|answer| answer.status == 401)
        })?;
        Ok(Some(google))
    }

    /// What a daemon needs to use the server behind a port.
    fn options(&self, port: u16) -> Options {
        Options::stub()
            .env("ASH_SNAPSHOT_URL", "gs://bucket/a/prefix")
            .env("ASH_SNAPSHOT_KEY", KEY)
            .env("GOOGLE_APPLICATION_CREDENTIALS", account(&self.dir).display())
            .env("GOOGLE_BASE_URL", format!("http://127.0.0.1:{port}"))
    }
}

impl Drop for Google {
    fn drop(&mut self) {
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}

/// Where the script puts what a daemon needs to be known.
fn account(dir: &TempDir) -> PathBuf {
    dir.path().join("account.json")
}

#[test]
fn a_session_moves_through_what_google_is_asked() -> Result<()> {
    let name = "s3::google::a_session_moves_through_what_google_is_asked";
    let Some(google) = Google::start(name)? else { return Ok(()) };
    moves(&google.options(google.port))
}

#[test]
fn of_two_who_claim_at_once_one_wins() -> Result<()> {
    let name = "s3::google::of_two_who_claim_at_once_one_wins";
    let Some(google) = Google::start(name)? else { return Ok(()) };
    let troubled = Troubled::start(google.port)?;
    let (here, others) = (google.options(google.port), google.options(troubled.port));
    // Slashes in names are escaped there.
    one_of_two_wins(here, &others, (&troubled, "%2Fowner%2F"))
}
