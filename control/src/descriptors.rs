//! File descriptors (getrlimit(2), RLIMIT_NOFILE): each queue of each port takes some, and so does each client of the API.
//!
//! A configuration may name more ports than the limit allows. Ports are opened with [`Reserve`] held, so they can't take the
//! descriptors that the API and the store need: whoever applied too much can still be told so, and apply less.
//!
//! Threads: any; the limit is the process's.

use std::fs::File;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many descriptors ports leave free: more than all connections of the API at a time, and some for the store and the
/// host's settings.
pub const RESERVED: usize = 192;

/// Allows as many descriptors as the system lets this process have. The soft limit is low for programs that use
/// select(2), which this one doesn't.
pub fn raise_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft == hard {
            return Ok(());
        }
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    });
    if let Err(error) = raised {
        tracing::warn!("the limit of open files stays as it is: {error}");
    }
}

/// The limit as it is.
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft)
}

/// [`RESERVED`] descriptors, which are nobody else's until this is dropped.
#[derive(Debug)]
pub struct Reserve {
    _held: Vec<File>,
}

impl Reserve {
    /// Takes them.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take() -> io::Result<Self> {
        let first = File::open("/dev/null")?;
        let mut held = Vec::with_capacity(RESERVED);
        while held.len() + 1 < RESERVED {
            held.push(first.try_clone()?);
        }
        held.push(first);
        Ok(Self { _held: held })
    }
}
