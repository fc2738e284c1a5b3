//! Where the headers of a frame are: through up to two VLAN tags and the IPv6 extension headers.

use super::ethernet::Ethernet;
use super::ethertype;
use super::ipv4::Ipv4;
use super::ipv6::{self, Ipv6};

/// Tags that are looked through; more are the payload of an unknown EtherType.
const MAX_TAGS: usize = 2;

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
        let untagged = Ethernet::parse(frame).ok()?.untag::<MAX_TAGS>().ok()?;
        let network = frame.len() - untagged.payload.len();
        let ip = match untagged.ethertype {
            ethertype::IPV4 => Ip::v4(untagged.payload, network),
            ethertype::IPV6 => Ip::v6(untagged.payload, network),
            _ => None,
        };
        Some(Self {
            ethertype: untagged.ethertype,
            network,
            ip,
        })
    }
}

impl Ip {
    fn v4(data: &[u8], network: usize) -> Option<Self> {
        let ip = Ipv4::parse(data).ok()?;
        Some(Self {
            version: 4,
            protocol: ip.protocol(),
            transport: network + ip.header_len(),
            fragment: ip.is_fragment(),
        })
    }

    fn v6(data: &[u8], network: usize) -> Option<Self> {
        let ip = Ipv6::parse(data).ok()?;
        // Not `Ipv6::upper`: a super-frame's length field may say anything.
        let upper = ipv6::walk(ip.next_header(), &data[ipv6::HEADER_LEN..])?;
        Some(Self {
            version: 6,
            protocol: upper.protocol,
            transport: network + ipv6::HEADER_LEN + upper.offset,
            fragment: upper.fragment.is_some(),
        })
    }
}
