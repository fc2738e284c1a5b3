//! Numbers that stand for ports and switches on a frame's way; the names stay in the control plane.

use std::fmt;

/// A port of the daemon, unique across its switches while the port exists. Small, so that it indexes tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u16);

impl PortId {
    /// How many ports there can be; every [`PortId::index`] is below it.
    pub const COUNT: usize = 0xfffe;

    /// `None` at [`PortId::COUNT`] and above.
    #[inline]
    pub const fn new(id: u16) -> Option<Self> {
        if (id as usize) < Self::COUNT {
            Some(Self(id))
        } else {
            None
        }
    }

    /// The port of a number that came from [`PortId::get`].
    #[inline]
    pub(crate) const fn from_number(id: u16) -> Self {
        Self(id)
    }

    /// The number itself.
    #[inline]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The number as an index below [`PortId::COUNT`].
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port#{}", self.0)
    }
}

/// The index of a switch in its snapshot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SwitchId(pub u16);

impl SwitchId {
    /// The number as an index.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}
