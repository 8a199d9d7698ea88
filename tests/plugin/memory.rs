//! The host's own memory while guests do their worst, measured in a process of its own.

use std::num::{NonZeroU32, NonZeroU64};
use std::process::Command;

use super::support::{process, rogue_with};

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

/// What one guest may have: 32 MiB of memory and results of 16 MiB, which the host holds a
/// few times while it checks them; the rest is slack for allocators.
const MOST_KIB: u64 = 160 << 10;

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
