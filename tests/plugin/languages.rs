//! The examples in five languages are the same handler.

use std::num::NonZeroU64;
use std::path::Path;
use std::time::{Duration, Instant};

use flowkit::handler::{
    Batch, BatchOutput, CallError, CancelFlag, Classification, Handler as _, Session,
};
use flowkit::metrics::Totals;
use flowkit::plugin::{HandlerConfig, Plugin};
use flowkit::types::BatchUid;
use serde_json::{Value, json};

use super::support::{cancel_in, load, request};

/// What splits words and what does not, every kind of escape JSON knows, every length a
/// character has in UTF-8, empty lines at both ends.
const TEXT: &str = "\none two\r\n\ttab\u{b}not split \u{a0}\u{85}\nquote\" back\\slash / \u{1}\u{0}\u{7f}\n\n\
                    ä € 😀\u{c}form\n  \nlast\n\n";

/// All a run of any of them may take; an interpreter begins at 13 MB.
const MEMORY: NonZeroU64 = NonZeroU64::new(48 << 20).expect("not zero");

/// Its lines, two at a time: lines, words, bytes, and the longest line's bytes.
const COUNTS: [[u64; 4]; 5] =
    [[2, 2, 8, 8], [2, 7, 42, 23], [2, 4, 16, 16], [2, 1, 6, 4], [1, 0, 0, 0]];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust() {
    conforms("rust").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn javascript() {
    conforms("javascript").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python() {
    conforms("python").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go() {
    conforms("go").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c() {
    conforms("c").await;
}

/// One test a language: compiling a component is what takes the time.
async fn conforms(language: &str) {
    let file = format!("../target/examples/{language}.wasm");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if !file.exists() {
        let reason = format!("`cargo xtask examples {language}` has not built its component");
        return flowkit_servers::skip(&format!("plugin languages::{language}"), &reason);
    }
    let mut config = HandlerConfig::new(file);
    config.limits.memory_bytes = MEMORY;
    let plugin = load(config).await;
    let about = &plugin.inspection().describe;
    assert_eq!((&about["name"], &about["language"]), (&json!("wordcount"), &json!(language)));
    counts(&plugin).await;
    resumes(&plugin).await;
    classifies(&plugin).await;
    stops(&plugin).await;
    stays_small(&plugin).await;
}

async fn counts(plugin: &Plugin) {
    let mut run = Run::begin(plugin, json!({"text": TEXT, "batch_lines": 2}), None).await;
    for (k, counts) in COUNTS.iter().enumerate() {
        let batch = run.next().await.expect("a batch");
        assert_eq!(batch.uid.as_str(), format!("b{k}"));
        let lines: Vec<&str> = TEXT.split_terminator('\n').skip(2 * k).take(2).collect();
        assert_eq!(value(&batch.payload), json!({"k": k, "lines": lines}));
        let [lines, words, bytes, longest] = counts;
        let counts = json!({"lines": lines, "words": words, "bytes": bytes});
        let done = run.process(&batch).await.expect("counted");
        assert_eq!(serde_json::to_value(&done.metrics).expect("JSON"), counts, "b{k}");
        assert_eq!(done.partial.map(Value::Object), Some(json!({"longest": longest})));
        assert_eq!(value(&done.checkpoint.expect("a checkpoint")), json!(k + 1));
    }
    assert_eq!(run.next().await, None);
    run.end().await;
    for (text, batches) in [("", 0), ("\n", 1), ("a", 1), (&*"a\n".repeat(10), 1)] {
        let mut run = Run::begin(plugin, json!({"text": text}), None).await;
        for _ in 0..batches {
            assert!(run.next().await.is_some(), "{text:?}");
        }
        assert_eq!(run.next().await, None, "{text:?}");
        run.end().await;
    }
}

async fn resumes(plugin: &Plugin) {
    let input = json!({"text": TEXT, "batch_lines": 2});
    let mut run = Run::begin(plugin, input.clone(), Some("3")).await;
    for uid in ["b3", "b4"] {
        assert_eq!(run.next().await.expect("a batch").uid.as_str(), uid);
    }
    assert_eq!(run.next().await, None);
    run.end().await;
    let mut run = Run::begin(plugin, input, Some("5")).await;
    assert_eq!(run.next().await, None, "a run whose batches are all done");
    run.end().await;
}

async fn classifies(plugin: &Plugin) {
    for permanent in [true, false] {
        let input = json!({"text": "a\nb", "batch_lines": 1, "fail_at": 1, "permanent": permanent});
        let mut run = Run::begin(plugin, input, None).await;
        let (good, bad) = (run.next().await.expect("b0"), run.next().await.expect("b1"));
        run.process(&good).await.expect("not poisoned");
        let error = run.process(&bad).await;
        assert_eq!(run.classify(error, "b1").await, class("poison", permanent));
        run.process(&good).await.expect("an error does not end the instance");
        run.end().await;
    }
    for (input, what) in
        [(json!({}), "text"), (json!({"text": "a", "batch_lines": 0}), "batch_lines")]
    {
        let mut run = Run::open(plugin).await;
        let error = run.iterate(input, None).await;
        assert_eq!(run.classify(error, what).await, class("validation_error", true));
        run.end().await;
    }
}

async fn stops(plugin: &Plugin) {
    let input = json!({"text": "a\nb", "batch_lines": 1, "sleep_ms": 60_000});
    let mut run = Run::begin(plugin, input, None).await;
    let batch = run.next().await.expect("a batch");
    let (began, flag) = (Instant::now(), run.cancel.clone());
    let (ended, ()) = tokio::join!(run.process(&batch), async {
        tokio::task::yield_now().await;
        cancel_in(&flag, Duration::from_secs(30));
    });
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(run.classify(ended, "cancelled").await, class("cancelled", false));
    let again = run.process(&batch).await;
    assert_eq!(run.classify(again, "cancelled").await, class("cancelled", false));
    run.end().await;
}

/// So many batches that keeping a few KiB of each would end the run at [`MEMORY`].
async fn stays_small(plugin: &Plugin) {
    const BATCHES: usize = 100_000;
    let text = "one two three\n".repeat(BATCHES);
    let mut run = Run::begin(plugin, json!({"text": text, "batch_lines": 1}), None).await;
    let mut words = 0.0;
    while let Some(batch) = run.next().await {
        let done = run.process(&batch).await.expect("counted");
        words +=
            serde_json::to_value(&done.metrics).expect("JSON")["words"].as_f64().expect("a number");
    }
    assert_eq!(words, 3.0 * BATCHES as f64);
    run.end().await;
}

/// A run whose parts are called one by one.
struct Run {
    session: Box<dyn Session>,
    cancel: CancelFlag,
}

impl Run {
    async fn open(plugin: &Plugin) -> Self {
        let cancel = CancelFlag::default();
        let mut session = plugin.open(request("n", &cancel)).await.expect("opens");
        session.init().await.expect("init succeeds");
        Self { session, cancel }
    }

    async fn begin(plugin: &Plugin, input: Value, checkpoint: Option<&str>) -> Self {
        let mut run = Self::open(plugin).await;
        run.iterate(input, checkpoint).await.expect("iterates");
        run
    }

    async fn iterate(&mut self, input: Value, checkpoint: Option<&str>) -> Result<(), CallError> {
        let input = json!({"input_ref": null, "input_inline": input, "batching": null});
        let proposal = self.session.iter_batches(&input.to_string(), checkpoint).await?;
        assert_eq!(proposal, None);
        Ok(())
    }

    async fn next(&mut self) -> Option<Batch> {
        let yielded = self.session.next_batch().await.expect("a batch or the end")?;
        let uid: BatchUid = yielded.uid.expect("every batch is named");
        Some(Batch { uid, payload: yielded.payload })
    }

    async fn process(&mut self, batch: &Batch) -> Result<BatchOutput, CallError> {
        self.session.process_batch(batch, &Totals::default()).await
    }

    /// What the handler makes of its own error, which must speak of `what`.
    async fn classify<T>(&mut self, ended: Result<T, CallError>, what: &str) -> Classification
    where
        T: std::fmt::Debug,
    {
        let Err(CallError::Handler(error)) = ended else {
            panic!("no error of its own: {ended:?}")
        };
        assert!(error.message.contains(what), "{}", error.message);
        self.session.classify_error(&error).await.expect("classified")
    }

    async fn end(mut self) {
        let finalized = self.session.finalize(&Totals::default()).await;
        if self.cancel.get().is_none() {
            let metrics = finalized.expect("finalized").metrics;
            assert_eq!(serde_json::to_value(&metrics).expect("JSON"), json!({}));
        }
        self.session.cleanup().await.expect("cleaned up");
    }
}

fn class(reason_code: &str, permanent: bool) -> Classification {
    Classification { reason_code: reason_code.to_owned(), permanent }
}

fn value(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}
