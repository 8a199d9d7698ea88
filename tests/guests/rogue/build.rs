//! Lets the guest's table grow, for the deed that grows it without end.

fn main() {
    println!("cargo::rustc-link-arg-cdylib=--growable-table");
    println!("cargo::rerun-if-changed=build.rs");
}
