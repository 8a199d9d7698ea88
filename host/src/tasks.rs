//! The only place that starts tasks and threads of the runtime. A task belongs to its
//! handle: dropping the handle ends the task, and a panic in it never goes unnoticed.

use std::future::Future;
use std::io::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::task::{JoinError, JoinHandle};
use tracing::Instrument;

/// The exit status after a panic: `EX_SOFTWARE` of sysexits.
pub const EXIT_PANIC: i32 = 70;

/// Makes any panic, in a task or in a thread, end the process with [`EXIT_PANIC`] after
/// its message was printed. A worker whose half is dead would keep its leases; one that is
/// gone loses them, and others go on from its checkpoints. Called once, by `main`.
pub fn stop_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        // A closed stderr must not start a second panic.
        let _ = writeln!(
            std::io::stderr(),
            "error: this is a bug in flowkit; the process stops here so that others can take \
             over its runs (exit status {EXIT_PANIC})"
        );
        std::process::exit(EXIT_PANIC);
    }));
}

/// Starts a task. `name` is the span its log lines are in.
pub fn spawn<F>(name: &'static str, future: F) -> TaskHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    TaskHandle(tokio::spawn(future.instrument(tracing::info_span!("task", name))))
}

/// Runs `work` on a thread where it may block. Its end is waited for even when the handle
/// is dropped: such a thread cannot be interrupted.
pub fn spawn_blocking<T, F>(name: &'static str, work: F) -> TaskHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    TaskHandle(tokio::task::spawn_blocking(move || {
        tracing::info_span!("blocking", name).in_scope(work)
    }))
}

/// A running task. As a future it gives the task's output, or `None` when the task was
/// stopped before its end; waiting for a task that panicked panics with the same message.
/// Cancel-safe: waiting on `&mut handle` may be given up and taken up again.
#[derive(Debug)]
#[must_use = "dropping the handle ends the task"]
pub struct TaskHandle<T>(JoinHandle<T>);

impl<T> TaskHandle<T> {
    /// Ends the task at its next wait; what it has begun is dropped.
    pub fn stop(&self) {
        self.0.abort();
    }

    /// True once the task has ended, in whatever way.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Drop for TaskHandle<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<T> Future for TaskHandle<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|ended| ended.map_err(unless_panicked).ok())
    }
}

/// Hands a panic on to whoever waits; only a stopped task remains.
fn unless_panicked(error: JoinError) {
    if let Ok(panic) = error.try_into_panic() {
        std::panic::resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_gives_its_output() {
        let task = spawn("adds", async {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            1 + 1
        });
        assert_eq!(task.await, Some(2));
        assert_eq!(spawn_blocking("multiplies", || 2 * 3).await, Some(6));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stopped_task_gives_nothing() {
        let task = spawn("waits", std::future::pending::<()>());
        task.stop();
        assert_eq!(task.await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_may_be_given_up_and_taken_up_again() {
        let mut task = spawn("waits", tokio::time::sleep(Duration::from_secs(10)));
        assert!(tokio::time::timeout(Duration::from_secs(5), &mut task).await.is_err());
        assert!(!task.is_finished());
        assert_eq!(task.await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_handle_ends_the_task() {
        struct SetOnDrop(Arc<AtomicBool>);
        impl Drop for SetOnDrop {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let ended = Arc::new(AtomicBool::new(false));
        let inside = SetOnDrop(ended.clone());
        drop(spawn("waits", async move {
            std::future::pending::<()>().await;
            drop(inside);
        }));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(ended.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "the disk is on fire")]
    async fn a_panic_reaches_whoever_waits() {
        let _: Option<()> = spawn("panics", async { panic!("the disk is on fire") }).await;
    }

    /// Runs this test again in a process of its own, where a task panics that nobody waits
    /// for.
    #[test]
    fn a_panic_ends_the_process() {
        const IN_CHILD: &str = "TASKS_TEST_IN_CHILD";
        if std::env::var_os(IN_CHILD).is_some() {
            stop_on_panic();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let _task = spawn("panics", async { panic!("the disk is on fire") });
                std::future::pending::<()>().await;
            });
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "tasks::tests::a_panic_ends_the_process"])
            .env(IN_CHILD, "1")
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(EXIT_PANIC), "{stderr}");
        assert!(stderr.contains("the disk is on fire"), "{stderr}");
        assert!(stderr.contains("error: this is a bug in flowkit"), "{stderr}");
    }
}
