//! How to reach the broker and the database.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::error::{ConfigError, Problem};
use super::keys::Keys;
use super::layers::Layers;
use super::place::KeyPath;
use super::secret::Text;

/// The broker's and the database's addresses, with secrets: never printed.
pub struct Servers {
    /// `kafka_bootstrap`.
    pub bootstrap: String,
    /// `kafka`: librdkafka's properties.
    pub properties: BTreeMap<String, String>,
    /// `mongodb_uri`.
    pub mongodb_uri: String,
    /// `mongodb_database`.
    pub mongodb_database: String,
}

/// Reads the secrets from the files and variables that hold them.
pub(super) fn read(
    keys: &Keys,
    layers: &Layers,
    environment: &BTreeMap<OsString, OsString>,
) -> Result<Servers, ConfigError> {
    let mut problems = Vec::new();
    let variable = |name: &str| environment.get(OsStr::new(name))?.to_str().map(str::to_owned);
    let mut read = |key: KeyPath, text: &Text| {
        text.read(variable).unwrap_or_else(|text| {
            problems.push(Problem { origin: Some(layers.origin(&key)), key: Some(key), text });
            String::new()
        })
    };
    let mongodb_uri = keys.mongodb_uri.as_ref().map(|uri| read(KeyPath::of(["mongodb_uri"]), uri));
    let properties = keys
        .kafka
        .iter()
        .map(|(name, value)| (name.clone(), read(KeyPath::of(["kafka", name]), value)))
        .collect();
    ConfigError::unless_empty(problems)?;
    Ok(Servers {
        bootstrap: keys.kafka_bootstrap.clone().unwrap_or_default(),
        properties,
        mongodb_uri: mongodb_uri.unwrap_or_default(),
        mongodb_database: keys.mongodb_database.clone(),
    })
}
