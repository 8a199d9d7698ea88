//! This test program as a child process of itself: one that can be killed, or that has
//! fewer rights.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flowkit::sqlite::Database;

/// What the child does, by the environment's order.
const ORDER: &str = "FLOWKIT_CONTRACT_CHILD";

/// The user without rights that every Unix has.
const NOBODY: u32 = 65_534;

/// Starts a child that does what `order` says with the database at `path`.
pub fn start(order: &str, path: &Path) -> Child {
    command(&std::env::current_exe().unwrap(), order, path).spawn().unwrap()
}

fn command(program: &Path, order: &str, path: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["child::acts_on_its_order", "--exact", "--nocapture", "--test-threads=1"])
        .env(ORDER, format!("{order} {}", path.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    command
}

/// In the child, what it was started for; in the parent, nothing to do.
#[test]
fn acts_on_its_order() {
    let Ok(order) = std::env::var(ORDER) else { return };
    let (order, path) = order.split_once(' ').unwrap();
    match order {
        "open" => match Database::open_waiting(path, Duration::from_millis(50)) {
            Ok(_) => println!("\nerror: it was opened"),
            Err(error) => println!("\nerror: {error}"),
        },
        "write" => crate::kill::write_until_killed(Path::new(path), "n"),
        "write-first" => crate::kill::write_until_killed(Path::new(path), "first"),
        "write-second" => crate::kill::write_until_killed(Path::new(path), "second"),
        "read-kafka" => crate::kafka::crash::read_until_killed(Path::new(path)),
        "hold" => crate::kill::hold_until_killed(Path::new(path)),
        other => panic!("unknown order {other}"),
    }
}

/// Sets a directory's rights for everybody.
pub fn everybody_may(directory: &Path, mode: u32) {
    fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
}

/// The error of opening `path` without root's rights.
pub fn open_unprivileged(path: &Path) -> String {
    let root = fs::metadata("/proc/self").map_or(0, |data| data.uid()) == 0;
    // Nobody may have to enter the build directory: the program is linked where they can.
    let place = tempfile::tempdir().unwrap();
    everybody_may(place.path(), 0o755);
    let program = place.path().join("child");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut command = command(&program, "open", path);
    command.current_dir(place.path());
    if root {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("error: "));
    line.unwrap_or_else(|| panic!("the child said: {text}")).to_owned()
}
