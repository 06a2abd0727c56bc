//! What `ashd` and the broker say to each other.
//!
//! The conversation runs over a sequenced-packet socket, one JSON message per packet; secrets,
//! certificates and listeners travel beside it as file descriptors, never inside it. Unknown fields
//! are ignored on both ends, because a broker outlives the `ashd` that started it and may meet a
//! newer one.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

mod client;
mod launch;
mod packet;

pub use client::{Control, Error, Events, Standing};
pub use launch::{Launch, listen, secret};
pub(crate) use packet::{Packet, receive, send};

/// What `ashd` asks, with the number that its answer will carry.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ask {
    /// Chosen by `ashd`; comes back in [`Word::Reply`].
    pub id: u64,
    /// The request itself.
    pub request: Request,
}

/// One request of `ashd`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Where the model API is and how much a sandbox may use of it. May come with one descriptor: a
    /// file of PEM certificates to trust besides the system's.
    Configure(Settings),
    /// May come with one descriptor: a file that holds the model API key. Replaces the key before.
    /// Without one the key that an `ashd` gave is forgotten, and the service manager's, if it gave
    /// any, is used again; an older broker refuses that.
    Key,
    /// Comes with one descriptor: the listening Unix socket of this sandbox. Replaces its listener
    /// before; connections that are open go on.
    Grant {
        /// The sandbox that the socket belongs to.
        sandbox: Uuid,
        /// The only uid that may connect to it.
        agent_uid: u32,
        /// See [`Peer::session`]; an older `ashd` does not say.
        #[serde(default)]
        session: Option<Uuid>,
    },
    /// Closes the listener of this sandbox and cuts its connections. Also fine when there is none.
    Revoke {
        /// The sandbox.
        sandbox: Uuid,
    },
    /// Asks for the sandboxes that have a listener, in order, as many as fit one packet.
    List {
        /// Begin after this one.
        after: Option<Uuid>,
    },
    /// Ends the broker, once this is answered.
    Quit,
}

/// Who comes through a sandbox's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The only uid that may connect.
    pub uid: u32,
    /// The session that the sandbox serves: what the log calls it, and nothing else.
    pub session: Option<Uuid>,
}

/// Where the model API is and how much a sandbox may use of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Base URL: `https://host[:port][/prefix]`; `http://` only on the loopback unless
    /// `allow_plaintext` is set.
    pub upstream: String,
    /// URL of an HTTP proxy (`http://[user:password@]host:port`) through which an `https` upstream is
    /// reached.
    #[serde(default)]
    pub proxy: Option<String>,
    /// Accept an `http://` upstream that is not on the loopback: the key crosses the network in clear.
    #[serde(default)]
    pub allow_plaintext: bool,
    /// Bounds for each sandbox.
    #[serde(default)]
    pub limits: Limits,
}

/// A proxy's URL may hold a password.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("upstream", &self.upstream)
            .field("proxy", &self.proxy.as_ref().map(|_| "…"))
            .field("allow_plaintext", &self.allow_plaintext)
            .field("limits", &self.limits)
            .finish()
    }
}

/// Bounds for each sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Largest request body, in bytes.
    pub request_bytes: u64,
    /// Requests on their way to the model API at the same time.
    pub concurrent_requests: usize,
    /// Open connections; further ones wait to be accepted.
    pub connections: usize,
    /// How long a sandbox's connection may take to bring a whole request head, in milliseconds. A
    /// connection that is kept alive is closed after this time without a new request.
    pub head_timeout_ms: u64,
    /// How long a sandbox may be silent inside a request body, in milliseconds.
    pub body_silence_ms: u64,
    /// How long connecting to the model API may take, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long the model API may be silent before and inside its answer, in milliseconds.
    pub upstream_silence_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request_bytes: 64 * 1024 * 1024,
            concurrent_requests: 32,
            connections: 64,
            head_timeout_ms: 60_000,
            body_silence_ms: 60_000,
            connect_timeout_ms: 10_000,
            upstream_silence_ms: 600_000,
        }
    }
}

/// What the broker says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// The answer to the [`Ask`] with this number.
    Reply {
        /// The number.
        id: u64,
        /// What became of it.
        outcome: Outcome,
    },
    /// Something that happened.
    Event(Event),
}

/// What became of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is done.
    Done,
    /// The answer to [`Request::List`].
    Granted {
        /// Sandboxes that have a listener.
        sandboxes: Vec<Uuid>,
        /// There are more after the last one.
        more: bool,
        /// Whether the broker has a model API key. Here because a broker breaks off at a request
        /// that it does not know; older ones do not say.
        #[serde(default)]
        has_key: Option<bool>,
        /// The places in `sandboxes` of those that have requests on their way to the model API. Here
        /// for the same reason.
        #[serde(default)]
        asking: Option<Vec<usize>>,
        /// How many requests of sandboxes the broker has refused since it began. They are not told one
        /// by one: a sandbox can have as many refused as it likes. Older brokers do not say.
        #[serde(default)]
        refused: Option<u64>,
        /// How many of them got no answer of the model API since it began. They are not told one by one
        /// either. Older brokers do not say.
        #[serde(default)]
        failed: Option<Failures>,
    },
    /// It was refused; nothing changed.
    Refused {
        /// Why, in a sentence.
        message: String,
    },
}

/// How many requests of sandboxes got no answer of the model API, by why. Those are not among them that
/// were refused, or whose sandbox broke off.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Failures {
    /// Nobody had said where it is.
    pub not_ready: u64,
    /// Nobody had given a key.
    pub no_key: u64,
    /// There was no connection.
    pub unreachable: u64,
    /// It ended the connection first, or what it said is not passed on.
    pub bad_answer: u64,
    /// It said nothing in time.
    pub silent: u64,
}

/// Something that happened in the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A call of the model API came to its end.
    Usage(Usage),
    /// Events that were dropped because nobody took them.
    Lost {
        /// How many.
        count: u64,
    },
    /// The broker was told to end. It takes no more connections, brings the answers that are under
    /// way to their end, and hangs up. Whoever knocks from now on waits for the next broker, if
    /// there is a fresh socket to knock at.
    Leaving,
}

/// What one call of the model API used, read from the answer as it went by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Whose call it was.
    pub sandbox: Uuid,
    /// The model API's own name for the call.
    pub request_id: Option<String>,
    /// HTTP status of the answer.
    pub status: u16,
    /// From the request's head to the answer's end, in milliseconds.
    pub duration_ms: u64,
    /// Whether the answer was passed on to its end: neither cut by the model API nor abandoned by the
    /// sandbox.
    pub complete: bool,
    /// The counts.
    pub tokens: Tokens,
}

/// Token counts as the model API reports them; what it did not report is zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tokens {
    /// The model that answered.
    pub model: Option<String>,
    /// Tokens of the prompt that came from no cache.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// Tokens written to the prompt cache.
    pub cache_creation_input_tokens: u64,
    /// Tokens read from the prompt cache.
    pub cache_read_input_tokens: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an `ashd` of before says, and what a broker of before reads.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Before {
        Grant { sandbox: Uuid, agent_uid: u32 },
    }

    #[test]
    fn a_grant_is_understood_across_versions() {
        let (sandbox, agent_uid, session) = (Uuid::new_v4(), 7, Some(Uuid::new_v4()));
        let old = serde_json::to_string(&Before::Grant { sandbox, agent_uid }).unwrap();
        let read: Request = serde_json::from_str(&old).unwrap();
        assert_eq!(read, Request::Grant { sandbox, agent_uid, session: None });
        let new = serde_json::to_string(&Request::Grant { sandbox, agent_uid, session }).unwrap();
        assert!(new.contains(&session.unwrap().to_string()), "{new}");
        let read: Before = serde_json::from_str(&new).unwrap();
        assert_eq!(read, Before::Grant { sandbox, agent_uid });
    }

    #[test]
    fn a_broker_of_before_does_not_say_more_than_it_knows() {
        let old = r#"{"granted":{"sandboxes":[],"more":false}}"#;
        let read: Outcome = serde_json::from_str(old).unwrap();
        assert!(
            matches!(read, Outcome::Granted { has_key: None, asking: None, refused: None, .. }),
            "{read:?}"
        );
        assert!(matches!(read, Outcome::Granted { failed: None, .. }), "{read:?}");
    }

    /// One that knows fewer reasons, or more.
    #[test]
    fn failures_are_understood_across_versions() {
        let read: Failures = serde_json::from_str(r#"{"silent":3,"bewitched":1}"#).unwrap();
        assert_eq!(read, Failures { silent: 3, ..Failures::default() });
    }

    #[test]
    fn a_session_is_an_id_or_the_request_is_none() {
        let (sandbox, forged) = (Uuid::new_v4(), "x\nMESSAGE_ID=1");
        let grant = serde_json::json!({"sandbox": sandbox, "agent_uid": 7, "session": forged});
        assert!(serde_json::from_value::<Request>(serde_json::json!({"grant": grant})).is_err());
    }
}
