//! What lies between a daemon and an S3 server, and lets things go wrong.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use ash_journey::PATIENCE;

/// One request in so many goes wrong, when they do.
const OFTEN: usize = 3;

/// A server that passes requests on, one for each connection.
pub(super) struct Troubled {
    pub(super) port: u16,
    pub(super) troubles: Arc<Troubles>,
}

/// What is to go wrong.
#[derive(Default)]
pub(super) struct Troubles {
    /// Some requests fail.
    pub(super) fails: AtomicBool,
    /// How many have.
    pub(super) failed: AtomicUsize,
    /// Nothing can be put there.
    pub(super) full: AtomicBool,
    /// Nothing can be removed there.
    pub(super) keeps: AtomicBool,
    /// Nothing with this in its path can be put there, if it is not empty.
    refuses: Mutex<String>,
    /// So many requests are refused behind the next one that makes somebody a session's owner.
    pub(super) behind_claim: AtomicUsize,
    refused: AtomicUsize,
    /// Whether the next of these waits, and until when.
    claim: Mutex<Held>,
    held: Condvar,
    /// What comes from paths with this in them has a flipped bit; nothing, if it is empty.
    lies: Mutex<String>,
    requests: AtomicUsize,
    over: AtomicBool,
}

/// How a request is held up.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
pub(super) enum Held {
    #[default]
    No,
    /// The next one will be.
    Next,
    /// It is.
    Now,
}

/// What goes wrong with a request.
enum Trouble {
    /// It is answered with a failure and not done.
    Refused(&'static str),
    /// It is not done, and not answered.
    Cut,
    /// It is done, and not answered.
    Unanswered,
    /// Half of the answer comes.
    Half,
    /// A bit of the answer is another one.
    Flipped,
}

struct Request {
    method: String,
    path: String,
    head: Vec<u8>,
    body: Vec<u8>,
}

impl Troubled {
    pub(super) fn start(upstream: u16) -> Result<Troubled> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let troubles = Arc::new(Troubles::default());
        let shared = troubles.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                if shared.over.load(Ordering::Relaxed) {
                    return;
                }
                let troubles = shared.clone();
                // One that hangs up has what it deserves.
                std::thread::spawn(move || drop(serve(connection, upstream, &troubles)));
            }
        });
        Ok(Troubled { port, troubles })
    }
}

impl Troubles {
    /// Whose bits are flipped.
    pub(super) fn lie_about(&self, part: &str) {
        part.clone_into(&mut self.lies.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What cannot be put there.
    pub(super) fn refuse(&self, part: &str) {
        part.clone_into(&mut self.refuses.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Has the next request wait that makes somebody a session's owner, or lets it go on.
    pub(super) fn hold_claim(&self, held: Held) {
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner) = held;
        self.held.notify_all();
    }

    /// Waits until one does.
    pub(super) fn await_claim(&self) -> Result<()> {
        self.await_held(|held| held == Held::Now).context("nobody claims anything")
    }

    fn await_held(&self, is: impl Fn(Held) -> bool) -> Option<()> {
        let held = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.held.wait_timeout_while(held, PATIENCE, |held| !is(*held));
        let (_held, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        (!waited.timed_out()).then_some(())
    }

    /// Waits where a claim is held up.
    fn pass_claim(&self) {
        let is_held = {
            let mut held = self.claim.lock().unwrap_or_else(PoisonError::into_inner);
            if *held == Held::Next {
                *held = Held::Now;
            }
            *held == Held::Now
        };
        if is_held {
            self.held.notify_all();
            self.await_held(|held| held == Held::No);
        }
    }

    fn refuses_one(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.refused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn of(&self, request: &Request) -> Option<Trouble> {
        let claims = request.method == "PUT" && request.path.contains("/owner/");
        if claims {
            self.pass_claim();
        }
        let lies = self.lies.lock().unwrap_or_else(PoisonError::into_inner);
        let is_object = request.method == "GET" && !request.path.contains("list-type");
        if is_object && !lies.is_empty() && request.path.contains(lies.as_str()) {
            return Some(Trouble::Flipped);
        }
        if self.full.load(Ordering::Relaxed) && request.method != "GET" {
            return Some(Trouble::Refused("403 Forbidden"));
        }
        let is_removal = request.method == "DELETE" || request.path.contains("?delete");
        let refuses = self.refuses.lock().unwrap_or_else(PoisonError::into_inner);
        let is_refused = !refuses.is_empty() && request.path.contains(refuses.as_str());
        if is_removal && self.keeps.load(Ordering::Relaxed) || is_refused && request.method == "PUT"
        {
            return Some(Trouble::Refused("403 Forbidden"));
        }
        if claims {
            let refused = self.behind_claim.swap(0, Ordering::Relaxed);
            self.refused.store(refused, Ordering::Relaxed);
        } else if self.refuses_one() {
            return Some(Trouble::Refused("403 Forbidden"));
        }
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        if !self.fails.load(Ordering::Relaxed) || !number.is_multiple_of(OFTEN) {
            return None;
        }
        self.failed.fetch_add(1, Ordering::Relaxed);
        Some(match number / OFTEN % 5 {
            0 => Trouble::Refused("500 Internal Server Error"),
            1 => Trouble::Unanswered,
            2 => Trouble::Refused("503 Slow Down"),
            3 => Trouble::Half,
            _ => Trouble::Cut,
        })
    }
}

impl Drop for Troubled {
    fn drop(&mut self) {
        self.troubles.over.store(true, Ordering::Relaxed);
        // Wakes it up.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn serve(mut client: TcpStream, upstream: u16, troubles: &Troubles) -> Result<()> {
    let request = read(&client)?;
    let trouble = troubles.of(&request);
    match trouble {
        Some(Trouble::Cut) => return Ok(()),
        Some(Trouble::Refused(status)) => {
            let head =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            return Ok(client.write_all(head.as_bytes())?);
        }
        _ => {}
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    server.write_all(&request.head)?;
    server.write_all(&request.body)?;
    let mut answer = vec![];
    server.read_to_end(&mut answer)?;
    match trouble {
        Some(Trouble::Unanswered) => return Ok(()),
        Some(Trouble::Half) => answer.truncate(answer.len() / 2),
        Some(Trouble::Flipped) => {
            if let Some(last) = answer.last_mut() {
                *last ^= 1;
            }
        }
        _ => {}
    }
    client.write_all(&answer)?;
    Ok(client.shutdown(Shutdown::Both)?)
}

/// Reads a request. What is passed on asks for the connection to be closed behind the answer.
fn read(client: &TcpStream) -> Result<Request> {
    let mut reader = BufReader::new(client);
    let (mut head, mut length) = (vec![], 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let lower = line.to_lowercase();
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
        if line.trim().is_empty() {
            head.extend(b"connection: close\r\n\r\n");
            break;
        }
        if !lower.starts_with("connection:") {
            head.extend(line.as_bytes());
        }
    }
    let text = std::str::from_utf8(&head)?;
    let mut words = text.split(' ').map(str::to_owned);
    let method = words.next().context("no method")?;
    let path = words.next().context("no path")?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { method, path, head, body })
}
