//! Several workers carry ports that each have but one queue, or another number of queues than there are workers.

use serde_json::Value;
use vswitch_tests::lab::Lab;
use vswitch_tests::netns::Namespace;
use vswitch_tests::transfer::{Datagrams, tcp, udp};

const FILE: usize = 10 << 20;

/// Stations a and b have addresses of their own, which stay when their TAPs are made anew.
fn config(stations: &[Namespace; 3], workers: [&str; 3]) -> String {
    let [a, b, _] = stations;
    format!(
        "version: 1\nworkers: {{ count: 2 }}\nswitches:\n  vs0:\n    port-groups: {{ all: {{ vlan: 7, security: {{ mac-changes: accept, forged-transmits: accept }} }} }}\n    ports:\n      \
         a: {{ port-group: all, tap: eth0, netns: {}, mac: \"52:54:00:00:00:0a\"{} }}\n      \
         b: {{ port-group: all, tap: eth0, netns: {}, mac: \"52:54:00:00:00:0b\"{} }}\n      \
         c: {{ port-group: all, device: veth-c{} }}\n",
        a.name(),
        workers[0],
        b.name(),
        workers[1],
        workers[2]
    )
}

/// The workers of a port's queues.
fn workers(lab: &Lab, port: &str) -> Vec<u64> {
    let detail: Value = lab.json(&["port", "show", port]);
    let queues = detail["queues"].as_array().expect("a list of queues");
    queues
        .iter()
        .map(|queue| queue["worker"].as_u64().expect("a number"))
        .collect()
}

/// TCP and UDP among all three stations, with checksums of what arrives.
fn exercise(lab: &Lab, [a, b, c]: &[Namespace; 3]) {
    let before = lab.stats();
    let ip = |number: u8| format!("10.0.0.{number}").parse().expect("an address");
    for (from, to, number) in [(a, b, 2), (b, a, 1), (a, c, 3), (c, b, 2)] {
        tcp(from, to, ip(number), FILE);
        udp(from, to, ip(number), 300, 1400, Datagrams::Segmented);
    }
    let since = lab.stats().since(&before);
    for reason in [
        "bad-offload",
        "tx-offload",
        "tx-error",
        "tx-port-down",
        "no-buffer",
    ] {
        assert_eq!(since.drops().get(reason), None, "{since:#?}");
    }
}

#[test]
fn ports_on_different_workers_reach_each_other_and_move_between_them() {
    let lab = Lab::new();
    let host = lab.host();
    let stations = ["a", "b", "c"].map(|name| lab.namespace(name));
    lab.veth((&host, "veth-c"), (&stations[2], "eth0"));
    // One queue each, so that every frame between a and b goes from worker to worker.
    let one_each = config(&stations, [", worker: 0", ", worker: 1", ", worker: 0"]);
    lab.start(&one_each);
    for (number, station) in stations.iter().enumerate() {
        station.address("eth0", &format!("10.0.0.{}/24", number + 1));
    }
    lab.wait_all_up();
    assert_eq!((workers(&lab, "a"), workers(&lab, "b")), (vec![0], vec![1]));
    exercise(&lab, &stations);
    let handed = lab.scrape();
    let handed = handed
        .lines()
        .filter(|line| line.starts_with("vswitch_worker_handed_over_frames_total"));
    assert!(handed.clone().count() == 2 && handed.clone().all(|line| !line.ends_with(" 0")));

    // Others serve them now; nothing is opened anew, so the TAPs keep their addresses.
    lab.apply(&config(&stations, [", worker: 1", ", worker: 0", ", worker: 1"]));
    assert_eq!((workers(&lab, "a"), workers(&lab, "b")), (vec![1], vec![0]));
    exercise(&lab, &stations);
    let show = lab.ctl(&["port", "show", "a"]);
    assert!(show.contains("one, by worker 1"), "{show}");
    let top = lab.ctl(&["top", "--once"]);
    assert!(top.contains("busy workers 0: ") && top.contains("1: "), "{top}");

    // A worker that is not there is refused.
    let output = lab.try_apply(&config(&stations, [", worker: 2", "", ""]));
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("there is no worker 2"));

    // A queue of every port for each worker.
    lab.apply(&config(&stations, ["", "", ""]));
    for (number, station) in stations[..2].iter().enumerate() {
        station.address("eth0", &format!("10.0.0.{}/24", number + 1));
    }
    lab.wait_all_up();
    for port in ["a", "b", "c"] {
        let mut workers = workers(&lab, port);
        workers.sort_unstable();
        assert_eq!(workers, [0, 1], "{port}");
    }
    exercise(&lab, &stations);
}
