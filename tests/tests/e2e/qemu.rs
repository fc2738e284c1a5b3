//! A real guest, on a TAP that QEMU opened and the switch takes as a `device`.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::time::Duration;

use vswitch_tests::frame::{Random, mac};
use vswitch_tests::guest::{Guest, Offloads};
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::process::run_with_input;
use vswitch_tests::wait::{BOUND, wait_until};

const FILE: usize = 4 << 20;

pub(crate) fn sha256(data: &[u8]) -> String {
    // The sum is of what is read, so that no copy in a file is needed.
    std::fs::create_dir_all(std::env::temp_dir()).expect("there is a directory for temporary files");
    let file = tempfile::NamedTempFile::new().expect("a file can be made");
    std::fs::write(file.path(), data).expect("a file can be written");
    let output = run_with_input("sha256sum", &[file.path()], b"").ok();
    output.split(' ').next().unwrap_or_default().to_owned()
}

pub(crate) fn serve<T: Send>(
    station: &Namespace,
    port: u16,
    serve: impl FnOnce(std::net::TcpStream) -> T + Send,
) -> T {
    station.run(|| {
        let listener = TcpListener::bind(("10.0.0.1", port)).expect("the station has the address");
        listener
            .set_nonblocking(true)
            .expect("a socket can be non-blocking");
        let (stream, _) =
            vswitch_tests::wait::wait_for("the guest connects", Duration::from_secs(60), || {
                listener.accept().ok()
            });
        stream.set_nonblocking(false).expect("a socket can be blocking");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("the bound is not zero");
        stream
            .set_write_timeout(Some(Duration::from_secs(60)))
            .expect("the bound is not zero");
        serve(stream)
    })
}

/// A file to the guest and one from it, compared by their checksums. The station has 10.0.0.1.
pub(crate) fn transfers(station: &Namespace, guest: &mut Guest) {
    let data = Random::new(3).octets(FILE);
    let sum = sha256(&data);
    // The guest's client may be quicker than the server.
    guest.begin("for i in 1 2 3 4 5 6 7 8 9; do nc 10.0.0.1 4001 </dev/null >/tmp/file && test -s /tmp/file && break; sleep 1; done; sha256sum /tmp/file");
    serve(station, 4001, |mut stream| {
        stream.write_all(&data).expect("the guest takes the file");
        stream.shutdown(Shutdown::Write).expect("the connection stands");
        let _ = stream.read(&mut [0]);
    });
    let (output, success) = guest.end();
    assert!(success && output.contains(&sum), "{sum} was sent:\n{output}");

    let sum = guest.sh("dd if=/dev/urandom of=/tmp/file bs=1M count=4 2>/dev/null; sha256sum /tmp/file");
    guest.begin("for i in 1 2 3 4 5 6 7 8 9; do nc 10.0.0.1 4002 </tmp/file && break; sleep 1; done");
    let got = serve(station, 4002, |mut stream| {
        let mut got = Vec::new();
        stream.read_to_end(&mut got).expect("the guest sends the file");
        got
    });
    assert!(guest.end().1);
    assert_eq!(got.len(), FILE);
    assert!(sum.contains(&sha256(&got)), "{sum}");
}

#[test]
fn a_guest_on_its_own_tap_is_carried_dies_and_comes_back() {
    let lab = Lab::new();
    let (host, station) = (lab.host(), lab.namespace("station"));
    let guest_mac = mac(0xbeef);
    lab.start(&format!(
        "version: 1
switches:
  vs0:
    port-groups:
      web: {{ vlan: 100 }}
    ports:
      station: {{ port-group: web, tap: eth0, netns: {} }}
      vm: {{ port-group: web, device: vnet0, mac: \"{guest_mac}\" }}
",
        station.name()
    ));
    station.address("eth0", "10.0.0.1/24");
    station.address("eth0", "fd00::1/64");
    assert!(lab.wait_down("vm").contains("vnet0"));
    for offloads in [Offloads::On, Offloads::Off] {
        let mut guest = Guest::start(&lab, &host, "vnet0", guest_mac, offloads);
        guest.sh("ip address add 10.0.0.2/24 dev eth0 && ip -6 address add fd00::2/64 dev eth0 && ip link set eth0 up");
        lab.wait_up("vm");
        wait_until("the guest answers", BOUND, || station.pings("10.0.0.2", 1));
        assert!(station.pings("10.0.0.2", 3));
        wait_until("the guest answers over IPv6", BOUND, || {
            station.pings("fd00::2", 1)
        });
        guest.sh("ping -c 2 10.0.0.1");
        let before = lab.stats();
        transfers(&station, &mut guest);
        let since = lab.stats().since(&before);
        println!("{offloads:?}: {since:#?}");
        for reason in ["bad-offload", "tx-offload", "rx-truncated", "forged-transmit"] {
            assert_eq!(since.drops().get(reason), None);
        }
        assert_eq!(
            lab.mac_port(&guest_mac.to_string(), Some(100)).as_deref(),
            Some("vm")
        );
        guest.kill();
        let reason = lab.wait_down("vm");
        assert!(reason.contains("vnet0"), "{reason}");
        wait_until("the dead guest's address is forgotten", BOUND, || {
            lab.mac_port(&guest_mac.to_string(), None).is_none()
        });
    }
}
