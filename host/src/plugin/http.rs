//! Outbound requests of a handler: granted hosts alone, resolved here, sent to the address
//! that was checked.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::http::{Method, Uri, uri::Scheme};
use hyper::{Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::capped::{self, Capped};
use super::config::Limits;
use super::counts::{Count, Tally};
use super::http_client::{Client, Stream};
use super::http_grant::{self, HttpGrant, Target};
use super::output::{Level, Output};

/// One instance's way out.
pub(super) struct Outbound {
    rules: Rules,
    slots: Arc<Semaphore>,
}

/// What every request of an instance goes by.
#[derive(Clone)]
struct Rules {
    client: Arc<Client>,
    granted: Arc<[HttpGrant]>,
    time: Duration,
    body: u64,
    tally: Tally,
    output: Output,
}

/// A request's answer, and what moves its bytes.
type Exchange = Result<(Response<WasiBody>, Driver), Error>;
type Driver = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl Outbound {
    /// By this client to the granted hosts, within the limits.
    pub fn new(
        (client, granted): (Arc<Client>, Arc<[HttpGrant]>),
        limits: &Limits,
        tally: Tally,
        output: Output,
    ) -> Self {
        let slots = usize::try_from(limits.http_requests.get()).unwrap_or(1);
        let rules = Rules {
            client,
            granted,
            time: Duration::from_millis(limits.http_time_ms.get().into()),
            body: limits.http_body_bytes.get(),
            tally,
            output,
        };
        Self { rules, slots: Arc::new(Semaphore::new(slots)) }
    }
}

impl WasiHttpHooks for Outbound {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _done: Driver,
    ) -> Box<dyn Future<Output = Exchange> + Send> {
        let rules = self.rules.clone();
        let target = rules.admit(&request);
        let slot = Arc::clone(&self.slots).try_acquire_owned();
        Box::new(async move {
            let target = target?;
            let Ok(slot) = slot else {
                return Err(rules.too_many(&target));
            };
            rules.tally.add(Count::HttpRequests, 1);
            rules.exchange(request, target, options.unwrap_or_default(), slot).await
        })
    }
}

impl Rules {
    /// Where the request goes, if that is granted.
    fn admit(&self, request: &Request<WasiBody>) -> Result<Target, Error> {
        let target = target(request.uri()).ok_or(Error::HttpRequestUriInvalid)?;
        // A tunnel would carry what nobody checks.
        if *request.method() == Method::CONNECT {
            return Err(Error::HttpRequestMethodInvalid);
        }
        if http_grant::permits(&self.granted, &target) {
            return Ok(target);
        }
        self.refused(&format!(
            "a request to {target} was refused: `handlers.ROLE.http` does not list it"
        ));
        Err(Error::HttpRequestDenied)
    }

    fn refused(&self, why: &str) {
        self.tally.add(Count::HttpRefused, 1);
        self.output.log(Level::Warn, why);
    }

    fn too_many(&self, target: &Target) -> Error {
        self.tally.add(Count::RequestLimit, 1);
        self.output.log(
            Level::Warn,
            &format!(
                "a request to {target} was refused: as many as limits.http_requests allows are \
                 under way; read or drop an answer first"
            ),
        );
        Error::ConnectionLimitReached
    }

    fn too_slow(&self, error: Error) -> Error {
        self.tally.add(Count::HttpTimeLimit, 1);
        error
    }

    async fn exchange(
        self,
        mut request: Request<WasiBody>,
        target: Target,
        options: RequestOptions,
        slot: OwnedSemaphorePermit,
    ) -> Exchange {
        let within = |wanted: Option<Duration>| wanted.unwrap_or(self.time).min(self.time);
        let connecting = self.connect(&target);
        let stream = timeout(within(options.connect_timeout), connecting)
            .await
            .map_err(|_| self.too_slow(Error::ConnectionTimeout))??;
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| Error::HttpRequestUriInvalid)?;
        let (body, tally) = (self.body, self.tally.clone());
        let request = request.map(|inner| Capped::request(inner, body, tally).boxed_unsync());
        let head = within(options.first_byte_timeout);
        let (response, driver) = timeout(head, send(stream, request))
            .await
            .map_err(|_| self.too_slow(Error::ConnectionReadTimeout))??;
        let pause = within(options.between_bytes_timeout);
        let caps = (body, pause);
        let response =
            response.map(|inner| Capped::response(inner, caps, self.tally, slot).boxed_unsync());
        Ok((response, driver))
    }

    /// A connection to one of the target's addresses that may be reached.
    async fn connect(&self, target: &Target) -> Result<Stream, Error> {
        let found = match target.address() {
            Some(address) => vec![SocketAddr::new(address, target.port)],
            None => self.client.resolve(target).await?,
        };
        let allowed: Vec<SocketAddr> = found
            .iter()
            .copied()
            .filter(|address| http_grant::may_reach(&self.granted, address.ip(), address.port()))
            .collect();
        if allowed.is_empty() {
            let first = found.first().map(|address| address.ip().to_string()).unwrap_or_default();
            self.refused(&format!(
                "a request to {target} was refused: it leads to {first}, which is no public \
                 address; list the address in `handlers.ROLE.http` if it is meant"
            ));
            return Err(Error::DestinationIpProhibited);
        }
        self.client.connect(target, &allowed).await
    }
}

/// Where a URI leads; none when it is not a plain `http(s)://HOST[:PORT]`.
fn target(uri: &Uri) -> Option<Target> {
    let tls = *uri.scheme()? == Scheme::HTTPS;
    let authority = uri.authority()?;
    if authority.as_str().contains('@') {
        return None;
    }
    let host = authority.host();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let rest = &authority.as_str()[authority.host().len()..];
    let port = match rest.strip_prefix(':') {
        None => Some(if tls { 443 } else { 80 }),
        Some(port) => port.parse().ok(),
    }?;
    (!host.is_empty()).then_some(Target { tls, host, port })
}

/// Sends the request and waits for the answer's head.
async fn send(
    stream: Stream,
    request: Request<WasiBody>,
) -> Result<(Response<hyper::body::Incoming>, Driver), Error> {
    let io = wasmtime_wasi_http::io::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let mut connection = Box::pin(connection);
    let mut answer = pin!(sender.send_request(request));
    // Cancel-safe: both futures stay where they are, and the one that did not end is
    // waited for again.
    let (response, connected) = tokio::select! {
        biased;
        response = &mut answer => (response, true),
        ended = &mut connection => {
            ended?;
            (answer.await, false)
        }
    };
    let response = response.map_err(capped::explain)?;
    let driver: Driver = if connected {
        Box::new(async move { Ok(connection.await?) })
    } else {
        Box::new(std::future::ready(Ok(())))
    };
    Ok((response, driver))
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
