//! The XDP program of an AF_XDP port: every frame goes to the socket of the queue that it came in by.
//!
//! A frame of a queue without a socket is dropped, not passed: the host's stack must not see a switch port's traffic, as behind
//! AF_PACKET ports ([`crate::sys::bpf::HostFilter`]). So are all frames from the moment that the program is attached until the
//! sockets are in its map. The program goes with the descriptor of its link, however the process ends.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use crate::sys::bpf;

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
/// The program takes frames in several buffers (Linux 5.18).
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const XDP_DROP: u64 = 1;

/// The head of `union bpf_attr` for BPF_MAP_CREATE, up to `map_name`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// The head of `union bpf_attr` for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Where in the kernel a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel makes a buffer of its own for the frame.
    Native,
    /// Behind the driver, for those that don't run programs.
    Generic,
}

/// A program attached to a device, until dropped.
#[derive(Debug)]
pub struct Program {
    map: OwnedFd,
    _link: OwnedFd,
    mode: Mode,
}

/// `r2 = rx_queue_index; r1 = sockets; r3 = XDP_DROP; return bpf_redirect_map(r1, r2, r3)`
///
/// The octets of an instruction: code, destination and source register (four bits each), offset, immediate.
fn instructions(map: BorrowedFd<'_>) -> [u64; 6] {
    const LOAD_WORD: u64 = 0x61;
    const LOAD_IMMEDIATE: u64 = 0x18;
    const MOVE_IMMEDIATE: u64 = 0xb7;
    const CALL: u64 = 0x85;
    const EXIT: u64 = 0x95;
    /// Says that the immediate value is a map's descriptor.
    const MAP_FD: u64 = 1;
    const RX_QUEUE_INDEX: u64 = 16;
    const REDIRECT_MAP: u64 = 51;
    let instruction = |code: u64, to: u64, from: u64, offset: u64, value: u64| {
        code | to << 8 | from << 12 | offset << 16 | value << 32
    };
    [
        instruction(LOAD_WORD, 2, 1, RX_QUEUE_INDEX, 0),
        instruction(LOAD_IMMEDIATE, 1, MAP_FD, 0, map.as_raw_fd() as u64),
        0, // the upper half of the immediate value
        instruction(MOVE_IMMEDIATE, 3, 0, 0, XDP_DROP),
        instruction(CALL, 0, 0, 0, REDIRECT_MAP),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

impl Program {
    /// Attaches a program with room for the sockets of `queues` queues to the device of index `interface`: natively, or
    /// generically where the driver doesn't run this program. Needs CAP_BPF and CAP_NET_ADMIN, and Linux 5.9.
    ///
    /// # Errors
    /// EBUSY or EEXIST if another program is attached.
    pub fn attach(interface: u32, queues: u32) -> io::Result<Self> {
        let map = bpf::bpf(
            BPF_MAP_CREATE,
            &MapCreate {
                map_type: BPF_MAP_TYPE_XSKMAP,
                key_size: size_of::<u32>() as u32,
                value_size: size_of::<u32>() as u32,
                max_entries: queues,
                map_flags: 0,
                inner_map_fd: 0,
                numa_node: 0,
                map_name: *b"vswitch_xsk\0\0\0\0\0",
            },
        )?;
        let instructions = instructions(std::os::fd::AsFd::as_fd(&map));
        let load = |flags| bpf::load(BPF_PROG_TYPE_XDP, *b"vswitch_xdp\0\0\0\0\0", flags, &instructions);
        let program = match load(BPF_F_XDP_HAS_FRAGS) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => load(0)?,
            loaded => loaded?,
        };
        let attach = |flags| bpf::attach(&program, interface, BPF_XDP, flags);
        let (link, mode) = match attach(XDP_FLAGS_DRV_MODE) {
            Ok(link) => (link, Mode::Native),
            Err(error) if refuses_all(&error) => return Err(error),
            Err(native) => {
                tracing::debug!(interface, %native, "the driver does not run the XDP program");
                (attach(XDP_FLAGS_SKB_MODE)?, Mode::Generic)
            }
        };
        Ok(Self {
            map,
            _link: link,
            mode,
        })
    }

    /// Where it runs.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Has the frames of a queue go to a socket that is bound to it.
    pub fn direct(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = socket.as_raw_fd() as u32;
        let update = MapUpdate {
            map_fd: self.map.as_raw_fd() as u32,
            padding: 0,
            key: (&raw const queue) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        };
        bpf::call(BPF_MAP_UPDATE_ELEM, &update).map(drop)
    }
}

/// Errors that generic mode wouldn't help with.
fn refuses_all(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBUSY | libc::EEXIST | libc::EPERM | libc::EACCES | libc::ENODEV | libc::EMFILE)
    )
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_program_is_these_octets() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let fd = file.as_raw_fd() as u8;
        let octets: Vec<u8> = instructions(file.as_fd())
            .iter()
            .flat_map(|instruction| instruction.to_le_bytes())
            .collect();
        // As `llvm-objdump -d` prints them.
        #[rustfmt::skip]
        let wanted = [
            0x61, 0x12, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, // r2 = *(u32 *)(r1 + 16)
            0x18, 0x11, 0x00, 0x00, fd,   0x00, 0x00, 0x00, // r1 = map ll
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
            0xb7, 0x03, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, // r3 = 1
            0x85, 0x00, 0x00, 0x00, 0x33, 0x00, 0x00, 0x00, // call 51
            0x95, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // exit
        ];
        assert_eq!(octets, wanted);
    }
}
