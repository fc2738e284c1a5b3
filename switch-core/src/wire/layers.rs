//! Where the headers of a frame are: through up to two VLAN tags and the IPv6 extension headers.

use super::ethernet::Ethernet;
use super::ipv4::{self, Ipv4};
use super::ipv6::{self, Ipv6};
use super::{ethertype, protocol, udp};

/// Tags that are looked through; more are the payload of an unknown EtherType.
const MAX_TAGS: usize = 2;

/// GRE (RFC 2784, RFC 2890): its header, and the flags of a checksum and of a sequence number.
const GRE_LEN: usize = 4;
const GRE_PER_PACKET: u8 = 0x90;

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

    /// The innermost layers of a packet in a tunnel (VXLAN, Geneve, GRE, IP in IP) of which is known where its transport
    /// header, of `protocol`, starts. `len` is the length of the whole frame, `frame` its first octets.
    ///
    /// The headers of a tunnel can't be told from its port alone. So the IP header is sought back from `transport`: it ends
    /// there and says that the packet ends where the frame does.
    pub fn inner(&self, frame: &[u8], len: usize, transport: usize, protocol: u8) -> Option<Self> {
        let outer = self.ip.filter(|ip| !ip.fragment)?;
        let tunnel = frame.get(outer.transport..)?;
        let first = match outer.protocol {
            protocol::UDP => outer.transport + udp::HEADER_LEN,
            // What changes from packet to packet can't be left to the one who cuts a super-frame.
            protocol::GRE if tunnel.first()? & GRE_PER_PACKET == 0 => outer.transport + GRE_LEN,
            protocol::IPV4 | protocol::IPV6 => outer.transport,
            _ => return None,
        };
        let at = |header_len: usize| {
            let network = transport.checked_sub(header_len).filter(|at| *at >= first)?;
            Some((network, frame.get(network..)?))
        };
        let found = |ethertype, network, version| Self {
            ethertype,
            network,
            ip: Some(Ip {
                version,
                protocol,
                transport,
                fragment: false,
            }),
        };
        for header_len in (ipv4::HEADER_LEN..=ipv4::MAX_HEADER_LEN).step_by(4) {
            if let Some((network, data)) = at(header_len)
                && let Ok(ip) = Ipv4::parse(data)
                && ip.header_len() == header_len
                && network + usize::from(ip.total_len()) == len
                && ip.protocol() == protocol
                && !ip.is_fragment()
            {
                return Some(found(ethertype::IPV4, network, 4));
            }
        }
        let (network, data) = at(ipv6::HEADER_LEN)?;
        let ip = Ipv6::parse(data).ok()?;
        (transport + usize::from(ip.payload_len()) == len && ip.next_header() == protocol)
            .then(|| found(ethertype::IPV6, network, 6))
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
