//! A filter that keeps the host's own stack from what a switch port receives.
//!
//! AF_PACKET only copies: the host would answer ARP and route what belongs to the switch. A two-instruction
//! classifier on the device's tcx ingress hook (Linux 6.6) drops every frame after AF_PACKET has seen it.
//! Its link lives as long as its descriptor, so even `kill -9` leaves the device as it was.

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

fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size_of::<T>()` octets of attributes, which live through the call, as do the
    // instructions and the licence that they point to.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made and nothing else owns it; the kernel's descriptors fit an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as libc::c_int) })
}

impl HostFilter {
    /// Attaches the filter to the device of an interface index. Needs CAP_BPF and CAP_NET_ADMIN, and Linux 6.6.
    pub fn attach(interface: u32) -> io::Result<Self> {
        let instructions: [u64; 2] = [MOV_IMMEDIATE_TO_R0 | (TC_ACT_SHOT << 32), EXIT];
        let program = bpf(
            BPF_PROG_LOAD,
            &ProgramLoad {
                prog_type: BPF_PROG_TYPE_SCHED_CLS,
                insn_cnt: instructions.len() as u32,
                insns: instructions.as_ptr() as u64,
                license: c"Apache-2.0".as_ptr() as u64,
                log_level: 0,
                log_size: 0,
                log_buf: 0,
                kern_version: 0,
                prog_flags: 0,
                prog_name: *b"vswitch_host\0\0\0\0",
                prog_ifindex: 0,
                expected_attach_type: 0,
            },
        )?;
        let link = bpf(
            BPF_LINK_CREATE,
            &LinkCreate {
                prog_fd: program.as_raw_fd() as u32,
                target_ifindex: interface,
                attach_type: BPF_TCX_INGRESS,
                flags: 0,
                relative_fd: 0,
                padding: 0,
                expected_revision: 0,
            },
        )?;
        Ok(Self { _link: link })
    }
}
