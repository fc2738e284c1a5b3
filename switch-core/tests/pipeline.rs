//! Rules of a frame's way that span more than one kind of port or address.

mod common;

use common::{Bench, frame, mac, port, tagged, trunk, vid};
use switch_core::addr::MacAddr;
use switch_core::verdict::DropReason;
use switch_core::vid::Tpid;
use switch_core::vlan::VlanPolicy;

#[test]
fn a_source_is_any_individual_address_but_zero() {
    let mut bench = Bench::new(vec![port(1), port(2)]);
    let mut sent = |source| bench.ports(1, &frame(MacAddr::BROADCAST, MacAddr(source)));
    for first in (2..=0xfe).step_by(2) {
        assert_eq!(sent([first, 0, 0, 0, 0, 0]), Ok(vec![2]), "{first:#x}");
        assert_eq!(
            sent([first, 0xff, 0xff, 0xff, 0xff, 0xff]),
            Ok(vec![2]),
            "{first:#x}"
        );
        assert_eq!(sent([first | 1, 0, 0, 0, 0, 1]), Err(DropReason::BadSource));
    }
    assert_eq!(sent([0, 0, 0, 0, 0, 1]), Ok(vec![2]));
    assert_eq!(sent([0; 6]), Err(DropReason::BadSource));
    assert_eq!(sent([0xff; 6]), Err(DropReason::BadSource));
}

/// Port 1 sends, 2 is an access port of VLAN 5, 3 a trunk with native VLAN 5, 4 one that tags VLAN 5, 5 a tunnel through
/// it, 6 a trunk of service tags with native VLAN 5.
fn around_vlan_5(from: VlanPolicy) -> Bench {
    let service = VlanPolicy::Trunk {
        vlans: [vid(7)].into_iter().collect(),
        native: Some(vid(5)),
        tpid: Tpid::Dot1Ad,
    };
    let policies = [
        from,
        VlanPolicy::Access(vid(5)),
        trunk(&[7], Some(5)),
        trunk(&[5, 7], None),
        VlanPolicy::Tunnel(vid(5)),
        service,
    ];
    let ports = (1..).zip(policies).map(|(number, vlan)| {
        let mut port = port(number);
        port.vlan = vlan;
        port
    });
    Bench::new(ports.collect())
}

/// No guest reaches another VLAN by a tag that stands in the second place until the first is taken off.
#[test]
fn a_nested_tag_never_becomes_the_frames_own() {
    let plain = frame(MacAddr::BROADCAST, mac(1));
    let customer = tagged(&plain, 0x8100, 7);
    let service = tagged(&plain, 0x88a8, 7);
    for (from, outer) in [
        (VlanPolicy::Access(vid(5)), 0),
        (trunk(&[5], None), 5),
        (trunk(&[9], Some(5)), 0),
    ] {
        let mut bench = around_vlan_5(from.clone());
        let mut reached = |frame: &[u8]| bench.ports(1, &tagged(frame, 0x8100, outer));
        assert_eq!(reached(&plain), Ok(vec![2, 3, 4, 5, 6]), "{from:?}");
        assert_eq!(reached(&customer), Ok(vec![4, 5, 6]), "{from:?}");
        assert_eq!(reached(&customer[..14]), Ok(vec![4, 5, 6]), "{from:?}, cut short");
        assert_eq!(reached(&service), Ok(vec![2, 3, 4, 5]), "{from:?}");
    }
    let mut bench = around_vlan_5(VlanPolicy::Access(vid(5)));
    assert_eq!(
        bench.ports(1, &service),
        Ok(vec![2, 3, 4, 5]),
        "payload that was never under a tag"
    );
    let mut bench = around_vlan_5(VlanPolicy::Tunnel(vid(5)));
    assert_eq!(bench.ports(1, &customer), Ok(vec![4, 5, 6]));
    assert_eq!(bench.ports(1, &service), Ok(vec![2, 3, 4, 5]));
}
