//! TCP (RFC 9293; ECN flags: RFC 3168).

use std::fmt;

use super::{ParseError, u16_at};

mod field {
    pub const SOURCE: usize = 0;
    pub const DESTINATION: usize = 2;
    pub const SEQUENCE: usize = 4;
    pub const ACKNOWLEDGEMENT: usize = 8;
    pub const DATA_OFFSET: usize = 12;
    pub const FLAGS: usize = 13;
    pub const WINDOW: usize = 14;
    pub const CHECKSUM: usize = 16;
    pub const URGENT: usize = 18;
    pub const END: usize = 20;
}

/// Octets of the header without options.
pub const HEADER_LEN: usize = field::END;

/// The flags of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number is valid.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer is valid.
    pub const URG: Self = Self(0x20);
    /// ECN echo.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);

    /// Whether all flags of `other` are set.
    #[inline]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// As tcpdump writes them: `S`, `S.`, `P.`, `F.`, `R`; `none` without any.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LETTERS: [(Flags, &str); 8] = [
            (Flags::FIN, "F"),
            (Flags::SYN, "S"),
            (Flags::RST, "R"),
            (Flags::PSH, "P"),
            (Flags::ACK, "."),
            (Flags::URG, "U"),
            (Flags::ECE, "E"),
            (Flags::CWR, "W"),
        ];
        if self.0 == 0 {
            return f.write_str("none");
        }
        for (_, letter) in LETTERS.iter().filter(|(flag, _)| self.contains(*flag)) {
            f.write_str(letter)?;
        }
        Ok(())
    }
}

/// A TCP segment, or its first octets.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a> {
    header: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Views a segment. The header with its options must be there.
    pub fn parse(data: &'a [u8]) -> Result<Self, ParseError> {
        let (header, rest) = data.split_first_chunk().ok_or(ParseError::Truncated)?;
        let options = (usize::from(header[field::DATA_OFFSET] >> 4) * 4)
            .checked_sub(HEADER_LEN)
            .ok_or(ParseError::Unsupported("a TCP data offset below 20"))?;
        let (options, payload) = rest.split_at_checked(options).ok_or(ParseError::Truncated)?;
        Ok(Self {
            header,
            options,
            payload,
        })
    }

    /// Octets of the header with its options, 20 to 60.
    #[inline]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
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

    /// Number of the first octet of the payload, or of SYN.
    #[inline]
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes(super::array(self.header, field::SEQUENCE))
    }

    /// Number of the octet that the sender expects next.
    #[inline]
    pub fn acknowledgement(&self) -> u32 {
        u32::from_be_bytes(super::array(self.header, field::ACKNOWLEDGEMENT))
    }

    /// The flags.
    #[inline]
    pub const fn flags(&self) -> Flags {
        Flags(self.header[field::FLAGS])
    }

    /// The window, not scaled.
    #[inline]
    pub const fn window(&self) -> u16 {
        u16_at(self.header, field::WINDOW)
    }

    /// The checksum as it stands.
    #[inline]
    pub const fn checksum(&self) -> u16 {
        u16_at(self.header, field::CHECKSUM)
    }

    /// The urgent pointer.
    #[inline]
    pub const fn urgent(&self) -> u16 {
        u16_at(self.header, field::URGENT)
    }

    /// The options.
    #[inline]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The payload, as far as it is there.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
