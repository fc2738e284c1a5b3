//! `/metrics`: the counters of the datapath in the Prometheus text format, by its naming conventions
//! (<https://prometheus.io/docs/practices/naming/>).
//!
//! Nothing is counted here: a scrape reads the counters that the workers keep anyway, each written by one thread and
//! read without a lock, so it never slows a worker. Receive is from the port into the switch, transmit from the
//! switch to the port. Every drop reason is always present, so that `rate()` sees the first drop too
//! (<https://prometheus.io/docs/practices/instrumentation/#avoid-missing-metrics>).

use crate::api::model::UplinkRow;
use datapath::{BATCH_BUCKETS, DirectionStats, PortStats, WorkerStats};
use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Encoder, Registry, TextEncoder};
use switch_core::fdb::FdbCounters;
use switch_core::verdict::DropReason;

/// A port as it is now.
#[derive(Clone, Debug)]
pub struct PortSample {
    /// Its switch.
    pub switch: String,
    /// Its port group; empty for an uplink.
    pub group: String,
    /// What it is as an uplink.
    pub uplink: Option<UplinkRow>,
    /// Its name.
    pub port: String,
    /// Whether it carries frames.
    pub up: bool,
    /// Its counters.
    pub stats: PortStats,
    /// The worker of each of its queues.
    pub queues: Vec<usize>,
}

/// The MAC table of a switch as it is now.
#[derive(Clone, Debug)]
pub struct SwitchSample {
    /// Its name.
    pub switch: String,
    /// Its counters.
    pub macs: FdbCounters,
    /// How many entries it has room for.
    pub capacity: usize,
}

/// How applies ended since the start of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ApplyCounts {
    /// In force.
    pub applied: u64,
    /// Nothing differed.
    pub unchanged: u64,
    /// The configuration has errors.
    pub refused: u64,
    /// It could not be stored.
    pub failed: u64,
}

/// Everything a scrape shows.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The ports.
    pub ports: Vec<PortSample>,
    /// The switches.
    pub switches: Vec<SwitchSample>,
    /// The workers.
    pub workers: Vec<WorkerStats>,
    /// Generation in force.
    pub generation: u64,
    /// Whether it waits for its confirmation.
    pub confirm_pending: bool,
    /// How applies ended.
    pub applies: ApplyCounts,
    /// Events of the workers that nobody took in time.
    pub lost_events: u64,
    /// Captures that run.
    pub captures: usize,
}

/// Where a scrape gets its sample.
pub type Source = Box<dyn Fn() -> Sample + Send + Sync>;

/// The registry behind `/metrics`.
pub struct Metrics {
    registry: Registry,
}

impl Metrics {
    /// Metrics of the switch, and of the process where the kernel tells.
    pub fn new(source: Source) -> prometheus::Result<Self> {
        let registry = Registry::new();
        registry.register(Box::new(SwitchCollector::new(source)?))?;
        registry.register(Box::new(
            prometheus::process_collector::ProcessCollector::for_self(),
        ))?;
        Ok(Self { registry })
    }

    /// The text of a scrape.
    pub fn encode(&self) -> prometheus::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// The content type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &'static str = prometheus::TEXT_FORMAT;
}

#[derive(Clone, Copy)]
struct Family {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
}

const PORT: &[&str] = &["switch", "group", "port"];
const PORT_TYPE: &[&str] = &["switch", "group", "port", "type"];
const PORT_REASON: &[&str] = &["switch", "group", "port", "reason"];
const PORT_QUEUE: &[&str] = &["switch", "group", "port", "queue"];
const SWITCH: &[&str] = &["switch"];
const UPLINK: &[&str] = &["switch", "uplink"];
const WORKER: &[&str] = &["worker"];

macro_rules! families {
    ($($id:ident: $kind:ident $name:literal $labels:expr, $help:literal;)+) => {
        $(const $id: Family = Family { name: $name, help: $help, kind: MetricType::$kind, labels: $labels };)+
        const FAMILIES: &[Family] = &[$($id),+];
    };
}

families! {
    RECEIVE_PACKETS: COUNTER "vswitch_port_receive_packets_total" PORT,
        "Frames from the port into the switch; a super-frame counts as the frames it becomes on the wire.";
    RECEIVE_BYTES: COUNTER "vswitch_port_receive_bytes_total" PORT,
        "Octets from the port into the switch, from the destination address to the end of the payload.";
    RECEIVE_FRAMES: COUNTER "vswitch_port_receive_frames_total" PORT_TYPE,
        "Frames from the port into the switch by type of destination; the sum is vswitch_port_receive_packets_total.";
    TRANSMIT_PACKETS: COUNTER "vswitch_port_transmit_packets_total" PORT,
        "Frames from the switch to the port; a super-frame counts as the frames it becomes on the wire.";
    TRANSMIT_BYTES: COUNTER "vswitch_port_transmit_bytes_total" PORT,
        "Octets from the switch to the port, from the destination address to the end of the payload.";
    TRANSMIT_FRAMES: COUNTER "vswitch_port_transmit_frames_total" PORT_TYPE,
        "Frames from the switch to the port by type of destination; the sum is vswitch_port_transmit_packets_total.";
    DROPS: COUNTER "vswitch_port_drops_total" PORT_REASON,
        "Frames dropped by the switch, by reason.";
    KERNEL_DROPS: COUNTER "vswitch_port_kernel_drops_total" PORT,
        "Frames that the kernel dropped before the switch could read them.";
    PORT_UP: GAUGE "vswitch_port_up" PORT,
        "Whether the port carries frames (1) or not (0).";
    QUEUE_DEPTH: GAUGE "vswitch_port_receive_queue_depth" PORT,
        "Frames that waited when the port was last served, at most one batch per worker.";
    QUEUE_WORKER: GAUGE "vswitch_port_queue_worker" PORT_QUEUE,
        "Number of the worker that serves a queue of the port.";
    UPLINK_ACTIVE: GAUGE "vswitch_uplink_active" UPLINK,
        "Whether a team uses the uplink at present (1) or not (0).";
    ANNOUNCED: COUNTER "vswitch_uplink_announced_total" UPLINK,
        "Stations that the switch has announced by the uplink (RARP).";
    MAC_ENTRIES: GAUGE "vswitch_mac_table_entries" SWITCH,
        "Entries in the MAC table, static ones included.";
    MAC_CAPACITY: GAUGE "vswitch_mac_table_capacity" SWITCH,
        "Entries that the MAC table has room for.";
    MAC_LEARNT: COUNTER "vswitch_mac_table_learnt_total" SWITCH,
        "MAC addresses learnt.";
    MAC_MOVES: COUNTER "vswitch_mac_table_moves_total" SWITCH,
        "MAC addresses that moved to another port.";
    MAC_EVICTIONS: COUNTER "vswitch_mac_table_evictions_total" SWITCH,
        "MAC addresses evicted because the table was full.";
    MAC_AGED: COUNTER "vswitch_mac_table_aged_total" SWITCH,
        "MAC addresses removed because they were not seen for the ageing time.";
    WORKER_BUSY: COUNTER "vswitch_worker_busy_seconds_total" WORKER,
        "Time spent on frames.";
    WORKER_TIME: COUNTER "vswitch_worker_seconds_total" WORKER,
        "Time since the worker started; the busy ratio is rate(busy) / rate(this).";
    BATCH_SIZE: HISTOGRAM "vswitch_worker_batch_size" WORKER,
        "Frames in a batch.";
    FLOOD_COPIES: COUNTER "vswitch_worker_flood_copies_total" WORKER,
        "Copies beyond the first that floods made.";
    HANDED_OVER: COUNTER "vswitch_worker_handed_over_frames_total" WORKER,
        "Frames handed over to other workers, which own the queue to send them by.";
    RESTARTS: COUNTER "vswitch_worker_restarts_total" WORKER,
        "Times that the worker was restarted after an internal error.";
    GENERATION: GAUGE "vswitch_config_generation" &[],
        "Generation of the configuration in force; 0 before the first.";
    CONFIRM_PENDING: GAUGE "vswitch_config_confirm_pending" &[],
        "Whether the configuration in force waits for its confirmation (1) or not (0).";
    APPLY: COUNTER "vswitch_apply_total" &["result"],
        "Configurations asked for since the start, by result.";
    LOST_EVENTS: COUNTER "vswitch_events_lost_total" &[],
        "Events of the workers that were lost because there were too many.";
    CAPTURES: GAUGE "vswitch_captures" &[],
        "Captures that run; each one costs the workers a copy of every frame that it takes.";
    BUILD_INFO: GAUGE "vswitch_build_info" &["version"],
        "Always 1; the labels say what runs.";
}

/// Reads a [`Sample`] at each scrape.
struct SwitchCollector {
    descs: Vec<Desc>,
    source: Source,
}

impl SwitchCollector {
    fn new(source: Source) -> prometheus::Result<Self> {
        let descs = FAMILIES
            .iter()
            .map(|family| {
                let labels = family.labels.iter().map(|&label| label.to_owned()).collect();
                Desc::new(
                    family.name.to_owned(),
                    family.help.to_owned(),
                    labels,
                    Default::default(),
                )
            })
            .collect::<prometheus::Result<_>>()?;
        Ok(Self { descs, source })
    }
}

impl Collector for SwitchCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let sample = (self.source)();
        let mut out = Families::default();
        for port in &sample.ports {
            port_metrics(&mut out, port);
        }
        for uplink in sample.ports.iter().filter_map(|port| port.uplink.as_ref()) {
            let labels = [uplink.switch.as_str(), uplink.name.as_str()];
            out.number(UPLINK_ACTIVE, &labels, f64::from(u8::from(uplink.active)));
            out.number(ANNOUNCED, &labels, uplink.announced as f64);
        }
        for switch in &sample.switches {
            let labels = [switch.switch.as_str()];
            out.number(MAC_ENTRIES, &labels, switch.macs.entries as f64);
            out.number(MAC_CAPACITY, &labels, switch.capacity as f64);
            out.number(MAC_LEARNT, &labels, switch.macs.learnt as f64);
            out.number(MAC_MOVES, &labels, switch.macs.moves as f64);
            out.number(MAC_EVICTIONS, &labels, switch.macs.evictions as f64);
            out.number(MAC_AGED, &labels, switch.macs.aged as f64);
        }
        for (index, worker) in sample.workers.iter().enumerate() {
            let name = index.to_string();
            let labels = [name.as_str()];
            out.number(WORKER_BUSY, &labels, seconds(worker.busy_nanos));
            out.number(WORKER_TIME, &labels, seconds(worker.total_nanos));
            out.number(FLOOD_COPIES, &labels, worker.flood_copies as f64);
            out.number(HANDED_OVER, &labels, worker.handed_over as f64);
            out.number(RESTARTS, &labels, worker.restarts as f64);
            out.add(BATCH_SIZE, &labels, |metric| {
                metric.set_histogram(batch_sizes(worker));
            });
        }
        out.number(GENERATION, &[], sample.generation as f64);
        out.number(CONFIRM_PENDING, &[], f64::from(u8::from(sample.confirm_pending)));
        let applies = sample.applies;
        for (result, count) in [
            ("applied", applies.applied),
            ("unchanged", applies.unchanged),
            ("refused", applies.refused),
            ("failed", applies.failed),
        ] {
            out.number(APPLY, &[result], count as f64);
        }
        out.number(LOST_EVENTS, &[], sample.lost_events as f64);
        out.number(CAPTURES, &[], sample.captures as f64);
        out.number(BUILD_INFO, &[env!("CARGO_PKG_VERSION")], 1.0);
        out.0
    }
}

fn port_metrics(out: &mut Families, port: &PortSample) {
    let labels = [port.switch.as_str(), port.group.as_str(), port.port.as_str()];
    let with = |last| [labels[0], labels[1], labels[2], last];
    let stats = &port.stats;
    let mut direction = |stats: &DirectionStats, packets, bytes, frames| {
        out.number(packets, &labels, stats.packets as f64);
        out.number(bytes, &labels, stats.bytes as f64);
        out.number(frames, &with("unicast"), stats.unicast as f64);
        out.number(frames, &with("multicast"), stats.multicast as f64);
        out.number(frames, &with("broadcast"), stats.broadcast as f64);
    };
    direction(&stats.receive, RECEIVE_PACKETS, RECEIVE_BYTES, RECEIVE_FRAMES);
    direction(&stats.transmit, TRANSMIT_PACKETS, TRANSMIT_BYTES, TRANSMIT_FRAMES);
    for reason in DropReason::ALL {
        let count = stats.drops[reason.index()];
        out.number(DROPS, &with(reason.name()), count as f64);
    }
    out.number(KERNEL_DROPS, &labels, stats.kernel_drops as f64);
    out.number(PORT_UP, &labels, f64::from(u8::from(port.up)));
    out.number(QUEUE_DEPTH, &labels, stats.queue_depth as f64);
    for (queue, worker) in port.queues.iter().enumerate() {
        let queue = queue.to_string();
        let labels = [labels[0], labels[1], labels[2], queue.as_str()];
        out.number(QUEUE_WORKER, &labels, *worker as f64);
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

fn batch_sizes(worker: &WorkerStats) -> Histogram {
    let mut cumulative = 0;
    let buckets = worker
        .batches
        .iter()
        .zip(BATCH_BUCKETS)
        .map(|(count, bound)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound as f64);
            bucket.set_cumulative_count(cumulative);
            bucket
        })
        .collect();
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets);
    histogram.set_sample_count(cumulative);
    histogram.set_sample_sum(worker.frames as f64);
    histogram
}

#[derive(Default)]
struct Families(Vec<MetricFamily>);

impl Families {
    fn number(&mut self, family: Family, values: &[&str], value: f64) {
        self.add(family, values, |metric| {
            if family.kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            } else {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
        });
    }

    fn add(&mut self, family: Family, values: &[&str], set: impl FnOnce(&mut Metric)) {
        debug_assert_eq!(family.labels.len(), values.len(), "{}", family.name);
        let labels = family.labels.iter().zip(values).map(|(&name, &value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name.to_owned());
            pair.set_value(value.to_owned());
            pair
        });
        let mut metric = Metric::from_label(labels.collect());
        set(&mut metric);
        let known = self.0.iter_mut().find(|known| known.name() == family.name);
        if let Some(known) = known {
            known.mut_metric().push(metric);
            return;
        }
        let mut new = MetricFamily::default();
        new.set_name(family.name.to_owned());
        new.set_help(family.help.to_owned());
        new.set_field_type(family.kind);
        new.set_metric(vec![metric]);
        self.0.push(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::model::PortState;

    fn sample() -> Sample {
        let receive = DirectionStats {
            packets: 6,
            bytes: 600,
            unicast: 3,
            multicast: 2,
            broadcast: 1,
        };
        let mut drops = [0; DropReason::COUNT];
        drops[DropReason::VlanTagged.index()] = 7;
        Sample {
            ports: vec![PortSample {
                uplink: Some(UplinkRow {
                    name: "up1".into(),
                    switch: "vs0".into(),
                    device: "eth1".into(),
                    state: PortState::Up,
                    reason: None,
                    active: true,
                    ports: 1,
                    announced: 2,
                    lacp: None,
                    neighbour: None,
                }),
                switch: "vs0".into(),
                group: "web".into(),
                port: "vm\"1".into(),
                up: true,
                queues: vec![0, 3],
                stats: PortStats {
                    receive,
                    transmit: DirectionStats::default(),
                    drops,
                    kernel_drops: 0,
                    queue_depth: 4,
                },
            }],
            switches: vec![SwitchSample {
                switch: "vs0".into(),
                macs: FdbCounters {
                    entries: 5,
                    ..Default::default()
                },
                capacity: 32768,
            }],
            workers: vec![WorkerStats {
                busy_nanos: 1_500_000_000,
                total_nanos: 3_000_000_000,
                batches: [1, 2, 0, 0, 0, 0, 4],
                frames: 200,
                flood_copies: 0,
                handed_over: 8,
                restarts: 0,
            }],
            generation: 3,
            ..Default::default()
        }
    }

    fn text() -> String {
        let metrics = Metrics::new(Box::new(sample)).unwrap();
        String::from_utf8(metrics.encode().unwrap()).unwrap()
    }

    #[test]
    fn a_scrape_shows_what_was_counted() {
        let text = text();
        for line in [
            r#"vswitch_port_receive_packets_total{switch="vs0",group="web",port="vm\"1"} 6"#,
            r#"vswitch_port_receive_frames_total{switch="vs0",group="web",port="vm\"1",type="multicast"} 2"#,
            r#"vswitch_port_drops_total{switch="vs0",group="web",port="vm\"1",reason="vlan-tagged"} 7"#,
            r#"vswitch_port_drops_total{switch="vs0",group="web",port="vm\"1",reason="runt"} 0"#,
            r#"vswitch_port_receive_queue_depth{switch="vs0",group="web",port="vm\"1"} 4"#,
            r#"vswitch_uplink_active{switch="vs0",uplink="up1"} 1"#,
            r#"vswitch_uplink_announced_total{switch="vs0",uplink="up1"} 2"#,
            r#"vswitch_mac_table_entries{switch="vs0"} 5"#,
            r#"vswitch_worker_busy_seconds_total{worker="0"} 1.5"#,
            r#"vswitch_worker_batch_size_bucket{worker="0",le="2"} 3"#,
            r#"vswitch_worker_batch_size_bucket{worker="0",le="+Inf"} 7"#,
            r#"vswitch_worker_batch_size_sum{worker="0"} 200"#,
            r#"vswitch_worker_handed_over_frames_total{worker="0"} 8"#,
            r#"vswitch_port_queue_worker{switch="vs0",group="web",port="vm\"1",queue="1"} 3"#,
            r#"vswitch_config_generation 3"#,
            r#"vswitch_apply_total{result="refused"} 0"#,
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn every_family_is_there_once() {
        let text = text();
        for family in FAMILIES {
            let head = format!("# TYPE {} ", family.name);
            let count = text.lines().filter(|line| line.starts_with(&head)).count();
            assert_eq!(count, 1, "{}", family.name);
        }
    }

    #[test]
    fn the_documentation_has_every_family() {
        let page = include_str!("../../docs/metrics.md");
        for Family { name, help, .. } in FAMILIES {
            let row = page
                .lines()
                .find(|line| line.starts_with(&format!("| `{name}` |")));
            assert!(
                row.is_some_and(|row| row.ends_with(&format!("| {help} |"))),
                "docs/metrics.md does not say of {name}: {help}"
            );
        }
    }

    #[test]
    fn promtool_has_nothing_to_say() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let child = Command::new("promtool")
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            eprintln!("promtool is not installed; its check was left out");
            return;
        };
        child.stdin.take().unwrap().write_all(text().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.trim().is_empty(), "{said}");
    }
}
