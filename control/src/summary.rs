//! A frame in one line, much as `tcpdump -e` says it: for `trace`, for `capture` without a file, and for logs.
//!
//! Not for a frame's way: it allocates. Any octets of any length are taken; what can't be read is said so.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    ArpPacketSlice, Icmpv4Type, Icmpv6Type, IpNumber, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket,
    LinkSlice, TcpSlice, TransportSlice, ether_type, icmpv6,
};
use switch_core::addr::MacAddr;

/// The octets of an Ethernet header without tags.
const ETHERNET_LEN: usize = 14;

/// Says in one line what `frame` is, of which `len` octets were on the wire (more than `frame.len()` for a cut copy).
pub fn summarise(frame: &[u8], len: usize) -> String {
    let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
        return format!("{len} octets, shorter than an Ethernet header ({ETHERNET_LEN})");
    };
    let mut line = String::new();
    if let Some(LinkSlice::Ethernet2(ethernet)) = &packet.link {
        let (source, destination) = (MacAddr(ethernet.source()), MacAddr(ethernet.destination()));
        push(&mut line, format_args!("{source} > {destination}"));
    }
    for ext in &packet.link_exts {
        match ext {
            LaxLinkExtSlice::Vlan(tag) => push(
                &mut line,
                format_args!(", vlan {}", tag.vlan_identifier().value()),
            ),
            LaxLinkExtSlice::Macsec(_) => line.push_str(", MACsec"),
        }
        if let LaxLinkExtSlice::Vlan(tag) = ext
            && tag.priority_code_point().value() != 0
        {
            push(
                &mut line,
                format_args!(" pcp {}", tag.priority_code_point().value()),
            );
        }
    }
    line.push_str(", ");
    match &packet.net {
        Some(LaxNetSlice::Arp(arp)) => summarise_arp(&mut line, arp, "ARP"),
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let ends = Ends {
                source: header.source_addr().to_string(),
                destination: header.destination_addr().to_string(),
            };
            if header.is_fragmenting_payload() && header.fragments_offset().value() != 0 {
                let offset = u32::from(header.fragments_offset().value()) * 8;
                push(
                    &mut line,
                    format_args!(
                        "{ends}: fragment at {offset} of {}",
                        protocol(ip.payload().ip_number)
                    ),
                );
            } else {
                summarise_transport(
                    &mut line,
                    &ends,
                    packet.transport.as_ref(),
                    ip.payload().ip_number,
                );
            }
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let ends = Ends {
                source: v6(header.source_addr()),
                destination: v6(header.destination_addr()),
            };
            summarise_transport(
                &mut line,
                &ends,
                packet.transport.as_ref(),
                ip.payload().ip_number,
            );
        }
        None => summarise_other(&mut line, &packet),
    }
    push(&mut line, format_args!(", length {len}"));
    line
}

/// Writing to a `String` can't fail.
fn push(line: &mut String, args: std::fmt::Arguments<'_>) {
    let _ = line.write_fmt(args);
}

/// Addresses of a packet; IPv6 addresses stand in brackets, so that a port can follow.
struct Ends {
    source: String,
    destination: String,
}

impl std::fmt::Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bare = |end: &str| end.trim_matches(['[', ']']).to_owned();
        write!(f, "{} > {}", bare(&self.source), bare(&self.destination))
    }
}

fn v6(address: Ipv6Addr) -> String {
    format!("[{address}]")
}

fn summarise_arp(line: &mut String, arp: &ArpPacketSlice<'_>, name: &str) {
    let Ok(arp) = arp.to_packet().try_eth_ipv4() else {
        push(line, format_args!("{name} of other than Ethernet and IPv4"));
        return;
    };
    let (sender, target) = (Ipv4Addr::from(arp.sender_ipv4), Ipv4Addr::from(arp.target_ipv4));
    let (sender_mac, target_mac) = (MacAddr(arp.sender_mac), MacAddr(arp.target_mac));
    match arp.operation.0 {
        1 if sender == target => push(
            line,
            format_args!("{name} announcement of {sender} at {sender_mac}"),
        ),
        1 if sender.is_unspecified() => push(line, format_args!("{name} probe for {target}")),
        1 => push(line, format_args!("{name} who-has {target} tell {sender}")),
        2 => push(line, format_args!("{name} reply {sender} is-at {sender_mac}")),
        3 => push(line, format_args!("{name} who-is {target_mac} tell {sender_mac}")),
        4 => push(line, format_args!("{name} reply {target_mac} is {target}")),
        operation => push(line, format_args!("{name} operation {operation}")),
    }
}

fn summarise_transport(
    line: &mut String,
    ends: &Ends,
    transport: Option<&TransportSlice<'_>>,
    number: IpNumber,
) {
    let ports = |source: u16, destination: u16| {
        format!("{}:{source} > {}:{destination}", ends.source, ends.destination)
    };
    match transport {
        Some(TransportSlice::Udp(udp)) => {
            let ports = ports(udp.source_port(), udp.destination_port());
            push(line, format_args!("{ports}: UDP"));
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let ports = ports(tcp.source_port(), tcp.destination_port());
            push(line, format_args!("{ports}: TCP [{}]", tcp_flags(tcp)));
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            push(line, format_args!("{ends}: ICMP "));
            match icmp.icmp_type() {
                Icmpv4Type::EchoRequest(echo) => push(
                    line,
                    format_args!("echo request, id {}, seq {}", echo.id, echo.seq),
                ),
                Icmpv4Type::EchoReply(echo) => {
                    push(line, format_args!("echo reply, id {}, seq {}", echo.id, echo.seq));
                }
                Icmpv4Type::DestinationUnreachable(_) => {
                    push(
                        line,
                        format_args!("destination unreachable, code {}", icmp.code_u8()),
                    );
                }
                Icmpv4Type::TimeExceeded(_) => line.push_str("time exceeded"),
                _ => push(
                    line,
                    format_args!("type {}, code {}", icmp.type_u8(), icmp.code_u8()),
                ),
            }
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            push(line, format_args!("{ends}: ICMPv6 "));
            summarise_icmpv6(line, icmp);
        }
        Some(TransportSlice::Igmp(_)) => push(line, format_args!("{ends}: IGMP")),
        None => push(line, format_args!("{ends}: {}", protocol(number))),
    }
}

fn summarise_icmpv6(line: &mut String, icmp: &etherparse::Icmpv6Slice<'_>) {
    // A neighbour message names its target after the eight octets of its header.
    let target = || {
        let octets: Option<[u8; 16]> = icmp.payload().get(..16).and_then(|bytes| bytes.try_into().ok());
        octets.map_or_else(
            || "a cut target".to_owned(),
            |octets| Ipv6Addr::from(octets).to_string(),
        )
    };
    match icmp.icmp_type() {
        Icmpv6Type::EchoRequest(echo) => push(
            line,
            format_args!("echo request, id {}, seq {}", echo.id, echo.seq),
        ),
        Icmpv6Type::EchoReply(echo) => {
            push(line, format_args!("echo reply, id {}, seq {}", echo.id, echo.seq));
        }
        Icmpv6Type::NeighborSolicitation => {
            push(line, format_args!("neighbour solicitation, who-has {}", target()));
        }
        Icmpv6Type::NeighborAdvertisement(_) => {
            push(line, format_args!("neighbour advertisement, target {}", target()));
        }
        Icmpv6Type::RouterSolicitation => line.push_str("router solicitation"),
        Icmpv6Type::RouterAdvertisement(_) => line.push_str("router advertisement"),
        Icmpv6Type::PacketTooBig { mtu } => push(line, format_args!("packet too big, mtu {mtu}")),
        Icmpv6Type::DestinationUnreachable(_) => {
            push(
                line,
                format_args!("destination unreachable, code {}", icmp.code_u8()),
            );
        }
        _ if icmp.type_u8() == icmpv6::TYPE_MULTICAST_LISTENER_REDUCTION
            || icmp.type_u8() == MLDV2_REPORT =>
        {
            line.push_str("multicast listener report");
        }
        _ => push(
            line,
            format_args!("type {}, code {}", icmp.type_u8(), icmp.code_u8()),
        ),
    }
}

/// Version 2 multicast listener report (RFC 3810, section 5.2).
const MLDV2_REPORT: u8 = 143;

fn summarise_other(line: &mut String, packet: &LaxSlicedPacket<'_>) {
    if let Some((error, layer)) = &packet.stop_err {
        push(line, format_args!("damaged {layer}: {error}"));
        return;
    }
    let Some(payload) = packet.ether_payload() else {
        line.push_str("no payload");
        return;
    };
    match payload.ether_type.0 {
        RARP => match ArpPacketSlice::from_slice(payload.payload) {
            Ok(arp) => summarise_arp(line, &arp, "RARP"),
            Err(error) => push(line, format_args!("damaged RARP: {error}")),
        },
        0x88cc => line.push_str("LLDP"),
        0x8809 => line.push_str("LACP or another slow protocol"),
        0x8808 => line.push_str("pause or another MAC control frame"),
        0x888e => line.push_str("EAPOL"),
        number if ether_type::IPV4.0 == number || ether_type::IPV6.0 == number => line.push_str("cut IP"),
        // Below 0x600 the field is the length of an 802.3 frame (IEEE 802.3, clause 3.2.6).
        number if number < 0x600 => match payload.payload {
            [0x42, 0x42, ..] => line.push_str("802.3, spanning tree"),
            _ => line.push_str("802.3"),
        },
        number => push(line, format_args!("ethertype 0x{number:04x}")),
    }
}

/// EtherType of RARP (RFC 903).
const RARP: u16 = 0x8035;

fn tcp_flags(tcp: &TcpSlice<'_>) -> String {
    let flags = [
        (tcp.syn(), "SYN"),
        (tcp.fin(), "FIN"),
        (tcp.rst(), "RST"),
        (tcp.psh(), "PSH"),
        (tcp.ack(), "ACK"),
        (tcp.urg(), "URG"),
        (tcp.ece(), "ECE"),
        (tcp.cwr(), "CWR"),
    ];
    let names: Vec<&str> = flags
        .iter()
        .filter(|(set, _)| *set)
        .map(|(_, name)| *name)
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}

fn protocol(number: IpNumber) -> String {
    number
        .keyword_str()
        .map_or_else(|| format!("IP protocol {}", number.0), str::to_owned)
}

#[cfg(test)]
mod tests {
    use etherparse::{ArpHardwareId, ArpOperation, ArpPacket, EtherType, PacketBuilder, VlanId};

    use super::*;

    const A: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
    const B: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

    fn arp(operation: u16, sender: [u8; 4], target: [u8; 4]) -> ArpPacket {
        ArpPacket::new(
            ArpHardwareId::ETHERNET,
            EtherType::IPV4,
            ArpOperation(operation),
            &A,
            &sender,
            &[0; 6],
            &target,
        )
        .unwrap()
    }

    #[test]
    fn arp_in_a_vlan() {
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(A, [0xff; 6])
            .single_vlan(VlanId::try_new(100).unwrap())
            .arp(arp(1, [10, 0, 0, 1], [10, 0, 0, 2]))
            .write(&mut frame)
            .unwrap();
        assert_eq!(
            summarise(&frame, frame.len()),
            "52:54:00:00:00:01 > ff:ff:ff:ff:ff:ff, vlan 100, ARP who-has 10.0.0.2 tell 10.0.0.1, length 46"
        );
    }

    #[test]
    fn arp_forms() {
        for (operation, sender, target, want) in [
            (
                1,
                [10, 0, 0, 1],
                [10, 0, 0, 1],
                "ARP announcement of 10.0.0.1 at 52:54:00:00:00:01",
            ),
            (1, [0; 4], [10, 0, 0, 1], "ARP probe for 10.0.0.1"),
            (
                2,
                [10, 0, 0, 1],
                [10, 0, 0, 2],
                "ARP reply 10.0.0.1 is-at 52:54:00:00:00:01",
            ),
            (9, [10, 0, 0, 1], [10, 0, 0, 2], "ARP operation 9"),
        ] {
            let mut frame = Vec::new();
            PacketBuilder::ethernet2(A, B)
                .arp(arp(operation, sender, target))
                .write(&mut frame)
                .unwrap();
            assert_eq!(
                summarise(&frame, 60),
                format!("52:54:00:00:00:01 > 52:54:00:00:00:02, {want}, length 60")
            );
        }
    }

    #[test]
    fn transports() {
        let v4 = || PacketBuilder::ethernet2(A, B).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let six = |end: u8| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end];
        let v6 = || PacketBuilder::ethernet2(A, B).ipv6(six(1), six(2), 64);
        let mut frames = vec![Vec::new(); 5];
        v4().udp(1000, 53).write(&mut frames[0], &[0; 4]).unwrap();
        v4().tcp(1000, 80, 1, 100)
            .syn()
            .ack(2)
            .write(&mut frames[1], &[])
            .unwrap();
        v4().icmpv4_echo_request(7, 1).write(&mut frames[2], &[]).unwrap();
        v6().udp(1000, 53).write(&mut frames[3], &[]).unwrap();
        v6().icmpv6_echo_request(7, 1).write(&mut frames[4], &[]).unwrap();
        let lines: Vec<String> = frames
            .iter()
            .map(|frame| {
                summarise(frame, frame.len())
                    .split_once(", ")
                    .unwrap()
                    .1
                    .to_owned()
            })
            .collect();
        assert_eq!(
            lines,
            [
                "10.0.0.1:1000 > 10.0.0.2:53: UDP, length 46",
                "10.0.0.1:1000 > 10.0.0.2:80: TCP [SYN ACK], length 54",
                "10.0.0.1 > 10.0.0.2: ICMP echo request, id 7, seq 1, length 42",
                "[fd00::1]:1000 > [fd00::2]:53: UDP, length 62",
                "fd00::1 > fd00::2: ICMPv6 echo request, id 7, seq 1, length 62",
            ]
        );
    }

    #[test]
    fn damaged_frames_are_named_and_never_panic() {
        assert_eq!(
            summarise(&[1, 2, 3], 3),
            "3 octets, shorter than an Ethernet header (14)"
        );
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(A, B)
            .ipv6([0; 16], [1; 16], 64)
            .udp(1, 2)
            .write(&mut frame, &[0; 40])
            .unwrap();
        for len in 0..frame.len() {
            assert!(summarise(&frame[..len], frame.len()).contains("length") || len < ETHERNET_LEN);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_octets_give_one_line(octets in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            proptest::prop_assert_eq!(summarise(&octets, octets.len()).lines().count(), 1);
        }
    }
}
