//! Segmentation and checksums in software, for ports that can't take a frame as its sender left it.
//!
//! [`Offload`] says what is left to do; [`switch_core::offload`] has checked it against the frame. Here it is done:
//! [`finish_checksum`] for a plain frame, [`Segmenter`] for a super-frame. Neither allocates, and a payload is read once:
//! the segmenter sums it while it copies it.
//!
//! Both start from the partial checksum that the sender left in the frame, as the kernel does, and not from the addresses:
//! with a routing header (RFC 8200, section 8.1) the pseudo header holds another destination than the IPv6 header.

use switch_core::offload::{Checksum, Gso, GsoKind, Offload, OffloadError, VIRTIO_NET_HDR_LEN};
use switch_core::wire::checksum::{self, Sum};
use switch_core::wire::layers::Layers;
use switch_core::wire::protocol;

mod field {
    pub const FLAGS: usize = 0;
    pub const CSUM_START: usize = 6;
    pub const CSUM_OFFSET: usize = 8;
    pub const NEEDS_CSUM: u8 = 1;
    pub const DATA_VALID: u8 = 2;

    pub const IPV4_LENGTH: usize = 2;
    pub const IPV4_ID: usize = 4;
    pub const IPV4_CHECKSUM: usize = 10;
    pub const IPV4_SOURCE: usize = 12;
    pub const IPV4_DESTINATION: usize = 16;
    pub const IPV6_LENGTH: usize = 4;
    pub const IPV6_SOURCE: usize = 8;
    pub const IPV6_DESTINATION: usize = 24;
    pub const IPV6_LEN: usize = 40;

    pub const TCP_SEQUENCE: usize = 4;
    pub const TCP_FLAGS: usize = 13;
    pub const TCP_FIN: u8 = 0x01;
    pub const TCP_PSH: u8 = 0x08;
    pub const TCP_CWR: u8 = 0x80;
    pub const TCP_CHECKSUM: usize = 16;
    pub const UDP_LEN: usize = 8;
    pub const UDP_LENGTH: usize = 4;
    pub const UDP_CHECKSUM: usize = 6;
    pub const SCTP_CHECKSUM: usize = 8;
}

/// Completes a partial checksum; what is complete already stays. `frame` is the whole frame that `offload` was decoded
/// against, and no super-frame: those are for the [`Segmenter`].
pub fn finish_checksum(frame: &mut [u8], offload: &mut Offload) {
    debug_assert!(offload.gso.is_none(), "each segment has a checksum of its own");
    let Checksum::Partial { start, offset } = offload.checksum else {
        return;
    };
    offload.checksum = Checksum::Complete;
    let (start, offset) = (usize::from(start), usize::from(offset));
    if offset == field::SCTP_CHECKSUM && is_sctp(frame, start) {
        finish_sctp(frame, start);
        return;
    }
    let Some(data) = frame.get_mut(start..) else {
        return;
    };
    let sum = match Sum::of(data).checksum() {
        // In UDP, 0 says that there is no checksum (RFC 768).
        0 if offset == field::UDP_CHECKSUM => u16::MAX,
        sum => sum,
    };
    if let Some(place) = data.get_mut(offset..offset + 2) {
        place.copy_from_slice(&sum.to_be_bytes());
    }
}

fn is_sctp(frame: &[u8], start: usize) -> bool {
    Layers::find(frame)
        .and_then(|layers| layers.ip)
        .is_some_and(|ip| ip.protocol == protocol::SCTP && ip.transport == start)
}

/// The kernel leaves SCTP's CRC open too where the device says it can do it (veth), and a packet socket does not tell it
/// from an Internet checksum.
fn finish_sctp(frame: &mut [u8], start: usize) {
    let end = field::SCTP_CHECKSUM + 4;
    let Some(packet) = frame.get_mut(start..).filter(|packet| packet.len() >= end) else {
        return;
    };
    let crc = checksum::crc32c([&packet[..field::SCTP_CHECKSUM], &[0; 4], &packet[end..]]);
    packet[field::SCTP_CHECKSUM..end].copy_from_slice(&crc.to_le_bytes());
}

/// Whether a frame that came without metadata has a partial checksum, told by its value: where the checksum of TCP or UDP belongs, a
/// sender's stack that left the work undone has put the sum of the pseudo header.
///
/// A complete checksum can have this value too, and then stays as it is when it is completed: the packet sums up to all ones, so what
/// follows from all but the pseudo header is the complement of the pseudo header's sum, whose complement is that value again.
pub fn find_partial(frame: &[u8]) -> Checksum {
    partial_by_value(frame).unwrap_or(Checksum::Complete)
}

fn partial_by_value(frame: &[u8]) -> Option<Checksum> {
    let layers = Layers::find(frame)?;
    let ip = layers.ip.filter(|ip| !ip.fragment)?;
    let offset = match ip.protocol {
        protocol::TCP => field::TCP_CHECKSUM,
        protocol::UDP => field::UDP_CHECKSUM,
        _ => return None,
    };
    let (network, transport) = frame.split_at_checked(ip.transport)?;
    let value = transport.get(offset..offset + 2)?;
    let pseudo = pseudo_sum(
        &network[layers.network..],
        ip.version,
        ip.protocol,
        transport.len(),
    )?;
    (value == pseudo.fold().to_be_bytes()).then_some(Checksum::Partial {
        start: ip.transport as u16,
        offset: offset as u16,
    })
}

/// The sum of a pseudo header for so many octets behind this IP header.
fn pseudo_sum(network: &[u8], version: u8, protocol: u8, length: usize) -> Option<Sum> {
    let addresses = if version == 4 {
        network.get(field::IPV4_SOURCE..field::IPV4_DESTINATION + 4)?
    } else {
        network.get(field::IPV6_SOURCE..field::IPV6_DESTINATION + 16)?
    };
    Some(
        Sum::of(addresses)
            .add_u16(u16::from(protocol))
            .add_u32(length as u32),
    )
}

/// Mends the one kind of super-frame that the kernel hands to a packet socket without a partial checksum: what a NIC's LRO,
/// or GRO by list, joined after it had verified each part (`DATA_VALID`). The checksum is opened again, so that the frame
/// is like any other super-frame from here on. For frames from devices only; a guest has to send what VirtIO says.
///
/// Call it when [`Offload::decode`] said [`OffloadError::GsoWithoutChecksum`]; `frame` is the whole frame.
pub fn mend_joined(header: &[u8; VIRTIO_NET_HDR_LEN], frame: &mut [u8]) -> Result<Offload, OffloadError> {
    if header[field::FLAGS] & field::DATA_VALID == 0 {
        return Err(OffloadError::GsoWithoutChecksum);
    }
    let layers = Layers::find(frame).ok_or(OffloadError::GsoProtocol)?;
    let ip = layers.ip.ok_or(OffloadError::GsoProtocol)?;
    let offset = match ip.protocol {
        protocol::TCP => field::TCP_CHECKSUM,
        protocol::UDP => field::UDP_CHECKSUM,
        _ => return Err(OffloadError::GsoProtocol),
    };
    let mut header = *header;
    header[field::FLAGS] |= field::NEEDS_CSUM;
    let start = u16::try_from(ip.transport).map_err(|_| OffloadError::GsoProtocol)?;
    header[field::CSUM_START..][..2].copy_from_slice(&start.to_le_bytes());
    header[field::CSUM_OFFSET..][..2].copy_from_slice(&(offset as u16).to_le_bytes());
    let offload = Offload::decode(&header, frame, frame.len())?;

    let (network, transport) = frame.split_at_mut(ip.transport);
    let pseudo = pseudo_sum(
        &network[layers.network..],
        ip.version,
        ip.protocol,
        transport.len(),
    )
    .ok_or(OffloadError::GsoProtocol)?;
    set_u16(transport, offset, pseudo.fold());
    Ok(offload)
}

/// Cuts a super-frame into the frames that it becomes on a wire, one at a time (TSO, USO), also within a tunnel.
///
/// As the kernel does it: the IPv4 identification counts up; FIN and PSH stay on the last segment, CWR on the first.
#[derive(Clone, Debug)]
pub struct Segmenter<'a> {
    frame: &'a [u8],
    gso: Gso,
    /// The headers that it is cut by.
    headers: Headers,
    /// The cut packet is TCP, else UDP.
    tcp: bool,
    /// The headers around a tunnel.
    outer: Option<Outer>,
    /// First octet of payload that is in no segment yet.
    next: usize,
}

/// Where an IP header and its transport header are.
#[derive(Clone, Copy, Debug)]
struct Headers {
    ipv4: bool,
    network: usize,
    transport: usize,
}

#[derive(Clone, Copy, Debug)]
struct Outer {
    headers: Headers,
    /// The tunnel is one over UDP.
    udp: bool,
}

impl Headers {
    fn of(layers: &Layers) -> Option<Self> {
        let ip = layers.ip?;
        Some(Self {
            ipv4: ip.version == 4,
            network: layers.network,
            transport: ip.transport,
        })
    }

    /// Makes the IP header that of segment `index`, which has `len` octets as a frame.
    #[inline]
    fn finish_ip(&self, header: &mut [u8], len: usize, index: usize) {
        let ip = &mut header[self.network..self.transport];
        let len = len - self.network;
        if self.ipv4 {
            set_u16(ip, field::IPV4_LENGTH, len as u16);
            let id = u16_at(ip, field::IPV4_ID).wrapping_add(index as u16);
            set_u16(ip, field::IPV4_ID, id);
            set_u16(ip, field::IPV4_CHECKSUM, 0);
            let sum = Sum::of(ip).checksum();
            set_u16(ip, field::IPV4_CHECKSUM, sum);
        } else {
            set_u16(ip, field::IPV6_LENGTH, (len - field::IPV6_LEN) as u16);
        }
    }

    /// The checksum over the transport header, whose field holds the sum of the pseudo header with the length of the whole
    /// super-frame of `whole` octets, and over `body`, for a segment of `len` octets.
    #[inline]
    fn checksum(&self, header: &[u8], body: Sum, whole: usize, len: usize) -> u16 {
        Sum::of(&header[self.transport..])
            .add(body)
            .sub_u32((whole - self.transport) as u32)
            .add_u32((len - self.transport) as u32)
            .checksum()
    }
}

impl<'a> Segmenter<'a> {
    /// `frame` is the whole super-frame that `offload` was decoded against. `None` if `offload` does not say how to cut it,
    /// or not for this frame.
    pub fn new(frame: &'a [u8], offload: &Offload) -> Option<Self> {
        let gso = offload.gso?;
        let tcp = !matches!(gso.kind, GsoKind::Udp | GsoKind::TunnelUdp);
        let mut layers = Layers::find(frame)?;
        let mut outer = None;
        if gso.kind.is_tunnel() {
            let Checksum::Partial { start, .. } = offload.checksum else {
                return None;
            };
            let protocol = if tcp { protocol::TCP } else { protocol::UDP };
            outer = Some(Outer {
                headers: Headers::of(&layers)?,
                udp: layers.ip?.protocol == protocol::UDP,
            });
            layers = layers.inner(frame, frame.len(), start.into(), protocol)?;
        }
        let headers = Headers::of(&layers)?;
        let header_len = usize::from(gso.header_len);
        let minimum = if tcp {
            field::TCP_CHECKSUM + 4
        } else {
            field::UDP_LEN
        };
        (headers.transport + minimum <= header_len && header_len < frame.len() && gso.size > 0).then_some(
            Self {
                frame,
                gso,
                headers,
                tcp,
                outer,
                next: header_len,
            },
        )
    }

    /// Writes the next segment to the front of `out` and returns its length; `None` after the last.
    /// Its [`Offload`] is the default one.
    ///
    /// # Panics
    /// If `out` is shorter than the segment, which has at most [`Offload::wire_len`] octets.
    pub fn next_into(&mut self, out: &mut [u8]) -> Option<usize> {
        let header_len = usize::from(self.gso.header_len);
        let size = usize::from(self.gso.size);
        let payload = self
            .frame
            .get(self.next..)
            .filter(|payload| !payload.is_empty())?;
        let before = self.next - header_len;
        let payload = &payload[..payload.len().min(size)];
        self.next += payload.len();
        let whole = self.frame.len();
        let (first, last) = (before == 0, self.next == whole);

        let len = header_len + payload.len();
        let (header, body) = out[..len].split_at_mut(header_len);
        header.copy_from_slice(&self.frame[..header_len]);
        let body = Sum::of_copy(body, payload);
        let index = before / size;

        self.headers.finish_ip(header, len, index);
        let transport = &mut header[self.headers.transport..];
        if self.tcp {
            let bytes = &mut transport[field::TCP_SEQUENCE..][..4];
            let sequence = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            bytes.copy_from_slice(&sequence.wrapping_add(before as u32).to_be_bytes());
            if !last {
                transport[field::TCP_FLAGS] &= !(field::TCP_FIN | field::TCP_PSH);
            }
            if !first {
                transport[field::TCP_FLAGS] &= !field::TCP_CWR;
            }
            let sum = self.headers.checksum(header, body, whole, len);
            set_u16(header, self.headers.transport + field::TCP_CHECKSUM, sum);
        } else {
            finish_udp(&self.headers, header, body, whole, len);
        }
        if let Some(outer) = self.outer {
            outer.headers.finish_ip(header, len, index);
            if outer.udp {
                let start = outer.headers.transport;
                if u16_at(header, start + field::UDP_CHECKSUM) != 0 {
                    finish_udp(&outer.headers, header, body, whole, len);
                } else {
                    // A tunnel may do without a checksum (RFC 7348, section 5; RFC 6935).
                    set_u16(header, start + field::UDP_LENGTH, (len - start) as u16);
                }
            }
        }
        Some(len)
    }
}

/// Makes the UDP header that of a segment.
#[inline]
fn finish_udp(headers: &Headers, header: &mut [u8], body: Sum, whole: usize, len: usize) {
    let start = headers.transport;
    set_u16(header, start + field::UDP_LENGTH, (len - start) as u16);
    let sum = match headers.checksum(header, body, whole, len) {
        0 => u16::MAX,
        sum => sum,
    };
    set_u16(header, start + field::UDP_CHECKSUM, sum);
}

#[inline]
fn u16_at(data: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([data[at], data[at + 1]])
}

#[inline]
fn set_u16(data: &mut [u8], at: usize, value: u16) {
    data[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests;
