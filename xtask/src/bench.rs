//! `cargo xtask bench`: the switch beside its peers.
//!
//! Builds everything as it is to be measured, looks for the peers, and starts the `compare` program of `benches` in
//! namespaces of its own.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::demo;
use crate::host;
use crate::packages::{self, Tool};
use crate::sandbox;
use crate::steps::Steps;

/// What to measure, and how long.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Scenarios: core (instructions per frame), vhost, super, macs, latency, tap, packet, ports, idle; all if none is named
    scenarios: Vec<String>,
    /// How often each peer has its turn
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each figure
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Only peers whose name contains this
    #[arg(long)]
    peer: Option<String>,
    /// Only cases whose name contains this (scenario vhost)
    #[arg(long)]
    case: Option<String>,
    /// Directory of another build of the switch, to be measured beside this one where guests are (scenarios vhost, macs)
    #[arg(long)]
    beside: Option<PathBuf>,
    /// Fail if instructions per frame have risen over `benches/core-baseline.json` (scenario core)
    #[arg(long)]
    check: bool,
}

const CORE: &str = "core";
const COMPARED: [&str; 8] = [
    "vhost", "super", "macs", "latency", "tap", "packet", "ports", "idle",
];

/// Scenarios with guests, whose memory is in huge pages, as is DPDK's.
const GUESTS: [&str; 5] = ["vhost", "super", "macs", "latency", "idle"];

/// Huge pages of 2 MiB that they need: DPDK's 512 MiB for Open vSwitch, 256 for each of four testpmd, and the guests' own.
const HUGE_PAGES: u64 = 2048;

/// Runs scenarios and prints their tables. True if they could be measured.
pub fn run(arguments: &Arguments) -> Result<bool> {
    host::catch_signals()?;
    for name in &arguments.scenarios {
        if name != CORE && !COMPARED.contains(&name.as_str()) {
            bail!(
                "there is no scenario `{name}`; there are {CORE}, {}",
                COMPARED.join(", ")
            );
        }
    }
    let wanted =
        |name: &str| arguments.scenarios.is_empty() || arguments.scenarios.iter().any(|one| one == name);
    if wanted(CORE) {
        let mut command = cargo();
        command.args([
            "run",
            "--release",
            "--package",
            "vswitch-benches",
            "--bin",
            "core",
            "--",
        ]);
        if arguments.check {
            command.arg("--check");
        }
        command.arg("--report").arg(core_report());
        let status = command.status().context("cargo cannot be run")?;
        if !status.success() {
            return Ok(false);
        }
    }
    let compared: Vec<&str> = COMPARED.into_iter().filter(|name| wanted(name)).collect();
    if compared.is_empty() {
        return Ok(true);
    }
    compare(arguments, &compared, wanted(CORE))
}

fn compare(arguments: &Arguments, scenarios: &[&str], with_core: bool) -> Result<bool> {
    ensure!(
        sandbox::is_root(),
        "the peers need root: sudo -E env \"PATH=$PATH\" cargo xtask bench"
    );
    let mut steps = Steps::new();
    let Some(bin) = steps.value("build", demo::binaries) else {
        return Ok(false);
    };
    let built = steps.step("build the peers", || {
        let mut command = cargo();
        command.args(["build", "--release", "--package", "vswitch-benches", "--bins"]);
        host::run(&mut command, Duration::from_secs(1800)).map(|_| "bare loop, generators".into())
    });
    let found = steps.step("programs", || {
        let tools: Vec<Tool> = packages::DEMO.iter().chain(packages::BENCH).copied().collect();
        packages::ensure(&tools)
    });
    if built.is_none() || found.is_none() {
        return Ok(false);
    }
    let _pages = if scenarios.iter().any(|name| GUESTS.contains(name)) {
        Some(HugePages::reserve(HUGE_PAGES)?)
    } else {
        None
    };
    let mut args: Vec<OsString> = scenarios.iter().map(Into::into).collect();
    if with_core {
        args.extend(["--with".into(), core_report().into()]);
    }
    args.extend([
        "--bin".into(),
        bin.clone().into(),
        "--out".into(),
        host::root().join("benches/results").into(),
        "--rounds".into(),
        arguments.rounds.to_string().into(),
        "--seconds".into(),
        arguments.seconds.to_string().into(),
    ]);
    if let Some(peer) = &arguments.peer {
        args.extend(["--peer".into(), peer.into()]);
    }
    if let Some(case) = &arguments.case {
        args.extend(["--case".into(), case.into()]);
    }
    if let Some(bin) = &arguments.beside {
        let bin = bin.canonicalize().with_context(|| bin.display().to_string())?;
        args.extend(["--beside".into(), bin.into()]);
    }
    let mut child = sandbox::enter(&bin.join("compare"), args)
        .spawn()
        .context("`unshare` cannot be run")?;
    Ok(sandbox::wait(&mut child, Duration::from_secs(10))?.success())
}

/// Where `core` leaves its figures for the report.
fn core_report() -> PathBuf {
    host::root().join("target/core-report.json")
}

/// Huge pages of the kernel, as many as before once it is dropped.
///
/// It is set out here, not in the namespaces: the process there may be killed, and the setting is the whole machine's.
struct HugePages {
    before: String,
}

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    /// Has so many more.
    fn reserve(count: u64) -> Result<Self> {
        let read = || std::fs::read_to_string(NR_HUGEPAGES).context(NR_HUGEPAGES);
        let before = read()?.trim().to_owned();
        let wanted = before.parse::<u64>().context(NR_HUGEPAGES)? + count;
        let pages = Self { before };
        std::fs::write(NR_HUGEPAGES, wanted.to_string()).context(NR_HUGEPAGES)?;
        let got = read()?.trim().to_owned();
        ensure!(
            got.parse::<u64>().is_ok_and(|got| got >= wanted),
            "the kernel has {got} huge pages instead of {wanted}: memory is short, or in pieces"
        );
        Ok(pages)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(NR_HUGEPAGES, &self.before) {
            eprintln!(
                "{NR_HUGEPAGES} was {} and could not be set back: {error}",
                self.before
            );
        }
    }
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(host::root());
    command
}
