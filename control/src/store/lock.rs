//! The lock file of a state directory, and what it witnesses: who holds it, and which generation was committed last.
//!
//! The witness makes a database that was replaced by an older one stand out. It is no more than that: where it cannot be read or
//! written, a generation counts all the same.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::error::{StoreError, os_error};

/// Longer than anything that is written here; what is longer is not read.
const LONGEST: u64 = 128;

/// The lock on a state directory, held until it is dropped.
#[derive(Debug)]
pub(super) struct LockFile {
    path: PathBuf,
    file: Mutex<File>,
}

impl LockFile {
    /// Locks a state directory; returns the generation that was committed last too, 0 where nothing tells.
    pub(super) fn take(dir: &Path) -> Result<(Self, u64), StoreError> {
        let path = dir.join("vswitch.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| os_error(&path, "opened", &error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::InUse {
                    dir: dir.to_owned(),
                    pid: noted(&mut file, "pid").and_then(|pid| pid.try_into().ok()),
                });
            }
            Err(TryLockError::Error(error)) => return Err(os_error(&path, "locked", &error)),
        }
        let last = noted(&mut file, "generation").unwrap_or(0);
        let file = Mutex::new(file);
        Ok((Self { path, file }, last))
    }

    /// Notes who holds the lock and what was committed last.
    pub(super) fn note(&self, generation: u64) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let text = format!("pid {}\ngeneration {generation}\n", std::process::id());
        let written = file
            .rewind()
            .and_then(|()| file.write_all(text.as_bytes()))
            .and_then(|()| file.set_len(text.len() as u64));
        if let Err(error) = written {
            tracing::warn!("`{}` cannot be written: {error}", self.path.display());
        }
    }
}

/// A number noted in the lock file.
fn noted(file: &mut File, word: &str) -> Option<u64> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    // A line counts only whole: a crash may have cut it.
    let lines = text
        .split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'));
    lines
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == word)?
        .1
        .parse()
        .ok()
}
