//! Eventfds that another process made and shares with the switch (vhost-user: a ring's kick and call).
//!
//! The other side may pass any descriptor, and may change flags and counter of one that it shares at any time. A worker that waited for one would
//! stand still for all ports. So only eventfds are taken; those that tell us something are waited for by their edges
//! ([`super::poll::Poller::add_edge`]), so that they need not be read; and a signal is given by way of asynchronous I/O (io_submit(2)), whose
//! completions the kernel signals by eventfds without ever waiting, while write(2) waits where the flag O_NONBLOCK is off and the counter is full.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

/// Takes a descriptor that is said to be an eventfd.
///
/// # Errors
/// InvalidInput if it is something else; what reading /proc and fcntl say.
pub fn adopt(file: &File) -> io::Result<()> {
    // proc(5): what the kernel tells of a descriptor depends on what it is.
    let facts = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))?;
    if !facts.lines().any(|line| line.starts_with("eventfd-count:")) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a descriptor for notifications is no eventfd",
        ));
    }
    // For where there is no asynchronous I/O.
    // SAFETY: fcntl with F_GETFL takes no pointer; the descriptor is open.
    let flags = super::check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: fcntl with F_SETFL takes no pointer; the descriptor is open.
    super::check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Signals an eventfd. Never waits: a counter that is full is a signal that was not taken yet, which is as good.
pub fn signal(file: &File) {
    static QUEUE: OnceLock<Option<Queue>> = OnceLock::new();
    let queue = QUEUE.get_or_init(|| {
        let queue = Queue::new();
        if let Err(error) = &queue {
            tracing::warn!(
                %error,
                "there is no asynchronous I/O: a hypervisor that means harm can stop a worker by the descriptor that it is to be told by"
            );
        }
        queue.ok()
    });
    match queue {
        Some(queue) => queue.signal(file),
        None => drop((&mut &*file).write(&1u64.to_ne_bytes())),
    }
}

/// `struct iocb` of <linux/aio_abi.h>, as little-endian machines have it; what is 0 here is 0 on all.
#[repr(C)]
#[derive(Default)]
struct Request {
    data: u64,
    key_and_flags: u64,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    octets: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// `struct io_event`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Completion([u64; 4]);

/// A queue of asynchronous I/O, for reads of nothing: they complete at once, and that is signalled.
struct Queue {
    context: libc::c_ulong,
    null: File,
}

impl Queue {
    /// Completions that have not been taken at most.
    const DEPTH: libc::c_int = 128;

    /// `IOCB_CMD_PREAD`
    const READ: u16 = 0;

    /// `IOCB_FLAG_RESFD`
    const TELL: u32 = 1;

    fn new() -> io::Result<Self> {
        let null = File::open("/dev/null")?;
        let mut context: libc::c_ulong = 0;
        // SAFETY: the context lives through the call, which writes it.
        let result = unsafe { libc::syscall(libc::SYS_io_setup, Self::DEPTH, &mut context) };
        super::check(result as libc::c_int)?;
        Ok(Self { context, null })
    }

    fn signal(&self, file: &File) {
        /// Each one that fails makes room; other workers may take it.
        const ATTEMPTS: usize = 100;
        let mut request = Request {
            opcode: Self::READ,
            file: self.null.as_raw_fd() as u32,
            flags: Self::TELL,
            eventfd: file.as_raw_fd() as u32,
            ..Request::default()
        };
        let mut list = [&raw mut request];
        for _ in 0..ATTEMPTS {
            // SAFETY: the context is one that io_setup made; the list of one and the request outlive the call, and nothing of the request
            // is used after it: a read of no octets from /dev/null is over when it returns.
            let submitted = unsafe { libc::syscall(libc::SYS_io_submit, self.context, 1, list.as_mut_ptr()) };
            if submitted == 1 || io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN) {
                return;
            }
            self.take_completions();
        }
    }

    fn take_completions(&self) {
        let mut completions = [Completion::default(); Self::DEPTH as usize];
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the context is one that io_setup made, and there is room for as many completions as are asked for.
        unsafe {
            libc::syscall(
                libc::SYS_io_getevents,
                self.context,
                0,
                completions.len(),
                completions.as_mut_ptr(),
                &now,
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::{FromRawFd, OwnedFd};

    use super::*;
    use crate::sys::poll::Poller;

    fn eventfd(flags: libc::c_int) -> File {
        // SAFETY: eventfd takes no pointer, and the descriptor it makes is nobody else's.
        File::from(unsafe { OwnedFd::from_raw_fd(libc::eventfd(0, flags)) })
    }

    fn count(mut file: &File) -> u64 {
        let mut octets = [0; 8];
        file.read_exact(&mut octets).unwrap();
        u64::from_ne_bytes(octets)
    }

    #[test]
    fn signals_are_counted_and_none_waits_for_a_full_counter() {
        let file = eventfd(0);
        for _ in 0..1000 {
            signal(&file);
        }
        assert_eq!(count(&file), 1000);
        // A blocking one: write(2) would wait for ever.
        (&file).write_all(&(u64::MAX - 1).to_ne_bytes()).unwrap();
        signal(&file);
        signal(&file);
        assert!(count(&file) >= u64::MAX - 1);
    }

    #[test]
    fn a_signal_is_an_edge() {
        let file = eventfd(libc::EFD_SEMAPHORE);
        let mut poller = Poller::new(4).unwrap();
        poller.add_edge(std::os::fd::AsFd::as_fd(&file), 7).unwrap();
        let mut ready = || {
            poller.wait(Some(std::time::Duration::ZERO)).unwrap();
            poller.len()
        };
        assert_eq!(ready(), 0);
        (&file).write_all(&1000u64.to_ne_bytes()).unwrap();
        assert_eq!(ready(), 1);
        assert_eq!(ready(), 0, "though nobody has read it");
        (&file).write_all(&1u64.to_ne_bytes()).unwrap();
        assert_eq!(ready(), 1);
    }

    #[test]
    fn nothing_else_is_taken() {
        let (reader, writer) = io::pipe().unwrap();
        // SAFETY: epoll_create1 takes no pointer, and the descriptor it makes is nobody else's.
        let epoll = unsafe { OwnedFd::from_raw_fd(libc::epoll_create1(0)) };
        for file in [
            File::open("/dev/null").unwrap(),
            tempfile::tempfile().unwrap(),
            File::from(epoll),
            File::from(OwnedFd::from(reader)),
            File::from(OwnedFd::from(writer)),
            File::from(OwnedFd::from(std::os::unix::net::UnixStream::pair().unwrap().0)),
        ] {
            assert_eq!(adopt(&file).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        adopt(&eventfd(0)).unwrap();
    }
}
