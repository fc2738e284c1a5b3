//! What the tests of the core share: frames, ports in short form, and the slow twins.

#![allow(dead_code)] // each test binary uses its part

pub mod random;
pub mod twin;

use std::sync::Arc;
use std::time::Duration;

use switch_core::addr::MacAddr;
use switch_core::fdb::Fdb;
use switch_core::frame::{FrameView, Hop};
use switch_core::id::{PortId, SwitchId};
use switch_core::offload::Offload;
use switch_core::pipeline::{Mode, Silent, forward};
use switch_core::security::{PortState, SecurityPolicy};
use switch_core::snapshot::{Port, Snapshot, Switch};
use switch_core::time::Timestamp;
use switch_core::verdict::DropReason;
use switch_core::vid::{Tpid, Vid};
use switch_core::vlan::VlanPolicy;

pub const AGEING: Duration = Duration::from_secs(300);

/// Everything accepted: a port to which the security policy never matters.
pub const ACCEPT: SecurityPolicy = SecurityPolicy {
    promiscuous: false,
    mac_changes: true,
    forged_transmits: true,
};

pub const REJECT: SecurityPolicy = SecurityPolicy {
    promiscuous: false,
    mac_changes: false,
    forged_transmits: false,
};

pub fn vid(vid: u16) -> Vid {
    Vid::new(vid).unwrap()
}

pub fn id(port: u16) -> PortId {
    PortId::new(port).unwrap()
}

/// The station address with this number.
pub fn mac(n: u64) -> MacAddr {
    MacAddr::from_u64(0x0200_0000_0000 | n)
}

pub fn port(number: u16) -> Port {
    Port {
        id: id(number),
        switch: SwitchId(0),
        enabled: true,
        up: true,
        vlan: VlanPolicy::Unaware,
        security: ACCEPT,
        mac: None,
        isolated: false,
        mac_limit: None,
        dormant: false,
        role: switch_core::team::Role::default(),
        state: Arc::new(PortState::default()),
    }
}

pub fn trunk(vids: &[u16], native: Option<u16>) -> VlanPolicy {
    VlanPolicy::Trunk {
        vlans: vids.iter().map(|v| vid(*v)).collect(),
        native: native.map(vid),
        tpid: Tpid::Dot1Q,
    }
}

pub fn switch() -> Switch {
    Switch {
        mtu: 1500,
        ageing: AGEING,
        fdb: Arc::new(Fdb::new(1024, 7)),
    }
}

/// An untagged frame of 60 octets.
pub fn frame(destination: MacAddr, source: MacAddr) -> Vec<u8> {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&source.0);
    frame[12..14].copy_from_slice(&0x0800_u16.to_be_bytes());
    frame
}

/// The frame with one more outer tag.
pub fn tagged(frame: &[u8], tpid: u16, tci: u16) -> Vec<u8> {
    let mut with = frame[..12].to_vec();
    with.extend(tpid.to_be_bytes());
    with.extend(tci.to_be_bytes());
    with.extend(&frame[12..]);
    with
}

/// A switch under test.
pub struct Bench {
    pub snapshot: Snapshot,
    pub now: Timestamp,
    pub hops: Vec<Hop>,
}

impl Bench {
    pub fn new(ports: Vec<Port>) -> Self {
        Self::of(vec![switch()], ports)
    }

    pub fn of(switches: Vec<Switch>, ports: Vec<Port>) -> Self {
        Self {
            snapshot: Snapshot::new(1, switches, ports),
            now: Timestamp::from_secs(1),
            hops: Vec::new(),
        }
    }

    /// Sends a frame from a port; says where it goes.
    pub fn send(&mut self, from: u16, frame: &[u8]) -> Result<Vec<Hop>, DropReason> {
        self.send_as(from, frame, Offload::default())
    }

    pub fn send_as(&mut self, from: u16, frame: &[u8], offload: Offload) -> Result<Vec<Hop>, DropReason> {
        self.run_as(from, frame, offload)?;
        Ok(self.hops.clone())
    }

    /// Sends a frame and leaves the hops in place.
    pub fn run(&mut self, from: u16, frame: &[u8]) -> Result<(), DropReason> {
        self.run_as(from, frame, Offload::default())
    }

    fn run_as(&mut self, from: u16, frame: &[u8], offload: Offload) -> Result<(), DropReason> {
        let view = FrameView {
            port: id(from),
            header: &frame[..frame.len().min(FrameView::HEADER_LEN)],
            len: frame.len(),
            offload,
        };
        forward(
            &self.snapshot,
            self.now,
            &view,
            Mode::Live,
            &mut self.hops,
            &mut Silent,
        )
    }

    /// Sends a frame; says by which ports it leaves.
    pub fn ports(&mut self, from: u16, frame: &[u8]) -> Result<Vec<u16>, DropReason> {
        Ok(self.send(from, frame)?.iter().map(|hop| hop.port.get()).collect())
    }
}
