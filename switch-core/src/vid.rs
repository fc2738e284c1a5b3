//! VLAN identifiers and tags (IEEE 802.1Q-2018, clause 9).

use std::fmt;

use serde::{Deserialize, Serialize};

/// A VLAN identifier within the switch, 0 to 4094. 0 is the VLAN of ports without VLAN awareness.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Vid(u16);

impl Vid {
    /// The VLAN of ports without VLAN awareness.
    pub const UNAWARE: Self = Self(0);
    /// How many identifiers there are; every [`Vid::index`] is below it.
    pub const COUNT: usize = 4095;

    /// `None` when `vid` is 4095 (reserved) or above.
    #[inline]
    pub const fn new(vid: u16) -> Option<Self> {
        if vid < Self::COUNT as u16 {
            Some(Self(vid))
        } else {
            None
        }
    }

    /// The identifier as a number.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The identifier as an index below [`Vid::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for Vid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Vid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The number is no VLAN identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a VLAN identifier: 0 to 4094 are expected")]
pub struct VidError(u16);

impl TryFrom<u16> for Vid {
    type Error = VidError;

    fn try_from(vid: u16) -> Result<Self, Self::Error> {
        Self::new(vid).ok_or(VidError(vid))
    }
}

impl From<Vid> for u16 {
    fn from(vid: Vid) -> Self {
        vid.0
    }
}

/// Which EtherType marks a tag.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub enum Tpid {
    /// 0x8100, the customer tag of 802.1Q.
    #[default]
    #[serde(rename = "802.1q")]
    Dot1Q,
    /// 0x88a8, the service tag of 802.1ad.
    #[serde(rename = "802.1ad")]
    Dot1Ad,
}

impl Tpid {
    /// The tag that an EtherType marks, if any.
    #[inline]
    pub const fn of_ethertype(ethertype: u16) -> Option<Self> {
        match ethertype {
            0x8100 => Some(Self::Dot1Q),
            0x88a8 => Some(Self::Dot1Ad),
            _ => None,
        }
    }

    /// The EtherType on the wire.
    #[inline]
    pub const fn ethertype(self) -> u16 {
        match self {
            Self::Dot1Q => 0x8100,
            Self::Dot1Ad => 0x88a8,
        }
    }
}

/// A VLAN tag as it stands on the wire: EtherType, priority (PCP), drop eligibility (DEI) and VID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Tag {
    /// The EtherType of the tag.
    pub tpid: Tpid,
    /// Tag control information: PCP in bits 15-13, DEI in bit 12, VID in bits 11-0.
    pub tci: u16,
}

impl Tag {
    /// How many octets a tag takes on the wire.
    pub const LEN: usize = 4;

    /// A tag of `vid` with the PCP and DEI bits of `priority` (a TCI; its VID bits are ignored).
    #[inline]
    pub const fn new(tpid: Tpid, vid: Vid, priority: u16) -> Self {
        Self {
            tpid,
            tci: (priority & 0xf000) | vid.get(),
        }
    }

    /// The VID bits, 0 to 4095.
    #[inline]
    pub const fn raw_vid(self) -> u16 {
        self.tci & 0x0fff
    }

    /// The priority code point, 0 to 7.
    #[inline]
    pub const fn pcp(self) -> u8 {
        (self.tci >> 13) as u8
    }

    /// The four octets on the wire.
    #[inline]
    pub const fn to_bytes(self) -> [u8; 4] {
        let [a, b] = self.tpid.ethertype().to_be_bytes();
        let [c, d] = self.tci.to_be_bytes();
        [a, b, c, d]
    }
}
