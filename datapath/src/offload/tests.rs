//! The segmenter against its slow twin: each segment built anew by etherparse.

use etherparse::{
    IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header,
    Ipv6RawExtHeader, PacketBuilder, SingleVlanHeader, TcpHeader, VlanHeader, VlanId,
};
use proptest::prelude::*;

use switch_core::offload::Capabilities;

use super::*;

/// Everything of a packet but its payload.
#[derive(Clone, Debug)]
struct Recipe {
    tags: usize,
    ip: IpHeaders,
    /// UDP without it.
    tcp: Option<TcpHeader>,
}

impl Recipe {
    fn build(&self, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let tag = |vid| SingleVlanHeader {
            vlan_id: VlanId::try_new(vid).unwrap(),
            ..SingleVlanHeader::default()
        };
        let ip = match self.tags {
            0 => ethernet.ip(self.ip.clone()),
            1 => ethernet.vlan(VlanHeader::Single(tag(100))).ip(self.ip.clone()),
            _ => ethernet
                .vlan(VlanHeader::Double(etherparse::DoubleVlanHeader {
                    outer: tag(200),
                    inner: tag(300),
                }))
                .ip(self.ip.clone()),
        };
        let mut frame = Vec::new();
        match &self.tcp {
            Some(tcp) => ip.tcp_header(tcp.clone()).write(&mut frame, payload).unwrap(),
            None => ip.udp(5000, 6000).write(&mut frame, payload).unwrap(),
        }
        frame
    }

    fn kind(&self) -> (GsoKind, u8) {
        match (&self.tcp, &self.ip) {
            (Some(_), IpHeaders::Ipv4(..)) => (GsoKind::Tcp4, 1),
            (Some(_), IpHeaders::Ipv6(..)) => (GsoKind::Tcp6, 4),
            (None, _) => (GsoKind::Udp, 5),
        }
    }

    fn transport(&self) -> usize {
        14 + 4 * self.tags + self.ip.header_len()
    }

    /// As a sender leaves it to hardware: the checksum field holds the pseudo header's sum. With its offload header.
    fn build_partial(&self, payload: &[u8], gso: Option<(u16, bool)>) -> (Vec<u8>, [u8; 12]) {
        let mut frame = self.build(payload);
        let start = self.transport();
        let offset = if self.tcp.is_some() { 16 } else { 6 };
        let length = (frame.len() - start) as u32;
        let protocol = if self.tcp.is_some() { 6 } else { 17 };
        let mut words = match &self.ip {
            IpHeaders::Ipv4(ip, _) => [ip.source, ip.destination].concat(),
            IpHeaders::Ipv6(ip, _) => [ip.source, ip.destination].concat(),
        };
        words.extend([0, protocol]);
        words.extend(length.to_be_bytes());
        let mut sum = 0u32;
        for word in words.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[start + offset..start + offset + 2].copy_from_slice(&(sum as u16).to_be_bytes());

        let mut header = [0; 12];
        header[0] = 1;
        header[6..8].copy_from_slice(&(start as u16).to_le_bytes());
        header[8..10].copy_from_slice(&(offset as u16).to_le_bytes());
        if let Some((size, ecn)) = gso {
            header[1] = self.kind().1 | if ecn { 0x80 } else { 0 };
            header[4..6].copy_from_slice(&size.to_le_bytes());
        }
        (frame, header)
    }

    /// What a NIC would send, the obvious way.
    fn expect_segments(&self, payload: &[u8], size: u16) -> Vec<Vec<u8>> {
        let parts: Vec<&[u8]> = payload.chunks(size.into()).collect();
        let last = parts.len() - 1;
        let build = |(index, part): (usize, &&[u8])| {
            let mut segment = self.clone();
            if let IpHeaders::Ipv4(ip, _) = &mut segment.ip {
                ip.identification = ip.identification.wrapping_add(index as u16);
            }
            if let Some(tcp) = &mut segment.tcp {
                tcp.sequence_number = tcp.sequence_number.wrapping_add(index as u32 * u32::from(size));
                tcp.fin &= index == last;
                tcp.psh &= index == last;
                tcp.cwr &= index == 0;
            }
            segment.build(part)
        };
        parts.iter().enumerate().map(build).collect()
    }
}

fn ips() -> impl Strategy<Value = IpHeaders> {
    let v4 = (any::<[u8; 4]>(), any::<[u8; 4]>(), any::<u16>(), 0..=10usize).prop_map(
        |(source, destination, id, words)| {
            let mut ip = Ipv4Header::new(0, 64, IpNumber::TCP, source, destination).unwrap();
            ip.identification = id;
            ip.fragment_offset = IpFragOffset::ZERO;
            ip.options = [1u8; 40][..words * 4].try_into().unwrap();
            IpHeaders::Ipv4(ip, Default::default())
        },
    );
    let v6 = (
        any::<[u8; 16]>(),
        any::<[u8; 16]>(),
        any::<u32>(),
        any::<[bool; 2]>(),
    )
        .prop_map(|(source, destination, label, extensions)| {
            let ip = Ipv6Header {
                traffic_class: 3,
                flow_label: Ipv6FlowLabel::try_new(label & 0xf_ffff).unwrap(),
                hop_limit: 64,
                source,
                destination,
                ..Ipv6Header::default()
            };
            let options = || {
                Ipv6RawExtHeader::new_raw(IpNumber::TCP, &[1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
                    .unwrap()
            };
            let extensions = Ipv6Extensions {
                hop_by_hop_options: extensions[0].then(options),
                destination_options: extensions[1].then(options),
                ..Ipv6Extensions::default()
            };
            IpHeaders::Ipv6(ip, extensions)
        });
    prop_oneof![v4, v6]
}

fn tcps() -> impl Strategy<Value = TcpHeader> {
    (any::<u32>(), any::<[bool; 5]>(), 0..=10usize).prop_map(
        |(sequence, [fin, psh, cwr, ece, urg], words)| {
            let mut tcp = TcpHeader::new(80, 40000, sequence, 65535);
            tcp.ack = true;
            (tcp.fin, tcp.psh, tcp.cwr, tcp.ece, tcp.urg) = (fin, psh, cwr, ece, urg);
            tcp.set_options_raw(&[1; 40][..words * 4]).unwrap();
            tcp
        },
    )
}

fn recipes() -> impl Strategy<Value = Recipe> {
    (0..=2usize, ips(), prop::option::of(tcps())).prop_map(|(tags, ip, tcp)| Recipe { tags, ip, tcp })
}

/// Gives a frame of `recipe` the IPv4 identification of segment `index`.
fn count_up(recipe: &Recipe, frame: &mut [u8], index: u16) {
    let IpHeaders::Ipv4(..) = recipe.ip else {
        return;
    };
    let (mut ip, _) = Ipv4Header::from_slice(&frame[14 + 4 * recipe.tags..]).unwrap();
    ip.identification = ip.identification.wrapping_add(index);
    ip.header_checksum = ip.calc_header_checksum();
    let bytes = ip.to_bytes();
    frame[14 + 4 * recipe.tags..][..bytes.len()].copy_from_slice(&bytes);
}

/// A payload from one number: random enough for a checksum, and quick to make.
fn payload(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

/// Lengths and sizes where something happens at the edges.
fn sizes() -> impl Strategy<Value = (usize, u16)> {
    prop_oneof![
        (2..60_000usize, 500..9000u16),
        (2..600usize, 1..100u16),
        (1..20usize, 100..1500u16).prop_map(|(segments, size)| (segments * usize::from(size) + 1, size)),
        (2..20usize, 100..1500u16).prop_map(|(segments, size)| (segments * usize::from(size), size)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn segments_are_what_a_nic_would_send(
        recipe in recipes(),
        (length, size) in sizes(),
        seed: u64,
        ecn: bool,
    ) {
        let payload = payload(length, seed);
        let ecn = ecn && recipe.tcp.is_some();
        let (frame, header) = recipe.build_partial(&payload, Some((size, ecn)));
        let offload = Offload::decode(&header, &frame, frame.len()).unwrap();
        let expected = recipe.expect_segments(&payload, size);
        prop_assert_eq!(offload.gso.is_some(), expected.len() > 1);
        if offload.gso.is_none() {
            prop_assert!(Segmenter::new(&frame, &offload).is_none());
            return Ok(());
        }
        let gso = offload.gso.unwrap();
        prop_assert_eq!(gso.kind, recipe.kind().0);

        let mut segmenter = Segmenter::new(&frame, &offload).unwrap();
        let mut out = vec![0xa5; offload.wire_len(frame.len())];
        let (mut count, mut octets, mut whole) = (0, 0, Vec::new());
        while let Some(len) = segmenter.next_into(&mut out) {
            prop_assert_eq!(&out[..len], &expected[count][..], "segment {}", count);
            whole.extend_from_slice(&out[usize::from(gso.header_len)..len]);
            count += 1;
            octets += len as u64;
        }
        prop_assert_eq!((count as u64, octets), offload.wire_frames(frame.len()));
        prop_assert_eq!(count, expected.len());
        prop_assert_eq!(whole, payload);
        prop_assert!(segmenter.next_into(&mut out).is_none());
    }

    /// What the kernel gives a packet socket for a packet that a VXLAN device above a veth has wrapped.
    #[test]
    fn segments_within_a_tunnel(
        mut outer in recipes(),
        mut inner in recipes(),
        outer_checksum: bool,
        (length, size) in sizes(),
        seed: u64,
    ) {
        outer.tcp = None;
        if let IpHeaders::Ipv6(_, extensions) = &mut inner.ip {
            *extensions = Ipv6Extensions::default();
        }
        let vxlan = |inner: &[u8], partial: bool| {
            let payload = [&[8, 0, 0, 0, 0, 0, 5, 0][..], inner].concat();
            let mut frame = if partial { outer.build_partial(&payload, None).0 } else { outer.build(&payload) };
            if !outer_checksum {
                frame[outer.transport() + 6..][..2].fill(0);
            }
            frame
        };
        let payload = payload(length, seed);
        let (frame, mut header) = inner.build_partial(&payload, Some((size, false)));
        let shift = (outer.transport() + 16) as u16;
        let start = shift + inner.transport() as u16;
        header[6..8].copy_from_slice(&start.to_le_bytes());
        let frame = vxlan(&frame, true);
        let mut offload = Offload::decode(&header, &frame, frame.len()).unwrap();
        let expected = inner.expect_segments(&payload, size);
        prop_assert_eq!(offload.gso.is_some(), expected.len() > 1);
        let Some(gso) = offload.gso else {
            return Ok(());
        };
        prop_assert!(gso.kind.is_tunnel());
        prop_assert!(!Capabilities::ALL.takes(&offload));
        let mut segmenter = Segmenter::new(&frame, &offload).unwrap();
        let mut out = vec![0xa5; offload.wire_len(frame.len())];
        let (mut count, mut octets) = (0, 0);
        while let Some(len) = segmenter.next_into(&mut out) {
            let mut expected = vxlan(&expected[count], false);
            count_up(&outer, &mut expected, count as u16);
            prop_assert_eq!(&out[..len], &expected[..], "segment {}", count);
            count += 1;
            octets += len as u64;
        }
        prop_assert_eq!((count as u64, octets), offload.wire_frames(frame.len()));
        prop_assert_eq!(count, expected.len());

        // One of these segments alone, its inner checksum still open, is finished like any frame.
        offload.gso = None;
        let (single, _) = inner.build_partial(&payload[..payload.len().min(100)], None);
        let mut frame = vxlan(&single, false);
        // The outer checksum counts the inner one as if it were complete (local checksum offload).
        let complete = vxlan(&inner.build(&payload[..payload.len().min(100)]), false);
        let place = outer.transport() + 6;
        frame[place..place + 2].copy_from_slice(&complete[place..place + 2]);
        prop_assert_eq!(Offload::decode(&offload.encode(), &frame, frame.len()), Ok(offload));
        finish_checksum(&mut frame, &mut offload);
        prop_assert_eq!(frame, complete);
    }

    #[test]
    fn a_finished_checksum_is_the_one_that_etherparse_computes(recipe in recipes(), length in 0..3000usize, seed: u64) {
        let payload = payload(length, seed);
        let (mut frame, header) = recipe.build_partial(&payload, None);
        let mut offload = Offload::decode(&header, &frame, frame.len()).unwrap();
        finish_checksum(&mut frame, &mut offload);
        prop_assert_eq!(offload, Offload::default());
        prop_assert_eq!(&frame, &recipe.build(&payload));
        // Complete is complete.
        finish_checksum(&mut frame, &mut offload);
        prop_assert_eq!(&frame, &recipe.build(&payload));
    }

    #[test]
    fn a_partial_checksum_is_known_by_its_value(recipe in recipes(), length in 0..3000usize, seed: u64) {
        let payload = payload(length, seed);
        let (frame, header) = recipe.build_partial(&payload, None);
        let offload = Offload::decode(&header, &frame, frame.len()).unwrap();
        prop_assert_eq!(find_partial(&frame), offload.checksum);
    }

    /// Even a complete checksum that looks like a partial one.
    #[test]
    fn a_complete_checksum_taken_for_a_partial_one_stays(recipe in recipes(), length in 2..3000usize, seed: u64, alike: bool) {
        let mut payload = payload(length, seed);
        if alike {
            let (start, offset) = (recipe.transport(), if recipe.tcp.is_some() { 16 } else { 6 });
            let word = |octets: &[u8], at: usize| u16::from_be_bytes([octets[at], octets[at + 1]]);
            let add = |a: u16, b: u16| {
                let (sum, carry) = a.overflowing_add(b);
                sum + u16::from(carry)
            };
            let pseudo = word(&recipe.build_partial(&payload, None).0, start + offset);
            let complete = word(&recipe.build(&payload), start + offset);
            let first = add(add(!pseudo, complete), word(&payload, 0));
            payload[..2].copy_from_slice(&first.to_be_bytes());
            let complete = word(&recipe.build(&payload), start + offset);
            prop_assert!(complete == pseudo || [complete, pseudo].iter().all(|sum| [0, 0xffff].contains(sum)));
        }
        let frame = recipe.build(&payload);
        let mut finished = frame.clone();
        let mut offload = Offload { checksum: find_partial(&frame), gso: None };
        finish_checksum(&mut finished, &mut offload);
        prop_assert_eq!(finished, frame);
    }

    #[test]
    fn joined_frames_are_opened_again(recipe in recipes(), (length, size) in sizes(), seed: u64) {
        let payload = payload(length, seed);
        let (expected, header) = recipe.build_partial(&payload, Some((size, false)));
        let mut frame = recipe.build(&payload);
        let mut joined = header;
        joined[6..10].fill(0);
        joined[0] = 2;
        prop_assert_eq!(Offload::decode(&joined, &frame, frame.len()), Err(OffloadError::GsoWithoutChecksum));
        prop_assert_eq!(
            mend_joined(&joined, &mut frame).unwrap(),
            Offload::decode(&header, &expected, expected.len()).unwrap()
        );
        prop_assert_eq!(&frame, &expected);
        joined[0] = 0;
        prop_assert_eq!(mend_joined(&joined, &mut frame), Err(OffloadError::GsoWithoutChecksum));
    }

    /// Whatever a guest sends that passes the check can be cut and summed.
    #[test]
    fn hostile_frames_cost_nothing_but_themselves(
        recipe in recipes(),
        (length, size) in sizes(),
        seed: u64,
        header_noise in prop::collection::vec((0..12usize, any::<u8>()), 0..3),
        noise in prop::collection::vec((12..160usize, any::<u8>()), 0..6),
        cut in prop_oneof![Just(usize::MAX), 0..200usize],
        tunnel in prop::option::of(recipes()),
    ) {
        let (mut frame, mut header) = recipe.build_partial(&payload(length, seed), Some((size, false)));
        if let Some(mut outer) = tunnel {
            outer.tcp = None;
            frame = outer.build_partial(&frame, None).0;
            let start = outer.transport() + 8 + recipe.transport();
            header[6..8].copy_from_slice(&(start as u16).to_le_bytes());
        }
        for (at, value) in header_noise {
            header[at] = value;
        }
        for (at, value) in noise {
            if let Some(octet) = frame.get_mut(at) {
                *octet = value;
            }
        }
        frame.truncate(cut);
        let _ = mend_joined(&header, &mut frame.clone());
        let Ok(mut offload) = Offload::decode(&header, &frame, frame.len()) else {
            return Ok(());
        };
        match Segmenter::new(&frame, &offload) {
            Some(mut segmenter) => {
                let mut out = vec![0; offload.wire_len(frame.len())];
                let mut sent = (0, 0);
                while let Some(len) = segmenter.next_into(&mut out) {
                    sent = (sent.0 + 1, sent.1 + len as u64);
                }
                prop_assert_eq!(sent, offload.wire_frames(frame.len()));
            }
            None => {
                prop_assert_eq!(offload.gso, None);
                finish_checksum(&mut frame, &mut offload);
            }
        }
    }
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones() {
    let ip = Ipv4Header::new(0, 64, IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    let recipe = Recipe {
        tags: 0,
        ip: IpHeaders::Ipv4(ip, Default::default()),
        tcp: None,
    };
    // The payload makes up what is missing to a sum of all ones.
    let checksum = |frame: &[u8]| u16::from_be_bytes([frame[40], frame[41]]);
    let payload = checksum(&recipe.build(&[0, 0])).to_be_bytes();
    let (mut frame, header) = recipe.build_partial(&payload, None);
    let mut offload = Offload::decode(&header, &frame, frame.len()).unwrap();
    finish_checksum(&mut frame, &mut offload);
    assert_eq!(checksum(&frame), 0xffff);
}

#[test]
fn sctp_gets_its_crc() {
    let mut frame = Vec::new();
    let packet = [
        &[0, 7, 0, 9, 1, 2, 3, 4, 0xaa, 0xaa, 0xaa, 0xaa][..],
        b"some chunks.",
    ]
    .concat();
    PacketBuilder::ethernet2([2; 6], [4; 6])
        .ip(IpHeaders::Ipv4(
            Ipv4Header::new(0, 64, IpNumber::SCTP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap(),
            Default::default(),
        ))
        .write(&mut frame, IpNumber::SCTP, &packet)
        .unwrap();
    let mut offload = Offload {
        checksum: Checksum::Partial { start: 34, offset: 8 },
        gso: None,
    };
    assert_eq!(
        Offload::decode(&offload.encode(), &frame, frame.len()),
        Ok(offload)
    );
    let before = frame.clone();
    finish_checksum(&mut frame, &mut offload);
    // Bit by bit (RFC 9260, appendix A), over the packet with its field zeroed.
    let mut zeroed = packet;
    zeroed[8..12].fill(0);
    let mut crc = u32::MAX;
    for octet in &zeroed {
        crc ^= u32::from(*octet);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 };
        }
    }
    assert_eq!(frame[42..46], (!crc).to_le_bytes());
    assert_eq!((&frame[..42], &frame[46..]), (&before[..42], &before[46..]));
}

#[test]
fn with_a_routing_header_the_sender_s_pseudo_header_counts() {
    let ip = Ipv4Header::new(0, 64, IpNumber::TCP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
    let recipe = Recipe {
        tags: 0,
        ip: IpHeaders::Ipv4(ip, Default::default()),
        tcp: Some(TcpHeader::new(1, 2, 3, 4)),
    };
    let payload = payload(3000, 1);
    let (mut frame, header) = recipe.build_partial(&payload, Some((1000, false)));
    // The packet goes to another address first than the one its checksum is for.
    frame[33] = 99;
    let offload = Offload::decode(&header, &frame, frame.len()).unwrap();
    let mut out = [0; 2000];
    let len = Segmenter::new(&frame, &offload)
        .unwrap()
        .next_into(&mut out)
        .unwrap();
    let expected = &recipe.expect_segments(&payload, 1000)[0];
    assert_eq!(out[34..len], expected[34..]);
}
