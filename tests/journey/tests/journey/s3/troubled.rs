//! What lies between a daemon and an S3 server, and lets things go wrong.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
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
    /// Where requests wait before anything is done.
    pub(super) ahead: Gate,
    /// Where answers wait when all is done.
    pub(super) behind: Gate,
    /// Held for each claim: the server looks first and puts then, and would let two win at once.
    claiming: Mutex<()>,
    /// What comes from paths with this in them is not what is there; nothing, if it is empty.
    lies: Mutex<(String, Lie)>,
    /// Where something was put.
    there: Mutex<Vec<String>>,
    requests: AtomicUsize,
    over: AtomicBool,
}

/// What comes instead of an object.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Lie {
    /// It, with a bit that is another one.
    #[default]
    Flipped,
    /// Its first half, as if that were all.
    Shorter,
    /// Another one of the same kind, as it was put there.
    Another,
}

/// Where requests of a kind are held up until somebody lets them go on.
#[derive(Default)]
pub(super) struct Gate {
    held: Mutex<Held>,
    changed: Condvar,
}

/// What is held up, by its method and a part of its path, and how many are.
#[derive(Default)]
struct Held {
    what: Option<(&'static str, String)>,
    waiting: usize,
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
    /// The answer is not what is there.
    Lie(Lie),
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
    /// What comes instead of whose content.
    pub(super) fn lie_about(&self, part: &str, lie: Lie) {
        *self.lies.lock().unwrap_or_else(PoisonError::into_inner) = (part.to_owned(), lie);
    }

    /// What cannot be put there.
    pub(super) fn refuse(&self, part: &str) {
        part.clone_into(&mut self.refuses.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Where another object of the same kind was put, most lately.
    fn another(&self, path: &str) -> Option<String> {
        let there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = |path: &str| path.rsplit_once('/').map(|(kind, _)| kind.to_owned());
        let is_another = |other: &&String| *other != path && kind(other) == kind(path);
        there.iter().rev().find(is_another).cloned()
    }

    /// Remembers where something was put at once.
    fn note(&self, request: &Request) {
        if request.method == "PUT" && !request.path.contains('?') {
            let mut there = self.there.lock().unwrap_or_else(PoisonError::into_inner);
            there.push(request.path.clone());
        }
    }

    fn refuses_one(&self) -> bool {
        let less = |left: usize| left.checked_sub(1);
        self.refused.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn of(&self, request: &Request) -> Option<Trouble> {
        let lies = self.lies.lock().unwrap_or_else(PoisonError::into_inner);
        let is_object = request.method == "GET" && !request.path.contains("list-type");
        if is_object && !lies.0.is_empty() && request.path.contains(&lies.0) {
            return Some(Trouble::Lie(lies.1));
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
        if request.claims() {
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

impl Gate {
    /// Holds up from now on whatever has this method and this in its path.
    pub(super) fn hold(&self, method: &'static str, part: &str) {
        self.lock().what = Some((method, part.to_owned()));
    }

    /// Lets everything go on.
    pub(super) fn release(&self) {
        self.lock().what = None;
        self.changed.notify_all();
    }

    /// Waits until so many are held up.
    pub(super) fn await_held(&self, count: usize) -> Result<()> {
        let too_few = |held: &mut Held| held.waiting < count;
        let waited = self.changed.wait_timeout_while(self.lock(), PATIENCE, too_few);
        let (held, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        ensure!(!waited.timed_out(), "only {} of {count} are held up", held.waiting);
        Ok(())
    }

    /// Waits for as long as a request is held up.
    fn pass(&self, request: &Request) {
        let mut held = self.lock();
        if !held.holds(request) {
            return;
        }
        held.waiting += 1;
        self.changed.notify_all();
        let is_held = |held: &mut Held| held.holds(request);
        let waited = self.changed.wait_while(held, is_held);
        waited.unwrap_or_else(PoisonError::into_inner).waiting -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn holds(&self, request: &Request) -> bool {
        let is = |(method, part): &(&'static str, String)| {
            request.method == *method && request.path.contains(part)
        };
        self.what.as_ref().is_some_and(is)
    }
}

impl Request {
    /// Whether it makes somebody a session's owner.
    fn claims(&self) -> bool {
        self.method == "PUT" && self.path.contains("/owner/")
    }

    /// Asks for something else.
    fn turn_to(&mut self, path: &str) -> Result<()> {
        let head = std::str::from_utf8(&self.head)?.replacen(&self.path, path, 1);
        self.head = head.into_bytes();
        path.clone_into(&mut self.path);
        Ok(())
    }
}

impl Drop for Troubled {
    fn drop(&mut self) {
        self.troubles.over.store(true, Ordering::Relaxed);
        self.troubles.ahead.release();
        self.troubles.behind.release();
        // Wakes it up.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn serve(mut client: TcpStream, upstream: u16, troubles: &Troubles) -> Result<()> {
    let mut request = read(&client)?;
    troubles.ahead.pass(&request);
    let trouble = troubles.of(&request);
    match trouble {
        Some(Trouble::Cut) => return Ok(()),
        Some(Trouble::Refused(status)) => {
            let head =
                format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            return Ok(client.write_all(head.as_bytes())?);
        }
        Some(Trouble::Lie(Lie::Another)) => {
            let another = troubles.another(&request.path).context("there is no other one")?;
            request.turn_to(&another)?;
        }
        _ => {}
    }
    let mut answer = pass_on(&request, upstream, troubles)?;
    troubles.behind.pass(&request);
    match trouble {
        Some(Trouble::Unanswered) => return Ok(()),
        Some(Trouble::Half) => answer.truncate(answer.len() / 2),
        Some(Trouble::Lie(Lie::Shorter)) => answer = shorter(&answer)?,
        Some(Trouble::Lie(Lie::Flipped)) => {
            if let Some(last) = answer.last_mut() {
                *last ^= 1;
            }
        }
        _ => {}
    }
    client.write_all(&answer)?;
    Ok(client.shutdown(Shutdown::Both)?)
}

/// The server's answer to a request.
fn pass_on(request: &Request, upstream: u16, troubles: &Troubles) -> Result<Vec<u8>> {
    let one = || troubles.claiming.lock().unwrap_or_else(PoisonError::into_inner);
    let _one = request.claims().then(one);
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    server.write_all(&request.head)?;
    server.write_all(&request.body)?;
    let mut answer = vec![];
    server.read_to_end(&mut answer)?;
    if answer.starts_with(b"HTTP/1.1 200") {
        troubles.note(request);
    }
    Ok(answer)
}

/// An answer with the first half of its body, which says that this is all of it.
fn shorter(answer: &[u8]) -> Result<Vec<u8>> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.context("an answer has no body")? + 4);
    let body = &body[..body.len() / 2];
    let mut made: Vec<u8> = vec![];
    for line in std::str::from_utf8(head)?.split_inclusive('\n') {
        match line.to_lowercase().starts_with("content-length:") {
            true => made.extend(format!("content-length: {}\r\n", body.len()).into_bytes()),
            false => made.extend(line.as_bytes()),
        }
    }
    made.extend(body);
    Ok(made)
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
