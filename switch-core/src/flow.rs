//! Which flow a frame belongs to, as a number: frames of one flow have the same, so that they take one queue and stay in order.

use crate::wire::layers::Layers;
use crate::wire::protocol;

/// A number for the flow of a frame, from its first octets: the MAC addresses, and for IP the addresses, the protocol and, unless
/// the packet is a fragment, the ports. Spread over all 32 bits; not secret.
pub fn hash(frame: &[u8]) -> u32 {
    let mut state = Mix::default();
    state.add(frame.get(..12).unwrap_or(frame));
    if let Some(Layers {
        network,
        ip: Some(ip),
        ..
    }) = Layers::find(frame)
    {
        let addresses = if ip.version == 4 { 12..20 } else { 8..40 };
        let packet = &frame[network..];
        state.add(packet.get(addresses).unwrap_or_default());
        state.add(&[ip.protocol]);
        let has_ports = matches!(ip.protocol, protocol::TCP | protocol::UDP) && !ip.fragment;
        if has_ports {
            let ports = frame.get(ip.transport..ip.transport + 4);
            state.add(ports.unwrap_or_default());
        }
    }
    state.finish()
}

/// A multiplicative hash (Knuth, The Art of Computer Programming, 6.4) over words of four octets.
#[derive(Default)]
struct Mix(u64);

impl Mix {
    fn add(&mut self, octets: &[u8]) {
        for word in octets.chunks(4) {
            let mut value = [0; 4];
            value[..word.len()].copy_from_slice(word);
            self.0 = (self.0.rotate_left(5) ^ u64::from(u32::from_le_bytes(value)))
                .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    fn finish(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(source: [u8; 4], port: u16, payload: u8) -> Vec<u8> {
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4(source, [10, 0, 0, 9], payload)
            .udp(port, 53);
        let mut frame = Vec::new();
        builder.write(&mut frame, &[payload; 8]).unwrap();
        frame
    }

    #[test]
    fn frames_of_a_flow_have_one_number_and_flows_spread() {
        assert_eq!(hash(&udp([10, 0, 0, 1], 7, 1)), hash(&udp([10, 0, 0, 1], 7, 2)));
        let mut buckets = [0; 4];
        for flow in 0..4000u16 {
            let frame = udp([10, 0, (flow >> 8) as u8, flow as u8], 1024 + flow, 0);
            buckets[hash(&frame) as usize % 4] += 1;
        }
        assert!(
            buckets.iter().all(|count| (900..1100).contains(count)),
            "{buckets:?}"
        );
    }

    #[test]
    fn any_octets_have_a_number() {
        for len in 0..64 {
            hash(&vec![0x45; len]);
        }
    }
}
