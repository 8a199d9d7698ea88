//! The versions of the world that are served side by side.
//!
//! An [`Instance`](super::instance::Instance) speaks to its guest in the words of version
//! 1; what another version says otherwise is translated in that version's file. So neither
//! a run nor the checks of results know how many versions there are.

mod next;
mod v1;

use wasmtime::component::{InstancePre, Linker};
use wasmtime::{Engine, Store};

use super::context::Guest;
use crate::handler::HandlerError;

/// The version that authors build for.
pub(super) const VERSION: &str = "1.1.0";

/// What workers serve.
pub(super) const SERVED: &[&Shape] = &[&v1::SHAPE];

/// The same, and the world that only tests ask for.
pub(super) const WITH_NEXT: &[&Shape] = &[&v1::SHAPE, &next::SHAPE];

/// What a call gave: a trap, the handler's error, or its result.
pub(super) type Called<R> = wasmtime::Result<Result<R, HandlerError>>;

/// Names of functions and their types, as [`wit_text`](super::wit_text) writes them.
pub(super) type Functions = &'static [(&'static str, &'static str)];

/// One version of the world, as much as a component is compared with.
pub(super) struct Shape {
    /// The versions of the package that it takes, for people.
    pub(super) versions: &'static str,
    /// Whether an interface of this version is one of its own.
    pub(super) fits: fn(&str) -> bool,
    /// What a handler exports.
    pub(super) handler: Functions,
    /// What a handler may import of the package, by the interfaces' names.
    pub(super) imports: &'static [(&'static str, Functions)],
    link: fn(InstancePre<Guest>) -> wasmtime::Result<Linked>,
}

impl std::fmt::Debug for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.versions)
    }
}

/// What the versions are called where somebody has to choose one.
pub(super) fn versions(served: &[&Shape]) -> String {
    served.iter().map(|shape| shape.versions).collect::<Vec<_>>().join(" and ")
}

impl Shape {
    /// A component of this version whose imports are all there.
    pub(super) fn link(&self, component: InstancePre<Guest>) -> wasmtime::Result<Linked> {
        (self.link)(component)
    }
}

/// Gives guests the imports of the next world, beside those of the present one.
pub(super) fn add_next(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    next::add_to_linker(linker)
}

/// A component that is ready to be instantiated.
pub(super) enum Linked {
    V1(v1::Linked),
    Next(next::Linked),
}

/// An instance's functions.
pub(super) enum World {
    V1(v1::World),
    Next(next::World),
}

/// Calls the function of whichever version it is.
macro_rules! call {
    ($world:expr, $function:ident($($argument:expr),*)) => {
        match $world {
            World::V1(world) => world.$function($($argument),*).await,
            World::Next(world) => world.$function($($argument),*).await,
        }
    };
}

impl Linked {
    pub(super) fn engine(&self) -> &Engine {
        match self {
            Self::V1(linked) => linked.engine(),
            Self::Next(linked) => linked.engine(),
        }
    }

    pub(super) async fn instantiate(&self, store: &mut Store<Guest>) -> wasmtime::Result<World> {
        Ok(match self {
            Self::V1(linked) => World::V1(v1::World::new(linked, store).await?),
            Self::Next(linked) => World::Next(next::World::new(linked, store).await?),
        })
    }
}

impl World {
    /// `describe`: a JSON object.
    pub(super) async fn describe(&self, store: &mut Store<Guest>) -> Called<String> {
        call!(self, describe(store))
    }

    /// `init`.
    pub(super) async fn init(&mut self, store: &mut Store<Guest>, info: &str) -> Called<()> {
        call!(self, init(store, info))
    }

    /// `iter-batches`: a proposal.
    pub(super) async fn iter_batches(
        &mut self,
        store: &mut Store<Guest>,
        input: &str,
        checkpoint: Option<&str>,
    ) -> Called<Option<String>> {
        call!(self, iter_batches(store, input, checkpoint))
    }

    /// `next-batch`: its uid and its payload.
    pub(super) async fn next_batch(
        &mut self,
        store: &mut Store<Guest>,
    ) -> Called<Option<(Option<String>, String)>> {
        call!(self, next_batch(store))
    }

    /// `process-batch`: what it returns, while what it leaves is in [`Guest::batch`].
    pub(super) async fn process_batch(
        &mut self,
        store: &mut Store<Guest>,
        uid: &str,
        payload: &str,
    ) -> Called<String> {
        call!(self, process_batch(store, uid, payload))
    }

    /// `finalize`.
    pub(super) async fn finalize(&mut self, store: &mut Store<Guest>) -> Called<String> {
        call!(self, finalize(store))
    }

    /// `classify-error`: the reason code, and whether it is permanent.
    pub(super) async fn classify_error(
        &self,
        store: &mut Store<Guest>,
        error: &HandlerError,
    ) -> Called<(String, bool)> {
        call!(self, classify_error(store, error))
    }

    /// `cleanup`.
    pub(super) async fn cleanup(&mut self, store: &mut Store<Guest>) -> Called<()> {
        call!(self, cleanup(store))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_files() {
        let package = |text: &str| {
            let line = text.lines().find(|line| line.starts_with("package ")).expect("has one");
            line.trim_start_matches("package flowkit:worker@").trim_end_matches(';').to_owned()
        };
        assert_eq!(package(include_str!("../../../../wit/worker.wit")), VERSION);
        assert!(v1::SHAPE.versions.ends_with(VERSION), "{}", v1::SHAPE.versions);
        let next = package(include_str!("../../../../wit/next/worker.wit"));
        assert_eq!(next, next::SHAPE.versions);
        let fits = |version: &str| {
            WITH_NEXT
                .iter()
                .filter(|shape| (shape.fits)(version))
                .map(|s| s.versions)
                .collect::<Vec<_>>()
        };
        let none: Vec<&str> = Vec::new();
        assert_eq!([fits(VERSION), fits(&next)], [[v1::SHAPE.versions], [next::SHAPE.versions]]);
        for unknown in ["0.9.0", "2.0.0", "3.0.0", "1.2.0-rc.1", "10.0.0", ""] {
            assert_eq!(fits(unknown), none, "{unknown}");
        }
        assert_eq!(versions(WITH_NEXT), "1.0.0 to 1.1.0 and 2.0.0-test.1");
    }
}
