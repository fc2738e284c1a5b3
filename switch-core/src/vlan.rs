//! VLAN membership of a port: which VLAN a frame from it belongs to, and how a frame to it is tagged
//! (IEEE 802.1Q-2018, clauses 6.9 and 8.6; 802.1ad service tags in clause 15).

use crate::verdict::DropReason;
use crate::vid::{Tag, Tpid, Vid};

/// A set of VLAN identifiers.
#[derive(Clone, PartialEq, Eq)]
pub struct VlanSet(Box<[u64; 64]>);

impl VlanSet {
    /// The empty set.
    pub fn empty() -> Self {
        Self(Box::new([0; 64]))
    }

    /// All identifiers that a tag can carry, 1 to 4094.
    pub fn all() -> Self {
        (1..=4094).filter_map(Vid::new).collect()
    }

    /// Adds one identifier.
    pub fn insert(&mut self, vid: Vid) {
        self.0[vid.index() / 64] |= 1 << (vid.index() % 64);
    }

    /// Whether `vid` is in the set.
    #[inline]
    pub fn contains(&self, vid: Vid) -> bool {
        self.0[vid.index() / 64] & (1 << (vid.index() % 64)) != 0
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Vid> {
        (0..4095).filter_map(Vid::new).filter(|vid| self.contains(*vid))
    }
}

impl FromIterator<Vid> for VlanSet {
    fn from_iter<T: IntoIterator<Item = Vid>>(vids: T) -> Self {
        let mut set = Self::empty();
        for vid in vids {
            set.insert(vid);
        }
        set
    }
}

impl std::fmt::Debug for VlanSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A port's VLAN policy (`vlan:` of a port group).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum VlanPolicy {
    /// No `vlan:`: untagged frames in the switch's VLAN 0, tagged frames dropped.
    #[default]
    Unaware,
    /// `vlan: 100`: untagged frames in one VLAN, tagged frames dropped.
    Access(Vid),
    /// `vlan: {trunk: [...], native: N}`.
    Trunk {
        /// VLANs that pass tagged.
        vlans: VlanSet,
        /// The VLAN of untagged and priority-tagged frames.
        native: Option<Vid>,
        /// The EtherType of its tags.
        tpid: Tpid,
    },
    /// `vlan: {dot1q-tunnel: 200}`: every frame, tagged or not, is payload of one service VLAN (QinQ).
    Tunnel(Vid),
}

/// What VLAN ingress decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Classified {
    /// The VLAN of the frame.
    pub vid: Vid,
    /// PCP and DEI of its tag, in place as in a TCI; 0 without one.
    pub priority: u16,
    /// The outer tag, where it is the switch's to take off.
    pub tag: Option<Tag>,
}

/// Where the EtherType stands that may mark a tag.
const TPID: usize = 12;

/// The outer VLAN tag of a frame as it stands, whatever the port makes of it. `header` is the frame's first octets.
/// `None` if it has none, or ends before the EtherType that follows the tag.
#[inline]
pub fn outer_tag(header: &[u8]) -> Option<Tag> {
    let &[a, b, c, d, _, _] = header.get(TPID..)?.first_chunk()?;
    Some(Tag {
        tpid: Tpid::of_ethertype(u16::from_be_bytes([a, b]))?,
        tci: u16::from_be_bytes([c, d]),
    })
}

/// The kind of the outer tag, also of one that is cut short.
#[inline]
pub(crate) fn tag_kind(header: &[u8]) -> Option<Tpid> {
    let ethertype = *header.get(TPID..)?.first_chunk()?;
    Tpid::of_ethertype(u16::from_be_bytes(ethertype))
}

impl VlanPolicy {
    /// The EtherType by which this port knows a tag; `None` where a tag is payload.
    #[inline]
    pub const fn tpid(&self) -> Option<Tpid> {
        match self {
            Self::Unaware | Self::Access(_) => Some(Tpid::Dot1Q),
            Self::Trunk { tpid, .. } => Some(*tpid),
            Self::Tunnel(_) => None,
        }
    }

    /// [`VlanPolicy::carries`] of 64 VLANs at once: bit `n` of word `w` is VLAN 64 `w` + `n`.
    pub(crate) fn carries_word(&self, word: usize) -> u64 {
        let alone = |vid: Vid| {
            if vid.index() / 64 == word {
                1 << (vid.index() % 64)
            } else {
                0
            }
        };
        match self {
            Self::Unaware => alone(Vid::UNAWARE),
            Self::Access(own) | Self::Tunnel(own) => alone(*own),
            Self::Trunk { vlans, native, .. } => vlans.0[word] | native.map_or(0, alone),
        }
    }

    /// The VLAN of frames without a tag, from the port and to it.
    pub const fn untagged(&self) -> Option<Vid> {
        match self {
            Self::Unaware => Some(Vid::UNAWARE),
            Self::Access(vid) | Self::Tunnel(vid) => Some(*vid),
            Self::Trunk { native, .. } => *native,
        }
    }

    /// Classifies a frame from the port. `tag` is its outer tag if that has the port's [`VlanPolicy::tpid`].
    #[inline]
    pub fn ingress(&self, tag: Option<Tag>) -> Result<Classified, DropReason> {
        let priority = tag.map_or(0, |tag| tag.tci & 0xf000);
        let tagged = match tag.map(|tag| Vid::new(tag.raw_vid())) {
            Some(None) => return Err(DropReason::VlanReserved),
            Some(Some(vid)) if vid != Vid::UNAWARE => Some(vid),
            _ => None,
        };
        let vid = match (self, tagged) {
            (Self::Unaware, None) => Vid::UNAWARE,
            (Self::Access(vid), None) => *vid,
            (Self::Unaware | Self::Access(_), Some(_)) => return Err(DropReason::VlanTagged),
            (Self::Trunk { native, .. }, None) => native.ok_or(DropReason::VlanUntagged)?,
            (Self::Trunk { vlans, native, .. }, Some(vid)) => {
                if !vlans.contains(vid) && *native != Some(vid) {
                    return Err(DropReason::VlanNotAllowed);
                }
                vid
            }
            (Self::Tunnel(vid), _) => {
                return Ok(Classified {
                    vid: *vid,
                    priority: 0,
                    tag: None,
                });
            }
        };
        Ok(Classified { vid, priority, tag })
    }

    /// Whether the port takes part in `vid`.
    #[inline]
    pub fn carries(&self, vid: Vid) -> bool {
        match self {
            Self::Unaware => vid == Vid::UNAWARE,
            Self::Access(own) | Self::Tunnel(own) => *own == vid,
            Self::Trunk { vlans, native, .. } => vlans.contains(vid) || *native == Some(vid),
        }
    }

    /// The tag with which a frame of `vid` leaves by the port, which must [carry](Self::carries) it.
    #[inline]
    pub fn egress(&self, vid: Vid, priority: u16) -> Option<Tag> {
        match self {
            Self::Trunk { native, tpid, .. } if *native != Some(vid) => Some(Tag::new(*tpid, vid, priority)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_what_carries_says() {
        let vid = |vid| Vid::new(vid).unwrap();
        let trunk = |vlans: VlanSet, native| VlanPolicy::Trunk {
            vlans,
            native,
            tpid: Tpid::Dot1Q,
        };
        let policies = [
            VlanPolicy::Unaware,
            VlanPolicy::Access(vid(64)),
            VlanPolicy::Tunnel(vid(4094)),
            trunk(VlanSet::all(), None),
            trunk([1, 63, 64, 4000].map(vid).into_iter().collect(), Some(vid(700))),
        ];
        for policy in policies {
            for vid in (0..4095).filter_map(Vid::new) {
                let bit = policy.carries_word(vid.index() / 64) >> (vid.index() % 64) & 1;
                assert_eq!(bit == 1, policy.carries(vid), "{policy:?} {vid}");
            }
        }
    }
}
