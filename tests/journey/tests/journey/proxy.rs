//! The reverse proxy of docs/reverse-proxy.md, as it is written there.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use ash_journey::process::{self, until};
use ash_journey::{Client as _, Options, programs, skip};

use crate::support::Talk;

/// An nginx that ends with the test.
struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = process::signal(self.0.id(), rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// The first block of this language in a document.
fn block<'a>(text: &'a str, language: &str) -> Result<&'a str> {
    let rest = text.split_once(&format!("```{language}\n")).map(|(_, rest)| rest);
    let block = rest.and_then(|rest| rest.split("```").next());
    block.with_context(|| format!("no {language} in the document"))
}

/// Starts nginx with the document's configuration, on a socket instead of a port.
fn nginx(document: &str, dir: &Path, upstream: &str) -> Result<Nginx> {
    let name = "ash.example.com".to_owned();
    let made = rcgen::generate_simple_self_signed([name]).context("no certificate")?;
    fs::write(dir.join("fullchain.pem"), made.cert.pem())?;
    fs::write(dir.join("privkey.pem"), made.signing_key.serialize_pem())?;
    let here = dir.display().to_string();
    let config = block(document, "nginx")?
        .replace("listen 443 ssl;", &format!("listen unix:{here}/socket ssl;"))
        .replace("/etc/ssl/ash", &here)
        .replace("127.0.0.1:4100", upstream);
    let around = format!(
        "daemon off; pid {here}/pid; error_log stderr; events {{}}\nhttp {{ access_log off;\n\
         client_body_temp_path {here}/body; proxy_temp_path {here}/proxy;\n\
         fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
         {config}\n}}\n"
    );
    fs::write(dir.join("nginx.conf"), around)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).args(["-e", "stderr", "-c"]).arg(dir.join("nginx.conf"));
    let nginx = Nginx(command.stdin(Stdio::null()).spawn()?);
    until("nginx listens", || dir.join("socket").exists())?;
    Ok(nginx)
}

#[test]
fn words_come_through_tls_as_they_are_said() -> Result<()> {
    if Command::new("nginx").arg("-v").output().is_err() {
        skip("words_come_through_tls_as_they_are_said", "nginx is not installed");
        return Ok(());
    }
    let document = fs::read_to_string(programs::repository().join("docs/reverse-proxy.md"))?;
    let talk = Talk::begin(Options::stub().config(block(&document, "toml")?))?;
    let dir = tempfile::tempdir()?;
    let _nginx = nginx(&document, dir.path(), talk.ash.address())?;
    // Where curl is to go instead of to the network, and whom to trust.
    let here = dir.path().display();
    fs::write(
        dir.path().join(".curlrc"),
        format!("unix-socket = \"{here}/socket\"\ncacert = \"{here}/fullchain.pem\"\nsilent\n"),
    )?;
    let script = block(&document, "sh")?.replace("Hello", "[[deltas 3 10]][[hang]]");
    let mut curl = Command::new("sh")
        .args(["-euc", &script])
        .env("CURL_HOME", dir.path())
        .env("SESSION", &talk.session)
        .env("KEY", talk.ash.key())
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(curl.stdout.take().context("no output")?).lines();
    let (mut words, mut last) = (0, String::new());
    for line in lines {
        last = match line? {
            line if line.starts_with("event: ") => line,
            _ => continue,
        };
        words += u32::from(last == "event: text_delta");
        // The turn goes on until it is interrupted: nothing was held back.
        if last == "event: text_delta" && words == 3 {
            ensure!(talk.api.interrupt(&talk.session)?, "no turn is running");
        }
    }
    ensure!(curl.wait()?.success() && words >= 3 && last == "event: done", "{words} {last}");
    // What is open to programs of the machine is not to those who come through the proxy.
    for host in ["ash.example.com", "localhost", "127.0.0.1"] {
        let mut curl = Command::new("curl");
        curl.args(["-o", "/dev/null", "-w", "%{http_code}", "https://ash.example.com/metrics"]);
        curl.args(["-H", &format!("Host: {host}")]);
        let told = curl.env("CURL_HOME", dir.path()).output()?;
        ensure!(told.stdout == b"401", "{host}: {told:?}");
    }
    talk.ash.finish()
}
