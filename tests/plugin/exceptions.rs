//! What an author did not foresee fails the batch in the words of the author's language.

use std::path::Path;

use flowkit::handler::{Batch, CallError, CancelFlag, Handler as _};
use flowkit::metrics::Totals;
use flowkit::plugin::HandlerConfig;
use flowkit::types::BatchUid;

use super::support::{load, request};

/// A batch whose line is a number, and what each language says about it: the interpreters'
/// texts name the line of the author's file.
const TOLD: [(&str, &[&str]); 5] = [
    ("rust", &["invalid type: integer `7`, expected a string"]),
    ("javascript", &["TypeError: not a function", "process (/handler.js:"]),
    ("python", &["AttributeError: 'int' object has no attribute 'encode'", "(/0/handler.py:"]),
    ("go", &["cannot unmarshal number into Go struct field", "of type string"]),
    ("c", &["a line of batch b0 is not a string"]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unforeseen_error_is_told_in_the_languages_own_words() {
    for (language, texts) in TOLD {
        let file = format!("../target/examples/{language}.wasm");
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        if !file.exists() {
            let reason = format!("`cargo xtask examples {language}` has not built its component");
            flowkit_servers::skip(&format!("plugin exceptions::{language}"), &reason);
            continue;
        }
        let plugin = load(HandlerConfig::new(file)).await;
        let mut session = plugin.open(request("n", &CancelFlag::default())).await.expect("opens");
        session.init().await.expect("init succeeds");
        let input = r#"{"input_ref":null,"input_inline":{"text":"a"},"batching":null}"#;
        session.iter_batches(input, None).await.expect("iterates");
        let batch = |payload: &str| Batch {
            uid: BatchUid::new("b0").expect("valid"),
            payload: payload.to_owned(),
        };
        let ended =
            session.process_batch(&batch(r#"{"k":0,"lines":[7]}"#), &Totals::default()).await;
        let Err(CallError::Handler(error)) = ended else {
            panic!("{language}: no error of its own: {ended:?}")
        };
        for text in texts {
            assert!(error.message.contains(text), "{language}: {}", error.message);
        }
        session.classify_error(&error).await.expect("classified");
        let good = batch(r#"{"k":0,"lines":["still alive"]}"#);
        session.process_batch(&good, &Totals::default()).await.expect("the instance lives on");
        session.cleanup().await.expect("cleaned up");
    }
}
