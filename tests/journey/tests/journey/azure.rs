//! Copies in Azure's blob storage, as Microsoft's own emulator of it has them.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::Result;
use ash_journey::{Options, process, skip};
use tempfile::TempDir;

use crate::machines::{KEY, moves};
use crate::sdk::installed;

const PACKAGE: &str = "azurite@3.35.0";

/// Makes a container. The account and its key are the emulator's, the same everywhere.
const MAKE: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
account = "devstoreaccount1"
key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
signed = "\n".join(["PUT", *[""] * 11, f"x-ms-date:{date}", f"x-ms-version:{version}",
                    f"/{account}/{account}/bucket", "restype:container"])
code = hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()
headers = {"x-ms-date": date, "x-ms-version": version, "Content-Length": "0",
           "Authorization": f"SharedKey {account}:{base64.b64encode(code).decode()}"}
url = f"http://127.0.0.1:{sys.argv[1]}/{account}/bucket?restype=container"
urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers))
"#;

/// The emulator, as a process of its own.
struct Azurite {
    port: u16,
    running: Child,
    _data: TempDir,
}

impl Azurite {
    /// `None`, and it is said, where it cannot be installed.
    fn start(test: &str) -> Result<Option<Azurite>> {
        let program = match installed(PACKAGE, install) {
            Ok(home) => home.join("node_modules/.bin/azurite-blob"),
            Err(reason) => {
                skip(test, &format!("{reason:#}"));
                return Ok(None);
            }
        };
        let data = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new(program);
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()]);
        // What is newer than it knows is what the clients of today say.
        command.args(["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--location"]);
        command.arg(data.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let started = Azurite { port, running: command.spawn()?, _data: data };
        process::until("the emulator answers", || make_container(port))?;
        Ok(Some(started))
    }

    /// What a daemon needs to use it.
    fn options(&self) -> Options {
        Options::stub()
            .env("ASH_SNAPSHOT_URL", "az://bucket/a/prefix")
            .env("ASH_SNAPSHOT_KEY", KEY)
            .env("AZURE_STORAGE_USE_EMULATOR", "true")
            .env("AZURITE_BLOB_STORAGE_URL", format!("http://127.0.0.1:{}", self.port))
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.running.kill();
        let _ = self.running.wait();
    }
}

fn install(home: &Path) -> Command {
    let mut npm = Command::new("npm");
    npm.args(["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]);
    npm.arg(home).arg(PACKAGE);
    npm
}

fn make_container(port: u16) -> bool {
    let mut python = Command::new("python3");
    let made = python.args(["-c", MAKE, &port.to_string()]).stderr(Stdio::null()).status();
    made.is_ok_and(|made| made.success())
}

#[test]
fn a_session_moves_through_azure() -> Result<()> {
    let Some(azurite) = Azurite::start("azure::a_session_moves_through_azure")? else {
        return Ok(());
    };
    moves(&azurite.options())
}
