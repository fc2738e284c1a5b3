//! The front-end's side of vhost-user, by hand: messages as octets, memory as a file, rings written entry by entry, so that each of them
//! can be wrong. See QEMU's docs/interop/vhost-user.rst for the messages and VirtIO 1.2, section 2.7, for the rings.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::frame::marked;
use crate::wait::{BOUND, wait_for};

/// Requests of the protocol.
pub mod request {
    /// `VHOST_USER_GET_FEATURES`
    pub const GET_FEATURES: u32 = 1;
    /// `VHOST_USER_SET_FEATURES`
    pub const SET_FEATURES: u32 = 2;
    /// `VHOST_USER_SET_OWNER`
    pub const SET_OWNER: u32 = 3;
    /// `VHOST_USER_SET_MEM_TABLE`
    pub const SET_MEM_TABLE: u32 = 5;
    /// `VHOST_USER_SET_LOG_BASE`
    pub const SET_LOG_BASE: u32 = 6;
    /// `VHOST_USER_SET_VRING_NUM`
    pub const SET_VRING_NUM: u32 = 8;
    /// `VHOST_USER_SET_VRING_ADDR`
    pub const SET_VRING_ADDR: u32 = 9;
    /// `VHOST_USER_SET_VRING_BASE`
    pub const SET_VRING_BASE: u32 = 10;
    /// `VHOST_USER_GET_VRING_BASE`
    pub const GET_VRING_BASE: u32 = 11;
    /// `VHOST_USER_SET_VRING_KICK`
    pub const SET_VRING_KICK: u32 = 12;
    /// `VHOST_USER_SET_VRING_CALL`
    pub const SET_VRING_CALL: u32 = 13;
    /// `VHOST_USER_GET_PROTOCOL_FEATURES`
    pub const GET_PROTOCOL_FEATURES: u32 = 15;
    /// `VHOST_USER_SET_PROTOCOL_FEATURES`
    pub const SET_PROTOCOL_FEATURES: u32 = 16;
    /// `VHOST_USER_SET_VRING_ENABLE`
    pub const SET_VRING_ENABLE: u32 = 18;
    /// `VHOST_USER_GET_MAX_MEM_SLOTS`
    pub const GET_MAX_MEM_SLOTS: u32 = 36;
    /// `VHOST_USER_ADD_MEM_REG`
    pub const ADD_MEM_REG: u32 = 37;
    /// `VHOST_USER_REM_MEM_REG`
    pub const REM_MEM_REG: u32 = 38;
    /// The last one there is.
    pub const LAST: u32 = 44;
}

/// Where the guest believes its memory to be.
pub const GUEST: u64 = 0x1_0000_0000;
/// Where its hypervisor has it.
pub const USER: u64 = 0x7f00_0000_0000;
/// Octets of its memory.
pub const MEMORY: u64 = 0x80_0000;
/// Entries of its rings.
pub const SIZE: u16 = 256;

/// The ring that leads to the guest.
pub const TO_GUEST: usize = 0;
/// The ring that comes from the guest.
pub const FROM_GUEST: usize = 1;

/// `VIRTQ_DESC_F_NEXT`
pub const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`
pub const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`
pub const INDIRECT: u16 = 4;

/// `VIRTIO_F_VERSION_1` and `VHOST_USER_F_PROTOCOL_FEATURES`
pub const FEATURES: u64 = 1 << 32 | 1 << 30;

/// Octets of the header in front of each frame.
const HEADER: usize = 12;
/// Octets of each buffer.
const BUFFER: u64 = 2048;

/// Where the parts of a ring lie in memory.
pub fn descriptors(ring: usize) -> u64 {
    0x10000 * ring as u64
}

/// The available ring.
pub fn available(ring: usize) -> u64 {
    descriptors(ring) + 0x1000
}

/// The used ring.
pub fn used(ring: usize) -> u64 {
    descriptors(ring) + 0x2000
}

/// The buffer of a descriptor.
pub fn buffer(ring: usize, number: u16) -> u64 {
    0x10_0000 * (1 + ring as u64) + BUFFER * u64::from(number)
}

/// One region of memory, as `SET_MEM_TABLE` has it.
pub fn region(guest: u64, len: u64, user: u64, offset: u64) -> Vec<u8> {
    [guest, len, user, offset].map(u64::to_ne_bytes).concat()
}

/// A front-end and its guest.
#[derive(Debug)]
pub struct FrontEnd {
    /// The connection.
    pub stream: UnixStream,
    /// The guest's memory.
    pub memory: File,
    /// What each ring's guest tells by.
    pub kicks: [EventFd; 2],
    /// What the switch tells each ring's guest by.
    pub calls: [EventFd; 2],
    /// Available and used index of each ring.
    indices: [(u16, u16); 2],
}

/// An eventfd.
pub fn eventfd() -> EventFd {
    EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
        .expect("an eventfd can be made")
}

impl FrontEnd {
    /// Connects, and says nothing.
    ///
    /// # Panics
    /// If nobody listens.
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).expect("the switch listens");
        for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            set(&stream, Some(BOUND)).expect("the bound is not zero");
        }
        let memory = memfd_create("guest", MFdFlags::MFD_CLOEXEC).expect("a memfd can be made");
        let memory = File::from(memory);
        memory.set_len(MEMORY).expect("memory can be had");
        Self {
            stream,
            memory,
            kicks: [eventfd(), eventfd()],
            calls: [eventfd(), eventfd()],
            indices: [(0, 0); 2],
        }
    }

    /// Connects and brings both rings up, the one to the guest full of buffers.
    ///
    /// # Panics
    /// If the switch refuses.
    pub fn running(path: &Path) -> Self {
        let mut guest = Self::connect(path);
        guest.negotiate();
        guest.share();
        for ring in [TO_GUEST, FROM_GUEST] {
            guest.start(ring);
        }
        guest
    }

    /// Sends a message. False if the connection has ended.
    ///
    /// # Panics
    /// If the switch does not read.
    pub fn try_send(&self, request: u32, flags: u32, body: &[u8], files: &[RawFd]) -> bool {
        let mut octets = Vec::with_capacity(12 + body.len());
        for word in [request, flags, body.len() as u32] {
            octets.extend(word.to_ne_bytes());
        }
        octets.extend(body);
        self.try_send_octets(&octets, files)
    }

    /// Sends octets as they are. False if the connection has ended.
    pub fn try_send_octets(&self, octets: &[u8], files: &[RawFd]) -> bool {
        let files = [ControlMessage::ScmRights(files)];
        let files = if matches!(files[0], ControlMessage::ScmRights([])) {
            &files[..0]
        } else {
            &files[..]
        };
        let part = [IoSlice::new(octets)];
        sendmsg::<()>(
            self.stream.as_raw_fd(),
            &part,
            files,
            MsgFlags::MSG_NOSIGNAL,
            None,
        )
        .is_ok()
    }

    /// Sends a message. That a connection has ended shows in what follows.
    pub fn send(&self, request: u32, body: &[u8], files: &[RawFd]) {
        self.try_send(request, 1, body, files);
    }

    /// Sends two words about a ring.
    pub fn send_state(&self, request: u32, ring: usize, value: u32) {
        let body = [(ring as u32).to_ne_bytes(), value.to_ne_bytes()].concat();
        self.send(request, &body, &[]);
    }

    /// The number in the next answer.
    ///
    /// # Panics
    /// If none comes.
    pub fn answer(&self) -> u64 {
        let mut octets = [0; 20];
        (&self.stream)
            .read_exact(&mut octets)
            .expect("the switch answers");
        u64::from_ne_bytes(octets[12..].try_into().expect("8 octets"))
    }

    /// Settles the features.
    ///
    /// # Panics
    /// If the switch lacks one.
    pub fn negotiate(&self) {
        self.negotiate_with(0, 0);
    }

    /// Settles the features, these among them.
    ///
    /// # Panics
    /// If the switch lacks one.
    pub fn negotiate_with(&self, features: u64, protocol: u64) {
        let features = FEATURES | features;
        self.send(request::SET_OWNER, &[], &[]);
        self.send(request::GET_FEATURES, &[], &[]);
        assert_eq!(self.answer() & features, features);
        self.send(request::GET_PROTOCOL_FEATURES, &[], &[]);
        assert_eq!(self.answer() & protocol, protocol);
        self.send(request::SET_PROTOCOL_FEATURES, &protocol.to_ne_bytes(), &[]);
        self.send(request::SET_FEATURES, &features.to_ne_bytes(), &[]);
    }

    /// Shares the memory in one region.
    pub fn share(&self) {
        self.share_as(&[(region(GUEST, MEMORY, USER, 0), self.memory.as_raw_fd())]);
    }

    /// Shares so much more memory, behind the first region: descriptors reach it from [`MEMORY`] on.
    ///
    /// # Panics
    /// If there is none.
    pub fn share_more(&self, more: u64) {
        self.memory.set_len(MEMORY + more).expect("memory can be had");
        self.share_as(&[(region(GUEST, MEMORY + more, USER, 0), self.file())]);
    }

    /// Shares memory in these regions.
    pub fn share_as(&self, regions: &[(Vec<u8>, RawFd)]) {
        let mut body = (regions.len() as u64).to_ne_bytes().to_vec();
        regions.iter().for_each(|(region, _)| body.extend(region));
        let files: Vec<RawFd> = regions.iter().map(|(_, file)| *file).collect();
        self.send(request::SET_MEM_TABLE, &body, &files);
    }

    /// Describes a ring's place.
    pub fn send_addresses(&self, ring: usize, flags: u32, log: u64) {
        let mut body = [(ring as u32).to_ne_bytes(), flags.to_ne_bytes()].concat();
        for at in [descriptors(ring), used(ring), available(ring)] {
            body.extend((USER + at).to_ne_bytes());
        }
        body.extend(log.to_ne_bytes());
        self.send(request::SET_VRING_ADDR, &body, &[]);
    }

    /// Brings a ring up.
    pub fn start(&mut self, ring: usize) {
        if ring == TO_GUEST {
            for number in 0..SIZE - 1 {
                self.offer(ring, number, buffer(ring, number), BUFFER as u32, WRITE, 0);
            }
        }
        let number = (ring as u64).to_ne_bytes();
        self.send_state(request::SET_VRING_NUM, ring, SIZE.into());
        self.send_state(request::SET_VRING_BASE, ring, 0);
        self.send_addresses(ring, 0, 0);
        self.send(request::SET_VRING_CALL, &number, &[self.calls[ring].as_raw_fd()]);
        self.send(request::SET_VRING_KICK, &number, &[self.kicks[ring].as_raw_fd()]);
        self.send_state(request::SET_VRING_ENABLE, ring, 1);
    }

    /// Writes a descriptor.
    pub fn describe(&self, ring: usize, number: u16, at: u64, len: u32, flags: u16, next: u16) {
        let mut octets = GUEST.wrapping_add(at).to_le_bytes().to_vec();
        octets.extend(len.to_le_bytes());
        octets.extend(flags.to_le_bytes());
        octets.extend(next.to_le_bytes());
        self.write(descriptors(ring) + 16 * u64::from(number), &octets);
    }

    /// Makes a buffer available.
    pub fn offer(&mut self, ring: usize, number: u16, at: u64, len: u32, flags: u16, next: u16) {
        self.describe(ring, number, at, len, flags, next);
        self.announce(ring, number);
    }

    /// Makes a chain available whose head is written.
    pub fn announce(&mut self, ring: usize, head: u16) {
        let index = &mut self.indices[ring].0;
        let at = available(ring) + 4 + 2 * u64::from(*index % SIZE);
        *index = index.wrapping_add(1);
        let index = *index;
        self.write(at, &head.to_le_bytes());
        self.set_available(ring, index);
    }

    /// Sets the available index, which may run ahead.
    pub fn set_available(&self, ring: usize, index: u16) {
        self.write(available(ring) + 2, &index.to_le_bytes());
    }

    /// Tells the switch of new buffers.
    pub fn kick(&self, ring: usize) {
        // Fails only when it is signalled already.
        let _ = self.kicks[ring].write(1);
    }

    /// Writes to the guest's memory.
    ///
    /// # Panics
    /// If there is none left.
    pub fn write(&self, at: u64, octets: &[u8]) {
        self.memory.write_all_at(octets, at).expect("it is our memory");
    }

    /// The used index.
    ///
    /// # Panics
    /// If memory is gone.
    pub fn used_index(&self, ring: usize) -> u16 {
        let mut octets = [0; 2];
        self.read(used(ring) + 2, &mut octets);
        u16::from_le_bytes(octets)
    }

    /// Sends a frame through the switch, and waits until its buffer is used.
    ///
    /// # Panics
    /// If it is not.
    pub fn transmit(&mut self, frame: &[u8]) {
        let number = self.indices[FROM_GUEST].0 % SIZE;
        let at = buffer(FROM_GUEST, number);
        self.write(at, &[&[0; HEADER], frame].concat());
        self.offer(FROM_GUEST, number, at, (HEADER + frame.len()) as u32, 0, 0);
        self.kick(FROM_GUEST);
        let index = self.indices[FROM_GUEST].0;
        wait_for("a sent frame is used", BOUND, || {
            (self.used_index(FROM_GUEST) == index).then_some(())
        });
    }

    /// A frame with this mark, if one has come; gives all buffers back.
    ///
    /// # Panics
    /// If the switch has used what it was not given.
    pub fn try_receive(&mut self, mark: u32) -> Option<Vec<u8>> {
        while self.used_index(TO_GUEST) != self.indices[TO_GUEST].1 {
            let entry = used(TO_GUEST) + 4 + 8 * u64::from(self.indices[TO_GUEST].1 % SIZE);
            let mut octets = [0; 8];
            self.read(entry, &mut octets);
            let word = |at: usize| u32::from_le_bytes(octets[at..at + 4].try_into().expect("4 octets"));
            let (number, len) = (word(0) as u16, word(4) as usize);
            assert!(
                number < SIZE && len <= BUFFER as usize,
                "buffer {number}, {len} octets"
            );
            let mut frame = vec![0; len];
            self.read(buffer(TO_GUEST, number), &mut frame);
            self.indices[TO_GUEST].1 = self.indices[TO_GUEST].1.wrapping_add(1);
            self.announce(TO_GUEST, number);
            frame.drain(..HEADER.min(len));
            if marked(&frame, mark) {
                return Some(frame);
            }
        }
        None
    }

    fn read(&self, at: u64, octets: &mut [u8]) {
        self.memory.read_exact_at(octets, at).expect("it is our memory");
    }

    /// Whether the switch has told of used buffers in this ring since it was asked last.
    pub fn was_called(&self, ring: usize) -> bool {
        self.calls[ring].read().is_ok()
    }

    /// Descriptor of the memory.
    pub fn file(&self) -> RawFd {
        self.memory.as_raw_fd()
    }
}
