//! A body that may not be too long, nor stand still.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use wasmtime_wasi_http::{Error, WasiBody};

use super::counts::{Count, Tally};

/// A request's or an answer's body with its limits.
pub(super) struct Capped<B> {
    inner: B,
    most: u64,
    left: u64,
    pause: Option<Pause>,
    too_long: fn(u64) -> Error,
    tally: Tally,
    /// An answer counts as under way until its body is gone.
    _slot: Option<OwnedSemaphorePermit>,
}

struct Pause {
    longest: Duration,
    end: Pin<Box<Sleep>>,
    /// Somebody waits: only then does time count against the sender.
    waiting: bool,
}

impl Capped<WasiBody> {
    /// At most `most` bytes.
    pub fn request(inner: WasiBody, most: u64, tally: Tally) -> Self {
        let too_long = |most| Error::HttpRequestBodySize(Some(most));
        Self { inner, most, left: most, pause: None, too_long, tally, _slot: None }
    }
}

/// What ended an exchange: the request's own body, or what hyper says.
pub(super) fn explain(error: hyper::Error) -> Error {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(Error::HttpRequestBodySize(most)) = current.downcast_ref() {
            return Error::HttpRequestBodySize(*most);
        }
        cause = current.source();
    }
    error.into()
}

impl Capped<Incoming> {
    /// At most `most` bytes, and at most `longest` between two pieces.
    pub fn response(
        inner: Incoming,
        (most, longest): (u64, Duration),
        tally: Tally,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let pause = Some(Pause { longest, end: Box::pin(sleep(longest)), waiting: false });
        let too_long = |most| Error::HttpResponseBodySize(Some(most));
        Self { inner, most, left: most, pause, too_long, tally, _slot: Some(slot) }
    }
}

impl<B> fmt::Debug for Capped<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capped").field("left", &self.left).finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Capped<B>
where
    B::Error: Into<Error>,
{
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => frame,
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Pending => {
                let Some(pause) = &mut self.pause else { return Poll::Pending };
                if !std::mem::replace(&mut pause.waiting, true) {
                    let end = Instant::now() + pause.longest;
                    pause.end.as_mut().reset(end);
                }
                let waited = pause.end.as_mut().poll(context);
                if waited.is_ready() {
                    self.tally.add(Count::HttpTimeLimit, 1);
                }
                return waited.map(|()| Some(Err(Error::ConnectionReadTimeout)));
            }
        };
        if let Some(pause) = &mut self.pause {
            pause.waiting = false;
        }
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        Poll::Ready(Some(match self.left.checked_sub(length) {
            Some(left) => {
                self.left = left;
                Ok(frame)
            }
            None => {
                self.tally.add(Count::HttpBodyLimit, 1);
                Err((self.too_long)(self.most))
            }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
