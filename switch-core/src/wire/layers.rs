//! Where the headers of a frame are: through up to two VLAN tags and the IPv6 extension headers.

use super::{be16, ethertype, ipv6, octets};

mod field {
    pub const ETHERTYPE: usize = 12;
    pub const TAG: usize = 4;
    pub const MAX_TAGS: usize = 2;
    pub const IPV4_MIN: usize = 20;
    pub const IPV4_FRAGMENT: usize = 6;
    pub const IPV4_PROTOCOL: usize = 9;
    pub const IPV6_NEXT: usize = 6;
    pub const IPV6_LEN: usize = 40;
}

/// The IP layer of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ip {
    /// 4 or 6, as the header itself and the EtherType say.
    pub version: u8,
    /// The transport protocol.
    pub protocol: u8,
    /// Octets from the start of the frame to the transport header; at most the length of the octets looked at.
    pub transport: usize,
    /// The packet is a fragment, or an IPv6 packet with a fragment header (which may be its only one).
    pub fragment: bool,
}

/// The headers of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layers {
    /// The EtherType behind the tags, or a length (802.3) below [`ethertype::MINIMUM`].
    pub ethertype: u16,
    /// Octets from the start of the frame to the network header.
    pub network: usize,
    /// The IP layer; `None` if the frame is not IP, or its IP header is damaged or not within the octets looked at.
    pub ip: Option<Ip>,
}

impl Layers {
    /// Looks at the first octets of a frame. `None` if they end before the EtherType behind the tags.
    pub fn find(frame: &[u8]) -> Option<Self> {
        let mut at = field::ETHERTYPE;
        let mut ethertype = be16(frame, at)?;
        for _ in 0..field::MAX_TAGS {
            if ethertype != ethertype::VLAN && ethertype != ethertype::QINQ {
                break;
            }
            at += field::TAG;
            ethertype = be16(frame, at)?;
        }
        let network = at + 2;
        let ip = match ethertype {
            ethertype::IPV4 => ipv4(frame, network),
            ethertype::IPV6 => ipv6(frame, network),
            _ => None,
        };
        Some(Self {
            ethertype,
            network,
            ip,
        })
    }
}

fn ipv4(frame: &[u8], network: usize) -> Option<Ip> {
    let header: [u8; field::IPV4_MIN] = octets(frame, network)?;
    let length = usize::from(header[0] & 0x0f) * 4;
    let transport = network + length;
    if header[0] >> 4 != 4 || length < field::IPV4_MIN || transport > frame.len() {
        return None;
    }
    // More fragments, or an offset.
    let fragment = header[field::IPV4_FRAGMENT] & 0x3f != 0 || header[field::IPV4_FRAGMENT + 1] != 0;
    Some(Ip {
        version: 4,
        protocol: header[field::IPV4_PROTOCOL],
        transport,
        fragment,
    })
}

fn ipv6(frame: &[u8], network: usize) -> Option<Ip> {
    let header: [u8; field::IPV6_LEN] = octets(frame, network)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let start = network + field::IPV6_LEN;
    let upper = ipv6::walk(header[field::IPV6_NEXT], &frame[start..])?;
    Some(Ip {
        version: 6,
        protocol: upper.protocol,
        transport: start + upper.offset,
        fragment: upper.fragment.is_some(),
    })
}
