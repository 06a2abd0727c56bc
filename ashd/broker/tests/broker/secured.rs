//! An upstream behind TLS, directly and through a proxy.

use std::os::fd::AsFd;
use std::sync::Arc;

use ash_broker::control::{self, Limits, Settings};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::stage::{CANARY, DOCUMENT, Stage, Upstream, Wire, answer, post, soon};

/// A private authority and a server that it vouches for.
struct Secured {
    authority: String,
    acceptor: TlsAcceptor,
}

impl Secured {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        Self { authority: authority.pem(), acceptor: Arc::new(config).into() }
    }

    async fn accept(&self, stream: TcpStream) -> Wire<TlsStream<TcpStream>> {
        Wire::new(soon(self.acceptor.accept(stream)).await.unwrap())
    }
}

fn settings(port: u16, proxy: Option<String>) -> Settings {
    let upstream = format!("https://localhost:{port}");
    Settings { upstream, proxy, allow_plaintext: false, limits: Limits::default() }
}

#[tokio::test]
async fn a_private_authority_is_trusted_when_it_is_given() {
    let (secured, upstream) = (Secured::new(), Upstream::start().await);
    let stage = Stage::bare().await;
    stage.key(CANARY).await;
    let ca = control::secret(secured.authority.as_bytes()).unwrap();
    let settings = settings(upstream.port(), None);
    stage.control.configure(&settings, Some(ca.as_fd())).await.unwrap();
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    let mut api = secured.accept(upstream.accept().await.stream).await;
    let head = api.until("{}").await;
    assert!(head.contains(&format!("x-api-key: {CANARY}\r\n")), "{head}");
    api.write(answer("application/json", DOCUMENT)).await;
    client.until(DOCUMENT).await;
}

#[tokio::test]
async fn a_stranger_never_sees_the_key() {
    let (secured, upstream) = (Secured::new(), Upstream::start().await);
    let stage = Stage::bare().await;
    stage.key(CANARY).await;
    stage.control.configure(&settings(upstream.port(), None), None).await.unwrap();
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    assert!(secured.acceptor.accept(upstream.accept().await.stream).await.is_err());
    let reply = client.rest().await;
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    assert!(reply.contains("the secure connection failed"), "{reply}");
}

#[tokio::test]
async fn a_proxy_tunnels() {
    let (secured, proxy) = (Secured::new(), Upstream::start().await);
    let stage = Stage::bare().await;
    stage.key(CANARY).await;
    let ca = control::secret(secured.authority.as_bytes()).unwrap();
    let url = format!("http://user:p%40ss@127.0.0.1:{}", proxy.port());
    stage.control.configure(&settings(443, Some(url)), Some(ca.as_fd())).await.unwrap();
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    let mut hop = proxy.accept().await;
    let head = hop.head().await;
    assert!(head.starts_with("CONNECT localhost:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic dXNlcjpwQHNz\r\n"), "{head}");
    assert!(!head.contains(CANARY), "{head}");
    hop.write("HTTP/1.1 200 Connection established\r\n\r\n").await;
    let mut api = secured.accept(hop.stream).await;
    api.until("{}").await;
    api.write(answer("application/json", DOCUMENT)).await;
    client.until(DOCUMENT).await;
    assert!(!stage.log().contains("p%40ss") && !stage.log().contains("p@ss"));
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told() {
    let proxy = Upstream::start().await;
    let stage = Stage::bare().await;
    stage.key(CANARY).await;
    let url = format!("http://127.0.0.1:{}", proxy.port());
    stage.control.configure(&settings(443, Some(url)), None).await.unwrap();
    let mut client = stage.client().await;
    client.write(post("/v1/messages", "{}")).await;
    let mut hop = proxy.accept().await;
    hop.head().await;
    hop.write("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
    let reply = client.rest().await;
    assert!(reply.starts_with("HTTP/1.1 503 "), "{reply}");
    assert!(reply.contains("the proxy refused"), "{reply}");
}
