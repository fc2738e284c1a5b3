//! The lock file of a state directory, and what it witnesses: who holds it, and which generation was committed last.
//!
//! The witness makes a database that was replaced by an older one stand out. It is no more than that: where it cannot be read or
//! written, a generation counts all the same.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::{StoreError, os_error};

/// Longer than anything that is written here; what is longer is not read.
const LONGEST: u64 = 128;

/// How long to wait for a process that is ending, and how often to look: the kernel takes its devices down before it lets go of its locks.
const PATIENCE: Duration = Duration::from_secs(3);
const APART: Duration = Duration::from_millis(10);

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
        let begin = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    let pid = noted(&mut file, "pid").and_then(|pid| pid.try_into().ok());
                    if !pid.is_some_and(is_ending) || begin.elapsed() > PATIENCE {
                        return Err(StoreError::InUse {
                            dir: dir.to_owned(),
                            pid,
                        });
                    }
                    std::thread::sleep(APART);
                }
                Err(TryLockError::Error(error)) => return Err(os_error(&path, "locked", &error)),
            }
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

/// Whether a process is gone or about to: then it has no memory left, and so no command line.
fn is_ending(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).map_or(true, |line| line.is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn write_pid(dir: &Path, pid: u32) {
        std::fs::write(dir.join("vswitch.lock"), format!("pid {pid}\n")).unwrap();
    }

    #[test]
    fn a_holder_that_ends_is_waited_for_and_one_that_lives_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vswitch.lock");
        let mut ended = std::process::Command::new("true").spawn().unwrap();
        ended.wait().unwrap();
        write_pid(dir.path(), ended.id());
        let held = File::open(&path).unwrap();
        held.lock().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Let go of once it is waited for: it is open twice then.
                let opened = || {
                    let files = std::fs::read_dir("/proc/self/fd").unwrap();
                    files
                        .filter_map(|file| std::fs::read_link(file.ok()?.path()).ok())
                        .filter(|file| *file == path)
                        .count()
                };
                let begin = Instant::now();
                while opened() < 2 && begin.elapsed() < PATIENCE {
                    std::thread::yield_now();
                }
                held.unlock().unwrap();
            });
            LockFile::take(dir.path()).expect("its holder has ended");
        });
        write_pid(dir.path(), std::process::id());
        held.lock().unwrap();
        let refused = LockFile::take(dir.path()).unwrap_err();
        assert!(refused.to_string().contains(&std::process::id().to_string()));
    }
}
