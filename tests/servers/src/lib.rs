//! Real servers on loopback for tests: Apache Kafka and a MongoDB-wire server, fetched by
//! Maven into the target folder. None outlives the process that started it, whatever kills
//! that.

mod fetch;
mod kafka;
mod mongo;
mod process;

use std::io::Write;
use std::sync::OnceLock;

pub use fetch::missing;
pub use kafka::{Kafka, KafkaOptions, Secure};
pub use mongo::Mongo;

/// Names the broker that all tests of a run share.
pub const KAFKA: &str = "TESTS_KAFKA";

/// Names the database server that all tests of a run share.
pub const MONGODB: &str = "TESTS_MONGODB";

/// Names the file that the names of skipped tests are written to.
pub const SKIPPED: &str = "TESTS_SKIPPED";

/// The servers that tests share: each uses names of its own on them.
pub struct Shared {
    /// The broker's address, `host:port`.
    pub kafka: String,
    /// The database server's, `mongodb://host:port`.
    pub mongodb: String,
    /// Those that were started here.
    _started: Option<(Kafka, Mongo)>,
}

/// The servers of this test run: those that the environment names, else two of this
/// process's own. Panics, with the server's last words, when they cannot be started.
pub fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| {
        start().unwrap_or_else(|error| panic!("the tests' servers do not start: {error:#}"))
    })
}

fn start() -> anyhow::Result<Shared> {
    if let (Ok(kafka), Ok(mongodb)) = (std::env::var(KAFKA), std::env::var(MONGODB)) {
        return Ok(Shared { kafka, mongodb, _started: None });
    }
    let (kafka, mongo) = (Kafka::start(&KafkaOptions::default())?, Mongo::start()?);
    let (address, uri) = (kafka.bootstrap(), mongo.uri());
    Ok(Shared { kafka: address, mongodb: uri, _started: Some((kafka, mongo)) })
}

/// Whether a test that needs a server can run. One that cannot is named on stderr and in
/// the file that [`SKIPPED`] names; where `CI` is set it fails.
pub fn available(test: &str) -> bool {
    let given = std::env::var_os(KAFKA).is_some() && std::env::var_os(MONGODB).is_some();
    let Some(reason) = fetch::missing().filter(|_| !given) else { return true };
    skip(test, reason);
    false
}

/// Says that a test is skipped; where `CI` is set it fails instead.
pub fn skip(test: &str, reason: &str) {
    assert!(std::env::var_os("CI").is_none(), "{test} would be skipped: {reason}");
    eprintln!("SKIPPED {test}: {reason}");
    if let Some(path) = std::env::var_os(SKIPPED) {
        let file = std::fs::File::options().create(true).append(true).open(path);
        let noted = file.and_then(|mut file| writeln!(file, "{test}: {reason}"));
        noted.unwrap_or_else(|error| panic!("{test} cannot be counted as skipped: {error}"));
    }
}
