//! What may leave a sandbox and what may come back: two calls, named headers, nothing else.
//!
//! The model API as a whole is a way out: files, batches and whatever comes next would carry data
//! past every other limit. So both directions are lists of what is known to be needed.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER,
    TRANSFER_ENCODING, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

/// Whether the same request may succeed later. Clients of the model API believe it more than the
/// status.
pub(crate) const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Goes to the model API under this path.
    Forward(Call),
    /// Answered here: the CLI only asks whether somebody is there.
    Greet,
    /// Refused.
    Refuse,
}

/// A call of the model API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Asks the model.
    Messages,
    /// Counts tokens, for free.
    CountTokens,
}

impl Call {
    /// The path below the upstream's base.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Messages => "/v1/messages",
            Self::CountTokens => "/v1/messages/count_tokens",
        }
    }
}

/// Judges a request by method and exact path; the query does not matter.
pub(crate) fn judge(method: &Method, uri: &Uri) -> Verdict {
    match (method, uri.path()) {
        (&Method::POST, "/v1/messages") => Verdict::Forward(Call::Messages),
        (&Method::POST, "/v1/messages/count_tokens") => Verdict::Forward(Call::CountTokens),
        (&Method::HEAD, "/") => Verdict::Greet,
        _ => Verdict::Refuse,
    }
}

/// The headers that leave with a request: those of the sandbox that the model API knows, and the
/// real credential. Answers must come uncompressed, or their usage could not be read, nor could it be
/// seen whether they show the key. It costs the CLI nothing: its socket is on this machine.
pub(crate) fn outgoing(from: &HeaderMap, key: HeaderValue) -> HeaderMap {
    let mut headers = pick(from, leaves);
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(HeaderName::from_static("x-api-key"), key);
    headers
}

/// The headers that come back with an answer. The sandbox cannot mend a credential that the model API
/// refuses: its client, which would try for minutes, is told not to.
pub(crate) fn incoming(status: StatusCode, from: &HeaderMap) -> HeaderMap {
    let mut headers = pick(from, returns);
    if [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status) {
        headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
    }
    headers
}

/// Whether an answer comes in a coding that was not asked for: compressed, say. Nobody could see what
/// it shows.
pub(crate) fn is_encoded(headers: &HeaderMap) -> bool {
    const PLAIN: [&str; 3] = ["", "identity", "chunked"];
    let is_plain = |coding: &HeaderValue| {
        PLAIN.iter().any(|plain| coding.as_bytes().eq_ignore_ascii_case(plain.as_bytes()))
    };
    let content = headers.get_all(CONTENT_ENCODING).iter();
    !content.chain(headers.get_all(TRANSFER_ENCODING).iter()).all(is_plain)
}

fn pick(from: &HeaderMap, wanted: fn(&HeaderName) -> bool) -> HeaderMap {
    let mut to = HeaderMap::with_capacity(from.len() + 2);
    for (name, value) in from.iter().filter(|(name, _)| wanted(name)) {
        to.append(name.clone(), value.clone());
    }
    to
}

fn leaves(name: &HeaderName) -> bool {
    const PREFIXES: [&str; 3] = ["anthropic-", "x-stainless-", "x-claude-"];
    let known = [ACCEPT, CONTENT_TYPE, USER_AGENT].contains(name) || name == "x-app";
    known || PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// Whose account it is does not concern the sandbox.
fn returns(name: &HeaderName) -> bool {
    const NAMES: [HeaderName; 3] = [
        HeaderName::from_static("request-id"),
        HeaderName::from_static("retry-after-ms"),
        SHOULD_RETRY,
    ];
    let standard = [CONTENT_TYPE, CACHE_CONTROL, RETRY_AFTER].contains(name);
    let limits = name.as_str().starts_with("anthropic-ratelimit-");
    standard || limits || NAMES.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(method: &str, target: &str) -> Verdict {
        judge(&method.parse().unwrap(), &target.parse().unwrap())
    }

    #[test]
    fn two_calls_and_a_greeting_pass() {
        assert_eq!(verdict("POST", "/v1/messages"), Verdict::Forward(Call::Messages));
        assert_eq!(verdict("POST", "/v1/messages?beta=true"), Verdict::Forward(Call::Messages));
        let count = verdict("POST", "/v1/messages/count_tokens?beta=true");
        assert_eq!(count, Verdict::Forward(Call::CountTokens));
        assert_eq!(verdict("HEAD", "/"), Verdict::Greet);
    }

    #[test]
    fn everything_else_is_refused() {
        for (method, target) in [
            ("GET", "/"),
            ("GET", "/v1/messages"),
            ("post", "/v1/messages"),
            ("PUT", "/v1/messages"),
            ("HEAD", "/v1/messages"),
            ("POST", "/"),
            ("POST", "/v1/messages/"),
            ("POST", "//v1/messages"),
            ("POST", "/v1//messages"),
            ("POST", "/v1/./messages"),
            ("POST", "/v1/files/../messages"),
            ("POST", "/V1/messages"),
            ("POST", "/v1/messages%2Fbatches"),
            ("POST", "/v1/%6dessages"),
            ("POST", "/v1/messages;a"),
            ("POST", "/v1/messages/batches"),
            ("POST", "/v1/files"),
            ("POST", "/v1/complete"),
            ("GET", "/v1/models"),
            ("OPTIONS", "/v1/messages"),
        ] {
            assert_eq!(verdict(method, target), Verdict::Refuse, "{method} {target}");
        }
    }

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair =
            |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn credentials_of_the_sandbox_are_replaced() {
        let sent = map(&[
            ("x-api-key", "placeholder"),
            ("authorization", "Bearer stolen"),
            ("proxy-authorization", "Basic x"),
            ("cookie", "a=b"),
            ("host", "evil"),
            ("connection", "x-app"),
            ("accept-encoding", "br"),
            ("x-forwarded-for", "10.0.0.1"),
            ("anthropic-version", "2023-06-01"),
            ("x-stainless-lang", "js"),
        ]);
        let expected = map(&[
            ("anthropic-version", "2023-06-01"),
            ("x-stainless-lang", "js"),
            ("accept-encoding", "identity"),
            ("x-api-key", "real"),
        ]);
        assert_eq!(outgoing(&sent, HeaderValue::from_static("real")), expected);
    }

    #[test]
    fn answers_bring_no_cookie_and_no_account() {
        let received = map(&[
            ("content-type", "text/event-stream"),
            ("set-cookie", "a=b"),
            ("anthropic-organization-id", "org"),
            ("anthropic-ratelimit-requests-limit", "1"),
            ("request-id", "req_1"),
            ("location", "http://elsewhere"),
        ]);
        let expected = map(&[
            ("content-type", "text/event-stream"),
            ("anthropic-ratelimit-requests-limit", "1"),
            ("request-id", "req_1"),
        ]);
        assert_eq!(incoming(StatusCode::OK, &received), expected);
    }

    #[test]
    fn only_plain_answers_can_be_read() {
        assert!(!is_encoded(&HeaderMap::new()));
        let plain = [("content-encoding", "Identity"), ("transfer-encoding", "chunked")];
        assert!(!is_encoded(&map(&plain)));
        for coded in [
            ("content-encoding", "gzip"),
            ("content-encoding", "identity, br"),
            ("transfer-encoding", "gzip, chunked"),
        ] {
            assert!(is_encoded(&map(&[coded])), "{coded:?}");
        }
        let twice = [("transfer-encoding", "deflate"), ("transfer-encoding", "chunked")];
        assert!(is_encoded(&map(&twice)));
    }
}
