//! The directions in which the host's modules may depend on each other, checked on their
//! sources. `ARCHITECTURE.md` says why they are what they are.
//!
//! The scanner reads tokens, not Rust: comments, literals and `#[cfg(test)]` modules are
//! taken out, then every path is resolved against its module. That is enough for what is
//! asked here, and samples at the end show that each rule can fail.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should end")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Most lines of code a file should have, tests, comments and blank lines left out.
const MAX_LINES: usize = 400;

/// A file, as much as the rules look at.
struct Source {
    /// From `src`, with slashes.
    file: String,
    /// Every path it names, from its crate on: `crate::bus::Bus`, `tokio::time::Instant`.
    paths: BTreeSet<String>,
    /// Its words; a macro's name also with its `!`.
    words: BTreeSet<String>,
    /// Its lines of code.
    lines: usize,
}

/// What some files may not name.
struct Rule {
    name: &'static str,
    /// The files it is for.
    binds: fn(&str) -> bool,
    /// What they may not name.
    forbids: fn(&Source) -> Vec<String>,
}

const RULES: &[Rule] = &[
    Rule {
        name: "rdkafka belongs to the bus",
        binds: |file| !file.starts_with("bus/"),
        forbids: |source| source.named(&["rdkafka"]),
    },
    Rule {
        name: "mongodb belongs to the store",
        binds: |file| !file.starts_with("store/"),
        forbids: |source| source.named(&["mongodb", "bson"]),
    },
    Rule {
        name: "rusqlite belongs to the embedded backend",
        binds: |file| {
            !["sqlite/", "bus/embedded/", "store/embedded/"].iter().any(|own| file.starts_with(own))
        },
        forbids: |source| source.named(&["rusqlite"]),
    },
    Rule {
        name: "wasmtime belongs to the plugin host",
        binds: |file| !file.starts_with("plugin/"),
        forbids: |source| source.named(&["wasmtime", "wasmtime_wasi", "wasmtime_wasi_http"]),
    },
    Rule {
        name: "building plugins belongs to the commands",
        binds: |file| !file.starts_with("cli/"),
        forbids: |source| source.named(&["flowkit_build"]),
    },
    Rule {
        name: "the bus knows neither the store nor plugins",
        binds: |file| file.starts_with("bus/"),
        forbids: |source| source.named(&["crate::store", "crate::plugin", "crate::handler"]),
    },
    Rule {
        name: "the store knows neither the bus nor plugins",
        binds: |file| file.starts_with("store/"),
        forbids: |source| source.named(&["crate::bus", "crate::plugin", "crate::handler"]),
    },
    Rule {
        name: "plugins know neither the bus nor the store",
        binds: |file| file.starts_with("plugin/"),
        forbids: |source| source.named(&["crate::bus", "crate::store", "crate::sqlite"]),
    },
    Rule {
        name: "what is below does not know what is above",
        binds: |file| {
            ["bus/", "store/", "sqlite/", "plugin/", "protocol/", "input/"]
                .iter()
                .any(|low| file.starts_with(low))
                || ["types.rs", "clock.rs", "metrics.rs", "handler.rs", "tasks.rs", "documents.rs"]
                    .contains(&file)
        },
        forbids: |source| {
            source.named(&[
                "crate::run",
                "crate::intake",
                "crate::discovery",
                "crate::worker",
                "crate::coordinator",
                "crate::config",
                "crate::app",
                "crate::cli",
            ])
        },
    },
    Rule {
        name: "runs know neither the worker nor the coordinator",
        binds: |file| file.starts_with("run/") || file.starts_with("intake/"),
        forbids: |source| {
            source.named(&["crate::coordinator", "crate::config", "crate::app", "crate::cli"])
        },
    },
    Rule {
        name: "the coordinator speaks to workers over the bus alone",
        binds: |file| file.starts_with("coordinator/"),
        forbids: |source| {
            source.named(&[
                "crate::run",
                "crate::worker",
                "crate::plugin",
                "crate::config",
                "crate::app",
                "crate::cli",
            ])
        },
    },
    Rule {
        name: "only commands are built from the composition root",
        binds: |file| !file.starts_with("cli/") && !["app.rs", "main.rs"].contains(&file),
        forbids: |source| source.named(&["crate::app", "crate::cli"]),
    },
    Rule {
        name: "only the composition root names a backend",
        binds: |file| {
            !["bus/", "store/", "sqlite/"].iter().any(|own| file.starts_with(own))
                && file != "app.rs"
        },
        forbids: |source| {
            let mut found = source.named(&[
                "crate::sqlite",
                "crate::bus::embedded",
                "crate::bus::memory",
                "crate::bus::kafka",
                "crate::store::embedded",
                "crate::store::memory",
                "crate::store::mongo",
            ]);
            // What a property's name says, the configuration is checked by.
            let names = ["crate::bus::kafka::refused", "crate::bus::kafka::is_secret"];
            found.retain(|path| !names.contains(&path.as_str()));
            found
        },
    },
    Rule {
        name: "decisions are pure: no waiting and no input or output",
        binds: |file| {
            [
                "conformance/judge.rs",
                "conformance/compare.rs",
                "run/state",
                "run/lease.rs",
                "intake/admission.rs",
                "coordinator/graph",
                "coordinator/state",
            ]
            .iter()
            .any(|pure| file.starts_with(pure))
        },
        forbids: |source| {
            let mut found = source.named(&[
                "tokio",
                "std::fs",
                "std::io",
                "std::net",
                "std::process",
                "std::thread",
                "std::time::SystemTime",
                "std::time::Instant",
                "futures_util",
                "crate::bus::Bus",
                "crate::store::Store",
                "crate::clock::Clock",
            ]);
            // A point in time is a value; the clock that gives it is not.
            found.retain(|path| path != "tokio::time::Instant");
            found.extend(source.said(&["async", "await"]));
            found
        },
    },
    Rule {
        name: "a closed stdout or stderr is no panic: print through cli/output.rs",
        binds: |file| file != "cli/output.rs",
        forbids: |source| source.said(&["print!", "println!", "eprint!", "eprintln!"]),
    },
    Rule {
        name: "tasks are started in one place",
        binds: |file| file != "tasks.rs",
        forbids: |source| {
            source.named(&[
                "tokio::spawn",
                "tokio::task::spawn",
                "tokio::task::spawn_local",
                "tokio::task::JoinSet",
                "tokio::task::LocalSet",
            ])
        },
    },
];

#[test]
fn modules_depend_on_each_other_as_they_should() {
    let broken: Vec<String> = sources().iter().flat_map(broken_rules).collect();
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

#[test]
fn files_are_short() {
    let wrong: Vec<String> = sources().iter().filter_map(wrong_length).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

fn wrong_length(source: &Source) -> Option<String> {
    let Source { file, lines, .. } = source;
    (*lines > MAX_LINES)
        .then(|| format!("{file} has {lines} lines of code, at most {MAX_LINES}: split it"))
}

fn broken_rules(source: &Source) -> Vec<String> {
    let bound = RULES.iter().filter(|rule| (rule.binds)(&source.file));
    let broken = bound.flat_map(|rule| {
        let found = (rule.forbids)(source);
        found.into_iter().map(|what| format!("{}: `{what}`: {}", source.file, rule.name))
    });
    broken.collect()
}

impl Source {
    fn new(file: &str, text: &str) -> Self {
        let code = without_tests(&without_literals(text));
        let tokens = tokens(&code);
        let mut paths = BTreeSet::new();
        collect_paths(&tokens, &module_of(file), &mut paths);
        let mut words: BTreeSet<_> = tokens.iter().map(ToString::to_string).collect();
        words.extend(tokens.windows(2).filter(|w| w[1] == "!").map(|w| format!("{}!", w[0])));
        let lines = code.lines().filter(|line| !line.trim().is_empty()).count();
        Self { file: file.to_owned(), paths, words, lines }
    }

    /// The paths that are one of `tops` or lie below it.
    fn named(&self, tops: &[&str]) -> Vec<String> {
        let below = |path: &str, top: &str| {
            path.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
        };
        let named = self.paths.iter().filter(|path| tops.iter().any(|top| below(path, top)));
        named.cloned().collect()
    }

    fn said(&self, words: &[&str]) -> Vec<String> {
        words.iter().filter(|word| self.words.contains(**word)).map(ToString::to_string).collect()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut open = vec![root.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !path.ends_with("tests.rs") {
                let file = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                sources.push(Source::new(&file, &fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(sources.len() > 20, "the sources are not where they were");
    sources
}

/// `bus/embedded/mod.rs` is the module `crate::bus::embedded`.
fn module_of(file: &str) -> Vec<String> {
    let file = file.trim_end_matches(".rs").trim_end_matches("/mod");
    let root = ["lib", "main"].contains(&file);
    let steps = file.split('/').filter(|_| !root);
    std::iter::once("crate").chain(steps).map(ToOwned::to_owned).collect()
}

/// The text with comments and the insides of literals left out; lines stay lines.
fn without_literals(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if let Some(length) = raw_string(rest, &code) {
            length
        } else if next == '"' {
            quoted(rest)
        } else if next == '\'' && !is_lifetime(rest) {
            char_literal(rest)
        } else {
            code.push(next);
            rest = &rest[next.len_utf8()..];
            continue;
        };
        code.extend(rest[..skipped].chars().filter(|c| *c == '\n'));
        rest = &rest[skipped..];
    }
    code
}

fn raw_string(rest: &str, before: &str) -> Option<usize> {
    let in_word = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
    let after_r = rest.strip_prefix('r').filter(|_| !in_word || before.ends_with('b'))?;
    let hashes = after_r.len() - after_r.trim_start_matches('#').len();
    let open = after_r[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = open.find(&end).map_or(open.len(), |at| at + end.len());
    Some(rest.len() - open.len() + length)
}

fn quoted(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

fn is_lifetime(rest: &str) -> bool {
    let mut after = rest.chars().skip(1);
    let first = after.next();
    first.is_some_and(|c| c.is_alphabetic() || c == '_') && after.next() != Some('\'')
}

fn char_literal(rest: &str) -> usize {
    let inside = rest.chars().skip(1).take_while(|c| *c == '\\').count().min(1) + 1;
    let opening: usize = rest.chars().take(1 + inside).map(char::len_utf8).sum();
    rest[opening..].find('\'').map_or(rest.len(), |end| opening + end + 1)
}

/// The code without its `#[cfg(test)]` modules.
fn without_tests(code: &str) -> String {
    let mut kept = String::new();
    let mut rest = code;
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let after = &rest[at..];
        let item_end = after.find([';', '{']).unwrap_or(after.len());
        let end = match after[item_end..].starts_with('{') {
            true => item_end + block(&after[item_end..]),
            false => (item_end + 1).min(after.len()),
        };
        rest = &after[end..];
    }
    kept.push_str(rest);
    kept
}

/// The length of the block that `text` begins with.
fn block(text: &str) -> usize {
    let mut depth = 0;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
    text.len()
}

/// Words, `::` and single signs.
fn tokens(code: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = code.trim_start();
    while let Some(first) = rest.chars().next() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let length = if is_word(first) {
            rest.find(|c: char| !is_word(c)).unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        tokens.push(&rest[..length]);
        rest = rest[length..].trim_start();
    }
    tokens
}

/// Every path, `use` groups unfolded.
fn collect_paths(tokens: &[&str], module: &[String], paths: &mut BTreeSet<String>) {
    let mut at = 0;
    while at < tokens.len() {
        let continues = at > 0 && (tokens[at - 1] == "::" || tokens[at - 1] == ".");
        if is_name(tokens[at]) && !continues {
            at = collect_path(tokens, at, &mut Vec::new(), &mut |path| {
                paths.insert(resolved(path, module));
            });
        } else {
            at += 1;
        }
    }
}

/// Reads one path, or all paths of a group, and returns where it ends.
fn collect_path<'a>(
    tokens: &[&'a str],
    mut at: usize,
    path: &mut Vec<&'a str>,
    found: &mut impl FnMut(&[&str]),
) -> usize {
    let depth = path.len();
    loop {
        match tokens.get(at) {
            Some(&name) if is_name(name) => path.push(name),
            _ => break,
        }
        at += 1;
        if tokens.get(at) != Some(&"::") {
            break;
        }
        at += 1;
        if tokens.get(at) == Some(&"{") {
            at += 1;
            while at < tokens.len() && tokens[at] != "}" {
                at = if is_name(tokens[at]) {
                    collect_path(tokens, at, path, found)
                } else {
                    at + 1
                };
                if tokens.get(at) == Some(&"as") {
                    at += 2;
                }
            }
            path.truncate(depth);
            return at + 1;
        }
    }
    found(path);
    path.truncate(depth);
    at
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn resolved(path: &[&str], module: &[String]) -> String {
    let mut base: Vec<&str> = Vec::new();
    let mut rest = path;
    if let Some(("super" | "self", _)) = path.split_first().map(|(first, tail)| (*first, tail)) {
        base = module.iter().map(String::as_str).collect();
        while let Some((&"super", tail)) = rest.split_first() {
            base.pop();
            rest = tail;
        }
    }
    let steps = base.into_iter().chain(rest.iter().copied().filter(|step| *step != "self"));
    steps.collect::<Vec<_>>().join("::")
}

mod samples {
    use super::*;

    fn broken(file: &str, text: &str) -> Vec<String> {
        broken_rules(&Source::new(file, text))
    }

    #[test]
    fn each_rule_can_fail() {
        for (file, text) in [
            ("run/driver.rs", "use rdkafka::consumer::Consumer;"),
            ("bus/kafka.rs", "use mongodb::Client;"),
            ("store/mongo.rs", "fn f() { rusqlite::Connection::open(1); }"),
            ("run/driver.rs", "use {std::sync::Arc, wasmtime::Engine};"),
            ("plugin/load.rs", "use flowkit_build::Source;"),
            ("bus/mod.rs", "use crate::{clock::Clock, store::Store};"),
            ("store/embedded/runs.rs", "use super::super::super::bus::Topic;"),
            ("plugin/load.rs", "fn f(bus: &dyn crate::bus::Bus) {}"),
            ("plugin/load.rs", "use crate::run::Deps;"),
            ("protocol/event.rs", "use super::super::worker::Worker;"),
            ("run/driver.rs", "use crate::coordinator::graph;"),
            ("coordinator/driver.rs", "use crate::{run::Deps as Parts};"),
            ("worker/mod.rs", "use crate::app::App;"),
            ("worker/mod.rs", "use crate::bus::{Bus, embedded::{EmbeddedBus}};"),
            ("cli/run.rs", "use crate::sqlite::Database;"),
            ("run/state.rs", "async fn f() {}"),
            ("run/state/step.rs", "use tokio::sync::Notify;"),
            ("run/lease.rs", "use std::fs;"),
            ("intake/admission.rs", "use crate::store::Store;"),
            ("coordinator/state.rs", "fn f() { std::thread::park() }"),
            ("coordinator/graph/read.rs", "use tokio::{time::{Instant, sleep}};"),
            ("worker/mod.rs", "fn f() { tokio::spawn(g()); }"),
            ("worker/mod.rs", "use tokio::task::{self, JoinSet};"),
            ("cli/run.rs", "fn f() { println!(\"x\"); }"),
        ] {
            assert_eq!(broken(file, text).len(), 1, "{file}: {text}");
        }
    }

    #[test]
    fn what_is_allowed_passes() {
        for (file, text) in [
            ("bus/kafka.rs", "use rdkafka::consumer::Consumer;"),
            ("bus/embedded/mod.rs", "use crate::sqlite::Database; use rusqlite::Row;"),
            ("app.rs", "use crate::bus::{Bus, embedded::EmbeddedBus};"),
            ("run/state.rs", "use tokio::time::Instant; use crate::store::RunRecord;"),
            ("run/driver.rs", "// use wasmtime::Engine;\n/* tokio::spawn */"),
            ("run/driver.rs", "const S: &str = \"\\\" tokio::spawn\"; // \""),
            ("run/driver.rs", "const S: &str = r#\"\" tokio::spawn()\"#;"),
            ("run/driver.rs", "const C: [char; 2] = ['\"', '\\'']; fn f<'a>(x: &'a str) {}"),
            (
                "run/state.rs",
                "#[cfg(test)]\nmod tests { use tokio::sync::Notify; async fn f() {} }",
            ),
            ("run/state.rs", "#[cfg(test)]\nmod tests;"),
            ("tasks.rs", "fn f() { tokio::spawn(g()); }"),
            ("worker/mod.rs", "fn f() { self.tokio::spawn; tasks::spawn(g()); }"),
        ] {
            assert_eq!(broken(file, text), Vec::<String>::new(), "{file}: {text}");
        }
    }

    #[test]
    fn code_after_a_test_module_counts() {
        let text = "#[cfg(test)]\nmod tests { fn f() { let _ = '{'; } }\nuse wasmtime::Engine;";
        assert_eq!(broken("run/driver.rs", text).len(), 1);
        let text = "const A: char = '\"';\nuse wasmtime::Engine;\nconst B: char = '\"';";
        assert_eq!(broken("run/driver.rs", text).len(), 1);
    }

    #[test]
    fn only_code_is_counted() {
        let text = "//! A module.\n\nfn f() {\n    // Nothing.\n}\n#[cfg(test)]\nmod tests {\n}\n";
        assert_eq!(Source::new("a.rs", text).lines, 2);
        let of_length =
            |file, lines| wrong_length(&Source::new(file, &"fn f() {}\n".repeat(lines)));
        assert!(of_length("a.rs", MAX_LINES).is_none());
        assert!(of_length("a.rs", MAX_LINES + 1).is_some());
    }
}
