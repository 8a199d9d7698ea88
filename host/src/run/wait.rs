//! What a driver waits for besides its handler.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;

use super::lease::Lease;
use super::slot::Slot;
use super::voice::{Silenced, Voice};
use crate::handler::YieldedBatch;
use crate::input::artifacts::{ArtifactSource, Polled};

/// A future that is kept and polled again.
pub(super) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What came of waiting for upstream data.
pub(super) enum Pulled {
    /// A batch, and a slot to process it with.
    Batch(YieldedBatch),
    /// Nothing more will come.
    End,
    /// Too many runs wait already.
    Crowded,
}

/// The next upstream batch; waits for one without a slot.
pub(super) async fn pull(
    voice: &Voice,
    source: &mut ArtifactSource,
    slot: &Slot,
) -> Result<Pulled, Silenced> {
    let source = tokio::sync::Mutex::new(source);
    loop {
        match voice.store(|| async { source.lock().await.poll().await }).await? {
            Polled::Batch(batch) => {
                slot.take_again().await;
                return Ok(Pulled::Batch(batch));
            }
            Polled::End => {
                slot.take_again().await;
                return Ok(Pulled::End);
            }
            Polled::Later(wait) => {
                if !slot.give_back() {
                    return Ok(Pulled::Crowded);
                }
                tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
            }
        }
    }
}

/// Resolves when the lease has ended without being renewed. Cancel-safe.
pub(super) async fn lease_ended(lease: &mut watch::Receiver<Lease>) {
    loop {
        let deadline = lease.borrow_and_update().deadline();
        // Cancel-safe: both sides only wait.
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(deadline) => {
                if !lease.borrow().holds(tokio::time::Instant::now()) {
                    return;
                }
            }
            changed = lease.changed() => {
                if changed.is_err() {
                    tokio::time::sleep_until(deadline).await;
                    return;
                }
            }
        }
    }
}

/// The output of a future that may not be there. Cancel-safe: it stays where it is.
pub(super) async fn ready<T>(slot: &mut Option<Boxed<T>>) -> T {
    match slot {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
