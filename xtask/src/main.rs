//! `cargo xtask`: the project's own tasks.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own tasks
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Shows the switch at work: three machines, two VLANs, traffic, a trace, metrics. Works as root and as an ordinary user
    Demo {
        /// Keep the switch running at the end, to look around
        #[arg(long)]
        keep: bool,
        /// Two real virtual machines on vhost-user ports instead: QEMU in software, no KVM needed
        #[arg(long, conflicts_with = "keep")]
        guests: bool,
    },
    #[command(hide = true)]
    DemoGuestsInside { dir: PathBuf },
    #[command(hide = true)]
    DemoInside {
        dir: PathBuf,
        bin: PathBuf,
        #[arg(long)]
        keep: bool,
    },
    /// Checks and tests everything; as root on Debian, installs what that needs
    Test {
        /// Only the steps whose name contains this
        #[arg(long)]
        only: Option<String>,
    },
    /// Runs docs/guide.md from top to bottom and puts the real outputs into it
    Guide {
        /// Change nothing; fail if the guide is out of date
        #[arg(long)]
        check: bool,
        /// Take the new output also where only times and counts differ
        #[arg(long)]
        all: bool,
    },
    /// Feeds what takes input from outside with what a fuzzer finds; see fuzz/README.md
    Fuzz {
        /// How long, all targets together
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// Take inputs that reach something new into the corpus
        #[arg(long)]
        keep: bool,
    },
    /// Measures the switch beside its peers, in the same run
    Bench(xtask::bench::Arguments),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Demo { guests: true, .. } => xtask::guests::run(),
        Task::Demo { keep, .. } => xtask::demo::run(keep),
        Task::DemoGuestsInside { dir } => xtask::guests::inside(&dir),
        Task::DemoInside { dir, bin, keep } => xtask::demo::inside(&dir, &bin, keep),
        Task::Test { only } => xtask::test::run(only.as_deref()),
        Task::Guide { check, all } => xtask::guide::run(check, all),
        Task::Fuzz { seconds, keep } => xtask::fuzz::run(seconds, keep),
        Task::Bench(arguments) => xtask::bench::run(&arguments),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
