//! From the world to bindings, and from a core module to a component.

use std::path::Path;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wit_bindgen_core::wit_parser::{Resolve, WorldId};
use wit_bindgen_core::{Files, WorldGenerator};
use wit_component::ComponentEncoder;

use crate::embedded;
use crate::error::BuildError;
use crate::steps::{make_dir, write, write_all};

/// The world handlers target.
pub const WORLD: &str = "handler-world";

/// A world with the definitions it is made of.
pub struct World {
    resolve: Resolve,
    id: WorldId,
}

/// Writes the world's definition to a folder, for tools that read it there.
pub fn write_wit(to: &Path) -> Result<(), BuildError> {
    make_dir(to)?;
    write_all(embedded::WIT, to)
}

/// Writes the code that connects a language with the world.
pub fn bindings(
    mut generator: Box<dyn WorldGenerator>,
    wit: &Path,
    to: &Path,
) -> Result<World, BuildError> {
    write_wit(wit)?;
    let mut files = Files::default();
    let mut generate = || {
        let mut resolve = Resolve::default();
        let (package, _) = resolve.push_path(wit)?;
        let id = resolve.select_world(&[package], Some(WORLD))?;
        generator.generate(&mut resolve, id, &mut files)?;
        Ok(World { resolve, id })
    };
    let world = generate().map_err(BuildError::Component)?;
    for (name, bytes) in files.iter() {
        write(&to.join(name), bytes)?;
    }
    Ok(world)
}

/// Puts the world's type into a core module that does not have it.
pub fn embed(world: &World, module: &mut Vec<u8>) -> Result<(), BuildError> {
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(module, &world.resolve, world.id, encoding, false)
        .map_err(BuildError::Component)
}

/// Makes a component of a core module with the world's type inside.
pub fn component(module: &[u8], to: &Path) -> Result<(), BuildError> {
    let encode = || {
        ComponentEncoder::default()
            .validate(true)
            .module(module)?
            .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER)?
            .encode()
    };
    write(to, encode().map_err(BuildError::Component)?)
}
