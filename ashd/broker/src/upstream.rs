//! The way to the model API: a pool of connections, direct or through a proxy.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::{self, Client};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::body::Upload;
use crate::control::{Limits, Settings};
use crate::policy::Call;

/// How long an idle connection is kept. Shorter than servers keep theirs, so that few requests meet
/// one that is just being closed.
const IDLE: Duration = Duration::from_secs(50);

/// Idle connections that are kept.
const IDLE_MAX: usize = 64;

/// Why settings were not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Not a usable base URL.
    #[error("the upstream must be a URL like https://host[:port][/prefix], without user or query")]
    Url,
    /// The key would cross the network in clear.
    #[error("the upstream is http:// and not on the loopback: use https, or set allow_plaintext")]
    Plaintext,
    /// Not a usable proxy URL.
    #[error("the proxy must be a URL like http://[user:password@]host:port")]
    Proxy,
    /// Only tunnels are asked of a proxy.
    #[error("a proxy is only used for an https upstream: leave one of them out")]
    PlainProxy,
    /// Not certificates.
    #[error("the extra certificates are not PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    /// No such certificate can be trusted.
    #[error("an extra certificate cannot be used: {0}")]
    Certificate(#[from] rustls::Error),
}

/// A place where the model API is, and the bounds for those who use it.
pub(crate) struct Upstream {
    pub(crate) limits: Limits,
    scheme: Scheme,
    authority: Authority,
    prefix: String,
    client: Client<Connector, Upload>,
}

impl Upstream {
    /// Prepares the way; nothing is connected yet. `roots` are the system's certificates and `extra`
    /// is PEM to be trusted besides them.
    pub(crate) fn new(
        settings: &Settings,
        roots: &RootCertStore,
        extra: &[u8],
    ) -> Result<Self, Error> {
        let base = base(&settings.upstream)?;
        if base.scheme == Scheme::HTTP && !settings.allow_plaintext && !on_loopback(&base.authority)
        {
            return Err(Error::Plaintext);
        }
        let limit = Duration::from_millis(settings.limits.connect_timeout_ms);
        let dial = dial(settings, &base.scheme)?;
        let connector = Connector { https: tls(dial, trust(roots, extra)?)?, limit };
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE);
        let client = builder.pool_max_idle_per_host(IDLE_MAX).build(connector);
        let Base { scheme, authority, prefix } = base;
        Ok(Self { limits: settings.limits, scheme, authority, prefix, client })
    }

    /// The URL of a call, with the query that the sandbox gave.
    pub(crate) fn uri(&self, call: Call, query: Option<&str>) -> Option<Uri> {
        let mark = if query.is_some() { "?" } else { "" };
        let path = format!("{}{}{mark}{}", self.prefix, call.path(), query.unwrap_or_default());
        Uri::builder()
            .scheme(self.scheme.clone())
            .authority(self.authority.clone())
            .path_and_query(PathAndQuery::from_maybe_shared(path).ok()?)
            .build()
            .ok()
    }

    /// Sends a request; returns when the head of the answer is there. Dropping the future or the
    /// answer's body ends the connection that serves it.
    pub(crate) async fn send(
        &self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, legacy::Error> {
        self.client.request(request).await
    }
}

struct Base {
    scheme: Scheme,
    authority: Authority,
    prefix: String,
}

fn base(url: &str) -> Result<Base, Error> {
    let parts = url.parse::<Uri>().map_err(|_| Error::Url)?.into_parts();
    let scheme = parts.scheme.ok_or(Error::Url)?;
    let authority = parts.authority.ok_or(Error::Url)?;
    let path = parts.path_and_query.ok_or(Error::Url)?;
    let known = scheme == Scheme::HTTPS || scheme == Scheme::HTTP;
    if !known || authority.as_str().contains('@') || path.query().is_some() {
        return Err(Error::Url);
    }
    Ok(Base { scheme, authority, prefix: path.path().trim_end_matches('/').to_owned() })
}

fn on_loopback(authority: &Authority) -> bool {
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Connections to a server or to a proxy that tunnels to it.
#[derive(Clone)]
enum Dial {
    Direct(HttpConnector),
    Tunnel(Tunnel<HttpConnector>),
}

fn dial(settings: &Settings, scheme: &Scheme) -> Result<Dial, Error> {
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    let Some(proxy) = &settings.proxy else { return Ok(Dial::Direct(http)) };
    if *scheme != Scheme::HTTPS {
        return Err(Error::PlainProxy);
    }
    let matcher = Matcher::builder().https(proxy.as_str()).build();
    // Any destination will do: the matcher only takes the URL apart.
    let proxy = matcher.intercept(&Uri::from_static("https://upstream")).ok_or(Error::Proxy)?;
    if proxy.uri().scheme() != Some(&Scheme::HTTP) {
        return Err(Error::Proxy);
    }
    let tunnel = Tunnel::new(proxy.uri().clone(), http);
    Ok(Dial::Tunnel(match proxy.basic_auth() {
        Some(password) => tunnel.with_auth(password.clone()),
        None => tunnel,
    }))
}

fn trust(roots: &RootCertStore, extra: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = roots.clone();
    for certificate in CertificateDer::pem_slice_iter(extra) {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

fn tls(dial: Dial, roots: RootCertStore) -> Result<HttpsConnector<Dial>, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let builder = HttpsConnectorBuilder::new().with_tls_config(config).https_or_http();
    Ok(builder.enable_http1().wrap_connector(dial))
}

type Failure = Box<dyn StdError + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send>>;

impl Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = Failure;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        match self {
            Self::Direct(http) => http.poll_ready(cx).map_err(Into::into),
            Self::Tunnel(tunnel) => tunnel.poll_ready(cx).map_err(Into::into),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Direct(http) => {
                let connecting = http.call(uri);
                Box::pin(async move { Ok(connecting.await?) })
            }
            Self::Tunnel(tunnel) => {
                let connecting = tunnel.call(uri);
                Box::pin(async move { Ok(connecting.await.map_err(|e| ProxyFailed(e.into()))?) })
            }
        }
    }
}

/// Connects within a time that covers the proxy's tunnel and the TLS handshake as well.
#[derive(Clone)]
struct Connector {
    https: HttpsConnector<Dial>,
    limit: Duration,
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Failure;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.https.call(uri);
        let limit = self.limit;
        Box::pin(async move {
            let late = |_| io::Error::from(io::ErrorKind::TimedOut);
            tokio::time::timeout(limit, connecting).await.map_err(late)?
        })
    }
}

/// The proxy did not connect us.
#[derive(Debug, thiserror::Error)]
#[error("the proxy did not connect")]
struct ProxyFailed(#[source] Failure);

/// Why no connection came about, in words that may be shown to a sandbox: the deepest cause that
/// has a name.
pub(crate) fn reason(error: &legacy::Error) -> &'static str {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    let mut reason = "no connection";
    while let Some(error) = cause {
        reason = named(error).unwrap_or(reason);
        cause = beneath(error);
    }
    reason
}

fn named(error: &(dyn StdError + 'static)) -> Option<&'static str> {
    if error.is::<rustls::Error>() {
        return Some("the secure connection failed");
    }
    if error.is::<ProxyFailed>() {
        return Some("the proxy refused");
    }
    match error.downcast_ref::<io::Error>()?.kind() {
        io::ErrorKind::ConnectionRefused => Some("connection refused"),
        io::ErrorKind::TimedOut => Some("connecting took too long"),
        _ => None,
    }
}

/// An error and all that caused it, for the log.
pub(crate) fn chain(error: &legacy::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// The cause of an error; an error of io that wraps another one leaves it out of its sources.
fn beneath<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(url: &str, proxy: Option<&str>, allow_plaintext: bool) -> Result<Upstream, Error> {
        let settings = Settings {
            upstream: url.into(),
            proxy: proxy.map(Into::into),
            allow_plaintext,
            limits: Limits::default(),
        };
        Upstream::new(&settings, &RootCertStore::empty(), b"")
    }

    #[test]
    fn only_the_loopback_is_reached_in_clear() {
        for url in ["http://127.0.0.1:8080", "http://[::1]:1/x", "http://localhost", "https://a.b"]
        {
            assert!(upstream(url, None, false).is_ok(), "{url}");
        }
        for url in ["http://a.b", "http://127.0.0.1.a.b", "http://10.0.0.1", "http://localhost.a"] {
            assert!(matches!(upstream(url, None, false), Err(Error::Plaintext)), "{url}");
            assert!(upstream(url, None, true).is_ok(), "{url}");
        }
    }

    #[test]
    fn odd_urls_are_refused() {
        for url in ["", "a.b", "/x", "ftp://a.b", "https://u:p@a.b", "https://a.b/?x=1", "https://"]
        {
            assert!(matches!(upstream(url, None, true), Err(Error::Url)), "{url}");
        }
        for proxy in ["", "socks5://a:1", "https://a:1", "http://"] {
            let refused = upstream("https://a.b", Some(proxy), false);
            assert!(matches!(refused, Err(Error::Proxy)), "{proxy}");
        }
        let refused = upstream("http://127.0.0.1", Some("http://a:1"), false);
        assert!(matches!(refused, Err(Error::PlainProxy)));
    }

    #[test]
    fn calls_go_below_the_prefix_with_their_query() {
        let upstream = upstream("https://a.b:8443/gateway/", None, false).unwrap();
        let uri = upstream.uri(Call::Messages, Some("beta=true")).unwrap();
        assert_eq!(uri, "https://a.b:8443/gateway/v1/messages?beta=true");
        let uri = upstream.uri(Call::CountTokens, None).unwrap();
        assert_eq!(uri, "https://a.b:8443/gateway/v1/messages/count_tokens");
    }

    #[test]
    fn only_certificates_are_trusted() {
        let broken = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(trust(&RootCertStore::empty(), broken).is_err());
    }
}
