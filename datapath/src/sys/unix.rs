//! What std does not have for Unix stream sockets.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

/// Reads what comes next, up to the length of `to`, and leaves it to be read again. Waits for the first octet; 0 at the end.
///
/// # Errors
/// What recv says.
pub fn peek(stream: &UnixStream, to: &mut [u8]) -> io::Result<usize> {
    // SAFETY: `to` has room for `to.len()` octets and outlives the call; the descriptor is open.
    let len = unsafe {
        libc::recv(
            stream.as_raw_fd(),
            to.as_mut_ptr().cast(),
            to.len(),
            libc::MSG_PEEK,
        )
    };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn what_was_peeked_at_is_read_again() {
        let (mut near, mut far) = UnixStream::pair().unwrap();
        far.write_all(b"octets").unwrap();
        let mut octets = [0; 10];
        assert_eq!(peek(&near, &mut octets[..3]).unwrap(), 3);
        assert_eq!(peek(&near, &mut octets).unwrap(), 6);
        assert_eq!(near.read(&mut octets).unwrap(), 6);
        assert_eq!(&octets[..6], b"octets");
        drop(far);
        assert_eq!(peek(&near, &mut octets).unwrap(), 0);
    }
}
