//! Frames made by hand.

use switch_core::addr::MacAddr;

/// An EtherType for experiments (IEEE 802, "local experimental"): no stack answers it.
pub const EXPERIMENTAL: u16 = 0x88b5;

/// EtherType of an 802.1Q tag.
pub const DOT1Q: u16 = 0x8100;

/// EtherType of an 802.1ad tag.
pub const DOT1AD: u16 = 0x88a8;

/// A locally administered address that ends in `number`.
pub fn mac(number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([0x52, 0x54, a, b, c, d])
}

/// A frame of an experimental EtherType: tags (TPID, TCI) from the outer to the inner, then a payload that
/// [`marked`] finds again.
pub fn frame(destination: MacAddr, source: MacAddr, tags: &[(u16, u16)], mark: u32) -> Vec<u8> {
    sized(destination, source, tags, mark, 60 + 4 * tags.len())
}

/// [`frame`] of so many octets altogether.
///
/// # Panics
/// If the mark has no room.
pub fn sized(destination: MacAddr, source: MacAddr, tags: &[(u16, u16)], mark: u32, len: usize) -> Vec<u8> {
    let mut octets = header(destination, source, tags);
    octets.extend(EXPERIMENTAL.to_be_bytes());
    octets.extend(mark.to_be_bytes());
    assert!(
        octets.len() <= len,
        "{len} octets have no room for headers and mark"
    );
    let pattern = (0u8..=255).cycle().take(len - octets.len());
    octets.extend(pattern);
    octets
}

/// Addresses and tags, up to the EtherType.
pub fn header(destination: MacAddr, source: MacAddr, tags: &[(u16, u16)]) -> Vec<u8> {
    let mut octets = [destination.0, source.0].concat();
    for (tpid, tci) in tags {
        octets.extend(tpid.to_be_bytes());
        octets.extend(tci.to_be_bytes());
    }
    octets
}

/// Whether a frame is one of ours with this mark, whatever its tags.
pub fn marked(octets: &[u8], mark: u32) -> bool {
    let wanted = [&EXPERIMENTAL.to_be_bytes()[..], &mark.to_be_bytes()].concat();
    (12..=20)
        .step_by(4)
        .any(|at| octets.get(at..at + 6) == Some(&wanted))
}

/// The tags of a frame, from the outer to the inner.
pub fn tags(octets: &[u8]) -> Vec<(u16, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes([*octets.get(at)?, *octets.get(at + 1)?]));
    let mut found = Vec::new();
    let mut at = 12;
    while let (Some(tpid @ (DOT1Q | DOT1AD)), Some(tci)) = (word(at), word(at + 2)) {
        found.push((tpid, tci));
        at += 4;
    }
    found
}

/// A generator of pseudo-random numbers (splitmix64): the same seed gives the same test.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.number() % bound as u64) as usize
    }

    /// One of the items.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// So many random octets.
    pub fn octets(&mut self, len: usize) -> Vec<u8> {
        let mut octets = Vec::with_capacity(len + 8);
        while octets.len() < len {
            octets.extend(self.number().to_le_bytes());
        }
        octets.truncate(len);
        octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marked_frame_is_found_again_behind_its_tags() {
        let plain = frame(mac(1), mac(2), &[], 7);
        let tagged = frame(mac(1), mac(2), &[(DOT1AD, 200), (DOT1Q, 100)], 7);
        assert!(marked(&plain, 7) && marked(&tagged, 7));
        assert!(!marked(&plain, 8) && !marked(&plain[..16], 7));
        assert_eq!(tags(&plain), []);
        assert_eq!(tags(&tagged), [(DOT1AD, 200), (DOT1Q, 100)]);
        assert_eq!(plain.len(), 60);
    }
}
