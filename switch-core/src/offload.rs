//! What the sender left for hardware to do: checksum and segmentation state that travels with a frame.
//!
//! The form outside is `struct virtio_net_hdr_v1` (VirtIO 1.2, section 5.1.6.1), which TAP, AF_PACKET and vhost-user share.
//! [`Offload`] is that header, checked once against the frame when it comes in ([`Offload::decode`]), so that nothing
//! after it has to doubt it:
//!
//! - A partial checksum lies in the payload or is the checksum of the frame's own transport header. A guest could otherwise
//!   have it written over the addresses or ports by which policy has just decided.
//! - A super-frame is a TCP or UDP packet of the kind it says, with a partial checksum, more payload than one segment
//!   and segments that an IP packet can hold, [`MAX_SEGMENTS`] at most.
//! - A super-frame in a tunnel is told from a plain one. The kernel gives these to a packet socket with nothing in the header
//!   to tell them by but a checksum that starts further in, and cuts them wrongly if they are sent like that; so they
//!   are always cut here.
//!
//! Octet order: `virtio_net_hdr_v1` is little endian. TAP and AF_PACKET use the host's order unless told otherwise, which is
//! the same on every host that the switch is built for.

use crate::frame::FrameView;
use crate::wire::layers::{Ip, Layers};
use crate::wire::{ethertype, protocol};

/// Octets of `struct virtio_net_hdr_v1`, which stands before each frame.
pub const VIRTIO_NET_HDR_LEN: usize = 12;

/// Most frames that a super-frame may become. A 64 KiB packet cut by the smallest MSS that Linux takes from a peer (88 octets,
/// `TCP_MIN_MSS`) becomes 745; a sender of smaller segments would only have every port without offloads cut and send
/// frames without end, at the cost of the other ports.
pub const MAX_SEGMENTS: usize = 1024;

/// `struct virtio_net_hdr_v1` (VirtIO 1.2, section 5.1.6.1; linux/virtio_net.h).
mod field {
    pub const FLAGS: usize = 0;
    pub const GSO_TYPE: usize = 1;
    pub const HDR_LEN: usize = 2;
    pub const GSO_SIZE: usize = 4;
    pub const CSUM_START: usize = 6;
    pub const CSUM_OFFSET: usize = 8;
    pub const NUM_BUFFERS: usize = 10;

    pub const NEEDS_CSUM: u8 = 1;
    pub const DATA_VALID: u8 = 2;

    pub const GSO_NONE: u8 = 0;
    pub const GSO_TCPV4: u8 = 1;
    pub const GSO_TCPV6: u8 = 4;
    pub const GSO_UDP_L4: u8 = 5;
    pub const GSO_ECN: u8 = 0x80;

    /// Where the checksum lies in its transport header, and how long that is at the least.
    pub const TCP_CHECKSUM: u16 = 16;
    pub const TCP_MIN: usize = 20;
    pub const TCP_DATA_OFFSET: usize = 12;
    pub const TCP_FLAGS: usize = 13;
    pub const TCP_CWR: u8 = 0x80;
    pub const UDP_CHECKSUM: u16 = 6;
    pub const UDP_LEN: usize = 8;
    pub const SCTP_CHECKSUM: u16 = 8;
}

/// Room for the two tags that [`Offload::shift`] may add.
const SHIFT_ROOM: usize = 8;

/// Where the frame stands with its transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Checksum {
    /// As on a wire: the checksum field is whatever the sender put there, complete.
    #[default]
    Complete,
    /// The field holds the pseudo-header sum only; the sum over `start..` belongs at `start + offset`.
    /// Both count octets, `start` from the first octet of the frame in its present form (tags included).
    Partial {
        /// First octet to sum.
        start: u16,
        /// Distance of the checksum field from `start`.
        offset: u16,
    },
    /// The receiver already verified it.
    Verified,
}

/// How a super-frame is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either (USO).
    Udp,
    /// [`GsoKind::Tcp4`] within a tunnel: VXLAN, Geneve, GRE, IP in IP. Headers are all those up to the inner TCP header's end.
    TunnelTcp4,
    /// [`GsoKind::Tcp6`] within a tunnel.
    TunnelTcp6,
    /// [`GsoKind::Udp`] within a tunnel.
    TunnelUdp,
}

impl GsoKind {
    /// Whether the frame is cut by the headers within a tunnel.
    #[inline]
    pub const fn is_tunnel(self) -> bool {
        matches!(self, Self::TunnelTcp4 | Self::TunnelTcp6 | Self::TunnelUdp)
    }

    /// The same within a tunnel.
    const fn tunnelled(self) -> Self {
        match self {
            Self::Tcp4 | Self::TunnelTcp4 => Self::TunnelTcp4,
            Self::Tcp6 | Self::TunnelTcp6 => Self::TunnelTcp6,
            Self::Udp | Self::TunnelUdp => Self::TunnelUdp,
        }
    }
}

/// A super-frame's segmentation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Gso {
    /// Which protocol it is cut by.
    pub kind: GsoKind,
    /// Payload octets of each segment after the transport header; never 0.
    pub size: u16,
    /// Octets from the start of the frame to the end of its transport header, as found in the frame itself.
    pub header_len: u16,
    /// The first segment carries CWR (VIRTIO_NET_HDR_GSO_ECN).
    pub ecn: bool,
}

/// The offload state of a frame; the default is a plain frame as on a wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Offload {
    /// Checksum state.
    pub checksum: Checksum,
    /// Segmentation, if the frame is a super-frame.
    pub gso: Option<Gso>,
}

/// What a port can take; what it can't is done in software before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Capabilities {
    /// Frames with [`Checksum::Partial`].
    pub checksum: bool,
    /// [`GsoKind::Tcp4`] super-frames.
    pub tso4: bool,
    /// [`GsoKind::Tcp6`] super-frames.
    pub tso6: bool,
    /// [`GsoKind::Udp`] super-frames.
    pub uso: bool,
}

/// The header contradicts the frame, or asks for what no switch does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OffloadError {
    /// Receive segment coalescing, tunnel offloads, and flags not known here.
    #[error("the offload header has the flags {0:#04x}, which a sender may not set")]
    Flags(u8),
    /// UFO, tunnel types, and types not known here.
    #[error("the offload header has the GSO type {0:#04x}, which is not supported")]
    GsoType(u8),
    /// The checksum's field lies outside of the frame.
    #[error("the partial checksum at {start} + {offset} does not lie in the frame")]
    ChecksumOutside {
        /// As in [`Checksum::Partial`].
        start: u16,
        /// As in [`Checksum::Partial`].
        offset: u16,
    },
    /// The checksum's field is not the transport header's and not in the payload.
    #[error("the partial checksum at {start} + {offset} is not that of the frame's transport header")]
    ChecksumPlace {
        /// As in [`Checksum::Partial`].
        start: u16,
        /// As in [`Checksum::Partial`].
        offset: u16,
    },
    /// The super-frame is not a whole packet of the protocol that the GSO type says.
    #[error("the super-frame is not of its GSO type")]
    GsoProtocol,
    /// The segment size is 0, or larger than an IP packet.
    #[error("the super-frame has a segment size of {0}")]
    GsoSize(u16),
    /// More than [`MAX_SEGMENTS`].
    #[error("the super-frame becomes {0} frames, and {MAX_SEGMENTS} is the most")]
    GsoSegments(usize),
    /// Segmentation without a partial checksum.
    #[error("the super-frame has no partial checksum")]
    GsoWithoutChecksum,
}

impl Offload {
    /// Checks a header against its frame. `frame` holds at least the first min(`len`, [`FrameView::HEADER_LEN`]) octets
    /// of the `len` that the frame has.
    ///
    /// `Ok` is true of the frame, whatever the header said; a super-frame of one segment comes out as a plain frame.
    /// The length of the headers is read from the frame, not from the header. GSO without `NEEDS_CSUM` is refused: VirtIO
    /// forbids it (5.1.6.2.1), and the kernel, which sums what it hands to a TAP or a packet socket as a super-frame
    /// partially, gives it only for what a NIC's LRO or GRO by list has joined; `datapath::offload` mends these.
    #[inline]
    pub fn decode(header: &[u8; VIRTIO_NET_HDR_LEN], frame: &[u8], len: usize) -> Result<Self, OffloadError> {
        if header[field::FLAGS] | header[field::GSO_TYPE] == 0 {
            return Ok(Self::default());
        }
        Self::decode_slow(header, frame, len)
    }

    fn decode_slow(
        header: &[u8; VIRTIO_NET_HDR_LEN],
        frame: &[u8],
        len: usize,
    ) -> Result<Self, OffloadError> {
        let flags = header[field::FLAGS];
        let gso_type = header[field::GSO_TYPE];
        if flags & !(field::NEEDS_CSUM | field::DATA_VALID) != 0 {
            return Err(OffloadError::Flags(flags));
        }
        let kind = match gso_type & !field::GSO_ECN {
            field::GSO_NONE if gso_type == field::GSO_NONE => None,
            field::GSO_TCPV4 => Some(GsoKind::Tcp4),
            field::GSO_TCPV6 => Some(GsoKind::Tcp6),
            field::GSO_UDP_L4 if gso_type == field::GSO_UDP_L4 => Some(GsoKind::Udp),
            _ => return Err(OffloadError::GsoType(gso_type)),
        };
        if flags & field::NEEDS_CSUM == 0 {
            return match kind {
                Some(_) => Err(OffloadError::GsoWithoutChecksum),
                None => Ok(Self {
                    checksum: Checksum::Verified,
                    gso: None,
                }),
            };
        }
        // As much as every caller has, so that the answer does not depend on how the frame is stored.
        let frame = &frame[..frame.len().min(len).min(FrameView::HEADER_LEN)];
        let start = le16(header, field::CSUM_START);
        let offset = le16(header, field::CSUM_OFFSET);
        let layers = check_partial(frame, len, start, offset)?;
        let gso = match kind {
            Some(kind) => {
                let gso = Gso {
                    kind,
                    size: le16(header, field::GSO_SIZE),
                    header_len: 0,
                    ecn: gso_type & field::GSO_ECN != 0,
                };
                check_gso(frame, len, start, layers, gso)?
            }
            None => None,
        };
        Ok(Self {
            checksum: Checksum::Partial { start, offset },
            gso,
        })
    }

    /// The header for this state. `num_buffers` is 1, as vhost-user wants it; TAP and AF_PACKET ignore it.
    #[inline]
    pub fn encode(&self) -> [u8; VIRTIO_NET_HDR_LEN] {
        let (front, checksum_offset) = self.encode_words();
        let mut header = [0; VIRTIO_NET_HDR_LEN];
        header[..field::CSUM_OFFSET].copy_from_slice(&front.to_le_bytes());
        set_le16(&mut header, field::CSUM_OFFSET, checksum_offset);
        header[field::NUM_BUFFERS] = 1;
        header
    }

    /// The header without its `num_buffers`, as little-endian numbers of 8 and 2 octets: for devices that write it to where it is to lie.
    #[inline]
    pub fn encode_words(&self) -> (u64, u16) {
        let at = |field: usize, value: u16| u64::from(value) << (8 * field);
        let (mut front, checksum_offset) = match self.checksum {
            Checksum::Complete => (0, 0),
            Checksum::Verified => (at(field::FLAGS, field::DATA_VALID.into()), 0),
            Checksum::Partial { start, offset } => (
                at(field::FLAGS, field::NEEDS_CSUM.into()) | at(field::CSUM_START, start),
                offset,
            ),
        };
        if let Some(gso) = self.gso {
            let kind = match gso.kind {
                GsoKind::Tcp4 | GsoKind::TunnelTcp4 => field::GSO_TCPV4,
                GsoKind::Tcp6 | GsoKind::TunnelTcp6 => field::GSO_TCPV6,
                GsoKind::Udp | GsoKind::TunnelUdp => field::GSO_UDP_L4,
            };
            let kind = if gso.ecn { kind | field::GSO_ECN } else { kind };
            front |= at(field::GSO_TYPE, kind.into())
                | at(field::HDR_LEN, gso.header_len)
                | at(field::GSO_SIZE, gso.size);
        }
        (front, checksum_offset)
    }

    /// Follows `delta` octets that were put in (a tag pushed) or taken out (popped) before the network header.
    /// [`Offload::decode`] leaves room for the tags that it saw and for two more.
    #[inline]
    pub fn shift(&mut self, delta: i16) {
        if let Checksum::Partial { start, .. } = &mut self.checksum {
            *start = start.saturating_add_signed(delta);
        }
        if let Some(gso) = &mut self.gso {
            gso.header_len = gso.header_len.saturating_add_signed(delta);
        }
    }

    /// Whether nothing travels beside the frame: the default.
    #[inline]
    pub const fn is_plain(&self) -> bool {
        matches!(self.checksum, Checksum::Complete) && self.gso.is_none()
    }

    /// How many frames a frame of `len` octets becomes on a wire, and how many octets these have together.
    #[inline]
    pub fn wire_frames(&self, len: usize) -> (u64, u64) {
        let Some(gso) = self.gso else {
            return (1, len as u64);
        };
        let header = usize::from(gso.header_len);
        let frames = len.saturating_sub(header).div_ceil(usize::from(gso.size)).max(1);
        (frames as u64, (len + (frames - 1) * header) as u64)
    }

    /// Octets of the longest frame that a frame of `len` octets becomes on a wire.
    #[inline]
    pub fn wire_len(&self, len: usize) -> usize {
        match self.gso {
            Some(gso) => len.min(usize::from(gso.header_len) + usize::from(gso.size)),
            None => len,
        }
    }
}

impl Capabilities {
    /// A port that takes every offload there is a header for.
    pub const ALL: Self = Self {
        checksum: true,
        tso4: true,
        tso6: true,
        uso: true,
    };
    /// A port that takes frames as on a wire only.
    pub const NONE: Self = Self {
        checksum: false,
        tso4: false,
        tso6: false,
        uso: false,
    };

    /// Whether a frame in this state can be handed over as it is.
    #[inline]
    pub const fn takes(&self, offload: &Offload) -> bool {
        let checksum = match offload.checksum {
            Checksum::Partial { .. } => self.checksum,
            Checksum::Complete | Checksum::Verified => true,
        };
        let gso = match offload.gso {
            None => true,
            Some(gso) => match gso.kind {
                GsoKind::Tcp4 => self.tso4,
                GsoKind::Tcp6 => self.tso6,
                GsoKind::Udp => self.uso,
                GsoKind::TunnelTcp4 | GsoKind::TunnelTcp6 | GsoKind::TunnelUdp => false,
            },
        };
        checksum && gso
    }
}

/// Checks where a partial checksum lies; see the module's head.
fn check_partial(frame: &[u8], len: usize, start: u16, offset: u16) -> Result<Layers, OffloadError> {
    let (first, distance) = (usize::from(start), usize::from(offset));
    let end = first + distance + 2;
    let outside = OffloadError::ChecksumOutside { start, offset };
    let place = OffloadError::ChecksumPlace { start, offset };
    let layers = Layers::find(frame).ok_or(outside)?;
    if end > len || end + SHIFT_ROOM > usize::from(u16::MAX) || first < layers.network {
        return Err(outside);
    }
    let good = match layers.ip {
        Some(Ip { fragment: true, .. }) => false,
        Some(ip) => {
            let own = first == ip.transport;
            match ip.protocol {
                protocol::TCP => own && offset == field::TCP_CHECKSUM,
                // Past the header it is a packet within the packet (VXLAN, Geneve), whose checksum the kernel leaves open too.
                protocol::UDP => {
                    own && offset == field::UDP_CHECKSUM || first >= ip.transport + field::UDP_LEN
                }
                // A packet socket does not tell that this one is a CRC; `finish_checksum` knows.
                protocol::SCTP => own && offset == field::SCTP_CHECKSUM,
                // Senders sum these themselves, and what stands in them decides about neighbours and groups.
                protocol::ICMP | protocol::IGMP | protocol::ICMPV6 => false,
                _ => first > ip.transport,
            }
        }
        None => !matches!(
            layers.ethertype,
            ethertype::IPV4 | ethertype::IPV6 | ethertype::ARP | ethertype::RARP
        ),
    };
    if good { Ok(layers) } else { Err(place) }
}

/// Completes the segmentation from the frame's own headers; `None` where one segment holds all of the payload.
fn check_gso(
    frame: &[u8],
    len: usize,
    start: u16,
    layers: Layers,
    gso: Gso,
) -> Result<Option<Gso>, OffloadError> {
    let outer = layers.ip.ok_or(OffloadError::GsoProtocol)?;
    let (version, proto) = match gso.kind {
        GsoKind::Tcp4 | GsoKind::TunnelTcp4 => (Some(4), protocol::TCP),
        GsoKind::Tcp6 | GsoKind::TunnelTcp6 => (Some(6), protocol::TCP),
        GsoKind::Udp | GsoKind::TunnelUdp => (None, protocol::UDP),
    };
    let start = usize::from(start);
    let (ip, kind) = if start == outer.transport {
        (outer, gso.kind)
    } else {
        let inner = layers
            .inner(frame, len, start, proto)
            .and_then(|layers| layers.ip);
        (inner.ok_or(OffloadError::GsoProtocol)?, gso.kind.tunnelled())
    };
    if version.is_some_and(|version| version != ip.version) || ip.protocol != proto {
        return Err(OffloadError::GsoProtocol);
    }
    let transport = frame.get(ip.transport..).ok_or(OffloadError::GsoProtocol)?;
    let (length, cwr) = if proto == protocol::TCP {
        let octet = |at| transport.get(at).copied().ok_or(OffloadError::GsoProtocol);
        let length = usize::from(octet(field::TCP_DATA_OFFSET)? >> 4) * 4;
        if length < field::TCP_MIN {
            return Err(OffloadError::GsoProtocol);
        }
        (length, octet(field::TCP_FLAGS)? & field::TCP_CWR != 0)
    } else {
        (field::UDP_LEN, false)
    };
    let header = ip.transport + length;
    if length > transport.len() || header > len {
        return Err(OffloadError::GsoProtocol);
    }
    if gso.size == 0 {
        return Err(OffloadError::GsoSize(gso.size));
    }
    let size = usize::from(gso.size);
    if len - header <= size {
        return Ok(None);
    }
    if header - layers.network + size > usize::from(u16::MAX) {
        return Err(OffloadError::GsoSize(gso.size));
    }
    let segments = (len - header).div_ceil(size);
    if segments > MAX_SEGMENTS {
        return Err(OffloadError::GsoSegments(segments));
    }
    Ok(Some(Gso {
        header_len: u16::try_from(header).map_err(|_| OffloadError::GsoProtocol)?,
        kind,
        ecn: gso.ecn && cwr,
        size: gso.size,
    }))
}

#[inline]
fn le16(header: &[u8; VIRTIO_NET_HDR_LEN], at: usize) -> u16 {
    u16::from_le_bytes([header[at], header[at + 1]])
}

#[inline]
fn set_le16(header: &mut [u8; VIRTIO_NET_HDR_LEN], at: usize, value: u16) {
    header[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;

    fn header(flags: u8, gso_type: u8, size: u16, start: u16, offset: u16) -> [u8; 12] {
        let mut header = [0; 12];
        header[0] = flags;
        header[1] = gso_type;
        header[2] = 0xee; // A length that is never believed.
        set_le16(&mut header, field::GSO_SIZE, size);
        set_le16(&mut header, field::CSUM_START, start);
        set_le16(&mut header, field::CSUM_OFFSET, offset);
        header
    }

    fn build(step: etherparse::PacketBuilderStep<etherparse::TcpHeader>, payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        step.write(&mut frame, &vec![7; payload]).unwrap();
        frame
    }

    fn tcp4(payload: usize) -> Vec<u8> {
        let step = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 3, 4);
        build(step, payload)
    }

    fn tcp6_tagged(payload: usize) -> Vec<u8> {
        let step = PacketBuilder::ethernet2([2; 6], [4; 6])
            .single_vlan(etherparse::VlanId::try_new(5).unwrap())
            .ipv6([1; 16], [2; 16], 64)
            .tcp(1, 2, 3, 4);
        build(step, payload)
    }

    fn udp4(payload: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut frame, &vec![7; payload])
            .unwrap();
        frame
    }

    fn decode(header: [u8; 12], frame: &[u8]) -> Result<Offload, OffloadError> {
        Offload::decode(&header, frame, frame.len())
    }

    #[test]
    fn plain_and_verified() {
        assert_eq!(decode(header(0, 0, 9, 9, 9), &[]), Ok(Offload::default()));
        let verified = decode(header(2, 0, 0, 0, 0), &[]).unwrap();
        assert_eq!(verified.checksum, Checksum::Verified);
        assert!(Capabilities::NONE.takes(&verified));
    }

    #[test]
    fn super_frames_of_each_kind() {
        let frame = tcp4(5000);
        let offload = decode(header(1, 1, 1448, 34, 16), &frame).unwrap();
        let gso = offload.gso.unwrap();
        assert_eq!(
            (gso.kind, gso.size, gso.header_len, gso.ecn),
            (GsoKind::Tcp4, 1448, 54, false)
        );
        assert_eq!(offload.wire_frames(frame.len()), (4, 5000 + 4 * 54));
        assert_eq!(offload.wire_len(frame.len()), 1502);
        let only_tso4 = Capabilities {
            tso4: true,
            checksum: true,
            ..Capabilities::NONE
        };
        assert!(
            only_tso4.takes(&offload)
                && !Capabilities {
                    tso4: false,
                    ..Capabilities::ALL
                }
                .takes(&offload)
        );

        let frame = tcp6_tagged(3000);
        let mut offload = decode(header(1, 4, 1000, 58, 16), &frame).unwrap();
        assert_eq!(offload.gso.unwrap().kind, GsoKind::Tcp6);
        assert_eq!(offload.wire_frames(frame.len()), (3, 3000 + 3 * 78));
        assert!(!only_tso4.takes(&offload));
        offload.shift(-4);
        assert_eq!(
            offload.checksum,
            Checksum::Partial {
                start: 54,
                offset: 16
            }
        );
        assert_eq!(offload.gso.unwrap().header_len, 74);

        let offload = decode(header(1, 5, 1000, 34, 6), &udp4(3000)).unwrap();
        assert_eq!(offload.gso.unwrap().kind, GsoKind::Udp);
        assert_eq!(offload.gso.unwrap().header_len, 42);
    }

    #[test]
    fn one_segment_is_a_plain_frame() {
        for payload in [0, 1, 1448] {
            let offload = decode(header(1, 1, 1448, 34, 16), &tcp4(payload)).unwrap();
            assert_eq!(offload.gso, None);
            assert_eq!(
                offload.checksum,
                Checksum::Partial {
                    start: 34,
                    offset: 16
                }
            );
        }
    }

    #[test]
    fn congestion_flag_needs_cwr_in_the_frame() {
        let mut frame = tcp4(5000);
        let with_ecn = header(1, 1 | field::GSO_ECN, 1448, 34, 16);
        assert!(!decode(with_ecn, &frame).unwrap().gso.unwrap().ecn);
        frame[34 + field::TCP_FLAGS] |= field::TCP_CWR;
        let offload = decode(with_ecn, &frame).unwrap();
        assert!(offload.gso.unwrap().ecn);
        assert_eq!(offload.encode()[1], 1 | field::GSO_ECN);
    }

    #[test]
    fn refusals() {
        use OffloadError::*;
        let (start, offset) = (34, 16);
        let tcp = tcp4(5000);
        for (header, error) in [
            (header(4, 0, 0, 0, 0), Flags(4)),
            (header(1, 3, 1448, start, offset), GsoType(3)),
            (header(1, 2, 1448, start, offset), GsoType(2)),
            (header(1, 0x80, 1448, start, offset), GsoType(0x80)),
            (header(1, 0x85, 1448, start, offset), GsoType(0x85)),
            (header(0, 1, 1448, start, offset), GsoWithoutChecksum),
            (header(2, 1, 1448, start, offset), GsoWithoutChecksum),
            (header(1, 4, 1448, start, offset), GsoProtocol),
            (header(1, 5, 1448, start, offset), GsoProtocol),
            (header(1, 1, 0, start, offset), GsoSize(0)),
            (
                header(1, 0, 0, 5000, 60),
                ChecksumOutside {
                    start: 5000,
                    offset: 60,
                },
            ),
            (
                header(1, 0, 0, 65535, 65535),
                ChecksumOutside {
                    start: 65535,
                    offset: 65535,
                },
            ),
            (
                header(1, 0, 0, 13, 16),
                ChecksumOutside {
                    start: 13,
                    offset: 16,
                },
            ),
        ] {
            assert_eq!(decode(header, &tcp), Err(error));
        }
        // A segment of this size is longer than an IP packet.
        let mut huge = tcp4(65000);
        huge.resize(70_000, 0);
        assert_eq!(decode(header(1, 1, 65_500, 34, 16), &huge), Err(GsoSize(65_500)));
    }

    #[test]
    fn a_super_frame_becomes_no_more_frames_than_a_real_sender_makes() {
        let smallest = tcp4(65_000);
        let decoded = decode(header(1, 1, 88, 34, 16), &smallest).unwrap();
        assert_eq!(decoded.wire_frames(smallest.len()).0, 739);
        let tiny = decode(header(1, 1, 1, 34, 16), &smallest);
        assert_eq!(tiny, Err(OffloadError::GsoSegments(65_000)));
        let most = tcp4(2 * MAX_SEGMENTS);
        assert!(decode(header(1, 1, 2, 34, 16), &most).is_ok());
        let one_more = tcp4(2 * MAX_SEGMENTS + 1);
        assert!(decode(header(1, 1, 2, 34, 16), &one_more).is_err());
    }

    #[test]
    fn a_checksum_is_never_written_over_what_policy_reads() {
        let place = |start, offset| Err(OffloadError::ChecksumPlace { start, offset });
        let tcp = tcp4(100);
        // The source address, the destination address, the ports.
        for (start, offset) in [(14, 12), (14, 16), (34, 0), (34, 2), (20, 20)] {
            assert_eq!(decode(header(1, 0, 0, start, offset), &tcp), place(start, offset));
        }
        // The payload of UDP may hold a packet of its own.
        let udp = udp4(100);
        assert!(decode(header(1, 0, 0, 42 + 50, 16), &udp).is_ok());
        assert_eq!(decode(header(1, 0, 0, 34, 2), &udp), place(34, 2));
        assert_eq!(decode(header(1, 0, 0, 41, 6), &udp), place(41, 6));
        // ARP, and IP that is none.
        let mut arp = vec![0; 60];
        arp[12..14].copy_from_slice(&[8, 6]);
        assert_eq!(decode(header(1, 0, 0, 14, 14), &arp), place(14, 14));
        arp[12..14].copy_from_slice(&[8, 0]);
        assert_eq!(decode(header(1, 0, 0, 34, 16), &arp), place(34, 16));
        // A fragment.
        let mut fragment = udp4(100);
        fragment[20] |= 0x20;
        assert_eq!(decode(header(1, 0, 0, 34, 6), &fragment), place(34, 6));
    }

    /// The packet in `frame`, in a tunnel of `protocol` with the header `tunnel`.
    fn within(protocol: u8, tunnel: &[u8], frame: &[u8]) -> Vec<u8> {
        let packet = [tunnel, &frame[14..]].concat();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 1, 0, 1], [10, 1, 0, 2], 64)
            .write(&mut frame, etherparse::IpNumber(protocol), &packet)
            .unwrap();
        frame
    }

    #[test]
    fn super_frames_in_tunnels_are_known_by_their_inner_header() {
        let inner = tcp4(5000);
        let mut key = [0x20, 0, 8, 0, 0, 0, 0, 7];
        for (protocol, tunnel) in [
            (protocol::GRE, &[0, 0, 8, 0][..]),
            (protocol::GRE, &key),
            (protocol::IPV4, &[]),
        ] {
            let frame = within(protocol, tunnel, &inner);
            let start = (34 + tunnel.len() + 20) as u16;
            let offload = decode(header(1, 1, 1000, start, 16), &frame).unwrap();
            let gso = offload.gso.unwrap();
            assert_eq!((gso.kind, gso.header_len), (GsoKind::TunnelTcp4, start + 20));
            assert!(!Capabilities::ALL.takes(&offload));
            assert_eq!(decode(offload.encode(), &frame), Ok(offload));
            for (gso_type, start) in [(4, start), (5, start), (1, start - 2), (1, start + 4)] {
                let refused = decode(header(1, gso_type, 1000, start, 16), &frame);
                assert_eq!(refused, Err(OffloadError::GsoProtocol));
            }
        }
        // A sequence number is one per packet.
        key[0] = 0x10;
        let frame = within(protocol::GRE, &key, &inner);
        let refused = decode(header(1, 1, 1000, 34 + 8 + 20, 16), &frame);
        assert_eq!(refused, Err(OffloadError::GsoProtocol));
        // An inner packet that ends elsewhere than the frame.
        let mut frame = within(protocol::IPV4, &[], &inner);
        frame.push(0);
        let refused = decode(header(1, 1, 1000, 34 + 20, 16), &frame);
        assert_eq!(refused, Err(OffloadError::GsoProtocol));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Any header with any frame: refused, or true of the frame.
        #[test]
        fn hostile_headers(
            which in 0..5usize,
            flags in prop_oneof![Just(1u8), any::<u8>()],
            gso_type in prop_oneof![Just(0u8), Just(1), Just(4), Just(5), any::<u8>()],
            size in prop_oneof![1..3000u16, any::<u16>()],
            start in prop_oneof![Just(34u16), Just(58), 10..100u16, any::<u16>()],
            offset in prop_oneof![Just(16u16), Just(6), any::<u16>()],
            flip in prop::option::weighted(0.3, (12..90usize, any::<u8>())),
            cut in prop_oneof![Just(usize::MAX), 0..120usize],
            noise in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let mut frame = match which {
                0 => tcp4(4000),
                1 => tcp6_tagged(4000),
                2 => udp4(4000),
                3 => udp4(200),
                _ => noise,
            };
            if let Some((at, value)) = flip && at < frame.len() {
                frame[at] = value;
            }
            frame.truncate(cut);
            let head = &frame[..frame.len().min(FrameView::HEADER_LEN)];
            let header = header(flags, gso_type, size, start, offset);
            let result = Offload::decode(&header, head, frame.len());
            prop_assert_eq!(result, Offload::decode(&header, &frame, frame.len()));
            let Ok(offload) = result else { return Ok(()) };

            if let Checksum::Partial { start, offset } = offload.checksum {
                prop_assert!(start >= 14);
                prop_assert!(usize::from(start) + usize::from(offset) + 2 <= frame.len());
            }
            if let Some(gso) = offload.gso {
                let Checksum::Partial { start, .. } = offload.checksum else {
                    return Err(TestCaseError::fail("GSO without a partial checksum"));
                };
                prop_assert!(gso.size > 0 && start < gso.header_len);
                prop_assert!(usize::from(gso.header_len) + usize::from(gso.size) < frame.len());
                prop_assert!(usize::from(gso.header_len) <= FrameView::HEADER_LEN);
            }
            let (frames, octets) = offload.wire_frames(frame.len());
            prop_assert!(frames >= 1 && octets >= frame.len() as u64);
            prop_assert!(offload.wire_len(frame.len()) <= frame.len());
            // What is sent on says the same as what came in.
            prop_assert_eq!(decode(offload.encode(), &frame), Ok(offload));
            let mut moved = offload;
            moved.shift(4);
            moved.shift(4);
            moved.shift(-8);
            prop_assert_eq!(moved, offload);
        }
    }
}
