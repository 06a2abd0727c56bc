//! Rate limits: how much one client may ask for in a window of time.
//!
//! A client is an IPv4 address, or the /64 network that an IPv6 address is in: whoever has one
//! IPv6 address has all of those. Its window begins with its first request and starts anew when it
//! is over.
//!
//! A table has a fixed number of places, so that somebody with many addresses cannot make it grow,
//! and looks at those of one bucket only. When a bucket is full, the client that has asked for the
//! least is forgotten: whoever asks for much stays counted. The worst that forgetting does is to
//! count somebody from zero. Buckets are chosen by a secret hash, and locked for a few instructions
//! each.

use std::array;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::Method;
use http::header::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::error::ApiError;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Buckets of a table; a power of two.
const BUCKETS: usize = 2048;

/// Clients of a bucket.
const PLACES: usize = 8;

/// How much one client may ask for in a window of time. 0: there is no such limit.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// The window, in whole seconds, at least one.
    pub window: Duration,
    /// Requests.
    pub requests: u32,
    /// Deployments, which then do not count as requests.
    pub deployments: u32,
    /// New sessions, which then do not count as requests.
    pub sessions: u32,
}

impl Default for Rates {
    fn default() -> Self {
        Rates {
            window: Duration::from_mins(15),
            requests: 100_000_000,
            deployments: 10_000,
            sessions: 100_000,
        }
    }
}

/// Who is counted as one, and in which bucket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Client {
    network: u64,
    bucket: usize,
}

/// The addresses that are one client.
fn network(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        // No network of the Internet begins with 32 zeros, as those above do.
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h, ..] = address.octets();
            u64::from_be_bytes([a, b, c, d, e, f, g, h])
        }
    }
}

/// Counts what clients ask for.
pub struct RateLimits {
    requests: Option<Limit>,
    deployments: Option<Limit>,
    sessions: Option<Limit>,
    hash: RandomState,
    since: Instant,
}

impl RateLimits {
    /// Nobody has asked for anything yet.
    pub fn new(rates: Rates) -> RateLimits {
        let limit = |most| Limit::new(most, rates.window);
        RateLimits {
            requests: limit(rates.requests),
            deployments: limit(rates.deployments),
            sessions: limit(rates.sessions),
            hash: RandomState::new(),
            since: Instant::now(),
        }
    }

    /// The client at an address: looked up once for a connection.
    pub(super) fn client(&self, address: IpAddr) -> Client {
        let network = network(address);
        Client { network, bucket: self.hash.hash_one(network) as usize % BUCKETS }
    }

    /// Counts a request; says where its client stands then, if there is a limit for it.
    pub(super) fn count(&self, client: Client, method: &Method, path: &str) -> Option<Standing> {
        let own = match path {
            "/api/agents" if method == Method::POST => self.deployments.as_ref(),
            "/api/sessions" if method == Method::POST => self.sessions.as_ref(),
            _ => None,
        };
        let limit = own.or(self.requests.as_ref())?;
        let now = u32::try_from(self.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        Some(limit.count(client, now))
    }
}

/// Where a client stands with a limit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Standing {
    limit: u32,
    /// Requests that are left behind this one; none when this one was too many.
    left: Option<u32>,
    /// Seconds until the client's window is over.
    reset_s: u32,
}

impl Standing {
    /// The answer to a request that was too many.
    pub(super) fn refusal(&self) -> Option<Response> {
        if self.left.is_some() {
            return None;
        }
        let mut response = ApiError::too_many_requests(self.reset_s).into_response();
        self.tell(&mut response);
        Some(response)
    }

    /// Tells the client.
    pub(super) fn tell(&self, response: &mut Response) {
        let headers = response.headers_mut();
        headers.insert(LIMIT, written(self.limit));
        headers.insert(REMAINING, written(self.left.unwrap_or(0)));
        headers.insert(RESET, written(self.reset_s));
    }
}

/// Cheaper than from the number, which takes memory twice.
fn written(number: u32) -> HeaderValue {
    // Digits can always stand in a header.
    HeaderValue::try_from(number.to_string()).unwrap_or(HeaderValue::from_static("0"))
}

struct Limit {
    most: u32,
    window_s: u32,
    buckets: Box<[Mutex<Bucket>]>,
}

type Bucket = [Place; PLACES];

/// What is known of a client. Empty, when it has asked for nothing.
#[derive(Clone, Copy)]
struct Place {
    network: u64,
    /// When its window began, in seconds.
    began_s: u32,
    /// What it has asked for since.
    asked: u32,
}

impl Place {
    const EMPTY: Place = Place { network: 0, began_s: 0, asked: 0 };
}

impl Limit {
    /// `None` when there is no limit.
    fn new(most: u32, window: Duration) -> Option<Limit> {
        let bucket = || Mutex::new(array::from_fn(|_| Place::EMPTY));
        (most > 0).then(|| Limit {
            most,
            window_s: u32::try_from(window.as_secs()).unwrap_or(u32::MAX).max(1),
            buckets: (0..BUCKETS).map(|_| bucket()).collect(),
        })
    }

    fn count(&self, client: Client, now_s: u32) -> Standing {
        let mut bucket = self.buckets[client.bucket].lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.place(&mut bucket, client.network, now_s);
        let left = (place.asked < self.most).then(|| {
            place.asked += 1;
            self.most - place.asked
        });
        let reset_s = self.window_s - now_s.saturating_sub(place.began_s);
        drop(bucket);
        Standing { limit: self.most, left, reset_s }
    }

    /// The client's place: its own, one that nobody needs, or that of who has asked for the least.
    fn place<'a>(&self, bucket: &'a mut Bucket, network: u64, now_s: u32) -> &'a mut Place {
        let is_over = |place: &Place| now_s.saturating_sub(place.began_s) >= self.window_s;
        let own = bucket.iter().position(|place| place.network == network && place.asked > 0);
        let weight = |place: &Place| if is_over(place) { 0 } else { place.asked };
        let least = || (0..PLACES).min_by_key(|at| weight(&bucket[*at])).unwrap_or(0);
        let at = own.unwrap_or_else(least);
        let place = &mut bucket[at];
        if own.is_none() || is_over(place) {
            *place = Place { network, began_s: now_s, asked: 0 };
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All in one bucket.
    fn client(network: u64) -> Client {
        Client { network, bucket: 7 }
    }

    fn limit(most: u32) -> Limit {
        Limit::new(most, Duration::from_secs(60)).unwrap()
    }

    /// What is left behind a request, and when the window is over.
    fn ask(limit: &Limit, client: Client, now_s: u32) -> (Option<u32>, u32) {
        let standing = limit.count(client, now_s);
        (standing.left, standing.reset_s)
    }

    #[test]
    fn a_window_begins_with_the_first_request_and_ends() {
        let (limit, one, other) = (limit(2), client(1), client(2));
        assert_eq!(ask(&limit, one, 10), (Some(1), 60));
        assert_eq!(ask(&limit, one, 30), (Some(0), 40));
        assert_eq!(ask(&limit, one, 69), (None, 1));
        assert_eq!(ask(&limit, other, 69), (Some(1), 60));
        assert_eq!(ask(&limit, one, 70), (Some(1), 60));
        assert_eq!(ask(&limit, one, 71), (Some(0), 59));
    }

    #[test]
    fn a_network_is_one_client() {
        let at = |address: &str| network(address.parse().unwrap());
        assert_eq!(at("2001:db8:1:2::1"), at("2001:db8:1:2:ffff::9"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }

    #[test]
    fn who_asks_for_much_is_not_forgotten_for_the_sake_of_many() {
        let (limit, busy) = (limit(5), client(1));
        while ask(&limit, busy, 0).0.is_some() {}
        for other in 2..100_000 {
            ask(&limit, client(other), 1);
        }
        assert_eq!(ask(&limit, busy, 2), (None, 58));
    }

    #[test]
    fn what_is_over_makes_room_first() {
        let limit = limit(5);
        let bucket = &mut array::from_fn(|at| Place {
            network: at as u64,
            began_s: if at == 3 { 0 } else { 50 },
            asked: if at == 3 { 5 } else { 1 },
        });
        let place = limit.place(bucket, 99, 60);
        assert_eq!((place.network, place.began_s, place.asked), (99, 60, 0));
        assert_eq!(bucket[3].network, 99);
    }

    #[test]
    fn each_kind_has_a_limit_of_its_own_or_none() {
        let rates = Rates { requests: 9, deployments: 3, sessions: 0, ..Rates::default() };
        let limits = RateLimits::new(rates);
        let one = limits.client("192.0.2.1".parse().unwrap());
        let left =
            |method: &Method, path| limits.count(one, method, path).map(|standing| standing.left);
        assert_eq!(left(&Method::GET, "/api/agents"), Some(Some(8)));
        assert_eq!(left(&Method::POST, "/api/agents"), Some(Some(2)));
        assert_eq!(left(&Method::POST, "/api/sessions"), Some(Some(7)));
        assert_eq!(left(&Method::POST, "/api/sessions/x/pause"), Some(Some(6)));
        let off = RateLimits::new(Rates { requests: 0, ..rates });
        let counted = off.count(one, &Method::POST, "/api/sessions");
        assert_eq!(counted, None);
    }

    #[tokio::test(start_paused = true)]
    async fn time_goes_on() {
        let rates = Rates { window: Duration::from_secs(60), requests: 1, ..Rates::default() };
        let limits = RateLimits::new(rates);
        let one = limits.client("::1".parse().unwrap());
        let count = || limits.count(one, &Method::GET, "/health").unwrap();
        assert_eq!(count().left, Some(0));
        assert_eq!(count().left, None);
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(count().left, Some(0));
    }

    proptest! {
        /// A few clients, who all fit, get what they may and no more.
        #[test]
        fn nobody_gets_more(steps in prop::collection::vec((0..4u64, 0..40u32), 0..200)) {
            let limit = limit(3);
            let mut now = 0;
            let mut windows = std::collections::HashMap::new();
            for (client, pause) in steps {
                now += pause;
                let window = windows.entry(client).or_insert((now, 0));
                if now - window.0 >= 60 {
                    *window = (now, 0);
                }
                window.1 += 1;
                let left = 3u32.checked_sub(window.1);
                let standing = ask(&limit, Client { network: client, bucket: 0 }, now);
                prop_assert_eq!(standing, (left, 60 - (now - window.0)));
            }
        }
    }
}
