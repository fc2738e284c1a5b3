//! What the pipeline alone costs: instructions per frame, counted by valgrind, and frames per second for information.
//!
//! The machine has no hardware counters that can be relied on, and time on it is noisy; the number of instructions is the
//! same in every run. Each scenario runs under callgrind for two numbers of frames, and the difference, divided, leaves
//! out whatever setting it up costs; the loop around it is counted in the same way and taken off. `--check` compares with
//! `core-baseline.json` and fails if a figure has risen; `--update` writes that file anew.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use serde::{Deserialize, Serialize};
use switch_core::addr::MacAddr;
use switch_core::decisions::Decisions;
use switch_core::fdb::Fdb;
use switch_core::frame::{FrameView, Hop};
use switch_core::id::{PortId, SwitchId};
use switch_core::offload::Offload;
use switch_core::pipeline::{Mode, Silent, forward};
use switch_core::security::{PortState, SecurityPolicy};
use switch_core::snapshot::{Port, Snapshot, Switch};
use switch_core::time::Timestamp;
use switch_core::vid::{Tpid, Vid};
use switch_core::vlan::VlanPolicy;
use vswitch_benches::report::{Case, Series, Unit, Wanted};

/// Instructions per frame of the pipeline alone, counted by valgrind's callgrind
#[derive(Parser)]
struct Arguments {
    /// Fail if a figure has risen over the baseline
    #[arg(long)]
    check: bool,
    /// Write the figures as the new baseline
    #[arg(long, conflicts_with = "check")]
    update: bool,
    /// Write the figures as a part of a report
    #[arg(long)]
    report: Option<PathBuf>,
    /// Run this scenario for --frames frames, as valgrind's child does
    #[arg(long, requires = "frames", hide = true)]
    run: Option<String>,
    #[arg(long, hide = true)]
    frames: Option<usize>,
}

/// Frames that share one clock reading, as in a worker.
const BATCH: usize = 64;
/// Time between two batches.
const BATCH_TIME: Duration = Duration::from_micros(20);
/// Numbers of frames of the two counted runs. Both are whole rounds of every scenario's frames.
const FEW: usize = 1 << 17;
const MANY: usize = 1 << 18;
/// Frames of a timed run.
const TIMED: usize = 1 << 22;

const LEARNING: &str = "learn";
/// Scenarios in which the frames are decided about as batches of one port, as a worker does.
const TRAIN: &str = "train";
const MIXED: &str = "mixed";
/// The frames of `l2`, with which nothing is done.
const LOOP: &str = "loop";

/// A name, what it is, and the target, where there is one.
const SCENARIOS: [(&str, &str, Option<u64>); 9] = [
    ("l2", "unicast between two stations", Some(120)),
    ("vlan", "unicast, tagged, between two trunks", None),
    ("security", "unicast, all three policies reject", None),
    (
        "vlan-security",
        "unicast between two access ports, all reject",
        None,
    ),
    (TRAIN, "unicast, the header of the frame before", None),
    (MIXED, "unicast, another header than the frame before", None),
    ("flood-8", "broadcast to eight ports", None),
    ("macs-64k", "unicast among 65536 stations", None),
    (LEARNING, "each source is new, the table is full", None),
];

/// A switch and the frames that it is given, over and over.
struct Scenario {
    snapshot: Snapshot,
    frames: Vec<(PortId, [u8; 64])>,
    /// Each frame gets a source that was not seen before.
    learning: bool,
    /// What is done with the frames.
    way: Way,
}

/// What is done with frames.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing.
    Nowhere,
    /// Each is decided about by itself.
    Alone,
    /// They are decided about as batches of one port.
    Batches,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<bool> {
    if let (Some(name), Some(frames)) = (&arguments.run, arguments.frames) {
        Scenario::new(name)?.pass(frames);
        return Ok(true);
    }
    let baseline = Baseline::read()?;
    let around = per_frame(LOOP)?;
    let mut figures = BTreeMap::new();
    let mut risen = Vec::new();
    println!(
        "{:14} {:>13} {:>9} {:>7} {:>11}  frame",
        "scenario", "instructions", "baseline", "target", "frames/s"
    );
    for (name, what, target) in SCENARIOS {
        let figure = per_frame(name)? - around;
        let rate = rate(name)?;
        let before = baseline.instructions_per_frame.get(name).copied();
        println!(
            "{name:14} {figure:>13.1} {:>9} {:>7} {rate:>11.0}  {what}",
            before.map_or("-".into(), |before| format!("{before:.1}")),
            target.map_or("-".into(), |target| target.to_string()),
        );
        let allowed = before.map(|before| before * (1.0 + baseline.tolerance_percent / 100.0));
        if allowed.is_some_and(|allowed| figure > allowed) {
            risen.push(name);
        }
        figures.insert(name.to_owned(), (figure * 10.0).round() / 10.0);
    }
    let learning = rate(LEARNING)?;
    println!(
        "learning rate (P8): {:.2} million addresses a second",
        learning / 1e6
    );
    if let Some(path) = &arguments.report {
        let text = serde_json::to_string(&cases(&figures, learning))?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    if arguments.update {
        let updated = Baseline {
            instructions_per_frame: figures,
            ..baseline
        };
        updated.write()?;
    } else if arguments.check && !risen.is_empty() {
        eprintln!(
            "error: more instructions per frame than the baseline and {} % allow: {}; make the way shorter again, or, \
             if the cost is justified, run `cargo run --release -p vswitch-benches --bin core -- --update` and say why \
             in the commit",
            baseline.tolerance_percent,
            risen.join(", ")
        );
        return Ok(false);
    }
    Ok(true)
}

/// The figures as a part of a report.
fn cases(figures: &BTreeMap<String, f64>, learning: f64) -> Vec<Case> {
    let case = |target: &str, name: String, unit, figure, wanted| Case {
        scenario: "core".into(),
        target: target.into(),
        name,
        unit,
        series: vec![Series {
            peer: "vswitch".into(),
            config: "the pipeline alone, from memory; instructions counted by callgrind".into(),
            figures: vec![figure],
            wanted,
        }],
    };
    let mut cases: Vec<Case> = SCENARIOS
        .iter()
        .filter_map(|(name, what, target)| {
            let figure = *figures.get(*name)?;
            let wanted = target.map(|most| Wanted::AtMost(most as f64));
            Some(case(
                "P12",
                format!("{name}: {what}"),
                Unit::Instructions,
                figure,
                wanted,
            ))
        })
        .collect();
    cases.push(case(
        "P8",
        "a new source with each frame".into(),
        Unit::AddressesPerSecond,
        learning,
        Some(Wanted::AtLeast(1e6)),
    ));
    cases
}

/// What the figures were.
#[derive(Serialize, Deserialize)]
struct Baseline {
    /// How much a figure may rise, for compilers differ.
    tolerance_percent: f64,
    instructions_per_frame: BTreeMap<String, f64>,
}

impl Baseline {
    fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("core-baseline.json")
    }

    fn read() -> Result<Self> {
        let path = Self::path();
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self {
                tolerance_percent: 3.0,
                instructions_per_frame: BTreeMap::new(),
            }),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    fn write(&self) -> Result<()> {
        let path = Self::path();
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    }
}

/// Instructions per frame, without what is done once.
fn per_frame(name: &str) -> Result<f64> {
    let few = collected(name, FEW)?;
    let many = collected(name, MANY)?;
    Ok((many - few) as f64 / (MANY - FEW) as f64)
}

/// Instructions of a whole run.
fn collected(name: &str, frames: usize) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().context("the path of this program")?)
        .args(["--run", name, "--frames", &frames.to_string()])
        .output()
        .context("valgrind cannot be run; install the package `valgrind`")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "valgrind failed: {text}");
    text.lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok())
        .with_context(|| format!("valgrind did not say what it collected: {text}"))
}

/// Frames per second, on this machine and now.
fn rate(name: &str) -> Result<f64> {
    let mut scenario = Scenario::new(name)?;
    scenario.pass(FEW);
    let start = Instant::now();
    scenario.pass(TIMED);
    Ok(TIMED as f64 / start.elapsed().as_secs_f64())
}

impl Scenario {
    fn new(name: &str) -> Result<Self> {
        const TWO: [(u16, u64, u64); 2] = [(0, 1, 2), (1, 2, 1)];
        let broadcast = MacAddr::BROADCAST.to_u64();
        let trunk = VlanPolicy::Trunk {
            vlans: (100..300).filter_map(Vid::new).collect(),
            native: None,
            tpid: Tpid::Dot1Q,
        };
        let access = VlanPolicy::Access(Vid::new(100).context("a VLAN")?);
        let (ports, frames, tag) = match name {
            "l2" | LOOP => (ports(2, &VlanPolicy::Unaware, ACCEPT), TWO.to_vec(), None),
            TRAIN => (
                ports(2, &VlanPolicy::Unaware, ACCEPT),
                batches([(0, 1, 2), (0, 1, 2)], [(1, 2, 1), (1, 2, 1)]),
                None,
            ),
            MIXED => (
                ports(2, &VlanPolicy::Unaware, ACCEPT),
                batches([(0, 1, 2), (0, 3, 2)], [(1, 2, 1), (1, 4, 1)]),
                None,
            ),
            "vlan" => (ports(2, &trunk, ACCEPT), TWO.to_vec(), Some(100)),
            "security" => (ports(2, &VlanPolicy::Unaware, REJECT), TWO.to_vec(), None),
            "vlan-security" => (ports(2, &access, REJECT), TWO.to_vec(), None),
            "flood-8" => (
                ports(9, &VlanPolicy::Unaware, ACCEPT),
                vec![(0, 1, broadcast)],
                None,
            ),
            "macs-64k" => {
                // A fixed permutation of all stations as senders, each to another one.
                const STATIONS: u64 = 1 << 16;
                let frames = (0..STATIONS)
                    .map(|n| {
                        let from = n.wrapping_mul(40503) % STATIONS;
                        let to = n.wrapping_mul(25173).wrapping_add(13849) % STATIONS;
                        let port = (from % 2) as u16;
                        (port, from + 1, (to & !1 | (1 - from % 2)) + 1)
                    })
                    .collect();
                (ports(2, &VlanPolicy::Unaware, ACCEPT), frames, None)
            }
            LEARNING => (
                ports(2, &VlanPolicy::Unaware, ACCEPT),
                vec![(0, 1, broadcast)],
                None,
            ),
            _ => bail!("there is no scenario `{name}`"),
        };
        let capacity = if name == "macs-64k" { 1 << 17 } else { 1 << 15 };
        let switch = Switch {
            mtu: 1500,
            ageing: Duration::from_secs(300),
            fdb: Arc::new(Fdb::new(capacity, 0x5eed)),
        };
        let learning = name == LEARNING;
        let repeats = if learning { 1 } else { BATCH.div_ceil(frames.len()) };
        let frames = std::iter::repeat_n(frames, repeats)
            .flatten()
            .map(|(from, source, destination)| Ok((port_id(from)?, frame(source, destination, tag))))
            .collect::<Result<_>>()?;
        Ok(Self {
            snapshot: Snapshot::new(1, vec![switch], ports?),
            frames,
            learning,
            way: match name {
                LOOP => Way::Nowhere,
                TRAIN | MIXED => Way::Batches,
                _ => Way::Alone,
            },
        })
    }

    /// Sends so many frames.
    fn pass(&mut self, frames: usize) {
        match self.way {
            Way::Nowhere => self.pass_each(frames, |_, _, _, hops| black_box(hops).is_empty()),
            Way::Alone => self.pass_each(frames, |snapshot, now, view, hops| {
                forward(snapshot, now, view, Mode::Live, hops, &mut Silent).is_ok()
            }),
            Way::Batches => self.pass_to(frames, |snapshot, now, views, hops| {
                let Some(first) = views.first() else { return 0 };
                let mut decisions = Decisions::new(snapshot, now, first.port, hops);
                let mut copies = 0;
                for view in views {
                    let forwarded = decisions.forward(view, &mut Silent).is_ok();
                    debug_assert!(forwarded);
                    copies += decisions.hops().len();
                }
                copies
            }),
        }
    }

    /// Hands so many frames to a function, one by one.
    fn pass_each(
        &mut self,
        frames: usize,
        function: impl Fn(&Snapshot, Timestamp, &FrameView<'_>, &mut Vec<Hop>) -> bool,
    ) {
        self.pass_to(frames, |snapshot, now, views, hops| {
            let mut copies = 0;
            for view in views {
                let forwarded = function(snapshot, now, view, hops);
                debug_assert!(forwarded);
                copies += hops.len();
            }
            copies
        });
    }

    /// Hands so many frames to a function, in batches. It says how many copies were sent.
    fn pass_to(
        &mut self,
        frames: usize,
        function: impl Fn(&Snapshot, Timestamp, &[FrameView<'_>], &mut Vec<Hop>) -> usize,
    ) {
        let mut hops: Vec<Hop> = Vec::with_capacity(64);
        let mut now = Timestamp::from_secs(1);
        let mut sent = 0;
        let mut at = 0;
        let mut copies = 0;
        if self.learning {
            while sent < frames {
                for _ in 0..BATCH {
                    let [_, _, _, _, a, b, c, d] = (sent as u64).to_be_bytes();
                    self.frames[0].1[8..12].copy_from_slice(&[a, b, c, d]);
                    copies += function(&self.snapshot, now, &[view(&self.frames[0])], &mut hops);
                    sent += 1;
                }
                now = now + BATCH_TIME;
            }
        } else {
            // As a worker has them: made when the batch was received.
            let views: Vec<FrameView<'_>> = self.frames.iter().map(view).collect();
            while sent < frames {
                copies += function(&self.snapshot, now, &views[at..at + BATCH], &mut hops);
                sent += BATCH;
                at = (at + BATCH) % views.len();
                now = now + BATCH_TIME;
            }
        }
        black_box(copies);
    }
}

/// A port, a source and a destination.
type Sent = (u16, u64, u64);

/// A batch of two frames in turns, and one of two others.
fn batches(first: [Sent; 2], second: [Sent; 2]) -> Vec<Sent> {
    [first, second].map(|two| two.repeat(BATCH / 2)).concat()
}

fn view((port, octets): &(PortId, [u8; 64])) -> FrameView<'_> {
    FrameView {
        port: *port,
        header: octets,
        len: octets.len(),
        offload: Offload::default(),
    }
}

const ACCEPT: SecurityPolicy = SecurityPolicy {
    promiscuous: false,
    mac_changes: true,
    forged_transmits: true,
};

const REJECT: SecurityPolicy = SecurityPolicy {
    promiscuous: false,
    mac_changes: false,
    forged_transmits: false,
};

fn station(n: u64) -> MacAddr {
    MacAddr::from_u64(0x0200_0000_0000 | n)
}

fn port_id(number: u16) -> Result<PortId> {
    PortId::new(number).context("a port's number")
}

fn ports(count: u16, vlan: &VlanPolicy, security: SecurityPolicy) -> Result<Vec<Port>> {
    (0..count)
        .map(|number| {
            Ok(Port {
                id: port_id(number)?,
                switch: SwitchId(0),
                enabled: true,
                up: true,
                vlan: vlan.clone(),
                security,
                mac: (security == REJECT).then(|| station(u64::from(number) + 1)),
                isolated: false,
                mac_limit: None,
                dormant: false,
                role: switch_core::team::Role::default(),
                state: Arc::new(PortState::default()),
            })
        })
        .collect()
}

fn frame(source: u64, destination: u64, tag: Option<u16>) -> [u8; 64] {
    let mut frame = [0; 64];
    let destination = if destination == MacAddr::BROADCAST.to_u64() {
        MacAddr::BROADCAST
    } else {
        station(destination)
    };
    frame[..6].copy_from_slice(&destination.0);
    frame[6..12].copy_from_slice(&station(source).0);
    let ethertype = match tag {
        Some(vid) => {
            frame[12..14].copy_from_slice(&Tpid::Dot1Q.ethertype().to_be_bytes());
            frame[14..16].copy_from_slice(&u16::to_be_bytes(vid));
            &mut frame[16..18]
        }
        None => &mut frame[12..14],
    };
    ethertype.copy_from_slice(&0x0800_u16.to_be_bytes());
    frame
}
