//! Names to addresses, addresses to connections.

use std::io;
use std::net::SocketAddr;
use std::net::ToSocketAddrs;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use wasmtime_wasi_http::Error;

use super::http_grant::Target;
use crate::tasks;

/// Look-ups under way at once in this process. Each keeps a thread until the system's
/// resolver gives up, whoever waits for it.
const LOOKUPS: usize = 16;

/// A connection, encrypted or not.
pub(super) type Stream = Box<dyn Connection>;

/// What HTTP is spoken over.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Finds a name's addresses.
#[async_trait]
pub(super) trait Resolve: Send + Sync {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The machine's own resolver: its hosts file, its name servers.
struct System(Arc<Semaphore>);

#[async_trait]
impl Resolve for System {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let name = (host.to_owned(), port);
        let slot = Arc::clone(&self.0).acquire_owned().await.map_err(io::Error::other)?;
        let looked_up = tasks::spawn_blocking("look-up", move || {
            let found = name.to_socket_addrs().map(Iterator::collect);
            drop(slot);
            found
        });
        looked_up.await.unwrap_or_else(|| Err(io::ErrorKind::Interrupted.into()))
    }
}

/// What requests are sent with; one for a process.
pub(super) struct Client {
    resolver: Box<dyn Resolve>,
    tls: TlsConnector,
}

impl Client {
    /// The machine's resolver, and the certificate authorities that Mozilla trusts.
    pub fn system() -> Arc<Self> {
        static SYSTEM: LazyLock<Arc<Client>> = LazyLock::new(|| {
            let resolver = Box::new(System(Arc::new(Semaphore::new(LOOKUPS))));
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
            Arc::new(Client::new(resolver, roots))
        });
        Arc::clone(&SYSTEM)
    }

    /// Another resolver and other authorities.
    pub fn new(resolver: Box<dyn Resolve>, roots: RootCertStore) -> Self {
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has what the default versions need")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self { resolver, tls: TlsConnector::from(Arc::new(config)) }
    }

    /// Every address of the target's name.
    pub async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Error> {
        match self.resolver.resolve(&target.host, target.port).await {
            Ok(found) if !found.is_empty() => Ok(found),
            Ok(_) => Err(Error::DestinationNotFound),
            Err(error) => Err(Error::DnsError { rcode: Some(error.to_string()), info_code: None }),
        }
    }

    /// A connection to the first of the addresses that takes one.
    pub async fn connect(&self, target: &Target, to: &[SocketAddr]) -> Result<Stream, Error> {
        let mut last = Error::DestinationNotFound;
        for address in to {
            match TcpStream::connect(address).await {
                Ok(stream) if target.tls => return self.encrypt(target, stream).await,
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => last = unreachable_because(&error),
            }
        }
        Err(last)
    }

    async fn encrypt(&self, target: &Target, stream: TcpStream) -> Result<Stream, Error> {
        let name = match target.address() {
            Some(address) => ServerName::from(address),
            None => ServerName::try_from(target.host.clone())
                .map_err(|_| Error::HttpRequestUriInvalid)?,
        };
        let stream = self.tls.connect(name, stream).await.map_err(|error| {
            tracing::debug!(%target, %error, "no encrypted connection");
            let certificate = error.to_string().contains("certificate");
            if certificate { Error::TlsCertificateError } else { Error::TlsProtocolError }
        })?;
        Ok(Box::new(stream))
    }
}

fn unreachable_because(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::TimedOut => Error::ConnectionTimeout,
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Error::DestinationIpUnroutable
        }
        _ => Error::ConnectionRefused,
    }
}

#[cfg(test)]
#[path = "https_tests.rs"]
mod tests;
