//! Compares a component's imports and exports with the world of `wit/worker.wit`, so that
//! an author learns every difference at once and in WIT's words.

use wasmtime::Engine;
use wasmtime::component::types::{Component, ComponentFunc, ComponentInstance, ComponentItem};

use super::wit_text;

/// The version of the package `flowkit:worker` that this worker speaks.
pub const WORLD_VERSION: &str = "1.1.0";

const PACKAGE: &str = "flowkit:worker/";

/// What a handler exports.
const HANDLER: [(&str, &str); 8] = [
    ("describe", "func() -> result<string, handler-error>"),
    ("init", "func(run-info: string) -> result<_, handler-error>"),
    (
        "iter-batches",
        "func(input: string, checkpoint: option<string>) -> result<option<string>, handler-error>",
    ),
    ("next-batch", "func() -> result<option<batch>, handler-error>"),
    ("process-batch", "func(batch: batch) -> result<string, handler-error>"),
    ("finalize", "func() -> result<string, handler-error>"),
    ("classify-error", "func(error: handler-error) -> result<classification, handler-error>"),
    ("cleanup", "func() -> result<_, handler-error>"),
];

/// What the worker offers.
const HOST: [(&str, &str); 8] = [
    ("run-info", "func() -> string"),
    ("cancelled", "func() -> option<cancellation>"),
    ("sleep", "func(ms: u32) -> bool"),
    ("save-checkpoint", "func(checkpoint: string) -> result<_, handler-error>"),
    ("upsert-partial", "func(batch-uid: string, meta: string) -> result<_, handler-error>"),
    ("run-totals", "func() -> string"),
    ("log", "func(level: string, message: string)"),
    ("metric", "func(kind: string, name: string, value: f64)"),
];

/// What it offers for collections.
const DOCUMENTS: [(&str, &str); 3] = [
    ("open", "func(collection: string, query: string) -> result<u32, handler-error>"),
    ("next", "func(cursor: u32) -> result<option<string>, handler-error>"),
    ("close", "func(cursor: u32)"),
];

/// WASI 0.2 as the worker links it. The two of `wasi:http` are only for roles that are
/// granted hosts.
const WASI: [&str; 30] = [
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stderr",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stderr",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
    "wasi:clocks/timezone",
    "wasi:http/outgoing-handler",
    "wasi:http/types",
];

/// One way in which a component is not a handler.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// Nothing named `handler` is exported.
    #[error(
        "it does not export the interface flowkit:worker/handler@{WORLD_VERSION}; it exports \
         {found}{hint}"
    )]
    NoHandler {
        /// What it exports instead.
        found: String,
        /// What is probably wrong; may be empty.
        hint: &'static str,
    },
    /// The interface of another major version.
    #[error(
        "it is built for {found}, and this worker speaks flowkit:worker@{WORLD_VERSION}; build \
         it with the SDK of version 1, or use the worker that fits it"
    )]
    OtherVersion {
        /// The interface's full name.
        found: String,
    },
    /// A function is not there.
    #[error("`{name}` is missing; the world wants `{name}: {wanted}`")]
    Missing {
        /// The function.
        name: &'static str,
        /// Its type.
        wanted: &'static str,
    },
    /// A function has another type.
    #[error("`{name}` has the wrong type\n    wanted: {wanted}\n    found:  {found}")]
    WrongType {
        /// The function.
        name: String,
        /// The world's type.
        wanted: &'static str,
        /// The component's.
        found: String,
    },
    /// It calls a host function that a later version of the package may have.
    #[error(
        "it calls `{name}` of {interface}, which this worker (flowkit:worker@{WORLD_VERSION}) \
         does not have; use a newer worker, or build with an older SDK"
    )]
    UnknownHostFunction {
        /// The function.
        name: String,
        /// The interface's full name.
        interface: String,
    },
    /// It imports what no handler is given.
    #[error("it imports {name}, which this worker does not offer{hint}")]
    UnknownImport {
        /// The import.
        name: String,
        /// What to do; may be empty.
        hint: &'static str,
    },
}

/// Every difference between a component and a handler; empty for a handler.
pub(super) fn differences(engine: &Engine, component: &Component) -> Vec<Difference> {
    let mut found = Vec::new();
    exports(engine, component, &mut found);
    for (name, item) in component.imports(engine) {
        import(engine, name, &item.ty, &mut found);
    }
    found
}

fn exports(engine: &Engine, component: &Component, found: &mut Vec<Difference>) {
    let mut names = Vec::new();
    let mut other_version = None;
    for (name, item) in component.exports(engine) {
        names.push(name.to_owned());
        if interface(name) != Some("handler") {
            continue;
        }
        match &item.ty {
            ComponentItem::ComponentInstance(instance) if compatible(name) => {
                return handler(engine, instance, found);
            }
            _ => other_version = Some(name.to_owned()),
        }
    }
    found.push(match other_version {
        Some(found) => Difference::OtherVersion { found },
        None => Difference::NoHandler { hint: hint(&names), found: list(&names) },
    });
}

fn handler(engine: &Engine, instance: &ComponentInstance, found: &mut Vec<Difference>) {
    for (name, wanted) in HANDLER {
        match instance.get_export(engine, name).map(|item| item.ty) {
            None => found.push(Difference::Missing { name, wanted }),
            Some(item) => found.extend(wrong_type(name, wanted, &item)),
        }
    }
}

fn import(engine: &Engine, name: &str, item: &ComponentItem, found: &mut Vec<Difference>) {
    match (interface(name), item) {
        (Some("types"), ComponentItem::ComponentInstance(_)) if compatible(name) => {}
        (Some("host"), ComponentItem::ComponentInstance(instance)) if compatible(name) => {
            functions(engine, (name, "host", &HOST), instance, found);
        }
        (Some("documents"), ComponentItem::ComponentInstance(instance)) if compatible(name) => {
            functions(engine, (name, "documents", &DOCUMENTS), instance, found);
        }
        _ if WASI.contains(&base(name)) && version(name).starts_with("0.2.") => {}
        _ => {
            found.push(Difference::UnknownImport { name: name.to_owned(), hint: import_hint(name) })
        }
    }
}

fn functions(
    engine: &Engine,
    (interface, short, known): (&str, &str, &[(&str, &'static str)]),
    instance: &ComponentInstance,
    found: &mut Vec<Difference>,
) {
    for (name, item) in instance.exports(engine) {
        if matches!(item.ty, ComponentItem::Type(_)) {
            continue;
        }
        match known.iter().find(|(known, _)| *known == name) {
            Some((_, wanted)) => {
                found.extend(wrong_type(&format!("{short}.{name}"), wanted, &item.ty));
            }
            None => found.push(Difference::UnknownHostFunction {
                name: name.to_owned(),
                interface: interface.to_owned(),
            }),
        }
    }
}

fn wrong_type(name: &str, wanted: &'static str, item: &ComponentItem) -> Option<Difference> {
    let found = match item {
        ComponentItem::ComponentFunc(function) => function_text(function),
        _ => "not a function".to_owned(),
    };
    (found != wanted).then(|| Difference::WrongType { name: name.to_owned(), wanted, found })
}

fn function_text(function: &ComponentFunc) -> String {
    wit_text::function(function)
}

/// `handler` of `flowkit:worker/handler@1.1.0`.
fn interface(name: &str) -> Option<&str> {
    base(name).strip_prefix(PACKAGE)
}

fn base(name: &str) -> &str {
    name.split_once('@').map_or(name, |(base, _)| base)
}

fn version(name: &str) -> &str {
    name.split_once('@').map_or("", |(_, version)| version)
}

/// Inside 1.x only imports and interfaces are added, so any 1.x export fits.
fn compatible(name: &str) -> bool {
    let version = version(name);
    version.starts_with("1.") && !version.contains('-')
}

fn list(names: &[String]) -> String {
    const SHOWN: usize = 10;
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

fn hint(exports: &[String]) -> &'static str {
    if exports.iter().any(|name| base(name) == "wasi:cli/run") {
        ". It is a program with a `main`: a handler is a library (in Rust `crate-type = \
         [\"cdylib\"]`)"
    } else if exports.iter().any(|name| base(name) == "wasi:http/incoming-handler") {
        ". It is an HTTP service, not a FlowKit handler"
    } else if exports.is_empty() {
        ". Is the SDK's export macro called?"
    } else {
        ""
    }
}

fn import_hint(name: &str) -> &'static str {
    if name.starts_with("wasi:http/") {
        ": of HTTP it offers wasi:http/outgoing-handler and types alone. StarlingMonkey builds \
         import more unless `fetch-event` is disabled"
    } else if name.starts_with("wasi:") && !version(name).starts_with("0.2.") {
        ": it offers WASI 0.2"
    } else if interface(name).is_some() {
        ": a newer worker may"
    } else {
        ": a handler is given flowkit:worker and WASI 0.2 alone"
    }
}
