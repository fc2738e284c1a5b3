//! Waiting for work: epoll over the queues of a worker, and an eventfd that wakes it.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Wakes a worker from another thread.
#[derive(Debug)]
pub struct Waker(File);

impl Waker {
    /// A waker that is not signalled.
    pub fn new() -> io::Result<Self> {
        // SAFETY: eventfd takes no pointer.
        let fd = super::check(unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and nothing else owns it.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Signals. Fails only when the counter would overflow, which is a signal that was not taken yet: as good.
    pub fn wake(&self) {
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Takes all signals.
    pub fn clear(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }

    /// What to wait for.
    pub fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.0)
    }
}

/// A set of descriptors to wait for, each with a number of the caller's; level-triggered unless asked otherwise.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    ready: Vec<libc::epoll_event>,
}

impl Poller {
    /// A set that returns at most `capacity` (not 0) numbers at once.
    pub fn new(capacity: usize) -> io::Result<Self> {
        assert!(capacity > 0, "epoll_wait wants room for one event at the least");
        // SAFETY: epoll_create1 takes no pointer.
        let fd = super::check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor was just made and nothing else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            epoll,
            ready: Vec::with_capacity(capacity),
        })
    }

    /// Waits for `fd` too. It must be removed before it is closed.
    pub fn add(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        self.add_for(libc::EPOLLIN, fd, number)
    }

    /// As [`Self::add`], but it is ready once whenever it becomes readable, or more so (EPOLLET).
    pub fn add_edge(&self, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        self.add_for(libc::EPOLLIN | libc::EPOLLET, fd, number)
    }

    fn add_for(&self, events: libc::c_int, fd: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: events as u32,
            u64: number,
        };
        // SAFETY: both descriptors are open, borrowed through the call; the event lives through it.
        let result = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                fd.as_raw_fd(),
                &mut event,
            )
        };
        super::check(result).map(drop)
    }

    /// Waits for room to write to `fd` as well, or no more.
    pub fn wait_for_room(&self, fd: BorrowedFd<'_>, number: u64, wanted: bool) -> io::Result<()> {
        let room = if wanted { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event {
            events: (libc::EPOLLIN | room) as u32,
            u64: number,
        };
        // SAFETY: both descriptors are open, borrowed through the call; the event lives through it.
        let result = unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_MOD,
                fd.as_raw_fd(),
                &mut event,
            )
        };
        super::check(result).map(drop)
    }

    /// What is readable while any of them is ready: a set may be waited for in another.
    pub fn fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.epoll)
    }

    /// Waits for `fd` no more.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: both descriptors are open, borrowed through the call; the event lives through it.
        unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                fd.as_raw_fd(),
                &mut event,
            )
        };
    }

    /// Fills the set of ready numbers; waits up to `timeout`, or for ever. A signal ends the wait with none ready.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let millis = timeout.map_or(-1, |t| i32::try_from(t.as_millis()).unwrap_or(i32::MAX));
        self.ready.clear();
        let room = i32::try_from(self.ready.capacity()).unwrap_or(i32::MAX);
        // SAFETY: the vector has room for `room` events and is not touched during the call.
        let result =
            unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), self.ready.as_mut_ptr(), room, millis) };
        match super::check(result) {
            Ok(count) => {
                // SAFETY: the kernel wrote `count` events, and count <= room <= capacity.
                unsafe { self.ready.set_len((count as usize).min(room as usize)) };
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How many were ready at the last [`Poller::wait`].
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    /// The number of the `index`-th ready descriptor.
    pub fn ready(&self, index: usize) -> u64 {
        self.ready[index].u64
    }
}
