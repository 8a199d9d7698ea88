//! HTTP requests to the hosts that the worker's configuration grants to the role
//! (`handlers.ROLE.http`). With the crate's feature `http`, in components alone.
//!
//! ```ignore
//! let answer = http::get("https://api.example.com/rates").header("accept", "text/csv").send()?;
//! let rates: Rates = answer.success()?.json()?;
//! ```
//!
//! A request that fails on its way is worth another attempt (`connection_error`); one that
//! the worker refuses is not (`http_refused`), nor one too many at once (`request_limit`).

use std::time::Duration;

use serde::de::DeserializeOwned;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme,
};
use wasip2::io::streams::StreamError;

use crate::error::{Error, Result};

/// What a stream takes in one call.
const PIECE: usize = 4_096;
/// How much of an answer is read in one call.
const READ: u64 = 64 << 10;

/// A request to be sent.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent until `send`"]
pub struct Request {
    method: String,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    time: Option<Duration>,
}

/// An answer, read whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Such as 200. Redirects are not followed.
    pub status: u16,
    /// Names in lower case, in their order; a name may occur more than once.
    pub headers: Vec<(String, String)>,
    /// As it came.
    pub body: Vec<u8>,
}

/// A GET request.
pub fn get(url: impl Into<String>) -> Request {
    request("GET", url)
}

/// A POST request.
pub fn post(url: impl Into<String>, body: impl Into<Vec<u8>>) -> Request {
    request("POST", url).body(body)
}

/// A request of any method.
pub fn request(method: &str, url: impl Into<String>) -> Request {
    let (method, url) = (method.to_owned(), url.into());
    Request { method, url, headers: Vec::new(), body: Vec::new(), time: None }
}

impl Request {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Gives up earlier than the worker would (`limits.http_time_ms`): so long to connect,
    /// for the answer to begin, and between its pieces.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.time = Some(time);
        self
    }

    /// Sends it and reads the whole answer.
    pub fn send(self) -> Result<Response> {
        let (request, options) = self.prepared()?;
        let body = request.body().map_err(|()| odd("the request has no body"))?;
        let pending = outgoing_handler::handle(request, options).map_err(|code| told(&code))?;
        write(&body, &self.body)?;
        OutgoingBody::finish(body, None).map_err(|code| told(&code))?;
        pending.subscribe().block();
        let answer = pending.get().and_then(std::result::Result::ok);
        read(answer.ok_or_else(|| odd("no answer"))?.map_err(|code| told(&code))?)
    }

    fn prepared(&self) -> Result<(OutgoingRequest, Option<RequestOptions>)> {
        let bad = |what: &str| Error::invalid(format!("{what} of a request cannot be used"));
        let (scheme, rest) = self
            .url
            .split_once("://")
            .ok_or_else(|| Error::invalid("a URL begins with http:// or https://"))?;
        let scheme = match scheme {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(Error::invalid("a URL begins with http:// or https://")),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let headers: Vec<(String, Vec<u8>)> =
            self.headers.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        let headers = Fields::from_list(&headers).map_err(|_| bad("a header"))?;
        let length = self.body.len().to_string();
        if !self.body.is_empty() {
            headers.set("content-length", &[length.into()]).map_err(|_| bad("the length"))?;
        }
        let request = OutgoingRequest::new(headers);
        request.set_method(&method(&self.method)).map_err(|()| bad("the method"))?;
        request.set_scheme(Some(&scheme)).map_err(|()| bad("the scheme"))?;
        request.set_authority(Some(host)).map_err(|()| bad("the host"))?;
        request.set_path_with_query(Some(&path)).map_err(|()| bad("the path"))?;
        let options = self.time.map(|time| {
            let nanos = Some(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
            let options = RequestOptions::new();
            // A worker that knows none of these keeps its own.
            let _ = options.set_connect_timeout(nanos);
            let _ = options.set_first_byte_timeout(nanos);
            let _ = options.set_between_bytes_timeout(nanos);
            options
        });
        Ok((request, options))
    }
}

impl Response {
    /// The answer, or an error for a status other than 200 to 299: permanent for those
    /// that say that the request is wrong.
    pub fn success(self) -> Result<Self> {
        let message = format!("the server answered with status {}", self.status);
        match self.status {
            200..=299 => Ok(self),
            408 | 425 | 429 | 500..=599 => Err(Error::transient("http_status", message)),
            _ => Err(Error::permanent("http_status", message)),
        }
    }

    /// The body as text.
    pub fn text(&self) -> Result<&str> {
        Ok(std::str::from_utf8(&self.body)?)
    }

    /// The body from JSON.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}

fn method(name: &str) -> Method {
    match name {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        "DELETE" => Method::Delete,
        "OPTIONS" => Method::Options,
        "PATCH" => Method::Patch,
        other => Method::Other(other.to_owned()),
    }
}

fn write(body: &OutgoingBody, bytes: &[u8]) -> Result<()> {
    let stream = body.write().map_err(|()| odd("the request's body is taken"))?;
    for piece in bytes.chunks(PIECE) {
        match stream.blocking_write_and_flush(piece) {
            Ok(()) => {}
            // Whoever reads has seen enough: the answer says why.
            Err(StreamError::Closed) => return Ok(()),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(connection(error.to_debug_string()));
            }
        }
    }
    Ok(())
}

fn read(answer: IncomingResponse) -> Result<Response> {
    let headers = answer.headers().entries();
    let headers = headers
        .into_iter()
        .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
        .collect();
    let (status, incoming) = (answer.status(), answer.consume());
    let incoming: IncomingBody = incoming.map_err(|()| odd("the answer has no body"))?;
    let stream = incoming.stream().map_err(|()| odd("the answer's body is taken"))?;
    let mut body = Vec::new();
    loop {
        match stream.blocking_read(READ) {
            Ok(bytes) => body.extend(bytes),
            Err(StreamError::Closed) => return Ok(Response { status, headers, body }),
            Err(StreamError::LastOperationFailed(error)) => {
                let code = wasip2::http::types::http_error_code(&error);
                return Err(code.map_or_else(|| broken_off(error.to_debug_string()), |c| told(&c)));
            }
        }
    }
}

fn told(code: &ErrorCode) -> Error {
    let message = format!("the request failed: {code:?}");
    match code {
        ErrorCode::HttpRequestDenied | ErrorCode::DestinationIpProhibited => {
            Error::permanent("http_refused", message)
        }
        ErrorCode::ConnectionLimitReached => Error::permanent("request_limit", message),
        ErrorCode::HttpRequestBodySize(_) | ErrorCode::HttpResponseBodySize(_) => {
            Error::permanent("http_body_too_large", message)
        }
        ErrorCode::HttpRequestUriInvalid | ErrorCode::HttpRequestMethodInvalid => {
            Error::invalid(message)
        }
        _ => Error::transient("connection_error", message),
    }
}

/// A body that ended before its end, from a host that knows no code for it: only the
/// words tell whether it was too long.
fn broken_off(message: String) -> Error {
    if message.contains("body size exceeds") {
        return Error::permanent("http_body_too_large", message);
    }
    connection(message)
}

fn connection(message: String) -> Error {
    Error::transient("connection_error", message)
}

fn odd(what: &str) -> Error {
    connection(what.to_owned())
}
