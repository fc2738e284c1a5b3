//! What the daemon remembers over a restart beside its configuration: which uplink everything has, and whose guest has announced itself.
//!
//! Written when it changes, by replacing the file; what can't be read counts for nothing. Names of what is there no more are forgotten with the next change.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::teams;

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Remembered {
    /// Which uplink everything has.
    #[serde(default)]
    pub(super) teams: teams::Memory,
    /// Ports with `activation: announce` whose guest has announced itself.
    #[serde(default)]
    pub(super) activated: BTreeSet<String>,
}

/// Octets of the largest file: more than all names of the most ports.
const LARGEST: u64 = 64 << 20;

/// The file, and what is in it.
#[derive(Debug)]
pub(super) struct Memory {
    file: PathBuf,
    written: Remembered,
    /// Nothing is written any more.
    closed: bool,
}

impl Memory {
    /// Reads the file.
    pub(super) fn open(file: PathBuf) -> Self {
        let written = read(&file).unwrap_or_else(|error| {
            tracing::warn!("{}: {error}; ports get their uplinks anew", file.display());
            Remembered::default()
        });
        Self {
            file,
            written,
            closed: false,
        }
    }

    /// What was remembered last.
    pub(super) fn remembered(&self) -> &Remembered {
        &self.written
    }

    /// Writes down what differs from what is there.
    pub(super) fn remember(&mut self, now: Remembered) {
        if self.closed || now == self.written {
            return;
        }
        match write(&self.file, &now) {
            Ok(()) => self.written = now,
            Err(error) => tracing::warn!(
                "{}: {error}; a restart may give ports other uplinks",
                self.file.display()
            ),
        }
    }

    /// The next start goes on from what is written now.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }
}

fn read(file: &Path) -> io::Result<Remembered> {
    // Nothing that keeps its readers waiting, and nothing that would not fit.
    match fs::metadata(file) {
        Ok(metadata) if !metadata.is_file() || metadata.len() > LARGEST => {
            return Err(io::Error::other("it is no file that vswitchd has written"));
        }
        _ => {}
    }
    match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Remembered::default()),
        Err(error) => Err(error),
    }
}

fn write(file: &Path, remembered: &Remembered) -> io::Result<()> {
    let text = serde_json::to_vec(remembered).map_err(io::Error::other)?;
    let new = file.with_extension("new");
    let mut opened = fs::File::create(&new)?;
    opened.write_all(&text)?;
    opened.sync_all()?;
    fs::rename(&new, file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_damaged_file_counts_for_nothing() {
        let state = tempfile::tempdir().unwrap();
        let file = state.path().join("memory.json");
        let mut memory = Memory::open(file.clone());
        assert_eq!(*memory.remembered(), Remembered::default());
        memory.remember(Remembered::default());
        assert!(!file.exists(), "there is nothing to remember");
        let known = Remembered {
            activated: BTreeSet::from(["vm".to_owned()]),
            ..Remembered::default()
        };
        memory.remember(known.clone());
        memory.close();
        memory.remember(Remembered::default());
        assert_eq!(*Memory::open(file.clone()).remembered(), known);
        for text in [
            "",
            "{",
            "[]",
            "{\"activated\": 7}",
            "{\"teams\": {\"ports\": {\"a\": {}}}}",
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(*Memory::open(file.clone()).remembered(), Remembered::default());
        }
        fs::File::create(&file).unwrap().set_len(3 << 30).unwrap();
        assert_eq!(*Memory::open(file.clone()).remembered(), Remembered::default());
        fs::remove_file(&file).unwrap();
        nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(*Memory::open(file.clone()).remembered(), Remembered::default());
    }
}
