//! How a component is made, one file a language.

mod c;
mod go;
mod javascript;
mod python;
mod rust;

use std::path::Path;

use crate::tools::Toolbox;

/// What a recipe is given: each returns the path of the component.
pub struct Recipe<'a> {
    /// The author's folder, absolute.
    pub source: &'a Path,
    /// A folder for this build alone, absolute.
    pub work: &'a Path,
    pub toolbox: &'a Toolbox,
}
