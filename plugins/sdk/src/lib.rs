//! Write FlowKit handlers in Rust.
//!
//! A handler is a type that implements [`Handler`] in a crate of type `cdylib`, named once
//! to [`export!`] and built for `wasm32-wasip2`:
//!
//! ```
//! use flowkit_sdk::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct Input { batch_size: Option<usize> }
//!
//! #[derive(Serialize, Deserialize)]
//! struct Span { start: usize, end: usize }
//!
//! #[derive(Serialize)]
//! struct Counts { items_processed: usize }
//!
//! #[derive(Default)]
//! struct CustomHandler;
//!
//! impl Handler for CustomHandler {
//!     type Input = Input;
//!     type Batch = Span;
//!     type Output = Counts;
//!     type Checkpoint = usize;
//!
//!     fn iter_batches(&mut self, input: Input, done: Option<usize>) -> Result<Batches<Span>> {
//!         let size = input.batch_size.unwrap_or(10).max(1);
//!         Ok(Batches::new((done.unwrap_or(0)..100).step_by(size).map(move |start| {
//!             Batch::new(format!("batch_{start}"), Span { start, end: (start + size).min(100) })
//!         })))
//!     }
//!
//!     fn process_batch(&mut self, span: Span, ctx: &RunContext<Self>) -> Result<Counts> {
//!         check_cancelled()?;
//!         let counts = Counts { items_processed: span.end - span.start };
//!         ctx.upsert_partial(&counts)?;
//!         ctx.save_checkpoint(&span.end)?;
//!         Ok(counts)
//!     }
//! }
//!
//! export!(CustomHandler);
//! # use flowkit_sdk::testing::TestRun;
//! # let run = TestRun::<CustomHandler>::new(serde_json::json!({"batch_size": 30})).run().unwrap();
//! # assert_eq!(run.totals["items_processed"], 100);
//! # assert_eq!(run.batches.len(), 4);
//! ```
//!
//! [`testing`] runs a handler natively, in a plain `#[test]`.

mod batches;
mod component;
pub mod documents;
mod error;
mod handler;
mod host;
#[cfg(all(target_family = "wasm", feature = "http"))]
pub mod http;
mod session;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

#[doc(hidden)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../../wit",
        world: "handler-world",
        pub_export_macro: true,
        export_macro_name: "export_component",
        default_bindings_module: "flowkit_sdk::bindings",
    });
}

pub use batches::{
    ArtifactRef, Batch, Batches, Chunk, ChunkParent, ChunkRef, IntoBatch, Proposal, Pull, Pulled,
};
pub use error::{Classification, Error, Result, ResultExt};
pub use handler::{Finalization, Handler, RunContext, RunInfo};
pub use host::{
    Cancellation, Level, cancelled, check_cancelled, command, counter, gauge, log, pause, run_info,
    run_totals, sleep,
};

/// What a handler usually needs.
pub mod prelude {
    pub use crate::{
        Batch, Batches, Chunk, Error, Finalization, Handler, Pull, Pulled, Result, ResultExt,
        RunContext, RunInfo, cancelled, check_cancelled, export, pause, run_totals, sleep,
    };
    pub use serde_json::{Value, json};
}

#[doc(hidden)]
pub mod __private {
    pub use crate::component::{Component, Plugin};
    pub use crate::session::Session;
}

/// Makes this crate a plugin: its exports run the given [`Handler`].
///
/// Use it once in a crate. In a native build it only checks the type.
#[macro_export]
macro_rules! export {
    ($handler:ty) => {
        const _: () = {
            struct Plugin;

            impl $crate::__private::Plugin for Plugin {
                type Handler = $handler;
                const NAME: &'static str = env!("CARGO_PKG_NAME");
                const VERSION: &'static str = env!("CARGO_PKG_VERSION");

                fn with_session<R>(
                    f: impl FnOnce(&mut Option<$crate::__private::Session<$handler>>) -> R,
                ) -> R {
                    ::std::thread_local! {
                        static SESSION: ::std::cell::RefCell<
                            Option<$crate::__private::Session<$handler>>,
                        > = const { ::std::cell::RefCell::new(None) };
                    }
                    SESSION.with_borrow_mut(f)
                }
            }

            // Natively nothing calls the exports; this keeps the handler in use.
            const _: fn() -> $handler = <$handler as ::std::default::Default>::default;

            type Component = $crate::__private::Component<Plugin>;

            #[cfg(target_family = "wasm")]
    $crate::bindings::export_component!(Component with_types_in $crate::bindings);
        };
    };
}
