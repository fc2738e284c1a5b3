//! The store: what is committed stays, whatever happens to the daemon or to the file.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use control::store::{NewGeneration, Store, StoreError};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::json;

fn generation(number: u64) -> NewGeneration {
    NewGeneration {
        config: json!({ "version": 1, "switches": { "vs0": { "mtu": 1500 + number % 7000 } }, "padding": "x".repeat((number % 97) as usize * 31) }),
        unix_millis: 1_700_000_000_000 + number,
        author: "uid 0".to_owned(),
        comment: format!("apply {number}"),
        changes: number as usize,
    }
}

/// A generator that gives the same numbers each time.
fn rng() -> TestRng {
    TestRng::deterministic_rng(RngAlgorithm::ChaCha)
}

#[test]
fn generations_are_numbered_kept_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert!(store.current().unwrap().is_none());
    assert!(store.history().unwrap().is_empty());
    for number in 1..=3 {
        assert_eq!(store.commit(&generation(number)).unwrap(), number);
    }
    drop(store);

    let store = Store::open(dir.path()).unwrap();
    let current = store.current().unwrap().unwrap();
    assert_eq!(current.summary.generation, 3);
    assert_eq!(current.config, generation(3).config);
    let history = store.history().unwrap();
    assert_eq!(
        history.iter().map(|row| row.generation).collect::<Vec<_>>(),
        [3, 2, 1]
    );
    assert_eq!(history[1].comment, "apply 2");
    assert_eq!(history[1].author, "uid 0");
    assert_eq!(history[1].unix_millis, 1_700_000_000_002);
    assert_eq!(history[1].changes, 2);
    assert_eq!(store.get(1).unwrap().unwrap().config, generation(1).config);
    assert!(store.get(4).unwrap().is_none());
    assert_eq!(store.commit(&generation(4)).unwrap(), 4);
}

#[test]
fn the_order_of_keys_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut new = generation(1);
    new.config = json!({ "zebra": 1, "ape": { "b": 1, "a": 2 } });
    store.commit(&new).unwrap();
    assert_eq!(
        store.current().unwrap().unwrap().config.to_string(),
        new.config.to_string()
    );
}

#[test]
fn a_second_daemon_is_told_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(
        matches!(error, StoreError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
        "{error:?}"
    );
    assert_eq!(
        error.to_string(),
        format!(
            "the state directory `{}` is in use by another vswitchd (process {}); stop that one, or give this one a state directory of its own with --state",
            dir.path().display(),
            std::process::id()
        )
    );
    drop(store);
    Store::open(dir.path()).unwrap();
}

#[test]
fn a_file_of_another_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path()).unwrap());
    let path = dir.path().join("vswitch.redb");
    let database = redb::Database::open(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction
        .open_table(redb::TableDefinition::<&str, u64>::new("meta"))
        .unwrap()
        .insert("format", 2)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Format { found: 2, .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        format!(
            "the state file `{}` has format 2, this version knows 1; use the version that wrote it, or move the file away to begin without history",
            path.display()
        )
    );
    assert!(std::fs::read(&path).unwrap() == before, "the file was changed");
}

#[test]
fn a_file_that_is_no_database_is_left_alone() {
    for contents in [
        &b""[..],
        b"x",
        b"not a database at all",
        &[0; 4096],
        &[0xff; 1 << 20],
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vswitch.redb");
        std::fs::write(&path, contents).unwrap();
        let error = Store::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(std::fs::read(&path).unwrap() == contents, "the file was changed");
    }
}

#[test]
fn an_unfinished_beginning_is_taken_up() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("vswitch.redb.new"), b"half a database").unwrap();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.commit(&generation(1)).unwrap(), 1);
    assert!(!dir.path().join("vswitch.redb.new").exists());
}

#[test]
fn a_state_directory_that_is_a_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    std::fs::write(&path, b"").unwrap();
    let error = Store::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::NotThere { .. }), "{error:?}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
}

/// The child of the tests below: this test binary again, run as a user without rights, or to be killed.
#[test]
fn child() {
    let Ok(dir) = std::env::var("VSWITCH_STORE_CHILD") else {
        return;
    };
    let store = match Store::open(Path::new(&dir)) {
        Ok(store) => store,
        Err(error) => {
            println!("\nerror {error}");
            return;
        }
    };
    if std::env::var_os("VSWITCH_STORE_ONCE").is_some() {
        println!("\nopened");
        return;
    }
    let mut number = store
        .current()
        .unwrap()
        .map_or(0, |generation| generation.summary.generation);
    let mut out = std::io::stdout();
    loop {
        // Each is told before and after: what was told after is durable.
        number += 1;
        writeln!(out, "\nbegin {number}").unwrap();
        assert_eq!(store.commit(&generation(number)).unwrap(), number);
        writeln!(out, "\ncommitted {number}").unwrap();
    }
}

fn spawn_child(dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture", "--test-threads", "1"])
        .env("VSWITCH_STORE_CHILD", dir)
        .stdout(Stdio::piped());
    command
}

#[test]
fn missing_permission_is_said() {
    use std::os::unix::fs::{PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65534;
    let dir = tempfile::tempdir().unwrap();
    if chown(dir.path(), Some(0), Some(0)).is_err() {
        println!("skipped: only root can become someone else");
        return;
    }
    let state = dir.path().join("state");
    drop(Store::open(&state).unwrap());
    for (mode_of_dir, mode_of_file) in [(0o700, 0o600), (0o755, 0o600)] {
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::set_permissions(&state, PermissionsExt::from_mode(mode_of_dir)).unwrap();
        for file in ["vswitch.redb", "vswitch.lock"] {
            std::fs::set_permissions(state.join(file), PermissionsExt::from_mode(mode_of_file)).unwrap();
        }
        // The binary may be out of that user's reach where it is.
        let binary = dir.path().join("child");
        std::fs::copy(std::env::current_exe().unwrap(), &binary).unwrap();
        let mut command = Command::new(&binary);
        let output = command
            .args(["--exact", "child", "--nocapture"])
            .env("VSWITCH_STORE_CHILD", &state)
            .env("VSWITCH_STORE_ONCE", "1")
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir("/")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let said = text
            .lines()
            .find_map(|line| line.strip_prefix("error "))
            .unwrap_or_else(|| panic!("{text}"));
        assert!(
            said.starts_with(&format!("no permission for the state `{}", state.display())),
            "{said}"
        );
        assert!(said.contains("--state"), "{said}");
    }
}

#[test]
fn a_kill_in_the_middle_of_commits_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = rng();
    let mut total = 0;
    let mut interrupted = 0;
    for round in 0..40 {
        let mut child = spawn_child(dir.path()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed after a few lines, at whatever it is doing then: mostly waiting for the disk in a commit.
        let after = 1 + rng.next_u32() % 12;
        let mut begun = 0;
        let mut committed = 0;
        let mut seen = 0;
        for line in lines.by_ref() {
            note(&line.unwrap(), &mut begun, &mut committed, &mut seen);
            if seen >= after {
                break;
            }
        }
        for _ in 0..rng.next_u32() % 2000 {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            note(&line.unwrap(), &mut begun, &mut committed, &mut seen);
        }
        assert!(seen >= after, "round {round}: the child ended by itself");

        let store = Store::open(dir.path()).unwrap_or_else(|error| panic!("round {round}: {error}"));
        let current = store.current().unwrap().map_or(0, |current| {
            assert_eq!(current.config, generation(current.summary.generation).config);
            current.summary.generation
        });
        assert!(
            (committed.max(total)..=begun.max(total)).contains(&current),
            "round {round}: {committed} was committed, {begun} begun, {current} is there"
        );
        total = current;
        interrupted += u32::from(begun > committed);
    }
    assert!(interrupted > 10, "{interrupted} times a commit was under way");
    assert!(total > 40, "{total} generations in all");
}

fn note(line: &str, begun: &mut u64, committed: &mut u64, seen: &mut u32) {
    match line.split_once(' ') {
        Some(("begin", number)) => *begun = number.parse().unwrap(),
        Some(("committed", number)) => *committed = number.parse().unwrap(),
        Some(("error", error)) => panic!("{error}"),
        _ => return,
    }
    *seen += 1;
}

#[test]
fn a_damaged_file_is_named_or_harmless() {
    const LAST: u64 = 12;
    let template = tempfile::tempdir().unwrap();
    let store = Store::open(template.path()).unwrap();
    for number in 1..=LAST {
        store.commit(&generation(number)).unwrap();
    }
    drop(store);
    let whole = std::fs::read(template.path().join("vswitch.redb")).unwrap();
    let lock = std::fs::read(template.path().join("vswitch.lock")).unwrap();
    let mut rng = rng();
    let mut named = 0;
    let mut harmless = 0;
    for round in 0..300 {
        let mut bytes = whole.clone();
        match round % 3 {
            0 => bytes.truncate(rng.next_u64() as usize % whole.len()),
            1 => {
                let at = rng.next_u64() as usize % whole.len();
                bytes[at] ^= 1 << (rng.next_u32() % 8);
            }
            // Where every octet counts: the header and the first pages.
            _ => {
                let at = rng.next_u64() as usize % 16384.min(whole.len());
                bytes[at] = rng.next_u32() as u8;
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vswitch.redb");
        std::fs::write(&path, &bytes).unwrap();
        std::fs::write(dir.path().join("vswitch.lock"), &lock).unwrap();
        match Store::open(dir.path()) {
            Ok(store) => {
                let current = store.current().unwrap().unwrap();
                assert_eq!(current.summary.generation, LAST, "round {round}");
                assert_eq!(current.config, generation(LAST).config, "round {round}");
                harmless += 1;
            }
            Err(error) => {
                assert!(
                    matches!(error, StoreError::Damaged { .. }),
                    "round {round}: {error:?}"
                );
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                assert!(
                    std::fs::read(&path).unwrap() == bytes,
                    "round {round}: the file was changed"
                );
                named += 1;
            }
        }
    }
    assert!(named > 100 && harmless > 10, "{named} named, {harmless} harmless");
}
