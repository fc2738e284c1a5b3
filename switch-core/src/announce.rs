//! Frames by which a station says where it is: what hypervisors and guests send when a guest has moved.
//!
//! Four kinds, treated alike: RARP as QEMU sends it (a request of a station for itself, RFC 903), gratuitous ARP, as request or as reply (RFC 5227, section 3;
//! Linux guests with GUEST_ANNOUNCE, Xen), and the unsolicited neighbour advertisement (RFC 4861, section 7.2.6).

use crate::addr::MacAddr;
use crate::vid::{Tag, Tpid, Vid};
use crate::wire::arp::{Arp, Operation};
use crate::wire::ethertype;
use crate::wire::icmpv6::{Icmpv6, Neighbour, option};
use crate::wire::ipv6::Ipv6;
use crate::wire::layers::Layers;
use crate::wire::protocol;

/// Whether a frame from `source` announces that station. `header` is its first octets.
pub fn announces(header: &[u8], source: MacAddr) -> bool {
    let Some(layers) = Layers::find(header) else {
        return false;
    };
    let packet = &header[layers.network..];
    match layers.ethertype {
        ethertype::RARP => Arp::parse(packet).is_ok_and(|arp| {
            arp.operation() == Operation::ReverseRequest
                && arp.sender_mac() == source
                && arp.target_mac() == source
        }),
        ethertype::ARP => Arp::parse(packet).is_ok_and(|arp| {
            arp.is_gratuitous() && !arp.sender_ip().is_unspecified() && arp.sender_mac() == source
        }),
        ethertype::IPV6 => advertises(header, &layers, packet, source),
        _ => false,
    }
}

/// A frame that announces a station, as QEMU sends it: a broadcast RARP request of the station for itself, of 60 octets, with a tag of its VLAN unless that is
/// [`Vid::UNAWARE`].
pub fn rarp(station: MacAddr, vid: Vid) -> Vec<u8> {
    const LEN: usize = 60;
    let mut frame = Vec::with_capacity(LEN + Tag::LEN);
    frame.extend(MacAddr::BROADCAST.0);
    frame.extend(station.0);
    if vid != Vid::UNAWARE {
        frame.extend(Tag::new(Tpid::Dot1Q, vid, 0).to_bytes());
    }
    let tags = frame.len() - 2 * MacAddr::BROADCAST.0.len();
    frame.extend(ethertype::RARP.to_be_bytes());
    // Ethernet, IPv4 and the lengths of their addresses; the operation.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 3]);
    for _ in 0..2 {
        frame.extend(station.0);
        frame.extend([0; 4]);
    }
    frame.resize(LEN + tags, 0);
    frame
}

/// The hop limit of a message that no router has passed on (RFC 4861, section 7.1.2).
const HOP_LIMIT: u8 = 255;

/// An unsolicited neighbour advertisement.
fn advertises(header: &[u8], layers: &Layers, packet: &[u8], source: MacAddr) -> bool {
    let Some(ip) = layers
        .ip
        .filter(|ip| ip.protocol == protocol::ICMPV6 && !ip.fragment)
    else {
        return false;
    };
    let from_neighbour = Ipv6::parse(packet).is_ok_and(|ip| ip.hop_limit() == HOP_LIMIT);
    let message = header.get(ip.transport..).map(Icmpv6::parse);
    let Some(Ok(message)) = message.filter(|_| from_neighbour) else {
        return false;
    };
    match message.neighbour() {
        Ok(Some(Neighbour::Advertisement {
            solicited: false,
            options,
            ..
        })) => options
            .link_layer(option::TARGET_LINK_LAYER)
            .is_none_or(|mac| mac == source),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, icmpv6};

    use super::*;

    const STATION: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 2]);

    /// A frame with an ARP packet: EtherType, operation, sender and target.
    fn arp(
        ethertype: u16,
        operation: u16,
        (sha, spa): (MacAddr, [u8; 4]),
        (tha, tpa): (MacAddr, [u8; 4]),
    ) -> Vec<u8> {
        let mut frame = [MacAddr::BROADCAST.0, STATION.0].concat();
        frame.extend(ethertype.to_be_bytes());
        frame.extend([0, 1, 8, 0, 6, 4]);
        frame.extend(operation.to_be_bytes());
        frame.extend([&sha.0[..], &spa, &tha.0, &tpa].concat());
        frame
    }

    fn advertisement(flags: [bool; 3], hop_limit: u8, link_layer: Option<MacAddr>) -> Vec<u8> {
        let mut body = vec![0; 16];
        body[0] = 0xfe;
        body[1] = 0x80;
        if let Some(mac) = link_layer {
            body.extend([2, 1]);
            body.extend(mac.0);
        }
        let [router, solicited, r#override] = flags;
        let kind = icmpv6::NeighborAdvertisementHeader {
            router,
            solicited,
            r#override,
        };
        let builder = PacketBuilder::ethernet2(STATION.0, [0x33, 0x33, 0, 0, 0, 1])
            .ipv6([0xfe; 16], [0xff; 16], hop_limit)
            .icmpv6(etherparse::Icmpv6Type::NeighborAdvertisement(kind));
        let mut frame = Vec::new();
        builder.write(&mut frame, &body).unwrap();
        frame
    }

    fn tagged(frame: &[u8]) -> Vec<u8> {
        [&frame[..12], &[0x81, 0, 0, 100], &frame[12..]].concat()
    }

    #[test]
    fn the_four_kinds_are_known_with_and_without_a_tag() {
        let (none, ip) = ([0; 4], [10, 0, 0, 1]);
        for frame in [
            arp(0x8035, 3, (STATION, none), (STATION, none)),
            arp(0x0806, 1, (STATION, ip), (MacAddr::ZERO, ip)),
            arp(0x0806, 2, (STATION, ip), (MacAddr::BROADCAST, ip)),
            advertisement([false, false, true], 255, Some(STATION)),
            advertisement([false, false, true], 255, None),
        ] {
            assert!(announces(&frame, STATION), "{frame:?}");
            assert!(announces(&tagged(&frame), STATION), "{frame:?}");
            for len in 0..frame.len() - 8 {
                let _ = announces(&frame[..len], STATION);
            }
        }
    }

    #[test]
    fn what_the_switch_sends_is_one() {
        let untagged = rarp(STATION, Vid::UNAWARE);
        assert_eq!(
            untagged[..42],
            arp(0x8035, 3, (STATION, [0; 4]), (STATION, [0; 4]))
        );
        assert_eq!(untagged.len(), 60);
        let in_vlan = rarp(STATION, Vid::new(100).unwrap());
        assert_eq!(in_vlan, tagged(&untagged));
        assert!(announces(&in_vlan, STATION));
    }

    #[test]
    fn what_only_looks_like_one_is_none() {
        let (none, ip, other_ip) = ([0; 4], [10, 0, 0, 1], [10, 0, 0, 2]);
        for frame in [
            // Of another station than the frame's source.
            arp(0x8035, 3, (OTHER, none), (OTHER, none)),
            arp(0x0806, 1, (OTHER, ip), (MacAddr::ZERO, ip)),
            advertisement([false, false, true], 255, Some(OTHER)),
            // A request, a probe, an answer.
            arp(0x0806, 1, (STATION, ip), (MacAddr::ZERO, other_ip)),
            arp(0x0806, 1, (STATION, none), (MacAddr::ZERO, ip)),
            arp(0x0806, 1, (STATION, none), (MacAddr::ZERO, none)),
            arp(0x0806, 2, (STATION, ip), (OTHER, other_ip)),
            arp(0x8035, 3, (STATION, none), (OTHER, none)),
            arp(0x8035, 4, (STATION, none), (STATION, none)),
            // Asked for, or not from the neighbourhood.
            advertisement([false, true, true], 255, Some(STATION)),
            advertisement([false, false, true], 64, Some(STATION)),
        ] {
            assert!(!announces(&frame, STATION), "{frame:?}");
        }
    }
}
