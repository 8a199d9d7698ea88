//! The component's exports, for any handler.

use std::marker::PhantomData;

use crate::bindings::exports::flowkit::worker::handler::{
    Batch, Classification, Guest, HandlerError,
};
use crate::error::{Error, Result};
use crate::handler::Handler;
use crate::session::Session;

/// What [`export!`](crate::export) knows about the crate it is used in.
pub trait Plugin: 'static {
    /// The handler.
    type Handler: Handler;
    /// The crate's name.
    const NAME: &'static str;
    /// The crate's version.
    const VERSION: &'static str;

    /// Gives `f` the instance's one session: none before `init` and after `cleanup`.
    fn with_session<R>(f: impl FnOnce(&mut Option<Session<Self::Handler>>) -> R) -> R;
}

/// Implements the world for a plugin.
pub struct Component<P>(PhantomData<P>);

impl<P: Plugin> Guest for Component<P> {
    fn describe() -> Result<String, HandlerError> {
        let about = serde_json::json!({
            "name": P::NAME,
            "version": P::VERSION,
            "language": "rust",
            "sdk": concat!("flowkit-sdk ", env!("CARGO_PKG_VERSION")),
        });
        Ok(about.to_string())
    }

    fn init(run_info: String) -> Result<(), HandlerError> {
        let session = Session::init(&run_info).map_err(to_wire)?;
        P::with_session(|slot| *slot = Some(session));
        Ok(())
    }

    fn iter_batches(
        input: String,
        checkpoint: Option<String>,
    ) -> Result<Option<String>, HandlerError> {
        live::<P, _>(|session| session.iter_batches(&input, checkpoint.as_deref()))
    }

    fn next_batch() -> Result<Option<Batch>, HandlerError> {
        let batch = live::<P, _>(Session::next_batch)?;
        Ok(batch.map(|(uid, payload)| Batch { uid, payload }))
    }

    fn process_batch(batch: Batch) -> Result<String, HandlerError> {
        live::<P, _>(|session| session.process_batch(batch.uid.unwrap_or_default(), &batch.payload))
    }

    fn finalize() -> Result<String, HandlerError> {
        live::<P, _>(Session::finalize)
    }

    fn classify_error(error: HandlerError) -> Result<Classification, HandlerError> {
        let error = Error::from_wire(error.message, error.detail.as_deref());
        let class = P::Handler::classify_error(&error);
        Ok(Classification { reason_code: class.reason_code, permanent: class.permanent })
    }

    fn cleanup() -> Result<(), HandlerError> {
        match P::with_session(Option::take) {
            Some(session) => session.cleanup().map_err(to_wire),
            None => Ok(()),
        }
    }
}

fn live<P: Plugin, R>(
    call: impl FnOnce(&mut Session<P::Handler>) -> Result<R>,
) -> Result<R, HandlerError> {
    P::with_session(|slot| match slot {
        Some(session) => call(session),
        None => Err(Error::permanent("bad_call", "called outside of init and cleanup")),
    })
    .map_err(to_wire)
}

fn to_wire(error: Error) -> HandlerError {
    let (message, detail) = error.into_wire();
    HandlerError { message, detail }
}
