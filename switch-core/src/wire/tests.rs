//! The views against etherparse, over random packets, all their truncations, and octets that are nothing.

use std::net::{Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6FlowLabel,
    Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, LinkExtSlice, NetSlice, PacketBuilder,
    SingleVlanHeader, SlicedPacket, TcpHeader, TransportSlice, VlanHeader, VlanId, VlanPcp,
};
use proptest::prelude::*;

use super::arp::{Arp, Operation};
use super::checksum::Sum;
use super::ethernet::Ethernet;
use super::icmp::Icmp;
use super::icmpv6::{Icmpv6, Neighbour, Options, option};
use super::ipv4::Ipv4;
use super::ipv6::Ipv6;
use super::layers::Layers;
use super::tcp::{Flags, Tcp};
use super::udp::Udp;
use super::vlan::Vlan;
use super::*;
use crate::addr::MacAddr;
use crate::vid::Tpid;

const A: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const B: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

#[derive(Clone, Debug)]
enum Inner {
    Tcp(Box<TcpHeader>),
    Udp(u16, u16),
    /// Identifier and sequence number of a request.
    Echo(u16, u16),
}

fn tags() -> impl Strategy<Value = Vec<SingleVlanHeader>> {
    let tag = (0..4096u16, 0..8u8, any::<bool>()).prop_map(|(vid, pcp, dei)| SingleVlanHeader {
        vlan_id: VlanId::try_new(vid).unwrap(),
        pcp: VlanPcp::try_new(pcp).unwrap(),
        drop_eligible_indicator: dei,
        ..SingleVlanHeader::default()
    });
    prop::collection::vec(tag, 0..=2)
}

fn ips() -> impl Strategy<Value = IpHeaders> {
    let v4 = (
        any::<[u8; 4]>(),
        any::<[u8; 4]>(),
        any::<[u16; 2]>(),
        any::<[bool; 3]>(),
        0..=10usize,
    )
        .prop_map(
            |(source, destination, [id, offset], [fragment, more, dont], words)| {
                let mut ip = Ipv4Header::new(0, (id >> 8) as u8, IpNumber::TCP, source, destination).unwrap();
                ip.identification = id;
                ip.dont_fragment = dont;
                if fragment {
                    ip.fragment_offset = IpFragOffset::try_new(offset >> 3).unwrap();
                    ip.more_fragments = more;
                }
                ip.options = [1u8; 40][..words * 4].try_into().unwrap();
                IpHeaders::Ipv4(ip, Default::default())
            },
        );
    let v6 = (
        any::<[u8; 16]>(),
        any::<[u8; 16]>(),
        any::<u32>(),
        any::<[bool; 3]>(),
    )
        .prop_map(|(source, destination, label, [hop, options, fragment])| {
            let ip = Ipv6Header {
                traffic_class: (label >> 24) as u8,
                flow_label: Ipv6FlowLabel::try_new(label & 0xf_ffff).unwrap(),
                hop_limit: 64,
                source,
                destination,
                ..Ipv6Header::default()
            };
            let header = |data: &[u8]| Ipv6RawExtHeader::new_raw(IpNumber::TCP, data).unwrap();
            let extensions = Ipv6Extensions {
                hop_by_hop_options: hop.then(|| header(&[1, 4, 0, 0, 0, 0])),
                destination_options: options.then(|| header(&[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
                fragment: fragment.then(|| {
                    let offset = IpFragOffset::try_new((label & 0xff) as u16).unwrap();
                    Ipv6FragmentHeader::new(IpNumber::TCP, offset, label & 0x100 != 0, label)
                }),
                ..Ipv6Extensions::default()
            };
            IpHeaders::Ipv6(ip, extensions)
        });
    prop_oneof![v4, v6]
}

fn inners() -> impl Strategy<Value = Inner> {
    let tcp = (any::<[u16; 4]>(), any::<[u32; 2]>(), any::<u8>(), 0..=10usize).prop_map(
        |([source, destination, window, urgent], [sequence, acknowledgement], flags, words)| {
            let mut tcp = TcpHeader::new(source, destination, sequence, window);
            tcp.acknowledgment_number = acknowledgement;
            tcp.urgent_pointer = urgent;
            let flag = |bit: Flags| Flags(flags).contains(bit);
            (tcp.fin, tcp.syn, tcp.rst, tcp.psh) = (
                flag(Flags::FIN),
                flag(Flags::SYN),
                flag(Flags::RST),
                flag(Flags::PSH),
            );
            (tcp.ack, tcp.urg, tcp.ece, tcp.cwr) = (
                flag(Flags::ACK),
                flag(Flags::URG),
                flag(Flags::ECE),
                flag(Flags::CWR),
            );
            tcp.set_options_raw(&[1; 40][..words * 4]).unwrap();
            Inner::Tcp(Box::new(tcp))
        },
    );
    prop_oneof![
        tcp,
        any::<[u16; 2]>().prop_map(|[source, destination]| Inner::Udp(source, destination)),
        any::<[u16; 2]>().prop_map(|[id, seq]| Inner::Echo(id, seq)),
    ]
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..80);
    (any::<[[u8; 6]; 2]>(), tags(), ips(), inners(), payload).prop_map(
        |([source, destination], tags, ip, inner, payload)| {
            let ethernet = PacketBuilder::ethernet2(source, destination);
            let v6 = matches!(ip, IpHeaders::Ipv6(..));
            let step = match &tags[..] {
                [] => ethernet.ip(ip),
                [tag] => ethernet.vlan(VlanHeader::Single(tag.clone())).ip(ip),
                [outer, inner, ..] => ethernet
                    .vlan(VlanHeader::Double(etherparse::DoubleVlanHeader {
                        outer: outer.clone(),
                        inner: inner.clone(),
                    }))
                    .ip(ip),
            };
            let mut frame = Vec::new();
            match inner {
                Inner::Tcp(tcp) => step.tcp_header(*tcp).write(&mut frame, &payload),
                Inner::Udp(source, destination) => step.udp(source, destination).write(&mut frame, &payload),
                Inner::Echo(id, seq) if v6 => step.icmpv6_echo_request(id, seq).write(&mut frame, &payload),
                Inner::Echo(id, seq) => step.icmpv4_echo_request(id, seq).write(&mut frame, &payload),
            }
            .unwrap();
            frame
        },
    )
}

/// Reads all that there is to read; must not panic.
fn read_everything(octets: &[u8]) {
    if let Ok(view) = Ethernet::parse(octets) {
        let _ = format!(
            "{view:?} {:?} {:?} {:?}",
            view.tag(Tpid::Dot1Q),
            view.tag(Tpid::Dot1Ad),
            view.untag::<4>()
        );
    }
    if let Ok(view) = Vlan::parse(octets) {
        let _ = (view.tci(), view.ethertype(), view.payload());
    }
    if let Ok(view) = Arp::parse(octets) {
        let _ = (
            view.operation(),
            view.is_gratuitous(),
            view.is_probe(),
            view.target_mac(),
        );
    }
    if let Ok(view) = Ipv4::parse(octets) {
        let _ = (
            view.payload(),
            view.options(),
            view.verify_checksum(),
            view.is_fragment(),
        );
    }
    if let Ok(view) = Ipv6::parse(octets) {
        let _ = (view.payload(), view.upper(), view.flow_label());
    }
    if let Ok(view) = Tcp::parse(octets) {
        let _ = (view.payload(), view.options(), view.flags().to_string());
    }
    if let Ok(view) = Udp::parse(octets) {
        let _ = view.payload();
    }
    if let Ok(view) = Icmp::parse(octets) {
        let _ = (view.payload(), view.verify_checksum());
    }
    if let Ok(view) = Icmpv6::parse(octets) {
        let _ = (view.payload(), view.echo(), view.mtu());
        if let Ok(Some(message)) = view.neighbour() {
            assert!(message.options().count() <= octets.len() / 8 + 1);
            let _ = message.options().link_layer(option::SOURCE_LINK_LAYER);
        }
    }
    if let Some(layers) = Layers::find(octets) {
        assert!(layers.network <= octets.len());
        assert!(
            layers
                .ip
                .is_none_or(|ip| ip.transport <= octets.len() && ip.transport >= layers.network + 20)
        );
    }
    assert_eq!(summary(octets).to_string().lines().count(), 1);
}

/// Every field of `frame` as etherparse reads it.
fn compare(frame: &[u8]) -> Result<(), TestCaseError> {
    let theirs = SlicedPacket::from_ethernet(frame).unwrap();
    let ethernet = Ethernet::parse(frame).unwrap();
    prop_assert_eq!(&ethernet.destination().0[..], &frame[..6]);
    prop_assert_eq!(&ethernet.source().0[..], &frame[6..12]);
    let untagged = ethernet.untag::<2>().unwrap();
    let mut tags = untagged.tags.iter().flatten();
    for ext in &theirs.link_exts {
        let LinkExtSlice::Vlan(tag) = ext else { continue };
        let ours = tags.next().unwrap();
        prop_assert_eq!(ours.raw_vid(), tag.vlan_identifier().value());
        prop_assert_eq!(ours.pcp(), tag.priority_code_point().value());
        prop_assert_eq!(ours.tci & 0x1000 != 0, tag.drop_eligible_indicator());
    }
    prop_assert!(tags.next().is_none());
    if let Some(tag) = untagged.tags[0] {
        prop_assert_eq!(ethernet.tag(tag.tpid), Ok(Some(tag)));
    }

    let layers = Layers::find(frame).unwrap();
    prop_assert_eq!(layers.network, frame.len() - untagged.payload.len());
    let ip = layers.ip.unwrap();
    let (payload, pseudo) = match theirs.net.as_ref().unwrap() {
        NetSlice::Ipv4(theirs) => {
            let ours = Ipv4::parse(untagged.payload).unwrap();
            let header = theirs.header();
            prop_assert_eq!(ours.header_len(), usize::from(header.ihl()) * 4);
            prop_assert_eq!(ours.options(), header.options());
            prop_assert_eq!(ours.dscp(), header.dcp().value());
            prop_assert_eq!(ours.ecn(), header.ecn().value());
            prop_assert_eq!(ours.total_len(), header.total_len());
            prop_assert_eq!(ours.identification(), header.identification());
            prop_assert_eq!(ours.dont_fragment(), header.dont_fragment());
            prop_assert_eq!(ours.more_fragments(), header.more_fragments());
            prop_assert_eq!(ours.fragment_offset(), header.fragments_offset().value() << 3);
            prop_assert_eq!(ours.is_fragment(), header.is_fragmenting_payload());
            prop_assert_eq!(ip.fragment, header.is_fragmenting_payload());
            prop_assert_eq!(ours.ttl(), header.ttl());
            prop_assert_eq!(ours.protocol(), header.protocol().0);
            prop_assert_eq!(ours.checksum(), header.header_checksum());
            prop_assert!(ours.verify_checksum());
            prop_assert_eq!(ours.source(), header.source_addr());
            prop_assert_eq!(ours.destination(), header.destination_addr());
            prop_assert_eq!(ours.payload(), theirs.payload().payload);
            prop_assert_eq!((ip.version, ip.protocol), (4, header.protocol().0));
            (ours.payload(), ours.pseudo_header(ours.payload().len() as u32))
        }
        NetSlice::Ipv6(theirs) => {
            let ours = Ipv6::parse(untagged.payload).unwrap();
            let header = theirs.header();
            prop_assert_eq!(ours.traffic_class(), header.traffic_class());
            prop_assert_eq!(ours.flow_label(), header.flow_label().value());
            prop_assert_eq!(ours.payload_len(), header.payload_length());
            prop_assert_eq!(ours.next_header(), header.next_header().0);
            prop_assert_eq!(ours.hop_limit(), header.hop_limit());
            prop_assert_eq!(ours.source(), header.source_addr());
            prop_assert_eq!(ours.destination(), header.destination_addr());
            let upper = ours.upper().unwrap();
            prop_assert_eq!(upper.protocol, theirs.payload().ip_number.0);
            let payload = &ours.payload()[upper.offset..];
            prop_assert_eq!(payload, theirs.payload().payload);
            prop_assert_eq!(ip.fragment, upper.fragment.is_some());
            let fragmented = upper.fragment.is_some_and(|part| part.more || part.offset != 0);
            prop_assert_eq!(fragmented, theirs.is_payload_fragmented());
            prop_assert_eq!((ip.version, ip.protocol), (6, upper.protocol));
            (payload, ours.pseudo_header(upper.protocol, payload.len() as u32))
        }
        NetSlice::Arp(_) => unreachable!("no ARP was built"),
    };
    prop_assert_eq!(&frame[ip.transport..][..payload.len()], payload);

    let sum = pseudo.add(Sum::of(payload)).checksum();
    match &theirs.transport {
        Some(TransportSlice::Tcp(theirs)) => {
            let ours = Tcp::parse(payload).unwrap();
            prop_assert_eq!(ours.source_port(), theirs.source_port());
            prop_assert_eq!(ours.destination_port(), theirs.destination_port());
            prop_assert_eq!(ours.sequence(), theirs.sequence_number());
            prop_assert_eq!(ours.acknowledgement(), theirs.acknowledgment_number());
            prop_assert_eq!(ours.header_len(), usize::from(theirs.data_offset()) * 4);
            let flags = [
                (theirs.fin(), Flags::FIN),
                (theirs.syn(), Flags::SYN),
                (theirs.rst(), Flags::RST),
                (theirs.psh(), Flags::PSH),
                (theirs.ack(), Flags::ACK),
                (theirs.urg(), Flags::URG),
                (theirs.ece(), Flags::ECE),
                (theirs.cwr(), Flags::CWR),
            ];
            for (set, flag) in flags {
                prop_assert_eq!(ours.flags().contains(flag), set);
            }
            prop_assert_eq!(ours.window(), theirs.window_size());
            prop_assert_eq!(ours.checksum(), theirs.checksum());
            prop_assert_eq!(ours.urgent(), theirs.urgent_pointer());
            prop_assert_eq!(ours.options(), theirs.options());
            prop_assert_eq!(ours.payload(), theirs.payload());
            prop_assert_eq!(sum, 0);
        }
        Some(TransportSlice::Udp(theirs)) => {
            let ours = Udp::parse(payload).unwrap();
            prop_assert_eq!(ours.source_port(), theirs.source_port());
            prop_assert_eq!(ours.destination_port(), theirs.destination_port());
            prop_assert_eq!(ours.length(), theirs.length());
            prop_assert_eq!(ours.checksum(), theirs.checksum());
            prop_assert_eq!(ours.payload(), theirs.payload());
            prop_assert_eq!(sum, 0);
        }
        Some(TransportSlice::Icmpv4(theirs)) => {
            let ours = Icmp::parse(payload).unwrap();
            prop_assert_eq!((ours.kind(), ours.code()), (theirs.type_u8(), theirs.code_u8()));
            prop_assert_eq!(ours.checksum(), theirs.checksum());
            let five_to_eight = theirs.bytes5to8();
            prop_assert_eq!(&ours.identifier().to_be_bytes()[..], &five_to_eight[..2]);
            prop_assert_eq!(&ours.sequence().to_be_bytes()[..], &five_to_eight[2..]);
            prop_assert_eq!(ours.payload(), theirs.payload());
            prop_assert!(ours.verify_checksum());
        }
        Some(TransportSlice::Icmpv6(theirs)) => {
            let ours = Icmpv6::parse(payload).unwrap();
            prop_assert_eq!((ours.kind(), ours.code()), (theirs.type_u8(), theirs.code_u8()));
            prop_assert_eq!(ours.checksum(), theirs.checksum());
            let five_to_eight = theirs.bytes5to8();
            let (id, seq) = ours.echo().unwrap();
            prop_assert_eq!([id.to_be_bytes(), seq.to_be_bytes()].concat(), five_to_eight);
            prop_assert_eq!(ours.payload(), theirs.payload());
            prop_assert_eq!(sum, 0);
        }
        Some(TransportSlice::Igmp(_)) => unreachable!("no IGMP was built"),
        None => prop_assert!(ip.fragment),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn views_read_what_etherparse_reads(frame in frames(), padding in prop::collection::vec(any::<u8>(), 0..20)) {
        compare(&frame)?;
        // Padding, or an FCS left behind, is no part of a packet.
        compare(&[frame, padding].concat())?;
    }

    #[test]
    fn any_octets_can_be_read(octets in prop::collection::vec(any::<u8>(), 0..300)) {
        read_everything(&octets);
    }

    #[test]
    fn damaged_packets_can_be_read(
        mut frame in frames(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        for (at, value) in damage {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        for start in [0, 12, 14, 18, 22, 34, 54] {
            read_everything(frame.get(start..).unwrap_or_default());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// A packet cut short is refused, or reads as the whole one does.
    #[test]
    fn every_truncation(frame in frames()) {
        let whole = Layers::find(&frame).unwrap();
        let whole_ip = whole.ip.unwrap();
        for len in 0..frame.len() {
            let cut = &frame[..len];
            read_everything(cut);
            match Layers::find(cut) {
                None => prop_assert!(len < whole.network),
                Some(layers) => {
                    prop_assert_eq!((layers.ethertype, layers.network), (whole.ethertype, whole.network));
                    prop_assert_eq!(layers.ip, (len >= whole_ip.transport).then_some(whole_ip));
                }
            }
        }
    }
}

fn line(frame: &[u8]) -> String {
    let line = summary(frame).to_string();
    let addresses = "52:54:00:00:00:01 > 52:54:00:00:00:02, ";
    line.strip_prefix(addresses).map_or(line.clone(), str::to_owned)
}

fn arp(ethertype: u16, operation: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = [
        &B[..],
        &A,
        &ethertype.to_be_bytes(),
        &[0, 1, 8, 0, 6, 4, 0, operation],
    ]
    .concat();
    frame.extend([&A[..], &sender, &B, &target].concat());
    frame
}

#[test]
fn arp_of_every_kind() {
    let (a, b) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    let frame = arp(ethertype::ARP, 2, a, b);
    let view = Arp::parse(&frame[14..]).unwrap();
    assert_eq!(view.operation(), Operation::Reply);
    assert_eq!((view.sender_mac(), view.target_mac()), (MacAddr(A), MacAddr(B)));
    assert_eq!(
        (view.sender_ip(), view.target_ip()),
        (Ipv4Addr::from(a), Ipv4Addr::from(b))
    );
    for (ethertype, operation, sender, target, want) in [
        (ethertype::ARP, 1, a, b, "ARP who-has 10.0.0.2 tell 10.0.0.1"),
        (
            ethertype::ARP,
            1,
            a,
            a,
            "ARP announcement of 10.0.0.1 at 52:54:00:00:00:01",
        ),
        (ethertype::ARP, 1, [0; 4], b, "ARP probe for 10.0.0.2"),
        (
            ethertype::ARP,
            2,
            a,
            b,
            "ARP reply 10.0.0.1 is-at 52:54:00:00:00:01",
        ),
        (
            ethertype::RARP,
            3,
            a,
            b,
            "RARP who-is 52:54:00:00:00:02 tell 52:54:00:00:00:01",
        ),
        (
            ethertype::RARP,
            4,
            a,
            b,
            "RARP reply 52:54:00:00:00:02 at 10.0.0.2",
        ),
        (ethertype::ARP, 9, a, b, "ARP operation 9"),
    ] {
        assert_eq!(line(&arp(ethertype, operation, sender, target)), want);
    }
    let mut other = frame;
    other[18] = 8;
    assert!(matches!(
        Arp::parse(&other[14..]),
        Err(ParseError::Unsupported(_))
    ));
    assert_eq!(
        line(&other),
        "ARP, unreadable: ARP for other than IPv4 over Ethernet"
    );
    assert_eq!(line(&other[..30]), "ARP, cut inside its header");
}

#[test]
fn lines_of_ip_packets() {
    let v4 = || PacketBuilder::ethernet2(A, B).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
    let six = |end: u8| [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, end];
    let v6 = || PacketBuilder::ethernet2(A, B).ipv6(six(1), six(2), 64);
    let mut frames = vec![Vec::new(); 6];
    v4().udp(1000, 53).write(&mut frames[0], &[0; 4]).unwrap();
    v4().tcp(5201, 80, 1, 100)
        .syn()
        .write(&mut frames[1], &[])
        .unwrap();
    v4().tcp(80, 5201, 7, 100)
        .psh()
        .ack(2)
        .write(&mut frames[2], &[0; 9])
        .unwrap();
    v4().icmpv4_echo_request(7, 1).write(&mut frames[3], &[]).unwrap();
    v6().udp(1000, 53).write(&mut frames[4], &[]).unwrap();
    v6().icmpv6_echo_reply(7, 1).write(&mut frames[5], &[]).unwrap();
    assert_eq!(
        frames.iter().map(|frame| line(frame)).collect::<Vec<_>>(),
        [
            "IPv4 10.0.0.1.1000 > 10.0.0.2.53: UDP len 4",
            "IPv4 10.0.0.1.5201 > 10.0.0.2.80: TCP [S] seq 1 len 0",
            "IPv4 10.0.0.1.80 > 10.0.0.2.5201: TCP [P.] seq 7 ack 2 len 9",
            "IPv4 10.0.0.1 > 10.0.0.2: ICMP echo request, id 7, seq 1",
            "IPv6 fd00::1.1000 > fd00::2.53: UDP len 0",
            "IPv6 fd00::1 > fd00::2: ICMPv6 echo reply, id 7, seq 1",
        ]
    );
    // The first octets are enough for the length of the payload.
    assert_eq!(line(&frames[2][..60]), line(&frames[2]));
    assert_eq!(
        line(&frames[2][..50]),
        "IPv4 10.0.0.1 > 10.0.0.2: TCP, cut inside its header"
    );
    let mut fragment = frames[0].clone();
    fragment[20] = 0x20;
    assert_eq!(
        line(&fragment),
        "IPv4 10.0.0.1.1000 > 10.0.0.2.53: UDP len 4, first fragment"
    );
    fragment[21] = 2;
    assert_eq!(
        line(&fragment),
        "IPv4 10.0.0.1 > 10.0.0.2: UDP fragment at 16, more follow, len 12"
    );
}

#[test]
fn lines_of_other_frames() {
    let with = |ethertype: [u8; 2], rest: &[u8]| [&B[..], &A, &ethertype, rest].concat();
    for (frame, want) in [
        (vec![1, 2, 3], "3 octets, less than an Ethernet header (14)"),
        (with([0x81, 0], &[0]), "cut inside a VLAN tag"),
        (
            with([0x88, 0xa8], &[0, 9, 0x81, 0, 0x60, 5, 0x88, 0xcc]),
            "service vlan 9, vlan 5 pcp 3, LLDP",
        ),
        (with([0, 38], &[0x42, 0x42, 3]), "802.3, spanning tree"),
        (with([0x12, 0x34], &[0; 6]), "ethertype 0x1234, len 6"),
        (
            with([0x08, 0], &[0x65; 20]),
            "IPv4, unreadable: an IPv4 header with another version",
        ),
        (with([0x86, 0xdd], &[0x60; 20]), "IPv6, cut inside its header"),
    ] {
        assert_eq!(line(&frame), want);
    }
}

#[test]
fn neighbour_discovery() {
    let target = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let link_layer = |kind: u8| [&[kind, 1][..], &A].concat();
    let message = |kind: u8, rest: &[u8]| [&[kind, 0, 0, 0][..], rest].concat();
    let parse = |octets: &[u8]| -> String {
        let frame = [
            &B[..],
            &A,
            &[0x86, 0xdd, 0x60, 0, 0, 0, 0, octets.len() as u8, 58, 255],
            &[0; 32],
            octets,
        ]
        .concat();
        line(&frame)
            .trim_start_matches("IPv6 :: > ::: ICMPv6 ")
            .to_owned()
    };
    let address = target.octets();

    let solicitation = message(135, &[&[0; 4][..], &address, &link_layer(1)].concat());
    let Ok(Some(Neighbour::Solicitation {
        target: found,
        options,
    })) = Icmpv6::parse(&solicitation).unwrap().neighbour()
    else {
        panic!("no solicitation");
    };
    assert_eq!(
        (found, options.link_layer(option::SOURCE_LINK_LAYER)),
        (target, Some(MacAddr(A)))
    );
    assert_eq!(options.link_layer(option::TARGET_LINK_LAYER), None);
    assert_eq!(parse(&solicitation), "neighbour solicitation, who-has fe80::1");

    let advertisement = message(136, &[&[0xa0, 0, 0, 0][..], &address, &link_layer(2)].concat());
    let neighbour = Icmpv6::parse(&advertisement)
        .unwrap()
        .neighbour()
        .unwrap()
        .unwrap();
    assert!(matches!(
        neighbour,
        Neighbour::Advertisement { router: true, solicited: false, overriding: true, target: found, .. } if found == target
    ));
    assert_eq!(
        parse(&advertisement),
        "neighbour advertisement, fe80::1 is-at 52:54:00:00:00:01"
    );

    let router = message(134, &[&[64, 0x80, 7, 8][..], &[0; 8], &link_layer(1)].concat());
    let neighbour = Icmpv6::parse(&router).unwrap().neighbour().unwrap().unwrap();
    assert!(matches!(
        neighbour,
        Neighbour::RouterAdvertisement {
            managed: true,
            other: false,
            lifetime: 1800,
            ..
        }
    ));
    assert_eq!(parse(&router), "router advertisement, lifetime 1800s");
    assert_eq!(
        parse(&message(133, &[&[0; 4][..], &link_layer(1)].concat())),
        "router solicitation"
    );

    let redirect = message(137, &[&[0; 4][..], &address, &[9; 16]].concat());
    assert_eq!(
        parse(&redirect),
        "redirect, 909:909:909:909:909:909:909:909 by fe80::1"
    );
    assert_eq!(parse(&redirect[..39]), "type 137, cut inside its header");

    for (message, want) in [
        (message(2, &[0, 0, 5, 0]), "packet too big, mtu 1280"),
        (message(143, &[0; 4]), "multicast listener report"),
        (message(1, &[0; 4]), "destination unreachable, code 0"),
        (message(200, &[0; 4]), "type 200, code 0"),
    ] {
        assert_eq!(parse(&message), want);
    }
}

#[test]
fn damaged_neighbour_options_end_the_walk() {
    let count = |octets: &[u8]| {
        let mut solicitation = vec![133, 0, 0, 0, 0, 0, 0, 0];
        solicitation.extend_from_slice(octets);
        let Ok(Some(message)) = Icmpv6::parse(&solicitation).unwrap().neighbour() else {
            panic!("no solicitation");
        };
        let options: Options<'_> = message.options();
        (
            options.filter(Result::is_ok).count(),
            options.filter(Result::is_err).count(),
        )
    };
    assert_eq!(count(&[]), (0, 0));
    assert_eq!(count(&[1, 1, 0, 0, 0, 0, 0, 0]), (1, 0));
    assert_eq!(count(&[1, 0, 0, 0, 0, 0, 0, 0]), (0, 1), "a length of zero");
    assert_eq!(count(&[1, 2, 0, 0, 0, 0, 0, 0]), (0, 1), "a length past the end");
    assert_eq!(count(&[1, 1, 0, 0, 0, 0, 0, 0, 5]), (1, 1), "half an option");
}

#[test]
fn the_extension_walk_is_bounded() {
    let chain = |headers: usize| {
        let mut data = Vec::new();
        for index in 0..headers {
            let next = if index + 1 == headers {
                protocol::TCP
            } else {
                protocol::DESTINATION_OPTIONS
            };
            data.extend([next, 0, 1, 4, 0, 0, 0, 0]);
        }
        data.extend([0; 20]);
        data
    };
    let walk = |headers| ipv6::walk(protocol::DESTINATION_OPTIONS, &chain(headers));
    let upper = walk(ipv6::MAX_EXTENSIONS).unwrap();
    assert_eq!(
        (upper.protocol, upper.offset),
        (protocol::TCP, 8 * ipv6::MAX_EXTENSIONS)
    );
    assert_eq!(walk(ipv6::MAX_EXTENSIONS + 1), None);
    // Behind a fragment's offset there is no header, whatever the fragment header says follows.
    let fragment = [
        protocol::DESTINATION_OPTIONS,
        0,
        0,
        8,
        0,
        0,
        0,
        1,
        6,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
    ];
    let upper = ipv6::walk(protocol::FRAGMENT, &fragment).unwrap();
    assert_eq!((upper.protocol, upper.offset), (protocol::DESTINATION_OPTIONS, 8));
    assert_eq!(
        upper
            .fragment
            .map(|part| (part.offset, part.more, part.identification)),
        Some((8, false, 1))
    );
    assert_eq!(
        ipv6::walk(protocol::AUTHENTICATION, &[6, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
            .unwrap()
            .offset,
        12
    );
}

#[test]
fn tags_of_the_other_kind_are_payload() {
    let frame = [&B[..], &A, &[0x88, 0xa8, 0, 7, 0x08, 0, 0]].concat();
    let ethernet = Ethernet::parse(&frame).unwrap();
    assert_eq!(ethernet.tag(Tpid::Dot1Q), Ok(None));
    assert_eq!(ethernet.tag(Tpid::Dot1Ad).unwrap().map(|tag| tag.tci), Some(7));
    assert_eq!(
        Ethernet::parse(&frame[..17]).unwrap().tag(Tpid::Dot1Ad),
        Err(ParseError::Truncated)
    );
    assert_eq!(ethernet.ethertype(), EtherType::PROVIDER_BRIDGING.0);
}
