//! Open vSwitch as the partner on a VLAN trunk: another implementation of the same standard at the other end of a wire.

use std::path::Path;

use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::process::{Peer, run};
use vswitch_tests::wait::{BOUND, wait_until};

/// Open vSwitch with its userspace datapath, all of it in one namespace and one directory.
pub(crate) struct Ovs {
    directory: String,
    _server: Peer,
    _switch: Peer,
}

impl Ovs {
    pub(crate) fn start(lab: &Lab, namespace: &Namespace) -> Self {
        let directory = lab.path("ovs");
        std::fs::create_dir_all(&directory).expect("the lab's directory can be written to");
        let directory = directory.to_string_lossy().into_owned();
        let schema = "/usr/share/openvswitch/vswitch.ovsschema";
        assert!(
            Path::new(schema).exists(),
            "Open vSwitch is not installed: apt-get install openvswitch-switch"
        );
        run("ovsdb-tool", &["create", &format!("{directory}/conf.db"), schema]).ok();
        let environment = [
            "env",
            &format!("OVS_RUNDIR={directory}"),
            &format!("OVS_LOGDIR={directory}"),
        ]
        .map(String::from);
        let spawn = |log: &str, command: &[&str]| {
            let command: Vec<&str> = environment
                .iter()
                .map(String::as_str)
                .chain(command.iter().copied())
                .collect();
            namespace.spawn(log, &command)
        };
        let remote = format!("--remote=punix:{directory}/db.sock");
        let database = format!("{directory}/conf.db");
        let server = spawn("ovsdb-server", &["ovsdb-server", &remote, &database]);
        wait_until("ovsdb-server listens", BOUND, || {
            Path::new(&directory).join("db.sock").exists()
        });
        let switch = spawn(
            "ovs-vswitchd",
            &["ovs-vswitchd", &format!("unix:{directory}/db.sock")],
        );
        let ovs = Self {
            directory,
            _server: server,
            _switch: switch,
        };
        ovs.vsctl("--no-wait init");
        ovs
    }

    pub(crate) fn vsctl(&self, command: &str) {
        let database = format!("--db=unix:{}/db.sock", self.directory);
        let arguments: Vec<&str> = [database.as_str(), "--timeout=20"]
            .into_iter()
            .chain(command.split_whitespace())
            .collect();
        run("ovs-vsctl", &arguments).ok();
    }

    /// Asks the running switch.
    pub(crate) fn appctl(&self, command: &[&str]) -> String {
        let control = std::fs::read_dir(&self.directory)
            .expect("the directory is there")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with("ovs-vswitchd.") && name.ends_with(".ctl")
            })
            .expect("the switch runs");
        let target = control.display().to_string();
        run("ovs-appctl", &[&["-t", target.as_str()], command].concat()).ok()
    }
}

#[test]
fn a_trunk_to_open_vswitch_carries_tagged_and_native_vlans() {
    let lab = Lab::new();
    let (host, far) = (lab.host(), lab.namespace("ovs"));
    lab.veth((&host, "trunk0"), (&far, "trunk1"));
    let ovs = Ovs::start(&lab, &far);
    ovs.vsctl("add-br br0 -- set bridge br0 datapath_type=netdev");
    ovs.vsctl("add-port br0 trunk1 -- set port trunk1 vlan_mode=native-untagged tag=1 trunks=1,100,200,300");
    for vlan in [1, 100, 200, 300] {
        ovs.vsctl(&format!(
            "add-port br0 far{vlan} tag={vlan} -- set interface far{vlan} type=internal"
        ));
    }
    let vlans = [1u32, 100, 200, 300];
    let mut ports = String::new();
    for vlan in vlans {
        let station = lab.namespace(&format!("vlan{vlan}"));
        ports.push_str(&format!(
            "      vlan{vlan}: {{ port-group: stations, vlan: {vlan}, tap: eth0, netns: {} }}\n",
            station.name()
        ));
    }
    // VLAN 300 is allowed at the far end only.
    lab.start(&format!(
        "version: 1
switches:
  vs0:
    port-groups:
      stations: {{}}
      uplink:
        vlan: {{ trunk: [100, 200], native: 1 }}
        security: {{ forged-transmits: accept, mac-changes: accept }}
    ports:
      trunk: {{ port-group: uplink, device: trunk0 }}
{ports}"
    ));
    for (number, vlan) in vlans.into_iter().enumerate() {
        let station = lab.namespace(&format!("vlan{vlan}"));
        station.address("eth0", &format!("10.0.{number}.1/24"));
        station.address("eth0", &format!("fd00:{number}::1/64"));
        far.address(&format!("far{vlan}"), &format!("10.0.{number}.2/24"));
        far.address(&format!("far{vlan}"), &format!("fd00:{number}::2/64"));
    }
    lab.wait_all_up();
    for (number, vlan) in vlans.into_iter().enumerate() {
        let station = lab.namespace(&format!("vlan{vlan}"));
        if vlan == 300 {
            assert!(!station.pings("10.0.3.2", 2), "VLAN 300 is not in the trunk");
            continue;
        }
        wait_until(&format!("VLAN {vlan} reaches the other switch"), BOUND, || {
            station.pings(&format!("10.0.{number}.2"), 1)
        });
        assert!(station.pings(&format!("10.0.{number}.2"), 5));
        assert!(station.pings(&format!("fd00:{number}::2"), 5));
        assert!(far.pings(&format!("10.0.{number}.1"), 2));
        let row = far
            .link(&format!("far{vlan}"))
            .expect("the internal port is there");
        let mac = row["address"].as_str().expect("a link has an address");
        assert_eq!(
            lab.mac_port(mac, Some(u16::try_from(vlan).unwrap())).as_deref(),
            Some("trunk")
        );
    }
    // From the far side, VLAN 300 comes tagged and is dropped by name.
    let before = lab.stats();
    far.exec(&["ping", "-n", "-c", "1", "-W", "1", "10.0.3.1"]);
    lab.stats_until("a frame of VLAN 300 is dropped", &before, |since| {
        since.port("trunk").drops.contains_key("vlan-not-allowed")
    });
}
