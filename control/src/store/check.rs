//! Whether a database can be trusted. It is looked at in a copy in memory: redb repairs what it opens, and a damaged file is to
//! be left as it is.

use std::cell::Cell;
use std::fs::OpenOptions;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{ReadableTable, StorageBackend};

use super::error::{StoreError, damaged, os_error};
use super::{FORMAT, builder, read};

/// A larger file is not this store's: twice what is kept, and what the database adds to it.
const MAX_FILE: u64 = 1 << 30;

thread_local! {
    static CHECKING: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread looks at a database that may be damaged: a panic is an answer then, and no defect to log.
pub fn is_checking() -> bool {
    CHECKING.get()
}

/// Looks at a copy of the database in memory: are its checksums right, is it of a known format, does it have the last generation?
pub(super) fn check(path: &Path, witness: u64) -> Result<(), StoreError> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| os_error(path, "opened", &error))?;
    let mut bytes = Vec::new();
    let len = (&file)
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| os_error(path, "read", &error))?;
    if len as u64 > MAX_FILE {
        return Err(damaged(path, "it is far too large".to_owned()));
    }
    // redb asserts what it relies on; on a damaged file an assertion may fail before a checksum does.
    CHECKING.set(true);
    let checked = catch_unwind(AssertUnwindSafe(|| inspect(&bytes)));
    CHECKING.set(false);
    let (format, last) = match checked {
        Ok(Ok(seen)) => seen,
        Ok(Err(what)) => return Err(damaged(path, what)),
        Err(_) => return Err(damaged(path, "its pages contradict each other".to_owned())),
    };
    if format != FORMAT {
        return Err(StoreError::Format {
            path: path.to_owned(),
            found: format,
        });
    }
    if last < witness {
        let what = format!("generation {witness} was committed, and {last} is the last one in it");
        return Err(damaged(path, what));
    }
    Ok(())
}

/// Format and last generation of a database.
fn inspect(bytes: &[u8]) -> Result<(u64, u64), String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let backend = InMemoryBackend::new();
    backend
        .set_len(bytes.len() as u64)
        .and_then(|()| backend.write(0, bytes))
        .map_err(|error| error.to_string())?;
    // With octets in it the backend is an existing database to redb.
    let mut database = builder()
        .create_with_backend(backend)
        .map_err(|error| error.to_string())?;
    match database.check_integrity() {
        Ok(true) => {}
        Ok(false) => return Err("a checksum is wrong".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    read(&database, |meta, table| {
        let format = meta.get("format")?.map_or(0, |format| format.value());
        let last = meta.get("last")?.map_or(0, |last| last.value());
        let newest = table.last()?.map_or(0, |(number, _)| number.value());
        if last != newest {
            return Err(redb::Error::Corrupted(format!("generation {last} is missing")));
        }
        Ok((format, last))
    })
    .map_err(|error| error.to_string())
}
