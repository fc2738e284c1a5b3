//! What happens when a guest takes away memory that it shares with the switch.
//!
//! A file can be truncated behind a mapping of it; the next access beyond its end raises SIGBUS, which ends a process that does not
//! handle it. The handler here looks up the address among the watched mappings, maps zeros in place of the whole mapping, marks it broken and
//! returns, so that the access is made again and finds zeros. The worker sees the mark before its next batch and gives the port up. An address that
//! is not watched gets the default action: it is a fault of our own.
//!
//! The handler makes one system call (mmap, which is async-signal-safe in the kernel's terms) and otherwise reads and writes atomics. Watching
//! and unwatching are done by control threads under a lock that the handler does not take.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Mutex, Once, PoisonError};

use super::mapping::Mapping;

/// Most mappings watched at once: all regions that a thousand guests may have ([`super::guest::GuestMemory::MAX_REGIONS`]).
const PLACES: usize = 65_536;

/// One watched mapping; free while `len` is 0.
struct Place {
    /// Odd while the place changes hands: what it says then is of two mappings.
    version: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
    broken: AtomicBool,
}

static TABLE: [Place; PLACES] = [const {
    Place {
        version: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        broken: AtomicBool::new(false),
    }
}; PLACES];

impl Place {
    /// Changes what is watched. The caller holds [`CHANGES`].
    fn set(&self, start: usize, len: usize) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.broken.store(false, Ordering::Relaxed);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// Start and length, if the place is not changing hands: then it is not the one of a mapping in use.
    fn get(&self) -> Option<(usize, usize)> {
        let version = self.version.load(Ordering::Acquire);
        let (start, len) = (
            self.start.load(Ordering::Relaxed),
            self.len.load(Ordering::Relaxed),
        );
        fence(Ordering::Acquire);
        let same = self.version.load(Ordering::Relaxed) == version;
        (same && version.is_multiple_of(2)).then_some((start, len))
    }
}

/// Places that have ever been used: as far as the handler looks.
static USED: AtomicUsize = AtomicUsize::new(0);

static CHANGES: Mutex<()> = Mutex::new(());

/// Watches a mapping until dropped, which must be before the mapping is.
#[derive(Debug)]
pub struct Watch {
    place: usize,
}

impl Watch {
    /// Watches a mapping.
    ///
    /// # Errors
    /// OutOfMemory when too many are watched; what sigaction says.
    pub(super) fn new(mapping: &Mapping) -> io::Result<Self> {
        install()?;
        let start = mapping
            .at(0, mapping.len(), 1)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        let free = TABLE
            .iter()
            .position(|place| place.len.load(Ordering::Relaxed) == 0);
        let index = free.ok_or(io::ErrorKind::OutOfMemory)?;
        TABLE[index].set(start.as_ptr() as usize, mapping.len());
        USED.fetch_max(index + 1, Ordering::Release);
        Ok(Self { place: index })
    }

    /// Whether memory of the mapping was taken away.
    pub fn is_broken(&self) -> bool {
        TABLE[self.place].broken.load(Ordering::Acquire)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _changes = CHANGES.lock().unwrap_or_else(PoisonError::into_inner);
        TABLE[self.place].set(0, 0);
    }
}

fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        // SAFETY: all-zero is a valid sigaction; the fields that matter are set below.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        // SAFETY: the action lives through the call, and its handler keeps to what a handler may do (see the module's head).
        result =
            super::check(unsafe { libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut()) }).map(drop);
    });
    result
}

extern "C" fn handle(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO, and SIGBUS has an address.
    let address = unsafe { (*info).si_addr() } as usize;
    let used = USED.load(Ordering::Acquire).min(PLACES);
    for place in &TABLE[..used] {
        let Some((start, len)) = place.get() else { continue };
        if address.wrapping_sub(start) >= len {
            continue;
        }
        // All of it: one fault is enough, and pages of any size are covered.
        // SAFETY: the range is a mapping of ours, whole and in use (its watch is dropped before it); the access that faulted
        // will find zeros. No Rust reference leads into it.
        let result = unsafe {
            libc::mmap(
                start as *mut libc::c_void,
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if result != libc::MAP_FAILED {
            place.broken.store(true, Ordering::Release);
            return;
        }
    }
    // SAFETY: SIG_DFL for a valid signal; the access is made again and ends the process as it would have.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
}
