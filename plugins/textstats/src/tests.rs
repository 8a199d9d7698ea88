//! The whole handler over real directories, against the system's `wc`.

use std::fs;
use std::path::Path;
use std::process::Command;

use flowkit_sdk::testing::{Outcome, TestRun};

use super::*;

fn tree(files: &[(&str, &[u8])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn input(dir: &Path) -> Value {
    json!({"dir": dir})
}

/// Lines, words and bytes of these files by `wc`.
fn wc(dir: &Path, files: &[&str]) -> [u64; 3] {
    let output = Command::new("wc")
        .args(["-l", "-w", "-c"])
        .args(files)
        .current_dir(dir)
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut numbers = text.lines().last().unwrap().split_whitespace().map(|n| n.parse().unwrap());
    std::array::from_fn(|_| numbers.next().unwrap())
}

fn totals(run: &Outcome) -> [u64; 3] {
    ["lines", "words", "bytes"].map(|name| run.totals[name].as_u64().unwrap())
}

/// A little of everything, in more than twenty batches.
fn mixed() -> tempfile::TempDir {
    let long_line = "wörd ".repeat(500_000);
    let one_word = "漢".repeat(400_000);
    let many_lines = "a line of text\r\n".repeat(12_345);
    tree(&[
        ("README.md", b"# Title\n\nSome words,\nno final newline"),
        ("empty.txt", b""),
        ("src/main.rs", b"fn main() {\n    println!(\"hi\");\n}\n"),
        ("src/deep/lib.RS", b"// nothing\n"),
        ("data/long.txt", long_line.as_bytes()),
        ("data/word.txt", one_word.as_bytes()),
        ("data/many.csv", many_lines.as_bytes()),
        ("nul.txt", b"a\0b c\0\n"),
        ("Makefile", b"all:\n\tcc x.c\n"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\0\0"),
        ("zz.bin", b"\xff\xfe"),
        ("target/out.txt", b"not counted\n"),
        (".git/config", b"not counted\n"),
    ])
}

const COUNTED: [&str; 9] = [
    "README.md",
    "empty.txt",
    "src/main.rs",
    "src/deep/lib.RS",
    "data/long.txt",
    "data/word.txt",
    "data/many.csv",
    "nul.txt",
    "Makefile",
];

#[test]
fn counts_what_wc_counts() {
    let dir = mixed();
    let run = TestRun::<TextStats>::new(input(dir.path())).run().unwrap();
    assert_eq!(totals(&run), wc(dir.path(), &COUNTED));
    assert_eq!(run.totals["files"], COUNTED.len());
    let rust = wc(dir.path(), &["src/main.rs", "src/deep/lib.RS"]);
    assert_eq!(["lines_rs", "words_rs", "bytes_rs"].map(|n| run.totals[n].clone()), rust);
    assert!(run.batches.len() > 20, "{}", run.batches.len());

    let finalized = run.finalized.unwrap();
    assert_eq!(finalized["metrics"], json!({"skipped_files": 2}));
    let reason = "it is not UTF-8 text";
    assert_eq!(
        finalized["payload"],
        json!({"skipped_unnamed": 0, "skipped": [
            {"path": "picture.png", "reason": reason}, {"path": "zz.bin", "reason": reason}
        ]})
    );
}

#[test]
fn downstream_gets_one_item_a_batch() {
    let dir = tree(&[("a.txt", b"one two\n")]);
    let run = TestRun::<TextStats>::new(input(dir.path())).run().unwrap();
    let item = json!({"ext": "txt", "files": 1, "lines": 1, "words": 2, "bytes": 8});
    assert_eq!(run.batches[0].partial, Some(json!({"items": [item]})));
    assert_eq!(
        run.batches[0].payload,
        json!({"path": "a.txt", "offset": 0, "length": 8, "size": 8})
    );
}

#[test]
fn a_crash_anywhere_changes_nothing() {
    let dir = mixed();
    let whole = TestRun::<TextStats>::new(input(dir.path())).run().unwrap();
    for crash in 1..=whole.batches.len() {
        let run = || TestRun::<TextStats>::new(input(dir.path()));
        let crashed = run().stop_after(crash).run().unwrap();
        assert_eq!(crashed.batches.len(), crash);
        let resumed = run().resume(crashed).run().unwrap();
        assert_eq!(resumed.totals, whole.totals, "after {crash}");
        assert_eq!(resumed.batches, whole.batches, "after {crash}");
        assert_eq!(resumed.finalized, whole.finalized, "after {crash}");
    }
}

#[test]
fn a_file_that_vanished_is_skipped_with_its_reason() {
    let lines = "x\n".repeat(3_000);
    let dir = tree(&[("a.txt", lines.as_bytes()), ("b.txt", b"still here\n")]);
    let crashed = TestRun::<TextStats>::new(input(dir.path())).stop_after(1).run().unwrap();
    fs::remove_file(dir.path().join("a.txt")).unwrap();
    let run = TestRun::<TextStats>::new(input(dir.path())).resume(crashed).run().unwrap();
    assert_eq!(totals(&run), [1_001, 1_002, 2_011]);
    let finalized = run.finalized.unwrap();
    assert_eq!(finalized["payload"]["skipped"][0]["path"], "a.txt");
    assert_eq!(finalized["metrics"]["skipped_files"], 1);
}

#[test]
fn only_skipped_files_make_a_run_without_batches() {
    let dir = tree(&[("a.bin", b"\xff"), ("b.bin", b"\xfe")]);
    let run = TestRun::<TextStats>::new(input(dir.path())).run().unwrap();
    assert!(run.batches.is_empty());
    assert_eq!(run.finalized.unwrap()["metrics"]["skipped_files"], 2);
    assert_eq!(run.log.len(), 2);
}

#[test]
fn wrong_directories_are_permanent_errors() {
    let error = TestRun::<TextStats>::new(json!({})).run().unwrap_err();
    assert_eq!(error.reason_code(), "validation_error");
    assert!(error.message().contains("`dir`"), "{error}");
    let error = TestRun::<TextStats>::new(json!({"dir": "/none/such"})).run().unwrap_err();
    assert!(error.is_permanent() && error.message().contains("/none/such"), "{error}");
}

#[test]
fn hidden_names_and_others_can_be_chosen() {
    let dir = mixed();
    let input = json!({"dir": dir.path(), "hidden": true, "skip": ["data"]});
    let run = TestRun::<TextStats>::new(input).run().unwrap();
    assert_eq!(run.totals["files"], 8);
    assert!(run.batches.iter().any(|b| b.uid == ".git/config@0"));
    assert!(run.batches.iter().any(|b| b.uid == "target/out.txt@0"));
}
