//! ICMP (RFC 792).

use super::checksum::Sum;
use super::{ParseError, u16_at};

mod field {
    pub const KIND: usize = 0;
    pub const CODE: usize = 1;
    pub const CHECKSUM: usize = 2;
    pub const IDENTIFIER: usize = 4;
    pub const SEQUENCE: usize = 6;
    pub const END: usize = 8;
}

/// Message types (IANA).
pub mod kind {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 3;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
}

/// An ICMP message, or its first octets.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'a> {
    header: &'a [u8; field::END],
    payload: &'a [u8],
}

impl<'a> Icmp<'a> {
    /// Views a message.
    #[inline]
    pub fn parse(data: &'a [u8]) -> Result<Self, ParseError> {
        let (header, payload) = data.split_first_chunk().ok_or(ParseError::Truncated)?;
        Ok(Self { header, payload })
    }

    /// The type; see [`kind`].
    #[inline]
    pub const fn kind(&self) -> u8 {
        self.header[field::KIND]
    }

    /// The code within the type.
    #[inline]
    pub const fn code(&self) -> u8 {
        self.header[field::CODE]
    }

    /// The checksum as it stands.
    #[inline]
    pub const fn checksum(&self) -> u16 {
        u16_at(self.header, field::CHECKSUM)
    }

    /// Whether the checksum is right, of a message that is there whole.
    #[inline]
    pub fn verify_checksum(&self) -> bool {
        Sum::of(self.header).add(Sum::of(self.payload)).checksum() == 0
    }

    /// The identifier of an echo.
    #[inline]
    pub const fn identifier(&self) -> u16 {
        u16_at(self.header, field::IDENTIFIER)
    }

    /// The sequence number of an echo; the next hop's MTU of an unreachable destination.
    #[inline]
    pub const fn sequence(&self) -> u16 {
        u16_at(self.header, field::SEQUENCE)
    }

    /// What follows: the data of an echo, the first octets of the packet that an error is about.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
