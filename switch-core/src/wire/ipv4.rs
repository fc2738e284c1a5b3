//! IPv4 (RFC 791; DSCP and ECN: RFC 2474, RFC 3168).

use std::net::Ipv4Addr;

use super::checksum::{self, Sum};
use super::{ParseError, u16_at};

mod field {
    pub const VERSION_IHL: usize = 0;
    pub const DSCP_ECN: usize = 1;
    pub const LENGTH: usize = 2;
    pub const IDENTIFICATION: usize = 4;
    pub const FRAGMENT: usize = 6;
    pub const TTL: usize = 8;
    pub const PROTOCOL: usize = 9;
    pub const CHECKSUM: usize = 10;
    pub const SOURCE: usize = 12;
    pub const DESTINATION: usize = 16;
    pub const END: usize = 20;

    pub const DONT_FRAGMENT: u16 = 0x4000;
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    pub const OFFSET: u16 = 0x1fff;
}

/// Octets of the header without options.
pub const HEADER_LEN: usize = field::END;
/// Octets of the header with all the options that fit.
pub const MAX_HEADER_LEN: usize = 60;

/// An IPv4 packet, or its first octets.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Views the payload of a frame of the EtherType IPv4. The header with its options must be there, the payload need not.
    pub fn parse(data: &'a [u8]) -> Result<Self, ParseError> {
        let (header, rest) = data.split_first_chunk().ok_or(ParseError::Truncated)?;
        if header[field::VERSION_IHL] >> 4 != 4 {
            return Err(ParseError::Unsupported("an IPv4 header with another version"));
        }
        let length = usize::from(header[field::VERSION_IHL] & 0x0f) * 4;
        let options = length
            .checked_sub(HEADER_LEN)
            .ok_or(ParseError::Unsupported("an IPv4 header length below 20"))?;
        let (options, rest) = rest.split_at_checked(options).ok_or(ParseError::Truncated)?;
        Ok(Self {
            header,
            options,
            rest,
        })
    }

    /// Octets of the header with its options, 20 to 60.
    #[inline]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Differentiated services code point.
    #[inline]
    pub const fn dscp(&self) -> u8 {
        self.header[field::DSCP_ECN] >> 2
    }

    /// Explicit congestion notification.
    #[inline]
    pub const fn ecn(&self) -> u8 {
        self.header[field::DSCP_ECN] & 3
    }

    /// Octets of the packet, as it says itself; 0 in some super-frames.
    #[inline]
    pub const fn total_len(&self) -> u16 {
        u16_at(self.header, field::LENGTH)
    }

    /// What the fragments of a packet share.
    #[inline]
    pub const fn identification(&self) -> u16 {
        u16_at(self.header, field::IDENTIFICATION)
    }

    /// DF.
    #[inline]
    pub const fn dont_fragment(&self) -> bool {
        u16_at(self.header, field::FRAGMENT) & field::DONT_FRAGMENT != 0
    }

    /// MF.
    #[inline]
    pub const fn more_fragments(&self) -> bool {
        u16_at(self.header, field::FRAGMENT) & field::MORE_FRAGMENTS != 0
    }

    /// Offset of this fragment in octets.
    #[inline]
    pub const fn fragment_offset(&self) -> u16 {
        (u16_at(self.header, field::FRAGMENT) & field::OFFSET) << 3
    }

    /// The packet is a part of another.
    #[inline]
    pub const fn is_fragment(&self) -> bool {
        u16_at(self.header, field::FRAGMENT) & (field::OFFSET | field::MORE_FRAGMENTS) != 0
    }

    /// Time to live, in hops.
    #[inline]
    pub const fn ttl(&self) -> u8 {
        self.header[field::TTL]
    }

    /// The protocol of the payload; see [`super::protocol`].
    #[inline]
    pub const fn protocol(&self) -> u8 {
        self.header[field::PROTOCOL]
    }

    /// The header checksum as it stands.
    #[inline]
    pub const fn checksum(&self) -> u16 {
        u16_at(self.header, field::CHECKSUM)
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        Sum::of(self.header).add(Sum::of(self.options)).checksum() == 0
    }

    /// Who says that he sent it.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        Ipv4Addr::from(super::array::<4, _>(self.header, field::SOURCE))
    }

    /// Whom it is for.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        Ipv4Addr::from(super::array::<4, _>(self.header, field::DESTINATION))
    }

    /// The options.
    #[inline]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The payload without the padding of the frame, as far as it is there. Without a length all that follows is payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        let length = match usize::from(self.total_len()) {
            0 => self.rest.len(),
            total => total.saturating_sub(self.header_len()),
        };
        self.rest.get(..length).unwrap_or(self.rest)
    }

    /// The sum of the pseudo header for `length` octets of transport header and payload.
    #[inline]
    pub fn pseudo_header(&self, length: u32) -> Sum {
        checksum::pseudo_v4(
            self.source().octets(),
            self.destination().octets(),
            self.protocol(),
            length,
        )
    }
}
