//! `flowkit plugin keygen`, `sign` and `verify`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use insta::assert_snapshot;

/// A folder to run in, with the smallest component there is.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("a.wasm"), b"\0asm\x0d\0\x01\0").expect("written");
        Self(dir)
    }

    /// A new key; its public half.
    fn key(&self, name: &str) -> String {
        let printed = self.run(&["keygen", name]);
        let key = printed.lines().find(|line| line.starts_with("ed25519:"));
        key.expect("the public key is printed").to_owned()
    }

    /// The exit status and what was printed, keys left out.
    fn shown(&self, args: &[&str]) -> String {
        let printed = self.run(args);
        let here = self.0.path().canonicalize().expect("it is there");
        let printed = printed.replace(&here.display().to_string(), "<here>");
        let words = printed.split_inclusive([' ', '\n', ',']);
        words
            .map(|word| match word.split_once("ed25519:") {
                Some((_, rest)) if rest.len() > 64 => format!("ed25519:HEX{}", &rest[64..]),
                _ => word.to_owned(),
            })
            .collect()
    }

    fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flowkit"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("FLOWKIT_")) {
            command.env_remove(name);
        }
        let output = command.arg("plugin").args(args).current_dir(self.0.path()).output();
        let output = output.expect("the binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let status = output.status.code().expect("a status");
        format!("exit {status}\n{}{}", text(&output.stdout), text(&output.stderr))
    }

    fn mode(&self, name: &str) -> u32 {
        let file = fs::metadata(self.0.path().join(name)).expect("it is there");
        file.permissions().mode() & 0o777
    }
}

#[test]
fn what_was_signed_is_verified() {
    let place = Place::new();
    let key = place.key("release.key");
    assert_eq!(place.mode("release.key"), 0o600);
    assert_snapshot!(place.shown(&["sign", "a.wasm", "--key", "release.key"]), @r"
    exit 0
    a.wasm is signed by ed25519:HEX: a.wasm.sig
    ");
    assert_eq!(place.mode("a.wasm.sig"), 0o644);
    assert_snapshot!(place.shown(&["verify", "a.wasm", "--key", &key]), @r"
    exit 0
    a.wasm is signed by ed25519:HEX
    ");
    fs::create_dir(place.0.path().join("configs")).expect("created");
    let config = format!(r#"{{"plugins": {{"trusted_keys": ["{key}"]}}}}"#);
    fs::write(place.0.path().join("configs/worker.json"), config).expect("written");
    assert_snapshot!(place.shown(&["verify", "a.wasm"]), @r"
    exit 0
    a.wasm is signed by ed25519:HEX
    ");
    let shown = place.run(&["inspect", "a.wasm"]);
    assert!(shown.contains(&format!("signature  by {key}")), "{shown}");
}

#[test]
fn what_was_not_signed_so_is_refused() {
    let place = Place::new();
    let (own, other) = (place.key("own.key"), place.key("other.key"));
    let verified = |key: &str| place.shown(&["verify", "a.wasm", "--key", key]);
    assert_snapshot!(verified(&own), @r"
    exit 1
    error: a.wasm is not signed: there is no a.wasm.sig; sign it with `flowkit plugin sign a.wasm --key KEYFILE`
    ");
    place.run(&["sign", "a.wasm", "--key", "own.key"]);
    assert_snapshot!(verified(&other), @r"
    exit 1
    error: a.wasm is signed by ed25519:HEX, which is not among the keys of --key
    ");
    let changed = b"\0asm\x0d\0\x01\0\0\x02\x01x";
    fs::write(place.0.path().join("a.wasm"), changed).expect("written");
    assert_snapshot!(verified(&own), @r"
    exit 1
    error: a.wasm: its signature does not fit its content; it was changed after it was signed: sign it again with `flowkit plugin sign FILE --key KEYFILE`, or restore what was signed
    ");
    fs::write(place.0.path().join("a.wasm.sig"), "yes").expect("written");
    assert_snapshot!(verified(&own), @r"
    exit 1
    error: a.wasm: its signature file is none: expected `flowkit-signature-v1 PUBLIC-KEY SIGNATURE`; sign it again with `flowkit plugin sign FILE --key KEYFILE`
    ");
    assert_snapshot!(place.shown(&["verify", "a.wasm"]), @r"
    exit 2
    error: no --key is given, so the keys are those of the configuration
    caused by: there is no config file: looked for configs/worker.json in <here>; name one with `--config FILE`, or the database with `--db FILE`
    ");
    fs::remove_file(place.0.path().join("a.wasm")).expect("removed");
    assert_snapshot!(verified(&own), @r"
    exit 2
    error: cannot read a.wasm: No such file or directory (os error 2); build the handler first, or correct the path
    ");
}

#[test]
fn keys_are_kept_and_kept_secret() {
    let place = Place::new();
    place.key("own.key");
    let secret = fs::read_to_string(place.0.path().join("own.key")).expect("read");
    assert_snapshot!(place.shown(&["keygen", "own.key"]), @r"
    exit 2
    error: own.key is there already, and a key is never overwritten: name another file
    ");
    let kept = fs::read_to_string(place.0.path().join("own.key")).expect("read");
    assert_eq!(kept, secret, "the key was overwritten");
    assert_snapshot!(place.shown(&["keygen", "no/such/own.key"]), @r"
    exit 2
    error: cannot write the key: no/such/own.key: No such file or directory (os error 2)
    ");
    let open = fs::Permissions::from_mode(0o644);
    fs::set_permissions(place.0.path().join("own.key"), open).expect("set");
    let told = place.shown(&["sign", "a.wasm", "--key", "own.key"]);
    assert_snapshot!(told, @r"
    exit 2
    error: --key own.key: others can read or write it; `chmod 600` it, or make a new key
    ");
    let hex = secret.split_whitespace().last().expect("the secret");
    assert!(!told.contains(hex) && !place.run(&["keygen", "own.key"]).contains(hex));
    assert_snapshot!(place.shown(&["sign", "a.wasm", "--key", "a.wasm"]), @r"
    exit 2
    error: --key a.wasm: others can read or write it; `chmod 600` it, or make a new key
    ");
    place.key("new.key");
    assert_snapshot!(place.shown(&["sign", "new.key", "--key", "new.key"]), @r"
    exit 2
    error: new.key: the file is text; give the compiled .wasm, not its source
    ");
}
