//! From a configuration to a snapshot, and what survives the next one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use control::config::{Registry, ValidConfig, compile, text};
use control::teams::Teams;
use proptest::prelude::*;
use switch_core::addr::MacAddr;
use switch_core::fdb::{Kind, Learnt};
use switch_core::frame::FrameView;
use switch_core::id::PortId;
use switch_core::offload::Offload;
use switch_core::pipeline::{Mode, Silent, forward};
use switch_core::snapshot::{self, Snapshot};
use switch_core::time::Timestamp;
use switch_core::vid::{Tpid, Vid};
use switch_core::vlan::VlanPolicy;

const NOW: Timestamp = Timestamp::from_secs(10);
const AGEING: Duration = Duration::from_secs(300);

fn config(text: &str) -> ValidConfig {
    text::load(text).unwrap_or_else(|problems| panic!("{problems:#?}\n{text}"))
}

fn vid(vid: u16) -> Vid {
    Vid::new(vid).unwrap()
}

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

/// Compiles with all ports up.
fn up(config: &ValidConfig, generation: u64, registry: &mut Registry) -> Snapshot {
    compile(config, generation, registry, &|_| true, &Teams::default())
}

fn port<'a>(snapshot: &'a Snapshot, registry: &Registry, name: &str) -> &'a snapshot::Port {
    snapshot.port(registry.port_id(name).unwrap()).unwrap()
}

fn learn(registry: &Registry, switch: &str, vlan: u16, address: u8, port: &str) -> Learnt {
    let id = registry.port_id(port).unwrap();
    registry
        .fdb(switch)
        .unwrap()
        .learn(vid(vlan), mac(address), id, NOW, AGEING, None)
}

fn lookup(registry: &Registry, switch: &str, vlan: u16, address: u8) -> Option<PortId> {
    registry
        .fdb(switch)
        .unwrap()
        .lookup(vid(vlan), mac(address), NOW, AGEING)
}

/// Two switches, `vs0` with the ports a, b (VLAN 10) and c (VLAN 20).
const BASE: &str = "
version: 1
switches:
  vs0:
    mac-table: { size: 100, ageing: 60s }
    port-groups: { ten: { vlan: 10 }, twenty: { vlan: 20 } }
    ports:
      a: { port-group: ten, tap: a }
      b: { port-group: ten, tap: b }
      c: { port-group: twenty, tap: c }
  vs1:
    mtu: 9000
    port-groups: { lan: {} }
    ports:
      d: { port-group: lan, device: d }
";

#[test]
fn every_setting_reaches_the_snapshot() {
    let config = config(
        "
version: 1
switches:
  vs0:
    mtu: 9000
    mac-table: { size: 50, ageing: 2m }
    port-groups:
      web:
        vlan: 100
        security: { promiscuous: accept, mac-changes: accept }
        mac-limit: { count: 7, overflow: flood }
        isolated: true
      trunk: { vlan: { trunk: [5, 10-12], native: 1, ethertype: 802.1ad } }
      tunnel: { vlan: { dot1q-tunnel: 200 } }
      lan: {}
    ports:
      inherits: { port-group: web, tap: t0, mac: 02:00:00:00:00:01 }
      overrides:
        port-group: web
        device: t1
        vlan: none
        security: { mac-changes: reject, forged-transmits: accept }
        mac-limit: { count: 3 }
        isolated: false
        enabled: false
      trunk: { port-group: trunk, tap: t2 }
      tunnel: { port-group: tunnel, tap: t3 }
      all: { port-group: lan, tap: t4, vlan: { trunk: [] } }
      plain: { port-group: lan, tap: t5 }
",
    );
    let mut registry = Registry::new(1);
    let snapshot = compile(
        &config,
        7,
        &mut registry,
        &|name| name != "plain",
        &Teams::default(),
    );
    assert_eq!(snapshot.generation(), 7);
    let switch = &snapshot.switches()[0];
    assert_eq!(
        (switch.mtu, switch.ageing, switch.fdb.capacity()),
        (9000, Duration::from_secs(120), 50)
    );

    let inherits = port(&snapshot, &registry, "inherits");
    assert_eq!(inherits.vlan, VlanPolicy::Access(vid(100)));
    assert!(
        inherits.security.promiscuous && inherits.security.mac_changes && !inherits.security.forged_transmits
    );
    assert_eq!(
        inherits.mac_limit,
        Some(snapshot::MacLimit {
            count: 7,
            overflow: snapshot::Overflow::Flood
        })
    );
    assert!(inherits.isolated && inherits.enabled && inherits.up);
    assert_eq!(inherits.mac, Some(mac(1)));

    let overrides = port(&snapshot, &registry, "overrides");
    assert_eq!(overrides.vlan, VlanPolicy::Unaware);
    assert!(
        overrides.security.promiscuous
            && !overrides.security.mac_changes
            && overrides.security.forged_transmits
    );
    assert_eq!(
        overrides.mac_limit,
        Some(snapshot::MacLimit {
            count: 3,
            overflow: snapshot::Overflow::Flood
        })
    );
    assert!(!overrides.isolated && !overrides.enabled);
    assert_eq!(overrides.mac, None);

    let expected = VlanPolicy::Trunk {
        vlans: [5, 10, 11, 12].into_iter().map(vid).collect(),
        native: Some(vid(1)),
        tpid: Tpid::Dot1Ad,
    };
    assert_eq!(port(&snapshot, &registry, "trunk").vlan, expected);
    assert_eq!(
        port(&snapshot, &registry, "tunnel").vlan,
        VlanPolicy::Tunnel(vid(200))
    );
    let all = &port(&snapshot, &registry, "all").vlan;
    assert!(all.carries(vid(1)) && all.carries(vid(4094)) && !all.carries(Vid::UNAWARE));

    let plain = port(&snapshot, &registry, "plain");
    assert_eq!(plain.vlan, VlanPolicy::Unaware);
    assert_eq!(plain.security, switch_core::security::SecurityPolicy::default());
    assert_eq!(plain.mac_limit, None);
    assert!(!plain.up && plain.enabled && !plain.isolated);
}

#[test]
fn numbers_states_and_tables_survive_a_change() {
    let mut registry = Registry::new(1);
    let before = up(&config(BASE), 1, &mut registry);
    learn(&registry, "vs0", 10, 1, "a");
    let ids: Vec<PortId> = ["a", "b", "c", "d"]
        .map(|name| registry.port_id(name).unwrap())
        .into();
    // Another order, another MTU, another port in front.
    let after = up(
        &config(
            "
version: 1
switches:
  vs1: { port-groups: { lan: {} }, ports: { e: { port-group: lan, tap: e }, d: { port-group: lan, device: d } } }
  vs0:
    mtu: 2000
    mac-table: { size: 100 }
    port-groups: { twenty: { vlan: 20 }, ten: { vlan: 10, isolated: true } }
    ports:
      c: { port-group: twenty, tap: c }
      b: { port-group: ten, tap: b }
      a: { port-group: ten, tap: a }
",
        ),
        2,
        &mut registry,
    );
    for (name, id) in ["a", "b", "c", "d"].into_iter().zip(ids) {
        assert_eq!(registry.port_id(name), Some(id));
        assert_eq!(registry.port_name(id).unwrap(), name);
        assert!(
            Arc::ptr_eq(&before.port(id).unwrap().state, &after.port(id).unwrap().state),
            "{name}"
        );
        assert!(Arc::ptr_eq(
            registry.state(name).unwrap(),
            &after.port(id).unwrap().state
        ));
    }
    assert_eq!(registry.switch_of("d").unwrap(), "vs1");
    assert!(Arc::ptr_eq(&before.switches()[0].fdb, &after.switches()[1].fdb));
    assert!(Arc::ptr_eq(
        registry.fdb("vs0").unwrap(),
        &after.switches()[1].fdb
    ));
    assert_eq!(port(&after, &registry, "a").switch.index(), 1);
    assert_eq!(lookup(&registry, "vs0", 10, 1), registry.port_id("a"));
    assert_eq!(registry.settle(), []);
    assert_eq!(lookup(&registry, "vs0", 10, 1), registry.port_id("a"));
}

/// Whether what `a` had learnt is still there after the change, and whether it is still the same guest to the switch.
fn change(from: &str, to: &str) -> (bool, bool) {
    let mut registry = Registry::new(1);
    let before = up(&config(BASE), 1, &mut registry);
    learn(&registry, "vs0", 10, 1, "a");
    learn(&registry, "vs0", 10, 2, "b");
    assert!(BASE.contains(from));
    let after = up(&config(&BASE.replace(from, to)), 2, &mut registry);
    assert_eq!(
        lookup(&registry, "vs0", 10, 2),
        registry.port_id("b"),
        "another port's entry is gone"
    );
    let kept = lookup(&registry, "vs0", 10, 1).is_some();
    // As a worker that still has the snapshot before may do.
    learn(&registry, "vs0", 10, 1, "a");
    registry.settle();
    assert_eq!(
        lookup(&registry, "vs0", 10, 1).is_some(),
        kept,
        "learnt meanwhile"
    );
    let same = Arc::ptr_eq(
        &port(&before, &registry, "a").state,
        &port(&after, &registry, "a").state,
    );
    (kept, same)
}

#[test]
fn what_a_port_had_learnt_lasts_as_long_as_it_is_right() {
    let a = "a: { port-group: ten, tap: a }";
    assert_eq!(change(a, "a: { port-group: ten, tap: a }"), (true, true));
    assert_eq!(
        change(
            a,
            "a: { port-group: ten, tap: a, isolated: true, security: { promiscuous: accept } }"
        ),
        (true, true)
    );
    assert_eq!(change(a, "a: { port-group: twenty, tap: a }"), (false, true));
    assert_eq!(
        change(a, "a: { port-group: ten, tap: a, vlan: 30 }"),
        (false, true)
    );
    assert_eq!(
        change(a, "a: { port-group: ten, tap: a, enabled: false }"),
        (false, true)
    );
    assert_eq!(
        change(a, "a: { port-group: ten, tap: a, mac: 02:00:00:00:00:09 }"),
        (true, false)
    );
    assert_eq!(change(a, "a: { port-group: ten, tap: other }"), (false, false));
    assert_eq!(change(a, "a: { port-group: ten, device: a }"), (false, false));
}

#[test]
fn a_port_that_goes_down_is_flushed() {
    let mut registry = Registry::new(1);
    let config = config(BASE);
    up(&config, 1, &mut registry);
    learn(&registry, "vs0", 10, 1, "a");
    learn(&registry, "vs0", 10, 2, "b");
    let snapshot = compile(&config, 2, &mut registry, &|name| name != "a", &Teams::default());
    assert!(!port(&snapshot, &registry, "a").up);
    assert_eq!(lookup(&registry, "vs0", 10, 1), None);
    assert!(lookup(&registry, "vs0", 10, 2).is_some());
    // It stays down: nothing is flushed again.
    learn(&registry, "vs0", 10, 1, "a");
    registry.settle();
    learn(&registry, "vs0", 10, 1, "a");
    compile(&config, 3, &mut registry, &|name| name != "a", &Teams::default());
    assert!(lookup(&registry, "vs0", 10, 1).is_some());
}

#[test]
fn a_port_that_moves_to_another_switch_leaves_nothing_behind() {
    let mut registry = Registry::new(1);
    up(&config(BASE), 1, &mut registry);
    let id = registry.port_id("a");
    learn(&registry, "vs0", 10, 1, "a");
    let text = BASE
        .replace("      a: { port-group: ten, tap: a }\n", "")
        .replace("      d: {", "      a: { port-group: lan, tap: a }\n      d: {");
    let snapshot = up(&config(&text), 2, &mut registry);
    assert_eq!(registry.port_id("a"), id);
    assert_eq!(registry.switch_of("a").unwrap(), "vs1");
    assert_eq!(port(&snapshot, &registry, "a").switch.index(), 1);
    assert_eq!(lookup(&registry, "vs0", 10, 1), None);
}

#[test]
fn a_number_is_used_again_only_after_its_release() {
    let mut registry = Registry::new(1);
    let ports = |names: &[String]| {
        let rows: String = names
            .iter()
            .map(|name| format!("      {name}: {{ port-group: lan, tap: {name} }}\n"))
            .collect();
        config(&format!(
            "version: 1\nswitches:\n  vs0:\n    port-groups: {{ lan: {{}} }}\n    ports:\n{rows}"
        ))
    };
    let names: Vec<String> = (0..100).map(|i| format!("p{i}")).collect();
    up(&ports(&names), 1, &mut registry);
    let gone = registry.port_id("p50").unwrap();
    learn(&registry, "vs0", 0, 1, "p50");
    let mut names = names;
    names.remove(50);
    names.push("new".to_owned());
    up(&ports(&names), 2, &mut registry);
    assert_ne!(registry.port_id("new"), Some(gone));
    assert_eq!(registry.port_id("p50"), None);
    assert_eq!(registry.port_name(gone).unwrap(), "p50");
    assert_eq!(lookup(&registry, "vs0", 0, 1), None);

    // A release before its time is none.
    registry.release(gone);
    names.push("newer".to_owned());
    up(&ports(&names), 3, &mut registry);
    assert_ne!(registry.port_id("newer"), Some(gone));
    // What a worker learns by the snapshot before goes with the port.
    registry
        .fdb("vs0")
        .unwrap()
        .learn(vid(0), mac(1), gone, NOW, AGEING, None);
    assert_eq!(registry.settle(), [gone]);
    assert_eq!(registry.settle(), []);
    assert_eq!(lookup(&registry, "vs0", 0, 1), None);
    names.push("newest".to_owned());
    up(&ports(&names), 4, &mut registry);
    assert_ne!(registry.port_id("newest"), Some(gone));

    registry.release(gone);
    assert_eq!(registry.port_name(gone), None);
    registry.release(gone);
    names.push("last".to_owned());
    names.push("after".to_owned());
    up(&ports(&names), 5, &mut registry);
    assert_eq!(registry.port_id("last"), Some(gone));
    assert_ne!(registry.port_id("after"), Some(gone));
}

#[test]
fn all_ports_can_be_replaced_at_once() {
    let mut registry = Registry::new(1);
    let ports = |prefix: &str, count: usize| {
        let rows: String = (0..count)
            .map(|i| format!("      {prefix}{i}: {{ port-group: lan, tap: {prefix}{i} }}\n"))
            .collect();
        config(&format!(
            "version: 1\nswitches:\n  vs0:\n    port-groups: {{ lan: {{}} }}\n    ports:\n{rows}"
        ))
    };
    for (generation, prefix) in (1..).zip(["a", "b", "c", "d"]) {
        let snapshot = up(&ports(prefix, 300), generation, &mut registry);
        assert_eq!(snapshot.ports().count(), 300);
        let ids: HashSet<PortId> = snapshot.ports().map(|port| port.id).collect();
        assert_eq!(ids.len(), 300);
        assert!(ids.iter().all(|id| id.index() < 600), "numbers are used again");
        for id in registry.settle() {
            assert!(!ids.contains(&id));
            registry.release(id);
        }
    }
}

#[test]
fn a_table_of_another_size_keeps_its_entries() {
    let mut registry = Registry::new(1);
    up(&config(BASE), 1, &mut registry);
    learn(&registry, "vs0", 10, 1, "a");
    let snapshot = up(&config(&BASE.replace("size: 100", "size: 200")), 2, &mut registry);
    assert_eq!(snapshot.switches()[0].fdb.capacity(), 200);
    assert_eq!(registry.fdb("vs0").unwrap().capacity(), 200);
    assert_eq!(lookup(&registry, "vs0", 10, 1), registry.port_id("a"));
}

#[test]
fn a_switch_that_comes_back_begins_anew() {
    let mut registry = Registry::new(1);
    up(&config(BASE), 1, &mut registry);
    learn(&registry, "vs0", 10, 1, "a");
    up(&config("version: 1"), 2, &mut registry);
    assert!(registry.fdb("vs0").is_none());
    assert_eq!(registry.settle().len(), 4);
    up(&config(BASE), 3, &mut registry);
    assert_eq!(lookup(&registry, "vs0", 10, 1), None);
}

/// The static entries of `vs0`, by VLAN, last octet and name of the port.
fn statics(registry: &Registry) -> Vec<(u16, u8, String)> {
    registry
        .fdb("vs0")
        .unwrap()
        .entries(NOW, AGEING)
        .into_iter()
        .filter(|entry| entry.kind == Kind::Static)
        .map(|entry| {
            assert!(registry.is_static("vs0", entry.vid, entry.mac));
            (
                entry.vid.get(),
                entry.mac.0[5],
                registry.port_name(entry.port).unwrap().to_string(),
            )
        })
        .collect()
}

#[test]
fn static_entries_are_those_of_the_configuration() {
    let with = |a: &str, b: &str| {
        config(
            &BASE
                .replace("tap: a }", &format!("tap: a, static-macs: [{a}] }}"))
                .replace("tap: b }", &format!("tap: b, static-macs: [{b}] }}")),
        )
    };
    let one = "{ mac: 02:00:00:00:00:01 }";
    let two = "{ mac: 02:00:00:00:00:02, vlan: 10 }";
    let mut registry = Registry::new(1);
    up(&with(one, two), 1, &mut registry);
    assert_eq!(
        statics(&registry),
        [(10, 1, "a".to_owned()), (10, 2, "b".to_owned())]
    );
    assert!(matches!(
        learn(&registry, "vs0", 10, 1, "b"),
        Learnt::StaticElsewhere { .. }
    ));
    // They change places.
    up(&with(two, one), 2, &mut registry);
    assert_eq!(
        statics(&registry),
        [(10, 1, "b".to_owned()), (10, 2, "a".to_owned())]
    );
    // One goes, and may be learnt again.
    up(&with("", one), 3, &mut registry);
    assert_eq!(statics(&registry), [(10, 1, "b".to_owned())]);
    assert_eq!(learn(&registry, "vs0", 10, 2, "a"), Learnt::New);
    // A learnt entry becomes static where it was or elsewhere, and a flush does not take it.
    up(&with("", two), 4, &mut registry);
    registry.settle();
    assert_eq!(statics(&registry), [(10, 2, "b".to_owned())]);
    // The table changes size.
    let text = with("", two).config().to_yaml().replace("size: 100", "size: 10");
    up(&config(&text), 5, &mut registry);
    assert_eq!(statics(&registry), [(10, 2, "b".to_owned())]);
    // The port changes its VLAN: the entry without one of its own goes with it.
    up(&with(one, ""), 6, &mut registry);
    let text = with(one, "").config().to_yaml().replace("vlan: 10", "vlan: 11");
    up(&config(&text), 7, &mut registry);
    assert_eq!(statics(&registry), [(11, 1, "a".to_owned())]);
    // The port goes.
    up(
        &config(&BASE.replace("      a: { port-group: ten, tap: a }\n", "")),
        8,
        &mut registry,
    );
    assert_eq!(statics(&registry), []);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever comes and goes: live ports have numbers of their own, names and numbers agree, and no table knows a port that went.
    #[test]
    fn any_sequence_of_changes_keeps_names_and_numbers_together(
        rounds in proptest::collection::vec((proptest::collection::btree_map(0..12u8, (0..2u8, 0..3u8), 0..12), any::<bool>()), 1..12),
    ) {
        let mut registry = Registry::new(3);
        for (generation, (ports, release)) in (1..).zip(rounds) {
            let of = |switch: u8| -> String {
                ports
                    .iter()
                    .filter(|(_, (of, _))| *of == switch)
                    .map(|(name, (_, group))| format!("      p{name}: {{ port-group: g{group}, tap: t{name} }}\n"))
                    .collect()
            };
            let groups = "    mac-table: { size: 64 }\n    port-groups: { g0: {}, g1: { vlan: 1 }, g2: { vlan: 2 } }\n    ports:\n";
            let text = format!("version: 1\nswitches:\n  vs0:\n{groups}{}  vs1:\n{groups}{}", of(0), of(1));
            let snapshot = up(&config(&text), generation, &mut registry);
            prop_assert_eq!(snapshot.ports().count(), ports.len());
            for (name, (switch, group)) in &ports {
                let name = format!("p{name}");
                let id = registry.port_id(&name).unwrap();
                prop_assert_eq!(registry.port_name(id).unwrap(), name.as_str());
                prop_assert_eq!(snapshot.port(id).unwrap().switch.index(), usize::from(*switch));
                learn(&registry, &format!("vs{switch}"), u16::from(*group), id.get() as u8, &name);
            }
            let gone = registry.settle();
            for id in &gone {
                prop_assert!(snapshot.port(*id).is_none());
                if release {
                    registry.release(*id);
                }
            }
            for switch in ["vs0", "vs1"] {
                for entry in registry.fdb(switch).unwrap().entries(NOW, AGEING) {
                    prop_assert!(snapshot.port(entry.port).is_some());
                    let name = registry.port_name(entry.port).unwrap().as_str();
                    prop_assert_eq!(registry.switch_of(name).unwrap(), switch);
                }
            }
        }
    }
}

#[test]
fn a_port_waits_for_its_guest_until_it_is_activated_and_again_behind_another_device() {
    let text = |tap: &str, activation: &str| {
        config(&format!(
            "version: 1
switches:
  vs0:
    port-groups: {{ lan: {{ activation: announce }} }}
    ports:
      a: {{ port-group: lan, tap: {tap}, {activation} }}
      b: {{ port-group: lan, tap: b, activation: now }}
"
        ))
    };
    let mut registry = Registry::new(1);
    let state = |config: &ValidConfig, registry: &mut Registry| {
        let snapshot = compile(config, 1, registry, &|_| true, &Teams::default());
        let port = snapshot.port(registry.port_id("a").unwrap()).unwrap();
        assert_ne!(port.up, port.dormant);
        assert!(snapshot.port(registry.port_id("b").unwrap()).unwrap().up);
        port.dormant
    };
    let first = text("a", "");
    assert!(state(&first, &mut registry));
    let announce = |registry: &mut Registry| {
        // As a worker says it.
        let snapshot = compile(&first, 1, registry, &|_| true, &Teams::default());
        let id = registry.port_id("a").unwrap();
        let frame = switch_core::announce::rarp(mac(1), Vid::UNAWARE);
        let view = FrameView {
            port: id,
            header: &frame,
            len: frame.len(),
            offload: Offload::default(),
        };
        forward(&snapshot, NOW, &view, Mode::Live, &mut Vec::new(), &mut Silent).unwrap();
    };
    announce(&mut registry);
    assert!(!state(&first, &mut registry));
    // Who waits anew, waits for a new announcement.
    assert!(!state(&text("a", "activation: now"), &mut registry));
    assert!(state(&first, &mut registry));
    announce(&mut registry);
    assert!(!state(&first, &mut registry));
    // Over a restart.
    let mut next = Registry::new(1);
    next.remember_activated(registry.activated().iter().map(String::as_str));
    assert!(!state(&first, &mut next));
    assert!(state(&text("other", ""), &mut next));
    assert!(!state(&text("other", "activation: now"), &mut next));
    assert!(state(&text("other", ""), &mut next));
}
