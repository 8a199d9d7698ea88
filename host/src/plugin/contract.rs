//! Compares a component's imports and exports with the world that it is built for, so that
//! an author learns every difference at once and in WIT's words.

use wasmtime::Engine;
use wasmtime::component::types::{Component, ComponentFunc, ComponentInstance, ComponentItem};

use super::wit_text;
use super::worlds::{self, Shape};

/// The version of the package `flowkit:worker` that authors build for.
pub const WORLD_VERSION: &str = worlds::VERSION;

const PACKAGE: &str = "flowkit:worker/";

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
    /// The interface of a version that is not served.
    #[error(
        "it is built for {found}, and this worker serves flowkit:worker {served}; build it with \
         an SDK for one of these, or use a worker that serves the other"
    )]
    OtherVersion {
        /// The interface's full name.
        found: String,
        /// The versions that are served.
        served: String,
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

/// What a component is built for.
pub(super) struct Target {
    /// The version that serves it.
    pub(super) shape: &'static Shape,
    /// Its package with its own version, such as `flowkit:worker@1.0.0`.
    pub(super) world: String,
}

/// What a component is built for, if that is among those `served`; or every difference
/// between it and a handler.
pub(super) fn target_of(
    engine: &Engine,
    component: &Component,
    served: &[&'static Shape],
) -> Result<Target, Vec<Difference>> {
    let mut found = Vec::new();
    let target = match exported(engine, component, served) {
        Ok((target, handler)) => {
            exports(engine, target.shape, &handler, &mut found);
            target
        }
        // Its imports are of that version too.
        Err(other @ Difference::OtherVersion { .. }) => return Err(vec![other]),
        Err(other) => {
            found.push(other);
            Target { shape: worlds::SERVED[0], world: String::new() }
        }
    };
    for (name, item) in component.imports(engine) {
        import(engine, target.shape, (name, &item.ty), &mut found);
    }
    if found.is_empty() { Ok(target) } else { Err(found) }
}

/// The handler that it exports, and the version of that.
fn exported(
    engine: &Engine,
    component: &Component,
    served: &[&'static Shape],
) -> Result<(Target, ComponentInstance), Difference> {
    let mut names = Vec::new();
    let mut other_version = None;
    for (name, item) in component.exports(engine) {
        names.push(name.to_owned());
        if interface(name) != Some("handler") {
            continue;
        }
        let shape = served.iter().find(|shape| (shape.fits)(version(name)));
        match (shape, item.ty) {
            (Some(shape), ComponentItem::ComponentInstance(instance)) => {
                let world = format!("{}@{}", PACKAGE.trim_end_matches('/'), version(name));
                return Ok((Target { shape, world }, instance));
            }
            _ => other_version = Some(name.to_owned()),
        }
    }
    Err(match other_version {
        Some(found) => Difference::OtherVersion { found, served: worlds::versions(served) },
        None => Difference::NoHandler { hint: hint(&names), found: list(&names) },
    })
}

fn exports(
    engine: &Engine,
    shape: &Shape,
    handler: &ComponentInstance,
    found: &mut Vec<Difference>,
) {
    for &(name, wanted) in shape.handler {
        match handler.get_export(engine, name).map(|item| item.ty) {
            None => found.push(Difference::Missing { name, wanted }),
            Some(item) => found.extend(wrong_type(name, wanted, &item)),
        }
    }
}

fn import(
    engine: &Engine,
    shape: &Shape,
    (name, item): (&str, &ComponentItem),
    found: &mut Vec<Difference>,
) {
    let short = interface(name).filter(|_| (shape.fits)(version(name)));
    let known = shape.imports.iter().find(|(known, _)| Some(*known) == short);
    match (known, item) {
        (Some((short, known)), ComponentItem::ComponentInstance(instance)) => {
            functions(engine, (name, short, known), instance, found);
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
        ": a newer worker may; this one has flowkit:worker@1.1.0"
    } else {
        ": a handler is given flowkit:worker and WASI 0.2 alone"
    }
}
