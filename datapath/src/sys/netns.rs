//! Work inside another network namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// The path of a namespace: a name under `/run/netns`, as `ip netns` keeps them, or a path of its own.
pub fn path(netns: &str) -> PathBuf {
    if netns.contains('/') {
        PathBuf::from(netns)
    } else {
        PathBuf::from("/run/netns").join(netns)
    }
}

/// Runs `work` on a thread of its own inside the namespace; the caller's namespace does not change.
pub fn run_in<T: Send>(netns: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, || {
                // SAFETY: setns takes no pointer; it changes the calling thread only, which ends with `work`.
                super::check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) })?;
                Ok(work())
            })?;
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
