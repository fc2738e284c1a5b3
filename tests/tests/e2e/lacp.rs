//! LACP against another implementation: a bond of Open vSwitch.

use serde_json::{Value, json};
use vswitch_tests::frame::mac;
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::wait::{BOUND, wait_until};

use super::ovs::Ovs;

struct World {
    lab: Lab,
    ovs: Ovs,
    far: Namespace,
    vm: Namespace,
}

impl World {
    /// Three links to a bond of Open vSwitch with these settings, and a team with these keys.
    fn new(bond: &str, lacp: &str) -> Self {
        let lab = Lab::new();
        let far = lab.namespace("ovs");
        // Its stack sees the links too, and is not to answer there in the bridge's name.
        far.sysctl("net.ipv4.conf.all.arp_ignore", "1");
        for n in 1..=3 {
            lab.veth((&lab.host(), &format!("eth{n}")), (&far, &format!("o{n}")));
        }
        let ovs = Ovs::start(&lab, &far);
        ovs.vsctl("add-br br0 -- set bridge br0 datapath_type=netdev");
        ovs.vsctl(&format!("add-bond br0 bond0 o1 o2 o3 {bond}"));
        far.address("br0", "10.0.0.1/24");
        let vm = lab.namespace("vm");
        lab.start(&format!(
            "version: 1
workers: {{ count: 1 }}
switches:
  vs0:
    uplinks: {{ up1: {{ device: eth1 }}, up2: {{ device: eth2 }}, up3: {{ device: eth3 }} }}
    teaming: {{ balance: lacp, lacp: {{ {lacp} }} }}
    port-groups: {{ web: {{}} }}
    ports:
      vm: {{ port-group: web, tap: eth0, netns: {}, mac: \"{}\" }}
",
            vm.name(),
            mac(1)
        ));
        lab.wait_all_up();
        vm.ok(&["ip", "link", "set", "eth0", "address", &mac(1).to_string()]);
        vm.address("eth0", "10.0.0.2/24");
        Self { lab, ovs, far, vm }
    }

    fn team(&self) -> Value {
        self.lab.json(&["team", "show", "web"])
    }

    /// Waits until these uplinks are in use.
    fn wait_active(&self, wanted: &[&str]) {
        wait_until(&format!("{wanted:?} are in use"), 2 * BOUND, || {
            self.team()["active"] == json!(wanted)
        });
    }

    fn talks(&self) {
        wait_until("the VM reaches the far side", BOUND, || {
            self.vm.pings("10.0.0.1", 3)
        });
    }
}

#[test]
fn a_bond_of_open_vswitch_is_agreed_on_and_links_that_fail_are_left() {
    let world = World::new(
        "bond_mode=balance-tcp lacp=active other_config:lacp-time=fast",
        "rate: fast",
    );
    world.wait_active(&["up1", "up2", "up3"]);
    let team = world.team();
    let partner = team["partner"].as_str().expect("it has spoken").to_owned();
    let lacp = world.ovs.appctl(&["lacp/show", "bond0"]);
    let system = partner.split(' ').next().unwrap_or_default();
    assert!(lacp.contains(system), "{partner}:\n{lacp}");
    // Its side has the same opinion.
    assert_eq!(lacp.matches("current attached").count(), 3, "{lacp}");
    assert_eq!(
        lacp.matches("activity timeout aggregation synchronized collecting distributing")
            .count(),
        6,
        "{lacp}"
    );
    world.talks();
    println!("{}", world.lab.ctl(&["team", "show", "web"]));
    println!("{}", world.lab.ctl(&["uplink", "show", "up2"]));
    // Nothing of it is forwarded, and it is no drop that means something.
    let drops = world.lab.stats().drops();
    assert!(
        drops.contains_key("for-switch") && !drops.contains_key("reserved-address"),
        "{drops:?}"
    );

    world.far.sh("ip link set o1 down");
    world.wait_active(&["up2", "up3"]);
    world.talks();
    world.far.sh("ip link set o1 up");
    world.wait_active(&["up1", "up2", "up3"]);

    // Its link is healthy, but it is no part of the bond any more.
    world.ovs.vsctl("del-bond-iface bond0 o2");
    world.wait_active(&["up1", "up3"]);
    world.talks();
    let events = world.lab.ctl(&["events"]);
    assert!(
        events.contains("team-changed") && events.contains("up2: "),
        "{events}"
    );
}

#[test]
fn who_only_answers_agrees_too() {
    let world = World::new("bond_mode=balance-tcp lacp=active", "mode: passive");
    world.wait_active(&["up1", "up2", "up3"]);
    world.talks();
}

#[test]
fn without_lacp_at_the_other_end_one_uplink_is_used_if_that_is_wanted() {
    let world = World::new("bond_mode=active-backup lacp=off", "rate: fast, fallback: true");
    world.wait_active(&["up1"]);
    let detail = world.lab.json(&["uplink", "show", "up2"]);
    assert!(
        detail["lacp"]
            .as_str()
            .is_some_and(|lacp| lacp.contains("nobody speaks LACP")),
        "{detail}"
    );
    let world = World::new("bond_mode=active-backup lacp=off", "rate: fast");
    wait_until("it knows that nobody speaks", BOUND, || {
        let detail = world.lab.json(&["uplink", "show", "up1"]);
        detail["lacp"]
            .as_str()
            .is_some_and(|lacp| lacp.contains("nobody speaks LACP"))
    });
    assert_eq!(world.team()["active"], json!([]));
}
