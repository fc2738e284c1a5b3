//! Uplinks and teams in the configuration file: wrong ones, with every error where it stands.

use control::config::text;

/// `line:column path: message | help` of each problem.
#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let problems = text::load(text).expect_err(text);
    let found: Vec<String> = problems
        .iter()
        .map(|problem| {
            let place = format!("{}:{} {}", problem.line, problem.column, problem.path);
            let help = problem.help.as_ref().map(|help| format!(" | {help}"));
            format!("{place}: {}{}", problem.message, help.unwrap_or_default())
        })
        .collect();
    assert_eq!(found, expected, "\n{text}\nfound:\n{}", found.join("\n"));
}

#[test]
fn lacp_is_for_all_groups_of_a_switch() {
    check(
        "version: 1
switches:
  vs0:
    uplinks: { up1: { device: eth1 }, up2: { device: eth2 } }
    teaming: { balance: lacp, standby: [up2], lacp: { mode: on, rate: fast, fallback: true } }
    port-groups:
      web: { teaming: { notify: false } }
      db: { teaming: { active: [up1], balance: port-id } }
  vs1:
    uplinks: { up3: { device: eth3 } }
    port-groups:
      lan: { teaming: { balance: lacp } }
",
        &[
            "5:25 switches.vs0.teaming.balance: `lacp` is for uplinks that are one aggregate outside, and an aggregate has no `standby` | name all uplinks of the aggregate in `active`",
            "5:61 switches.vs0.teaming.lacp.mode: unknown value `on` | known values: active, passive",
            "8:48 switches.vs0.port-groups.db.teaming.balance: with LACP the uplinks of a switch are one link, for all of its port groups | say so in `teaming` of the switch, and in none of its port groups",
            "12:34 switches.vs1.port-groups.lan.teaming.balance: with LACP the uplinks of a switch are one link, for all of its port groups | say so in `teaming` of the switch, and in none of its port groups",
        ],
    );
}

#[test]
fn uplinks_and_teams_are_checked() {
    check(
        "version: 1
switches:
  vs0:
    uplinks: { up1: { device: eth1 }, up2: { device: eth1 }, uplinks: { device: eth3 }, up4: {} }
    teaming: { active: [up1, upp2], standby: [up1], balance: load, detect: beacon, up-delay: 2h }
    port-groups:
      web: { teaming: { balance: ip-hash, active: [up1], standby: [up2] } }
    ports:
      up1: { port-group: web, tap: a }
  vs1:
    teaming: { failback: false }
    port-groups: { lan: {} }
",
        &[
            "4:54 switches.vs0.uplinks.up2.device: the device `eth1` is taken by switches.vs0.uplinks.up1",
            "4:62 switches.vs0.uplinks.uplinks: `uplinks` stands for all uplinks together; choose another name",
            "4:89 switches.vs0.uplinks.up4: `device` is missing",
            "5:30 switches.vs0.teaming.active[1]: there is no uplink `upp2` in this switch | did you mean `up2`?",
            "5:47 switches.vs0.teaming.standby[0]: the uplink `up1` is named twice",
            "5:62 switches.vs0.teaming.balance: `load` is not supported by this version | supported: port-id, source-mac, ip-hash, explicit, lacp",
            "5:76 switches.vs0.teaming.detect: `beacon` is not supported by this version | supported: link",
            "5:94 switches.vs0.teaming.up-delay: `2h` is too long: at most 1h are expected",
            "7:34 switches.vs0.port-groups.web.teaming.balance: `ip-hash` is for uplinks that are one aggregate outside, and an aggregate has no `standby` | name all uplinks of the aggregate in `active`",
            "9:7 switches.vs0.ports.up1: the port name `up1` is taken by switches.vs0.uplinks.up1; names are unique across switches",
            "11:5 switches.vs1.teaming: there are no uplinks to be shared | name the devices under `uplinks` of the switch, such as `uplinks: { up1: { device: eth1 } }`",
        ],
    );
    check(
        "version: 1
switches:
  vs0:
    uplinks: { up1: { device: eth1 }, up2: { device: eth2 }, up3: { device: eth3, enabled: false } }
    teaming: { active: [up1] }
    port-groups: { lan: {} }
",
        &[
            "4:39 switches.vs0.uplinks.up2: no team uses the uplink `up2`, and an uplink outside of the team may close a loop | name it in `active` or `standby` of `teaming`, or set `enabled: false`",
        ],
    );
}
