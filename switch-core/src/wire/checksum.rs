//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and SCTP's CRC32c (RFC 9260, appendix A).
//!
//! Sums are kept in the host's order of octets: one's complement addition does not care (RFC 1071, section 2 B), so that
//! nothing is swapped but the result. Wide words are added into parallel lanes, which compilers turn into vector code.

/// A one's complement sum under way. Parts may be added in any order; each must start at an even octet of the whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum(u64);

const LANES: usize = 4;
const BLOCK: usize = 8 * LANES;

impl Sum {
    /// The sum over `data`; an odd octet at its end counts as if a zero followed. Up to 4 GiB.
    #[inline]
    pub fn of(data: &[u8]) -> Self {
        let (blocks, rest) = data.as_chunks::<BLOCK>();
        let mut lanes = [0; LANES];
        for block in blocks {
            add_block(&mut lanes, block);
        }
        Self(lanes.iter().sum()).add(Self::of_short(rest))
    }

    /// Copies `from` to `to`, which is as long, and sums it in the same pass.
    ///
    /// # Panics
    /// If the two differ in length.
    #[inline]
    pub fn of_copy(to: &mut [u8], from: &[u8]) -> Self {
        assert_eq!(to.len(), from.len(), "a copy is as long as its original");
        let (blocks, rest) = from.as_chunks::<BLOCK>();
        let (to_blocks, to_rest) = to.as_chunks_mut::<BLOCK>();
        let mut lanes = [0; LANES];
        for (to, block) in to_blocks.iter_mut().zip(blocks) {
            *to = *block;
            add_block(&mut lanes, block);
        }
        to_rest.copy_from_slice(rest);
        Self(lanes.iter().sum()).add(Self::of_short(rest))
    }

    #[inline]
    fn of_short(data: &[u8]) -> Self {
        let (words, rest) = data.as_chunks::<4>();
        let mut sum = words
            .iter()
            .map(|word| u64::from(u32::from_ne_bytes(*word)))
            .sum::<u64>();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        sum += u64::from(u32::from_ne_bytes(last));
        Self(sum)
    }

    /// The sum of both parts.
    #[inline]
    #[must_use]
    pub const fn add(self, other: Self) -> Self {
        let (sum, carry) = self.0.overflowing_add(other.0);
        Self(sum + carry as u64)
    }

    /// Adds a 16-bit number.
    #[inline]
    #[must_use]
    pub const fn add_u16(self, value: u16) -> Self {
        self.add(Self(value.to_be() as u64))
    }

    /// Adds a 32-bit number.
    #[inline]
    #[must_use]
    pub const fn add_u32(self, value: u32) -> Self {
        self.add(Self(value.to_be() as u64))
    }

    /// Takes a 32-bit number out of the sum that was added to it.
    #[inline]
    #[must_use]
    pub const fn sub_u32(self, value: u32) -> Self {
        self.add_u32(!value)
    }

    /// The sum as the 16 bits that stand on the wire, not complemented: what a partial checksum field holds.
    #[inline]
    pub const fn fold(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        u16::from_be(((sum & 0xffff) + (sum >> 16)) as u16)
    }

    /// The checksum: the complement of the sum.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// Adds both halves of each word: a lane can't overflow, so that no carry ties the words together.
#[inline(always)]
fn add_block(lanes: &mut [u64; LANES], block: &[u8; BLOCK]) {
    let (words, _) = block.as_chunks::<8>();
    for (lane, word) in lanes.iter_mut().zip(words) {
        let word = u64::from_ne_bytes(*word);
        *lane += (word & 0xffff_ffff) + (word >> 32);
    }
}

/// The sum of the pseudo header of TCP and UDP over IPv4 (RFC 9293, section 3.1; RFC 768).
#[inline]
pub fn pseudo_v4(source: [u8; 4], destination: [u8; 4], protocol: u8, length: u32) -> Sum {
    Sum::of(&source)
        .add(Sum::of(&destination))
        .add_u16(u16::from(protocol))
        .add_u32(length)
}

/// The sum of the pseudo header over IPv6 (RFC 8200, section 8.1).
#[inline]
pub fn pseudo_v6(source: [u8; 16], destination: [u8; 16], protocol: u8, length: u32) -> Sum {
    Sum::of(&source)
        .add(Sum::of(&destination))
        .add_u16(u16::from(protocol))
        .add_u32(length)
}

/// A checksum after one 16-bit word under it went from `old` to `new` (RFC 1624, equation 3).
#[inline]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    Sum(0).add_u16(!checksum).add_u16(!old).add_u16(new).checksum()
}

/// CRC32c as SCTP's checksum field holds it, read in little-endian order; the field itself counts as zeros.
pub fn crc32c<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut crc = !0;
    for octet in parts.into_iter().flatten() {
        crc = CRC32C[usize::from(crc as u8 ^ octet)] ^ (crc >> 8);
    }
    !crc
}

const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0;
    while index < table.len() {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 0 {
                crc >> 1
            } else {
                0x82f6_3b78 ^ (crc >> 1)
            };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071, section 4.1, word by word.
    fn slow(data: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in data.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_rfc_s_own_example() {
        assert_eq!(
            Sum::of(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(),
            0xddf2
        );
    }

    #[test]
    fn castagnoli_check_value() {
        assert_eq!(crc32c([&b"12345"[..], b"6789"]), 0xe306_9283);
    }

    #[test]
    fn all_ones_fold_without_losing_a_carry() {
        for len in [0, 1, 2, 3, 4, 31, 32, 33, 65536, 65537] {
            let data = vec![0xff; len];
            assert_eq!(Sum::of(&data).fold(), slow(&data), "{len}");
        }
        assert_eq!(Sum(u64::MAX).add(Sum(u64::MAX)).fold(), 0xffff);
    }

    proptest! {
        #[test]
        fn fast_is_slow(data in prop::collection::vec(any::<u8>(), 0..2000), cut in any::<prop::sample::Index>()) {
            prop_assert_eq!(Sum::of(&data).fold(), slow(&data));
            let mut copy = vec![0; data.len()];
            prop_assert_eq!(Sum::of_copy(&mut copy, &data), Sum::of(&data));
            prop_assert_eq!(&copy, &data);
            let (head, tail) = data.split_at(cut.index(data.len() / 2 + 1) * 2);
            prop_assert_eq!(Sum::of(tail).add(Sum::of(head)).fold(), slow(&data));
        }

        #[test]
        fn update_is_a_new_sum(mut data in prop::collection::vec(any::<u8>(), 2..100), at in any::<prop::sample::Index>(), new: u16) {
            // A header has a word that is never zero (version, protocol): RFC 1624, section 3.
            data.extend([0x45, 0x00]);
            let at = at.index(data.len() / 2 - 1) * 2;
            let before = Sum::of(&data).checksum();
            let old = u16::from_be_bytes([data[at], data[at + 1]]);
            data[at..at + 2].copy_from_slice(&new.to_be_bytes());
            let tail = [0x45, 0x00];
            let end = data.len() - 2;
            data[end..].copy_from_slice(&tail);
            prop_assert_eq!(update(before, old, new), Sum::of(&data).checksum());
        }

        #[test]
        fn taking_out_is_the_inverse_of_adding(data in prop::collection::vec(any::<u8>(), 1..50), value: u32) {
            let sum = Sum::of(&data).add_u16(1);
            prop_assert_eq!(sum.add_u32(value).sub_u32(value).fold(), sum.fold());
        }
    }
}
