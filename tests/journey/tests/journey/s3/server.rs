//! A real S3 server, as a process of its own.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::Result;
use ash_journey::http::Http;
use ash_journey::{Options, process, skip};

use crate::machines::KEY;
use crate::sdk;

const PACKAGE: &str = "moto[server]==5.2.5";

/// An interpreter that has the server; `None`, and it is said, where it cannot be installed.
pub(super) fn python(test: &str) -> Option<PathBuf> {
    let python = sdk::python_with(PACKAGE);
    python.inspect_err(|reason| skip(test, &format!("{reason:#}"))).ok()
}

/// An S3 server on this machine.
pub(super) struct S3 {
    python: PathBuf,
    pub(super) port: u16,
    running: Option<Child>,
}

impl S3 {
    /// `None`, and it is said, where it cannot be installed.
    pub(super) fn start(test: &str) -> Result<Option<S3>> {
        let Some(python) = python(test) else { return Ok(None) };
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut server = S3 { python, port, running: None };
        server.again()?;
        Ok(Some(server))
    }

    /// Starts it, empty but for a bucket.
    pub(super) fn again(&mut self) -> Result<()> {
        let mut command = Command::new(&self.python);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &self.port.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.running = Some(command.spawn()?);
        // It looks for a region in what is sent as authorization.
        let http = Http::new(&format!("127.0.0.1:{}", self.port), "").with("authorization", "");
        process::until("the S3 server answers", || {
            http.call("PUT", "/bucket", None).is_ok_and(|answer| answer.status == 200)
        })
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        if let Some(mut running) = self.running.take() {
            running.kill()?;
            running.wait()?;
        }
        Ok(())
    }
}

/// What a daemon needs to use the server behind a port.
pub(super) fn options(port: u16) -> Options {
    Options::stub()
        .env("ASH_SNAPSHOT_URL", "s3://bucket/a/prefix")
        .env("ASH_SNAPSHOT_KEY", KEY)
        .env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"))
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "nobody")
        .env("AWS_SECRET_ACCESS_KEY", "nothing")
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}
