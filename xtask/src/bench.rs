//! `cargo xtask bench`
use anyhow::Result;
/// x
#[derive(clap::Args, Debug)]
pub struct Arguments {}
/// x
pub fn run(_: &Arguments) -> Result<bool> {
    Ok(true)
}
