//! A handler's project in every language, from `plugin new` to a component that works, and
//! what is said where that does not go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// A folder outside of this repository.
struct Place(tempfile::TempDir);

/// How a command ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowkit"));
        command.current_dir(self.0.path()).args(args);
        // A person's shell has none of what cargo tells a test.
        command.env_remove("CARGO").env_remove("RUSTC");
        command
    }

    fn run(&self, args: &[&str]) -> Ended {
        self.ended(&mut self.command(args))
    }

    fn ended(&self, command: &mut Command) -> Ended {
        let Output { status, stdout, stderr } = command.output().expect("starts");
        let here = self.0.path().canonicalize().expect("there").display().to_string();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&here, "<here>");
        Ended { code: status.code(), stdout: text(&stdout), stderr: text(&stderr) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Ended {
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// What was said, for status 2.
    fn wrong_use(self) -> String {
        assert_eq!((self.code, &*self.stdout), (Some(2), ""), "{}", self.stderr);
        self.stderr
    }
}

/// With the tools that `cargo xtask examples` has installed, or this installs for it.
fn build(place: &Place, args: &[&str]) -> Ended {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/examples");
    fs::create_dir_all(&tools).expect("created");
    let tools = tools.canonicalize().expect("there");
    let mut command = place.command(&[&["plugin", "build"], args].concat());
    command.env("XDG_CACHE_HOME", tools.join("cache"));
    command.env("CARGO_TARGET_DIR", tools.join("cargo"));
    place.ended(&mut command)
}

/// From nothing to a counted text.
fn goes_from_new_to_a_result(language: &str) {
    let place = Place::new();
    let written = place.run(&["plugin", "new", "fruit-count", "--lang", language]).ok();
    assert!(written.contains("\nNext:\n  flowkit plugin build fruit-count --out"), "{written}");
    let built = build(&place, &["fruit-count", "--out", "made/fruit.wasm"]);
    if built.code == Some(2) && built.stderr.contains(" is missing; ") {
        return flowkit_servers::skip(&format!("projects::{language}"), built.stderr.trim());
    }
    assert_eq!(built.ok(), "made/fruit.wasm\n");
    assert_eq!(fs::read_dir(place.file("made")).expect("there").count(), 1);
    let checked = place.run(&["plugin", "check", "made/fruit.wasm"]).ok();
    assert!(checked.contains(": fruit-count 0.1.0"), "{checked}");
    let input = r#"{"text": "apple pear\n\nplum\n", "batch_lines": 2}"#;
    let tested = place.run(&["plugin", "test", "made/fruit.wasm", "--input", input]).ok();
    assert!(tested.contains(" ok, 0 failed, "), "{tested}");
    let ran = place.run(&["plugin", "run", "made/fruit.wasm", "--json", "--input", input]).ok();
    let ran: Value = serde_json::from_str(&ran).expect("JSON");
    assert_eq!(ran["metrics"], json!({"lines": 3, "words": 3, "bytes": 14}), "{ran}");
    assert_eq!(ran["batches"].as_array().map(Vec::len), Some(2), "{ran}");
}

#[test]
fn rust() {
    goes_from_new_to_a_result("rust");
}

#[test]
fn javascript() {
    goes_from_new_to_a_result("js");
}

#[test]
fn python() {
    goes_from_new_to_a_result("python");
}

#[test]
fn go() {
    goes_from_new_to_a_result("go");
}

#[test]
fn c() {
    goes_from_new_to_a_result("c");
}

#[test]
fn packages_of_a_javascript_handler_are_part_of_its_component() {
    let place = Place::new();
    place.run(&["plugin", "new", "fruit", "--lang", "js"]).ok();
    let files = [
        ("shout/package.json", r#"{"name": "shout", "version": "1.0.0", "main": "shout.js"}"#),
        ("shout/shout.js", "exports.shout = (text) => `${text}!`;"),
        ("package.json", r#"{"type": "module", "dependencies": {"shout": "file:./shout"}}"#),
    ];
    fs::create_dir(place.file("fruit/shout")).expect("created");
    for (name, text) in files {
        fs::write(place.file("fruit").join(name), text).expect("written");
    }
    let source = place.file("fruit/handler.js");
    let text = fs::read_to_string(&source).expect("readable");
    let text = text.replace("{ longest }", "{ longest, said: shout('ripe') }");
    fs::write(source, format!("import {{ shout }} from 'shout';\n{text}")).expect("written");
    let built = build(&place, &["fruit", "--out", "fruit.wasm"]);
    if built.code == Some(2) && built.stderr.contains(" is missing; ") {
        return flowkit_servers::skip("projects::packages", built.stderr.trim());
    }
    built.ok();
    let ran = place.run(&["plugin", "run", "fruit.wasm", "--input", r#"{"text": "plum"}"#]).ok();
    assert!(ran.contains(r#"artifact {"longest":4,"said":"ripe!"}"#), "{ran}");
}

#[test]
fn sources_that_do_not_compile_leave_the_component_as_it_was() {
    let place = Place::new();
    place.run(&["plugin", "new", "fruit", "--lang", "c"]).ok();
    let built = build(&place, &["fruit"]);
    if built.code == Some(2) {
        return flowkit_servers::skip("projects::compile_error", built.stderr.trim());
    }
    let path = built.ok();
    assert_eq!(path, "<here>/fruit/fruit.wasm\n");
    let before = fs::read(place.file("fruit/fruit.wasm")).expect("built");
    let source = place.file("fruit/handler.c");
    let text = fs::read_to_string(&source).expect("readable");
    fs::write(&source, text.replace("take_line(void) {", "take_line(void) { oops;"))
        .expect("written");
    let failed = build(&place, &["fruit"]);
    assert_eq!((failed.code, &*failed.stdout), (Some(1), ""));
    let said = failed.stderr;
    assert!(said.contains("<here>/fruit/handler.c:14:"), "the author's own file: {said}");
    assert!(
        said.ends_with("error: `clang` failed (exit status: 1): see what it said above\n"),
        "{said}"
    );
    assert_eq!(fs::read(place.file("fruit/fruit.wasm")).expect("kept"), before);
}

#[test]
fn a_project_is_not_written_over_another() {
    let place = Place::new();
    fs::create_dir(place.file("mine")).expect("created");
    fs::write(place.file("mine/handler.py"), "# mine").expect("written");
    let said = place.run(&["plugin", "new", "mine", "--lang", "python"]).wrong_use();
    insta::assert_snapshot!(said, @"error: mine: is not empty, and nothing is overwritten; give another folder with --dir");
    assert_eq!(fs::read_dir(place.file("mine")).expect("there").count(), 1);
    let said = place.run(&["plugin", "new", "../up", "--lang", "python"]).wrong_use();
    insta::assert_snapshot!(said, @r#"error: "../up" is not a handler's name: it must begin with a lower-case letter"#);
    let said = place.run(&["plugin", "new", "mine", "--lang", "perl"]).wrong_use();
    insta::assert_snapshot!(said, @"
    error: invalid value 'perl' for '--lang <LANGUAGE>': the languages are rust, js, python, go and c

    For more information, try '--help'.
    ");
}

#[test]
fn what_is_missing_is_told_with_what_installs_it() {
    let mut told = String::new();
    for language in ["rust", "js", "python", "go", "c"] {
        let place = Place::new();
        place.run(&["plugin", "new", "fruit", "--lang", language]).ok();
        let mut command = place.command(&["plugin", "build", "fruit"]);
        command.env("PATH", place.file("nothing")).env("XDG_CACHE_HOME", place.file("cache"));
        let said = place.ended(&mut command).wrong_use();
        told.extend(
            said.lines().filter(|line| line.starts_with("error")).map(|line| format!("{line}\n")),
        );
    }
    insta::assert_snapshot!(told, @"
    error: Rust with cargo is missing; install it with rustup, which https://rustup.rs has
    error: npm with Node.js 20 or later is missing; `apt-get install nodejs npm` installs it where Debian has 20 or later, https://nodejs.org has it for all systems
    error: Python 3.10 or later is missing; `apt-get install python3 python3-venv` installs it on Debian
    error: Go 1.25 or later is missing; `apt-get install golang-go` installs it where Debian has 1.25 or later, https://go.dev/dl has it for all systems
    error: a part of the C tools for WebAssembly (clang, lld, wasi-libc, compiler-rt) is missing; `apt-get install clang lld wasi-libc libclang-rt-N-dev-wasm32` installs them on Debian, N being the version of clang
    ");
    let place = Place::new();
    insta::assert_snapshot!(build(&place, &["."]).wrong_use(), @"error: <here>: no handler's sources: it has none of Cargo.toml (rust), package.json (javascript), handler.py (python), go.mod (go), handler.c (c)");
    let mut homeless = place.command(&["plugin", "build", "fruit"]);
    place.run(&["plugin", "new", "fruit", "--lang", "c"]).ok();
    homeless.env_remove("HOME").env_remove("XDG_CACHE_HOME");
    insta::assert_snapshot!(place.ended(&mut homeless).wrong_use(), @"error: there is no place for the tools: set HOME or XDG_CACHE_HOME to a folder");
}
