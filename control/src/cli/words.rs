//! A frame in words, such as `ping 10.0.0.2 to vm2`, and its octets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv6Type, PacketBuilder,
    PacketBuilderStep, ether_type,
};
use switch_core::addr::MacAddr;

use super::frame::FrameError;

/// EtherType of RARP (RFC 903).
const RARP: EtherType = EtherType(0x8035);
/// Hop limit that neighbour discovery asks for (RFC 4861, section 7.1).
const ND_HOP_LIMIT: u8 = 255;
/// Hop limit of everything else.
const HOP_LIMIT: u8 = 64;
/// Source port of UDP and TCP: the first of the dynamic range (RFC 6335, section 6).
const SOURCE_PORT: u16 = 49152;
/// Octets of a tag (IEEE 802.1Q, clause 9.3).
const TAG_LEN: usize = 4;
/// Longest frame that can be asked for: a whole IPv6 super-frame with two tags.
const MAX_LEN: usize = 14 + 2 * TAG_LEN + 40 + 65_535;

/// A frame in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Words {
    /// What it carries.
    pub(crate) kind: Kind,
    /// Source MAC, if given.
    pub(crate) from_mac: Option<MacAddr>,
    /// Source IP, if given.
    pub(crate) from_ip: Option<IpAddr>,
    /// Destination, if given.
    pub(crate) to: Option<Destination>,
    /// VIDs of its tags, the outer first; 4095 is allowed here, so that its drop can be traced.
    pub(crate) tags: Vec<u16>,
    /// Length of the whole frame, if given.
    pub(crate) len: Option<usize>,
}

/// Where a frame goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Destination {
    /// To this address.
    Mac(MacAddr),
    /// To the address of this port.
    Port(String),
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `arp who-has`
    ArpRequest(Ipv4Addr),
    /// `arp reply`
    ArpReply(Ipv4Addr),
    /// `rarp`: what QEMU sends when a guest has moved.
    Rarp,
    /// `nd who-has`
    NdRequest(Ipv6Addr),
    /// `ping`, `ping6`
    Ping(IpAddr),
    /// `udp`
    Udp(SocketAddr),
    /// `tcp`
    Tcp(SocketAddr),
    /// `ether`
    Ether(u16),
}

/// The addresses that [`Words::build`] puts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Source MAC.
    pub(crate) source: MacAddr,
    /// Destination MAC.
    pub(crate) destination: MacAddr,
    /// Source address, of the version that the frame needs.
    pub(crate) source_ip: Option<IpAddr>,
}

impl Words {
    /// The address that the frame is for.
    pub(crate) fn destination_ip(&self) -> Option<IpAddr> {
        match self.kind {
            Kind::ArpRequest(ip) => Some(ip.into()),
            Kind::ArpReply(_) | Kind::Rarp | Kind::Ether(_) => None,
            Kind::NdRequest(ip) => Some(ip.into()),
            Kind::Ping(ip) => Some(ip),
            Kind::Udp(end) | Kind::Tcp(end) => Some(end.ip()),
        }
    }

    /// The destination MAC that the protocol itself names, whatever stations there are.
    pub(crate) fn natural_destination(&self) -> Option<MacAddr> {
        match self.kind {
            Kind::ArpRequest(_) | Kind::ArpReply(_) | Kind::Rarp => Some(MacAddr::BROADCAST),
            Kind::NdRequest(ip) => Some(multicast6(solicited_node(ip))),
            Kind::Ether(_) => None,
            Kind::Ping(ip) => group_mac(ip),
            Kind::Udp(end) | Kind::Tcp(end) => group_mac(end.ip()),
        }
    }

    /// The frame's octets.
    pub(crate) fn build(&self, ends: &Ends) -> Result<Vec<u8>, FrameError> {
        let tags = self.tags.len() * TAG_LEN;
        let plain = self.build_plain(ends, 0)?;
        let min = plain.len() + tags;
        let mut frame = match self.len {
            None => plain,
            Some(len) if (min..=MAX_LEN).contains(&len) => self.build_plain(ends, len - min)?,
            Some(len) => {
                return Err(FrameError::Length {
                    len,
                    min,
                    max: MAX_LEN,
                });
            }
        };
        for vid in self.tags.iter().rev() {
            let [a, b] = vid.to_be_bytes();
            let [t, p] = ether_type::VLAN_TAGGED_FRAME.0.to_be_bytes();
            frame.splice(12..12, [t, p, a, b]);
        }
        Ok(frame)
    }

    /// The frame without tags, with `extra` octets of zero as payload.
    fn build_plain(&self, ends: &Ends, extra: usize) -> Result<Vec<u8>, FrameError> {
        let payload = vec![0; extra];
        let mut frame = Vec::new();
        let ethernet = || PacketBuilder::ethernet2(ends.source.0, ends.destination.0);
        let written = match self.kind {
            Kind::ArpRequest(target) => {
                return Ok(self.build_arp(ends, ArpOperation::REQUEST, self.source_v4(ends), target, extra));
            }
            Kind::ArpReply(address) => {
                return Ok(self.build_arp(ends, ArpOperation::REPLY, address, address, extra));
            }
            Kind::Rarp => {
                let none = Ipv4Addr::UNSPECIFIED;
                return Ok(self.build_arp(ends, ArpOperation(3), none, none, extra));
            }
            Kind::Ether(ether_type) => {
                let header = Ethernet2Header {
                    source: ends.source.0,
                    destination: ends.destination.0,
                    ether_type: EtherType(ether_type),
                };
                frame.extend_from_slice(&header.to_bytes());
                frame.extend_from_slice(&payload);
                return Ok(frame);
            }
            Kind::NdRequest(target) => {
                // Target, then the option that names the sender's link-layer address (RFC 4861, section 4.3).
                let mut message = target.octets().to_vec();
                message.extend_from_slice(&[1, 1]);
                message.extend_from_slice(&ends.source.0);
                message.extend_from_slice(&payload);
                ethernet()
                    .ipv6(
                        self.source_v6(ends).octets(),
                        solicited_node(target).octets(),
                        ND_HOP_LIMIT,
                    )
                    .icmpv6(Icmpv6Type::NeighborSolicitation)
                    .write(&mut frame, &message)
            }
            Kind::Ping(IpAddr::V4(_)) => self
                .ip(ethernet(), ends)
                .icmpv4_echo_request(1, 1)
                .write(&mut frame, &payload),
            Kind::Ping(IpAddr::V6(_)) => self
                .ip(ethernet(), ends)
                .icmpv6_echo_request(1, 1)
                .write(&mut frame, &payload),
            Kind::Udp(end) => self
                .ip(ethernet(), ends)
                .udp(SOURCE_PORT, end.port())
                .write(&mut frame, &payload),
            Kind::Tcp(end) => self
                .ip(ethernet(), ends)
                .tcp(SOURCE_PORT, end.port(), 1, 64_240)
                .syn()
                .write(&mut frame, &payload),
        };
        // The builder refuses only what is too long for a length field of IP.
        match written {
            Ok(()) => Ok(frame),
            Err(_) => {
                let tags = self.tags.len() * TAG_LEN;
                let min = self.build_plain(ends, 0)?.len() + tags;
                Err(FrameError::Length {
                    len: min + extra,
                    min,
                    max: 14 + tags + 65_535,
                })
            }
        }
    }

    fn ip(
        &self,
        ethernet: PacketBuilderStep<Ethernet2Header>,
        ends: &Ends,
    ) -> PacketBuilderStep<etherparse::IpHeaders> {
        match self.destination_ip() {
            Some(IpAddr::V6(ip)) => ethernet.ipv6(self.source_v6(ends).octets(), ip.octets(), HOP_LIMIT),
            Some(IpAddr::V4(ip)) => ethernet.ipv4(self.source_v4(ends).octets(), ip.octets(), HOP_LIMIT),
            None => ethernet.ipv4([0; 4], [0; 4], HOP_LIMIT),
        }
    }

    /// The source, or 0.0.0.0: in ARP that is a probe (RFC 5227), elsewhere a source that nobody has named.
    fn source_v4(&self, ends: &Ends) -> Ipv4Addr {
        match self.from_ip.or(ends.source_ip) {
            Some(IpAddr::V4(ip)) => ip,
            _ => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// The source, or the link-local address of the source MAC (RFC 4291, appendix A).
    fn source_v6(&self, ends: &Ends) -> Ipv6Addr {
        if let Some(IpAddr::V6(ip)) = self.from_ip.or(ends.source_ip) {
            return ip;
        }
        let [a, b, c, d, e, f] = ends.source.0;
        Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
    }

    fn build_arp(
        &self,
        ends: &Ends,
        operation: ArpOperation,
        sender: Ipv4Addr,
        target: Ipv4Addr,
        extra: usize,
    ) -> Vec<u8> {
        // RARP announces the sender itself as the target (RFC 903).
        let (ether_type, target_mac) = match self.kind {
            Kind::Rarp => (RARP, ends.source),
            Kind::ArpReply(_) => (ether_type::ARP, ends.destination),
            _ => (ether_type::ARP, MacAddr::ZERO),
        };
        let header = Ethernet2Header {
            source: ends.source.0,
            destination: ends.destination.0,
            ether_type,
        };
        let mut frame = header.to_bytes().to_vec();
        let arp = ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            operation,
            &ends.source.0,
            &sender.octets(),
            &target_mac.0,
            &target.octets(),
        );
        if let Ok(arp) = arp {
            frame.extend_from_slice(&arp.to_bytes());
        }
        frame.resize(frame.len() + extra, 0);
        frame
    }
}

/// The group address of a multicast or broadcast IP address (RFC 1112, section 6.4; RFC 2464, section 7).
fn group_mac(ip: IpAddr) -> Option<MacAddr> {
    match ip {
        IpAddr::V4(ip) if ip.is_broadcast() => Some(MacAddr::BROADCAST),
        IpAddr::V4(ip) if ip.is_multicast() => {
            let [_, b, c, d] = ip.octets();
            Some(MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d]))
        }
        IpAddr::V6(ip) if ip.is_multicast() => Some(multicast6(ip)),
        _ => None,
    }
}

fn multicast6(group: Ipv6Addr) -> MacAddr {
    let octets = group.octets();
    MacAddr([0x33, 0x33, octets[12], octets[13], octets[14], octets[15]])
}

/// The group that a neighbour solicitation goes to (RFC 4291, section 2.7.1).
fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let octets = target.octets();
    Ipv6Addr::from([
        0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, octets[13], octets[14], octets[15],
    ])
}
