//! Stands in front of the HTTP parser and lets only unambiguous HTTP/1.1 requests through.
//!
//! A lenient parser mends what it reads: a bare line feed, a length beside a chunked coding, a folded
//! header. Whatever two parsers may read differently is a way to smuggle a request past one of them,
//! so all of it ends the connection here. The guard frames every message itself, which is why it is
//! certain where each head begins.

use memchr::memchr;

mod stream;

pub(crate) use stream::Guarded;

/// Largest request head, in bytes.
pub(crate) const HEAD_LIMIT: usize = 32 * 1024;

/// Longest line of a chunk's size, in bytes: eight digits and the line's end.
const SIZE_LIMIT: usize = 10;

/// The bytes cannot be passed on from offset `at` of the slice that was fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fault {
    at: usize,
    within: Part,
}

/// The part of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Body,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    RequestLine,
    Header,
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailer,
}

/// Follows the bytes of one connection.
#[derive(Debug)]
struct Guard {
    state: State,
    line: Vec<u8>,
    head: Head,
}

/// What the head read so far says about the body.
#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    length: Option<u64>,
    chunked: bool,
}

impl Guard {
    fn new() -> Self {
        Self { state: State::RequestLine, line: Vec::new(), head: Head::default() }
    }

    /// Follows the next bytes. After a fault the guard must not be fed again.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let mut at = 0;
        while at < bytes.len() {
            at += match self.state {
                State::Length(left) => self.skip(left, bytes.len() - at, State::Length),
                State::Chunk(left) => self.skip(left, bytes.len() - at, State::Chunk),
                _ => self.line(&bytes[at..]).map_err(|offset| self.fault(at + offset))?,
            };
        }
        Ok(())
    }

    fn fault(&self, at: usize) -> Fault {
        let within = match self.state {
            State::RequestLine | State::Header => Part::Head,
            _ => Part::Body,
        };
        Fault { at, within }
    }

    /// Passes over a part whose length is known.
    fn skip(&mut self, left: u64, have: usize, resume: fn(u64) -> State) -> usize {
        let step = usize::try_from(left).map_or(have, |left| left.min(have));
        self.state = match left - step as u64 {
            0 if matches!(self.state, State::Chunk(_)) => State::ChunkEnd,
            0 => State::RequestLine,
            left => resume(left),
        };
        step
    }

    /// Collects a line and judges it at its end; returns how much it took, or the offset of the byte
    /// that must not pass.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, usize> {
        let end = memchr(b'\n', bytes);
        let taken = end.map_or(bytes.len(), |end| end + 1);
        let room = self.room();
        if taken > room {
            return Err(room);
        }
        self.line.extend_from_slice(&bytes[..taken]);
        if let Some(end) = end {
            let line = std::mem::take(&mut self.line);
            self.judge(&line).ok_or(end)?;
            self.line = line;
            self.line.clear();
        }
        Ok(taken)
    }

    fn room(&self) -> usize {
        let limit = match self.state {
            State::RequestLine | State::Header => HEAD_LIMIT - self.head.bytes,
            _ => SIZE_LIMIT,
        };
        limit.saturating_sub(self.line.len())
    }

    /// Judges a whole line and moves on.
    fn judge(&mut self, line: &[u8]) -> Option<()> {
        let text = line.strip_suffix(b"\r\n")?;
        if text.iter().any(|&byte| byte != b'\t' && byte.is_ascii_control()) {
            return None;
        }
        self.head.bytes += line.len();
        self.state = match (self.state, text) {
            (State::RequestLine, line) => request_line(line).map(|()| State::Header)?,
            (State::Header, b"") => self.body(),
            (State::Header, line) => self.head.header(line).map(|()| State::Header)?,
            (State::ChunkSize, line) => chunk_size(line)?,
            (State::ChunkEnd, b"") => State::ChunkSize,
            (State::Trailer, b"") => State::RequestLine,
            _ => return None,
        };
        Some(())
    }

    /// What follows the head that just ended.
    fn body(&mut self) -> State {
        let head = std::mem::take(&mut self.head);
        match head.length {
            _ if head.chunked => State::ChunkSize,
            None | Some(0) => State::RequestLine,
            Some(length) => State::Length(length),
        }
    }
}

impl Head {
    /// Takes one header into account. Either a length or a coding may be there, and only once.
    fn header(&mut self, line: &[u8]) -> Option<()> {
        let colon = memchr(b':', line)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return None;
        }
        let framed = self.chunked || self.length.is_some();
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = Some(number(value, 10, 18).filter(|_| !framed)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = value.eq_ignore_ascii_case(b"chunked") && !framed;
            return self.chunked.then_some(());
        }
        Some(())
    }
}

/// `METHOD /path HTTP/1.1`: one space each, a target that begins with a slash and is all visible.
fn request_line(line: &[u8]) -> Option<()> {
    let rest = line.strip_suffix(b" HTTP/1.1")?;
    let space = memchr(b' ', rest)?;
    let (method, target) = (&rest[..space], &rest[space + 1..]);
    let sound = !method.is_empty()
        && method.iter().copied().all(is_token)
        && target.starts_with(b"/")
        && target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
    sound.then_some(())
}

/// Nothing but hexadecimal digits: chunk extensions serve nobody but attackers.
fn chunk_size(line: &[u8]) -> Option<State> {
    Some(match number(line, 16, 8)? {
        0 => State::Trailer,
        size => State::Chunk(size),
    })
}

/// An unsigned number of at most `digits` digits, without sign, space or list.
fn number(text: &[u8], radix: u32, digits: usize) -> Option<u64> {
    let plain = text.len() <= digits && text.iter().all(|&byte| char::from(byte).is_digit(radix));
    let text = std::str::from_utf8(text).ok().filter(|_| plain)?;
    u64::from_str_radix(text, radix).ok()
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POST: &str = "POST /v1/messages HTTP/1.1\r\nhost: a\r\n";

    fn feed(bytes: &str) -> Result<(), Part> {
        Guard::new().feed(bytes.as_bytes()).map_err(|fault| fault.within)
    }

    #[test]
    fn plain_requests_pass_one_after_the_other() {
        let sized = format!("{POST}content-length: 5\r\n\r\nhello");
        let chunked = format!("{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
        let bare = "HEAD / HTTP/1.1\r\n\r\n";
        assert_eq!(feed(&format!("{sized}{chunked}{bare}{chunked}{sized}")), Ok(()));
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        for head in [
            "content-length: 5\r\ncontent-length: 5\r\n\r\n",
            "content-length: 5\r\ncontent-length: 6\r\n\r\n",
            "content-length: 5, 5\r\n\r\n",
            "content-length: +5\r\n\r\n",
            "content-length: 0x5\r\n\r\n",
            "content-length:\r\n\r\n",
            "content-length: 99999999999999999999\r\n\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            "transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "transfer-encoding: gzip, chunked\r\n\r\n",
            "transfer-encoding: xchunked\r\n\r\n",
            "transfer-encoding : chunked\r\n\r\n",
            "x: a\n\r\n",
            "x: a\rb\r\n\r\n",
            "x: a\r\n folded\r\n\r\n",
            "x\r\n\r\n",
            ": x\r\n\r\n",
            "x: \0\r\n\r\n",
            "\n",
        ] {
            assert_eq!(feed(&format!("{POST}{head}")), Err(Part::Head), "{head:?}");
        }
    }

    #[test]
    fn odd_request_lines_are_refused() {
        for line in [
            "GET http://a/ HTTP/1.1\r\n",
            "CONNECT a:443 HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "GET / HTTP/1.0\r\n",
            "GET  / HTTP/1.1\r\n",
            "GET / x HTTP/1.1\r\n",
            "GET /#x HTTP/1.1\r\n",
            "GET /\t HTTP/1.1\r\n",
            "GET / HTTP/1.1\n",
            "GET /\r\n",
            "/ HTTP/1.1\r\n",
            "\r\n",
            "PRI * HTTP/2.0\r\n",
            "\u{16}\u{3}\u{1}\n",
        ] {
            assert_eq!(feed(line), Err(Part::Head), "{line:?}");
        }
    }

    #[test]
    fn odd_chunks_are_refused() {
        for body in [
            "5;x=y\r\nhello\r\n",
            "5\nhello\r\n",
            "-5\r\n",
            " 5\r\nhello\r\n",
            "123456789\r\n",
            "5\r\nhelloworld\r\n",
            "0\r\ntrailer: x\r\n\r\n",
            "\r\n",
        ] {
            let bytes = format!("{POST}transfer-encoding: chunked\r\n\r\n{body}");
            assert_eq!(feed(&bytes), Err(Part::Body), "{body:?}");
        }
    }

    #[test]
    fn an_endless_head_is_refused_at_the_limit() {
        let mut guard = Guard::new();
        let line = format!("x: {}\r\n", "a".repeat(1000));
        guard.feed(POST.as_bytes()).unwrap();
        let refused = (0..100).find(|_| guard.feed(line.as_bytes()).is_err());
        assert_eq!(refused, Some((HEAD_LIMIT - POST.len()) / line.len()));
        assert!(Guard::new().feed(&vec![b'a'; HEAD_LIMIT + 1]).is_err());
    }

    /// Pieces that make requests, whole and broken.
    fn pieces() -> impl Strategy<Value = Vec<u8>> {
        let known = prop::sample::select(vec![
            "POST /v1/messages HTTP/1.1\r\n",
            "content-length: 3\r\n",
            "transfer-encoding: chunked\r\n",
            "\r\n",
            "\n",
            "3\r\nabc\r\n",
            "0\r\n\r\n",
            "abc",
        ]);
        let piece = prop_oneof![
            8 => known.prop_map(|text| text.as_bytes().to_vec()),
            1 => prop::collection::vec(any::<u8>(), 0..8),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_verdict_does_not_depend_on_the_chunking(bytes in pieces(), step in 1_usize..9) {
            let whole = Guard::new().feed(&bytes);
            let mut guard = Guard::new();
            let mut parts = bytes.chunks(step).enumerate();
            let parted = parts.try_for_each(|(index, part)| {
                guard.feed(part).map_err(|fault| Fault { at: index * step + fault.at, ..fault })
            });
            prop_assert_eq!(whole, parted);
        }
    }
}
