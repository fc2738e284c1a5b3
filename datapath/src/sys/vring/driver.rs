//! The driver's side of a ring, for tests: it works on the file behind the guest's memory, by reads and writes only.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::{Layout, Vring, flag};
use crate::sys::guest::{GuestMemory, Region};

/// Where the guest believes its memory to be, and where its hypervisor has it.
pub(crate) const GUEST: u64 = 0x1_0000_0000;
pub(crate) const USER: u64 = 0x7f00_0000_0000;

pub(crate) const DESCRIPTORS: u64 = 0;
pub(crate) const AVAILABLE: u64 = 0x1000;
pub(crate) const USED: u64 = 0x2000;
pub(crate) const TABLES: u64 = 0x8000;
pub(crate) const BUFFERS: u64 = 0x20000;
pub(crate) const MEMORY: u64 = 0x40_0000;

/// The driver's side of one ring.
pub(crate) struct Driver {
    pub(crate) file: File,
    pub(crate) size: u16,
    pub(crate) available: u16,
    pub(crate) used: u16,
    /// The next free octet for buffers, and descriptor.
    pub(crate) buffer: u64,
    pub(crate) descriptor: u16,
    pub(crate) table: u64,
}

impl Driver {
    pub(crate) fn new(size: u16, base: u16) -> Self {
        let file = crate::sys::unix::memory(MEMORY).unwrap();
        let driver = Self {
            file,
            size,
            available: base,
            used: base,
            buffer: BUFFERS,
            descriptor: 0,
            table: TABLES,
        };
        driver.write(AVAILABLE + 2, &base.to_le_bytes());
        driver.write(USED + 2, &base.to_le_bytes());
        driver
    }

    pub(crate) fn memory(&self) -> Arc<GuestMemory> {
        let region = Region {
            guest: GUEST,
            user: USER,
            len: MEMORY,
            offset: 0,
            file: self.file.try_clone().unwrap(),
        };
        Arc::new(GuestMemory::map(&[region]).unwrap())
    }

    pub(crate) fn layout(&self, mergeable: bool) -> Layout {
        Layout {
            size: self.size,
            descriptors: USER + DESCRIPTORS,
            available: USER + AVAILABLE,
            used: USER + USED,
            base: self.available,
            event_index: false,
            mergeable,
            legacy: false,
        }
    }

    pub(crate) fn ring(&self, mergeable: bool) -> Vring {
        Vring::new(self.memory(), &self.layout(mergeable), None).unwrap()
    }

    pub(crate) fn write(&self, at: u64, bytes: &[u8]) {
        self.file.write_all_at(bytes, at).unwrap();
    }

    pub(crate) fn read(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, at).unwrap();
        bytes
    }

    pub(crate) fn u16_at(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.read(at, 2).try_into().unwrap())
    }

    pub(crate) fn descriptor(&self, table: u64, index: u16, addr: u64, len: u32, flags: u16, next: u16) {
        let mut bytes = addr.to_le_bytes().to_vec();
        bytes.extend(len.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.write(table + 16 * u64::from(index), &bytes);
    }

    /// Makes a chain of buffers available. Returns its head, and where each buffer lies.
    pub(crate) fn offer(
        &mut self,
        lens: &[usize],
        writable: bool,
        indirect: bool,
    ) -> (u16, Vec<(u64, usize)>) {
        let flags = if writable { flag::WRITE } else { 0 };
        let head = self.descriptor;
        let (table, first) = if indirect {
            let table = self.table;
            self.table += 16 * lens.len() as u64;
            self.descriptor(
                DESCRIPTORS,
                head,
                GUEST + table,
                16 * lens.len() as u32,
                flag::INDIRECT,
                0,
            );
            self.descriptor += 1;
            (table, 0)
        } else {
            self.descriptor += lens.len() as u16;
            (DESCRIPTORS, head)
        };
        let mut places = Vec::new();
        for (index, len) in lens.iter().enumerate() {
            let number = first + index as u16;
            let next = if index + 1 < lens.len() { flag::NEXT } else { 0 };
            self.descriptor(
                table,
                number,
                GUEST + self.buffer,
                *len as u32,
                flags | next,
                number + 1,
            );
            places.push((self.buffer, *len));
            self.buffer += *len as u64;
        }
        self.announce(head);
        (head, places)
    }

    pub(crate) fn announce(&mut self, head: u16) {
        let slot = u64::from(self.available % self.size);
        self.write(AVAILABLE + 4 + 2 * slot, &head.to_le_bytes());
        self.available = self.available.wrapping_add(1);
        self.write(AVAILABLE + 2, &self.available.to_le_bytes());
    }

    /// What the device has used since the last call: heads and lengths.
    pub(crate) fn take_used(&mut self) -> Vec<(u32, u32)> {
        let index = self.u16_at(USED + 2);
        let mut used = Vec::new();
        while self.used != index {
            let entry = self.read(USED + 4 + 8 * u64::from(self.used % self.size), 8);
            let word = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
            used.push((word(0), word(4)));
            self.used = self.used.wrapping_add(1);
        }
        used
    }
}
