//! The security policy of a port group, as vSphere's port groups have it: promiscuous mode, MAC changes, forged transmits.
//!
//! A switch in front of a TAP cannot ask the guest for its effective address, so it judges by what the guest sends:
//! the effective MAC is the configured one (or the first seen) until the port has sent
//! [`CHANGE_AFTER`] frames in a row from one other address. A single stray frame is thus a forged transmit, not a change.

use std::sync::atomic::AtomicU64;

use crate::addr::MacAddr;

/// How many frames in a row from one other source make a change of MAC.
pub const CHANGE_AFTER: u8 = 3;

/// Accept (`true`) or reject (`false`, the default) each of the three.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SecurityPolicy {
    /// The port sees every frame that its VLAN policy allows.
    pub promiscuous: bool,
    /// The guest may take another MAC address than the configured one.
    pub mac_changes: bool,
    /// The guest may send from other addresses than its effective one.
    pub forged_transmits: bool,
}

/// What a port has shown of its guest's address. Shared by the workers; survives a change of snapshot.
#[derive(Debug, Default)]
pub struct PortState {
    /// The first station address seen, as [`MacAddr::to_u64`]; 0 before.
    pub(crate) initial: AtomicU64,
    /// The effective address, as [`MacAddr::to_u64`]; 0 before any.
    pub(crate) effective: AtomicU64,
    /// A candidate for the next effective address in the low 48 bits, how often it was seen in a row above.
    pub(crate) candidate: AtomicU64,
}

impl PortState {
    /// Forgets what was seen, as after the port's device was replaced.
    pub fn reset(&self) {
        use std::sync::atomic::Ordering::Relaxed;
        self.initial.store(0, Relaxed);
        self.effective.store(0, Relaxed);
        self.candidate.store(0, Relaxed);
    }

    /// The guest's effective address, if it has sent anything.
    pub fn effective(&self) -> Option<MacAddr> {
        match self.effective.load(std::sync::atomic::Ordering::Relaxed) {
            0 => None,
            mac => Some(MacAddr::from_u64(mac)),
        }
    }
}
