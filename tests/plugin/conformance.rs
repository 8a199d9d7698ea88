//! `flowkit plugin test`: sound handlers pass, and each lapse fails the one check it breaks.

use std::path::PathBuf;
use std::process::Command;

use insta::assert_snapshot;
use serde_json::{Value, json};

use super::support::{example_file, guest_file, rogue_renamed};

/// The exit status and what was printed, without what differs from run to run.
fn tested(file: &PathBuf, args: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flowkit"));
    command.args(["plugin", "test"]).arg(file).args(args);
    let output = command.output().expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let printed = timeless(&(text(&output.stdout) + &text(&output.stderr)));
    (output.status.code().expect("an exit status"), printed)
}

/// `123 ms` becomes `N ms`, as do counts of lines, and names made of the clock lose that part.
fn timeless(text: &str) -> String {
    let mut shown = Vec::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let numbers = words.iter().enumerate().map(|(at, word)| {
            let next = words.get(at + 1).copied().unwrap_or_default();
            let counts = next.starts_with("ms") || next == "lines" && word.len() > 3;
            if counts { "N".to_owned() } else { nameless(word) }
        });
        let line = numbers.collect::<Vec<_>>().join(" ");
        // Which of many short calls is the longest is chance.
        shown.push(match line.split_once("the longest call, ") {
            Some((start, rest)) => {
                let (_, rest) = rest.split_once(", took").unwrap_or_default();
                format!("{start}the longest call took{rest}")
            }
            None => line,
        });
    }
    shown.join("\n")
}

/// `` `b1_123456` `` becomes `` `b1_N` ``.
fn nameless(word: &str) -> String {
    match word.split_once('_') {
        Some((start, rest)) if start.starts_with("`b") => {
            let end = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{start}_N{end}")
        }
        _ => word.to_owned(),
    }
}

/// Everything but the passed checks of the guest with one lapse.
fn lapse(name: &str, args: &[&str]) -> String {
    let input = json!({"lapse": name}).to_string();
    let all = [&["--input", &input, "--cancel-grace", "0.1"], args].concat();
    let (code, printed) = tested(&guest_file("lapses"), &all);
    let failed = printed.lines().filter(|line| line.starts_with("FAILED  ")).count();
    let shown = printed.lines().filter(|line| !line.starts_with("ok "));
    let shown = shown.filter(|line| !line.contains("not reached"));
    assert!((code, failed) == (1, 1) || (code, failed) == (0, 0), "exit {code}\n{printed}");
    shown.collect::<Vec<_>>().join("\n")
}

#[test]
fn a_sound_handler_passes() {
    let (code, printed) = tested(&guest_file("lapses"), &[]);
    assert_eq!(code, 0, "{printed}");
    assert_snapshot!(printed, @r"
    ok      describe              lapses, 1
    ok      init                  it returns
    ok      iter-batches          it returns
    ok      next-batch            3 batches
    ok      batch-uids            3 different names
    ok      process-batch         3 batches, of which 3 left a `meta`
    ok      finalize              the run ends with 1 metric
    ok      cleanup               after every run
    ok      same-batches          3 batches
    ok      process-again         all give the same results
    ok      unknown-keys          3 batches
    -       start-over            the first batch saves a checkpoint already
    ok      checkpoint            after 3 crashes
    ok      same-end              after 3 crashes
    ok      cancel-iter-batches   it returned after N ms, without a look
    ok      cancel-next-batch     it returned after N ms, without a look
    ok      cancel-process-batch  it returned after N ms, without a look
    ok      cancel-finalize       it returned after N ms, without a look
    ok      classify-error        9 errors become `lapse`
    ok      no-panic              in 10 runs
    ok      limits                the longest call took N ms
    ok      log-rate              no line was left out
    passed: 21 ok, 0 failed, 1 not applicable
    ");
}

#[test]
fn the_examples_pass() {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("a.txt"), "one two\nthree\n").expect("written");
    std::fs::write(dir.path().join("b.rs"), "fn main() {}\n".repeat(2_500)).expect("written");
    let upstream = dir.path().join("up.jsonl");
    let item = json!({"ext": "rs", "files": 1, "lines": 2, "words": 3, "bytes": 4});
    let line = json!({"items": [item, item]}).to_string() + "\n";
    std::fs::write(&upstream, line.repeat(3)).expect("written");
    let (data, upstream) =
        (format!("{}::/data", dir.path().display()), upstream.display().to_string());
    let cases: [(&str, &[&str]); 4] = [
        ("echo", &["--input", r#"{"a": {"deep": [1]}}"#]),
        ("steps", &["--input", r#"{"count": 7, "ms": 2}"#]),
        ("textstats", &["--dir", &data, "--input", r#"{"dir": "/data"}"#]),
        ("report", &["--upstream", &upstream]),
    ];
    for (name, args) in cases {
        let (code, printed) = tested(&example_file(name), args);
        assert_eq!(code, 0, "{name}\n{printed}");
        assert!(!printed.contains("no batch"), "{name} was given nothing to do\n{printed}");
    }
}

#[test]
fn a_function_that_fails() {
    assert_snapshot!(lapse("iter-batches", &[]), @r"
    FAILED  iter-batches
      expected: `iter-batches` takes the input
      found:    iter-batches: lapse (permanent): the lapse is iter-batches
      to do:    if the handler needs another input, give it with --input, and directories with --dir
    FAILED: 7 ok, 1 failed, 14 not applicable
    ");
    assert_snapshot!(lapse("next-batch", &[]), @r"
    FAILED  next-batch
      expected: `next-batch` yields batches: a name of 1 to 512 bytes or none, and JSON
      found:    next-batch: lapse (permanent): the lapse is next-batch
      to do:    give each batch a `payload` that is one JSON value
    FAILED: 8 ok, 1 failed, 13 not applicable
    ");
    assert_snapshot!(lapse("payload", &[]), @r"
    FAILED  next-batch
      expected: `next-batch` yields batches: a name of 1 to 512 bytes or none, and JSON
      found:    bad_output: next-batch yielded a payload that is not JSON: expected ident at line 1 column 2
      to do:    give each batch a `payload` that is one JSON value
    FAILED: 8 ok, 1 failed, 13 not applicable
    ");
    assert_snapshot!(lapse("process-batch", &[]), @r"
    FAILED  process-batch
      expected: `process-batch` processes every batch of this input
      found:    batch `b0`: lapse (permanent): the lapse is process-batch
      to do:    give an input that the handler can process with --input; if it is one, mend the handler
    FAILED: 9 ok, 1 failed, 12 not applicable
    ");
    assert_snapshot!(lapse("metrics", &[]), @r"
    FAILED  process-batch
      expected: `process-batch` processes every batch of this input
      found:    batch `b0`: bad_output: process-batch returned metrics that cannot be used: metric `list` is an object or an array; report numbers, strings, booleans or null
      to do:    give an input that the handler can process with --input; if it is one, mend the handler
    FAILED: 9 ok, 1 failed, 12 not applicable
    ");
    assert_snapshot!(lapse("finalize", &[]), @r"
    FAILED  finalize
      expected: `finalize` returns a JSON object whose `metrics` are plain values
      found:    finalize: lapse (permanent): the lapse is finalize
      to do:    put everything that is no number, text, boolean or null into `payload`
    FAILED: 11 ok, 1 failed, 10 not applicable
    ");
    assert_snapshot!(lapse("cleanup", &[]), @r"
    FAILED  cleanup
      expected: `cleanup` ends every run without an error, also a cancelled one
      found:    in the first run, cleanup: an error: the lapse is cleanup
      to do:    release what `init` took, and ignore what is gone already
    -       start-over            the first batch saves a checkpoint already
    FAILED: 20 ok, 1 failed, 1 not applicable
    ");
}

#[test]
fn names_that_are_not_the_batches_own() {
    assert_snapshot!(lapse("one name twice", &[]), @r"
    FAILED  batch-uids
      expected: no two batches of a run have the same name
      found:    the batch `b0` came twice
      to do:    name each batch after what it covers, such as a file and a range
    FAILED: 9 ok, 1 failed, 12 not applicable
    ");
    assert_snapshot!(lapse("new names", &[]), @r"
    FAILED  same-batches
      expected: a second run over the same input yields the same names in the same order
      found:    batch 1 is `b0_N`; it was `b0_N` in the first run
      to do:    take names and order from the input alone: no clock, no chance, no unordered map or directory
    FAILED: 16 ok, 1 failed, 5 not applicable
    ");
    assert_snapshot!(lapse("unknown keys", &[]), @r"
    FAILED  unknown-keys
      expected: keys that a later version adds to the input are ignored
      found:    with an unknown key in the input, iter-batches: lapse (permanent): there is a key I do not know
      to do:    read only the keys you know
    -       start-over            the first batch saves a checkpoint already
    FAILED: 20 ok, 1 failed, 1 not applicable
    ");
    assert_snapshot!(lapse("unnamed", &[]), @r"
    -       start-over            the first batch saves a checkpoint already
    passed: 21 ok, 0 failed, 1 not applicable
    ");
}

#[test]
fn a_run_that_goes_on_wrongly_after_a_crash() {
    assert_snapshot!(lapse("skips", &[]), @r"
    -       start-over            the first batch saves a checkpoint already
    FAILED  checkpoint
      expected: from each checkpoint a run goes on with exactly the batches that are left
      found:    going on from the checkpoint of batch `b0`, the batch `b1` is never yielded: its work would be lost
      to do:    save in `process-batch` the position behind that batch, and begin there when `iter-batches` gets it
    FAILED: 19 ok, 1 failed, 2 not applicable
    ");
    assert_snapshot!(lapse("repeats", &[]), @r"
    -       start-over            the first batch saves a checkpoint already
    FAILED  checkpoint
      expected: from each checkpoint a run goes on with exactly the batches that are left
      found:    going on from the checkpoint of batch `b0`, the batch `b0` came twice
      to do:    save in `process-batch` the position behind that batch, and begin there when `iter-batches` gets it
    FAILED: 19 ok, 1 failed, 2 not applicable
    ");
    assert_snapshot!(lapse("forgets", &[]), @r"
    FAILED  start-over
      expected: without a checkpoint a run goes on after a crash with exactly the batches that are left
      found:    starting over after batch `b0`, the batch `b1` is never yielded: its work would be lost
      to do:    yield all batches again from the first one: the worker leaves out the finished ones
    -       checkpoint            no checkpoint is saved: the run starts over after a crash
    FAILED: 19 ok, 1 failed, 2 not applicable
    ");
    assert_snapshot!(lapse("memory of batches", &[]), @r"
    -       start-over            the first batch saves a checkpoint already
    FAILED  same-end
      expected: a run that was interrupted ends with the same metrics and payload
      found:    going on from the checkpoint of batch `b0`, the metric `seen` ends as 2; the whole run's is 3
      to do:    keep nothing in memory from batch to batch: take sums from `run-totals`, and the rest from the checkpoint
    FAILED: 20 ok, 1 failed, 1 not applicable
    ");
    assert_snapshot!(lapse("no checkpoint", &[]), @r"
    -       checkpoint            no checkpoint is saved: the run starts over after a crash
    passed: 21 ok, 0 failed, 1 not applicable
    ");
}

#[test]
fn a_function_that_never_looks_at_the_cancel_flag() {
    assert_snapshot!(lapse("deaf in iter-batches", &["--batches", "1"]), @r"
    -       finalize              the run has more batches than the 1 looked at; see --batches
    -       start-over            the first batch saves a checkpoint already
    -       checkpoint            the run has more batches than the 1 looked at; see --batches
    -       same-end              the run has more batches than the 1 looked at; see --batches
    FAILED  cancel-iter-batches
      expected: a cancelled `iter-batches` returns in time
      found:    iter-batches: it went on for N ms and had to be interrupted
      to do:    look at `host.cancelled` between pieces of work, and wait with `host.sleep`
    -       cancel-finalize       the run has more batches than the 1 looked at; see --batches
    FAILED: 16 ok, 1 failed, 5 not applicable
    ");
    assert_snapshot!(lapse("deaf in next-batch", &["--batches", "1"]), @r"
    -       finalize              the run has more batches than the 1 looked at; see --batches
    -       start-over            the first batch saves a checkpoint already
    -       checkpoint            the run has more batches than the 1 looked at; see --batches
    -       same-end              the run has more batches than the 1 looked at; see --batches
    FAILED  cancel-next-batch
      expected: a cancelled `next-batch` returns in time
      found:    next-batch: it went on for N ms and had to be interrupted
      to do:    look at `host.cancelled` between pieces of work, and wait with `host.sleep`
    -       cancel-finalize       the run has more batches than the 1 looked at; see --batches
    FAILED: 16 ok, 1 failed, 5 not applicable
    ");
    assert_snapshot!(lapse("deaf in process-batch", &["--batches", "1"]), @r"
    -       finalize              the run has more batches than the 1 looked at; see --batches
    -       start-over            the first batch saves a checkpoint already
    -       checkpoint            the run has more batches than the 1 looked at; see --batches
    -       same-end              the run has more batches than the 1 looked at; see --batches
    FAILED  cancel-process-batch
      expected: a cancelled `process-batch` returns in time
      found:    batch `b0`: it went on for N ms and had to be interrupted
      to do:    look at `host.cancelled` between pieces of work, and wait with `host.sleep`
    -       cancel-finalize       the run has more batches than the 1 looked at; see --batches
    FAILED: 16 ok, 1 failed, 5 not applicable
    ");
    assert_snapshot!(lapse("deaf in finalize", &[]), @r"
    -       start-over            the first batch saves a checkpoint already
    FAILED  cancel-finalize
      expected: a cancelled `finalize` returns in time
      found:    finalize: it went on for N ms and had to be interrupted
      to do:    look at `host.cancelled` between pieces of work, and wait with `host.sleep`
    FAILED: 20 ok, 1 failed, 1 not applicable
    ");
}

#[test]
fn errors_that_are_not_classified() {
    assert_snapshot!(lapse("panic at an error", &[]), @r"
    -       start-over            the first batch saves a checkpoint already
    FAILED  classify-error
      expected: `classify-error` gives every error a reason code [a-z0-9_]{1,64}
      found:    given an empty message: handler_panic: classify-error: panicked at tests/guests/lapses/src/lib.rs:154:9: no message
      to do:    answer errors that the handler does not know too, as `unknown_error`
    FAILED: 20 ok, 1 failed, 1 not applicable
    ");
    assert_snapshot!(lapse("reason code", &[]), @r"
    -       start-over            the first batch saves a checkpoint already
    FAILED  classify-error
      expected: `classify-error` gives every error a reason code [a-z0-9_]{1,64}
      found:    given a plain message, it fails itself or returns another code
      to do:    answer errors that the handler does not know too, as `unknown_error`
    FAILED: 20 ok, 1 failed, 1 not applicable
    ");
}

#[test]
fn a_handler_that_dies_or_takes_too_much() {
    assert_snapshot!(lapse("panic", &[]), @r"
    FAILED  no-panic
      expected: no call ends in a panic, an uncaught exception or a trap
      found:    in the first run, batch `b0`: handler_panic: process-batch: panicked at tests/guests/lapses/src/lib.rs:120:9: the lapse is a panic
      to do:    return an error instead: after a trap nothing can be classified or cleaned up
    FAILED: 7 ok, 1 failed, 14 not applicable
    ");
    assert_snapshot!(lapse("memory", &["--limit", "memory_bytes=8388608"]), @r"
    FAILED  limits
      expected: every call stays within the limits of memory, time and size
      found:    in the first run, batch `b0`: memory_limit: process-batch: the handler wanted 8520432 bytes of memory; limits.memory_bytes allows 8388608
                the handler's stderr ended with:
                memory allocation of 1048576 bytes failed
                note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace
      to do:    give each batch less to do; a role's limits are `handlers.ROLE.limits`, here --limit KEY=NUMBER
    FAILED: 8 ok, 1 failed, 13 not applicable
    ");
    assert_snapshot!(lapse("noise", &[]), @r"
    -       start-over            the first batch saves a checkpoint already
    FAILED  log-rate
      expected: no run writes N lines than `limits.log_lines_per_sec`
      found:    N lines were left out, over all runs
      to do:    log by batch, not by row
    FAILED: 20 ok, 1 failed, 1 not applicable
    ");
}

#[test]
fn what_this_input_cannot_show_is_said() {
    assert_snapshot!(lapse("no batch", &[]), @r"
    -       batch-uids            no batch
    -       process-batch         no batch: give an input that makes batches with --input
    -       same-batches          no batch
    -       process-again         no batch
    -       start-over            no batch
    -       checkpoint            no batch
    -       same-end              no batch
    -       cancel-next-batch     no batch
    -       cancel-process-batch  no batch
    passed: 13 ok, 0 failed, 9 not applicable
    ");
    assert_snapshot!(lapse("endless", &["--batches", "20"]), @r"
    -       finalize              the run has more batches than the 20 looked at; see --batches
    -       start-over            the first batch saves a checkpoint already
    -       same-end              the run has more batches than the 20 looked at; see --batches
    -       cancel-finalize       the run has more batches than the 20 looked at; see --batches
    passed: 18 ok, 0 failed, 4 not applicable
    ");
    let (_, printed) = tested(&guest_file("lapses"), &["--input", r#"{"lapse": "chance"}"#]);
    let told: Vec<_> = printed.lines().filter(|line| line.contains("chance")).collect();
    assert_snapshot!(told.join("\n"), @r"
    ok      process-again         valid, but 3 of 3 batches give other results than before, such as `b0`: clock or chance is part of them
    -       same-end              two whole runs end differently already: clock or chance is part of the result
    ");
}

#[test]
fn a_describe_that_fails_is_a_failed_check_and_another_file_is_no_handler() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("rogue.wasm");
    let bytes = rogue_renamed(&[("describe:none____", "describe:panic___")]);
    std::fs::write(&file, bytes).expect("written");
    let (code, printed) = tested(&file, &[]);
    assert_eq!(code, 1);
    assert_snapshot!(printed, @r"
    FAILED  describe
      expected: the component starts, and `describe` returns a JSON object with `name` and `version`
      found:    handler_panic: describe: panicked at tests/guests/rogue/src/deeds.rs:16:20: rogue was told to panic
      to do:    call nothing but `host.log` in `describe`, and return strings
    FAILED: 0 ok, 1 failed, 0 not applicable
    ");
    std::fs::write(&file, "text").expect("written");
    let (code, printed) = tested(&file, &[]);
    assert_eq!(code, 2);
    assert!(printed.ends_with("give the compiled .wasm, not its source"), "{printed}");
}

#[test]
fn the_report_as_json() {
    let input = json!({"lapse": "skips"}).to_string();
    let (code, printed) = tested(&guest_file("lapses"), &["--json", "--input", &input]);
    let report: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!((code, &report["passed"]), (1, &json!(false)));
    let checks = report["checks"].as_array().expect("a list");
    assert_eq!(checks.len(), 22);
    let failed: Vec<_> = checks.iter().filter(|check| check["verdict"] == "failed").collect();
    assert_eq!(failed.len(), 1, "{report}");
    assert_eq!(failed[0]["check"], "checkpoint");
    for key in ["expected", "found", "advice"] {
        assert!(failed[0][key].as_str().is_some_and(|text| text.len() > 20), "{report}");
    }
    let passed = checks.iter().find(|check| check["verdict"] == "ok").expect("some passed");
    assert_eq!(passed["advice"], Value::Null);
}
