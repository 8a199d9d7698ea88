//! What a guest returned, checked before anything else of the worker sees it.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::json::{self, Kind};
use crate::handler::{
    AdapterProposal, Classification, FaultCode, FinalOutput, HostFault, YieldedBatch,
};
use crate::metrics::Metrics;
use crate::types::BatchUid;

/// The reason code of an error whose handler did not name a usable one.
const UNKNOWN: &str = "unknown_error";

/// What `iter-batches` proposed.
pub(super) fn proposal(text: &str, max: usize) -> Result<AdapterProposal, HostFault> {
    object("iter-batches", text, max)
}

/// What `next-batch` yielded.
pub(super) fn yielded(
    uid: Option<String>,
    payload: String,
    max: usize,
) -> Result<YieldedBatch, HostFault> {
    let uid = uid.map(BatchUid::new).transpose().map_err(|error| {
        bad(format!("next-batch yielded a batch whose uid is unusable: {error}"))
    })?;
    fits("next-batch", "a payload", payload.len(), max)?;
    json::check(&payload)
        .map_err(|error| bad(format!("next-batch yielded a payload that is not JSON: {error}")))?;
    Ok(YieldedBatch { uid, payload })
}

/// The metrics that `process-batch` returned.
pub(super) fn batch_metrics(text: &str, max: usize) -> Result<Metrics, HostFault> {
    #[derive(Deserialize)]
    struct Returned {
        metrics: Option<Map<String, Value>>,
    }
    let returned: Returned = object("process-batch", text, max)?;
    metrics("process-batch", returned.metrics)
}

/// What `finalize` returned.
pub(super) fn final_output(text: &str, max: usize) -> Result<FinalOutput, HostFault> {
    #[derive(Deserialize)]
    struct Returned {
        metrics: Option<Map<String, Value>>,
        payload: Option<Value>,
    }
    let returned: Returned = object("finalize", text, max)?;
    Ok(FinalOutput { metrics: metrics("finalize", returned.metrics)?, payload: returned.payload })
}

/// What `describe` returned.
pub(super) fn description(text: &str) -> Result<Map<String, Value>, HostFault> {
    const MAX_DESCRIPTION: usize = 64 << 10;
    let described: Map<String, Value> = object("describe", text, MAX_DESCRIPTION)?;
    for key in ["name", "version", "language", "sdk"] {
        if !matches!(described.get(key), None | Some(Value::String(_) | Value::Null)) {
            return Err(bad(format!("describe returned a `{key}` that is not a string")));
        }
    }
    Ok(described)
}

/// What `classify-error` returned. A reason code outside `[a-z0-9_]{1,64}` becomes
/// `unknown_error`, with the handler's own word on whether a retry can help: a slip in a
/// name should neither turn a passing failure into a final one nor hide the error itself.
pub(super) fn classification(reason_code: String, permanent: bool) -> Classification {
    let well_formed = (1..=64).contains(&reason_code.len())
        && reason_code.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_'));
    let reason_code = if well_formed {
        reason_code
    } else {
        tracing::warn!(
            "classify-error returned a reason code that is not [a-z0-9_]{{1,64}}; \
             it is reported as {UNKNOWN}"
        );
        UNKNOWN.to_owned()
    };
    Classification { reason_code, permanent }
}

/// What an error means when `classify-error` itself returned one: nobody knows, and
/// another attempt may help.
pub(super) fn unclassified() -> Classification {
    Classification { reason_code: UNKNOWN.to_owned(), permanent: false }
}

fn object<'a, T: Deserialize<'a>>(
    function: &str,
    text: &'a str,
    max: usize,
) -> Result<T, HostFault> {
    fits(function, "a result", text.len(), max)?;
    match json::check(text) {
        Ok(Kind::Object) => {}
        Ok(Kind::Other) => {
            return Err(bad(format!("{function} returned JSON that is not an object")));
        }
        Err(error) => {
            return Err(bad(format!("{function} returned text that is not JSON: {error}")));
        }
    }
    serde_json::from_str(text).map_err(|error| {
        bad(format!("{function} returned an object that is not as described: {error}"))
    })
}

fn metrics(function: &str, object: Option<Map<String, Value>>) -> Result<Metrics, HostFault> {
    Metrics::new(object.unwrap_or_default())
        .map_err(|error| bad(format!("{function} returned metrics that cannot be used: {error}")))
}

fn fits(function: &str, what: &str, len: usize, max: usize) -> Result<(), HostFault> {
    if len <= max {
        return Ok(());
    }
    Err(HostFault {
        code: FaultCode::ResultTooLarge,
        message: format!(
            "{function} gave {what} of {len} bytes; limits.result_bytes allows {max}. Yield \
             smaller batches, or write the data elsewhere and return where it is"
        ),
    })
}

fn bad(message: String) -> HostFault {
    HostFault { code: FaultCode::BadOutput, message: super::text::message(&message) }
}
