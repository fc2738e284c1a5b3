//! Eventfds that another process made and shares with the switch (vhost-user: a ring's kick and call).
//!
//! The other side may pass any descriptor, and may change the flags of one that it shares at any time. A worker that waited on it would stand still
//! for all ports. So only anonymous inodes are taken, which excludes pipes, sockets, terminals and files; they are set to non-blocking, for honest
//! front-ends that did not care; and they are read by calls that never wait, whatever their flags are by then. What remains: a front-end that
//! clears the flag and fills the counter to its maximum stops the worker that tells it something, as there is no such call for writing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;

/// Takes a descriptor that is said to be an eventfd.
///
/// # Errors
/// InvalidInput if it is something else; what fstat and fcntl say.
pub fn adopt(file: &File) -> io::Result<()> {
    // Anonymous inodes have no type.
    if file.metadata()?.mode() & libc::S_IFMT != 0 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a descriptor for notifications is no eventfd",
        ));
    }
    // SAFETY: fcntl with F_GETFL takes no pointer; the descriptor is open.
    let flags = super::check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: fcntl with F_SETFL takes no pointer; the descriptor is open.
    super::check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Takes the signals that wait, if there are any.
pub fn clear(file: &File) {
    let mut octets = [0u8; 8];
    let part = libc::iovec {
        iov_base: octets.as_mut_ptr().cast(),
        iov_len: octets.len(),
    };
    // SAFETY: the one part has room for its 8 octets and outlives the call; the descriptor is open. What was read is of no interest, and
    // that nothing was there neither.
    unsafe { libc::preadv2(file.as_raw_fd(), &part, 1, -1, libc::RWF_NOWAIT) };
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::{FromRawFd, OwnedFd};

    use super::*;

    #[test]
    fn a_blocking_eventfd_is_read_without_waiting() {
        // SAFETY: eventfd takes no pointer, and the descriptor it makes is nobody else's.
        let file = File::from(unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, 0)) });
        clear(&file);
        (&file).write_all(&1u64.to_ne_bytes()).unwrap();
        clear(&file);
        clear(&file);
        adopt(&file).unwrap();
        // It does not wait when written to either, though its counter is full.
        (&file).write_all(&(u64::MAX - 1).to_ne_bytes()).unwrap();
        assert!((&file).write_all(&1u64.to_ne_bytes()).is_err());
        clear(&file);
        (&file).write_all(&1u64.to_ne_bytes()).unwrap();
    }

    #[test]
    fn nothing_else_is_taken() {
        let (reader, writer) = io::pipe().unwrap();
        for file in [
            File::open("/dev/null").unwrap(),
            tempfile::tempfile().unwrap(),
            File::from(OwnedFd::from(reader)),
            File::from(OwnedFd::from(writer)),
            File::from(OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0)),
        ] {
            assert_eq!(adopt(&file).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
