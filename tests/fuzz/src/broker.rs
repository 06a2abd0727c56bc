//! What sandboxes say to the broker: the guard, the HTTP parser behind it and the policy, as one.
//!
//! The first two are parts of a program, not of its interface, so their sources are included.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use policy::Verdict;

#[path = "../../../ashd/broker/src/guard/mod.rs"]
mod guard;
#[expect(dead_code, reason = "answers are not fuzzed")]
#[path = "../../../ashd/broker/src/policy.rs"]
mod policy;

/// A request: its method, its target, and its body if it is all there.
type Seen = (String, String, Option<Vec<u8>>);

/// A connection of a sandbox; the first byte says how the rest is cut into pieces, which are larger
/// if it is long, because an unfinished head is parsed again with every piece. What the HTTP
/// parser makes of it is what a parser that bends nothing finds in the bytes, and what would leave
/// is one of two calls with no header that is not known.
pub fn http(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    let heard = heard(bytes, (usize::from(*cut) + 1) * (bytes.len() / 4096 + 1));
    let said = said(bytes);
    for (index, request) in heard.iter().enumerate() {
        let same = said.get(index).is_some_and(|said| {
            (&said.0, &said.1) == (&request.0, &request.1)
                && (request.2.is_none() || said.2 == request.2)
        });
        assert!(same, "heard {request:?}, said {:?}", said.get(index));
    }
}

/// The requests that reach the broker behind the guard.
fn heard(bytes: &[u8], cut: usize) -> Vec<Seen> {
    let seen = RefCell::new(Vec::new());
    let stream = tokio::io::join(Pieces { bytes, cut }, tokio::io::sink());
    let connection = http1::Builder::new()
        .max_buf_size(2 * guard::HEAD_LIMIT)
        .auto_date_header(false)
        .serve_connection(
            TokioIo::new(guard::Guarded::new(stream)),
            service_fn(|request| answer(&seen, request)),
        );
    finish(connection, 16 * (bytes.len() + 64));
    seen.into_inner()
}

/// Timers want a clock, though none is waited for.
static CLOCK: LazyLock<Runtime> = LazyLock::new(|| {
    let clock = Builder::new_current_thread().enable_time().build();
    clock.expect("a runtime without threads and descriptors can be made")
});

/// Nothing here ever has to be waited for, so that what does not end is stuck.
fn finish(future: impl Future, polls: usize) {
    let _clock = CLOCK.enter();
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    let ended = (0..polls).any(|_| future.as_mut().poll(&mut context).is_ready());
    assert!(ended, "the connection is stuck");
}

async fn answer(
    seen: &RefCell<Vec<Seen>>,
    request: Request<Incoming>,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let index = seen.borrow().len();
    seen.borrow_mut().push((head.method.to_string(), head.uri.to_string(), None));
    let mut response = Response::new(Empty::new());
    match policy::judge(&head.method, &head.uri) {
        Verdict::Forward(call) => {
            assert_eq!((&head.method, head.uri.path()), (&Method::POST, call.path()));
            leaves(&policy::outgoing(&head.headers, HeaderValue::from_static("key")));
        }
        Verdict::Greet => assert_eq!((&head.method, head.uri.path()), (&Method::HEAD, "/")),
        Verdict::Refuse => *response.status_mut() = StatusCode::FORBIDDEN,
    }
    if let Ok(body) = body.collect().await {
        seen.borrow_mut()[index].2 = Some(body.to_bytes().into());
    }
    Ok(response)
}

/// Neither framing nor a credential of the sandbox leaves with a request.
fn leaves(headers: &http::HeaderMap) {
    for never in [
        "authorization",
        "connection",
        "content-length",
        "cookie",
        "host",
        "proxy-authorization",
        "te",
        "transfer-encoding",
        "upgrade",
    ] {
        assert!(!headers.contains_key(never), "{never} leaves");
    }
    let keys: Vec<_> = headers.get_all("x-api-key").iter().collect();
    assert_eq!(keys, ["key"], "the real key and no other");
}

/// The requests that are there, up to the first that is not as it should be. As plain as can be,
/// because it is what the broker is measured against.
fn said(mut rest: &[u8]) -> Vec<Seen> {
    let mut seen = Vec::new();
    while let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") {
        let Some((request, chunked, length)) = head(&rest[..end]) else { break };
        let after = &rest[end + 4..];
        let body = if chunked { chunks(after) } else { take(after, length) };
        let (body, next) = body.unzip();
        seen.push((request.0, request.1, body));
        match next {
            Some(next) => rest = next,
            None => break,
        }
    }
    seen
}

/// Method and target, whether the body is chunked, else its length.
fn head(head: &[u8]) -> Option<((String, String), bool, usize)> {
    let text = ascii(head);
    let mut lines = text.split("\r\n");
    let line = lines.next()?;
    let [method, target, "HTTP/1.1"] = line.split(' ').collect::<Vec<_>>()[..] else { return None };
    let mut framing = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        let name = name.to_ascii_lowercase();
        if line.contains(['\r', '\n', '\0']) || name.contains([' ', '\t']) {
            return None;
        }
        if name == "content-length" || name == "transfer-encoding" {
            framing.push((name, value.trim_matches([' ', '\t']).to_ascii_lowercase()));
        }
    }
    let request = (method.to_owned(), target.to_owned());
    match &framing[..] {
        [] => Some((request, false, 0)),
        [(name, value)] if name == "transfer-encoding" => {
            (value == "chunked").then_some((request, true, 0))
        }
        [(_, value)] if value.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((request, false, value.parse().ok()?))
        }
        _ => None,
    }
}

/// Values of headers may have bytes that are no text.
fn ascii(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect()
}

/// A body of this length and what follows it.
fn take(bytes: &[u8], length: usize) -> Option<(Vec<u8>, &[u8])> {
    let (body, rest) = bytes.split_at_checked(length)?;
    Some((body.to_vec(), rest))
}

/// A chunked body, which has neither extensions nor trailers, and what follows it.
fn chunks(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let digits = std::str::from_utf8(&rest[..end]).ok()?;
        let size = usize::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+'))?;
        let (chunk, after) = rest[end + 2..].split_at_checked(size)?;
        body.extend_from_slice(chunk);
        rest = after.strip_prefix(b"\r\n")?;
        if size == 0 {
            return Some((body, rest));
        }
    }
}

/// Bytes that come in pieces.
struct Pieces<'a> {
    bytes: &'a [u8],
    cut: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let size = self.cut.min(self.bytes.len()).min(buffer.remaining());
        let (piece, rest) = self.bytes.split_at(size);
        buffer.put_slice(piece);
        self.bytes = rest;
        Poll::Ready(Ok(()))
    }
}
