//! How often each role's handlers met a limit or asked for what they are not granted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::types::Role;

/// What is counted. A limit that ends a call counts under its reason code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Count {
    MemoryLimit,
    TimeLimit,
    CpuLimit,
    ResultTooLarge,
    LogLinesDropped,
    CursorLimit,
    DocumentsRefused,
    RequestLimit,
    HttpRequests,
    HttpRefused,
    /// Errors that `classify-error` gave no usable name.
    Unclassified,
    HttpTimeLimit,
    HttpBodyLimit,
    CpuMs,
}

impl Count {
    fn name(self) -> &'static str {
        match self {
            Self::MemoryLimit => "memory_limit",
            Self::TimeLimit => "time_limit",
            Self::CpuLimit => "cpu_limit",
            Self::ResultTooLarge => "result_too_large",
            Self::LogLinesDropped => "log_lines_dropped",
            Self::CursorLimit => "cursor_limit",
            Self::DocumentsRefused => "documents_refused",
            Self::RequestLimit => "request_limit",
            Self::HttpRequests => "http_requests",
            Self::HttpRefused => "http_refused",
            Self::Unclassified => "unclassified",
            Self::HttpTimeLimit => "http_time_limit",
            Self::HttpBodyLimit => "http_body_limit",
            Self::CpuMs => "cpu_ms",
        }
    }
}

type ByRole = BTreeMap<Role, BTreeMap<Count, u64>>;

/// All roles' counters since the process began; what is zero is left out.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts(Arc<Mutex<ByRole>>);

impl Counts {
    /// The counters of one role; none where there is no run.
    pub fn tally(&self, role: Option<&Role>) -> Tally {
        Tally { counts: self.clone(), role: role.cloned() }
    }

    /// Every counter, by role and name.
    pub fn snapshot(&self) -> BTreeMap<Role, BTreeMap<&'static str, u64>> {
        let by_name = |counts: &BTreeMap<Count, u64>| {
            counts.iter().map(|(count, n)| (count.name(), *n)).collect()
        };
        self.lock().iter().map(|(role, counts)| (role.clone(), by_name(counts))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, ByRole> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where one instance's events are counted.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    counts: Counts,
    role: Option<Role>,
}

impl Tally {
    /// Counts `n` events.
    pub fn add(&self, count: Count, n: u64) {
        let Some(role) = self.role.as_ref().filter(|_| n > 0) else { return };
        let mut all = self.counts.lock();
        let counts = match all.get_mut(role) {
            Some(counts) => counts,
            None => all.entry(role.clone()).or_default(),
        };
        *counts.entry(count).or_default() += n;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_by_role() {
        let counts = Counts::default();
        let role = |name: &str| Role::new(name).expect("valid");
        counts.tally(Some(&role("a"))).add(Count::MemoryLimit, 1);
        counts.tally(Some(&role("a"))).add(Count::MemoryLimit, 2);
        counts.tally(Some(&role("b"))).add(Count::CpuMs, 0);
        counts.tally(None).add(Count::TimeLimit, 1);
        let found = counts.snapshot();
        assert_eq!(found.len(), 1);
        assert_eq!(found[&role("a")], BTreeMap::from([("memory_limit", 3)]));
    }
}
