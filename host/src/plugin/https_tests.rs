//! Requests over TLS, from a guest to a server of ours.

use std::net::Ipv4Addr;
use std::path::Path;

use rcgen::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

use super::*;
use crate::handler::{Batch, CallError, CancelFlag, Handler as _, OpenRequest, RunInfo};
use crate::metrics::Totals;
use crate::plugin::{Engine, HandlerConfig};
use crate::types::{BatchUid, Epoch, NodeId, Role, TaskId, WorkerId};

const NAME: &str = "api.example.com";

/// Every name leads here.
struct Here;

#[async_trait]
impl Resolve for Here {
    async fn resolve(&self, _: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![(Ipv4Addr::LOCALHOST, port).into()])
    }
}

fn certificate(name: &str) -> CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate")
}

/// Answers one connection, over TLS with this certificate or in the clear, and stops.
async fn serve(certificate: Option<&CertifiedKey<rcgen::KeyPair>>) -> (u16, tasks::TaskHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let acceptor = certificate.map(|own| {
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .expect("a pair");
        TlsAcceptor::from(Arc::new(config))
    });
    let serving = tasks::spawn("server", async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        match acceptor {
            None => answer(stream).await,
            // A client that does not trust us hangs up.
            Some(acceptor) => {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer(stream).await;
                }
            }
        }
    });
    (port, serving)
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    let mut asked = [0; 1_024];
    let _ = stream.read(&mut asked).await.expect("a request");
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret";
    stream.write_all(answer).await.expect("is read");
    stream.shutdown().await.expect("is read");
}

/// What the guest is told of `https://NAME/`, when these authorities are trusted.
async fn asked(roots: RootCertStore, port: u16) -> Result<String, String> {
    let mut engine = Engine::new().expect("starts");
    engine.client = Arc::new(Client::new(Box::new(Here), roots));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guests/caller.wasm");
    assert!(file.exists(), "{} is missing: run `cargo xtask plugins` first", file.display());
    let mut config = HandlerConfig::new(file);
    let granted = [format!("{NAME}:{port}"), "127.0.0.1".to_owned()];
    config.http = granted.iter().map(|host| host.parse().expect("a host")).collect();
    let plugin = engine.load(config).await.expect("loads");
    let info = RunInfo {
        task_id: TaskId::new("t").expect("valid"),
        node_id: NodeId::new("n").expect("valid"),
        role: Role::new("r").expect("valid"),
        attempt_epoch: Epoch(1),
        worker_id: WorkerId::new("w").expect("valid"),
        resumed: false,
    };
    let opened = plugin.open(OpenRequest { info, cancel: CancelFlag::default() }).await;
    let mut session = opened.expect("opens");
    session.init().await.expect("begins");
    session.iter_batches(r#"{"input_inline": {}}"#, None).await.expect("begins");
    let payload = serde_json::json!({"get": format!("https://{NAME}:{port}/")}).to_string();
    let batch = Batch { uid: BatchUid::new("b").expect("valid"), payload };
    match session.process_batch(&batch, &Totals::default()).await {
        Ok(done) => Ok(done.metrics.as_object()["head"].to_string()),
        Err(CallError::Handler(error)) => Err(error.message),
        Err(other) => Err(format!("{other:?}")),
    }
}

fn trusting(own: &CertifiedKey<rcgen::KeyPair>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("a certificate");
    roots
}

#[tokio::test]
async fn a_request_is_encrypted_and_its_server_is_who_it_says() {
    let own = certificate(NAME);
    let (port, server) = serve(Some(&own)).await;
    assert_eq!(asked(trusting(&own), port).await, Ok(r#""secret""#.into()));
    server.await.expect("answered");
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_gets_no_request() {
    let (own, other) = (certificate(NAME), certificate("example.org"));
    for (shown, roots) in [
        // Mozilla's authorities know neither name.
        (&own, RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() }),
        (&own, trusting(&certificate(NAME))),
        (&other, trusting(&other)),
    ] {
        let (port, _server) = serve(Some(shown)).await;
        let told = asked(roots, port).await.expect_err("not trusted");
        assert_eq!(told, "the request failed: ErrorCode::TlsCertificateError");
    }
}

#[tokio::test]
async fn a_server_that_does_not_encrypt_is_not_spoken_to() {
    let (port, _server) = serve(None).await;
    let told = asked(RootCertStore::empty(), port).await.expect_err("not encrypted");
    assert_eq!(told, "the request failed: ErrorCode::TlsProtocolError");
}
