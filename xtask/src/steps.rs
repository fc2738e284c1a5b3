//! Progress: one line per step, with what came out of it and how long it took.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::host::Interrupted;

/// The steps of a task so far.
#[derive(Debug)]
pub struct Steps {
    terminal: bool,
    passed: usize,
    failed: Vec<String>,
    interrupted: bool,
    started: Instant,
}

impl Default for Steps {
    fn default() -> Self {
        Self::new()
    }
}

impl Steps {
    /// No step yet; the clock of the whole task starts.
    pub fn new() -> Self {
        Self {
            terminal: stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            passed: 0,
            failed: Vec::new(),
            interrupted: false,
            started: Instant::now(),
        }
    }

    /// Goes on counting after steps that were taken elsewhere.
    pub fn resume(passed: usize) -> Self {
        Self {
            passed,
            ..Self::new()
        }
    }

    /// Takes a step, whose text is the figure or fact that it found out. `None` if it failed.
    pub fn step(&mut self, name: &str, action: impl FnOnce() -> Result<String>) -> Option<String> {
        self.value(name, || action().map(|text| (text.clone(), text)))
    }

    /// Takes a step that gives a value beside its text.
    pub fn value<T>(&mut self, name: &str, action: impl FnOnce() -> Result<(String, T)>) -> Option<T> {
        if self.interrupted {
            return None;
        }
        if self.terminal {
            print!("\x1b[2m… {name}\x1b[0m");
            let _ = stdout().flush();
        }
        let start = Instant::now();
        let result = action();
        let time = seconds(start.elapsed());
        if self.terminal {
            print!("\r\x1b[K");
        }
        match result {
            Ok((text, value)) => {
                self.passed += 1;
                println!("{} {name:<22} {text:<58} {time:>8}", self.colour("32", "✓"));
                Some(value)
            }
            Err(error) => {
                self.interrupted = error.is::<Interrupted>() || error.root_cause().is::<Interrupted>();
                self.failed.push(name.to_owned());
                println!("{} {name:<22} {:<58} {time:>8}", self.colour("31", "✗"), "");
                for line in format!("{error:#}").lines() {
                    println!("    {line}");
                }
                None
            }
        }
    }

    /// Shows a text under the step before, indented.
    pub fn show(&self, text: &str) {
        println!();
        for line in text.trim_end().lines() {
            if line.is_empty() {
                println!();
            } else {
                println!("    {line}");
            }
        }
        println!();
    }

    /// Shows a command and what it printed.
    pub fn session(&self, command: &str, text: &str) {
        self.show(&format!(
            "{}\n{}",
            self.colour("1", &format!("$ {command}")),
            text.trim_end()
        ));
    }

    fn colour(&self, code: &str, text: &str) -> String {
        if self.terminal {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// How many steps passed.
    pub fn passed(&self) -> usize {
        self.passed
    }

    /// Names of the steps that failed.
    pub fn failed(&self) -> &[String] {
        &self.failed
    }

    /// Adds what another process counted.
    pub fn add(&mut self, passed: usize, failed: Vec<String>) {
        self.passed += passed;
        self.failed.extend(failed);
    }

    /// Prints the last line. True if every step passed.
    pub fn finish(&self, what: &str) -> bool {
        let time = seconds(self.started.elapsed());
        println!();
        if self.failed.is_empty() {
            println!(
                "{}",
                self.colour(
                    "1;32",
                    &format!("{what}: all {} steps passed in {time}", self.passed)
                )
            );
        } else {
            println!(
                "{}",
                self.colour(
                    "1;31",
                    &format!(
                        "{what}: {} steps passed, {} failed: {}",
                        self.passed,
                        self.failed.len(),
                        self.failed.join(", ")
                    )
                )
            );
        }
        self.failed.is_empty()
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// A number of bits per second as people say it.
pub fn bits(per_second: f64) -> String {
    match per_second {
        r if r >= 1e9 => format!("{:.2} Gbit/s", r / 1e9),
        r if r >= 1e6 => format!("{:.1} Mbit/s", r / 1e6),
        r => format!("{:.0} kbit/s", r / 1e3),
    }
}
