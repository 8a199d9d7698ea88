//! The host's own memory while guests do their worst, measured in a process of its own.

use std::num::{NonZeroU32, NonZeroU64};
use std::process::Command;
use std::sync::Arc;

use flowkit::plugin::HandlerConfig;
use flowkit::store::Collections;
use serde_json::json;

use super::server::Server;
use super::support::{act, engine, guest_file, process, rogue_with};

/// Says to this test binary that it is the measured process.
const CHILD: &str = "FLOWKIT_TEST_MEASURED";

/// Each wants far more than it may have.
const DEEDS: [&str; 9] = [
    "memory",
    "huge",
    "large",
    "flood",
    "stdout",
    "noise",
    "big-log",
    "partial-bomb",
    "forged-long",
];

/// What one guest may have: 32 MiB of memory, results of 16 MiB, which the host holds a few
/// times while it checks them, and eight sorted cursors, of 10 MB each here; the rest is slack
/// for allocators.
const MOST_KIB: u64 = 200 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hosts_memory_stays_bounded() {
    if std::env::var_os(CHILD).is_some() {
        return measure().await;
    }
    let test = "memory::the_hosts_memory_stays_bounded";
    let child = Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}\n{}", String::from_utf8_lossy(&child.stderr));
    let grown = said.lines().find_map(|line| line.strip_prefix("grown by KiB: "));
    let grown: u64 = grown.expect("the child says").parse().expect("a number");
    println!("the host grew by {grown} KiB at most");
    assert!(grown <= MOST_KIB, "{grown} KiB");
}

/// What the one that uses its grants tries: bodies and cursors that the host would hold.
async fn deeds_of_the_caller() {
    let server = Server::start();
    let line = |n: u64| json!({"n": n, "text": "x".repeat(100_000)}).to_string() + "\n";
    let mut collections = Collections::default();
    collections.insert("large", &(0..100).map(line).collect::<String>()).expect("are documents");
    let mut config = HandlerConfig::new(guest_file("caller"));
    config.http = vec![format!("127.0.0.1:{}", server.port).parse().expect("a host")];
    config.documents = vec!["large".into()];
    config.limits.memory_bytes = NonZeroU64::new(32 << 20).expect("not zero");
    config.limits.call_time_ms = NonZeroU32::new(1_000).expect("not zero");
    let engine = engine().with_documents(Arc::new(collections));
    let plugin = engine.load(config).await.expect("loads");
    for deed in [
        json!({"hoard": format!("127.0.0.1:{}", server.port)}),
        json!({"get": server.url("127.0.0.1", "/endless")}),
        json!({"random": 1_u64 << 40}),
        json!("hoard-timers"),
        json!({"hoard-cursors": "large"}),
        json!({"hoard-sorted": "large"}),
        json!({"read-for-ever": "large"}),
    ] {
        drop(act(&plugin, deed).await);
    }
}

async fn measure() {
    let plugin = rogue_with(|config| {
        config.limits.memory_bytes = NonZeroU64::new(32 << 20).expect("not zero");
        config.limits.call_time_ms = NonZeroU32::new(1_000).expect("not zero");
    })
    .await;
    // Once through everything that is made lazily.
    process(&plugin, "none").await.expect_err("no such deed");
    reset_peak();
    let before = kib("VmRSS:");
    for deed in DEEDS {
        // How each ends is asserted elsewhere.
        drop(process(&plugin, deed).await);
    }
    deeds_of_the_caller().await;
    println!("\ngrown by KiB: {}", kib("VmHWM:").saturating_sub(before));
}

/// Forgets the peak of the compilation. Where that is not allowed the peak includes it,
/// and the test is only stricter.
fn reset_peak() {
    std::fs::write("/proc/self/clear_refs", "5").ok();
}

fn kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("known");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
