//! Ports on stream sockets: a real guest on QEMU's `-netdev stream` in either role, and peers that don't keep to the rules.

use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;

use switch_core::addr::MacAddr;
use vswitch_tests::frame::{Random, frame, mac, marked};
use vswitch_tests::guest::{Guest, Offloads};
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::wait::{BOUND, wait_for, wait_until};

use super::qemu::transfers;

const GUEST: u32 = 0xbeef;

/// A station on a TAP, and the guest's port `vm` with these keys.
fn start(lab: &Lab, vm: &str) -> Namespace {
    let station = lab.namespace("station");
    lab.start(&format!(
        "version: 1
switches:
  vs0:
    port-groups:
      web: {{ vlan: 100 }}
    ports:
      station: {{ port-group: web, tap: eth0, netns: {} }}
      vm: {{ port-group: web, {vm}, mac: \"{}\" }}
",
        station.name(),
        mac(GUEST)
    ));
    station.address("eth0", "10.0.0.1/24");
    station.address("eth0", "fd00::1/64");
    station
}

fn boot(lab: &Lab, netdev: &str) -> Guest {
    let mut guest = Guest::start_on(lab, &lab.host(), netdev, mac(GUEST), Offloads::On);
    guest.sh(
        "ip address add 10.0.0.2/24 dev eth0 && ip -6 address add fd00::2/64 dev eth0 && ip link set eth0 up",
    );
    guest
}

/// Everything that a guest does with a network.
fn exercise(lab: &Lab, station: &Namespace, guest: &mut Guest) {
    lab.wait_up("vm");
    wait_until("the guest answers", BOUND, || station.pings("10.0.0.2", 1));
    assert!(station.pings("10.0.0.2", 3));
    wait_until("the guest answers over IPv6", BOUND, || {
        station.pings("fd00::2", 1)
    });
    guest.sh("ping -c 2 10.0.0.1");
    let before = lab.stats();
    transfers(station, guest);
    let since = lab.stats().since(&before);
    for reason in ["tx-error", "tx-offload", "rx-truncated", "forged-transmit"] {
        assert_eq!(since.drops().get(reason), None, "{since:#?}");
    }
    assert_eq!(
        lab.mac_port(&mac(GUEST).to_string(), Some(100)).as_deref(),
        Some("vm")
    );
}

#[test]
fn a_guest_that_connects_is_carried_dies_and_comes_back() {
    let lab = Lab::new();
    let path = lab.path("vm.sock");
    let station = start(&lab, &format!("stream: {}", path.display()));
    assert!(lab.wait_down("vm").contains("nobody has connected"));
    let row = lab.port("vm");
    assert_eq!(
        (&row["kind"], &row["device"]),
        (&"stream".into(), &path.to_string_lossy().into())
    );
    let metadata = std::fs::metadata(&path).expect("the switch has made the socket");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o660);
    let netdev = format!("stream,server=off,addr.type=unix,addr.path={}", path.display());
    for _ in 0..2 {
        let mut guest = boot(&lab, &netdev);
        exercise(&lab, &station, &mut guest);
        guest.kill();
        assert!(lab.wait_down("vm").contains("closed"));
        wait_until("the dead guest's address is forgotten", BOUND, || {
            lab.mac_port(&mac(GUEST).to_string(), None).is_none()
        });
    }
    lab.stop();
    assert!(!path.exists(), "the socket goes with the switch");
}

#[test]
fn a_guest_that_listens_outlives_the_switch() {
    let lab = Lab::new();
    let path = lab.path("vm.sock");
    let station = start(&lab, &format!("stream: {}, mode: client", path.display()));
    assert!(lab.wait_down("vm").contains("no such socket"));
    let netdev = format!("stream,server=on,addr.type=unix,addr.path={}", path.display());
    let mut guest = boot(&lab, &netdev);
    exercise(&lab, &station, &mut guest);

    lab.kill();
    lab.launch();
    station.address("eth0", "10.0.0.1/24");
    station.address("eth0", "fd00::1/64");
    exercise(&lab, &station, &mut guest);

    guest.kill();
    lab.wait_down("vm");
    let mut guest = boot(&lab, &netdev);
    exercise(&lab, &station, &mut guest);
}

fn connect(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).expect("the switch listens");
    for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
        set(&stream, Some(BOUND)).expect("the bound is not zero");
    }
    stream
}

fn send(stream: &mut UnixStream, frame: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(frame.len()).expect("frames are short");
    stream.write_all(&[&length.to_be_bytes(), frame].concat())
}

/// Reads frames until one has the mark.
fn receive(stream: &mut UnixStream, mark: u32) -> Vec<u8> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length).expect("the switch sends");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        stream
            .read_exact(&mut frame)
            .expect("the switch sends whole frames");
        if marked(&frame, mark) {
            return frame;
        }
    }
}

/// Two good stations and a bad one on stream sockets, and several workers.
fn start_three(lab: &Lab) -> [std::path::PathBuf; 3] {
    let paths = ["a", "b", "bad"].map(|name| lab.path(&format!("{name}.sock")));
    let [a, b, bad] = paths.each_ref().map(|path| path.display());
    lab.start(&format!(
        "version: 1
workers: {{ count: 2 }}
switches:
  vs0:
    port-groups:
      lan: {{ security: {{ forged-transmits: accept, mac-changes: accept }} }}
    ports:
      a: {{ port-group: lan, stream: {a} }}
      b: {{ port-group: lan, stream: {b} }}
      bad: {{ port-group: lan, stream: {bad} }}
"
    ));
    paths
}

/// Frames both ways between the good ones.
fn good_ones_talk(a: &mut UnixStream, b: &mut UnixStream, marks: &mut u32) {
    for _ in 0..50 {
        *marks += 2;
        send(a, &frame(mac(2), mac(1), &[], *marks)).expect("the switch reads");
        receive(b, *marks);
        send(b, &frame(mac(1), mac(2), &[], *marks + 1)).expect("the switch reads");
        receive(a, *marks + 1);
    }
}

#[test]
fn a_peer_that_breaks_the_rules_harms_itself_only() {
    let lab = Lab::new();
    let [a, b, path] = start_three(&lab);
    let (mut a, mut b) = (connect(&a), connect(&b));
    for port in ["a", "b"] {
        lab.wait_up(port);
    }
    let mut marks = 1000;
    let bad_mac = mac(3);
    // Both stations are known before the bad one comes, or it would be flooded with their frames.
    send(&mut b, &frame(MacAddr::BROADCAST, mac(2), &[], 1)).expect("the switch reads");
    receive(&mut a, 1);
    good_ones_talk(&mut a, &mut b, &mut marks);
    let (pid, before) = (lab.pid(), lab.stats());

    // Lengths that are none, and noise.
    let mut random = Random::new(7);
    for round in 0..6 {
        let mut bad = connect(&path);
        lab.wait_up("bad");
        let _ = match round {
            0 => bad.write_all(&[0; 4]),
            1 => bad.write_all(&[0xff; 4]),
            2 => bad.write_all(b"GET / HTTP/1.1\r\n\r\n"),
            _ => {
                let mut noise = random.octets(100_000);
                noise[0] |= 0x80;
                bad.write_all(&noise)
            }
        };
        assert!(lab.wait_down("bad").contains("announced a frame of"));
        good_ones_talk(&mut a, &mut b, &mut marks);
    }

    // Half a frame, and no more of it; frames of any length, whole, in any pieces.
    let mut bad = connect(&path);
    lab.wait_up("bad");
    bad.write_all(&[0, 0, 5, 0, 1, 2, 3]).expect("the switch reads");
    good_ones_talk(&mut a, &mut b, &mut marks);
    drop(bad);
    lab.wait_down("bad");
    let mut bad = connect(&path);
    lab.wait_up("bad");
    for _ in 0..300 {
        let len = 1 + random.below(3000);
        let mut octets = random.octets(len);
        // From the same source each time, so that it can't speak for the others.
        if let Some(source) = octets.get_mut(6..12) {
            source.copy_from_slice(&bad_mac.0);
        }
        send(&mut bad, &octets).expect("the switch reads");
    }
    send(&mut bad, &vec![0xee; 69_632]).expect("the switch reads");
    wait_until("the frames are counted", BOUND, || {
        lab.stats()
            .since(&before)
            .port("bad")
            .drops
            .contains_key("rx-truncated")
    });
    good_ones_talk(&mut a, &mut b, &mut marks);

    // It connects twice, and the first goes on.
    let mut second = connect(&path);
    assert_eq!(second.read(&mut [0]).expect("it is closed"), 0);
    marks += 1;
    send(&mut bad, &frame(mac(1), bad_mac, &[], marks)).expect("the switch reads");
    receive(&mut a, marks);

    // It never reads: what is sent to it is dropped in the end, and counted.
    for round in 0..200 {
        for number in 0..100 {
            send(
                &mut a,
                &[frame(bad_mac, mac(1), &[], number), vec![0; 1400]].concat(),
            )
            .expect("the switch reads");
        }
        let full = lab
            .stats()
            .since(&before)
            .port("bad")
            .drops
            .contains_key("tx-queue-full");
        if full {
            break;
        }
        assert!(round < 199, "its queue is never full");
    }
    good_ones_talk(&mut a, &mut b, &mut marks);
    // When it reads again, it finds whole frames.
    marks += 1;
    let last = marks;
    let reader = std::thread::spawn(move || receive(&mut bad, last));
    wait_for("a frame gets through again", BOUND, || {
        send(&mut a, &frame(bad_mac, mac(1), &[], last)).expect("the switch reads");
        reader.is_finished().then_some(())
    });
    reader.join().expect("frames are whole");

    assert_eq!(lab.pid(), pid);
    let log = lab.log();
    assert!(!log.contains("panicked"), "{log}");
    assert!(log.lines().count() < 500, "{} lines of log", log.lines().count());
    lab.stop();
    for name in ["a", "b", "bad"] {
        assert!(!lab.path(&format!("{name}.sock")).exists());
    }
}

#[test]
fn a_switch_that_was_killed_takes_its_sockets_again_and_nobody_else_s() {
    let lab = Lab::new();
    let [a, b, bad] = start_three(&lab);
    let (mut first, mut second) = (connect(&a), connect(&b));
    lab.wait_up("b");
    lab.kill();
    assert_eq!(first.read(&mut [0]).expect("the connection ends"), 0);
    assert_eq!(second.read(&mut [0]).expect("the connection ends"), 0);
    assert!(a.exists() && b.exists(), "nobody was there to remove them");
    // One is another program's by now.
    std::fs::remove_file(&bad).expect("it was left behind");
    let other = std::os::unix::net::UnixListener::bind(&bad).expect("the path is free");
    lab.launch();
    assert!(lab.wait_down("bad").contains("another process listens"));
    let (mut first, mut second) = (connect(&a), connect(&b));
    for port in ["a", "b"] {
        lab.wait_up(port);
    }
    send(&mut second, &frame(MacAddr::BROADCAST, mac(2), &[], 1)).expect("the switch reads");
    receive(&mut first, 1);
    lab.stop();
    assert!(!a.exists() && bad.exists());
    drop(other);
}
