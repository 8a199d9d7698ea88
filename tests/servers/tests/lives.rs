//! The starter keeps its word: servers answer, keep their data, and end with their parent.
#![expect(clippy::unwrap_used, reason = "these are tests; a panic is how they fail")]

use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use flowkit_servers::{Kafka, KafkaOptions, Mongo};

fn answers(address: &str) -> bool {
    TcpStream::connect(address.trim_start_matches("mongodb://")).is_ok()
}

/// Whether somebody listens there, even who is paused: connecting to those may hang.
fn is_taken(address: &str) -> bool {
    TcpListener::bind(address.trim_start_matches("mongodb://")).is_err()
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

#[test]
fn a_server_ends_with_whoever_started_it() {
    ends_with_its_parent("a_server_ends_with_whoever_started_it", |_| ());
}

/// It cannot see that its input has ended, so the system has to wake it.
#[test]
fn a_paused_server_ends_with_whoever_started_it() {
    ends_with_its_parent("a_paused_server_ends_with_whoever_started_it", |server| {
        server.pause().unwrap();
    });
}

/// Runs a test again in a process of its own, which is killed while its server runs.
fn ends_with_its_parent(test: &str, prepare: impl FnOnce(&Mongo)) {
    const IN_CHILD: &str = "SERVERS_TEST_IN_CHILD";
    if std::env::var_os(IN_CHILD).is_some() {
        let mongo = Mongo::start().unwrap();
        prepare(&mongo);
        println!("address={}", mongo.uri());
        loop {
            std::thread::park();
        }
    }
    if !flowkit_servers::available(test) {
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
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
    while is_taken(&address) {
        assert!(killed.elapsed() < Duration::from_secs(30), "it lives on");
        std::thread::sleep(Duration::from_millis(20));
    }
}
