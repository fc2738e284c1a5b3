//! `cargo xtask test`: everything that must hold, in the order in which a mistake is cheapest to find.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::host::{self, Background};
use crate::packages::{self, Tool};
use crate::sandbox;
use crate::steps::Steps;

/// How long one step may take; the first build of everything is the longest.
const BOUND: Duration = Duration::from_secs(3600);

/// How long the fuzzer runs as a part of the tests.
const FUZZ_SECONDS: &str = "20";

/// Most characters of a step's summary.
const SUMMARY: usize = 90;

/// Tests that ran, over all steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Count {
    /// Sums the `test result:` lines of `cargo test`.
    fn read(log: &str) -> Self {
        let mut count = Self::default();
        for line in log.lines().filter_map(|line| line.split_once("test result: ")) {
            for part in line.1.split([';', '.']) {
                let mut words = part.split_whitespace();
                let (Some(number), Some(kind)) = (words.next(), words.next()) else {
                    continue;
                };
                let Ok(number) = number.parse::<u64>() else {
                    continue;
                };
                match kind {
                    "passed" => count.passed += number,
                    "failed" => count.failed += number,
                    "ignored" => count.ignored += number,
                    _ => {}
                }
            }
        }
        count
    }

    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }
}

struct Runner<'a> {
    steps: Steps,
    only: Option<&'a str>,
    logs: PathBuf,
    count: Count,
}

/// All steps, or those whose name contains `only`. True if all passed.
pub fn run(only: Option<&str>) -> Result<bool> {
    host::catch_signals()?;
    let logs = host::root().join("target/test-logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let mut runner = Runner {
        steps: Steps::new(),
        only,
        logs,
        count: Count::default(),
    };
    runner.all();
    if let (Some(part), 0, []) = (only, runner.steps.passed(), runner.steps.failed()) {
        bail!("no step's name contains `{part}`");
    }
    let count = runner.count;
    let passed = runner.steps.finish("test");
    if count.ignored > 0 {
        println!("{} ignored", count.ignored);
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(passed && count.failed == 0)
}

impl Runner<'_> {
    fn all(&mut self) {
        self.plain("programs", || {
            let tools: Vec<Tool> =
                [packages::DEMO, packages::TEST, packages::BENCH, packages::GUIDE].concat();
            packages::ensure(&tools)
        });
        self.plain("toolchain", toolchain);
        self.cargo("format", &["fmt", "--all", "--check"]);
        self.cargo(
            "lints",
            &[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        );
        self.cargo("documentation", &["doc", "--locked", "--workspace", "--no-deps"]);
        if host::find_program("cargo-deny").is_some() {
            self.cargo("dependencies", &["deny", "check", "licenses", "bans", "sources"]);
        }
        self.cargo(
            "unit tests",
            &[
                "test",
                "--locked",
                "--workspace",
                "--exclude",
                "vswitch-tests",
                "--no-fail-fast",
            ],
        );
        self.end_to_end();
        self.own("guide", &["guide", "--check"]);
        self.own("fuzzing", &["fuzz", "--seconds", FUZZ_SECONDS]);
        self.cargo(
            "instructions per frame",
            &[
                "run",
                "--locked",
                "--release",
                "--package",
                "vswitch-benches",
                "--bin",
                "core",
                "--",
                "--check",
            ],
        );
    }

    fn wanted(&self, name: &str) -> bool {
        self.only.is_none_or(|part| name.contains(part))
    }

    fn plain(&mut self, name: &str, action: impl FnOnce() -> Result<String>) {
        if self.wanted(name) {
            self.steps.step(name, action);
        }
    }

    fn cargo(&mut self, name: &str, args: &[&str]) {
        if self.wanted(name) {
            let mut command = cargo();
            command.args(args);
            self.command(name, &mut command);
        }
    }

    /// Another task of this program, built anew: the steps before may have replaced its file.
    fn own(&mut self, name: &str, args: &[&str]) {
        let mut all = vec!["run", "--quiet", "--locked", "--package", "xtask", "--"];
        all.extend(args);
        self.cargo(name, &all);
    }

    fn end_to_end(&mut self) {
        const NAME: &str = "end-to-end tests";
        if !self.wanted(NAME) {
            return;
        }
        if !sandbox::is_root() {
            self.plain(NAME, || {
                bail!("they make network namespaces and TAPs; as root: sudo -E env \"PATH=$PATH\" cargo xtask test")
            });
            return;
        }
        let mut command = cargo();
        command.args(["test", "--locked", "--package", "vswitch-tests", "--no-fail-fast"]);
        self.command(NAME, &mut command);
    }

    /// Runs a step of its own program, whose output goes to a file and is shown only if it fails.
    fn command(&mut self, name: &str, command: &mut Command) {
        let log = self.logs.join(format!("{}.log", name.replace(' ', "-")));
        let mut count = Count::default();
        self.steps.step(name, || {
            let mut child = Background::start(command.current_dir(host::root()), &log)?;
            let status = child.wait(BOUND)?;
            let text = child.log();
            count = Count::read(&text);
            if !status.success() {
                bail!(
                    "`{}` failed; {} ends with:\n{}",
                    host::describe(command),
                    log.display(),
                    tail(&text)
                );
            }
            Ok(if count == Count::default() {
                summary(&text).to_owned()
            } else {
                format!("{} tests", count.passed)
            })
        });
        self.count.add(count);
    }
}

fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .env("RUSTDOCFLAGS", "-D warnings")
        .env("CARGO_TERM_COLOR", "never");
    command
}

/// The formatter and the linter, which rustup's minimal profile leaves out.
fn toolchain() -> Result<String> {
    let there = |name: &str| {
        let out = host::output(cargo().args([name, "--version"]), Duration::from_secs(120));
        out.is_ok_and(|out| out.status.success())
    };
    let absent: Vec<&str> = [("fmt", "rustfmt"), ("clippy", "clippy")]
        .into_iter()
        .filter(|(command, _)| !there(command))
        .map(|(_, component)| component)
        .collect();
    if !absent.is_empty() {
        let mut command = host::program("rustup");
        command.args(["component", "add"]).args(&absent);
        host::run(&mut command, Duration::from_secs(600))
            .with_context(|| format!("missing: {}; rustup would install them", absent.join(", ")))?;
    }
    let version = host::run(Command::new("rustc").arg("--version"), Duration::from_secs(60))?;
    ensure!(version.starts_with("rustc "), "`rustc --version` said: {version}");
    Ok(version.trim().to_owned())
}

/// The last line of a log, if it is short enough to be a summary.
fn summary(log: &str) -> &str {
    let last = log
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or_default();
    if last.chars().count() <= SUMMARY && !last.contains("target(s) in") && !last.contains("Generated ") {
        last.trim()
    } else {
        ""
    }
}

/// What of a log tells why it failed: the lines about failed tests and errors, else its end.
fn tail(log: &str) -> String {
    const LINES: usize = 60;
    let lines: Vec<&str> = log.lines().collect();
    let start = lines
        .iter()
        .position(|line| *line == "failures:" || line.starts_with("error"))
        .unwrap_or(0)
        .max(lines.len().saturating_sub(LINES));
    lines[start..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_binaries() {
        let log = "running 3 tests\n\
                   test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
                   test result: FAILED. 10 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.50s\n";
        assert_eq!(
            Count::read(log),
            Count {
                passed: 13,
                failed: 2,
                ignored: 1
            }
        );
    }

    #[test]
    fn the_end_of_a_log_is_bounded() {
        let log = "line\n".repeat(1000);
        assert_eq!(tail(&log).lines().count(), 60);
        assert_eq!(tail("ok\nfailures:\n  a::b\n"), "failures:\n  a::b");
    }
}
