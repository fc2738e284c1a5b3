//! `cargo xtask guide`: brings the outputs in `docs/guide.md` up to date. The work is done by `docs/make-guide.py`.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::host;
use crate::packages;

/// Builds the programs and runs the guide. True if the guide is up to date now.
pub fn run(check: bool, all: bool) -> Result<bool> {
    packages::ensure(packages::GUIDE)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--package", "control", "--bins"])
        .current_dir(host::root())
        .status()
        .context("cargo cannot be run")?;
    ensure!(built.success(), "the build failed");
    let mut command = host::program("python3");
    command.arg(host::root().join("docs/make-guide.py"));
    for (wanted, flag) in [(check, "--check"), (all, "--all")] {
        if wanted {
            command.arg(flag);
        }
    }
    let status = command.status().context("python3 cannot be run")?;
    Ok(status.success())
}
