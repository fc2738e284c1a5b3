//! The way of a configuration: whole or not at all, kept through crashes, undone on request, and gone without a trace.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use switch_core::addr::MacAddr;
use vswitch_tests::frame::{Random, frame, mac, marked};
use vswitch_tests::lab::{Lab, binary};
use vswitch_tests::netns::Namespace;
use vswitch_tests::process::{Peer, run};
use vswitch_tests::wait::{BOUND, wait_until};

use crate::wires::{OPEN, Wires};

/// Two stations on TAPs `a` and `b`, with addresses, and the configuration that they are from.
fn pair(lab: &Lab) -> (Namespace, Namespace, String) {
    let (a, b) = (lab.namespace("a"), lab.namespace("b"));
    let config = format!(
        "version: 1
switches:
  vs0:
    port-groups:
      web: {{ vlan: 100 }}
      lab: {{ vlan: 200 }}
    ports:
      a: {{ port-group: web, tap: eth0, netns: {} }}
      b: {{ port-group: web, tap: eth0, netns: {} }}
",
        a.name(),
        b.name()
    );
    lab.start(&config);
    a.address("eth0", "10.0.0.1/24");
    b.address("eth0", "10.0.0.2/24");
    lab.wait_all_up();
    assert!(a.pings("10.0.0.2", 2));
    (a, b, config)
}

fn config_of(lab: &Lab) -> Value {
    let config = lab.json(&["config"]);
    assert!(
        config["switches"].is_object(),
        "`config` prints the configuration: {config:#}"
    );
    config
}

#[test]
fn a_wrong_configuration_lists_every_error_and_changes_nothing() {
    let lab = Lab::new();
    let (a, _, config) = pair(&lab);
    let (before, generation) = (config_of(&lab), lab.generation());
    let wrong = config
        .replace("web: { vlan: 100 }", "web: { vlann: 100 }")
        .replace("lab: { vlan: 200 }", "lab: { vlan: 5000 }")
        .replace(
            "b: { port-group: web,",
            "b: { port-group: wbe, mac: \"01:00:00:00:00:01\",",
        );
    let stderr = lab.try_apply(&wrong).failed(1);
    for sign in ["vlann", "5000", "wbe", "01:00:00:00:00:01"] {
        assert!(
            stderr.contains(sign),
            "`{sign}` is not among the errors:\n{stderr}"
        );
    }
    for line in ["5", "6", "9"] {
        assert!(
            stderr.contains(&format!(":{line}:")),
            "line {line} is not named:\n{stderr}"
        );
    }
    assert!(
        stderr.contains("`vlan`") && stderr.contains("`web`"),
        "the nearest names are told:\n{stderr}"
    );
    assert_eq!((config_of(&lab), lab.generation()), (before, generation));
    assert!(a.pings("10.0.0.2", 2));

    // The same without a daemon, from the file.
    lab.write("wrong.yaml", &wrong);
    let validate = lab.try_ctl(&["validate", &lab.path("wrong.yaml").to_string_lossy()]);
    assert!(validate.failed(1).contains("vlann"));
    // No YAML at all, a document of another kind, another version.
    for text in [
        "{",
        "[]",
        "version: 2\n",
        "version: 1\nswitches: { vs0: { ports: { x: {} } } }\n",
    ] {
        let output = lab.try_apply(text);
        assert_eq!(output.code, Some(1), "{output}");
        assert!(!output.stderr.is_empty());
    }
    assert_eq!(lab.generation(), generation);
}

#[test]
fn a_name_misspelt_is_told_the_nearest_one() {
    let lab = Lab::new();
    pair(&lab);
    lab.ctl(&["port", "add", "gateway", "--group", "web", "--tap", "gw0"]);
    let stderr = lab.try_ctl(&["port", "show", "gatewy"]).failed(1);
    assert!(stderr.contains("gateway"), "{stderr}");
    lab.try_ctl(&["prot", "list"]).failed(2);
}

#[test]
fn an_apply_under_traffic_loses_no_frame() {
    let groups = format!("one: {{ vlan: 5, {OPEN} }}\ntwo: {{ vlan: 6, {OPEN} }}");
    let ports = [
        ("a", "port-group: one"),
        ("b", "port-group: one"),
        ("c", "port-group: two"),
    ];
    let mut wires = Wires::new("", &groups, &ports);
    wires.learn("b", mac(2));
    let here = Wires::config(&wires.lab, "", &groups, &ports);
    let moved = Wires::config(
        &wires.lab,
        "mac-table: { ageing: 100s },",
        &groups,
        &[
            ports[0],
            ports[1],
            ("c", "port-group: one, isolated: true"),
            ("d", "port-group: two"),
        ],
    );
    wires.lab.namespace("d");
    // A switch that is given no processor for a while loses nothing: what waits for it waits in the TAP.
    wires.namespace("a").sh("ip link set eth0 txqueuelen 100000");
    let done = AtomicBool::new(false);
    let sender = wires.namespace("a").raw("eth0");
    let mut receiver = wires.namespace("b").raw("eth0");
    let (sent, got) = std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            let mut number = 1000u32;
            while !done.load(Ordering::Relaxed) {
                for _ in 0..8 {
                    sender.send(&frame(mac(2), mac(1), &[], number));
                    number += 1;
                }
                // The rate stays far below what the switch carries: a loss is the apply's doing.
                std::thread::sleep(Duration::from_millis(1));
            }
            number - 1000
        });
        let mut got: Vec<Vec<u8>> = Vec::new();
        let applied = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..10 {
                wires.lab.apply(&moved);
                got.extend(receiver.drain());
                wires.lab.apply(&here);
                got.extend(receiver.drain());
            }
        }));
        done.store(true, Ordering::Relaxed);
        let sent = sending.join().expect("the sender ends");
        applied.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        while got.len() < sent as usize {
            let Some(frame) = receiver.receive(Duration::from_secs(2)) else {
                break;
            };
            got.push(frame);
        }
        (sent, got)
    });
    println!("{sent} frames during 20 applies");
    assert!(sent > 1000);
    let order: Vec<u32> = got
        .iter()
        .map(|octets| u32::from_be_bytes(octets[14..18].try_into().unwrap()))
        .collect();
    assert_eq!(
        order,
        (1000..1000 + sent).collect::<Vec<_>>(),
        "a frame is lost, doubled or out of order"
    );
    assert!(
        got.iter()
            .all(|octets| marked(octets, u32::from_be_bytes(octets[14..18].try_into().unwrap())))
    );
}

#[test]
fn history_is_kept_and_gone_back_to() {
    let lab = Lab::new();
    let (a, _, config) = pair(&lab);
    let first = lab.generation();
    let original = config_of(&lab);
    lab.apply(&config.replace("b: { port-group: web", "b: { port-group: lab"));
    assert!(!a.pings("10.0.0.2", 1));
    lab.ctl(&["port", "add", "extra", "--group", "lab", "--tap", "extra0"]);
    assert_eq!(lab.generation(), first + 2);
    let rows = lab.json(&["history"]);
    let generations: Vec<u64> = rows
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|row| row["generation"].as_u64())
        .collect();
    assert_eq!(generations[..3], [first + 2, first + 1, first], "newest first");
    assert_eq!(rows[0]["current"], true);
    assert!(
        rows[0]["comment"].as_str().unwrap_or_default().contains("extra"),
        "{rows:#}"
    );

    lab.ctl(&["rollback"]);
    assert!(lab.host().link("extra0").is_none(), "the port's TAP goes with it");
    assert!(!a.pings("10.0.0.2", 1));
    lab.ctl(&["rollback", &first.to_string()]);
    assert_eq!(config_of(&lab), original);
    assert_eq!(lab.generation(), first + 4, "going back is a change like others");
    wait_until("the stations reach each other again", BOUND, || {
        a.pings("10.0.0.2", 1)
    });
    let stderr = lab.try_ctl(&["rollback", "4711"]).failed(1);
    assert!(stderr.contains("4711"), "{stderr}");
}

#[test]
fn a_dry_run_and_a_diff_change_nothing() {
    let lab = Lab::new();
    let (a, _, config) = pair(&lab);
    let (before, generation) = (config_of(&lab), lab.generation());
    let path = lab.write("next.yaml", &config.replace("vlan: 100", "vlan: 300"));
    let path = path.to_string_lossy();
    let diff = lab.ctl(&["diff", "-f", &path]);
    assert!(
        diff.contains("port-groups.web.vlan") && diff.contains("300"),
        "{diff}"
    );
    let report = lab.json(&["apply", "-f", &path, "--dry-run"]);
    assert_eq!(report["applied"], false);
    assert_eq!(report["changes"].as_array().map(Vec::len), Some(1), "{report:#}");
    assert_eq!((config_of(&lab), lab.generation()), (before, generation));
    assert!(a.pings("10.0.0.2", 1));
    // What is in force already is no change, and makes no generation.
    lab.apply(&config);
    assert_eq!(lab.generation(), generation);
    // What `config` prints can be applied.
    let printed = lab.ctl(&["config"]);
    lab.apply(&printed);
    assert_eq!(lab.generation(), generation);
}

#[test]
fn an_unconfirmed_configuration_goes_back_by_itself() {
    let lab = Lab::new();
    let (_, _, config) = pair(&lab);
    let before = config_of(&lab);
    let next = config.replace("vlan: 200", "vlan: 201");
    lab.ctl_with_input(&["apply", "-f", "-", "--confirm", "1s"], &next)
        .ok();
    assert_ne!(config_of(&lab), before);
    wait_until("the change is undone", BOUND, || config_of(&lab) == before);
    // Confirmed in time, it stays: the next apply that goes back by itself goes back to it.
    lab.ctl_with_input(&["apply", "-f", "-", "--confirm", "60s"], &next)
        .ok();
    lab.ctl(&["confirm"]);
    let confirmed = config_of(&lab);
    assert_ne!(confirmed, before);
    lab.ctl_with_input(&["apply", "-f", "-", "--confirm", "1s"], &config)
        .ok();
    wait_until("the second change is undone", BOUND, || {
        config_of(&lab) == confirmed
    });
}

#[test]
fn ports_are_added_set_and_removed_while_others_go_on() {
    let lab = Lab::new();
    let (a, b, _) = pair(&lab);
    let c = lab.namespace("c");
    lab.ctl(&[
        "port",
        "add",
        "c",
        "--group",
        "lab",
        "--tap",
        "eth0",
        "--set",
        &format!("netns={}", c.name()),
    ]);
    c.address("eth0", "10.0.0.3/24");
    lab.wait_up("c");
    assert!(!a.pings("10.0.0.3", 1));
    lab.ctl(&["port", "set", "c", "port-group=web"]);
    assert_eq!(lab.port("c")["group"], "web");
    wait_until("the port is in its new group", BOUND, || a.pings("10.0.0.3", 1));
    lab.ctl(&["port", "set", "c", "vlan=200"]);
    assert!(!a.pings("10.0.0.3", 1));
    lab.ctl(&["port", "set", "c", "vlan="]);
    wait_until("the group's VLAN holds again", BOUND, || b.pings("10.0.0.3", 1));
    lab.ctl(&["port", "del", "c"]);
    assert!(c.link("eth0").is_none(), "the TAP goes with its port");
    assert!(a.pings("10.0.0.2", 2));
    let stderr = lab
        .try_ctl(&["port", "add", "a", "--group", "web", "--tap", "x0"])
        .failed(1);
    assert!(stderr.contains('a'), "{stderr}");
    lab.try_ctl(&["port", "add", "d", "--group", "wbe", "--tap", "x0"])
        .failed(1);
    lab.try_ctl(&["port", "set", "a", "vlan=4095"]).failed(1);
    lab.try_ctl(&["port", "add", "d", "--group", "web"]).failed(2);
    assert!(a.pings("10.0.0.2", 1));
}

#[test]
fn a_device_that_goes_and_comes_back_is_attached_again() {
    let lab = Lab::new();
    let (host, a, b) = (lab.host(), lab.namespace("a"), lab.namespace("b"));
    lab.start(&format!(
        "version: 1\nswitches: {{ vs0: {{ port-groups: {{ web: {{}} }}, ports: {{ \
         a: {{ port-group: web, device: veth-a }}, b: {{ port-group: web, tap: eth0, netns: {} }} }} }} }}\n",
        b.name()
    ));
    b.address("eth0", "10.0.0.2/24");
    let reason = lab.wait_down("a");
    assert!(reason.contains("veth-a"), "{reason}");
    for round in 0..3 {
        lab.veth((&host, "veth-a"), (&a, "eth0"));
        a.address("eth0", "10.0.0.1/24");
        lab.wait_up("a");
        wait_until("the stations reach each other", BOUND, || a.pings("10.0.0.2", 1));
        let known = a.link("eth0").expect("the veth is there")["address"]
            .as_str()
            .map(ToOwned::to_owned);
        host.ok(&["ip", "link", "del", "veth-a"]);
        let reason = lab.wait_down("a");
        assert!(reason.contains("veth-a"), "round {round}: {reason}");
        wait_until("its addresses are forgotten", BOUND, || {
            lab.mac_port(known.as_deref().unwrap_or_default(), None).is_none()
        });
    }
    let events = lab.ctl(&["events"]);
    assert!(
        events.contains("port-up") && events.contains("port-down"),
        "{events}"
    );
    // A TAP that somebody else deletes is made again, or its port says why it is down.
    b.ok(&["ip", "link", "del", "eth0"]);
    wait_until("the TAP's port is down, or its TAP is back", BOUND, || {
        lab.port("b")["state"] == "down" || b.link("eth0").is_some()
    });
}

#[test]
fn a_device_set_down_is_told_and_comes_back() {
    let lab = Lab::new();
    let (host, a, b) = (lab.host(), lab.namespace("a"), lab.namespace("b"));
    lab.veth((&host, "veth-a"), (&a, "eth0"));
    lab.veth((&host, "veth-b"), (&b, "eth0"));
    lab.start(
        "version: 1\nswitches: { vs0: { port-groups: { web: {} }, ports: { \
         a: { port-group: web, device: veth-a }, b: { port-group: web, device: veth-b } } } }\n",
    );
    a.address("eth0", "10.0.0.1/24");
    b.address("eth0", "10.0.0.2/24");
    lab.wait_all_up();
    assert!(a.pings("10.0.0.2", 2));
    // The far end goes down, so this one has no carrier.
    b.ok(&["ip", "link", "set", "eth0", "down"]);
    assert!(!lab.wait_down("b").is_empty());
    b.up("eth0");
    lab.wait_up("b");
    wait_until("the stations reach each other", BOUND, || a.pings("10.0.0.2", 1));
}

#[test]
fn after_a_crash_the_last_committed_configuration_is_taken_up() {
    let lab = Lab::new();
    let (a, b, _) = pair(&lab);
    lab.ctl(&["port", "add", "c", "--group", "lab", "--tap", "tap-c"]);
    assert!(
        lab.wait_down("c").contains("ip link set tap-c up"),
        "the reason says what to do"
    );
    let (config, generation) = (config_of(&lab), lab.generation());
    lab.kill();
    assert!(
        lab.path("ctl.sock").exists(),
        "the socket of a killed daemon stays, stale"
    );
    assert!(a.link("eth0").is_none(), "a TAP goes with its descriptor");
    lab.launch();
    assert_eq!((config_of(&lab), lab.generation()), (config, generation));
    a.address("eth0", "10.0.0.1/24");
    b.address("eth0", "10.0.0.2/24");
    lab.host().up("tap-c");
    lab.wait_all_up();
    wait_until("the stations reach each other", BOUND, || a.pings("10.0.0.2", 1));
}

#[test]
fn a_crash_in_the_middle_of_an_apply_leaves_one_of_both() {
    let lab = Lab::new();
    let (_, _, config) = pair(&lab);
    let mut random = Random::new(1);
    let mut vlan = 300;
    for round in 0..6 {
        let before = config_of(&lab);
        vlan += 1;
        lab.write(
            "next.yaml",
            &config.replace("vlan: 200", &format!("vlan: {vlan}")),
        );
        let path = lab.path("next.yaml");
        let mut apply = lab.spawn_ctl("apply", &["apply", "-f", &path.to_string_lossy()]);
        // Anywhere in the life of the command, from its start to after its end: any moment is to be a safe one.
        std::thread::sleep(Duration::from_millis(random.below(30) as u64));
        lab.kill();
        let applied = apply.wait(BOUND).success();
        lab.launch();
        let now = config_of(&lab);
        let has_new = now["switches"]["vs0"]["port-groups"]["lab"]["vlan"] == vlan;
        println!("round {round}: told done: {applied}, found done: {has_new}");
        assert!(has_new || now == before, "{now:#}");
        assert!(has_new || !applied, "what was told to be done is lost");
    }
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let lab = Lab::new();
    let (a, _, _) = pair(&lab);
    let refused = |mut daemon: Peer| {
        let status = daemon.wait(BOUND);
        assert_eq!(status.code(), Some(1), "{}", daemon.output());
        daemon.output()
    };
    let state = lab.path("state").to_string_lossy().into_owned();
    let output = refused(lab.spawn_daemon("state", "other.sock", 9732));
    assert!(output.contains(&state) && output.contains("vswitchd"), "{output}");
    let output = refused(lab.spawn_daemon("other-state", "ctl.sock", 9732));
    assert!(output.contains("ctl.sock"), "{output}");
    assert!(a.pings("10.0.0.2", 2));
    assert!(lab.generation() > 0, "the first still answers on its socket");
}

#[test]
fn a_graceful_stop_leaves_everything_as_found() {
    let lab = Lab::new();
    let (host, a) = (lab.host(), lab.namespace("a"));
    lab.veth((&host, "veth-a"), (&a, "eth0"));
    host.address("veth-a", "10.0.0.9/24");
    a.address("eth0", "10.0.0.1/24");
    let state = |namespace: &Namespace| {
        let links = namespace.ok(&["ip", "-details", "link"]);
        let offloads = namespace.ok(&["ethtool", "-k", "veth-a"]);
        let sysctls =
            namespace.sh("sysctl -a 2>/dev/null | grep -e '^net.*veth-a' -e forward -e rp_filter | sort");
        (links, offloads, sysctls)
    };
    let before = state(&host);
    assert!(a.pings("10.0.0.9", 1), "the host's stack answers before");
    lab.start(
        "version: 1\nswitches: { vs0: { port-groups: { web: {} }, ports: { \
         a: { port-group: web, device: veth-a }, b: { port-group: web, tap: tap-b }, \
         c: { port-group: web, tap: tap-c, persistent: true } } } }\n",
    );
    lab.wait_up("a");
    assert!(host.link("tap-b").is_some() && host.link("tap-c").is_some());
    let link = host.link("veth-a").expect("the veth is there");
    assert_ne!(link["promiscuity"], 0, "the switch hears all of the wire");
    assert!(
        !a.pings("10.0.0.9", 1),
        "the host's stack is kept out of a port's device"
    );
    lab.stop();
    assert!(!lab.path("ctl.sock").exists());
    assert!(host.link("tap-b").is_none());
    assert!(host.link("tap-c").is_some(), "a persistent TAP stays");
    host.ok(&["ip", "link", "del", "tap-c"]);
    assert_eq!(state(&host), before);
    assert!(a.pings("10.0.0.9", 2), "the host's stack answers again");
}

#[test]
fn a_persistent_tap_serves_as_many_queues_as_it_was_made_for() {
    let lab = Lab::new();
    let host = lab.host();
    let config = |worker: &str| {
        format!(
            "version: 1\nworkers: {{ count: 2 }}\nswitches: {{ vs0: {{ port-groups: {{ web: {{}} }}, ports: {{ \
             a: {{ port-group: web, tap: tap-a, persistent: true{worker} }} }} }} }}\n"
        )
    };
    let index = || host.link("tap-a").map(|link| link["ifindex"].clone());
    let set_up = || {
        host.ok(&["ip", "link", "set", "tap-a", "up"]);
        lab.wait_up("a");
    };
    lab.start(&config(""));
    set_up();
    let made = index();
    // One queue of a TAP that was made for two.
    lab.apply(&config(", worker: 1"));
    lab.wait_up("a");
    assert_eq!(index(), made, "it is the same device");
    lab.apply(&config(""));
    lab.wait_up("a");
    assert_eq!(index(), made);
    // Two of one that was made for one.
    lab.stop();
    host.ok(&["ip", "link", "del", "tap-a"]);
    lab.write("switch.yaml", &config(", worker: 1"));
    lab.launch();
    set_up();
    lab.try_apply(&config(""));
    let reason = lab.wait_down("a");
    assert!(
        reason.contains("room for one queue") && reason.contains("ip link del tap-a"),
        "{reason}"
    );
}

#[test]
fn a_tap_that_another_process_holds_is_named() {
    let lab = Lab::new();
    let host = lab.host();
    lab.start(
        "version: 1\nworkers: { count: 1 }\nswitches: { vs0: { port-groups: { web: {} }, \
         ports: { a: { port-group: web, tap: taken } } } }\n",
    );
    assert!(host.link("taken").is_some());
    // A daemon of its own, on the same TAP.
    lab.write(
        "switch.yaml",
        "version: 1\nworkers: { count: 1 }\nswitches: { vs0: { port-groups: { web: {} }, ports: {} } }\n",
    );
    let mut other = lab.spawn_daemon("other-state", "other.sock", 9732);
    wait_until("the other daemon answers", BOUND, || {
        assert!(other.ended().is_none(), "{}", other.output());
        std::os::unix::net::UnixStream::connect(lab.path("other.sock")).is_ok()
    });
    let socket = lab.path("other.sock").to_string_lossy().into_owned();
    let ctl = binary("vswitchctl").to_string_lossy().into_owned();
    let output = run(
        &ctl,
        &[
            "--socket", &socket, "port", "add", "x", "--group", "web", "--tap", "taken",
        ],
    );
    // As with a device that is not there yet: the port is wanted, and says what it waits for.
    let stdout = output.ok();
    assert!(stdout.contains("`taken` is held by another process"), "{stdout}");
    let output = run(&ctl, &["--socket", &socket, "-o", "json", "port", "list"]).ok();
    let rows: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(rows[0]["state"], "down");
    assert!(
        rows[0]["reason"]
            .as_str()
            .unwrap_or_default()
            .contains("another process"),
        "{rows:#}"
    );
    // The TAP is free when the first daemon has ended.
    lab.stop();
    wait_until("the port takes its TAP", BOUND, || {
        let output = run(&ctl, &["--socket", &socket, "-o", "json", "port", "list"]).ok();
        host.link("taken").is_some() && !output.contains("another process")
    });
}

/// Copies a program to where other users can run it. By another process: a descriptor open for writing here could be
/// inherited by a program that another test starts meanwhile, and a program that is written to cannot be run.
fn copy_program(name: &str, to: &Path) {
    run("cp", &[binary(name).as_path(), to]).ok();
}

#[test]
fn others_than_root_may_look_and_not_touch() {
    let lab = Lab::new();
    pair(&lab);
    // The lab's directory is closed to others; the daemon's own run directory is not.
    std::fs::set_permissions(lab.path("."), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = lab.path("vswitchctl");
    copy_program("vswitchctl", &copy);
    let (copy, socket) = (
        copy.to_string_lossy().into_owned(),
        lab.path("ctl.sock").to_string_lossy().into_owned(),
    );
    let as_nobody = |arguments: &[&str]| {
        let command = [
            &[
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                &copy,
                "--socket",
                &socket,
            ],
            arguments,
        ];
        run("setpriv", &command.concat())
    };
    assert!(as_nobody(&["show"]).ok().contains("vs0"));
    let stderr = as_nobody(&["port", "del", "a"]).failed(1);
    assert!(
        stderr.contains("root") || stderr.contains("permission") || stderr.contains("not allowed"),
        "{stderr}"
    );
    assert_eq!(lab.json(&["port", "list"]).as_array().map(Vec::len), Some(2));
}

#[test]
fn a_daemon_without_permission_says_what_it_needs() {
    let lab = Lab::new();
    std::fs::set_permissions(lab.path("."), std::fs::Permissions::from_mode(0o777)).unwrap();
    let copy = lab.path("vswitchd");
    copy_program("vswitchd", &copy);
    let config = lab.write(
        "switch.yaml",
        "version: 1\nswitches: { vs0: { port-groups: { web: {} }, ports: { a: { port-group: web, tap: tap-a } } } }\n",
    );
    let [copy, config, state, socket] = [copy, config, lab.path("state"), lab.path("ctl.sock")]
        .map(|path| path.to_string_lossy().into_owned());
    let mut daemon = lab.host().spawn(
        "nobody",
        &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
            &copy,
            "--config",
            &config,
            "--state",
            &state,
            "--socket",
            &socket,
            "--metrics",
            "127.0.0.1:9731",
        ],
    );
    daemon.wait_output("CAP_NET_ADMIN");
    assert!(!daemon.output().contains("panicked"), "{}", daemon.output());
}

#[test]
fn events_are_followed_and_rates_are_listed() {
    let lab = Lab::new();
    pair(&lab);
    let mut follower = lab.spawn_ctl("events", &["events", "--follow"]);
    follower.wait_output("port-up");
    lab.ctl(&["port", "add", "late", "--group", "web", "--tap", "late0"]);
    follower.wait_output("late");
    let rates = lab.json(&["top", "--once", "--interval", "200ms"]);
    assert!(rates.to_string().contains("\"late\""), "{rates:#}");
}

#[test]
fn a_trace_leaves_no_trace() {
    let mut wires = Wires::new(
        "",
        "web: { vlan: 9 }",
        &[("a", "port-group: web"), ("b", "port-group: web")],
    );
    wires.learn("a", mac(1));
    wires.learn("b", mac(2));
    let before = wires.lab.stats();
    let hex: String = frame(mac(2), mac(1), &[], 1)
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    let report = wires.lab.json(&["trace", "a", &hex]);
    assert_eq!(report["verdict"], "forward", "{report:#}");
    assert_eq!(report["hops"][0]["port"], "b");
    let forged: String = frame(MacAddr::BROADCAST, mac(66), &[], 1)
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect();
    let report = wires.lab.json(&["trace", "a", &forged]);
    assert_eq!(
        (&report["verdict"], &report["reason"]),
        (&"drop".into(), &"forged-transmit".into())
    );
    assert_eq!(wires.lab.stats(), before);
    assert_eq!(wires.lab.mac_port(&mac(66).to_string(), None), None);
    assert_eq!(wires.socket("b").drain().len(), 0);
}

#[test]
fn ports_leave_the_api_its_descriptors() {
    let lab = Lab::new();
    lab.start("version: 1\nswitches: { vs0: {} }\n");
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", lab.pid())).unwrap();
    let files = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .unwrap();
    let files: Vec<&str> = files.split_whitespace().collect();
    assert_eq!(files[0], files[1], "the soft limit is the hard one");

    run("prlimit", &["--pid", &lab.pid().to_string(), "--nofile=256:256"]).ok();
    let ports: String = (0..64)
        .map(|n| format!("      p{n}: {{ port-group: all, tap: many{n} }}\n"))
        .collect();
    lab.apply(&format!(
        "version: 1\nswitches:\n  vs0:\n    port-groups: {{ all: {{}} }}\n    ports:\n{ports}"
    ));
    let reason = lab.wait_down("p63");
    assert!(
        reason.contains("no file descriptor is left") && reason.contains("LimitNOFILE"),
        "{reason}"
    );
    // Others hold their connections open, and it still answers.
    let _held: Vec<_> = (0..32)
        .map(|_| std::os::unix::net::UnixStream::connect(lab.path("ctl.sock")).unwrap())
        .collect();
    lab.apply("version: 1\nswitches: { vs0: { port-groups: { all: {} }, ports: { p63: { port-group: all, tap: many63 } } } }\n");
    wait_until("its descriptors are there again", BOUND, || {
        !lab.port("p63")["reason"]
            .as_str()
            .is_some_and(|reason| reason.contains("descriptor"))
    });
}
