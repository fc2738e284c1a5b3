//! The security policy of a port group, as vSphere's port groups have it: promiscuous mode, MAC changes, forged transmits.
//!
//! A switch in front of a TAP cannot ask the guest for its effective address, so it judges by what the guest sends:
//! the effective MAC is the configured one (or the first seen) until the port has sent
//! [`CHANGE_AFTER`] frames in a row from one other address. A single stray frame is thus a forged transmit, not a change.
//! A frame from the configured address makes that effective again at once.
//!
//! Where forged transmits are accepted, other sources say nothing about the guest's own address, so none is followed.
//!
//! Threads: every worker may judge frames of one port. The state is a few relaxed atomics; workers that race may count
//! a candidate once too often or too rarely, which changes only how many frames of a changed guest are dropped.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use crate::addr::MacAddr;
use crate::pipeline::Mode;
use crate::verdict::DropReason;

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
    /// The effective address, as [`MacAddr::to_u64`]; 0 before any. [`PENDING`] is set while there is a candidate,
    /// so that a frame from the effective address knows without a second load that it ends a row.
    pub(crate) effective: AtomicU64,
    /// A candidate for the next effective address in the low 48 bits, how often it was seen in a row above.
    pub(crate) candidate: AtomicU64,
    /// The guest has announced itself, while the port waited for that.
    announced: AtomicBool,
}

const ADDRESS: u64 = 0xffff_ffff_ffff;
const PENDING: u64 = 1 << 63;
const SEEN_SHIFT: u32 = 48;

impl PortState {
    /// Forgets what was seen, as after the port's device was replaced.
    pub fn reset(&self) {
        self.initial.store(0, Relaxed);
        self.effective.store(0, Relaxed);
        self.candidate.store(0, Relaxed);
        self.announced.store(false, Relaxed);
    }

    /// The port waits for its guest from now on.
    pub fn await_announcement(&self) {
        self.announced.store(false, Relaxed);
    }

    /// Whether the guest has announced itself while the port waited for that.
    pub fn has_announced(&self) -> bool {
        self.announced.load(Relaxed)
    }

    /// The guest announces itself. True the first time.
    pub(crate) fn announce(&self) -> bool {
        !self.announced.swap(true, Relaxed)
    }

    /// Takes over what another switch has seen of the guest: this is its address, first and now.
    pub fn restore(&self, mac: MacAddr) {
        self.initial.store(mac.to_u64(), Relaxed);
        self.effective.store(mac.to_u64(), Relaxed);
        self.candidate.store(0, Relaxed);
    }

    /// The guest's effective address, if it has sent anything.
    pub fn effective(&self) -> Option<MacAddr> {
        match self.effective.load(Relaxed) & ADDRESS {
            0 => None,
            mac => Some(MacAddr::from_u64(mac)),
        }
    }
}

/// A port's policy, the configured address and what was seen, put together to be judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard<'a> {
    pub(crate) policy: SecurityPolicy,
    /// The configured address, as [`MacAddr::to_u64`]; 0 if there is none.
    pub(crate) mac: u64,
    pub(crate) state: &'a PortState,
}

impl Guard<'_> {
    /// Whether `source` is the port's configured address and its guest's effective one: it may enter, and says nothing new.
    #[inline]
    pub(crate) fn is_own(self, source: u64) -> bool {
        self.state.effective.load(Relaxed) == source && self.configured() == source
    }

    /// Whether the guest's effective address is the port's configured one, so that the port may be given frames.
    #[inline]
    pub(crate) fn is_steady(self) -> bool {
        self.state.effective.load(Relaxed) == self.configured()
    }

    /// Whether a frame from station `source`, as [`MacAddr::to_u64`], may enter the switch.
    #[inline(never)]
    pub(crate) fn admit(self, source: u64, mode: Mode) -> Result<(), DropReason> {
        let policy = self.policy;
        let effective = self.state.effective.load(Relaxed);
        if policy.forged_transmits && (policy.mac_changes || effective == 0) {
            return Ok(());
        }
        // A frame from the address that is effective is the usual case; if MAC changes are rejected, the effective
        // address must also be the configured one.
        if effective == source && (policy.mac_changes || self.configured() == source) {
            return Ok(());
        }
        self.admit_other(source, mode)
    }

    #[cold]
    #[inline(never)]
    fn admit_other(self, source: u64, mode: Mode) -> Result<(), DropReason> {
        let state = self.state;
        let live = mode == Mode::Live;
        let stored = state.effective.load(Relaxed);
        let configured = self.configured();
        if self.policy.forged_transmits {
            if source == configured && stored & ADDRESS != 0 && live {
                state.effective.store(configured, Relaxed);
            }
            return Ok(());
        }
        let effective = match stored & ADDRESS {
            0 => configured,
            effective => effective,
        };
        let unseen = configured == 0;
        if unseen || source == configured || (source == effective && self.policy.mac_changes) {
            if live {
                if unseen {
                    state.initial.store(source, Relaxed);
                }
                state.effective.store(source, Relaxed);
                state.candidate.store(0, Relaxed);
            }
            return Ok(());
        }
        if source == effective {
            // It ends a row of another address, and is none itself.
            if live {
                state.candidate.store(0, Relaxed);
                state.effective.store(effective, Relaxed);
            }
        } else {
            let candidate = state.candidate.load(Relaxed);
            let seen = if candidate & ADDRESS == source {
                (candidate >> SEEN_SHIFT) + 1
            } else {
                1
            };
            let changed = seen >= u64::from(CHANGE_AFTER);
            if live {
                if changed {
                    state.candidate.store(0, Relaxed);
                    state.effective.store(source, Relaxed);
                } else {
                    state.candidate.store(source | seen << SEEN_SHIFT, Relaxed);
                    state.effective.store(effective | PENDING, Relaxed);
                }
            }
            if changed && self.policy.mac_changes {
                return Ok(());
            }
        }
        Err(DropReason::ForgedTransmit)
    }

    /// Whether the port may be given frames: not when its guest took another address and must not.
    #[inline]
    pub(crate) fn receives(self) -> bool {
        if self.policy.mac_changes {
            return true;
        }
        let effective = self.state.effective.load(Relaxed) & ADDRESS;
        effective == 0 || effective == self.configured()
    }

    /// The guest's effective address, if it is known.
    #[inline]
    pub(crate) fn effective(self) -> Option<MacAddr> {
        let mac = (self.mac != 0).then(|| MacAddr::from_u64(self.mac));
        self.state.effective().or(mac)
    }

    /// The guest's address, if an unknown unicast frame to `destination` is of no use behind this port: the guest has
    /// another address and can have no further one.
    #[inline]
    pub(crate) fn other_station(self, destination: MacAddr) -> Option<MacAddr> {
        if self.policy.promiscuous || self.policy.forged_transmits {
            return None;
        }
        self.effective().filter(|effective| *effective != destination)
    }

    /// The configured address, or the first seen, as [`MacAddr::to_u64`]; 0 if neither.
    #[inline]
    fn configured(self) -> u64 {
        match self.mac {
            0 => self.state.initial.load(Relaxed),
            mac => mac,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const OTHER: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
    const THIRD: MacAddr = MacAddr([2, 0, 0, 0, 0, 3]);
    const REJECT: SecurityPolicy = SecurityPolicy {
        promiscuous: false,
        mac_changes: false,
        forged_transmits: false,
    };

    fn guard(state: &PortState, policy: SecurityPolicy) -> Guard<'_> {
        Guard {
            policy,
            mac: OWN.to_u64(),
            state,
        }
    }

    fn send(guard: Guard<'_>, sources: &[MacAddr]) -> Vec<bool> {
        sources
            .iter()
            .map(|source| guard.admit(source.to_u64(), Mode::Live).is_ok())
            .collect()
    }

    #[test]
    fn stray_frames_are_forged_and_no_change() {
        let state = PortState::default();
        let guard = guard(&state, REJECT);
        assert_eq!(
            send(guard, &[OTHER, OTHER, OWN, OTHER, OTHER, OWN]),
            [false, false, true, false, false, true]
        );
        assert_eq!(state.effective(), Some(OWN));
        assert_eq!(send(guard, &[OTHER, THIRD, OTHER, THIRD]), [false; 4]);
        assert!(guard.receives());
    }

    #[test]
    fn a_changed_guest_gets_nothing_until_it_reverts() {
        let state = PortState::default();
        let guard = guard(&state, REJECT);
        assert_eq!(send(guard, &[OTHER; 5]), [false; 5]);
        assert_eq!(guard.effective(), Some(OTHER));
        assert!(!guard.receives());
        assert_eq!(send(guard, &[OWN]), [true]);
        assert!(guard.receives());
        assert_eq!(guard.effective(), Some(OWN));
    }

    #[test]
    fn an_accepted_change_is_followed() {
        let state = PortState::default();
        let policy = SecurityPolicy {
            mac_changes: true,
            ..REJECT
        };
        let guard = guard(&state, policy);
        assert_eq!(
            send(guard, &[OTHER, OTHER, OTHER, OTHER]),
            [false, false, true, true]
        );
        assert!(guard.receives());
        assert_eq!(guard.other_station(OWN), Some(OTHER));
        assert_eq!(guard.other_station(OTHER), None);
    }

    #[test]
    fn accepted_forgeries_are_no_change() {
        let state = PortState::default();
        let policy = SecurityPolicy {
            forged_transmits: true,
            ..REJECT
        };
        let guard = guard(&state, policy);
        assert_eq!(send(guard, &[OTHER; 5]), [true; 5]);
        assert!(guard.receives());
        assert_eq!(guard.other_station(THIRD), None);
    }

    #[test]
    fn without_mac_the_first_seen_is_configured() {
        let state = PortState::default();
        let guard = Guard {
            policy: REJECT,
            mac: 0,
            state: &state,
        };
        assert_eq!(guard.effective(), None);
        assert!(guard.receives());
        assert_eq!(send(guard, &[OTHER, OWN, OTHER]), [true, false, true]);
        assert_eq!(guard.effective(), Some(OTHER));
    }

    #[test]
    fn a_dry_run_changes_nothing() {
        let state = PortState::default();
        let guard = guard(&state, REJECT);
        for source in [OWN, OTHER, OTHER, OTHER, OTHER] {
            let _ = guard.admit(source.to_u64(), Mode::Dry);
        }
        assert_eq!(state.effective(), None);
        assert_eq!(state.candidate.load(Relaxed), 0);
    }
}
