//! The model key, and the network, are out of the sandbox's reach.

use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use ash_journey::{Ash, Client, Options};
use serde_json::{Value, json};

use crate::support::{Talk, bash, both_engines};

const SEARCH: &str = include_str!("inside/search.py");
const REACH: &str = include_str!("inside/reach.py");

/// A request whose answer is all that the model API, or a gateway in front of it, was sent.
const QUOTED: &str = r#"http://x/v1/messages -d '{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "[[status 400 quote]]"}]}'"#;

both_engines!(the_model_key_is_nowhere);

fn the_model_key_is_nowhere(options: Options) -> Result<()> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() - 1.0;
    let mut talk = Talk::begin(options)?;
    fs::write(talk.ash.folder("search", "x")?.join("search.py"), SEARCH)?;
    talk.meet("search")?;
    let streams = converse(&talk)?;

    let inside = Inside { talk: &talk, since };
    let found = inside.search("")?;
    ensure!(found.is_empty(), "found inside: {found}");
    let outside = || search_outside(&talk.ash, &streams);
    ensure!(outside()?.is_empty(), "found outside: {:?}", outside()?);

    inside.plant("printf %s%s HALF REST > planted", "/workspace/planted")?;
    inside.plant("rm planted; PLANTED=HALFREST sleep 100 & echo", "/environ")?;
    inside.plant(
        "pkill sleep; python3 -c 'import time; x = \"HALF\" + \"REST\"; time.sleep(100)' & echo",
        "/mem",
    )?;
    fs::write(talk.ash.data_dir().join("planted"), format!("a{}b", talk.ash.canary()))?;
    ensure!(outside()? == [talk.ash.data_dir().join("planted")], "{:?}", outside()?);
    talk.ash.finish()
}

/// Every way in which the broker answers; returns all that was said.
fn converse(talk: &Talk) -> Result<String> {
    let mut said = String::new();
    let prompts = ["[[say hello]]", "[[status 400]] a", "[[status 401]] b", "[[history]]"];
    for prompt in prompts {
        said += &talk.send(prompt)?.to_end()?.raw();
    }
    let curl = "curl -sS --unix-socket /run/ash/model/api.sock";
    for request in
        [QUOTED, "http://x/v1/messages -d {}", "http://x/v1/files", "-X DELETE http://x/"]
    {
        said += &talk.api.exec(&talk.session, &format!("{curl} -i {request} 2>&1"))?.stdout;
    }
    ensure!(said.contains(r#"x-api-key\":\"***"#), "the model did not quote its request: {said}");
    for page in ["", "/messages", "/events", "/logs"] {
        let path = format!("/api/sessions/{}{page}", talk.session);
        said += &talk.api.call("GET", &path, None)?.text();
    }
    ensure!(said.contains("hello"), "{said}");
    Ok(said)
}

struct Inside<'a> {
    talk: &'a Talk,
    since: f64,
}

impl Inside<'_> {
    /// Where the key is found by the agent's user, a line each: in files, and in the memory of
    /// processes with names that begin like this.
    fn search(&self, name: &str) -> Result<String> {
        let (half, rest) = self.halves();
        let command = format!("python3 search.py {half} {rest} {} {name}", self.since);
        let done = self.talk.api.exec(&self.talk.session, &command)?;
        ensure!(done.code == 0, "{done:?}");
        let looked = done.stderr.split(' ').nth(2).and_then(|count| count.parse::<u32>().ok());
        ensure!(looked.is_some_and(|count| count > 100), "{done:?}");
        Ok(done.stdout)
    }

    fn halves(&self) -> (&str, &str) {
        self.talk.ash.canary().split_at(12)
    }

    /// Puts a copy somewhere, which must be found there.
    fn plant(&self, command: &str, place: &str) -> Result<()> {
        let (half, rest) = self.halves();
        let command = command.replace("HALF", half).replace("REST", rest);
        self.talk.api.exec(&self.talk.session, &command)?;
        let found = self.search("python")?;
        ensure!(found.lines().any(|line| line.ends_with(place)), "{place} is not in {found:?}");
        Ok(())
    }
}

/// Where the key is found in the state directory, in the log, and in what was said.
fn search_outside(ash: &Ash, said: &str) -> Result<Vec<PathBuf>> {
    let mut found = vec![];
    search_tree(&ash.data_dir(), ash.canary().as_bytes(), &mut found)?;
    for (text, name) in [(ash.log().as_str(), "log"), (said, "streams")] {
        found.extend(text.contains(ash.canary()).then(|| PathBuf::from(name)));
    }
    Ok(found)
}

fn search_tree(dir: &Path, key: &[u8], found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir)?.flatten() {
        let kind = entry.file_type()?;
        if kind.is_dir() {
            search_tree(&entry.path(), key, found)?;
        } else if kind.is_file() {
            let bytes = fs::read(entry.path())?;
            found.extend(bytes.windows(key.len()).any(|part| part == key).then(|| entry.path()));
        }
    }
    Ok(())
}

/// The same tries, outside and inside.
#[test]
fn nothing_outside_can_be_reached() -> Result<()> {
    let Some(options) = Options::real("secrets::nothing_outside_can_be_reached") else {
        return Ok(());
    };
    let mut talk = Talk::begin(options)?;
    let script = talk.ash.folder("reach", "x")?.join("reach.py");
    fs::write(&script, REACH)?;
    talk.meet("reach")?;
    let Talk { ash, api, session, .. } = talk;

    let listener = TcpListener::bind("0.0.0.0:0")?;
    let port = listener.local_addr()?.port();
    let name = format!("ash-journey-{}", std::process::id());
    let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
    let model = ash.model().url().trim_start_matches("http://").to_owned();
    let mut targets = vec![format!("127.0.0.1:{port}"), model, ash.address().to_owned()];
    targets.extend(own_addresses()?.iter().map(|own| format!("{own}:{port}")));
    let arguments = format!("{} {name}", targets.join(" "));

    let outside = Command::new("python3").arg(&script).args(arguments.split(' ')).output()?;
    let outside: Value = serde_json::from_slice(&outside.stdout)?;
    let from_exec = api.exec(&session, &format!("python3 reach.py {arguments}"))?;
    let from_exec: Value = serde_json::from_str(&from_exec.stdout).context(from_exec.stderr)?;
    let prompt = bash(true, &format!("python3 reach.py {arguments} > reached"));
    api.send(&session, json!({ "content": prompt }))?.to_end()?;
    let from_tool: Value = serde_json::from_str(&api.exec(&session, "cat reached")?.stdout)?;

    for target in targets.iter().map(String::as_str).chain(["abstract"]) {
        ensure!(outside[target] == "reached", "{target} cannot be reached outside: {outside}");
    }
    for inside in [&from_exec, &from_tool] {
        ensure!(inside["interfaces"] == json!(["lo"]), "{inside}");
        let tried = inside.as_object().context("no object")?;
        let reached: Vec<_> = tried.iter().filter(|(_, what)| *what == "reached").collect();
        ensure!(reached.is_empty(), "reached from inside: {reached:?}");
    }
    ash.finish()
}

/// Addresses of this machine besides the loopback's.
fn own_addresses() -> Result<Vec<String>> {
    let said = Command::new("hostname").arg("-I").output()?;
    let all = String::from_utf8_lossy(&said.stdout).into_owned();
    Ok(all.split_whitespace().filter(|ip| ip.contains('.')).map(str::to_owned).collect())
}
