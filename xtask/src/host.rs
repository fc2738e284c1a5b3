//! Other programs: run them, wait for them with a bound, stop them.
//!
//! Every wait ends early when the task is interrupted (Ctrl-C, SIGTERM), with [`Interrupted`] as the error.

use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Somebody pressed Ctrl-C or sent SIGTERM.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

fn flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(Arc::default)
}

/// From now on SIGINT, SIGTERM and SIGHUP no longer end the process: they end its waits.
pub fn catch_signals() -> Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signal_hook::flag::register(signal as i32, Arc::clone(flag())).context("cannot catch signals")?;
    }
    Ok(())
}

static HEARD: AtomicBool = AtomicBool::new(false);

/// Whether a signal has come.
pub fn interrupted() -> bool {
    flag().load(Ordering::Relaxed) && !HEARD.load(Ordering::Relaxed)
}

/// The signal that has come, and any other, is not to end the waits that follow: they are what was asked for.
pub fn signals_heard() {
    HEARD.store(true, Ordering::Relaxed);
}

/// An error if a signal has come.
pub fn check_interrupted() -> Result<()> {
    if interrupted() {
        Err(Interrupted.into())
    } else {
        Ok(())
    }
}

/// The workspace's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Whether a program is in `PATH` or in the usual places of system programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// A program, found also in the directories of system programs, which are not in an ordinary user's `PATH`.
pub fn program(name: &str) -> Command {
    let mut command = Command::new(find_program(name).unwrap_or_else(|| PathBuf::from(name)));
    command.env("LC_ALL", "C");
    command
}

/// A command line split at spaces, for fixed commands whose words have none.
pub fn words(line: &str) -> Command {
    let mut words = line.split_whitespace();
    let mut command = program(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// The command as one would type it.
pub fn describe(command: &Command) -> String {
    let mut text = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for arg in command.get_args() {
        text.push(' ');
        text.push_str(&arg.to_string_lossy());
    }
    text
}

/// How long [`output`] waits for commands that take no time of their own.
pub const SHORT: Duration = Duration::from_secs(20);

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs a command to its end, at most for `bound`.
pub fn output(command: &mut Command, bound: Duration) -> Result<Output> {
    output_of(command.stderr(Stdio::piped()), bound)
}

/// As [`output`], but standard error goes where the command says.
pub fn output_of(command: &mut Command, bound: Duration) -> Result<Output> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{name}` cannot be run"))?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, bound).with_context(|| format!("`{name}`"));
    if status.is_err() {
        stop(&mut child);
    }
    Ok(Output {
        status: status?,
        stdout: stdout.join().unwrap_or_default(),
        stderr: stderr.join().unwrap_or_default(),
    })
}

/// Runs a command that must succeed; its standard output.
pub fn run(command: &mut Command, bound: Duration) -> Result<String> {
    let out = output(command, bound)?;
    if !out.status.success() {
        let said = [out.stderr.trim(), out.stdout.trim()]
            .into_iter()
            .find(|text| !text.is_empty())
            .unwrap_or("it said nothing")
            .to_owned();
        bail!("`{}` failed ({}): {said}", describe(command), out.status);
    }
    Ok(out.stdout)
}

/// Runs a fixed command that must succeed; its standard output.
pub fn sh(line: &str) -> Result<String> {
    run(&mut words(line), SHORT)
}

fn drain(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream {
            // A broken pipe only shortens what can be shown.
            let _ = stream.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Waits for a child to end, at most for `bound`.
pub fn wait(child: &mut Child, bound: Duration) -> Result<ExitStatus> {
    let mut status = None;
    wait_until(bound, || {
        status = child.try_wait()?;
        Ok(status.is_some())
    })?;
    status.context("the program did not end")
}

/// Asks `condition` again and again until it holds, at most for `bound`.
pub fn wait_until(bound: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + bound;
    let mut pause = Duration::from_millis(1);
    loop {
        if condition()? {
            return Ok(());
        }
        check_interrupted()?;
        if Instant::now() >= end {
            bail!("not done within {} s", bound.as_secs());
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Lets `time` pass: the length of a measurement.
pub fn measure_for(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        check_interrupted()?;
        thread::sleep(left.min(Duration::from_millis(50)));
    }
    Ok(())
}

/// Ends a child for good.
pub fn stop(child: &mut Child) {
    // Both fail only when it has ended already.
    let _ = child.kill();
    let _ = child.wait();
}

/// Waits for a child, also when interrupted, and ends it for good after `bound`. The status, if it went by itself.
fn ended_within(child: &mut Child, bound: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + bound;
    while Instant::now() < end {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        thread::sleep(Duration::from_millis(5));
    }
    stop(child);
    None
}

/// A program in the background. It is ended when this is dropped, and does not hear the terminal's Ctrl-C.
#[derive(Debug)]
pub struct Background {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Background {
    /// Starts it; what it prints goes to the file `log`.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        Self::start_with(command, log, Stdio::null())
    }

    /// As [`Self::start`], for a program that ends when its input does, and can be told more by [`Self::say`].
    pub fn start_listening(command: &mut Command, log: &Path) -> Result<Self> {
        Self::start_with(command, log, Stdio::piped())
    }

    fn start_with(command: &mut Command, log: &Path, input: Stdio) -> Result<Self> {
        let name = describe(command);
        let file = std::fs::File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command
            .stdin(input)
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("`{name}` cannot be run"))?;
        Ok(Self {
            child,
            name,
            log: log.to_path_buf(),
        })
    }

    /// Writes a line to its input.
    pub fn say(&mut self, line: &str) -> Result<()> {
        let input = self
            .child
            .stdin
            .as_mut()
            .context("it was started without an input")?;
        writeln!(input, "{line}").with_context(|| format!("`{}` does not listen", self.name))
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that it prints to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has printed so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// An error with the end of its log if it has ended.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(15)..].join("\n");
            bail!("`{}` ended ({status}):\n{tail}", self.name);
        }
        Ok(())
    }

    /// Waits for `condition`, as long as the program lives and at most for `bound`.
    pub fn ready(&mut self, bound: Duration, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
        let waited = wait_until(bound, || {
            self.check()?;
            condition()
        });
        waited.with_context(|| format!("`{}` is not ready", self.name))
    }

    /// Waits for it to end, at most for `bound`.
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        wait(&mut self.child, bound).with_context(|| format!("`{}`", self.name))
    }

    /// Takes its processors away until [`Self::resume`].
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets it go on after [`Self::pause`].
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Sends a signal to it and what it started.
    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        killpg(Pid::from_raw(pid), signal).with_context(|| format!("`{}` has ended", self.name))
    }

    /// Asks it, and what it started, to end, and waits. The status, if it went by itself.
    pub fn terminate(&mut self, bound: Duration) -> Option<ExitStatus> {
        // They fail only when the whole group has ended already. One that is paused hears nothing before it goes on.
        let _ = self.signal(Signal::SIGTERM).and_then(|()| self.resume());
        ended_within(&mut self.child, bound)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate(Duration::from_secs(5));
        }
    }
}

/// A command to be run inside the network namespace `netns` (a name under /run/netns).
///
/// `ip netns exec` would mount a new /sys, which is forbidden in a user namespace inside a container.
pub fn inside(netns: &str, name: impl AsRef<OsStr>) -> Command {
    let mut command = program("nsenter");
    command.arg(format!("--net=/run/netns/{netns}")).arg("--");
    let name = name.as_ref();
    command.arg(
        name.to_str()
            .and_then(find_program)
            .unwrap_or_else(|| PathBuf::from(name)),
    );
    command
}

/// A fixed command inside a network namespace, which must succeed; its standard output.
pub fn sh_in(netns: &str, line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    run(inside(netns, words.next().unwrap_or_default()).args(words), SHORT)
}
