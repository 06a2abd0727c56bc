//! The HTTP API as a [`Client`].

use std::io::BufReader;
use std::ops::Deref;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::client::{Client, Exec, Turn};
use crate::http::{Connection, Http};
use crate::process::until;
use crate::sse::{Id, Reader};

/// A client of the HTTP API.
#[derive(Clone, Debug)]
pub struct Api {
    http: Http,
}

impl Deref for Api {
    type Target = Http;

    fn deref(&self) -> &Http {
        &self.http
    }
}

impl Api {
    /// A client of the daemon at this address.
    pub fn new(address: &str, key: &str) -> Api {
        Api { http: Http::new(address, key) }
    }

    fn post(&self, path: &str, body: Value, status: u16) -> Result<Value> {
        self.call("POST", path, Some(&body))?.expect(status).with_context(|| format!("POST {path}"))
    }

    fn get(&self, path: &str) -> Result<Value> {
        self.call("GET", path, None)?.expect(200).with_context(|| format!("GET {path}"))
    }

    /// Sends a message and does not wait for anything.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn post_message(&self, session: &str, message: &Value) -> Result<Connection> {
        let path = format!("/api/sessions/{session}/messages");
        self.open("POST", &path, Some(message.to_string().as_bytes()))
    }

    /// Follows a session across turns.
    ///
    /// # Errors
    /// When it is refused.
    pub fn follow_on(&self, session: &str) -> Result<Turn> {
        turn(self.open("GET", &format!("/api/sessions/{session}/stream"), None)?)
    }

    /// The durable events behind one.
    ///
    /// # Errors
    /// When it is refused.
    pub fn events(&self, session: &str) -> Result<Vec<Value>> {
        let events = self.get(&format!("/api/sessions/{session}/events?limit=1000"))?;
        Ok(events["events"].as_array().cloned().unwrap_or_default())
    }

    /// The session as it is shown.
    ///
    /// # Errors
    /// When it is refused.
    pub fn session(&self, session: &str) -> Result<Value> {
        Ok(self.get(&format!("/api/sessions/{session}"))?["session"].take())
    }

    /// How the daemon is, as `/health` says.
    ///
    /// # Errors
    /// When it is refused.
    pub fn health(&self) -> Result<Value> {
        self.get("/health")
    }

    /// One of the counts of sandboxes in `/health`.
    ///
    /// # Errors
    /// When it is refused, or there is no such count.
    pub fn pool(&self, count: &str) -> Result<u64> {
        let pool = self.health()?["pool"].take();
        pool[count].as_u64().with_context(|| format!("/health says no {count}, but {pool}"))
    }

    /// Has so many sandboxes of an agent kept warm from now on, for sessions to come.
    ///
    /// # Errors
    /// When it is refused.
    pub fn keep_warm(&self, agent: &str, count: u64) -> Result<()> {
        let path = format!("/api/agents/{agent}/config");
        let changed = self.call("PATCH", &path, Some(&json!({ "preWarmCount": count })))?;
        changed.expect(200).with_context(|| format!("PATCH {path}")).map(drop)
    }

    /// Waits until so many sandboxes are warm, and no other one is on its way.
    ///
    /// # Errors
    /// When they are not for a minute.
    pub fn until_warm(&self, count: u64) -> Result<()> {
        until(&format!("{count} warm sandboxes"), || {
            let pool = self.health().map(|mut health| health["pool"].take());
            pool.is_ok_and(|pool| pool["warm"] == count && pool["warming"] == 0)
        })
    }

    /// Deletes a session and everything of it.
    ///
    /// # Errors
    /// When it is refused.
    pub fn purge(&self, session: &str) -> Result<()> {
        self.call("DELETE", &format!("/api/sessions/{session}?purge=true"), None)?.expect(200)?;
        Ok(())
    }
}

/// The id of the session that an answer shows.
///
/// # Errors
/// When it shows none.
pub fn session_of(answer: &Value) -> Result<String> {
    let id = answer["session"]["id"].as_str();
    Ok(id.with_context(|| format!("no session with an id is in {answer}"))?.to_owned())
}

/// The stream that answers a request.
///
/// # Errors
/// With status and body, when the answer is no stream.
pub(crate) fn turn(connection: Connection) -> Result<Turn> {
    let cutter = connection.cutter()?;
    let (status, _, mut body) = connection.body()?;
    if status != 200 {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut body, &mut text)?;
        bail!("{status} instead of a stream: {text}");
    }
    let mut reader = Reader::new(BufReader::new(body));
    Ok(Turn::read(move || reader.read(), cutter))
}

impl Client for Api {
    fn deploy(&self, agent: &str, folder: &Path) -> Result<u64> {
        let made = self.post("/api/agents", json!({ "name": agent, "path": folder }), 201)?;
        made["agent"]["version"].as_u64().context("the agent has no version")
    }

    fn create(&self, agent: &str, mut settings: Value) -> Result<String> {
        settings["agent"] = agent.into();
        session_of(&self.post("/api/sessions", settings, 201)?)
    }

    fn send(&self, session: &str, mut message: Value) -> Result<Turn> {
        message["includePartialMessages"] = true.into();
        turn(self.post_message(session, &message)?)
    }

    fn follow(&self, session: &str, after: Option<Id>) -> Result<Turn> {
        let http =
            after.map_or(self.http.clone(), |id| self.with("last-event-id", &id.to_string()));
        turn(http.open("GET", &format!("/api/sessions/{session}/stream?until=done"), None)?)
    }

    fn interrupt(&self, session: &str) -> Result<bool> {
        let answer = self.post(&format!("/api/sessions/{session}/interrupt"), json!({}), 200)?;
        answer["interrupted"].as_bool().context("the answer does not say whether")
    }

    fn exec(&self, session: &str, command: &str) -> Result<Exec> {
        let body = json!({ "command": command, "timeout": 120_000 });
        let ended = self.post(&format!("/api/sessions/{session}/exec"), body, 200)?;
        let text = |name: &str| ended[name].as_str().unwrap_or_default().to_owned();
        let code = ended["exitCode"].as_i64().context("the command has no exit code")?;
        Ok(Exec { code, stdout: text("stdout"), stderr: text("stderr") })
    }

    fn turn_to(&self, session: &str, verb: &str) -> Result<String> {
        let path = format!("/api/sessions/{session}");
        let answer = match verb {
            "end" => self.call("DELETE", &path, None)?,
            verb => self.call("POST", &format!("{path}/{verb}"), None)?,
        };
        let shown = answer.expect(200).with_context(|| format!("{verb} {session}"))?;
        Ok(shown["session"]["status"].as_str().context("the session has no status")?.to_owned())
    }

    fn status(&self, session: &str) -> Result<String> {
        let shown = self.session(session)?;
        Ok(shown["status"].as_str().context("the session has no status")?.to_owned())
    }

    fn messages(&self, session: &str) -> Result<Vec<(String, Value)>> {
        let page = self.get(&format!("/api/sessions/{session}/messages?limit=1000"))?;
        let messages = page["messages"].as_array().cloned().unwrap_or_default();
        messages.iter().map(message).collect()
    }
}

fn message(shown: &Value) -> Result<(String, Value)> {
    let role = shown["role"].as_str().context("a message has no role")?;
    let content = shown["content"].as_str().context("a message has no content")?;
    Ok((role.to_owned(), serde_json::from_str(content)?))
}
