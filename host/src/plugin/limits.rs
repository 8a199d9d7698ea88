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
    table_limit: usize,
    elements: usize,
    growing_elements: usize,
    refused: Option<Refused>,
}

/// What a guest wanted and did not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Bytes in all; more than this limit.
    Memory { wanted: usize, limit: usize },
    /// Elements of its tables in all; more than this limit.
    Table { wanted: usize, limit: usize },
}

impl Allocations {
    /// Nothing held, at most `limit` bytes, and `elements` of tables in them.
    pub(super) fn new(limit: u64, elements: u32) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let table_limit = usize::try_from(elements).unwrap_or(usize::MAX);
        Self {
            limit,
            held: 0,
            growing: 0,
            table_limit,
            elements: 0,
            growing_elements: 0,
            refused: None,
        }
    }

    /// What the guest would have held had it been allowed, if it was refused since
    /// [`Allocations::forget`]. A trap's own text does not tell: each language ends in its
    /// own way when memory runs out.
    pub(super) fn refused(&self) -> Option<Refused> {
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
            self.refused = Some(Refused::Memory { wanted, limit: self.limit });
            self.growing = 0;
            return false;
        }
        self.held = wanted;
        self.growing = by;
        true
    }

    fn undo(&mut self) {
        self.held -= std::mem::take(&mut self.growing);
        self.elements -= std::mem::take(&mut self.growing_elements);
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
        self.growing_elements = 0;
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
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let by = desired.saturating_sub(current);
        // What the table itself, or the pool it lies in, can hold is a limit like ours.
        let (wanted, limit) = match maximum {
            Some(most) if desired > most => (desired, most),
            _ => (self.elements.saturating_add(by), self.table_limit),
        };
        if wanted > limit {
            self.refused = Some(Refused::Table { wanted, limit });
            (self.growing, self.growing_elements) = (0, 0);
            return Ok(false);
        }
        let grows = self.grow(by.saturating_mul(ELEMENT_BYTES));
        self.growing_elements = if grows { by } else { 0 };
        self.elements += self.growing_elements;
        Ok(grows)
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
        let mut held = Allocations::new(1000, 1000);
        let refused = |wanted| Some(Refused::Memory { wanted, limit: 1000 });
        assert!(held.memory_growing(0, 600, None).expect("no error"));
        assert!(!held.memory_growing(0, 600, None).expect("no error"), "a second memory");
        assert_eq!(held.refused(), refused(1200));
        assert!(held.table_growing(0, 50, None).expect("no error"));
        assert!(!held.table_growing(50, 51, None).expect("no error"));
        assert_eq!(held.refused(), refused(1008));
        held.forget();
        assert_eq!(held.refused(), None);
    }

    #[test]
    fn all_tables_share_one_limit() {
        let mut held = Allocations::new(1 << 20, 100);
        assert!(held.table_growing(0, 60, None).expect("no error"));
        assert!(!held.table_growing(0, 41, None).expect("no error"), "a second table");
        assert_eq!(held.refused(), Some(Refused::Table { wanted: 101, limit: 100 }));
        assert!(held.table_growing(0, 40, None).expect("no error"));
        held.table_grow_failed(wasmtime::Error::msg("no memory")).expect("no error");
        assert!(held.table_growing(0, 40, None).expect("no error"), "what failed is not held");
        assert!(!held.table_growing(0, 9, Some(8)).expect("no error"), "the table's own maximum");
    }

    #[test]
    fn a_growth_that_failed_is_not_counted() {
        let mut held = Allocations::new(1000, 1000);
        assert!(held.memory_growing(0, 1000, None).expect("no error"));
        held.memory_grow_failed(wasmtime::Error::msg("no memory")).expect("no error");
        assert!(held.memory_growing(0, 1000, None).expect("no error"));
    }
}
