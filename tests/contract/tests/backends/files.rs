//! Files that cannot be used: each is named, with what to do about it, and left as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flowkit::sqlite::Database;
use rusqlite::Connection;
use tempfile::TempDir;

use crate::child;

/// How long these tests wait for another program's lock.
const BUSY: Duration = Duration::from_millis(50);

struct Place {
    directory: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap().join("flowkit.db");
        Self { directory, path }
    }

    /// With a database that was used and closed.
    fn used() -> Self {
        let place = Self::new();
        drop(Database::open(&place.path).unwrap());
        let file = Connection::open(&place.path).unwrap();
        file.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
             INSERT INTO messages (topic, value, stored_at) SELECT 1, zeroblob(1000), 9e15 FROM n",
        )
        .unwrap();
        drop(file);
        place
    }

    fn error(&self) -> String {
        error(&self.path, self.directory.path())
    }
}

fn error(path: &Path, directory: &Path) -> String {
    let Err(error) = Database::open_waiting(path, BUSY) else { panic!("it was opened") };
    redact(&error.to_string(), directory)
}

fn redact(text: &str, directory: &Path) -> String {
    let full = directory.canonicalize().unwrap();
    text.replace(full.to_str().unwrap(), "DIR").replace(directory.to_str().unwrap(), "DIR")
}

/// The file's error, with the certainty that it did not change the file.
fn untouched_error(place: &Place) -> String {
    let before = fs::read(&place.path).unwrap();
    let error = place.error();
    assert!(fs::read(&place.path).unwrap() == before, "the file was changed");
    error
}

#[test]
fn directory_missing() {
    let place = Place::new();
    let path = place.directory.path().join("no/where.db");
    insta::assert_snapshot!(error(&path, place.directory.path()), @"cannot open the database DIR/no/where.db: the directory DIR/no does not exist; create it, or give another path with the config key `db` or with --db");
}

#[test]
fn path_is_a_directory() {
    let place = Place::new();
    insta::assert_snapshot!(error(place.directory.path(), place.directory.path()), @"cannot open the database DIR: it is a directory; give the path of a file, such as DIR/flowkit.db");
}

#[test]
fn not_a_database() {
    let place = Place::new();
    fs::write(&place.path, "a shopping list\n".repeat(1000)).unwrap();
    insta::assert_snapshot!(untouched_error(&place), @"DIR/flowkit.db is not a database; nothing in it was changed; give another path with the config key `db` or with --db");
    fs::write(&place.path, "short").unwrap();
    insta::assert_snapshot!(untouched_error(&place), @"DIR/flowkit.db is not a database; nothing in it was changed; give another path with the config key `db` or with --db");
}

#[test]
fn database_of_another_program() {
    let place = Place::new();
    Connection::open(&place.path).unwrap().execute_batch("CREATE TABLE t (x)").unwrap();
    insta::assert_snapshot!(untouched_error(&place), @"DIR/flowkit.db is the database of another program; nothing in it was changed; give another path with the config key `db` or with --db");
}

#[test]
fn written_by_a_newer_one() {
    let place = Place::used();
    Connection::open(&place.path).unwrap().pragma_update(None, "user_version", 7).unwrap();
    insta::assert_snapshot!(untouched_error(&place), @"the database DIR/flowkit.db has format 7, this flowkit knows formats up to 2: it was written by a newer one; upgrade this flowkit, or use another file; nothing was changed");
}

#[test]
fn truncated() {
    let place = Place::used();
    let whole = fs::read(&place.path).unwrap();
    fs::write(&place.path, &whole[..whole.len() / 2]).unwrap();
    insta::assert_snapshot!(untouched_error(&place), @"the database DIR/flowkit.db is damaged (database disk image is malformed); nothing in it was changed; stop every flowkit that uses it, keep a copy of it together with its -wal file, then restore a backup, save what is readable with `sqlite3 DIR/flowkit.db .recover`, or start with a new file");
    fs::write(&place.path, &whole[..700]).unwrap();
    insta::assert_snapshot!(untouched_error(&place), @"the database DIR/flowkit.db is damaged (database disk image is malformed); nothing in it was changed; stop every flowkit that uses it, keep a copy of it together with its -wal file, then restore a backup, save what is readable with `sqlite3 DIR/flowkit.db .recover`, or start with a new file");
    fs::write(&place.path, &whole).unwrap();
    drop(Database::open(&place.path).unwrap());
}

#[test]
fn emptied_beside_its_log() {
    let place = Place::new();
    let log = place.path.with_extension("db-wal");
    fs::write(&place.path, "").unwrap();
    fs::write(&log, vec![1; 5000]).unwrap();
    insta::assert_snapshot!(untouched_error(&place), @"the database DIR/flowkit.db is damaged (it is missing or empty although its -wal file is not); nothing in it was changed; stop every flowkit that uses it, keep a copy of it together with its -wal file, then restore a backup, save what is readable with `sqlite3 DIR/flowkit.db .recover`, or start with a new file");
    assert_eq!(fs::read(&log).unwrap().len(), 5000);
}

#[test]
fn scrambled() {
    let place = Place::used();
    let mut bytes = fs::read(&place.path).unwrap();
    // The table of tables begins behind the file's header of 100 bytes.
    bytes[100..200].fill(0xAB);
    fs::write(&place.path, &bytes).unwrap();
    insta::assert_snapshot!(untouched_error(&place), @"the database DIR/flowkit.db is damaged (database disk image is malformed); nothing in it was changed; stop every flowkit that uses it, keep a copy of it together with its -wal file, then restore a backup, save what is readable with `sqlite3 DIR/flowkit.db .recover`, or start with a new file");
}

#[test]
fn locked_by_another_program() {
    let place = Place::used();
    let browser = Connection::open(&place.path).unwrap();
    browser.pragma_update(None, "locking_mode", "EXCLUSIVE").unwrap();
    browser.execute_batch("BEGIN EXCLUSIVE").unwrap();
    insta::assert_snapshot!(place.error(), @"the database DIR/flowkit.db is locked by another program; close whatever has it open exclusively, such as a database browser or a backup, and try again");
    drop(browser);
    drop(Database::open_waiting(&place.path, BUSY).unwrap());
}

/// The permissions of a file mean nothing to root: a child without its rights tries.
#[test]
fn read_only_file() {
    let place = Place::used();
    let before = fs::read(&place.path).unwrap();
    child::everybody_may(place.directory.path(), 0o777);
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o444)).unwrap();
    let error = child::open_unprivileged(&place.path);
    insta::assert_snapshot!(redact(&error, place.directory.path()), @"cannot write the database DIR/flowkit.db: it is read-only; make it readable and writable for the user that runs flowkit, or give another path with the config key `db` or with --db");
    assert!(fs::read(&place.path).unwrap() == before, "the file was changed");
}

#[test]
fn read_only_directory() {
    let place = Place::used();
    fs::set_permissions(&place.path, fs::Permissions::from_mode(0o666)).unwrap();
    child::everybody_may(place.directory.path(), 0o555);
    let error = child::open_unprivileged(&place.path);
    insta::assert_snapshot!(redact(&error, place.directory.path()), @"cannot use the database DIR/flowkit.db: in its directory, where SQLite keeps files beside it, nothing can be created: Permission denied (os error 13); make the directory writable for the user that runs flowkit, or give another path with the config key `db` or with --db");
    let absent = place.directory.path().join("absent.db");
    let error = child::open_unprivileged(&absent);
    insta::assert_snapshot!(redact(&error, place.directory.path()), @"cannot use the database DIR/absent.db: in its directory, where SQLite keeps files beside it, nothing can be created: Permission denied (os error 13); make the directory writable for the user that runs flowkit, or give another path with the config key `db` or with --db");
}
