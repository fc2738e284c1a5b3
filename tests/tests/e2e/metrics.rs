//! The metrics, as Prometheus' own tools see them.

use std::time::Duration;

use serde_json::Value;
use vswitch_tests::frame::mac;
use vswitch_tests::lab::METRICS_PORT;
use vswitch_tests::process::run_with_input;
use vswitch_tests::stats::http_get;
use vswitch_tests::wait::wait_for;

use crate::wires::Wires;

const PROMETHEUS_PORT: u16 = 9090;

fn wires() -> Wires {
    let mut wires = Wires::new(
        "",
        "web: { vlan: 9 }",
        &[("a", "port-group: web"), ("b", "port-group: web")],
    );
    wires.learn("a", mac(1));
    wires.learn("b", mac(2));
    wires.probe("a", mac(2), mac(1), &[]);
    wires.probe("a", mac(2), mac(77), &[]);
    wires
}

#[test]
fn promtool_finds_no_fault() {
    let wires = wires();
    let scrape = wires.lab.scrape();
    let output = run_with_input("promtool", &["check", "metrics"], scrape.as_bytes());
    assert!(
        output.success() && output.stderr.trim().is_empty(),
        "{output}\n{scrape}"
    );
    assert!(
        wires
            .lab
            .host()
            .run(|| http_get(METRICS_PORT, "/healthz"))
            .is_ok()
    );
    assert!(
        wires
            .lab
            .host()
            .run(|| http_get(METRICS_PORT, "/nothing"))
            .is_err()
    );
}

#[test]
fn the_exposition_agrees_with_the_command() {
    let wires = wires();
    let (stats, metrics) = (wires.lab.stats(), wires.lab.metrics());
    for name in ["a", "b"] {
        let port = stats.port(name);
        let sum = |metric: &str, labels: &[(&str, &str)]| {
            let labels = [&[("port", name)], labels].concat();
            metrics
                .sum(metric, &labels)
                .unwrap_or_else(|| panic!("no {metric} of {name}")) as u64
        };
        assert_eq!(
            sum("vswitch_port_receive_packets_total", &[]),
            port.receive.packets
        );
        assert_eq!(sum("vswitch_port_receive_bytes_total", &[]), port.receive.bytes);
        assert_eq!(
            sum("vswitch_port_transmit_packets_total", &[]),
            port.transmit.packets
        );
        assert_eq!(sum("vswitch_port_transmit_bytes_total", &[]), port.transmit.bytes);
        assert_eq!(sum("vswitch_port_drops_total", &[]), port.dropped());
        assert_eq!(sum("vswitch_port_up", &[]), 1);
    }
    assert_eq!(
        metrics.sum(
            "vswitch_port_drops_total",
            &[("port", "a"), ("reason", "forged-transmit")]
        ),
        Some(1.0)
    );
    assert_eq!(metrics.sum("vswitch_mac_table_entries", &[]), Some(2.0));
    assert_eq!(
        metrics.sum("vswitch_config_generation", &[]),
        Some(wires.lab.generation() as f64)
    );
    assert!(
        metrics.sum("vswitch_worker_busy_seconds_total", &[])
            <= metrics.sum("vswitch_worker_seconds_total", &[])
    );
    assert!(metrics.sum("vswitch_build_info", &[]) == Some(1.0));
    // Names, in the conventions: a counter ends in _total, and each metric has its help.
    let text = wires.lab.scrape();
    for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
        let mut words = line.split(' ').skip(2);
        let (name, kind) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        assert!(
            name.starts_with("vswitch_") || name.starts_with("process_"),
            "{line}"
        );
        assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        assert!(text.contains(&format!("# HELP {name} ")), "{line}");
    }
}

#[test]
fn a_prometheus_server_stores_the_series_of_every_port() {
    let wires = wires();
    let host = wires.lab.host();
    let config = wires.lab.write(
        "prometheus.yml",
        &format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n- job_name: vswitch\n  static_configs:\n  - targets: ['127.0.0.1:{METRICS_PORT}']\n"
        ),
    );
    let _server = host.spawn(
        "prometheus",
        &[
            "prometheus",
            &format!("--config.file={}", config.display()),
            &format!("--storage.tsdb.path={}", wires.lab.path("tsdb").display()),
            &format!("--web.listen-address=127.0.0.1:{PROMETHEUS_PORT}"),
        ],
    );
    let stored = wires.lab.stats();
    let series = wait_for(
        "a scrape of every port is stored",
        Duration::from_secs(60),
        || {
            let query = "/api/v1/query?query=vswitch_port_receive_bytes_total";
            let answer: Value =
                serde_json::from_str(&host.run(|| http_get(PROMETHEUS_PORT, query)).ok()?).ok()?;
            let rows = answer["data"]["result"].as_array()?.clone();
            (rows.len() == 2).then_some(rows)
        },
    );
    for name in ["a", "b"] {
        let row = series
            .iter()
            .find(|row| row["metric"]["port"] == name)
            .expect("each port has its series");
        let value: u64 = row["value"][1]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("a sample is a number");
        assert_eq!(value, stored.port(name).receive.bytes);
    }
    // The server's own view of the target: it scrapes without error.
    let query = "/api/v1/query?query=up";
    let answer = host
        .run(|| http_get(PROMETHEUS_PORT, query))
        .expect("the server answers");
    let answer: Value = serde_json::from_str(&answer).expect("the server answers in JSON");
    assert_eq!(answer["data"]["result"][0]["value"][1], "1", "{answer:#}");
}
