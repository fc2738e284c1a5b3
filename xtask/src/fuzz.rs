//! `cargo xtask fuzz`: what takes input from outside under a coverage-guided fuzzer, on stable Rust (see `fuzz/README.md`).

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::host;

/// The counters that libFuzzer reads, without a sanitizer: as `cargo fuzz --sanitizer none` sets them.
const COVERAGE: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// Octets of the longest input.
const LONGEST: &str = "-max_len=512";
/// Files that the corpus may have.
const CORPUS: usize = 200;

/// The programs, each with its corpus.
const TARGETS: [&str; 4] = ["pipeline", "stream", "vhost_user", "vring"];

/// Fuzzes for so long altogether; with `keep`, takes what is new into the corpus. True if no input failed.
pub fn run(seconds: u64, keep: bool) -> Result<bool> {
    let dir = host::root().join("fuzz");
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(&dir).env("RUSTFLAGS", COVERAGE).args([
        "build",
        "--release",
        "--target",
        TRIPLE,
        "--bins",
    ]);
    ensure!(build.status()?.success(), "the fuzz targets cannot be built");
    // At least a second each: none at all would be for ever.
    let share = (seconds / TARGETS.len() as u64).max(1);
    for name in TARGETS {
        fuzz(&dir, name, share, keep)?;
    }
    Ok(true)
}

/// Fuzzes one target.
fn fuzz(dir: &Path, name: &str, seconds: u64, keep: bool) -> Result<()> {
    let corpus = dir.join("corpus").join(name);
    let work = dir.join("work").join(name);
    let artifacts = dir.join("artifacts");
    for dir in [&corpus, &work, &artifacts] {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let target = dir.join("target").join(TRIPLE).join("release").join(name);

    println!("{name}: {} inputs in the corpus, {seconds} s", count(&corpus)?);
    let mut command = Command::new(&target);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/{name}-", artifacts.display()))
        .args([LONGEST, "-print_final_stats=1"])
        .args([&work, &corpus]);
    let output = host::output(&mut command, Duration::from_secs(seconds + 120))?;
    let text = &output.stderr;
    if !output.status.success() {
        bail!(
            "{name}: an input makes it panic or differ from its twin; it is in {}:\n{}",
            artifacts.display(),
            text.lines()
                .filter(|line| !line.starts_with('#'))
                .collect::<Vec<_>>()
                .join("\n")
        );
    }
    let last = text
        .lines()
        .rfind(|line| line.contains("cov: "))
        .unwrap_or_default();
    let executed = text
        .lines()
        .find_map(|line| line.strip_prefix("stat::number_of_executed_units:"))
        .context("libFuzzer did not say how many inputs it ran")?;
    println!(
        "{name}: {} inputs run; coverage: {} edges, {} features; no failure",
        executed.trim(),
        word_after(last, "cov:"),
        word_after(last, "ft:")
    );
    if keep {
        merge(&target, &corpus, &work)?;
    }
    Ok(())
}

/// Takes into the corpus what adds coverage, up to its bound.
fn merge(target: &Path, corpus: &Path, work: &Path) -> Result<()> {
    let before = count(corpus)?;
    let mut command = Command::new(target);
    command.args(["-merge=1", LONGEST]).args([corpus, work]);
    let output = host::output(&mut command, Duration::from_secs(600))?;
    ensure!(output.status.success(), "libFuzzer cannot merge the corpus");
    let mut files: Vec<_> = fs::read_dir(corpus)?
        .map(|file| file.map(|file| file.path()))
        .collect::<std::io::Result<_>>()?;
    // The longest say most; libFuzzer finds the short ones again.
    files.sort_by_key(|file| std::cmp::Reverse(file.metadata().map_or(0, |metadata| metadata.len())));
    for file in files.iter().skip(CORPUS) {
        fs::remove_file(file)?;
    }
    println!("corpus: {before} inputs before, {} now", count(corpus)?);
    Ok(())
}

fn count(dir: &Path) -> Result<usize> {
    Ok(fs::read_dir(dir)
        .with_context(|| dir.display().to_string())?
        .count())
}

fn word_after<'a>(line: &'a str, word: &str) -> &'a str {
    let mut words = line.split_whitespace().skip_while(|other| *other != word);
    words.nth(1).unwrap_or("?")
}
