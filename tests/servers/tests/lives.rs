//! The starter keeps its word: servers answer, keep their data, and end with their parent.
#![expect(clippy::unwrap_used, reason = "these are tests; a panic is how they fail")]

use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flowkit_servers::{Kafka, KafkaOptions, Mongo};

fn answers(address: &str) -> bool {
    TcpStream::connect(address.trim_start_matches("mongodb://")).is_ok()
}

#[test]
fn a_server_is_stopped_started_again_and_gone_when_dropped() {
    if !flowkit_servers::available("a_server_is_stopped_started_again_and_gone_when_dropped") {
        return;
    }
    let mut mongo = Mongo::start().unwrap();
    let mut kafka = Kafka::start(&KafkaOptions { sasl_ssl: true, ..Default::default() }).unwrap();
    let addresses = [mongo.uri(), kafka.bootstrap(), kafka.secure().unwrap().bootstrap.clone()];
    assert!(addresses.iter().all(|address| answers(address)));
    mongo.stop().unwrap();
    kafka.stop().unwrap();
    assert!(!addresses.iter().any(|address| answers(address)));
    mongo.restart().unwrap();
    kafka.restart().unwrap();
    assert!(addresses.iter().all(|address| answers(address)));
    drop((mongo, kafka));
    assert!(!addresses.iter().any(|address| answers(address)));
}

/// Runs this test again in a process of its own, which is killed while its server runs.
#[test]
fn a_server_ends_with_whoever_started_it() {
    const IN_CHILD: &str = "SERVERS_TEST_IN_CHILD";
    if std::env::var_os(IN_CHILD).is_some() {
        let mongo = Mongo::start().unwrap();
        println!("address={}", mongo.uri());
        loop {
            std::thread::park();
        }
    }
    if !flowkit_servers::available("a_server_ends_with_whoever_started_it") {
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "a_server_ends_with_whoever_started_it"])
        .env(IN_CHILD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let address = lines
        .map(Result::unwrap)
        .find_map(|line| line.split_once("address=").map(|(_, address)| address.to_owned()))
        .unwrap();
    assert!(answers(&address));
    child.kill().unwrap();
    child.wait().unwrap();
    let killed = Instant::now();
    while answers(&address) {
        assert!(killed.elapsed() < Duration::from_secs(30), "it lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
}
