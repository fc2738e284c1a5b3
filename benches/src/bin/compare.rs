//! Runs scenarios side by side and writes their report. `cargo xtask bench` starts it, in namespaces of its own.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use vswitch_benches::peer::Bench;
use vswitch_benches::report::{Machine, Report};
use vswitch_benches::{plot, scenario};
use xtask::{host, sandbox};

/// Runs scenarios side by side with peers
#[derive(Parser)]
struct Arguments {
    /// Scenarios
    scenarios: Vec<String>,
    /// Directory of the programs under test
    #[arg(long)]
    bin: PathBuf,
    /// Directory for the report
    #[arg(long)]
    out: PathBuf,
    /// A file with cases that were measured already, to be put into the report
    #[arg(long)]
    with: Option<PathBuf>,
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
    /// Directory of another build of the switch, to be measured beside this one
    #[arg(long)]
    beside: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    host::catch_signals()?;
    ensure!(sandbox::is_root(), "the peers need root");
    let machine = Machine::here();
    ensure!(
        machine.processors >= 2,
        "two processors are needed: one generates and receives, one switches"
    );
    sandbox::prepare()?;
    sandbox::own_proc()?;
    let dir = tempfile::Builder::new().prefix("vswitch-bench-").tempdir()?;
    let bench = Bench {
        dir: dir.path().to_path_buf(),
        bin: arguments.bin,
        traffic_core: 0,
        switch_core: 1,
        rounds: arguments.rounds,
        time: Duration::from_secs(arguments.seconds),
        only: arguments.peer,
        case: arguments.case,
        beside: arguments.beside,
    };
    let mut cases = match &arguments.with {
        Some(path) => {
            let text = fs::read(path).with_context(|| path.display().to_string())?;
            serde_json::from_slice(&text).with_context(|| path.display().to_string())?
        }
        None => Vec::new(),
    };
    for name in &arguments.scenarios {
        cases.extend(scenario::run(name, &bench).with_context(|| format!("scenario {name}"))?);
    }
    let report = Report {
        machine,
        rounds: arguments.rounds,
        seconds: arguments.seconds,
        cases,
    };
    fs::create_dir_all(&arguments.out)?;
    let json = serde_json::to_string_pretty(&report)?;
    for (name, text) in [
        ("latest.json", json + "\n"),
        ("latest.svg", plot::svg(&report)),
        (
            "latest.txt",
            format!("{}\n{}\n{}", report.targets(), report.table(), report.notes()),
        ),
    ] {
        let path = arguments.out.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("\n{}\n{}\n{}", report.table(), report.notes(), report.targets());
    let unmeasured = report.unmeasured();
    ensure!(
        unmeasured.is_empty(),
        "no figure of the switch itself in {}",
        unmeasured.join("; ")
    );
    Ok(())
}
