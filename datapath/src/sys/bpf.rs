//! BPF programs (bpf(2)) assembled here, and held by links that end with their descriptors: even `kill -9` leaves a device as it was.
//!
//! [`HostFilter`] keeps the host's own stack from what a switch port receives by AF_PACKET; the program of AF_XDP ports is
//! in [`super::xdp::program`].
//!
//! AF_PACKET only copies: the host would answer ARP and route what belongs to the switch. A two-instruction
//! classifier on the device's tcx ingress hook (Linux 6.6) drops every frame after AF_PACKET has seen it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_TCX_INGRESS: u32 = 46;
const TC_ACT_SHOT: u64 = 2;
const MOV_IMMEDIATE_TO_R0: u64 = 0xb7;
const EXIT: u64 = 0x95;

/// The head of `union bpf_attr` for BPF_PROG_LOAD, up to `attach_prog_fd`.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The head of `union bpf_attr` for BPF_LINK_CREATE with its `tcx` part.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
    relative_fd: u32,
    padding: u32,
    expected_revision: u64,
}

/// Keeps the host's stack from a device until dropped.
#[derive(Debug)]
pub struct HostFilter {
    _link: OwnedFd,
}

/// A command that makes a descriptor.
pub(super) fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: the descriptor was just made and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Any command.
pub(super) fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the kernel reads `size_of::<T>()` octets of attributes, which live through the call, as does what they
    // point to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // Descriptors fit an int, and the other commands return 0.
    Ok(result as libc::c_int)
}

/// Loads a program.
pub(super) fn load(kind: u32, name: [u8; 16], flags: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let load = ProgramLoad {
        prog_type: kind,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        prog_flags: flags,
        prog_name: name,
        ..ProgramLoad::default()
    };
    bpf(BPF_PROG_LOAD, &load)
}

/// Attaches a program to a netdev until the link's descriptor is closed.
pub(super) fn attach(program: &OwnedFd, interface: u32, hook: u32, flags: u32) -> io::Result<OwnedFd> {
    let link = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: interface,
        attach_type: hook,
        flags,
        ..LinkCreate::default()
    };
    bpf(BPF_LINK_CREATE, &link)
}

impl HostFilter {
    /// Attaches the filter to the device of an interface index. Needs CAP_BPF and CAP_NET_ADMIN, and Linux 6.6.
    pub fn attach(interface: u32) -> io::Result<Self> {
        let instructions: [u64; 2] = [MOV_IMMEDIATE_TO_R0 | (TC_ACT_SHOT << 32), EXIT];
        let program = load(
            BPF_PROG_TYPE_SCHED_CLS,
            *b"vswitch_host\0\0\0\0",
            0,
            &instructions,
        )?;
        let link = attach(&program, interface, BPF_TCX_INGRESS, 0)?;
        Ok(Self { _link: link })
    }
}
