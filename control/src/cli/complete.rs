//! Completions: the shell asks this program itself, which knows its arguments and asks the daemon for names.
//!
//! Nothing here may print an error or wait long: a person is typing. Without a daemon there are no names.

use std::path::PathBuf;
use std::time::Duration;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use serde_json::Value;

use super::args::Args;
use super::client::{Client, DEFAULT_SOCKET};
use super::error::CliError;
use super::output::Output;

/// The variable by which a shell's script asks for completions.
const ASK: &str = "VSWITCHCTL_COMPLETE";
/// The name that the scripts complete for.
const NAME: &str = "vswitchctl";
/// How long a person who pressed Tab waits for names.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers a shell that asks for completions, and ends the process; returns at once where none asks.
pub(crate) fn answer() {
    CompleteEnv::with_factory(Args::command).var(ASK).complete();
}

/// Prints the script for a shell.
pub(crate) fn script(output: &mut Output, shell: Shell) -> Result<(), CliError> {
    let shell = shell.to_string();
    let shells = Shells::builtins();
    let completer = shells
        .completer(&shell)
        .ok_or_else(|| CliError::Failed(format!("there are no completions for {shell}")))?;
    Ok(completer.write_registration(ASK, NAME, NAME, NAME, output.raw())?)
}

/// Names of ports.
pub(crate) fn ports() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("ports"))
}

/// Names of port groups.
pub(crate) fn groups() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("groups"))
}

/// Names of uplinks.
pub(crate) fn uplinks() -> ArgValueCandidates {
    ArgValueCandidates::new(|| names("uplinks"))
}

fn names(list: &str) -> Vec<CompletionCandidate> {
    // The arguments typed so far are not known here, so `--socket` isn't; the variable is.
    let socket = std::env::var_os("VSWITCH_SOCKET").unwrap_or_else(|| DEFAULT_SOCKET.into());
    let client = Client::new(PathBuf::from(socket));
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let answer = runtime.block_on(async { tokio::time::timeout(PATIENCE, client.get(list)).await });
    let rows = match answer {
        Ok(Ok(Value::Array(rows))) => rows,
        _ => Vec::new(),
    };
    rows.iter()
        .filter_map(|row| row.get("name")?.as_str())
        .map(CompletionCandidate::new)
        .collect()
}
