//! An idle switch with many ports costs next to nothing.

use std::time::Duration;

use vswitch_tests::lab::Lab;

const PORTS: usize = 100;

/// Time over which the share of a core is measured.
const WINDOW: Duration = Duration::from_secs(10);

/// Clock ticks that a process has used, in user and kernel mode.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the daemon runs");
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let number = |index: usize| fields[index].parse::<u64>().expect("times are numbers");
    // Fields 14 and 15 of proc(5), counted from the state, which is field 3.
    number(11) + number(12)
}

/// Resident memory of a process, KiB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("a process has memory");
    line.split_whitespace()
        .nth(1)
        .and_then(|number| number.parse().ok())
        .expect("it is a number")
}

fn config(stations: &str, ports: usize) -> String {
    let rows: String = (0..ports)
        .map(|number| {
            format!("      p{number}: {{ port-group: web, tap: tap{number}, netns: {stations} }}\n")
        })
        .collect();
    format!("version: 1\nswitches:\n  vs0:\n    port-groups: {{ web: {{ vlan: 5 }} }}\n    ports:\n{rows}")
}

#[test]
fn a_hundred_idle_ports_cost_next_to_nothing() {
    let lab = Lab::new();
    let stations = lab.quiet("stations");
    lab.start(&config(stations.name(), 1));
    lab.wait_all_up();
    let pid = lab.pid();
    let small = memory(pid);
    lab.apply(&config(stations.name(), PORTS));
    stations.sh(&format!(
        "for i in $(seq 0 {}); do ip link set tap$i up; done",
        PORTS - 1
    ));
    lab.wait_all_up();
    let rows = lab.json(&["port", "list"]);
    assert_eq!(rows.as_array().map(Vec::len), Some(PORTS));
    let large = memory(pid);
    let before = ticks(pid);
    std::thread::sleep(WINDOW);
    let used = ticks(pid) - before;
    // A tick is 10 ms on Linux as user space sees it (USER_HZ).
    let share = used as f64 / (WINDOW.as_secs() as f64 * 100.0);
    let per_port = large.saturating_sub(small) as f64 / (PORTS - 1) as f64;
    println!(
        "{PORTS} idle ports: {:.2} % of a core over {WINDOW:?}; {large} KiB resident, {per_port:.1} KiB a port",
        share * 100.0
    );
    assert!(share < 0.05, "{used} ticks in {WINDOW:?}");
    assert!(
        per_port < 1024.0,
        "{small} KiB with one port, {large} KiB with {PORTS}"
    );
}
