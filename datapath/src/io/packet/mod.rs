//! `device` ports through AF_PACKET: a VM's TAP that its hypervisor opened, a veth, any NIC.
//!
//! The socket sees what the device receives and sends what the device transmits; `PACKET_VNET_HDR` keeps super-frames and
//! partial checksums whole both ways, and a VLAN tag that the kernel took off is put back. Ordinary frames arrive in
//! a shared ring, longer ones by system calls in batches; plain short frames leave by AF_XDP (`direct`), all others by system calls in
//! batches. The host's own stack is kept
//! out by a filter behind the socket (`sys::bpf`), and promiscuous mode is the socket's membership: both end with
//! the descriptors, however the process ends.

mod direct;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use switch_core::offload::{Capabilities, Checksum};
use switch_core::verdict::DropReason;

use direct::DirectSender;

use super::{BATCH_OCTETS, OpenError, Outgoing, PacketSpec, Queue, SendFailure, vnet};
use crate::frame::{Frame, weight};
use crate::pool::{Chunk, Pool};
use crate::sys::bpf::HostFilter;
use crate::sys::packet::{self, BATCH, Received, Socket};
use crate::sys::packet_ring::Ring;

/// Socket buffers wanted per queue, octets, for long frames and for sending. The kernel only takes what waits.
const BUFFER: u32 = 4 << 20;

struct PacketQueue {
    socket: Socket,
    /// Sends the super-frames that the device can't take.
    queueing: Socket,
    /// Sends plain short frames, if the device's queue is free for it.
    direct: Option<DirectSender>,
    ring: Ring,
    capabilities: Capabilities,
    /// Empty chunks for the next receive.
    spare: Vec<Chunk>,
    received: Box<[Received; BATCH]>,
    /// How the device is attached, in words.
    driver: Arc<str>,
    /// Lives as long as any queue of the port.
    _filter: Option<Arc<HostFilter>>,
}

/// Attaches an existing netdev; one queue per worker. `why` it is by AF_PACKET, if that was not asked for.
pub(super) fn open(spec: &PacketSpec, why: Option<&str>) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    let error = |what| move |source| OpenError::from_system(&spec.device, what, source);
    let interface = packet::interface_index(&spec.device).map_err(error("looking it up"))?;
    if !is_ethernet(&spec.device) {
        return Err(OpenError::NotEthernet {
            device: spec.device.clone(),
        });
    }
    let filter = match HostFilter::attach(interface) {
        Ok(filter) => Some(Arc::new(filter)),
        Err(source) => {
            tracing::warn!(
                device = spec.device,
                %source,
                "the host's stack cannot be kept out of the device; take its addresses away if it has any"
            );
            None
        }
    };
    let capabilities = if spec.offloads {
        Capabilities {
            checksum: true,
            tso4: true,
            tso6: true,
            uso: true,
        }
    } else {
        Capabilities::default()
    };
    let driver: Arc<str> = match why {
        Some(why) => format!("af-packet ({why})").into(),
        None => "af-packet".into(),
    };
    let mut fanout = None;
    let mut queues: Vec<Box<dyn Queue>> = Vec::with_capacity(spec.queues);
    for queue in 0..spec.queues {
        let socket = Socket::open(interface).map_err(error("opening an AF_PACKET socket"))?;
        socket.set_buffers(BUFFER);
        let queueing = Socket::open_queueing(interface).map_err(error("opening an AF_PACKET socket"))?;
        let ring = Ring::new(socket.as_fd()).map_err(error("making its receive ring"))?;
        socket
            .bind(interface)
            .map_err(error("binding the AF_PACKET socket"))?;
        if spec.queues > 1 {
            fanout = Some(
                socket
                    .join_fanout(fanout)
                    .map_err(error("joining the fanout group"))?,
            );
        }
        // Without it (another program has the device's queue, there are more workers than queues) it goes slower.
        let direct = DirectSender::open(interface, queue as u32)
            .inspect_err(|error| tracing::debug!(device = spec.device, queue, %error, "no direct sending"))
            .ok();
        queues.push(Box::new(PacketQueue {
            socket,
            queueing,
            direct,
            ring,
            capabilities,
            spare: Vec::with_capacity(BATCH),
            received: Box::new([Received::default(); BATCH]),
            driver: Arc::clone(&driver),
            _filter: filter.clone(),
        }));
    }
    Ok(queues)
}

/// Whether the netdev's link layer is Ethernet, by sysfs; a device that sysfs does not show (another mount
/// namespace) is taken for one, and sending will tell.
fn is_ethernet(device: &str) -> bool {
    const ARPHRD_ETHER: &str = "1";
    std::fs::read_to_string(format!("/sys/class/net/{device}/type"))
        .map_or(true, |kind| kind.trim() == ARPHRD_ETHER)
}

impl Queue for PacketQueue {
    fn receive(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>) -> io::Result<bool> {
        let mut octets = 0;
        // Frames in a row that wait whole in the receive queue.
        let mut queued = 0;
        while batch.len() + queued < BATCH && octets < BATCH_OCTETS {
            let Some(slot) = self.ring.next() else {
                // What waits without a slot would keep the socket readable; there is none but after an error.
                let queued = if batch.is_empty() && queued == 0 {
                    1
                } else {
                    queued
                };
                return self.receive_queued(pool, batch, queued).map(|()| false);
            };
            if queued > 0 && !slot.whole_in_queue() {
                self.receive_queued(pool, batch, queued)?;
                queued = 0;
                continue;
            }
            let bytes = slot.bytes(vnet::LEN);
            octets += weight(slot.frame_len(), vnet::segment_size(bytes));
            if slot.whole_in_queue() {
                queued += 1;
                slot.release();
                continue;
            }
            let Some(mut chunk) = pool.take() else {
                return Ok(true);
            };
            chunk[vnet::START..][..bytes.len()].copy_from_slice(bytes);
            let received = Received {
                len: bytes.len(),
                truncated: slot.truncated(),
                tag: slot.tag(),
            };
            slot.release();
            batch.push(frame(chunk, &received));
        }
        self.receive_queued(pool, batch, queued).map(|()| true)
    }

    fn transmit(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) {
        for item in outgoing.iter() {
            batch[usize::from(item.frame)].retag(item.tag);
        }
        let mut rest = outgoing;
        while !rest.is_empty() {
            let run = rest.iter().take_while(|item| is_plain(batch, item)).count();
            let sent = self.send_direct(batch, &rest[..run]);
            rest = &mut rest[sent..];
            // What the direct way had no room for, or the next frames that are not plain.
            let run = if sent < run {
                run - sent
            } else {
                rest.iter().take_while(|item| !is_plain(batch, item)).count()
            };
            let (messages, others) = rest.split_at_mut(run);
            self.send_messages(batch, messages);
            rest = others;
        }
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn driver(&self) -> &str {
        &self.driver
    }

    fn take_kernel_drops(&mut self) -> u64 {
        self.socket.take_kernel_drops().into()
    }
}

impl PacketQueue {
    /// Sends plain frames the direct way. Returns how many went before the first that has to be sent by messages.
    fn send_direct(&mut self, batch: &[Frame], outgoing: &[Outgoing]) -> usize {
        let Some(direct) = &mut self.direct else { return 0 };
        if outgoing.is_empty() {
            return 0;
        }
        let frames = outgoing.iter().map(|item| batch[usize::from(item.frame)].bytes());
        // The device is down or gone: the messages will say so.
        direct.send(frames).unwrap_or(0)
    }

    /// Sends frames of all kinds as messages.
    fn send_messages(&mut self, batch: &mut [Frame], outgoing: &mut [Outgoing]) {
        for item in outgoing.iter() {
            let frame = &mut batch[usize::from(item.frame)];
            let header = vnet::encode(&frame.offload);
            frame.with_header(&header);
        }
        let mut rest = outgoing;
        while !rest.is_empty() {
            let frames = rest
                .iter()
                .map(|item| batch[usize::from(item.frame)].behind_header::<{ vnet::LEN }>());
            match self.socket.send(frames) {
                Ok(sent) => rest = &mut rest[sent..],
                // The queue is full, or the device can't take a super-frame, as a TAP whose guest takes none.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) && is_super(batch, &rest[0]) => {
                    let frame = batch[usize::from(rest[0].frame)].behind_header::<{ vnet::LEN }>();
                    if let Err(error) = self.queueing.send(std::iter::once(frame)) {
                        rest[0].outcome = Err(SendFailure::from_system(&error));
                    }
                    rest = &mut rest[1..];
                }
                Err(error) => {
                    let failure = SendFailure::from_system(&error);
                    // A full queue or a dead device refuses the rest too; a bad frame only itself.
                    let refused = if failure.reason == DropReason::TxError {
                        1
                    } else {
                        rest.len()
                    };
                    for item in &mut rest[..refused] {
                        item.outcome = Err(failure);
                    }
                    rest = &mut rest[refused..];
                }
            }
        }
    }

    /// Receives `count` frames from the socket's queue.
    fn receive_queued(&mut self, pool: &mut Pool, batch: &mut Vec<Frame>, count: usize) -> io::Result<()> {
        if count == 0 {
            return Ok(());
        }
        while self.spare.len() < count {
            let Some(chunk) = pool.take() else { break };
            self.spare.push(chunk);
        }
        // From the back, so that what stays is what was not filled.
        let buffers = self.spare.iter_mut().rev().map(|chunk| &mut chunk[vnet::START..]);
        let result = match self.socket.receive(buffers, &mut self.received) {
            Ok(filled) => {
                for received in &self.received[..filled] {
                    let Some(chunk) = self.spare.pop() else { break };
                    batch.push(frame(chunk, received));
                }
                Ok(())
            }
            Err(error) => match error.raw_os_error() {
                // The device went down: the control plane hears of it from netlink, and reading goes on when it is up.
                Some(libc::EAGAIN | libc::EINTR | libc::ENETDOWN) => Ok(()),
                _ => Err(error),
            },
        };
        for chunk in self.spare.drain(..) {
            pool.give(chunk);
        }
        result
    }
}

/// Whether a frame has nothing that must travel beside it, and may be sent the direct way.
fn is_plain(batch: &[Frame], item: &Outgoing) -> bool {
    let frame = &batch[usize::from(item.frame)];
    frame.len() <= DirectSender::LONGEST
        && frame.offload.gso.is_none()
        && !matches!(frame.offload.checksum, Checksum::Partial { .. })
}

fn is_super(batch: &[Frame], item: &Outgoing) -> bool {
    batch[usize::from(item.frame)].offload.gso.is_some()
}

fn frame(chunk: Chunk, received: &Received) -> Frame {
    let mut frame = vnet::frame(chunk, received.len.saturating_sub(vnet::LEN));
    if received.truncated {
        frame.fault = Some(DropReason::RxTruncated);
    }
    if let Some((tpid, tci)) = received.tag {
        let [a, b] = tpid.to_be_bytes();
        let [c, d] = tci.to_be_bytes();
        frame.insert_tag([a, b, c, d]);
    }
    frame
}
