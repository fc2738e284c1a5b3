//! The memory of a guest, which its switch maps as well.
//!
//! Every access goes through vm-memory, which checks its bounds: the benchmarks have no unsafe code of their own.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU16;

use anyhow::{Context, Result};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::mmap::MmapRegion;
use vm_memory::{ByteValued, FileOffset, VolatileMemory};

/// Octets of a huge page.
const PAGE: usize = 2 << 20;

/// Where the memory begins in the guest, and in the address space that the vhost-user protocol speaks of.
const BASE: u64 = 1 << 32;

/// Memory in huge pages, which are what a guest's memory should be in for speed.
#[derive(Debug)]
pub struct Memory {
    region: MmapRegion<()>,
    file: File,
}

impl Memory {
    /// At least so many octets, all zero.
    pub fn new(octets: usize) -> Result<Self> {
        let octets = octets.next_multiple_of(PAGE);
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        let file = File::from(memfd_create("guest", flags).context("no memory in huge pages")?);
        file.set_len(octets as u64)?;
        let region = MmapRegion::from_file(FileOffset::new(file.try_clone()?, 0), octets)
            .context("no memory in huge pages can be mapped; is vm.nr_hugepages large enough?")?;
        Ok(Self { region, file })
    }

    /// As a switch is told of it.
    pub fn info(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: BASE,
            memory_size: self.region.size() as u64,
            userspace_addr: BASE,
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    /// The address of an octet.
    pub fn address(offset: usize) -> u64 {
        BASE + offset as u64
    }

    /// Writes a value, as one access if it is of a machine's word size.
    #[inline]
    pub fn write<T: ByteValued>(&self, offset: usize, value: T) -> Result<()> {
        self.region.get_ref(offset)?.store(value);
        Ok(())
    }

    /// Reads a value.
    #[inline]
    pub fn read<T: ByteValued>(&self, offset: usize) -> Result<T> {
        Ok(self.region.get_ref(offset)?.load())
    }

    /// Writes octets.
    pub fn write_all(&self, offset: usize, octets: &[u8]) -> Result<()> {
        self.region.get_slice(offset, octets.len())?.copy_from(octets);
        Ok(())
    }

    /// A number that the switch reads or writes at any time.
    #[inline]
    pub fn shared(&self, offset: usize) -> Result<&AtomicU16> {
        Ok(self.region.get_atomic_ref(offset)?)
    }
}
