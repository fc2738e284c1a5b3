//! The configuration file and what was last made of it.
//!
//! Both the file and the API change the one desired state. At the start the file counts only if it has changed since
//! it last counted: then its owner has edited it, and it is applied as a new generation. Otherwise the store's current
//! generation is in force, with what the API has changed since. What the file said when it last counted is kept in the
//! state directory, as a value: a comment or another order of words is no change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::config::{ValidConfig, text};

/// The file, and the note of what it said.
#[derive(Clone, Debug)]
pub struct ConfigFile {
    path: PathBuf,
    note: PathBuf,
}

impl ConfigFile {
    /// The file at `path`, with its note in the state directory.
    pub fn new(path: &Path, state: &Path) -> Self {
        Self {
            path: path.to_owned(),
            note: state.join("config-file.json"),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it now.
    pub fn read(&self) -> io::Result<String> {
        text::read_file(&self.path)
    }

    /// Whether `config`, read from the file, differs from what it said when it last counted.
    pub fn has_changed(&self, config: &ValidConfig) -> bool {
        let noted: Option<Value> = fs::read(&self.note)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        noted.is_none_or(|noted| noted != config.config().to_value())
    }

    /// Notes that the file counted with this content.
    pub fn note(&self, config: &ValidConfig) {
        let new = self.note.with_extension("new");
        let written = fs::write(&new, config.config().to_value().to_string())
            .and_then(|()| fs::rename(&new, &self.note));
        if let Err(error) = written {
            tracing::warn!(
                "{}: {error}; the next start applies {} again",
                self.note.display(),
                self.path.display()
            );
        }
    }

    /// Notes that what the file says was applied through the API, if it is what the file says.
    pub fn note_if_same(&self, config: &ValidConfig) {
        if let Ok(text) = self.read()
            && let Ok(own) = text::load(&text)
            && own.config() == config.config()
        {
            self.note(config);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "version: 1\nswitches: { vs0: { mtu: 1500 } }\n";

    #[test]
    fn only_an_edited_file_counts_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("switch.yaml");
        let file = ConfigFile::new(&path, dir.path());
        let load = |text: &str| text::load(text).unwrap();
        assert!(file.has_changed(&load(TEXT)));
        file.note(&load(TEXT));
        assert!(!file.has_changed(&load(&format!("# a comment\n{TEXT}"))));
        let edited = TEXT.replace("1500", "9000");
        assert!(file.has_changed(&load(&edited)));

        fs::write(&path, &edited).unwrap();
        file.note_if_same(&load(TEXT));
        assert!(file.has_changed(&load(&edited)));
        file.note_if_same(&load(&edited));
        assert!(!file.has_changed(&load(&edited)));
    }
}
