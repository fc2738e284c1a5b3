//! What can go wrong in `vswitchctl`: each error says what, where and what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::frame::FrameError;
use super::output::{Ink, Paint};
use super::problems;
use crate::api::model::{ApiError, Problem};

/// An error that ends the command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The socket can't be reached.
    #[error("{}", explain_connect(path, source))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The daemon went away in the middle of an answer.
    #[error("vswitchd at {} broke off: {}; its log (`journalctl -u vswitchd`) says why", path.display(), root_cause(source))]
    Lost {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: hyper::Error,
    },
    /// What answers at the socket is not the API, or a newer one.
    #[error("{} does not answer as vswitchd does ({message}); is this its socket, and of the same version?", path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// What was wrong with the answer.
        message: String,
    },
    /// The daemon refused.
    #[error("{}", .0.error)]
    Refused(ApiError),
    /// A configuration has errors.
    #[error("{} in {name}{}", super::units::count(problems.problems.len(), "error"), consequence.map(|text| format!("; {text}")).unwrap_or_default())]
    Rejected {
        /// Name of the configuration.
        name: String,
        /// Its text.
        text: String,
        /// Its errors.
        problems: ApiError,
        /// What this means for the switch.
        consequence: Option<&'static str>,
    },
    /// A file can't be read or written.
    #[error("can't {action} {}: {}", path.display(), io_reason(source))]
    File {
        /// `read`, `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The frame of a trace can't be made.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The arguments make no sense together.
    #[error("{0}")]
    Usage(String),
    /// Anything else that can't be done, one sentence.
    #[error("{0}")]
    Failed(String),
    /// Something differs, and the user asked for this as an exit status.
    #[error("the configurations differ")]
    Differs,
    /// A document can't be written in the form that was asked for.
    #[error("can't write the answer as YAML: {message}; try `-o json`")]
    Document {
        /// Why.
        message: String,
    },
    /// Standard output can't be written.
    #[error("can't write to standard output: {}", io_reason(.0))]
    Output(#[from] io::Error),
    /// The terminal can't be drawn on.
    #[error("can't draw on the terminal: {0}; try `vswitchctl top --once`")]
    Terminal(#[source] io::Error),
    /// The process can't get what it needs from the kernel.
    #[error("can't start: {source}")]
    Runtime {
        /// Why.
        source: io::Error,
    },
}

impl CliError {
    /// The exit status: 2 for wrong usage, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Frame(_) => 2,
            _ => 1,
        }
    }

    /// Whether the reader of standard output has gone, as `head` does.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(source) if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error as the API's document.
    pub(crate) fn document(&self) -> ApiError {
        match self {
            Self::Refused(error) => error.clone(),
            Self::Rejected { problems, .. } => problems.clone(),
            other => ApiError {
                error: other.to_string(),
                problems: Vec::new(),
            },
        }
    }

    /// The error for people.
    pub(crate) fn render(&self, colour: bool) -> String {
        let paint = Paint::new(colour);
        match self {
            Self::Differs => String::new(),
            Self::Rejected {
                name, text, problems, ..
            } => {
                let mut out = problems::render(name, text, &problems.problems, paint);
                out.push_str(&paint.paint(Ink::Bad, &self.to_string()));
                out.push('\n');
                out
            }
            // A small edit has no text of its own to point into.
            Self::Refused(error) if !error.problems.is_empty() => {
                let problems: Vec<Problem> = error
                    .problems
                    .iter()
                    .map(|problem| Problem {
                        line: 0,
                        ..problem.clone()
                    })
                    .collect();
                let mut out = problems::render("", "", &problems, paint);
                out.push_str(&paint.paint(Ink::Bad, &self.to_string()));
                out.push('\n');
                out
            }
            _ => format!("{} {self}\n", paint.paint(Ink::Bad, "error:")),
        }
    }
}

/// The system's reason without its number.
fn io_reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_lowercase(),
        None => text,
    }
}

/// The innermost reason: what a library says around it names the library's own parts.
fn root_cause(error: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<io::Error>() {
        Some(error) => io_reason(error),
        None => cause.to_string(),
    }
}

/// One sentence for a socket that can't be reached, with what to do.
fn explain_connect(path: &Path, source: &io::Error) -> String {
    let socket = path.display();
    match source.kind() {
        io::ErrorKind::NotFound => format!(
            "vswitchd is not running: there is no socket at {socket}; start it (`systemctl start vswitchd`, or \
             `vswitchd --config FILE`), or name its socket with --socket"
        ),
        io::ErrorKind::ConnectionRefused if !is_socket(path) => {
            format!("{socket} is not a socket; name the socket of vswitchd with --socket")
        }
        io::ErrorKind::ConnectionRefused => format!(
            "vswitchd is not running: the socket {socket} is there, but nobody listens; a daemon ended without \
             removing it, start vswitchd again and it takes the socket over"
        ),
        io::ErrorKind::PermissionDenied => format!(
            "no permission to use {socket}; run this as root (`sudo vswitchctl …`) or join the socket's group{}",
            owning_group(path)
                .map(|group| format!(" (`{group}`)"))
                .unwrap_or_default()
        ),
        _ => format!(
            "can't reach vswitchd at {socket}: {}; name its socket with --socket",
            io_reason(source)
        ),
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt as _;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Name of the group that may use the socket, unless that is root's own.
fn owning_group(path: &Path) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let gid = std::fs::metadata(path).ok()?.gid();
    if gid == 0 {
        return None;
    }
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}
