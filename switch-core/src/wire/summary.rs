//! A frame in one line, much as `tcpdump -e` says it, for traces, captures and logs. Not for a frame's way.

use std::fmt::{self, Display, Formatter};

use super::arp::{Arp, Operation};
use super::ethernet::{Ethernet, HEADER_LEN};
use super::icmp::{self, Icmp};
use super::icmpv6::{self, Icmpv6, Neighbour};
use super::ipv4::Ipv4;
use super::ipv6::{self, Ipv6};
use super::tcp::Tcp;
use super::udp::{self, Udp};
use super::{ParseError, ethertype, protocol};
use crate::vid::Tpid;

/// Tags that are named; more are the payload of an unknown EtherType.
const MAX_TAGS: usize = 3;

/// What `frame`, or the first octets of one, is. Takes any octets; what can't be read is said so.
///
/// ```
/// let frame = [
///     0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0, 0, 0, 1, 0x81, 0, 0, 100, 0x08, 0x06, // Ethernet, VLAN 100
///     0, 1, 8, 0, 6, 4, 0, 1, 0x52, 0x54, 0, 0, 0, 1, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 10, 0, 0, 2,
/// ];
/// assert_eq!(
///     switch_core::wire::summary(&frame).to_string(),
///     "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, vlan 100, ARP who-has 10.0.0.2 tell 10.0.0.1"
/// );
/// ```
pub const fn summary(frame: &[u8]) -> Summary<'_> {
    Summary(frame)
}

/// Displays a frame in one line; see [`summary`].
#[derive(Clone, Copy, Debug)]
pub struct Summary<'a>(&'a [u8]);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Ok(ethernet) = Ethernet::parse(self.0) else {
            return write!(
                f,
                "{} octets, less than an Ethernet header ({HEADER_LEN})",
                self.0.len()
            );
        };
        write!(f, "{} > {}, ", ethernet.source(), ethernet.destination())?;
        let Ok(frame) = ethernet.untag::<MAX_TAGS>() else {
            return f.write_str("cut inside a VLAN tag");
        };
        for tag in frame.tags.iter().flatten() {
            let name = match tag.tpid {
                Tpid::Dot1Q => "vlan",
                Tpid::Dot1Ad => "service vlan",
            };
            write!(f, "{name} {}", tag.raw_vid())?;
            if tag.pcp() != 0 {
                write!(f, " pcp {}", tag.pcp())?;
            }
            f.write_str(", ")?;
        }
        let data = frame.payload;
        match frame.ethertype {
            ethertype::IPV4 => or_damaged(f, "IPv4", Ipv4::parse(data), ipv4),
            ethertype::IPV6 => or_damaged(f, "IPv6", Ipv6::parse(data), ipv6),
            ethertype::ARP => or_damaged(f, "ARP", Arp::parse(data), |f, packet| arp(f, "ARP", packet)),
            ethertype::RARP => or_damaged(f, "RARP", Arp::parse(data), |f, packet| arp(f, "RARP", packet)),
            ethertype::LLDP => f.write_str("LLDP"),
            ethertype::SLOW => f.write_str("LACP or another slow protocol"),
            ethertype::MAC_CONTROL => f.write_str("pause or another MAC control frame"),
            ethertype::EAPOL => f.write_str("EAPOL"),
            other if other < ethertype::MINIMUM => match data {
                [0x42, 0x42, ..] => f.write_str("802.3, spanning tree"),
                _ => write!(f, "802.3, len {other}"),
            },
            other => write!(f, "ethertype {other:#06x}, len {}", data.len()),
        }
    }
}

/// Formats what was parsed, or says why it was not.
fn or_damaged<T>(
    f: &mut Formatter<'_>,
    name: &str,
    parsed: Result<T, ParseError>,
    format: impl FnOnce(&mut Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    match parsed {
        Ok(parsed) => format(f, &parsed),
        Err(ParseError::Truncated) => write!(f, "{name}, cut inside its header"),
        Err(ParseError::Unsupported(what)) => write!(f, "{name}, unreadable: {what}"),
    }
}

fn arp(f: &mut Formatter<'_>, name: &str, arp: &Arp<'_>) -> fmt::Result {
    let (sender, target) = (arp.sender_ip(), arp.target_ip());
    match arp.operation() {
        Operation::Request if arp.is_gratuitous() => {
            write!(f, "{name} announcement of {sender} at {}", arp.sender_mac())
        }
        Operation::Request if arp.is_probe() => write!(f, "{name} probe for {target}"),
        Operation::Request => write!(f, "{name} who-has {target} tell {sender}"),
        Operation::Reply => write!(f, "{name} reply {sender} is-at {}", arp.sender_mac()),
        Operation::ReverseRequest => {
            write!(f, "{name} who-is {} tell {}", arp.target_mac(), arp.sender_mac())
        }
        Operation::ReverseReply => write!(f, "{name} reply {} at {target}", arp.target_mac()),
        Operation::Other(operation) => write!(f, "{name} operation {operation}"),
    }
}

fn ipv4(f: &mut Formatter<'_>, ip: &Ipv4<'_>) -> fmt::Result {
    f.write_str("IPv4 ")?;
    let length = match usize::from(ip.total_len()) {
        0 => ip.payload().len(),
        total => total.saturating_sub(ip.header_len()),
    };
    let upper = Packet {
        source: ip.source(),
        destination: ip.destination(),
        protocol: ip.protocol(),
        fragment: ip
            .is_fragment()
            .then_some((ip.fragment_offset(), ip.more_fragments())),
        payload: ip.payload(),
        length,
    };
    upper.fmt(f)
}

fn ipv6(f: &mut Formatter<'_>, ip: &Ipv6<'_>) -> fmt::Result {
    f.write_str("IPv6 ")?;
    let Some(upper) = ip.upper() else {
        return write!(
            f,
            "{} > {}: cut inside its extension headers, or more than {} of them",
            ip.source(),
            ip.destination(),
            ipv6::MAX_EXTENSIONS
        );
    };
    let length = match usize::from(ip.payload_len()) {
        0 => ip.payload().len(),
        length => length,
    };
    let upper = Packet {
        source: ip.source(),
        destination: ip.destination(),
        protocol: upper.protocol,
        fragment: upper.fragment.map(|fragment| (fragment.offset, fragment.more)),
        payload: ip.payload().get(upper.offset..).unwrap_or_default(),
        length: length.saturating_sub(upper.offset),
    };
    upper.fmt(f)
}

/// A packet of either version, at its transport header.
struct Packet<'a, A> {
    source: A,
    destination: A,
    protocol: u8,
    /// Offset, and whether more follow.
    fragment: Option<(u16, bool)>,
    payload: &'a [u8],
    /// Octets from the transport header to the end, as the packet says; `payload` may be cut.
    length: usize,
}

impl<A: Display> Packet<'_, A> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.fragment {
            // A fragment with an offset has no transport header.
            Some((offset, more)) if offset != 0 => {
                self.ends(f)?;
                let more = if more { ", more follow" } else { ", the last" };
                write!(
                    f,
                    "{} fragment at {offset}{more}, len {}",
                    Protocol(self.protocol),
                    self.length
                )
            }
            Some((_, true)) => {
                self.transport(f)?;
                f.write_str(", first fragment")
            }
            _ => self.transport(f),
        }
    }

    fn transport(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let data = self.payload;
        match self.protocol {
            protocol::TCP => {
                if let Ok(tcp) = Tcp::parse(data) {
                    self.ports(f, tcp.source_port(), tcp.destination_port())?;
                    write!(f, "TCP [{}] seq {}", tcp.flags(), tcp.sequence())?;
                    if tcp.flags().contains(super::tcp::Flags::ACK) {
                        write!(f, " ack {}", tcp.acknowledgement())?;
                    }
                    return write!(f, " len {}", self.length.saturating_sub(tcp.header_len()));
                }
            }
            protocol::UDP => {
                if let Ok(udp) = Udp::parse(data) {
                    self.ports(f, udp.source_port(), udp.destination_port())?;
                    return write!(f, "UDP len {}", self.length.saturating_sub(udp::HEADER_LEN));
                }
            }
            protocol::ICMP => {
                if let Ok(message) = Icmp::parse(data) {
                    self.ends(f)?;
                    return icmp(f, &message);
                }
            }
            protocol::ICMPV6 => {
                if let Ok(message) = Icmpv6::parse(data) {
                    self.ends(f)?;
                    return icmpv6(f, &message);
                }
            }
            other => {
                self.ends(f)?;
                return write!(f, "{} len {}", Protocol(other), self.length);
            }
        }
        self.ends(f)?;
        write!(f, "{}, cut inside its header", Protocol(self.protocol))
    }

    fn ends(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}: ", self.source, self.destination)
    }

    fn ports(&self, f: &mut Formatter<'_>, source: u16, destination: u16) -> fmt::Result {
        write!(
            f,
            "{}.{source} > {}.{destination}: ",
            self.source, self.destination
        )
    }
}

fn icmp(f: &mut Formatter<'_>, message: &Icmp<'_>) -> fmt::Result {
    f.write_str("ICMP ")?;
    let echo = (message.identifier(), message.sequence());
    match (message.kind(), message.code()) {
        (icmp::kind::ECHO_REQUEST, _) => write!(f, "echo request, id {}, seq {}", echo.0, echo.1),
        (icmp::kind::ECHO_REPLY, _) => write!(f, "echo reply, id {}, seq {}", echo.0, echo.1),
        (icmp::kind::UNREACHABLE, 4) => write!(f, "fragmentation needed, mtu {}", message.sequence()),
        (icmp::kind::UNREACHABLE, code) => write!(f, "destination unreachable, code {code}"),
        (icmp::kind::TIME_EXCEEDED, _) => f.write_str("time exceeded"),
        (icmp::kind::REDIRECT, code) => write!(f, "redirect, code {code}"),
        (icmp::kind::PARAMETER_PROBLEM, _) => f.write_str("parameter problem"),
        (kind, code) => write!(f, "type {kind}, code {code}"),
    }
}

fn icmpv6(f: &mut Formatter<'_>, message: &Icmpv6<'_>) -> fmt::Result {
    f.write_str("ICMPv6 ")?;
    if let Some((id, seq)) = message.echo() {
        let name = if message.kind() == icmpv6::kind::ECHO_REQUEST {
            "request"
        } else {
            "reply"
        };
        return write!(f, "echo {name}, id {id}, seq {seq}");
    }
    if let Some(mtu) = message.mtu() {
        return write!(f, "packet too big, mtu {mtu}");
    }
    match message.neighbour() {
        Ok(Some(neighbour)) => return nd(f, &neighbour),
        Ok(None) => {}
        Err(_) => return write!(f, "type {}, cut inside its header", message.kind()),
    }
    match (message.kind(), message.code()) {
        (icmpv6::kind::UNREACHABLE, code) => write!(f, "destination unreachable, code {code}"),
        (icmpv6::kind::TIME_EXCEEDED, _) => f.write_str("time exceeded"),
        (icmpv6::kind::PARAMETER_PROBLEM, _) => f.write_str("parameter problem"),
        (icmpv6::kind::MLD_QUERY, _) => f.write_str("multicast listener query"),
        (icmpv6::kind::MLD_REPORT | icmpv6::kind::MLD2_REPORT, _) => f.write_str("multicast listener report"),
        (icmpv6::kind::MLD_DONE, _) => f.write_str("multicast listener done"),
        (kind, code) => write!(f, "type {kind}, code {code}"),
    }
}

fn nd(f: &mut Formatter<'_>, message: &Neighbour<'_>) -> fmt::Result {
    match message {
        Neighbour::RouterSolicitation { .. } => f.write_str("router solicitation"),
        Neighbour::RouterAdvertisement { lifetime, .. } => {
            write!(f, "router advertisement, lifetime {lifetime}s")
        }
        Neighbour::Solicitation { target, .. } => write!(f, "neighbour solicitation, who-has {target}"),
        Neighbour::Advertisement { target, options, .. } => {
            write!(f, "neighbour advertisement, {target}")?;
            match options.link_layer(icmpv6::option::TARGET_LINK_LAYER) {
                Some(mac) => write!(f, " is-at {mac}"),
                None => Ok(()),
            }
        }
        Neighbour::Redirect {
            target, destination, ..
        } => write!(f, "redirect, {destination} by {target}"),
    }
}

/// The name of an IP protocol.
struct Protocol(u8);

impl Display for Protocol {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            protocol::ICMP => "ICMP",
            protocol::IGMP => "IGMP",
            protocol::TCP => "TCP",
            protocol::UDP => "UDP",
            protocol::GRE => "GRE",
            protocol::ESP => "ESP",
            protocol::AUTHENTICATION => "AH",
            protocol::ICMPV6 => "ICMPv6",
            protocol::NO_NEXT => "no next header",
            protocol::SCTP => "SCTP",
            other => return write!(f, "IP protocol {other}"),
        })
    }
}
