//! Files of this repository that travel with the binary.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

/// What pins the tools from npm.
pub const NPM: [(&str, &str); 2] = [
    ("package.json", include_str!("../tools/package.json")),
    ("package-lock.json", include_str!("../tools/package-lock.json")),
];

/// What pins the tools from PyPI.
pub const PYPI: &str = include_str!("../tools/requirements.txt");

/// Joins the world's functions to a handler in Go.
pub const GO_EXPORTS: &str = include_str!("../go/exports.go");

/// The manifests of a handler in Rust and of the SDK beside it, which in this repository
/// belong to its workspace.
pub const RUST_MANIFEST: &str = include_str!("../templates/rust/Cargo.toml");
pub const RUST_SDK_MANIFEST: &str = include_str!("../templates/rust/sdk.toml");
