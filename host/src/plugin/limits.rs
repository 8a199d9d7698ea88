//! Counts what a guest allocates.

use wasmtime::ResourceLimiter;

/// What a table's element costs the host.
const ELEMENT_BYTES: usize = size_of::<usize>();

/// Everything a store's guest holds, summed: wasmtime's own limiter looks at each memory
/// alone, so a component with ten memories would get ten times the limit.
#[derive(Debug)]
pub(super) struct Allocations {
    limit: usize,
    held: usize,
    growing: usize,
    refused: Option<usize>,
}

impl Allocations {
    /// Nothing held, at most `limit` bytes.
    pub(super) fn new(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Self { limit, held: 0, growing: 0, refused: None }
    }

    /// The most that may be held, in bytes.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// What the guest would have held had it been allowed, if it was refused since
    /// [`Allocations::forget`]. A trap's own text does not tell: each language ends in its
    /// own way when memory runs out.
    pub(super) fn refused(&self) -> Option<usize> {
        self.refused
    }

    /// Begins a new call: an earlier refusal that the guest survived is no longer the
    /// reason of what happens next.
    pub(super) fn forget(&mut self) {
        self.refused = None;
    }

    fn grow(&mut self, by: usize) -> bool {
        let wanted = self.held.saturating_add(by);
        if wanted > self.limit {
            self.refused = Some(wanted);
            self.growing = 0;
            return false;
        }
        self.held = wanted;
        self.growing = by;
        true
    }

    fn undo(&mut self) {
        self.held -= std::mem::take(&mut self.growing);
    }
}

impl ResourceLimiter for Allocations {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // `false`, not an error: the guest sees a failed `memory.grow` and can say on its
        // stderr what it needed the memory for.
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn memory_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current).saturating_mul(ELEMENT_BYTES)))
    }

    fn table_grow_failed(&mut self, _error: wasmtime::Error) -> wasmtime::Result<()> {
        self.undo();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_and_tables_share_one_limit() {
        let mut held = Allocations::new(1000);
        assert!(held.memory_growing(0, 600, None).expect("no error"));
        assert!(!held.memory_growing(0, 600, None).expect("no error"), "a second memory");
        assert_eq!(held.refused(), Some(1200));
        assert!(held.table_growing(0, 50, None).expect("no error"));
        assert!(!held.table_growing(50, 51, None).expect("no error"));
        assert_eq!(held.refused(), Some(1008));
        held.forget();
        assert_eq!(held.refused(), None);
    }

    #[test]
    fn a_growth_that_failed_is_not_counted() {
        let mut held = Allocations::new(1000);
        assert!(held.memory_growing(0, 1000, None).expect("no error"));
        held.memory_grow_failed(wasmtime::Error::msg("no memory")).expect("no error");
        assert!(held.memory_growing(0, 1000, None).expect("no error"));
    }
}
