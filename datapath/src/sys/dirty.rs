//! The log of written pages that live migration asks for (vhost-user, "Migration"; `VHOST_F_LOG_ALL`).
//!
//! A bitmap in memory shared with the front-end, one bit for each page of guest memory. The front-end takes bits while we set them, so
//! they are set atomically, and after what they speak of was written: a page that is copied too early is copied again. Pages beyond the
//! bitmap are not logged; a front-end that made it too small loses its own guest's octets.
//!
//! One value for all rings of a guest; any worker may mark.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use super::mapping::Mapping;
use super::sigbus::Watch;

/// log2 of `VHOST_LOG_PAGE`
const PAGE: u32 = 12;

/// Octets of the largest bitmap: for 64 TiB of guest memory.
const MAX_LEN: u64 = 1 << 31;

/// The bitmap.
#[derive(Debug)]
pub struct DirtyLog {
    base: NonNull<u8>,
    /// Octets.
    len: usize,
    watch: Watch,
    _mapping: Mapping,
}

// SAFETY: the pointer leads into a mapping that the value holds; all access is atomic and checked against the length.
unsafe impl Send for DirtyLog {}
// SAFETY: as above.
unsafe impl Sync for DirtyLog {}

impl DirtyLog {
    /// Maps `len` octets at `offset` of a file.
    ///
    /// # Errors
    /// InvalidInput if the file has not so much, or it is more than any guest needs; what mmap says.
    pub fn map(file: &File, offset: u64, len: u64) -> io::Result<Self> {
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidInput, what);
        let end = offset.checked_add(len).filter(|_| len <= MAX_LEN && len > 0);
        let end = end.ok_or(invalid("the log of written pages has an impossible length"))?;
        if file.metadata()?.len() < end {
            return Err(invalid("the log of written pages is longer than its file"));
        }
        let too_long = || invalid("the log of written pages is too long");
        let size = usize::try_from(end).map_err(|_| too_long())?;
        let mapping = Mapping::of_file(file.as_fd(), size)?;
        let (start, len) = (size - len as usize, len as usize);
        let base = mapping.at(start, len, 1).ok_or_else(too_long)?;
        let watch = Watch::new(&mapping)?;
        Ok(Self {
            base,
            len,
            watch,
            _mapping: mapping,
        })
    }

    /// Says that `len` octets from the guest address `start` on were written.
    pub fn mark(&self, start: u64, len: usize) {
        let Some(last) = (len as u64).checked_sub(1) else {
            return;
        };
        for page in start >> PAGE..=start.saturating_add(last) >> PAGE {
            let Some(at) = usize::try_from(page / 8).ok().filter(|at| *at < self.len) else {
                return;
            };
            // SAFETY: `at` is below the length of the bitmap, which lies in the mapping.
            let octet = unsafe { AtomicU8::from_ptr(self.base.as_ptr().add(at)) };
            octet.fetch_or(1 << (page % 8), Ordering::SeqCst);
        }
    }

    /// Whether the front-end has taken its memory away.
    pub fn is_broken(&self) -> bool {
        self.watch.is_broken()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn pages_are_marked_and_none_beyond_the_end() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x2000).unwrap();
        let log = DirtyLog::map(&file, 0x1000, 2).unwrap();
        log.mark(0, 0);
        log.mark(0x0fff, 1);
        log.mark(0x2fff, 2);
        log.mark(0x9000, 0x3000);
        log.mark(0xf000, 0x10000);
        log.mark(u64::MAX, 10);
        let mut octets = [0; 0x2000];
        file.read_exact_at(&mut octets, 0).unwrap();
        assert_eq!(octets[0x1000..0x1002], [0b0000_1101, 0b1000_1110]);
        assert_eq!(octets.iter().filter(|octet| **octet != 0).count(), 2);
        assert!(!log.is_broken());
        file.set_len(0).unwrap();
        log.mark(0, 1);
        assert!(log.is_broken());
    }

    #[test]
    fn impossible_logs_are_refused() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x1000).unwrap();
        for (offset, len) in [(0, 0), (0, 0x1001), (0x1000, 1), (u64::MAX, 1), (0, u64::MAX)] {
            let error = DirtyLog::map(&file, offset, len).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
