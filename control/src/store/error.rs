//! Why the store cannot be opened, read or written: errors of the system and of redb in the administrator's words.

use std::io;
use std::path::{Path, PathBuf};

use super::FORMAT;

/// The store cannot be opened, read or written. Says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Permission denied.
    #[error("no permission for the state `{}`; run vswitchd as root, or give it a state directory of its own with --state", path.display())]
    Permission {
        /// Which file or directory.
        path: PathBuf,
    },
    /// A second daemon on the same state.
    #[error(
        "the state directory `{}` is in use by another vswitchd{}; stop that one, or give this one a state directory of its own with --state",
        dir.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The other's process id, where known.
        pid: Option<u32>,
    },
    /// The database is damaged.
    #[error(
        "the state file `{}` is damaged ({what}) and was left as it is; bring back a copy of it, or move it away to begin without history",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Written by another version.
    #[error(
        "the state file `{}` has format {found}, this version knows {FORMAT}; use the version that wrote it, or move the file away to begin without history",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
    },
    /// A commit failed, and what it left cannot be looked at.
    #[error(
        "{what}; nor can the state be opened again ({again}): generation {last} is in force, but until a later change is stored the next start may take up this one"
    )]
    Doubt {
        /// Why the commit failed.
        what: String,
        /// Why the state cannot be opened again.
        again: String,
        /// The last generation that is known to be stored.
        last: u64,
    },
    /// Something else is where the state belongs.
    #[error(
        "the state `{}` is {what}, not a {wanted}; put that right, or give vswitchd a state directory of its own with --state",
        path.display()
    )]
    NotThere {
        /// The path.
        path: PathBuf,
        /// What is there.
        what: String,
        /// What belongs there.
        wanted: &'static str,
    },
    /// Any other error of the operating system or the database.
    #[error("the state `{}` cannot be {doing}: {what}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// `read`, `written`, `made` …
        doing: &'static str,
        /// The cause.
        what: String,
    },
}

/// What is at a path that cannot be made or is not found, if that is the reason.
pub(super) fn not_there(path: &Path, wanted: &'static str) -> Option<StoreError> {
    let kind = std::fs::symlink_metadata(path).ok()?.file_type();
    let what = if kind.is_symlink() {
        let target = std::fs::read_link(path).ok()?;
        match std::fs::metadata(path) {
            Ok(_) => format!("a symbolic link to the file `{}`", target.display()),
            Err(_) => format!("a symbolic link to `{}`, which is not there", target.display()),
        }
    } else if kind.is_dir() {
        return None;
    } else {
        "a file".to_owned()
    };
    Some(StoreError::NotThere {
        path: path.to_owned(),
        what,
        wanted,
    })
}

pub(super) fn damaged(path: &Path, what: String) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        what,
    }
}

pub(super) fn os_error(path: &Path, doing: &'static str, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => StoreError::Permission {
            path: path.to_owned(),
        },
        _ => StoreError::Io {
            path: path.to_owned(),
            doing,
            what: error.to_string(),
        },
    }
}

pub(super) fn database_error(path: &Path, doing: &'static str, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(error) => os_error(path, doing, &error),
        redb::Error::DatabaseAlreadyOpen => StoreError::InUse {
            dir: path.parent().unwrap_or(path).to_owned(),
            pid: None,
        },
        redb::Error::Corrupted(what) => damaged(path, what),
        other => StoreError::Io {
            path: path.to_owned(),
            doing,
            what: other.to_string(),
        },
    }
}
