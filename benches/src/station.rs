//! A station behind a port: where frames come from and go to, as fast as a core can make them or at a given pace.
//!
//! The packaged generators are not enough: trafgen and testpmd send the same few frames over and over, and neither tells how
//! long a frame was under way. A [`Station`] sends the frames of [`Flows`], a frame of each in turn, and stamps each with the
//! time at which it was due. [`crate::load`] lets two of them, one behind each port, send to each other from one thread.

use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

pub mod guest;
pub mod memory;
pub mod netdev;
pub mod virtqueue;

/// Frames that are sent or taken at once: as testpmd does.
pub const BURST: usize = 32;

/// Octets of the headers of Ethernet, IPv4 and UDP.
const UDP_HEADERS: usize = 42;

/// Octets of the headers of Ethernet, IPv4 and TCP.
const TCP_HEADERS: usize = 54;

/// Payload of each of the segments that a super-frame is to become.
const SEGMENT: usize = 1446;

/// Nanoseconds since the epoch: the clock that the kernel stamps received frames with.
pub fn clock() -> u64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// What a station sends: flows between stations of the two sides, one frame of each in turn.
#[derive(Clone, Debug)]
pub struct Flows {
    /// Destination and source of each flow, as the first 16 octets of its frames; the last four are alike in all.
    heads: Vec<[u8; 16]>,
    next: usize,
    /// One frame.
    pub frame: Vec<u8>,
    /// The frame is to be cut into TCP segments of so many octets of payload, and its checksum is partial.
    pub segment: Option<u16>,
    /// Where the stamp is: the first eight octets of the payload.
    pub stamp: usize,
}

impl Flows {
    /// Flows from side 0 or 1 to the other, among `macs` stations in all, half of them on each side. A frame takes
    /// `octets` on the wire, with the checksum at its end; above 9216 it is a TCP super-frame.
    ///
    /// The number of stations is twice a power of two: an odd multiplier then permutes those of a side, so that both
    /// table and cache of a switch are entered at a different place with each frame.
    pub fn new(side: u8, macs: usize, octets: usize) -> Result<Self> {
        let flows = macs / 2;
        ensure!(
            macs.is_power_of_two() && (2..=1 << 17).contains(&macs),
            "the number of stations is a power of two from 2 to 131072"
        );
        let len = octets.saturating_sub(4);
        ensure!(
            (60..65_536).contains(&len),
            "a frame takes 64 to 65539 octets on the wire"
        );
        let segment = (octets > 9216).then_some(SEGMENT as u16);
        let builder = etherparse::PacketBuilder::ethernet2(mac(side, 0), mac(1 - side, 0)).ipv4(
            [10, 0, 0, 1],
            [10, 0, 0, 2],
            64,
        );
        let mut frame = Vec::with_capacity(len);
        if segment.is_some() {
            let builder = builder.tcp(9, 9, 0, 65_535);
            builder.write(&mut frame, &vec![0; len - TCP_HEADERS])?;
            let sum = partial_sum(&frame[26..34], len - 34)?;
            frame[50..52].copy_from_slice(&sum.to_be_bytes());
        } else {
            let builder = builder.udp(9, 9);
            builder.write(&mut frame, &vec![0; len - UDP_HEADERS])?;
            // No checksum, since the stamp changes with every frame.
            frame[40..42].fill(0);
        }
        let tail: [u8; 4] = frame[12..16].try_into().context("a frame has headers")?;
        let heads = (0..flows)
            .map(|flow| {
                let from = mac(side, flow * 40_503 % flows);
                let to = mac(1 - side, (flow * 25_173 + 13_849) % flows);
                let mut head = [0; 16];
                head[..6].copy_from_slice(&to);
                head[6..12].copy_from_slice(&from);
                head[12..].copy_from_slice(&tail);
                head
            })
            .collect();
        Ok(Self {
            heads,
            next: 0,
            frame,
            segment,
            stamp: if segment.is_some() {
                TCP_HEADERS
            } else {
                UDP_HEADERS
            },
        })
    }

    /// How many flows there are.
    pub fn count(&self) -> usize {
        self.heads.len()
    }

    /// The first octets of the next frame.
    pub fn head(&mut self) -> [u8; 16] {
        let head = self.heads[self.next];
        self.next += 1;
        if self.next == self.heads.len() {
            self.next = 0;
        }
        head
    }
}

/// The address of a station. The first of either side has the one of [`crate::peer::MACS`].
fn mac(side: u8, station: usize) -> [u8; 6] {
    let [.., a, b, c] = station.to_be_bytes();
    [0x02, 0, a, b, c, 0x0a + side]
}

/// The sum over the pseudo-header, not inverted: what a guest leaves for the segments to complete (VirtIO 1.2, 5.1.6.2).
fn partial_sum(addresses: &[u8], len: usize) -> Result<u16> {
    const TCP: u32 = 6;
    let words = addresses
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum = words.sum::<u32>() + TCP + u32::try_from(len)?;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    Ok(u16::try_from(sum)?)
}

/// One end of the traffic.
pub trait Station {
    /// Sends up to `most` frames, each with the stamp that `stamp` gives. How many were taken: fewer if the port is full.
    fn send(&mut self, flows: &mut Flows, most: usize, stamp: impl FnMut() -> u64) -> Result<usize>;

    /// Takes what has come, up to a few bursts, and hands out each frame's stamp and the time at which it came. How many.
    fn receive(&mut self, each: impl FnMut(u64, u64)) -> Result<usize>;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::peer::MACS;

    #[test]
    fn every_station_sends_and_is_sent_to() {
        for macs in [2, 1024, 65_536] {
            let mut flows = Flows::new(0, macs, 64).expect("flows");
            let mut from = BTreeSet::new();
            let mut to = BTreeSet::new();
            for _ in 0..flows.count() {
                let head = flows.head();
                to.insert(head[..6].to_vec());
                from.insert(head[6..12].to_vec());
            }
            assert_eq!((from.len(), to.len()), (macs / 2, macs / 2));
        }
    }

    #[test]
    fn the_first_stations_are_those_of_the_peers() {
        for (side, name) in [0, 1].into_iter().zip(MACS) {
            let octets: Vec<String> = mac(side, 0).iter().map(|octet| format!("{octet:02x}")).collect();
            assert_eq!(octets.join(":"), name);
        }
    }

    #[test]
    fn frames_are_as_long_as_they_should_be() {
        for octets in [64, 1518, 65_000] {
            let flows = Flows::new(1, 2, octets).expect("flows");
            assert_eq!(flows.frame.len() + 4, octets);
            assert_eq!(flows.segment.is_some(), octets > 9216);
            assert!(etherparse::PacketHeaders::from_ethernet_slice(&flows.frame).is_ok());
        }
    }

    #[test]
    fn a_partial_checksum_is_completed_by_the_sum_of_the_rest() {
        let flows = Flows::new(0, 2, 20_000).expect("flows");
        let mut segment = flows.frame[34..].to_vec();
        let mut sum: u32 = segment
            .chunks(2)
            .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
            .sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let sum = !(sum as u16);
        segment[16..18].fill(0);
        let headers = etherparse::PacketHeaders::from_ethernet_slice(&flows.frame).expect("headers");
        let Some(etherparse::TransportHeader::Tcp(tcp)) = headers.transport else {
            panic!("not TCP");
        };
        let whole = tcp
            .calc_checksum_ipv4_raw([10, 0, 0, 1], [10, 0, 0, 2], &segment[20..])
            .expect("a sum");
        assert_eq!(sum, whole);
    }
}
