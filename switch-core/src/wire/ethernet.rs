//! Ethernet II and 802.3 frames (IEEE 802.3-2018, clause 3), without preamble and FCS.

use super::vlan::Vlan;
use super::{ParseError, ethertype, u16_at};
use crate::addr::MacAddr;
use crate::vid::{Tag, Tpid};

mod field {
    pub const ETHERTYPE: usize = 12;
    pub const END: usize = 14;
}

/// Octets of an Ethernet header without tags.
pub const HEADER_LEN: usize = field::END;

/// An Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet<'a> {
    header: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Views a frame. The one check is that of the length.
    #[inline]
    pub const fn parse(frame: &'a [u8]) -> Result<Self, ParseError> {
        match frame.split_first_chunk() {
            Some((header, payload)) => Ok(Self { header, payload }),
            None => Err(ParseError::Truncated),
        }
    }

    /// Whom it is for.
    #[inline]
    pub const fn destination(&self) -> MacAddr {
        let [a, b, c, d, e, f, ..] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// Who says that he sent it.
    #[inline]
    pub const fn source(&self) -> MacAddr {
        let [_, _, _, _, _, _, a, b, c, d, e, f, ..] = *self.header;
        MacAddr([a, b, c, d, e, f])
    }

    /// The EtherType of the payload, tags being payload; a length below [`ethertype::MINIMUM`].
    #[inline]
    pub const fn ethertype(&self) -> u16 {
        u16_at(self.header, field::ETHERTYPE)
    }

    /// What follows the EtherType.
    #[inline]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The outer tag, if its EtherType is that of `tpid`.
    #[inline]
    pub fn tag(&self, tpid: Tpid) -> Result<Option<Tag>, ParseError> {
        if self.ethertype() != tpid.ethertype() {
            return Ok(None);
        }
        let tci = Vlan::parse(self.payload)?.tci();
        Ok(Some(Tag { tpid, tci }))
    }

    /// The tags from the outer one inwards, at most `N`, and what is behind them.
    pub fn untag<const N: usize>(&self) -> Result<Untagged<'a, N>, ParseError> {
        let mut untagged = Untagged {
            tags: [None; N],
            ethertype: self.ethertype(),
            payload: self.payload,
        };
        for slot in &mut untagged.tags {
            let tpid = match untagged.ethertype {
                ethertype::VLAN => Tpid::Dot1Q,
                ethertype::QINQ => Tpid::Dot1Ad,
                _ => break,
            };
            let vlan = Vlan::parse(untagged.payload)?;
            *slot = Some(Tag {
                tpid,
                tci: vlan.tci(),
            });
            untagged.ethertype = vlan.ethertype();
            untagged.payload = vlan.payload();
        }
        Ok(untagged)
    }
}

/// A frame's tags and what they wrap; see [`Ethernet::untag`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Untagged<'a, const N: usize> {
    /// The tags, outer first.
    pub tags: [Option<Tag>; N],
    /// The EtherType behind them.
    pub ethertype: u16,
    /// What follows it.
    pub payload: &'a [u8],
}
