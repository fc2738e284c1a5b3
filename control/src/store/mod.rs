//! The desired state and its history: one embedded database (redb) under the daemon's state directory.
//!
//! Each commit is a generation: a number that only grows, the configuration as JSON, and who wanted it, when and why. A commit is durable
//! when [`Store::commit`] returns; a crash at any moment before leaves the generation before. A rollback is a commit like any other.
//!
//! Files of the state directory:
//! - `vswitch.redb`, the database. It comes into being under another name and is renamed once it is complete.
//! - `vswitch.lock`, locked (`flock`) while a daemon runs on the directory. It names that daemon's process, and the last generation that was committed:
//!   a database that lacks it has been damaged or replaced.
//!
//! A damaged database is never taken up: [`Store::open`] first checks a copy of it in memory, against redb's checksums. The open store
//! does not check again when it has to open the database anew after a refused read or write.
//!
//! Thread rule: all methods may be called from any thread; commits wait for each other.

mod check;
mod error;
mod lock;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::check::is_checking;
pub use self::error::StoreError;

use self::check::check;
use self::error::{damaged, database_error, not_there, os_error};
use self::lock::LockFile;

/// Form of what is stored.
const FORMAT: u64 = 1;
/// How many generations are kept.
pub const KEEP: usize = 1000;
/// How many octets of generations are kept, but always the last one; it bounds what an opening has to read.
pub const KEEP_OCTETS: usize = 64 << 20;
/// Memory for redb's cache; its default is made for larger databases.
const CACHE: usize = 4 << 20;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const GENERATIONS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("generations");

/// What is to be committed.
#[derive(Clone, Debug, PartialEq)]
pub struct NewGeneration {
    /// The configuration, as [`crate::config::Config::to_value`] gives it.
    pub config: Value,
    /// When, milliseconds since the Unix epoch.
    pub unix_millis: u64,
    /// Who asked for it: `uid 0`, or `file`.
    pub author: String,
    /// What was asked: `apply switch.yaml`, `port add vm4`, `rollback to 3`.
    pub comment: String,
    /// Number of differences to the generation before.
    pub changes: usize,
}

/// A generation without its configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its number, from 1.
    pub generation: u64,
    /// When it was committed, milliseconds since the Unix epoch.
    pub unix_millis: u64,
    /// Who asked for it.
    pub author: String,
    /// What was asked.
    pub comment: String,
    /// Number of differences to the generation before.
    pub changes: usize,
}

/// A committed generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Generation {
    /// All but the configuration.
    pub summary: Summary,
    /// The configuration.
    pub config: Value,
}

/// A row of the database. The configuration comes last, so that a summary is found in front.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Row<C> {
    time: u64,
    author: String,
    comment: String,
    changes: usize,
    config: C,
}

impl<C> Row<C> {
    fn split(self, generation: u64) -> (Summary, C) {
        let summary = Summary {
            generation,
            unix_millis: self.time,
            author: self.author,
            comment: self.comment,
            changes: self.changes,
        };
        (summary, self.config)
    }
}

/// How much history is kept.
#[derive(Clone, Copy, Debug)]
struct Keep {
    generations: usize,
    octets: usize,
}

/// The open store. The directory is locked until it is dropped.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// `None` after the system refused a read or a write, such as on a full disk: redb asks for a new opening then, which the next
    /// use does.
    database: Mutex<Option<Database>>,
    keep: Keep,
    /// The last generation whose commit has not failed.
    last: AtomicU64,
    lock: LockFile,
}

impl Store {
    /// Opens the store of a state directory, which is made if it is not there.
    ///
    /// # Errors
    /// One sentence for each of: no permission, another daemon on the directory, a damaged file, a file of another version.
    /// Nothing is changed then.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let keep = Keep {
            generations: KEEP,
            octets: KEEP_OCTETS,
        };
        Self::open_with(dir, keep)
    }

    fn open_with(dir: &Path, keep: Keep) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir)
            .map_err(|error| not_there(dir, "directory").unwrap_or_else(|| os_error(dir, "made", &error)))?;
        let (lock, witness) = LockFile::take(dir)?;
        let path = dir.join("vswitch.redb");
        match std::fs::metadata(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => match not_there(&path, "file") {
                Some(error) => return Err(error),
                None => create(dir, &path)?,
            },
            Err(error) => return Err(os_error(&path, "read", &error)),
        }
        check(&path, witness)?;
        let database = builder()
            .open(&path)
            .map_err(|error| database_error(&path, "opened", error.into()))?;
        let store = Self {
            path,
            database: Mutex::new(Some(database)),
            keep,
            last: AtomicU64::new(u64::MAX),
            lock,
        };
        let last = store
            .current()?
            .map_or(0, |generation| generation.summary.generation);
        store.last.store(last, Relaxed);
        store.lock.note(last);
        Ok(store)
    }

    /// The database's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Commits a generation and returns its number, once it is durable. The oldest generations beyond [`KEEP`] are forgotten.
    ///
    /// # Errors
    /// When the disk is full or fails; the generation before stays the current one.
    pub fn commit(&self, new: &NewGeneration) -> Result<u64, StoreError> {
        let row = Row {
            time: new.unix_millis,
            author: new.author.clone(),
            comment: new.comment.clone(),
            changes: new.changes,
            config: &new.config,
        };
        let row = serde_json::to_vec(&row).map_err(|error| StoreError::Io {
            path: self.path.clone(),
            doing: "written",
            what: error.to_string(),
        })?;
        let generation = match self.write(&row) {
            Ok(generation) => generation,
            Err(error) => {
                let error = database_error(&self.path, "written", error);
                // Opens the database again, which takes back what may have been stored all the same.
                return Err(match self.with(|_| Ok(())) {
                    Ok(()) => error,
                    Err(again) => StoreError::Doubt {
                        what: error.to_string(),
                        again: again.to_string(),
                        last: self.last.load(Relaxed),
                    },
                });
            }
        };
        self.last.store(generation, Relaxed);
        self.lock.note(generation);
        Ok(generation)
    }

    fn read<T>(
        &self,
        with: impl FnOnce(
            &redb::ReadOnlyTable<&'static str, u64>,
            &redb::ReadOnlyTable<u64, &'static [u8]>,
        ) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        self.with(|database| read(database, with))
    }

    /// Works with the database, which is opened again where that is needed.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let mut slot = self
            .database
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let database = match slot.take() {
            Some(database) => database,
            None => {
                let database = builder().open(&self.path)?;
                take_back(&database, self.last.load(Relaxed))?;
                database
            }
        };
        let result = work(&database);
        if !matches!(result, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            *slot = Some(database);
        }
        result
    }

    fn write(&self, row: &[u8]) -> Result<u64, redb::Error> {
        self.with(|database| self.write_to(database, row))
    }

    fn write_to(&self, database: &Database, row: &[u8]) -> Result<u64, redb::Error> {
        let transaction = database.begin_write()?;
        let generation;
        {
            let mut meta = transaction.open_table(META)?;
            let last = meta.get("last")?.map_or(0, |last| last.value());
            generation = last + 1;
            meta.insert("last", generation)?;
            let mut table = transaction.open_table(GENERATIONS)?;
            table.insert(generation, row)?;
            let mut count = 0;
            let mut octets = 0;
            let mut oldest = generation;
            for entry in table.iter()?.rev() {
                let (number, row) = entry?;
                count += 1;
                octets += row.value().len();
                if count > self.keep.generations
                    || (octets > self.keep.octets && number.value() != generation)
                {
                    break;
                }
                oldest = number.value();
            }
            table.retain_in(..oldest, |_, _| false)?;
        }
        transaction.commit()?;
        Ok(generation)
    }

    /// The last committed generation; `None` before the first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn current(&self) -> Result<Option<Generation>, StoreError> {
        let last = self
            .read(|_, table| Ok(table.last()?.map(|(number, _)| number.value())))
            .map_err(|error| database_error(&self.path, "read", error))?;
        last.map_or(Ok(None), |last| self.get(last))
    }

    /// One generation; `None` if there never was one of that number, or it is forgotten.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn get(&self, generation: u64) -> Result<Option<Generation>, StoreError> {
        let row = self
            .read(|_, table| Ok(table.get(generation)?.map(|row| row.value().to_vec())))
            .map_err(|error| database_error(&self.path, "read", error))?;
        let Some(row) = row else {
            return Ok(None);
        };
        let row: Row<Value> = serde_json::from_slice(&row)
            .map_err(|error| damaged(&self.path, format!("generation {generation}: {error}")))?;
        let (summary, config) = row.split(generation);
        Ok(Some(Generation { summary, config }))
    }

    /// All generations kept, the newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn history(&self) -> Result<Vec<Summary>, StoreError> {
        let rows = self
            .read(|_, table| {
                let mut rows = Vec::new();
                for entry in table.iter()?.rev() {
                    let (number, row) = entry?;
                    let row: Result<Row<serde::de::IgnoredAny>, _> = serde_json::from_slice(row.value());
                    rows.push((number.value(), row));
                }
                Ok(rows)
            })
            .map_err(|error| database_error(&self.path, "read", error))?;
        rows.into_iter()
            .map(|(number, row)| match row {
                Ok(row) => Ok(row.split(number).0),
                Err(error) => Err(damaged(&self.path, format!("generation {number}: {error}"))),
            })
            .collect()
    }
}

/// Removes what came after the generation `last`: a commit may fail at its last step and be on the disk nevertheless, and the next
/// start would take up what nobody was told of.
fn take_back(database: &Database, last: u64) -> Result<(), redb::Error> {
    let newest = read(database, |meta, _| {
        Ok(meta.get("last")?.map_or(0, |newest| newest.value()))
    })?;
    if newest <= last {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    {
        transaction.open_table(META)?.insert("last", last)?;
        transaction
            .open_table(GENERATIONS)?
            .retain_in(last + 1.., |_, _| false)?;
    }
    transaction.commit()?;
    tracing::warn!(
        "generation {newest} was stored although its commit failed, and was taken back; {last} is the last one"
    );
    Ok(())
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

/// Makes an empty database. It appears under its name whole or not at all.
fn create(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let unfinished = dir.join("vswitch.redb.new");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(os_error(&unfinished, "removed", &error));
        }
        _ => {}
    }
    let fill = || -> Result<(), redb::Error> {
        let database = builder().create(&unfinished)?;
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert("format", FORMAT)?;
        transaction.open_table(GENERATIONS)?;
        transaction.commit()?;
        Ok(())
    };
    fill().map_err(|error| database_error(&unfinished, "made", error))?;
    std::fs::rename(&unfinished, path)
        .and_then(|()| File::open(dir)?.sync_all())
        .map_err(|error| os_error(path, "made", &error))
}

fn read<T>(
    database: &Database,
    with: impl FnOnce(
        &redb::ReadOnlyTable<&'static str, u64>,
        &redb::ReadOnlyTable<u64, &'static [u8]>,
    ) -> Result<T, redb::Error>,
) -> Result<T, redb::Error> {
    let transaction = database.begin_read()?;
    with(
        &transaction.open_table(META)?,
        &transaction.open_table(GENERATIONS)?,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(store: &Store, octets: usize) {
        let new = NewGeneration {
            config: Value::String("x".repeat(octets)),
            unix_millis: 0,
            author: String::new(),
            comment: String::new(),
            changes: 0,
        };
        store.commit(&new).unwrap();
    }

    fn kept(store: &Store) -> Vec<u64> {
        store
            .history()
            .unwrap()
            .iter()
            .map(|row| row.generation)
            .collect()
    }

    #[test]
    fn history_is_bounded_in_generations() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep {
            generations: 3,
            octets: KEEP_OCTETS,
        };
        let store = Store::open_with(dir.path(), keep).unwrap();
        for _ in 0..5 {
            commit(&store, 10);
        }
        assert_eq!(kept(&store), [5, 4, 3]);
        assert!(store.get(2).unwrap().is_none());
        assert!(store.get(3).unwrap().is_some());
    }

    #[test]
    fn what_is_no_state_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let says = |path: &Path, words: &str| {
            let error = Store::open(path).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        };
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        says(&file, "is a file, not a directory");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("/nonexistent/state", &link).unwrap();
        says(
            &link,
            "a symbolic link to `/nonexistent/state`, which is not there",
        );
        let state = dir.path().join("state");
        std::fs::create_dir(&state).unwrap();
        std::os::unix::fs::symlink("/nonexistent/db", state.join("vswitch.redb")).unwrap();
        says(&state, "a symbolic link to `/nonexistent/db`, which is not there");
        assert!(state.join("vswitch.redb").is_symlink(), "it is left as it is");
    }

    #[test]
    fn what_was_told_to_have_failed_is_not_taken_up() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        commit(&store, 10);
        let full = || redb::Error::Io(io::Error::from(io::ErrorKind::StorageFull));
        let written = store.with(|database| {
            store.write_to(
                database,
                br#"{"time":0,"author":"","comment":"","changes":0,"config":0}"#,
            )?;
            Err::<(), _>(full())
        });
        assert!(written.is_err());
        assert_eq!(kept(&store), [1]);
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(kept(&store), [1]);
        commit(&store, 10);
        assert_eq!(kept(&store), [2, 1]);
    }

    #[test]
    fn a_refused_write_costs_that_write_only() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        commit(&store, 10);
        let full = || redb::Error::Io(io::Error::from(io::ErrorKind::StorageFull));
        assert!(store.with(|_| Err::<(), _>(full())).is_err());
        assert!(store.database.lock().unwrap().is_none(), "it is opened anew");
        commit(&store, 10);
        assert_eq!(kept(&store), [2, 1]);
    }

    #[test]
    fn history_is_bounded_in_octets_but_the_last_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let keep = Keep {
            generations: KEEP,
            octets: 100_000,
        };
        let store = Store::open_with(dir.path(), keep).unwrap();
        for _ in 0..3 {
            commit(&store, 40_000);
        }
        assert_eq!(kept(&store), [3, 2]);
        commit(&store, 200_000);
        assert_eq!(kept(&store), [4]);
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(
            store.current().unwrap().unwrap().config.as_str().unwrap().len(),
            200_000
        );
    }
}
