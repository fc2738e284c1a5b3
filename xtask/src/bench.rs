//! `cargo xtask bench`: the switch beside its peers.
//!
//! Builds everything as it is to be measured, looks for the peers, and starts the `compare` program of `benches` in
//! namespaces of its own.

use std::ffi::OsString;
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
    /// Scenarios: core (instructions per frame), tap, packet, idle; all if none is named
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
    /// Fail if instructions per frame have risen over `benches/core-baseline.json` (scenario core)
    #[arg(long)]
    check: bool,
}

const CORE: &str = "core";
const COMPARED: [&str; 3] = ["tap", "packet", "idle"];

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
        let status = command.status().context("cargo cannot be run")?;
        if !status.success() {
            return Ok(false);
        }
    }
    let compared: Vec<&str> = COMPARED.into_iter().filter(|name| wanted(name)).collect();
    if compared.is_empty() {
        return Ok(true);
    }
    compare(arguments, &compared)
}

fn compare(arguments: &Arguments, scenarios: &[&str]) -> Result<bool> {
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
        host::run(&mut command, Duration::from_secs(1800)).map(|_| "bare loop, generator".into())
    });
    let found = steps.step("programs", || {
        let tools: Vec<Tool> = packages::DEMO.iter().chain(packages::BENCH).copied().collect();
        packages::ensure(&tools)
    });
    if built.is_none() || found.is_none() {
        return Ok(false);
    }
    let mut args: Vec<OsString> = scenarios.iter().map(Into::into).collect();
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
    let mut child = sandbox::enter(&bin.join("compare"), args)
        .spawn()
        .context("`unshare` cannot be run")?;
    Ok(sandbox::wait(&mut child, Duration::from_secs(10))?.success())
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(host::root());
    command
}
