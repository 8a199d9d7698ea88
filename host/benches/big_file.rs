//! The peak memory of `flowkit run` over a directory with a text file of 1 GB, and how
//! long it takes.
//!
//! `cargo xtask bench` (needs the plugins of `cargo xtask plugins`; Linux only, where
//! `/proc` tells a process's peak).

use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;

const BYTES: usize = 1_000_000_000;

fn main() -> anyhow::Result<()> {
    let site = tempfile::tempdir()?;
    let data = site.path().join("data");
    std::fs::create_dir(&data)?;
    let line = "the quick brown fox jumps over the lazy dog and then sleeps a while\n";
    let mut file = BufWriter::new(std::fs::File::create(data.join("big.txt"))?);
    let lines = BYTES / line.len();
    for _ in 0..lines {
        file.write_all(line.as_bytes())?;
    }
    file.flush()?;
    drop(file);

    let plugins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").canonicalize()?;
    let config = site.path().join("worker.json");
    let handlers = serde_json::json!({"handlers": {
        "textstats": {
            "component": plugins.join("textstats.wasm"),
            "dirs": [{"host": data, "guest": "/data"}],
        },
    }});
    std::fs::write(&config, handlers.to_string())?;
    let graph = site.path().join("graph.json");
    let nodes = serde_json::json!({"nodes": [
        {"node_id": "count", "type": "textstats", "io": {"input_inline": {"dir": "/data"}}},
    ]});
    std::fs::write(&graph, nodes.to_string())?;

    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_flowkit"))
        .arg("run")
        .arg(&graph)
        .arg("--json")
        .arg("--config")
        .arg(&config)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut peak_kb = 0;
    while child.try_wait()?.is_none() {
        peak_kb = peak_kb.max(high_water_mark(child.id()).unwrap_or(0));
        // The mark only rises; a look now and then finds it.
        std::thread::sleep(Duration::from_millis(20));
    }
    let took = start.elapsed();
    let output = child.wait_with_output()?;
    let result: serde_json::Value =
        serde_json::from_slice(&output.stdout).context("reading the run's result")?;
    let metrics = &result["nodes"]["count"]["metrics"];
    anyhow::ensure!(metrics["lines"] == lines, "counted {} of {lines} lines", metrics["lines"]);
    println!(
        "1 GB in {:.1} s: {} batches, peak memory of the host {:.0} MB",
        took.as_secs_f64(),
        result["nodes"]["count"]["batches"],
        f64::from(peak_kb) / 1_000.0
    );
    Ok(())
}

/// `VmHWM` of a process, in kB.
fn high_water_mark(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
