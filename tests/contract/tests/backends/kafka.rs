//! The bus's suite on a Kafka broker: two buses, as two processes have them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use contract::{Backend, BusBackend};
use flowkit::bus::Bus;
use flowkit::bus::kafka::{KafkaBus, KafkaOptions};

struct Kafka {
    first: KafkaBus,
    second: KafkaBus,
}

fn connect(name: &str, bootstrap: &str) -> KafkaBus {
    // A member that is killed is missed after this time.
    let properties = BTreeMap::from([("session.timeout.ms".into(), "6000".into())]);
    KafkaBus::connect(KafkaOptions {
        bootstrap: bootstrap.to_owned(),
        client_id: name.to_owned(),
        properties,
        lease_ttl: Duration::from_secs(60),
    })
    .unwrap()
}

#[async_trait]
impl Backend for Kafka {
    async fn start() -> Self {
        let bootstrap = &flowkit_servers::shared().kafka;
        Self { first: connect("first", bootstrap), second: connect("second", bootstrap) }
    }

    fn available(test: &str) -> bool {
        flowkit_servers::available(test)
    }
}

impl BusBackend for Kafka {
    fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.first.clone())
    }

    fn other_bus(&self) -> Arc<dyn Bus> {
        Arc::new(self.second.clone())
    }
}

contract::bus_suite!(Kafka, tokio::test);
