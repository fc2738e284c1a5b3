//! Which devices AF_XDP suits, and how they are opened.

use std::fs;
use std::io;
use std::sync::Arc;

use super::{BATCH, FRAME_COST, KERNEL_HEADROOM, Port, TRANSMIT, XdpQueue};
use crate::io::xdp::umems::{Mode, Umems};
use crate::io::{OpenError, PacketSpec, Queue};
use crate::sys::xdp::program::{self, Program};
use crate::sys::xdp::socket::BoundTo;
use crate::sys::xdp::umem::CHUNK;
use crate::sys::{ethtool, packet};

/// The longest frame that the kernel receives into one chunk.
const LONGEST: usize = CHUNK - KERNEL_HEADROOM;

/// How long a system call may poll a device that is to be polled, microseconds; each of ours polls it once at most.
const BUSY_POLL: u32 = 20;

/// An Ethernet header with two VLAN tags.
const HEADER: usize = 22;

/// What sysfs tells of a netdev.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    /// There is hardware (or what passes for it in a VM) behind it, not a stack or a guest.
    physical: bool,
    queues: usize,
    mtu: usize,
}

impl Facts {
    /// A device that sysfs does not show (another mount namespace) counts as one without hardware, with one queue.
    fn of(device: &str) -> Self {
        let class = format!("/sys/class/net/{device}");
        let queues = fs::read_dir(format!("{class}/queues")).map_or(1, |entries| {
            entries
                .flatten()
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"))
                .count()
        });
        let mtu = fs::read_to_string(format!("{class}/mtu")).ok();
        Self {
            physical: fs::exists(format!("{class}/device")).unwrap_or(false),
            queues: queues.max(1),
            mtu: mtu.and_then(|mtu| mtu.trim().parse().ok()).unwrap_or(1500),
        }
    }
}

/// Whether `driver: auto` takes AF_XDP for a device; if not, why.
pub(in crate::io) fn suits(device: &str) -> Result<(), &'static str> {
    if Facts::of(device).physical {
        Ok(())
    } else {
        Err("not a NIC, so it may carry super-frames and partial checksums, which AF_XDP loses")
    }
}

/// Attaches an existing netdev through AF_XDP: all its queues, as its frames come by any of them.
///
/// `generic`: also where the driver can't run the program itself.
pub(in crate::io) fn open(
    spec: &PacketSpec,
    umems: &Umems,
    generic: bool,
) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    let device = &spec.device;
    let error = |what| {
        move |source: io::Error| match source.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => OpenError::XdpBusy {
                device: device.clone(),
            },
            Some(libc::ENOBUFS | libc::ENOMEM) => OpenError::LockedMemory {
                device: device.clone(),
            },
            Some(libc::EAFNOSUPPORT) => OpenError::XdpUnsupported {
                device: device.clone(),
                what: "this kernel has no AF_XDP",
            },
            _ => {
                OpenError::from_system(device, what, source).needing("CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF")
            }
        }
    };
    let interface = packet::interface_index(device).map_err(error("looking it up"))?;
    let facts = Facts::of(device);
    // A veth says so too, and means the frames that a stack sends with their tag beside them.
    if facts.physical && ethtool::strips_vlan(device).unwrap_or(false) {
        return Err(OpenError::XdpVlan {
            device: device.clone(),
        });
    }
    let program =
        Program::attach(interface, facts.queues as u32).map_err(error("attaching the XDP program"))?;
    let native = program.mode() == program::Mode::Native;
    if !native && !generic {
        return Err(OpenError::XdpUnsupported {
            device: device.clone(),
            what: "its driver runs no XDP program",
        });
    }
    let long = facts.mtu + HEADER > LONGEST;
    let modes = modes(native && facts.physical, long);
    let workers = spec.queues.max(1);
    let mut opened = Vec::with_capacity(facts.queues);
    for queue in 0..facts.queues {
        let place = BoundTo {
            interface,
            queue: queue as u32,
        };
        let one =
            umems
                .open(queue % workers, place, &modes)
                .map_err(|source| match source.raw_os_error() {
                    Some(libc::EINVAL | libc::EOPNOTSUPP) if long => OpenError::XdpLong {
                        device: device.clone(),
                        mtu: facts.mtu,
                        longest: LONGEST - HEADER,
                    },
                    _ => error("opening an AF_XDP socket")(source),
                })?;
        program
            .direct(place.queue, std::os::fd::AsFd::as_fd(&one.0))
            .map_err(error("directing frames to the AF_XDP socket"))?;
        if spec.busy_poll {
            one.0
                .set_busy_poll(BUSY_POLL)
                .map_err(error("asking for busy polling"))?;
        }
        one.0.set_buffer(TRANSMIT * FRAME_COST);
        opened.push(one);
    }
    let promiscuous =
        packet::Membership::promiscuous(interface).map_err(error("making the device promiscuous"))?;
    let port = Arc::new(Port {
        driver: describe(program.mode(), opened.first().map(|(_, _, mode)| *mode)),
        _program: program,
        _promiscuous: promiscuous,
    });
    let queue = |(number, (socket, holdings, mode)): (usize, (_, _, Mode))| {
        Box::new(XdpQueue {
            worker: number % workers,
            socket,
            holdings,
            zero_copy: mode.zero_copy,
            multi_buffer: mode.multi_buffer,
            busy_poll: spec.busy_poll,
            guesses: !facts.physical,
            owed: 0,
            partial: None,
            cut: false,
            sending: Vec::with_capacity(TRANSMIT as usize),
            ends: Vec::with_capacity(BATCH),
            port: Arc::clone(&port),
        }) as Box<dyn Queue>
    };
    Ok(opened.into_iter().enumerate().map(queue).collect())
}

/// The modes to try, the best first. Frames in several parts are asked for even where the MTU needs none: it may grow.
fn modes(may_share: bool, long: bool) -> Vec<Mode> {
    let mut modes = Vec::with_capacity(4);
    for zero_copy in [true, false] {
        for multi_buffer in [true, false] {
            if (may_share || !zero_copy) && (multi_buffer || !long) {
                modes.push(Mode {
                    zero_copy,
                    multi_buffer,
                });
            }
        }
    }
    modes
}

fn describe(program: program::Mode, socket: Option<Mode>) -> String {
    let program = match program {
        program::Mode::Native => "native",
        program::Mode::Generic => "generic",
    };
    let socket = if socket.is_some_and(|mode| mode.zero_copy) {
        "zero-copy"
    } else {
        "copy"
    };
    format!("af-xdp ({program}, {socket})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_copy_comes_first_and_long_frames_need_several_chunks() {
        let of = |may_share, long| -> Vec<(bool, bool)> {
            let modes = modes(may_share, long);
            modes
                .iter()
                .map(|mode| (mode.zero_copy, mode.multi_buffer))
                .collect()
        };
        assert_eq!(
            of(true, false),
            [(true, true), (true, false), (false, true), (false, false)]
        );
        assert_eq!(of(false, false), [(false, true), (false, false)]);
        assert_eq!(of(true, true), [(true, true), (false, true)]);
    }

    #[test]
    fn the_loopback_is_no_nic() {
        let facts = Facts::of("lo");
        assert!(!facts.physical && facts.queues == 1);
        assert!(suits("lo").is_err());
    }
}
