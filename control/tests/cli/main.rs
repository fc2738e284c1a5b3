//! `vswitchctl` as a process, against an API of the test's own on a Unix socket: exit statuses, texts, and what it asks for.

mod api;

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use api::{Api, Seen, command, ctl, fails, stderr, stdout};

fn port_rows() -> Value {
    json!([
        { "name": "vm1", "switch": "vs0", "group": "web", "kind": "tap", "device": "vm1", "state": "up", "reason": null,
          "mac": "52:54:00:00:00:01", "vlan": "100", "new-key": [1] },
        { "name": "vm2", "switch": "vs0", "group": "web", "kind": "device", "device": "vnet2", "state": "down",
          "reason": "no device `vnet2`", "mac": null, "vlan": "trunk all" },
    ])
}

fn port_detail(mac: &str, settings: &Value) -> Value {
    let mut row = port_rows()[0].clone();
    row["mac"] = json!(mac);
    row["settings"] = settings.clone();
    row["macs"] = json!(1);
    row["queues"] = json!([{ "queue": 0, "worker": 1, "in-use": true, "frames": 3 }]);
    row["stats"] = stats();
    row
}

fn stats() -> Value {
    let direction = json!({ "packets": 3, "bytes": 1_234_567, "unicast": 1, "multicast": 1, "broadcast": 1 });
    json!({ "name": "vm1", "receive": direction, "transmit": direction, "drops": { "forged-transmit": 2 }, "kernel-drops": 0 })
}

#[test]
fn without_a_daemon_one_sentence_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.sock");
    fails(
        &ctl(&missing, &["show"]),
        1,
        &[
            "error: vswitchd is not running",
            "none.sock",
            "vswitchd --config",
            "--socket",
        ],
    );

    let stale = dir.path().join("stale.sock");
    drop(UnixListener::bind(&stale).unwrap());
    fails(
        &ctl(&stale, &["show"]),
        1,
        &[
            "vswitchd is not running",
            "nobody listens",
            "start vswitchd again",
        ],
    );

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    fails(&ctl(&file, &["show"]), 1, &["is not a socket", "--socket"]);

    let long = dir.path().join("x".repeat(200));
    fails(&ctl(&long, &["show"]), 1, &["can't reach vswitchd", "--socket"]);
}

#[test]
fn errors_are_documents_for_programs() {
    let dir = tempfile::tempdir().unwrap();
    let output = ctl(&dir.path().join("none.sock"), &["-o", "json", "show"]);
    assert_eq!(output.status.code(), Some(1));
    let document: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(
        document["error"]
            .as_str()
            .unwrap()
            .starts_with("vswitchd is not running")
    );
}

#[test]
fn wrong_usage_is_status_2() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none.sock");
    for arguments in [
        &["shwo"][..],
        &["port"],
        &["trace", "vm1", "abc"],
        &["trace", "vm1", "pnig", "10.0.0.1"],
        &["port", "set", "vm1", "x"],
    ] {
        let output = ctl(&none, arguments);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{arguments:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn what_is_no_api_is_named() {
    let api = Api::start(|_| (200, b"<html>".to_vec()));
    fails(
        &api.run(&["show"]),
        1,
        &["does not answer as vswitchd does", "same version"],
    );
    let api = Api::start(|_| (500, b"oops".to_vec()));
    fails(
        &api.run(&["show"]),
        1,
        &["does not answer as vswitchd does", "500"],
    );
    let api = Api::with(&[("GET /v1/ports", 200, json!([{ "name": 7 }]))]);
    fails(
        &api.run(&["port", "list"]),
        1,
        &["does not answer as vswitchd does"],
    );
}

#[test]
fn json_rows_are_the_rows_of_the_api() {
    let api = Api::with(&[("GET /v1/ports", 200, port_rows())]);
    let output = api.run(&["-o", "json", "port", "list"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap(),
        port_rows()
    );
    // Keys in the order of the API, and those that this version doesn't know.
    let first: Vec<&str> = stdout(&output).lines().take(4).map(str::trim).collect();
    assert_eq!(first, ["[", "{", "\"name\": \"vm1\",", "\"switch\": \"vs0\","]);
    let yaml = api.run(&["-o", "yaml", "port", "list"]);
    assert!(
        stdout(&yaml).starts_with("- name: vm1\n  switch: vs0\n"),
        "{}",
        stdout(&yaml)
    );
}

#[test]
fn the_table_of_ports() {
    let api = Api::with(&[("GET /v1/ports", 200, port_rows())]);
    assert_eq!(
        stdout(&api.run(&["port", "list"])),
        "\
PORT  GROUP  VLAN       KIND    DEVICE  MAC                STATE  REASON
vm1   web    100        tap     vm1     52:54:00:00:00:01  up
vm2   web    trunk all  device  vnet2   -                  down   no device `vnet2`
"
    );
}

#[test]
fn the_counters_of_ports() {
    let api = Api::with(&[
        ("GET /v1/stats", 200, json!([stats()])),
        ("GET /v1/ports/vm1/stats", 200, stats()),
    ]);
    assert_eq!(
        stdout(&api.run(&["port", "stats"])),
        "\
PORT  RX PACKETS  RX BYTES  TX PACKETS  TX BYTES  DROPS  TOP REASON
vm1            3   1234567           3   1234567      2  forged-transmit
"
    );
    assert_eq!(
        stdout(&api.run(&["port", "stats", "vm1", "-H"])),
        "\
DIRECTION  PACKETS  BYTES  UNICAST  MULTICAST  BROADCAST
receive          3  1.23M        1          1          1
transmit         3  1.23M        1          1          1

DROPS  REASON           MEANING
    2  forged-transmit  The source is not the port's MAC address, and `security.forged-transmits` is `reject`.
"
    );
}

#[test]
fn refusals_of_the_daemon_pass_through() {
    let api = Api::with(&[(
        "GET /v1/ports/vm7",
        404,
        json!({ "error": "there is no port `vm7`; did you mean `vm1`?" }),
    )]);
    fails(
        &api.run(&["port", "show", "vm7"]),
        1,
        &["error: there is no port `vm7`; did you mean `vm1`?"],
    );
}

#[test]
fn a_rejected_configuration_is_printed_like_a_compilers() {
    let text = "version: 1\nswitches:\n  vs0:\n    mtu: 99999\n    port-groups:\n      web: { vlna: 100 }\n";
    let problem = |message: &str, path: &str, line: usize, column: usize, help: Option<&str>| json!({ "message": message, "path": path, "line": line, "column": column, "help": help });
    let api = Api::with(&[(
        "PUT /v1/config",
        422,
        json!({ "error": "2 errors", "problems": [
            problem("99999 is not an MTU", "switches.vs0.mtu", 4, 10, Some("68 to 9216 are possible")),
            problem("unknown key `vlna`", "switches.vs0.port-groups.web.vlna", 6, 14, Some("did you mean `vlan`?")),
        ] }),
    )]);
    let file = api.dir.path().join("switch.yaml");
    std::fs::write(&file, text).unwrap();
    let name = file.to_str().unwrap();
    let output = api.run(&["apply", "-f", name]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    let stderr = stderr(&output);
    for part in [
        "99999 is not an MTU",
        &format!("{name}:4:10"),
        "    mtu: 99999",
        "68 to 9216 are possible",
        "unknown key `vlna`",
        &format!("{name}:6:14"),
        "did you mean `vlan`?",
    ] {
        assert!(stderr.contains(part), "`{part}` is missing in:\n{stderr}");
    }
    assert!(
        stderr.ends_with(&format!("2 errors in {name}; nothing was changed\n")),
        "{stderr}"
    );
    assert!(!stderr.contains('\u{1b}'), "no colour into a pipe");
    assert_eq!(api.seen()[0].body["text"], json!(text));

    let output = api.run(&["-o", "json", "apply", "-f", name]);
    let document: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert_eq!(document["problems"].as_array().map(Vec::len), Some(2));
}

#[test]
fn apply_says_what_it_did_and_asks_for_what_it_was_told() {
    let changes = json!([
        { "action": "add", "path": "switches.vs0.ports.vm3", "to": { "port-group": "web", "tap": "vm3" } },
        { "action": "change", "path": "switches.vs0.mtu", "from": 1500, "to": 9000 },
    ]);
    let report =
        json!({ "generation": 5, "applied": true, "changes": changes, "warnings": ["port `vm3` is down"] });
    let api = Api::with(&[("PUT /v1/config", 200, report.clone())]);
    let mut child = command(
        &api.socket(),
        &["apply", "-f", "-", "--confirm", "90s", "-m", "more ports"],
    )
    .stdin(Stdio::piped())
    .stdout(Stdio::piped())
    .spawn()
    .unwrap();
    child.stdin.take().unwrap().write_all(b"version: 1\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        stdout(&output),
        "\
+ switches.vs0.ports.vm3: { port-group: web, tap: vm3 }
~ switches.vs0.mtu: 1500 → 9000
warning: port `vm3` is down
2 changes applied; generation 5 is in force.
Goes back to the configuration before unless `vswitchctl confirm` comes within 90 s.
"
    );
    assert_eq!(
        api.seen()[0].body,
        json!({ "text": "version: 1\n", "name": "standard input", "dry-run": false, "confirm-seconds": 90, "comment": "more ports" })
    );

    let mut dry = report;
    dry["applied"] = json!(false);
    let api = Api::with(&[("PUT /v1/config", 200, dry)]);
    let file = api.dir.path().join("switch.yaml");
    std::fs::write(&file, "version: 1\n").unwrap();
    let name = file.to_str().unwrap();
    let output = api.run(&["apply", "-f", name, "--dry-run"]);
    assert!(
        stdout(&output).ends_with("2 changes would be applied; generation 5 stays in force.\n"),
        "{output:?}"
    );
    assert_eq!(api.seen()[0].body["dry-run"], json!(true));
    assert_eq!(api.run(&["diff", "-f", name]).status.code(), Some(0));
    let output = api.run(&["diff", "-f", name, "--exit-code"]);
    assert_eq!((output.status.code(), stderr(&output)), (Some(1), ""));
    let output = api.run(&["diff", "-f", name, "-o", "json"]);
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), changes);
}

#[test]
fn rollback_without_a_number_goes_to_the_generation_before() {
    let row = |generation: u64, current: bool| {
        json!({ "generation": generation, "time": "2026-01-01T00:00:00Z", "author": "uid 0", "comment": "apply",
                "changes": 1, "current": current })
    };
    let report = json!({ "generation": 8, "applied": true, "changes": [], "warnings": [] });
    let api = Api::with(&[
        (
            "GET /v1/history",
            200,
            json!([row(7, true), row(6, false), row(5, false)]),
        ),
        ("POST /v1/rollback", 200, report.clone()),
    ]);
    assert_eq!(api.run(&["rollback"]).status.code(), Some(0));
    assert_eq!(api.run(&["rollback", "5"]).status.code(), Some(0));
    let asked: Vec<Value> = api
        .seen()
        .into_iter()
        .filter(|seen| seen.method == "POST")
        .map(|seen| seen.body)
        .collect();
    assert_eq!(asked, [json!({ "generation": 6 }), json!({ "generation": 5 })]);

    let api = Api::with(&[
        ("GET /v1/history", 200, json!([row(1, true)])),
        ("POST /v1/rollback", 200, report),
    ]);
    fails(
        &api.run(&["rollback"]),
        1,
        &["no configuration before this one", "vswitchctl history"],
    );
}

#[test]
fn small_edits_ask_for_what_they_say() {
    let report = json!({ "generation": 2, "applied": true, "changes": [], "warnings": [] });
    let api = Api::start(move |_| (200, serde_json::to_vec(&report).unwrap()));
    for arguments in [
        &[
            "port",
            "add",
            "vm4",
            "--group",
            "web",
            "--tap",
            "vm4",
            "--mac",
            "52:54:00:00:00:04",
            "--vlan",
            "{trunk: [1, 2-3]}",
        ][..],
        &[
            "port", "add", "vm5", "-g", "web", "--stream", "/run/vm5", "--mode", "client",
        ],
        &[
            "port",
            "add",
            "vm6",
            "-g",
            "web",
            "--vhost-user",
            "/run/vm6",
            "--queues",
            "4",
        ],
        &[
            "port",
            "set",
            "vm4",
            "security.promiscuous=accept",
            "--unset",
            "vlan",
        ],
        &["port", "del", "a/b"],
        &["mac", "add", "vm4", "52:54:00:00:00:04", "--vlan", "7"],
        &["mac", "del", "vm4", "52:54:00:00:00:04"],
    ] {
        let output = api.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
    }
    let seen = |method: &str, path: &str, body: Value| Seen {
        method: method.into(),
        path: path.into(),
        body,
    };
    assert_eq!(
        api.seen(),
        [
            seen(
                "POST",
                "/v1/ports",
                json!({ "switch": null, "name": "vm4", "settings": {
                "port-group": "web", "tap": "vm4", "mac": "52:54:00:00:00:04", "vlan": { "trunk": [1, "2-3"] } } })
            ),
            seen(
                "POST",
                "/v1/ports",
                json!({ "switch": null, "name": "vm5", "settings": {
                "port-group": "web", "stream": "/run/vm5", "mode": "client" } })
            ),
            seen(
                "POST",
                "/v1/ports",
                json!({ "switch": null, "name": "vm6", "settings": {
                "port-group": "web", "vhost-user": "/run/vm6", "queues": 4 } })
            ),
            seen(
                "PATCH",
                "/v1/ports/vm4",
                json!({ "switch": null, "name": null, "settings": {
                "security.promiscuous": "accept", "vlan": null } })
            ),
            seen("DELETE", "/v1/ports/a%2Fb", Value::Null),
            seen(
                "POST",
                "/v1/macs",
                json!({ "port": "vm4", "mac": "52:54:00:00:00:04", "vlan": 7 })
            ),
            seen(
                "DELETE",
                "/v1/macs",
                json!({ "port": "vm4", "mac": "52:54:00:00:00:04", "vlan": null })
            ),
        ]
    );
}

#[test]
fn a_refused_edit_names_every_problem() {
    let problems = json!([{ "message": "no port group `wbe`", "path": "switches.vs0.ports.vm4.port-group", "line": 3,
                            "column": 1, "help": "did you mean `web`?" }]);
    let refusal = json!({ "error": "port `vm4` is not right; nothing was changed", "problems": problems });
    let api = Api::with(&[("POST /v1/ports", 422, refusal)]);
    let output = api.run(&["port", "add", "vm4", "-g", "wbe", "--tap", "vm4"]);
    assert_eq!(output.status.code(), Some(1));
    for part in [
        "no port group `wbe` (switches.vs0.ports.vm4.port-group)",
        "did you mean `web`?",
        "nothing was changed\n",
    ] {
        assert!(
            stderr(&output).contains(part),
            "`{part}` is missing in: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_trace_takes_its_addresses_from_the_switch() {
    let report = json!({ "frame": "a frame", "steps": [], "verdict": "drop", "reason": "same-port", "explanation": "Why.", "hops": [] });
    let config = json!({ "generation": 1, "config": { "version": 1, "switches": { "vs0": { "ports": {
        "vm2": { "port-group": "web", "tap": "vm2", "addresses": ["10.0.0.2"] } } } } } });
    let api = Api::with(&[
        (
            "GET /v1/ports/vm1",
            200,
            port_detail("52:54:00:00:00:01", &json!({ "addresses": ["10.0.0.1"] })),
        ),
        (
            "GET /v1/ports/vm2",
            200,
            port_detail("52:54:00:00:00:02", &json!({})),
        ),
        ("GET /v1/config", 200, config),
        ("POST /v1/trace", 200, report),
    ]);
    let frame = |arguments: &[&str]| {
        let output = api.run(arguments);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let last = api.seen().pop().unwrap();
        assert_eq!(
            (last.path.as_str(), &last.body["port"]),
            ("/v1/trace", &json!("vm1"))
        );
        last.body["frame"].as_str().unwrap().to_owned()
    };
    let ping = "5254000000025254000000010800450000";
    assert!(frame(&["trace", "vm1", "ping", "10.0.0.2"]).starts_with(ping));
    assert!(frame(&["trace", "vm1", "ping 10.0.0.9 to vm2"]).starts_with(ping));
    assert!(
        frame(&["trace", "vm1", "ping", "10.0.0.2"]).contains("0a0000010a000002"),
        "source of `addresses`"
    );
    assert_eq!(frame(&["trace", "vm1", "ff", "ff:ff"]), "ffffff");
    assert_eq!(
        stdout(&api.run(&["trace", "vm1", "00"])),
        "vm1  a frame\n\ndrop: same-port — Why.\n"
    );
    fails(
        &api.run(&["trace", "vm1", "ping", "10.0.0.3"]),
        2,
        &["who has 10.0.0.3", "to PORT"],
    );
    fails(
        &api.run(&["trace", "vm1", "@/nonexistent.pcap"]),
        1,
        &["can't read /nonexistent.pcap"],
    );
}

#[test]
fn a_capture_prints_lines_or_writes_pcapng() {
    let pcapng = capture();
    let stream = pcapng.clone();
    let api = Api::start(move |_| (200, stream.clone()));
    let output = api.run(&["capture", "vm1", "--drops", "--count", "1"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        stdout(&output),
        "00:00:01.000000  vm1      rx  01:01:01:01:01:01 > 01:01:01:01:01:01, 802.3, len 257, 60 octets  [drop: runt]\n"
    );
    assert_eq!(stderr(&output), "1 frame captured\n");
    assert_eq!(api.seen()[0].path, "/v1/capture?drops=true&port=vm1&snap-len=256");

    // A file that is there outlives a daemon that is not.
    let kept = api.dir.path().join("kept.pcapng");
    std::fs::write(&kept, "frames").unwrap();
    let none = api.dir.path().join("none.sock");
    fails(
        &ctl(&none, &["capture", "-w", kept.to_str().unwrap()]),
        1,
        &["vswitchd is not running"],
    );
    assert_eq!(std::fs::read(&kept).unwrap(), b"frames");

    // Here the stream ends, which no capture does by itself.
    let file = api.dir.path().join("out.pcapng");
    let output = api.run(&["capture", "-w", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).starts_with("2 frames captured\nerror: vswitchd has ended"),
        "{output:?}"
    );
    assert_eq!(std::fs::read(&file).unwrap(), pcapng);
    let output = api.run(&["capture", "-w", "-", "--snap-len", "64", "--count", "2"]);
    assert_eq!(output.stdout, pcapng);
    assert_eq!(api.seen()[2].path, "/v1/capture?drops=false&snap-len=64");
}

/// Two frames of 14 octets at port vm1.
fn capture() -> Vec<u8> {
    use pcap_file::DataLink;
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
    use pcap_file::pcapng::blocks::interface_description::{
        InterfaceDescriptionBlock, InterfaceDescriptionOption,
    };

    let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
    writer
        .write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName("vm1".into()),
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        })
        .unwrap();
    for _ in 0..2 {
        writer
            .write_pcapng_block(EnhancedPacketBlock {
                interface_id: 0,
                timestamp: std::time::Duration::from_secs(1),
                original_len: 60,
                data: vec![1; 14].into(),
                options: vec![
                    EnhancedPacketOption::Flags(1),
                    EnhancedPacketOption::Comment("drop: runt".into()),
                ],
            })
            .unwrap();
    }
    writer.into_inner()
}

#[test]
fn events_are_lines_or_documents() {
    let row = |kind: &str, port: Option<&str>| json!({ "time": "2026-01-01T00:00:00.000Z", "kind": kind, "port": port, "message": "What happened." });
    let lines = format!("{}\n{}\n", row("start", None), row("port-down", Some("vm1")));
    let api = Api::start(move |_| (200, lines.clone().into_bytes()));
    let output = api.run(&["events"]);
    assert_eq!(
        stdout(&output),
        "\
2026-01-01T00:00:00.000Z  start         What happened.
2026-01-01T00:00:00.000Z  port-down     port vm1: What happened.
"
    );
    let output = api.run(&["-o", "json", "events"]);
    assert_eq!(
        serde_json::from_slice::<Value>(&output.stdout).unwrap(),
        json!([row("start", None), row("port-down", Some("vm1"))])
    );
    let output = api.run(&["-o", "json", "events", "--follow"]);
    let rows: Vec<Value> = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(rows, [row("start", None), row("port-down", Some("vm1"))]);
    assert_eq!(api.seen()[2].path, "/v1/events?follow=true");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (ready, go) = std::sync::mpsc::channel::<()>();
    let api = Api::start(move |_| {
        // Answers once the reader has gone.
        let _ = go.recv();
        (200, serde_json::to_vec(&port_rows()).unwrap())
    });
    let mut child = command(&api.socket(), &["port", "list"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    ready.send(()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
}

#[test]
fn validate_and_schema_need_no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let none = dir.path().join("none.sock");
    let good = dir.path().join("good.yaml");
    std::fs::write(
        &good,
        "version: 1\nswitches:\n  vs0:\n    port-groups: { web: { vlan: 100 } }\n    ports: { vm1: { port-group: web, tap: vm1 } }\n",
    )
    .unwrap();
    let output = ctl(&none, &["validate", good.to_str().unwrap()]);
    assert_eq!(
        stdout(&output),
        format!("{} is valid: 1 switch, 1 port group, 1 port.\n", good.display()),
        "{output:?}"
    );

    let bad = dir.path().join("bad.yaml");
    std::fs::write(
        &bad,
        "version: 1\nswitches:\n  vs0:\n    ports: { vm1: { port-group: web, tap: vm1 } }\n",
    )
    .unwrap();
    let output = ctl(&none, &["validate", bad.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("1 error in "), "{output:?}");

    let output = ctl(&none, &["schema"]);
    let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(schema.get("properties").is_some());
    fails(
        &ctl(&none, &["validate", "/dev/zero"]),
        1,
        &["/dev/zero", "longer than 16 MiB"],
    );
    fails(
        &ctl(&none, &["validate", "/nonexistent.yaml"]),
        1,
        &["can't read /nonexistent.yaml: no such file"],
    );
}

#[test]
fn completions_know_the_ports() {
    let api = Api::with(&[("GET /v1/ports", 200, port_rows())]);
    for shell in ["bash", "zsh", "fish"] {
        let output = api.run(&["completions", shell]);
        assert!(
            output.status.success() && stdout(&output).contains("VSWITCHCTL_COMPLETE"),
            "{shell}"
        );
    }
    // As the script for fish asks.
    let ask = |socket: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_vswitchctl"))
            .args(["--", "vswitchctl", "port", "show", "vm"])
            .env("VSWITCHCTL_COMPLETE", "fish")
            .env("VSWITCH_SOCKET", socket)
            .output()
            .unwrap();
        (stdout(&output).to_owned(), stderr(&output).to_owned())
    };
    assert_eq!(ask(&api.socket()), ("vm1\nvm2\n".to_owned(), String::new()));
    let (candidates, errors) = ask(&api.dir.path().join("none.sock"));
    assert!(!candidates.contains("vm1") && errors.is_empty(), "{errors}");
}
