//! Reading the configuration file: wrong ones, with every error where it stands, and right ones.

use std::path::Path;

use control::api::model::Problem;
use control::config::text;
use control::config::validate::WorkerPlan;
use proptest::prelude::*;

fn load_err(text: &str) -> Vec<Problem> {
    text::load(text).expect_err(text)
}

/// `line:column path: message | help` of each problem.
fn lines(problems: &[Problem]) -> Vec<String> {
    problems
        .iter()
        .map(|problem| {
            let help = problem
                .help
                .as_ref()
                .map(|help| format!(" | {help}"))
                .unwrap_or_default();
            format!(
                "{}:{} {}: {}{help}",
                problem.line, problem.column, problem.path, problem.message
            )
        })
        .collect()
}

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let found = lines(&load_err(text));
    assert_eq!(found, expected, "\n{text}\nfound:\n{}", found.join("\n"));
}

/// A switch `vs0` with the groups web (VLAN 100), lab and lan, and what is given of its ports, one a line from line 9.
fn ports(rows: &[&str]) -> String {
    let rows: String = rows.iter().map(|row| format!("      {row}\n")).collect();
    format!(
        "version: 1
switches:
  vs0:
    port-groups:
      web: {{ vlan: 100 }}
      lab: {{ vlan: {{ trunk: [10-20] }} }}
      lan: {{}}
    ports:
{rows}"
    )
}

#[test]
fn what_is_no_document_is_said_in_one_error() {
    check("", &["1:1 : `version` is missing | write `version: 1`"]);
    check(
        "# only a comment\n",
        &["1:1 : `version` is missing | write `version: 1`"],
    );
    check(
        "[]",
        &["1:1 : expected a map with the keys of a configuration, found a list"],
    );
    check(
        "hello",
        &["1:1 : expected a map with the keys of a configuration, found the text `hello`"],
    );
    check(
        "version: 1\n---\nversion: 1\n",
        &[
            "2:1 : a second document begins here; one is expected | take out the line `---`, or put the documents into files of their own",
        ],
    );
    let deep = format!("version: 1\nswitches: {}1{}", "[".repeat(70), "]".repeat(70));
    assert!(lines(&load_err(&deep))[0].contains("nested deeper than 64 levels"));
    let problems = load_err(&"#".repeat((16 << 20) + 1));
    assert_eq!(
        lines(&problems),
        ["1:1 : the text has 16777217 octets; at most 16777216 are allowed | is this the right file?"]
    );
    for bad in [
        "a: [",
        "a: {b",
        "a: 'x",
        "\t- x",
        "a: b: c",
        "? [1]\n: x",
        "a: *b",
        "%BAD\n---\n@",
        "a: &x [*x]",
    ] {
        let problems = load_err(bad);
        assert_eq!(problems.len(), 1, "{bad}: {problems:?}");
        assert!(
            problems[0].line >= 1 && problems[0].column >= 1,
            "{bad}: {problems:?}"
        );
    }
}

#[test]
fn text_that_is_not_utf8_is_located() {
    let error = text::read_text(&b"version: 1\n# Gr\xfc\xdfe\n"[..]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "it is not UTF-8 (line 2, column 5); save it as UTF-8"
    );
    text::load("\u{feff}version: 1 # Grüße\r\n").unwrap();
}

#[test]
fn unknown_keys_get_the_nearest_known_one() {
    check(
        "version: 1
worker: { count: 1 }
switches:
  vs0:
    mut: 1500
    mac-table: { sise: 100, colour: red }
    port-groups:
      web: { Vlan: 100, secruity: {} }
      lab: { vlan: { trunks: [1] } }
    ports:
      vm1: { portgroup: web, tapp: vm1 }
",
        &[
            "2:1 worker: unknown key `worker` | did you mean `workers`?",
            "5:5 switches.vs0.mut: unknown key `mut` | did you mean `mtu`?",
            "6:18 switches.vs0.mac-table.sise: unknown key `sise` | did you mean `size`?",
            "6:29 switches.vs0.mac-table.colour: unknown key `colour` | known keys: size, ageing",
            "8:14 switches.vs0.port-groups.web.Vlan: unknown key `Vlan` | did you mean `vlan`?",
            "8:25 switches.vs0.port-groups.web.secruity: unknown key `secruity` | did you mean `security`?",
            "9:22 switches.vs0.port-groups.lab.vlan.trunks: unknown key `trunks` | did you mean `trunk`?",
            "11:14 switches.vs0.ports.vm1.portgroup: unknown key `portgroup` | did you mean `port-group`?",
            "11:30 switches.vs0.ports.vm1.tapp: unknown key `tapp` | did you mean `tap`?",
        ],
    );
}

#[test]
fn keys_of_later_versions_are_called_so() {
    check(
        "version: 1
acls: {}
switches:
  vs0:
    mirrors: {}
    port-groups:
      web: { acl: web, shaping: {}, storm: {}, multicast: {}, arp-inspection: true, gateway: {}, mode: nat }
    ports:
      vm1: { port-group: web, vhost-user: /run/vm1.sock, mode: server }
      vm2: { port-group: web, stream: /run/vm2.sock, addresses: [] }
",
        &[
            "2:1 acls: `acls` is not supported by this version | take `acls` out",
            "5:5 switches.vs0.mirrors: `mirrors` is not supported by this version | take `mirrors` out",
            "7:14 switches.vs0.port-groups.web.acl: `acl` is not supported by this version | take `acl` out",
            "7:24 switches.vs0.port-groups.web.shaping: `shaping` is not supported by this version | take `shaping` out",
            "7:37 switches.vs0.port-groups.web.storm: `storm` is not supported by this version | take `storm` out",
            "7:48 switches.vs0.port-groups.web.multicast: `multicast` is not supported by this version | take `multicast` out",
            "7:63 switches.vs0.port-groups.web.arp-inspection: `arp-inspection` is not supported by this version | take `arp-inspection` out",
            "7:85 switches.vs0.port-groups.web.gateway: `gateway` is not supported by this version | take `gateway` out",
            "7:104 switches.vs0.port-groups.web.mode: `nat` is not supported by this version | supported: bridged",
            "10:54 switches.vs0.ports.vm2.addresses: `addresses` is not supported by this version | take `addresses` out",
        ],
    );
}

#[test]
fn values_out_of_bounds_say_the_bounds() {
    check(
        "version: 2
workers: { count: 65 }
switches:
  vs0:
    mtu: 67
    mac-table: { size: 9, ageing: 0s }
    port-groups:
      a: { vlan: 0 }
      b: { vlan: 4095, mac-limit: { count: 0 } }
      c: { vlan: { trunk: [1, 5000, 20-10, 10-4095, x], native: -1 } }
      d: { vlan: 99999999999999999999 }
  vs1:
    mtu: 9217
    mac-table: { size: 1048577, ageing: 12d }
  vs2:
    mac-table: { ageing: 300 }
  vs3:
    mac-table: { ageing: soon }
",
        &[
            "1:10 version: version 2 of the configuration is not supported by this version; 1 is",
            "2:19 workers.count: 65 is not a number of workers: 1 to 64 are expected",
            "5:10 switches.vs0.mtu: 67 is not an MTU: 68 to 9216 are expected",
            "6:24 switches.vs0.mac-table.size: 9 is not a size of a MAC table: 10 to 1048576 are expected",
            "6:35 switches.vs0.mac-table.ageing: `0s` is not an ageing time: 1s to 1000000s are expected",
            "8:18 switches.vs0.port-groups.a.vlan: 0 is not a VLAN: 1 to 4094 are expected",
            "9:18 switches.vs0.port-groups.b.vlan: 4095 is not a VLAN: 1 to 4094 are expected",
            "9:44 switches.vs0.port-groups.b.mac-limit.count: 0 is not a number of MAC addresses: 1 to 1048576 are expected",
            "10:31 switches.vs0.port-groups.c.vlan.trunk[1]: 5000 is not a VLAN: 1 to 4094 are expected",
            "10:37 switches.vs0.port-groups.c.vlan.trunk[2]: the range 20-10 ends before it begins; write 10-20",
            "10:44 switches.vs0.port-groups.c.vlan.trunk[3]: 4095 is not a VLAN: 1 to 4094 are expected",
            "10:53 switches.vs0.port-groups.c.vlan.trunk[4]: `x` is no range of VLANs: a number or a range such as 200-299 is expected",
            "10:65 switches.vs0.port-groups.c.vlan.native: -1 is not a VLAN: 1 to 4094 are expected",
            "11:18 switches.vs0.port-groups.d.vlan: expected a VLAN such as 100, a map with `trunk` or `dot1q-tunnel`, or `none`, found the number 100000000000000000000",
            "13:10 switches.vs1.mtu: 9217 is not an MTU: 68 to 9216 are expected",
            "14:24 switches.vs1.mac-table.size: 1048577 is not a size of a MAC table: 10 to 1048576 are expected",
            "14:41 switches.vs1.mac-table.ageing: `12d` is not an ageing time: 1s to 1000000s are expected",
            "16:26 switches.vs2.mac-table.ageing: `300` is not a time: a number with ms, s, m, h or d such as 300s is expected",
            "18:26 switches.vs3.mac-table.ageing: `soon` is not a time: a number with ms, s, m, h or d such as 300s is expected",
        ],
    );
}

#[test]
fn values_of_another_kind_are_said() {
    check(
        &ports(&[
            "a: { port-group: web, tap: a, enabled: yes, offloads: \"true\", persistent: off }",
            "b: { port-group: [web], tap: true }",
            "c: { port-group: web, tap: c, security: { promiscuous: acept, mac-changes: true }, mac-limit: 3 }",
            "d: { port-group: web, tap: d, vlan: \"100\", static-macs: { mac: x } }",
            "e: [1]",
            "f: 5",
            "g: { port-group: web, device: g, driver: {} }",
        ]),
        &[
            "9:46 switches.vs0.ports.a.enabled: expected `true` or `false`, found the text `yes` | YAML 1.2 knows no other words for it: write `true`",
            "9:61 switches.vs0.ports.a.offloads: expected `true` or `false`, found the text `true` | leave the quotes out",
            "9:81 switches.vs0.ports.a.persistent: expected `true` or `false`, found the text `off` | YAML 1.2 knows no other words for it: write `false`",
            "10:12 switches.vs0.ports.b.port-group: expected a text, found a list",
            "10:36 switches.vs0.ports.b.tap: expected a text, found `true` | as a text it is written \"true\"",
            "11:62 switches.vs0.ports.c.security.promiscuous: unknown value `acept` | did you mean `accept`?",
            "11:82 switches.vs0.ports.c.security.mac-changes: unknown value `true` | known values: accept, reject",
            "11:101 switches.vs0.ports.c.mac-limit: expected a map with `count` and `overflow`, found the number 3",
            "12:43 switches.vs0.ports.d.vlan: expected a VLAN such as 100, a map with `trunk` or `dot1q-tunnel`, or `none`, found the text `100`",
            "12:50 switches.vs0.ports.d.static-macs: expected a list, found a map",
            "13:7 switches.vs0.ports.e: expected a map with the keys of a port, found a list",
            "14:10 switches.vs0.ports.f: expected a map with the keys of a port, found the number 5",
            "15:40 switches.vs0.ports.g.driver: expected `auto`, `af-xdp` or `af-packet`, found a map",
        ],
    );
}

#[test]
fn names_are_checked() {
    check(
        "version: 1
switches:
  \"a/b\":
    port-groups:
      \"\": {}
      \" lan\": {}
    ports:
      \"x\\u200by\": {}
      ..: {}
",
        &["3:3 switches.\"a/b\": a name must not contain `/`"],
    );
    check(
        "version: 1
switches:
  vs0:
    port-groups:
      \"\": {}
      \" lan\": {}
      VM Network: {}
    ports:
      \"x\\u200by\": {}
      ..: {}
      aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggggg: {}
      a: { port-group: VM Network, tap: abcdefghijklmnop, netns: ../x }
      b: { port-group: VM Network, device: \"a b\" }
      c: { port-group: VM Network, device: \"eth%d\" }
      d: { port-group: VM Network, tap: ., netns: /run/netns/x }
      e: { port-group: VM Network, tap: é234567890123456 }
      f: { port-group: VM Network, tap: f, netns: \"a\\nb\" }
      g: { port-group: VM Network, stream: vm.sock }
      h: { port-group: VM Network, stream: /run//vm.sock, mode: server }
      i: { port-group: VM Network, vhost-user: /run/../vm.sock, queues: 0 }
      j: { port-group: VM Network, vhost-user: /run/aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggghhhhhhhhhhiiiiiiiiiijjjjjjjjjjabc, mode: listen }
",
        &[
            "5:7 switches.vs0.port-groups.\"\": a name must not be empty",
            "6:7 switches.vs0.port-groups.\" lan\": the name ` lan` must not begin or end with a space",
            "9:7 switches.vs0.ports.\"x\\u{200b}y\": a name must not contain U+200B",
            "10:7 switches.vs0.ports.\"..\": `..` is no name",
            "11:7 switches.vs0.ports.aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggggg: a name has at most 64 characters",
            "12:41 switches.vs0.ports.a.tap: `abcdefghijklmnop` is too long for a device's name: 16 octets, at most 15 are allowed",
            "12:66 switches.vs0.ports.a.netns: `../x` is no network namespace: its name under /run/netns or an absolute path is expected",
            "13:44 switches.vs0.ports.b.device: a device's name must not contain ' '",
            "14:44 switches.vs0.ports.c.device: a device's name must not contain '%'",
            "15:41 switches.vs0.ports.d.tap: `.` is no device's name",
            "16:41 switches.vs0.ports.e.tap: `é234567890123456` is too long for a device's name: 17 octets, at most 15 are allowed",
            "17:51 switches.vs0.ports.f.netns: `a\\nb` is no network namespace: its name under /run/netns or an absolute path is expected",
            "18:44 switches.vs0.ports.g.stream: `vm.sock` is no path of a socket: an absolute one is expected, such as /run/vswitch/vm1.sock",
            "19:44 switches.vs0.ports.h.stream: `/run//vm.sock` is no path of a socket: it is written without empty parts, `.`, `..` and control characters",
            "20:48 switches.vs0.ports.i.vhost-user: `/run/../vm.sock` is no path of a socket: it is written without empty parts, `.`, `..` and control characters",
            "20:73 switches.vs0.ports.i.queues: 0 is not a number of queue pairs: 1 to 64 are expected",
            "21:48 switches.vs0.ports.j.vhost-user: `/run/aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggggggggghhhhhhhhhhiiiiiiiiiijjjjjjjjjjabc` is too long for the path of a socket: 108 octets, at most 107 are allowed",
            "21:164 switches.vs0.ports.j.mode: unknown value `listen` | known values: client, server",
        ],
    );
}

#[test]
fn addresses_are_those_of_stations() {
    check(
        &ports(&[
            "a: { port-group: web, tap: a, mac: \"01:00:5e:00:00:01\" }",
            "b: { port-group: web, tap: b, mac: \"00:00:00:00:00:00\" }",
            "c: { port-group: web, tap: c, mac: 52:54:00 }",
            "d: { port-group: web, tap: d, mac: 525400000001 }",
            "e: { port-group: web, tap: e, static-macs: [{ mac: ff:ff:ff:ff:ff:ff }, {}] }",
        ]),
        &[
            "9:42 switches.vs0.ports.a.mac: `01:00:5e:00:00:01` is a group address: the address of a station is expected (first octet even, not all zero)",
            "10:42 switches.vs0.ports.b.mac: `00:00:00:00:00:00` is no address: the address of a station is expected (first octet even, not all zero)",
            "11:42 switches.vs0.ports.c.mac: `52:54:00` is not a MAC address: six hexadecimal octets such as 52:54:00:00:00:01 are expected",
            "12:42 switches.vs0.ports.d.mac: `525400000001` is not a MAC address: six hexadecimal octets such as 52:54:00:00:00:01 are expected",
            "13:58 switches.vs0.ports.e.static-macs[0].mac: `ff:ff:ff:ff:ff:ff` is a group address: the address of a station is expected (first octet even, not all zero)",
            "13:79 switches.vs0.ports.e.static-macs[1]: `mac` is missing",
        ],
    );
}

#[test]
fn a_port_has_a_group_that_is_there_and_one_device() {
    check(
        &ports(&[
            "a: { port-group: wbe, tap: a }",
            "b: { port-group: production, tap: b }",
            "c: { tap: c }",
            "d: { port-group: web }",
            "e: { port-group: web, tap: e, device: eth0 }",
            "f:",
            "g: { port-group: web, tap: a }",
            "h: { port-group: web, device: b }",
            "i: { port-group: web, tap: a, netns: red }",
            "j: { port-group: web, tap: a, netns: red }",
            "k: { port-group: web, tap: k, driver: auto }",
            "l: { port-group: web, device: l, netns: red, persistent: true }",
            "m: { port-group: web, stream: /run/m, offloads: true, queues: 2 }",
            "n: { port-group: web, vhost-user: /run/m }",
            "o: { port-group: web, tap: o, mode: server }",
            "p: { port-group: web, vhost-user: /run/p, stream: /run/p }",
        ]),
        &[
            "9:24 switches.vs0.ports.a.port-group: there is no port group `wbe` in the switch `vs0` | did you mean `web`?",
            "10:24 switches.vs0.ports.b.port-group: there is no port group `production` in the switch `vs0` | known groups: web, lab, lan",
            "11:7 switches.vs0.ports.c: `port-group` is missing | known groups: web, lab, lan",
            "12:7 switches.vs0.ports.d: `tap`, `device`, `vhost-user` or `stream` is missing | `tap: NAME` makes a TAP that the switch owns, `device: NAME` attaches a netdev that exists, `vhost-user: PATH` shares memory with a VM through the socket of its hypervisor, `stream: PATH` is a socket for QEMU's `-netdev stream` or passt",
            "13:7 switches.vs0.ports.e: `tap` and `device` exclude each other | `tap: NAME` makes a TAP that the switch owns, `device: NAME` attaches a netdev that exists",
            "14:7 switches.vs0.ports.f: `tap`, `device`, `vhost-user` or `stream` is missing | `tap: NAME` makes a TAP that the switch owns, `device: NAME` attaches a netdev that exists, `vhost-user: PATH` shares memory with a VM through the socket of its hypervisor, `stream: PATH` is a socket for QEMU's `-netdev stream` or passt",
            "14:7 switches.vs0.ports.f: `port-group` is missing | known groups: web, lab, lan",
            "15:34 switches.vs0.ports.g.tap: the device `a` is taken by switches.vs0.ports.a",
            "16:37 switches.vs0.ports.h.device: the device `b` is taken by switches.vs0.ports.b",
            "18:34 switches.vs0.ports.j.tap: the device `a` is taken by switches.vs0.ports.i",
            "19:45 switches.vs0.ports.k.driver: `driver` is for ports with `device`",
            "20:47 switches.vs0.ports.l.netns: `netns` is for ports with `tap`",
            "20:64 switches.vs0.ports.l.persistent: `persistent` is for ports with `tap`",
            "21:55 switches.vs0.ports.m.offloads: `offloads` is for ports with `tap` or `device`",
            "21:69 switches.vs0.ports.m.queues: `queues` is for ports with `vhost-user`",
            "22:41 switches.vs0.ports.n.vhost-user: the socket `/run/m` is taken by switches.vs0.ports.m",
            "23:43 switches.vs0.ports.o.mode: `mode` is for ports with `vhost-user` or `stream`",
            "24:7 switches.vs0.ports.p: `vhost-user` and `stream` exclude each other | `vhost-user: PATH` shares memory with a VM through the socket of its hypervisor, `stream: PATH` is a socket for QEMU's `-netdev stream` or passt",
        ],
    );
    check(
        "version: 1\nswitches: { vs0: { ports: { a: { port-group: web, tap: a } } } }\n",
        &[
            "2:46 switches.vs0.ports.a.port-group: there is no port group `web` in the switch `vs0` | write it under `switches.vs0.port-groups` first",
        ],
    );
}

#[test]
fn names_of_ports_are_unique_across_switches() {
    check(
        "version: 1
switches:
  vs0: { port-groups: { lan: }, ports: { a: { port-group: lan, tap: a } } }
  vs1: { port-groups: { lan: }, ports: { a: { port-group: lan, tap: b } } }
",
        &[
            "4:42 switches.vs1.ports.a: the port name `a` is taken by switches.vs0.ports.a; names are unique across switches",
        ],
    );
}

#[test]
fn keys_that_are_there_twice_are_errors() {
    check(
        "version: 1
switches:
  vs0:
    mtu: 1500
    port-groups: { lan: {} }
    mtu: 9000
    ports:
      a: { port-group: lan, tap: a }
      a: { port-group: lan, tap: b }
",
        &[
            "6:5 switches.vs0.mtu: `mtu` is there twice | it is first on line 4",
            "9:7 switches.vs0.ports.a: `a` is there twice | it is first on line 8",
        ],
    );
}

#[test]
fn combinations_of_vlan_keys_are_checked() {
    check(
        "version: 1
switches:
  vs0:
    port-groups:
      a: { vlan: {} }
      b: { vlan: { native: 1 } }
      c: { vlan: { trunk: [1], dot1q-tunnel: 2 } }
      d: { vlan: { dot1q-tunnel: 2, native: 3 } }
      e: { vlan: { dot1q-tunnel: 2, ethertype: 802.1q } }
      f: { vlan: { trunk: [1], ethertype: 802.1Q } }
      g: { vlan: trunk }
",
        &[
            "5:12 switches.vs0.port-groups.a.vlan: `trunk` or `dot1q-tunnel` is missing | a port in one VLAN is written `vlan: 100`",
            "6:12 switches.vs0.port-groups.b.vlan: `trunk` or `dot1q-tunnel` is missing | a port in one VLAN is written `vlan: 100`",
            "7:12 switches.vs0.port-groups.c.vlan: `trunk` and `dot1q-tunnel` exclude each other",
            "8:12 switches.vs0.port-groups.d.vlan: `native` belongs to a `trunk`, not to a `dot1q-tunnel`",
            "9:12 switches.vs0.port-groups.e.vlan: `ethertype` belongs to a `trunk`; a `dot1q-tunnel` is always 802.1ad outside",
            "10:43 switches.vs0.port-groups.f.vlan.ethertype: unknown value `802.1Q` | did you mean `802.1q`?",
            "11:18 switches.vs0.port-groups.g.vlan: expected a VLAN such as 100, a map with `trunk` or `dot1q-tunnel`, or `none`, found the text `trunk`",
        ],
    );
}

#[test]
fn static_entries_belong_to_vlans_of_their_port() {
    check(
        &ports(&[
            "a: { port-group: web, tap: a, static-macs: [{ mac: 2:0:0:0:0:1, vlan: 7 }, { mac: 2:0:0:0:0:2 }, { mac: 2:0:0:0:0:2, vlan: 100 }] }",
            "b: { port-group: lab, tap: b, static-macs: [{ mac: 2:0:0:0:0:2 }, 5, { mac: 2:0:0:0:0:3, vlan: 21 }, { mac: 2:0:0:0:0:3, vlan: 20 }] }",
            "c: { port-group: web, tap: c, static-macs: [{ mac: 2:0:0:0:0:2 }, { mac: 2:0:0:0:0:4 }] }",
            "d: { port-group: lan, tap: d, static-macs: [{ mac: 2:0:0:0:0:2, vlan: 100 }, { mac: 2:0:0:0:0:5 }] }",
            "e: { port-group: lan, tap: e, static-macs: [{ mac: 2:0:0:0:0:5 }] }",
        ]),
        &[
            "9:77 switches.vs0.ports.a.static-macs[0].vlan: the port does not carry VLAN 7 (its VLAN: 100)",
            "9:104 switches.vs0.ports.a.static-macs[2]: 02:00:00:00:00:02 in VLAN 100 is already a static entry of switches.vs0.ports.a",
            "10:51 switches.vs0.ports.b.static-macs[0]: `vlan` is missing: the port's trunk has no `native` VLAN",
            "10:73 switches.vs0.ports.b.static-macs[1]: expected a map with `mac` and `vlan`, found the number 5",
            "10:102 switches.vs0.ports.b.static-macs[2].vlan: the port does not carry VLAN 21 (its VLAN: trunk 10-20)",
            "11:51 switches.vs0.ports.c.static-macs[0]: 02:00:00:00:00:02 in VLAN 100 is already a static entry of switches.vs0.ports.a",
            "12:77 switches.vs0.ports.d.static-macs[0].vlan: the port does not carry VLAN 100 (it has no `vlan`)",
            "13:51 switches.vs0.ports.e.static-macs[0]: 02:00:00:00:00:05 is already a static entry of switches.vs0.ports.d",
        ],
    );
    let macs: Vec<String> = (1..=11).map(|i| format!("{{ mac: 2:0:0:0:0:{i} }}")).collect();
    let text = ports(&[&format!(
        "a: {{ port-group: lan, tap: a, static-macs: [{}] }}",
        macs.join(", ")
    )])
    .replace(
        "    port-groups:",
        "    mac-table: { size: 10 }\n    port-groups:",
    );
    check(
        &text,
        &[
            "4:24 switches.vs0.mac-table.size: the MAC table has room for 10 addresses, and there are 11 static ones",
        ],
    );
}

#[test]
fn workers_are_counted_or_pinned() {
    check(
        "version: 1\nworkers: { count: 2, cores: [0] }\n",
        &[
            "2:1 workers: `count` and `cores` exclude each other | `cores` pins one worker to each core it names; leave `count` out",
        ],
    );
    check(
        "version: 1\nworkers: { cores: [] }\n",
        &["2:12 workers.cores: 0 cores: 1 to 64 are expected"],
    );
    check(
        "version: 1\nworkers: { cores: [0, 1, x, 1] }\n",
        &[
            "2:26 workers.cores[2]: expected a whole number, found the text `x`",
            "2:29 workers.cores[3]: core 1 is named twice",
        ],
    );
    let plan = |text: &str| {
        text::load(&format!("version: 1\n{text}"))
            .unwrap()
            .workers()
            .clone()
    };
    assert_eq!(plan(""), WorkerPlan::PerCore);
    assert_eq!(plan("workers: {}"), WorkerPlan::PerCore);
    assert_eq!(plan("workers: { count: 3 }"), WorkerPlan::Count(3));
    assert_eq!(plan("workers: { cores: [2, 3] }"), WorkerPlan::Cores(vec![2, 3]));
    assert_eq!(
        plan("").options(4),
        datapath::Options {
            workers: 4,
            cores: vec![]
        }
    );
    assert_eq!(
        plan("workers: { cores: [2, 3] }").options(4),
        datapath::Options {
            workers: 2,
            cores: vec![2, 3]
        }
    );
}

#[test]
fn a_port_names_its_workers() {
    let with = |workers: &str, keys: &str| {
        format!(
            "version: 1\n{workers}switches:\n  vs0:\n    port-groups: {{ web: {{}} }}\n    ports:\n      a: {{ port-group: web, tap: a{keys} }}\n"
        )
    };
    let pinned = |text: String| text::load(&text).unwrap().port("a").unwrap().workers.clone();
    let two = "workers: { count: 2 }\n";
    assert!(pinned(with(two, "")).is_empty());
    assert_eq!(pinned(with(two, ", worker: 1")), [1]);
    assert_eq!(pinned(with(two, ", workers: [1, 0]")), [1, 0]);
    // How many there are is not known before the start.
    assert_eq!(pinned(with("", ", worker: 63")), [63]);
    let said = |text: String| {
        let problems = text::load(&text).unwrap_err();
        problems
            .iter()
            .map(|problem| problem.message.clone())
            .collect::<Vec<_>>()
            .join("; ")
    };
    for (keys, want) in [
        (", worker: 2", "there is no worker 2: 2 run, numbered from 0"),
        (
            ", workers: [0, 5]",
            "there is no worker 5: 2 run, numbered from 0",
        ),
        (", workers: [0, 0]", "worker 0 is named twice"),
        (
            ", workers: []",
            "no worker is named; leave the key out to let the switch choose",
        ),
        (
            ", worker: 0, workers: [1]",
            "`worker` and `workers` exclude each other",
        ),
    ] {
        assert_eq!(said(with(two, keys)), want, "{keys}");
    }
}

#[test]
fn an_error_that_follows_from_another_is_not_told() {
    // The group is there, though it is wrong; the device too, though its name is.
    check(
        "version: 1
switches:
  vs0:
    port-groups:
      web: 5
      lab: !tag {}
    ports:
      a: { port-group: web, tap: a/b }
      b: { port-group: lab, vhost-user: x }
      c: { port-group: {}, tap: c }
",
        &[
            "5:12 switches.vs0.port-groups.web: expected a map with the keys of a port group, found the number 5",
            "6:12 switches.vs0.port-groups.lab: tags are not supported | take out the word with the `!`",
            "8:34 switches.vs0.ports.a.tap: a device's name must not contain '/'",
            "9:41 switches.vs0.ports.b.vhost-user: `x` is no path of a socket: an absolute one is expected, such as /run/vswitch/vm1.sock",
            "10:12 switches.vs0.ports.c.port-group: expected a text, found a map",
        ],
    );
}

#[test]
fn anchors_stand_for_what_they_mark() {
    let text = "
version: 1
switches:
  vs0:
    port-groups:
      a: { vlan: 1, security: &open { promiscuous: accept } }
      b: { vlan: 2, security: *open }
";
    let valid = text::load(text).unwrap();
    assert!(valid.switch("vs0").unwrap().groups[1].rules.security.promiscuous);
    // An error there is told once, where it is written.
    check(
        &text.replace("accept", "acept"),
        &[
            "6:52 switches.vs0.port-groups.a.security.promiscuous: unknown value `acept` | did you mean `accept`?",
        ],
    );
}

#[test]
fn aliases_of_aliases_are_bounded() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..30 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    let problems = load_err(&text);
    assert!(problems[0].message.contains("aliases put in"), "{problems:?}");
}

#[test]
fn errors_are_bounded() {
    let rows: Vec<String> = (0..500)
        .map(|i| format!("p{i}: {{ port-group: web, tap: \"\", mac: x }}"))
        .collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let problems = load_err(&ports(&rows));
    assert_eq!(problems.len(), 101);
    assert_eq!(problems[100].message, "there may be more errors than these 100");
    let rows: Vec<String> = (0..500)
        .map(|i| format!("p{i}: {{ port-group: wbe, tap: p{i} }}"))
        .collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let problems = load_err(&ports(&rows));
    assert_eq!(problems.len(), 101);
    assert_eq!((problems[0].line, problems[99].line), (9, 108));
}

#[test]
fn a_changed_value_is_judged_without_a_text() {
    let mut value = text::load(&ports(&["a: { port-group: web, tap: a }"]))
        .unwrap()
        .config()
        .to_value();
    value["switches"]["vs0"]["ports"]["b"] =
        serde_json::json!({ "port-group": "wbe", "tap": 5, "vlan": null, "mtu": 1 });
    assert_eq!(
        lines(&text::load_value(&value).unwrap_err()),
        [
            "0:0 switches.vs0.ports.b.mtu: unknown key `mtu` | known keys: port-group, tap, device, vhost-user, stream, mac, enabled, persistent, netns, driver, offloads, mode and 10 more",
            "0:0 switches.vs0.ports.b.port-group: there is no port group `wbe` in the switch `vs0` | did you mean `web`?",
        ]
    );
    value["switches"]["vs0"]["ports"]["b"] = serde_json::json!({ "port-group": "web", "tap": "b" });
    let valid = text::load_value(&value).unwrap();
    let names: Vec<&str> = valid.ports().iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn words_of_yaml_1_1_are_names() {
    let valid = text::load(
        "version: 1
switches:
  on:
    port-groups: { no: , 100: }
    ports:
      off: { port-group: no, tap: yes }
      1e3: { port-group: 100, tap: 0x1 }
",
    )
    .unwrap();
    assert_eq!(valid.port("off").unwrap().attachment.device(), "yes");
    let group = valid.port("1e3").unwrap().group.as_ref();
    assert_eq!(group.map(control::config::units::Name::as_str), Some("100"));
    assert_eq!(valid.port("1e3").unwrap().attachment.device(), "0x1");
    assert_eq!(&text::parse(&valid.config().to_yaml()).unwrap(), valid.config());
}

#[test]
fn settings_are_told_in_the_words_of_the_file() {
    let valid = text::load(&ports(&[
        "a: { port-group: lab, tap: a, security: { promiscuous: accept } }",
    ]))
    .unwrap();
    assert_eq!(
        valid.port("a").unwrap().settings(),
        serde_json::json!({
            "port-group": "lab",
            "tap": "a",
            "netns": null,
            "persistent": false,
            "offloads": true,
            "mac": null,
            "enabled": true,
            "vlan": { "trunk": ["10-20"] },
            "security": { "promiscuous": "accept", "mac-changes": "reject", "forged-transmits": "reject" },
            "mac-limit": null,
            "isolated": false,
            "activation": "now",
            "static-macs": [],
        })
    );
    assert_eq!(valid.port("a").unwrap().rules.vlan.to_string(), "trunk 10-20");
    assert_eq!(valid.switch("vs0").unwrap().groups[0].settings()["vlan"], 100);
}

proptest! {
    /// Whatever the text, reading it ends, with places inside it.
    #[test]
    fn any_text_is_read_without_panic(text in prop_oneof![
        "\\PC{0,200}",
        "[ \\n\\t:{}\\[\\],&*!|>'\"%@`#?~a-c0-9.-]{0,120}",
        "(version: 1\\n)?(  ?[a-z-]{0,6}: ?[\\[{&*]?[a-z0-9]{0,3}[\\]}]?\\n){0,12}",
    ]) {
        if let Err(problems) = text::load(&text) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(problem.line <= text.lines().count() + 1, "{:?}", problem);
                prop_assert!(!problem.message.is_empty());
            }
        }
    }

    /// The full example with some octets changed, left out or doubled.
    #[test]
    fn any_damage_to_an_example_is_survived(edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4_u8), 1..8)) {
        let mut bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/full.yaml")).unwrap();
        for (at, octet, kind) in edits {
            bytes.push(b'\n');
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = octet,
                1 => { bytes.remove(at); }
                2 => bytes.insert(at, octet),
                _ => bytes.truncate(at.max(1)),
            }
        }
        if let Ok(text) = text::read_text(&bytes[..])
            && let Err(problems) = text::load(&text)
        {
            prop_assert!(!problems.is_empty());
        }
    }
}
