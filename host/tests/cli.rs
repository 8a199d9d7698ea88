//! The binary, used wrongly and used without any handler.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should end")]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

/// A directory to run in, with a config file.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("configs")).unwrap();
        Self(dir)
    }

    fn with_config(text: &str) -> Self {
        let place = Self::new();
        fs::write(place.path().join("configs/worker.json"), text).unwrap();
        place
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowkit"));
        for (name, _) in
            std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("FLOWKIT_"))
        {
            command.env_remove(name);
        }
        command.current_dir(self.path()).args(args);
        command
    }

    /// Status, stdout and stderr as one text.
    fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let text = |bytes: &[u8]| {
            let here = fs::canonicalize(self.path()).unwrap();
            String::from_utf8_lossy(bytes).replace(&here.display().to_string(), "<here>")
        };
        let status = output.status.code().unwrap();
        format!("exit {status}\n{}{}", text(&output.stdout), text(&output.stderr))
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let place = Place::new();
    insta::assert_snapshot!(
        place.run(&["wörker"]),
        @r"
        exit 2
        error: unrecognized subcommand 'wörker'

          tip: a similar subcommand exists: 'worker'

        Usage: flowkit [OPTIONS] <COMMAND>

        For more information, try '--help'.
        "
    );
    insta::assert_snapshot!(
        place.run(&["worker", "--confg", "x"]),
        @r"
        exit 2
        error: unexpected argument '--confg' found

          tip: a similar argument exists: '--config'

        Usage: flowkit worker --config <FILE>

        For more information, try '--help'.
        "
    );
    insta::assert_snapshot!(
        place.run(&["--log", "flowkit=loud", "config", "show"]),
        @r#"
        exit 2
        error: --log flowkit=loud: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5
        "#
    );
    insta::assert_snapshot!(
        place.run(&["plugin", "run", "a.wasm", "--dir", "/tmp"]),
        @r"
        exit 2
        error: invalid value '/tmp' for '--dir <HOST::GUEST[:rw]>': write it as HOST::GUEST or HOST::GUEST:rw

        For more information, try '--help'.
        "
    );
}

#[test]
fn a_missing_configuration_is_named() {
    let place = Place::new();
    insta::assert_snapshot!(
        place.run(&["worker"]),
        @r"
        exit 2
        error: there is no config file: looked for configs/worker.json in <here>; name one with `--config FILE`
        "
    );
    insta::assert_snapshot!(
        place.run(&["worker", "--config", "other.json"]),
        @r"
        exit 2
        error: cannot read the config file other.json: No such file or directory (os error 2)
        "
    );
}

#[test]
fn a_bad_configuration_is_refused_by_every_command_that_needs_it() {
    let place = Place::with_config("{\n  \"leese_ttl_sec\": 5\n}");
    for command in [&["worker"][..], &["config", "show"], &["config", "check"]] {
        assert_eq!(
            place.run(command),
            "exit 2\nerror: configs/worker.json:2:3: `leese_ttl_sec`: unknown key; did you mean \
             `lease_ttl_sec`?\n"
        );
    }
}

#[test]
fn a_worker_needs_handlers_that_exist() {
    let place = Place::with_config(r#"{"handlers": {}}"#);
    insta::assert_snapshot!(
        place.run(&["worker"]),
        @r"
        exit 2
        error: there is no role to serve: `handlers` and `roles` of the configuration are empty; `flowkit config show` tells where they come from
        "
    );
    let place =
        Place::with_config(r#"{"handlers": {"echo": {"component": "../plugins/echo.wasm"}}}"#);
    insta::assert_snapshot!(
        place.run(&["worker"]),
        @r"
        exit 2
        error: configs/worker.json:1:24: `handlers.echo.component`: there is no file configs/../plugins/echo.wasm; build the example plugins with `cargo xtask plugins`, or correct the path
        "
    );
    insta::assert_snapshot!(
        place.run(&["config", "check"]),
        @r"
        exit 2
        error: configs/worker.json:1:24: `handlers.echo.component`: there is no file configs/../plugins/echo.wasm; build the example plugins with `cargo xtask plugins`, or correct the path
        "
    );
    assert!(!place.path().join("flowkit.db").exists(), "nothing was begun");
    fs::create_dir(place.path().join("plugins")).unwrap();
    fs::write(place.path().join("plugins/echo.wasm"), "fn main() {}").unwrap();
    insta::assert_snapshot!(
        place.run(&["worker"]),
        @r"
        exit 2
        error: handlers.echo: configs/../plugins/echo.wasm is not a handler: the file is text; give the compiled .wasm, not its source
        "
    );
}

#[test]
fn a_file_that_is_no_handler_is_refused() {
    let place = Place::new();
    fs::write(place.path().join("notes.wasm"), "notes").unwrap();
    fs::write(place.path().join("core.wasm"), b"\0asm\x01\0\0\0").unwrap();
    insta::assert_snapshot!(
        place.run(&["plugin", "check", "none.wasm"]),
        @r"
        exit 2
        error: cannot read none.wasm: No such file or directory (os error 2); build the handler first, or correct the path
        "
    );
    insta::assert_snapshot!(
        place.run(&["plugin", "check", "notes.wasm"]),
        @r"
        exit 2
        error: notes.wasm is not a handler: the file is text; give the compiled .wasm, not its source
        "
    );
    insta::assert_snapshot!(
        place.run(&["plugin", "check", "core.wasm", "--json"]),
        @r#"
        exit 2
        {"error":"core.wasm is not a handler: the file is a core WebAssembly module, not a component; build with `--target wasm32-wasip2`, or wrap it with `wasm-tools component new`","handler":false}
        "#
    );
    insta::assert_snapshot!(
        place.run(&["plugin", "run", "notes.wasm"]),
        @r"
        exit 2
        error: notes.wasm is not a handler: the file is text; give the compiled .wasm, not its source
        "
    );
    insta::assert_snapshot!(
        place.run(&["plugin", "run", "notes.wasm", "--input", "3"]),
        @r#"
        exit 2
        error: --input: the input is a JSON object, such as '{"count": 3}'
        "#
    );
    insta::assert_snapshot!(
        place.run(&["plugin", "run", "notes.wasm", "--input", "@none.json"]),
        @r"
        exit 2
        error: --input: cannot read none.json: No such file or directory (os error 2)
        "
    );
}

#[test]
fn settings_show_where_they_come_from() {
    let place = Place::with_config(r#"{"lease_ttl_sec": 90}"#);
    let mut command = place.command(&["config", "show", "--set", "max_attempts=3", "--db", "a.db"]);
    let output = command.env("FLOWKIT_HB_INTERVAL_SEC", "2.5").output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for line in [
        "lease_ttl_sec = 90 # configs/worker.json:1:2",
        "hb_interval_sec = 2.5 # environment variable FLOWKIT_HB_INTERVAL_SEC",
        "max_attempts = 3 # --set max_attempts",
        "db = \"a.db\" # --db",
        "announce_interval_sec = 60 # default",
    ] {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert!(shown.lines().any(|shown| words(shown) == words(line)), "{line}\n{shown}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let place = Place::with_config("{}");
    let mut child = place
        .command(&["config", "show"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    assert_eq!((child.wait().unwrap().code(), stderr.as_str()), (Some(0), ""));
}
