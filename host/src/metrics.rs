//! The numbers a handler reports: one batch's metrics and a run's totals.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

/// A batch's metrics as the handler gave them: a JSON object that passed [`Metrics::new`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metrics(Map<String, Value>);

/// Most names one batch may report.
pub const MAX_METRICS: usize = 1_000;

/// Most names a run may report over all its batches: they all travel in one TASK_DONE.
pub const MAX_TOTALS: usize = 2_000;

/// Most bytes one batch's metrics may have as JSON: they travel in one BATCH_OK.
pub const MAX_METRICS_BYTES: usize = 256 * 1024;

/// Why metrics would break a coordinator that reads them (`protocol.md`, "Messages that
/// stop a coordinator").
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadMetrics {
    /// Only plain values can be summed and shown.
    #[error("metric `{0}` is an object or an array; report numbers, strings, booleans or null")]
    Nested(String),
    /// More names than [`MAX_METRICS`].
    #[error("{0} metrics in one result; at most 1000 are allowed")]
    TooMany(usize),
    /// A name that is empty, longer than 200 bytes, or not a plain field name.
    #[error(
        "a metric's name is empty, longer than 200 bytes, starts with '$', or contains '.' or a control character"
    )]
    Name,
    /// An integer beyond 64 bits arrives as a float this large.
    #[error("metric `{0}` is a number beyond 64 bits")]
    TooLarge(String),
    /// More than [`MAX_METRICS_BYTES`].
    #[error("the metrics have {0} bytes as JSON; at most {MAX_METRICS_BYTES} are allowed")]
    TooLong(usize),
    /// A run reported more than [`MAX_TOTALS`] names.
    #[error("the run's batches report more than {MAX_TOTALS} different numeric metrics")]
    TooManyTotals,
}

impl Metrics {
    /// Checks an object from a handler.
    pub fn new(object: Map<String, Value>) -> Result<Self, BadMetrics> {
        if object.len() > MAX_METRICS {
            return Err(BadMetrics::TooMany(object.len()));
        }
        for (name, value) in &object {
            let plain = !name.is_empty()
                && name.len() <= 200
                && !name.starts_with('$')
                && !name.chars().any(|c| c == '.' || c.is_control());
            if !plain {
                return Err(BadMetrics::Name);
            }
            match value {
                Value::Object(_) | Value::Array(_) => return Err(BadMetrics::Nested(name.clone())),
                // Integers print without a fraction in Python's JSON only while they are
                // integers; a u64 above i64 does not fit BSON either.
                Value::Number(n) if n.is_u64() && !n.is_i64() => {
                    return Err(BadMetrics::TooLarge(name.clone()));
                }
                _ => {}
            }
        }
        let bytes = serde_json::to_vec(&object).map_or(usize::MAX, |json| json.len());
        if bytes > MAX_METRICS_BYTES {
            return Err(BadMetrics::TooLong(bytes));
        }
        Ok(Self(object))
    }

    /// The object itself.
    pub fn as_object(&self) -> &Map<String, Value> {
        &self.0
    }
}

/// A run's numeric metrics, summed over its finished batches.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Totals(BTreeMap<String, Number>);

impl Totals {
    /// Adds a finished batch. Whole numbers stay whole and exact while they fit 64 bits;
    /// a sum that no longer fits, or a float, makes the total a float. A sum that would
    /// overflow a float keeps its last finite value. Refuses, changing nothing, when the
    /// run would report more than [`MAX_TOTALS`] names.
    pub fn add(&mut self, metrics: &Metrics) -> Result<(), BadMetrics> {
        let numbers =
            || metrics.as_object().iter().filter_map(|(k, v)| v.as_number().map(|n| (k, n)));
        let fresh = numbers().filter(|(name, _)| !self.0.contains_key(*name)).count();
        if self.0.len() + fresh > MAX_TOTALS {
            return Err(BadMetrics::TooManyTotals);
        }
        for (name, value) in numbers() {
            match self.0.get_mut(name) {
                Some(total) => *total = sum(total, value),
                None => {
                    self.0.insert(name.clone(), value.clone());
                }
            }
        }
        Ok(())
    }

    /// These totals with `over`'s values in place of equal names: what a finished run
    /// reports.
    pub fn overlaid(&self, over: &Metrics) -> Metrics {
        let mut object: Map<String, Value> = self.to_object();
        object.extend(over.as_object().clone());
        Metrics(object)
    }

    /// As a JSON object.
    pub fn to_object(&self) -> Map<String, Value> {
        self.0.iter().map(|(k, v)| (k.clone(), Value::Number(v.clone()))).collect()
    }

    /// True when nothing numeric was reported yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn sum(a: &Number, b: &Number) -> Number {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64())
        && let Some(total) = a.checked_add(b)
    {
        return Number::from(total);
    }
    let total = a.as_f64().unwrap_or(0.0) + b.as_f64().unwrap_or(0.0);
    Number::from_f64(total).unwrap_or_else(|| a.clone())
}
