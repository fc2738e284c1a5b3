//! TAP ports: the switch owns the TAP, its netdev side goes to a namespace, a container or the host.
//!
//! Each frame is one read and one write on /dev/net/tun, behind a `struct virtio_net_hdr` that carries checksum
//! and segmentation offload both ways. A worker reads until nothing waits or the batch is full by frames or octets.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use switch_core::offload::Capabilities;

use super::{BATCH, BATCH_OCTETS, OpenError, Outgoing, Queue, SendFailure, TapSpec, vnet};
use crate::frame::Frame;
use crate::pool::Pool;
use crate::sys::{netns, tun};

struct TapQueue {
    file: File,
    capabilities: Capabilities,
}

/// Opens a TAP, or makes it; one queue per worker. The netdev stays down: who uses it brings it up.
pub fn open(spec: &TapSpec) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    let files = open_files(spec)?;
    let queue = |(file, capabilities)| Box::new(TapQueue { file, capabilities }) as Box<dyn Queue>;
    Ok(files.into_iter().map(queue).collect())
}

/// What it takes to make a TAP in another namespace.
const NETNS_NEEDS: &str = "CAP_SYS_ADMIN, and CAP_SYS_PTRACE for a namespace that is named by another user's process (/proc/PID/ns/net)";

/// As [`open`], but gives the queues' files themselves, in front of each frame a `struct virtio_net_hdr`: for programs
/// that move frames in their own way, such as benchmarks.
pub fn open_files(spec: &TapSpec) -> Result<Vec<(File, Capabilities)>, OpenError> {
    let Some(name) = &spec.netns else {
        return open_here(spec);
    };
    let namespace = File::open(netns::path(name)).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => OpenError::MissingNetns {
            device: spec.name.clone(),
            netns: name.clone(),
        },
        _ => OpenError::from_system(&spec.name, "opening its network namespace", source).needing(NETNS_NEEDS),
    })?;
    netns::run_in(&namespace, || open_here(spec)).map_err(|source| {
        OpenError::from_system(&spec.name, "entering its network namespace", source).needing(NETNS_NEEDS)
    })?
}

fn open_here(spec: &TapSpec) -> Result<Vec<(File, Capabilities)>, OpenError> {
    let error = |what| move |source| OpenError::from_system(&spec.name, what, source);
    let mut files = Vec::with_capacity(spec.queues);
    for index in 0..spec.queues {
        let file =
            open_queue(&spec.name, index, spec.queues > 1).map_err(|source| match source.raw_os_error() {
                Some(libc::EINVAL) if index == 0 => {
                    let device = spec.name.clone();
                    if tun::open_queue(&device, false).is_ok() {
                        OpenError::OneQueue { device }
                    } else {
                        OpenError::NotTap { device }
                    }
                }
                Some(libc::ENOENT | libc::ENODEV) => OpenError::Other {
                    device: spec.name.clone(),
                    what: "opening /dev/net/tun (is the `tun` module there?)",
                    source,
                },
                _ => OpenError::from_system(&spec.name, "making the TAP", source)
                    .needing("CAP_NET_ADMIN, and to read and write /dev/net/tun"),
            })?;
        if index == 0 {
            tun::set_persistent(&file, spec.persistent).map_err(error("setting persistence"))?;
            tun::set_mtu(&spec.name, spec.mtu).map_err(error("setting the MTU"))?;
            if let Some(mac) = spec.mac {
                tun::set_address(&spec.name, mac).map_err(error("setting the MAC address"))?;
            }
        }
        let uso = enable_offloads(&file, spec.offloads).map_err(error("setting offloads"))?;
        // The kernel segments what its side of the TAP can't take, so super-frames are welcome whatever that
        // side's features are; only USO must be known to the kernel at all.
        let capabilities = if spec.offloads {
            Capabilities {
                checksum: true,
                tso4: true,
                tso6: true,
                uso,
            }
        } else {
            Capabilities::default()
        };
        files.push((file, capabilities));
    }
    Ok(files)
}

/// Opens a queue. The kernel refuses to take a TAP that was made for several queues, as a persistent one may have been, for one that has only one:
/// then it is opened as what it is.
fn open_queue(name: &str, index: usize, several: bool) -> io::Result<File> {
    match tun::open_queue(name, several) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && index == 0 && !several => {
            tun::open_queue(name, true)
        }
        opened => opened,
    }
}

/// Returns whether the kernel knows USO.
fn enable_offloads(file: &File, wanted: bool) -> io::Result<bool> {
    use tun::offload::{CHECKSUM, TSO, USO};
    if !wanted {
        return tun::set_offload(file, 0).map(|()| false);
    }
    if tun::set_offload(file, CHECKSUM | TSO | USO).is_ok() {
        return Ok(true);
    }
    tun::set_offload(file, CHECKSUM | TSO).map(|()| false)
}

impl Queue for TapQueue {
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool> {
        let mut octets = 0;
        while batch.len() < BATCH && octets < BATCH_OCTETS {
            let Some(mut chunk) = pool.take() else {
                return Ok(true);
            };
            let len = match self.file.read(&mut chunk[vnet::START..]) {
                Ok(len) if len >= vnet::LEN => len - vnet::LEN,
                Ok(_) => {
                    pool.give(chunk);
                    return Ok(false);
                }
                Err(error) => {
                    pool.give(chunk);
                    return match error.kind() {
                        io::ErrorKind::WouldBlock => Ok(false),
                        io::ErrorKind::Interrupted => Ok(true),
                        _ => Err(error),
                    };
                }
            };
            let frame = vnet::frame(chunk, len);
            octets += frame.weight();
            batch.push(frame);
        }
        Ok(true)
    }

    fn transmit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) {
        for item in outgoing {
            let frame = &mut batch[usize::from(item.frame)];
            frame.retag(item.tag);
            let header = vnet::encode(&frame.offload);
            if let Err(error) = self.file.write(frame.with_header(&header)) {
                item.outcome = Err(SendFailure::from_system(&error));
            }
        }
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }
}
