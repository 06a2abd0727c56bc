//! Who gets past the door: Host, Origin, the API key and its scope, in this order, before any routing.
//!
//! - **Host** must name this server: a loopback name or address, the address it is bound to, or a
//!   configured name. That ends DNS rebinding, where a web page's own name is made to point here.
//!   An address cannot be rebound, so a server bound to all addresses answers to every address.
//!   Ports do not matter: tunnels change them.
//! - **Origin**, which only browsers send, must be the server itself, or configured. Unless
//!   `ALLOWED_ORIGINS` says otherwise, that means loopback origins on any port; `*` allows all.
//!   An origin that is not allowed is refused (403), not just left without CORS headers.
//! - **The key** is needed for everything but `/health`, unknown paths too, so that nobody can
//!   find out without a key what is there. Programs of this machine need none for `/metrics` either,
//!   unless a proxy stands between.
//! - **The scope** of the key must be enough for the method and the path: `read` to look, `run` for
//!   what is done with sessions, `manage` for everything else, unknown paths too.

use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderValue, ORIGIN};
use http::{Method, StatusCode, Uri, Version};

use super::error::ApiError;
use crate::auth::Keys;
use crate::domain::Scope;
use crate::session::api::Caller;

/// The only path that needs no key.
const OPEN_PATH: &str = "/health";

/// The path that needs none from this machine.
const LOCAL_PATH: &str = "/metrics";

/// Whoever passes a request on says with one of these for whom, or that it does.
const PASSED_ON: [&str; 4] = ["forwarded", "via", "x-forwarded-for", "x-real-ip"];

/// Which web pages may call.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Origins {
    /// Those that this machine serves itself.
    #[default]
    Loopback,
    /// These, written as browsers send them: `https://app.example.com`.
    Listed(Vec<String>),
    /// All.
    Any,
}

impl Origins {
    /// Reads `ALLOWED_ORIGINS`: a comma list, or `*`.
    pub fn from_list(list: &str) -> Self {
        let origins: Vec<_> =
            list.split(',').map(str::trim).filter(|origin| !origin.is_empty()).collect();
        match origins[..] {
            [] => Origins::Loopback,
            _ if origins.contains(&"*") => Origins::Any,
            _ => Origins::Listed(origins.into_iter().map(str::to_owned).collect()),
        }
    }
}

/// What the door checks.
pub struct Guard {
    /// The address that the listener is bound to.
    pub bound: IpAddr,
    /// Further names of this server, without port.
    pub hosts: Vec<String>,
    /// Which web pages may call.
    pub origins: Origins,
}

impl Guard {
    /// Checks that a request means this server and comes from a page that may call it; returns the
    /// origin to be named in CORS headers, if there is one.
    ///
    /// # Errors
    /// 400 without one proper host, 403 when host or origin are not allowed.
    pub(super) fn admit_place(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, ApiError> {
        let host = self.admit_host(uri, headers)?;
        let Some(origin) = headers.get(ORIGIN) else {
            return Ok(None);
        };
        let allowed = origin.to_str().is_ok_and(|origin| self.allows_origin(origin, host));
        allowed
            .then(|| Some(origin.clone()))
            .ok_or_else(|| ApiError::new(StatusCode::FORBIDDEN, "Origin not allowed"))
    }

    /// Returns the host as the client wrote it, with its port.
    fn admit_host<'a>(&self, uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, ApiError> {
        let host = sole(headers, &HOST).ok_or_else(|| ApiError::invalid("one Host is required"))?;
        let named = [Some(host), uri.authority().map(|authority| authority.as_str())];
        for host in named.into_iter().flatten() {
            let name = host_of(host).ok_or_else(|| ApiError::invalid("the Host is malformed"))?;
            if !self.is_us(name) {
                return Err(ApiError::new(StatusCode::FORBIDDEN, "Host not allowed"));
            }
        }
        Ok(host)
    }

    fn is_us(&self, name: &str) -> bool {
        is_loopback_name(name)
            || address_of(name).is_some_and(|address| self.is_our_address(address))
            || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    fn is_our_address(&self, address: IpAddr) -> bool {
        address.is_loopback() || address == self.bound || self.bound.is_unspecified()
    }

    fn allows_origin(&self, origin: &str, host: &str) -> bool {
        let Some((scheme, authority)) = origin.split_once("://") else {
            return self.origins == Origins::Any;
        };
        let is_web = scheme == "http" || scheme == "https";
        let same = is_web && authority.eq_ignore_ascii_case(host);
        same || match &self.origins {
            Origins::Any => true,
            Origins::Listed(known) => known.iter().any(|known| known.eq_ignore_ascii_case(origin)),
            Origins::Loopback => is_web && host_of(authority).is_some_and(is_loopback),
        }
    }
}

fn is_loopback(name: &str) -> bool {
    is_loopback_name(name) || address_of(name).is_some_and(|address| address.is_loopback())
}

fn is_loopback_name(name: &str) -> bool {
    let tail = name.len().checked_sub("localhost".len()).and_then(|cut| name.split_at_checked(cut));
    tail.is_some_and(|(head, tail)| {
        tail.eq_ignore_ascii_case("localhost") && (head.is_empty() || head.ends_with('.'))
    })
}

fn address_of(name: &str) -> Option<IpAddr> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match bare {
        Some(bare) => bare.parse().ok().map(IpAddr::V6),
        None => name.parse().ok().map(IpAddr::V4),
    }
}

/// The host of `host[:port]`; IPv6 addresses keep their brackets.
fn host_of(authority: &str) -> Option<&str> {
    let end = if authority.starts_with('[') {
        authority.find(']')? + 1
    } else {
        authority.find(':').unwrap_or(authority.len())
    };
    let (host, port) = authority.split_at(end);
    let port = port.strip_prefix(':').unwrap_or(port);
    let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-._[]:".contains(&b);
    let sound = !host.is_empty()
        && host.bytes().all(is_host)
        && port.len() <= 5
        && port.bytes().all(|b| b.is_ascii_digit());
    sound.then_some(host)
}

/// A header that is there exactly once.
fn sole<'a>(headers: &'a HeaderMap, name: &http::HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Whether a path answers whoever comes from there without a key.
pub(super) fn is_open(path: &str, from: IpAddr, version: Version, headers: &HeaderMap) -> bool {
    // nginx asks in HTTP/1.0 when it is not told otherwise, under the address that it knows us by, and
    // does not say that it asks for somebody else.
    let is_near = || version > Version::HTTP_10 && is_of_this_machine(from, headers);
    path == OPEN_PATH || (path == LOCAL_PATH && is_near())
}

/// Whether a request comes of a program on this machine, and of nobody for whom it was passed on: such a
/// one has another name of this server in its Host, or says so. What such a header says of somebody is not
/// believed; that it is there only takes something away.
fn is_of_this_machine(from: IpAddr, headers: &HeaderMap) -> bool {
    let host = sole(headers, &HOST).and_then(host_of);
    let passed_on = || PASSED_ON.iter().any(|name| headers.contains_key(*name));
    from.to_canonical().is_loopback() && host.is_some_and(is_loopback) && !passed_on()
}

/// Finds out who calls.
///
/// # Errors
/// 401 that says what is missing.
pub(super) fn admit_caller(keys: &Keys, headers: &HeaderMap) -> Result<Caller, ApiError> {
    let refuse = |text: &'static str| ApiError::new(StatusCode::UNAUTHORIZED, text);
    if !headers.contains_key(AUTHORIZATION) {
        return Err(refuse("Missing Authorization header"));
    }
    let presented = sole(headers, &AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
    let presented = presented.filter(|key| !key.is_empty() && !key.contains(' '));
    let presented = presented.ok_or_else(|| refuse("Invalid Authorization header format"))?;
    let grant = keys.check(presented.as_bytes()).ok_or_else(|| refuse("Invalid API key"))?;
    Ok(Caller { tenant: grant.tenant.clone(), scope: grant.scope })
}

/// Checks that a key's scope is enough.
///
/// # Errors
/// 403 that names the scope that is needed.
pub(super) fn admit_scope(caller: &Caller, needed: Scope) -> Result<(), ApiError> {
    if caller.scope >= needed {
        return Ok(());
    }
    let text = format!("This needs a key with the scope {needed}, yours has {}", caller.scope);
    Err(ApiError::new(StatusCode::FORBIDDEN, text))
}

/// The scope that a request needs as far as method and path tell; a handler may need more.
pub(super) fn needed(method: &Method, path: &str) -> Scope {
    let beneath = |root| {
        let rest = path.strip_prefix(root);
        rest.is_some_and(|rest: &str| rest.is_empty() || rest.starts_with('/'))
    };
    let of_sessions = beneath("/api/sessions") || beneath("/api/attachments");
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => Scope::Read,
        _ if of_sessions => Scope::Run,
        _ => Scope::Manage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Grant, hash};
    use crate::domain::Tenant;
    use crate::http::tests::error_text;

    fn guard(bound: &str, origins: Origins) -> Guard {
        Guard { bound: bound.parse().unwrap(), hosts: vec!["ash.example.com".into()], origins }
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn place(
        guard: &Guard,
        pairs: &[(&'static str, &str)],
    ) -> Result<Option<String>, (u16, String)> {
        let admitted = guard.admit_place(&"/x".parse().unwrap(), &headers(pairs));
        admitted
            .map(|origin| origin.map(|origin| origin.to_str().unwrap().to_owned()))
            .map_err(|error| (error.status.as_u16(), error_text(error)))
    }

    #[test]
    fn our_names_are_known() {
        let guard = guard("10.0.0.5", Origins::Loopback);
        for host in [
            "localhost",
            "LOCALHOST:4100",
            "app.localhost:1",
            "127.0.0.1:4100",
            "127.8.8.8",
            "[::1]:4100",
            "10.0.0.5:80",
            "ash.example.com",
            "Ash.Example.com:443",
        ] {
            assert_eq!(place(&guard, &[("host", host)]), Ok(None), "{host}");
        }
    }

    #[test]
    fn other_names_are_not() {
        let guard = guard("10.0.0.5", Origins::Any);
        for host in [
            "evil.com",
            "10.0.0.6",
            "localhost.evil.com",
            "xlocalhost",
            "127.0.0.1.evil.com",
            "0.0.0.0",
        ] {
            let refusal = (403, "Host not allowed".to_owned());
            assert_eq!(place(&guard, &[("host", host)]), Err(refusal), "{host}");
        }
        for host in [
            "",
            ":80",
            "a b",
            "user@localhost",
            "localhost:80x",
            "localhost:123456",
            "[::1",
            "::1",
            "a/b",
        ] {
            assert_eq!(place(&guard, &[("host", host)]).unwrap_err().0, 400, "{host}");
        }
    }

    #[test]
    fn one_host_is_required_and_the_target_counts_too() {
        let guard = guard("127.0.0.1", Origins::Loopback);
        assert_eq!(place(&guard, &[]).unwrap_err().0, 400);
        assert_eq!(
            place(&guard, &[("host", "localhost"), ("host", "localhost")]).unwrap_err().0,
            400
        );
        let target = "http://evil.com/x".parse().unwrap();
        let error = guard.admit_place(&target, &headers(&[("host", "localhost")])).unwrap_err();
        assert_eq!(error.status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn bound_to_all_every_address_is_ours_but_no_name() {
        let guard = guard("0.0.0.0", Origins::Loopback);
        assert_eq!(place(&guard, &[("host", "192.0.2.7:4100")]), Ok(None));
        assert_eq!(place(&guard, &[("host", "[2001:db8::1]:4100")]), Ok(None));
        assert_eq!(place(&guard, &[("host", "evil.com")]).unwrap_err().0, 403);
    }

    #[test]
    fn origins_follow_the_rule() {
        let host = ("host", "ash.example.com:4100");
        let listed = Origins::from_list("https://app.example.com, https://b.example.com");
        for (rule, origin, allowed) in [
            (Origins::Loopback, "http://localhost:3000", true),
            (Origins::Loopback, "https://127.0.0.1", true),
            (Origins::Loopback, "http://[::1]:5173", true),
            (Origins::Loopback, "http://ash.example.com:4100", true),
            (Origins::Loopback, "http://ash.example.com", false),
            (Origins::Loopback, "https://evil.com", false),
            (Origins::Loopback, "null", false),
            (Origins::Loopback, "ftp://localhost", false),
            (Origins::Loopback, "http://localhost.evil.com", false),
            (listed.clone(), "https://app.example.com", true),
            (listed.clone(), "https://ash.example.com:4100", true),
            (listed.clone(), "http://app.example.com", false),
            (listed, "http://localhost:3000", false),
            (Origins::Any, "https://evil.com", true),
            (Origins::Any, "null", true),
        ] {
            let got = place(&guard("127.0.0.1", rule.clone()), &[host, ("origin", origin)]);
            match allowed {
                true => assert_eq!(got, Ok(Some(origin.to_owned())), "{rule:?} {origin}"),
                false => assert_eq!(got.unwrap_err().0, 403, "{rule:?} {origin}"),
            }
        }
    }

    #[test]
    fn the_origin_list_is_read() {
        assert_eq!(Origins::from_list(" "), Origins::Loopback);
        assert_eq!(Origins::from_list("https://a, *"), Origins::Any);
        assert_eq!(Origins::from_list("https://a,"), Origins::Listed(vec!["https://a".into()]));
    }

    #[test]
    fn callers_are_told_apart() {
        let keys = Keys::new(Some("key"), [(hash(b"other"), grant("acme", Scope::Run))]);
        let caller = |pairs: &[(&'static str, &str)]| {
            admit_caller(&keys, &headers(pairs)).map_err(|error| {
                assert_eq!(error.status, StatusCode::UNAUTHORIZED);
                error_text(error)
            })
        };
        let default = Caller { tenant: Tenant::default(), scope: Scope::Manage };
        assert_eq!(caller(&[("authorization", "Bearer key")]), Ok(default));
        let acme = caller(&[("authorization", "Bearer other")]).unwrap();
        assert_eq!((acme.tenant.as_str(), acme.scope), ("acme", Scope::Run));
        assert_eq!(caller(&[]), Err("Missing Authorization header".into()));
        for odd in [
            "",
            "Bearer",
            "Bearer ",
            "bearer key",
            "Basic key",
            "Bearer  key",
            "Bearer key ",
            "Bearer key x",
        ] {
            let refusal = "Invalid Authorization header format".to_owned();
            assert_eq!(caller(&[("authorization", odd)]), Err(refusal), "{odd:?}");
        }
        let twice = [("authorization", "Bearer key"), ("authorization", "Bearer key")];
        assert!(caller(&twice).is_err());
        assert_eq!(caller(&[("authorization", "Bearer wrong")]), Err("Invalid API key".into()));
    }

    fn grant(tenant: &str, scope: Scope) -> Grant {
        Grant { tenant: tenant.parse().unwrap(), scope, label: "ci".to_owned() }
    }

    #[test]
    fn scopes_are_enough_or_the_needed_one_is_named() {
        for (method, path, scope) in [
            ("GET", "/api/agents", Scope::Read),
            ("HEAD", "/api/sessions/x/stream", Scope::Read),
            ("GET", "/nowhere", Scope::Read),
            ("POST", "/api/sessions", Scope::Run),
            ("DELETE", "/api/sessions/x", Scope::Run),
            ("POST", "/api/sessions/x/exec", Scope::Run),
            ("PUT", "/api/sessions/x/files/a", Scope::Run),
            ("DELETE", "/api/attachments/x", Scope::Run),
            ("GET", "/api/attachments/x", Scope::Read),
            ("DELETE", "/api/attachmentsx", Scope::Manage),
            ("POST", "/api/sessionsx", Scope::Manage),
            ("POST", "//api/sessions", Scope::Manage),
            ("POST", "/api/agents", Scope::Manage),
            ("PATCH", "/api/agents/a/config", Scope::Manage),
            ("DELETE", "/api/agents/a", Scope::Manage),
            ("BREW", "/", Scope::Manage),
        ] {
            assert_eq!(needed(&method.parse().unwrap(), path), scope, "{method} {path}");
        }
        let caller = |scope| Caller { tenant: Tenant::default(), scope };
        for (own, needed, enough) in [
            (Scope::Read, Scope::Read, true),
            (Scope::Read, Scope::Run, false),
            (Scope::Run, Scope::Read, true),
            (Scope::Run, Scope::Manage, false),
            (Scope::Manage, Scope::Manage, true),
        ] {
            assert_eq!(admit_scope(&caller(own), needed).is_ok(), enough, "{own} {needed}");
        }
        let refusal = admit_scope(&caller(Scope::Read), Scope::Run).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        assert_eq!(error_text(refusal), "This needs a key with the scope run, yours has read");
    }

    #[test]
    fn only_health_is_open() {
        let (here, elsewhere) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([192, 0, 2, 7]));
        let headers = headers(&[("host", "localhost")]);
        let is_open = |path, from| is_open(path, from, Version::HTTP_11, &headers);
        assert!(is_open("/health", elsewhere));
        for path in ["/", "/health/", "/Health", "/metrics/", "/api/sessions", "//health"] {
            assert!(!is_open(path, here), "{path}");
        }
        assert!(!is_open("/metrics", elsewhere));
    }

    #[test]
    fn metrics_are_open_to_programs_of_this_machine() {
        let open = |from: &str, pairs: &[(&'static str, &str)]| {
            is_open("/metrics", from.parse().unwrap(), Version::HTTP_11, &headers(pairs))
        };
        for from in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            for host in ["localhost:4100", "127.0.0.1:4100", "[::1]", "ash.localhost"] {
                assert!(open(from, &[("host", host)]), "{from} {host}");
            }
        }
        let host = ("host", "localhost");
        for from in ["192.0.2.7", "::ffff:192.0.2.7", "2001:db8::1", "0.0.0.0"] {
            assert!(!open(from, &[host]), "{from}");
        }
        for passed_on in [
            &[("host", "ash.example.com")][..],
            &[("host", "10.0.0.5:4100")],
            &[host, ("x-forwarded-for", "127.0.0.1")],
            &[host, ("forwarded", "for=127.0.0.1")],
            &[host, ("via", "1.1 proxy")],
            &[host, ("x-real-ip", "127.0.0.1")],
            &[host, host],
            &[],
        ] {
            assert!(!open("127.0.0.1", passed_on), "{passed_on:?}");
        }
        let (here, headers) = (IpAddr::from([127, 0, 0, 1]), headers(&[host]));
        assert!(!is_open("/metrics", here, Version::HTTP_10, &headers));
        assert!(is_open("/health", here, Version::HTTP_10, &headers));
    }
}
