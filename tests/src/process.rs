//! Programs: run to the end, or kept running beside the test.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{BOUND, wait_for};

/// How long a program that is run to its end may take.
const RUN_BOUND: &str = "60";

/// What a program that was run to its end has left.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command line.
    pub command: String,
    /// Exit status; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it ended with status 0.
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// The standard output of a program that has to succeed.
    ///
    /// # Panics
    /// If it did not.
    pub fn ok(self) -> String {
        assert!(self.success(), "{self}");
        self.stdout
    }

    /// The standard error of a program that has to fail with `code`.
    ///
    /// # Panics
    /// If it did not.
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self}");
        self.stderr
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            command,
            code,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "`{command}` ended with {code:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}"
        )
    }
}

/// Runs a program to its end, with a bound on its time.
///
/// # Panics
/// If it cannot be started.
pub fn run<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Output {
    run_with_input(program, arguments, b"")
}

/// [`run`], with something on standard input.
///
/// # Panics
/// If it cannot be started.
pub fn run_with_input<S: AsRef<OsStr>>(program: &str, arguments: &[S], input: &[u8]) -> Output {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after=2", RUN_BOUND, program])
        .args(arguments);
    let text = text_of(program, arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("`{text}` cannot be started: {error}"));
    let mut stdin = child.stdin.take().expect("standard input is a pipe");
    let output = std::thread::scope(|scope| {
        // A program that does not read all of its input closes the pipe: that is its affair.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output()
    });
    let output = output.unwrap_or_else(|error| panic!("`{text}` cannot be awaited: {error}"));
    Output {
        command: text,
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn text_of<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> String {
    arguments.iter().fold(program.to_owned(), |text, argument| {
        format!("{text} {}", argument.as_ref().to_string_lossy())
    })
}

/// A program that runs beside the test, its output going to a file, and its errors to another of the same name with `.err`.
/// It ends when dropped, and with the test's thread.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    text: String,
    log: PathBuf,
}

impl Peer {
    /// Starts a program.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn<S: AsRef<OsStr>>(program: &str, arguments: &[S], log: &Path) -> Self {
        Self::spawn_with(program, arguments, log, |_| {})
    }

    /// [`Peer::spawn`] of a command that `prepare` has changed, such as its environment or standard input.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn_with<S: AsRef<OsStr>>(
        program: &str,
        arguments: &[S],
        log: &Path,
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let text = text_of(program, arguments);
        let file = File::create(log).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let errors =
            File::create(errors_of(log)).unwrap_or_else(|error| panic!("{}: {error}", log.display()));
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors);
        prepare(&mut command);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("`{text}` cannot be started: {error}"));
        Self {
            child,
            text,
            log: log.to_owned(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child itself, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// What it has written so far, its errors last.
    pub fn output(&self) -> String {
        let files =
            [self.log.clone(), errors_of(&self.log)].map(|path| std::fs::read(path).unwrap_or_default());
        String::from_utf8_lossy(&files.concat()).into_owned()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be awaited")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended already, which is what most signals are for.
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When `bound` has passed.
    pub fn wait(&mut self, bound: Duration) -> ExitStatus {
        let what = format!("`{}` ends; its output so far:\n{}", self.text, self.output());
        wait_for(&what, bound, || self.ended())
    }

    /// Waits for its successful end, and gives its output.
    ///
    /// # Panics
    /// If it fails or takes longer than `bound`.
    pub fn finish(&mut self, bound: Duration) -> String {
        let status = self.wait(bound);
        let output = self.output();
        assert!(status.success(), "`{}` ended with {status}:\n{output}", self.text);
        output
    }

    /// Waits until its output has `text`.
    ///
    /// # Panics
    /// If it ends before, or 15 seconds pass.
    pub fn wait_output(&mut self, text: &str) {
        let what = format!("`{}` writes `{text}`", self.text);
        wait_for(&what, BOUND, || {
            let ended = self.ended();
            if self.output().contains(text) {
                return Some(());
            }
            assert!(
                ended.is_none(),
                "`{}` ended without writing `{text}`:\n{}",
                self.text,
                self.output()
            );
            None
        });
    }
}

fn errors_of(log: &Path) -> PathBuf {
    log.with_extension("err")
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Errors: it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
