//! Captures, as tshark reads them.

use switch_core::addr::MacAddr;
use vswitch_tests::frame::{DOT1Q, frame, mac};
use vswitch_tests::process::run;
use vswitch_tests::wait::{BOUND, wait_until};

use crate::wires::Wires;

fn tshark(file: &str, arguments: &[&str]) -> Vec<Vec<String>> {
    let text = run(
        "tshark",
        &[
            &["-n", "-r", file, "-T", "fields", "-E", "separator=|"],
            arguments,
        ]
        .concat(),
    )
    .ok();
    text.lines()
        .map(|line| line.split('|').map(ToOwned::to_owned).collect())
        .collect()
}

fn wires() -> Wires {
    let ports = [
        ("a", "port-group: web"),
        ("b", "port-group: web"),
        ("t", "port-group: web, vlan: { trunk: [9] }"),
    ];
    let mut wires = Wires::new("", "web: { vlan: 9 }", &ports);
    wires.learn("a", mac(1));
    wires.learn("b", mac(2));
    wires
}

/// Captures into a file while frames are sent, until the capture has had enough of them.
fn capture(wires: &Wires, arguments: &[&str], from: &str, octets: &[u8]) -> String {
    let file = wires.lab.path("capture.pcapng").to_string_lossy().into_owned();
    let mut capture = wires
        .lab
        .spawn_ctl("capture", &[&["capture", "-w", &file], arguments].concat());
    wait_until("the capture has its frames", BOUND, || {
        wires.flood(from, std::iter::once(octets.to_vec()));
        capture.ended().is_some()
    });
    capture.finish(BOUND);
    file
}

#[test]
fn tshark_reads_a_capture_of_a_port() {
    let wires = wires();
    let octets = frame(mac(2), mac(1), &[], 7);
    let file = capture(&wires, &["b", "--count", "3"], "a", &octets);
    let rows = tshark(
        &file,
        &[
            "-e",
            "eth.dst",
            "-e",
            "eth.src",
            "-e",
            "frame.len",
            "-e",
            "frame.interface_name",
        ],
    );
    assert_eq!(rows.len(), 3, "{rows:?}");
    for row in rows {
        assert_eq!(
            row[..3],
            [mac(2).to_string(), mac(1).to_string(), octets.len().to_string()]
        );
        assert_eq!(row[3], "b");
    }
}

#[test]
fn a_capture_shows_each_port_with_its_tag() {
    let wires = wires();
    let file = capture(
        &wires,
        &["t", "--count", "2"],
        "a",
        &frame(MacAddr::BROADCAST, mac(1), &[], 7),
    );
    for row in tshark(&file, &["-e", "vlan.id", "-e", "frame.interface_name"]) {
        assert_eq!(row, ["9", "t"]);
    }
    // As the frame came in, at the port that it came from.
    let file = capture(
        &wires,
        &["a", "--count", "2"],
        "a",
        &frame(MacAddr::BROADCAST, mac(1), &[], 7),
    );
    for row in tshark(&file, &["-e", "vlan.id", "-e", "frame.interface_name"]) {
        assert_eq!(row, ["", "a"]);
    }
}

#[test]
fn a_capture_of_drops_has_the_reason_of_each() {
    let wires = wires();
    for (octets, reason) in [
        (frame(mac(2), mac(66), &[], 7), "forged-transmit"),
        (frame(mac(2), mac(1), &[(DOT1Q, 9)], 7), "vlan-tagged"),
        (
            frame(MacAddr([1, 0x80, 0xc2, 0, 0, 0]), mac(1), &[], 7),
            "reserved-address",
        ),
    ] {
        let file = capture(&wires, &["--drops", "--count", "2"], "a", &octets);
        let rows = tshark(&file, &["-e", "frame.comment", "-e", "frame.len"]);
        assert_eq!(rows.len(), 2);
        for row in rows {
            assert!(row[0].contains(reason), "{row:?}");
            assert_eq!(row[1], octets.len().to_string());
        }
    }
}

#[test]
fn a_capture_can_be_cut_and_piped() {
    let wires = wires();
    let octets = frame(mac(2), mac(1), &[], 7);
    let mut capture = wires.lab.spawn_ctl(
        "pipe",
        &["capture", "a", "-w", "-", "--count", "2", "--snap-len", "32"],
    );
    wait_until("the capture has its frames", BOUND, || {
        wires.flood("a", std::iter::once(octets.clone()));
        capture.ended().is_some()
    });
    // Its standard output is the file.
    let file = wires.lab.path("pipe.log").to_string_lossy().into_owned();
    for row in tshark(&file, &["-e", "frame.len", "-e", "frame.cap_len"]) {
        assert_eq!(row, [octets.len().to_string(), "32".to_owned()]);
    }
}
