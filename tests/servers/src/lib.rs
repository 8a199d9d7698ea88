//! Real servers on loopback for tests: Apache Kafka and a MongoDB-wire server.
