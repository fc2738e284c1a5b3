//! What follows the EtherType of a VLAN tag (IEEE 802.1Q-2018, clause 9.6).

use super::{ParseError, u16_at};

mod field {
    pub const TCI: usize = 0;
    pub const ETHERTYPE: usize = 2;
    pub const END: usize = 4;
}

/// Tag control information, the EtherType of what is tagged, and that itself.
#[derive(Clone, Copy, Debug)]
pub struct Vlan<'a> {
    header: &'a [u8; field::END],
    payload: &'a [u8],
}

impl<'a> Vlan<'a> {
    /// Views what follows 0x8100 or 0x88a8.
    #[inline]
    pub const fn parse(data: &'a [u8]) -> Result<Self, ParseError> {
        match data.split_first_chunk() {
            Some((header, payload)) => Ok(Self { header, payload }),
            None => Err(ParseError::Truncated),
        }
    }

    /// PCP, DEI and VID, as in [`Tag::tci`](crate::vid::Tag::tci).
    #[inline]
    pub const fn tci(&self) -> u16 {
        u16_at(self.header, field::TCI)
    }

    /// The EtherType of the payload.
    #[inline]
    pub const fn ethertype(&self) -> u16 {
        u16_at(self.header, field::ETHERTYPE)
    }

    /// What is tagged.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }
}
