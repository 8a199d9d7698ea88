//! A run that behaves, beside one that does not.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flowkit::handler::CancelFlag;
use flowkit::metrics::Totals;

use super::support::{b0, rogue, session};

/// Batches that the well-behaved run processes at least.
const BATCHES: usize = 50;

/// Awaits the deed while a well-behaved run works on another task; fails unless that run
/// was served all along and ends well.
pub async fn beside<T>(deed: impl Future<Output = T>) -> T {
    let over = Arc::new(AtomicBool::new(false));
    let good = tokio::spawn(work(Arc::clone(&over)));
    let outcome = deed.await;
    over.store(true, Ordering::SeqCst);
    let processed = good.await.expect("the well-behaved run ends well");
    assert!(processed >= BATCHES, "{processed}");
    outcome
}

/// From `init` to `cleanup`, with batches until the deed is over.
async fn work(over: Arc<AtomicBool>) -> usize {
    let plugin = rogue().await;
    let mut session = session(&plugin, "none", &CancelFlag::default()).await;
    session.iter_batches("{}", None).await.expect("begins");
    let mut processed = 0;
    while processed < BATCHES || !over.load(Ordering::SeqCst) {
        let output = session.process_batch(&b0(), &Totals::default()).await.expect("succeeds");
        assert_eq!(output.metrics.as_object()["n"], 1);
        processed += 1;
        tokio::task::yield_now().await;
    }
    session.finalize(&Totals::default()).await.expect("succeeds");
    session.cleanup().await.expect("succeeds");
    processed
}
