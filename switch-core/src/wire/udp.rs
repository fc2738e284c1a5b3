//! UDP (RFC 768).

use super::{ParseError, u16_at};

mod field {
    pub const SOURCE: usize = 0;
    pub const DESTINATION: usize = 2;
    pub const LENGTH: usize = 4;
    pub const CHECKSUM: usize = 6;
    pub const END: usize = 8;
}

/// Octets of the header.
pub const HEADER_LEN: usize = field::END;

/// A UDP datagram, or its first octets.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a> {
    header: &'a [u8; HEADER_LEN],
    rest: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Views a datagram.
    #[inline]
    pub fn parse(data: &'a [u8]) -> Result<Self, ParseError> {
        let (header, rest) = data.split_first_chunk().ok_or(ParseError::Truncated)?;
        Ok(Self { header, rest })
    }

    /// Source port.
    #[inline]
    pub const fn source_port(&self) -> u16 {
        u16_at(self.header, field::SOURCE)
    }

    /// Destination port.
    #[inline]
    pub const fn destination_port(&self) -> u16 {
        u16_at(self.header, field::DESTINATION)
    }

    /// Octets of header and payload, as the datagram says itself; 0 in a jumbogram.
    #[inline]
    pub const fn length(&self) -> u16 {
        u16_at(self.header, field::LENGTH)
    }

    /// The checksum as it stands; 0 for none.
    #[inline]
    pub const fn checksum(&self) -> u16 {
        u16_at(self.header, field::CHECKSUM)
    }

    /// The payload, as far as it is there. Without a length all that follows is payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        let length = match usize::from(self.length()) {
            0 => self.rest.len(),
            length => length.saturating_sub(HEADER_LEN),
        };
        self.rest.get(..length).unwrap_or(self.rest)
    }
}
