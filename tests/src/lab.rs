//! A lab: one switch under test, the namespaces around it, and a directory for all that they write.

use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::netns::Namespace;
use crate::process::{Output, Peer, run, run_with_input};
use crate::stats::{Metrics, Stats, http_get};
use crate::wait::{BOUND, wait_for, wait_until};

/// Port of `/metrics` on the loopback of the switch's own namespace.
pub const METRICS_PORT: u16 = 9731;

/// Begins the names of our namespaces and directories; the process id follows, then a number, so that they tell who left them.
const PREFIX: &str = "vst";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// The lab of one test.
#[derive(Debug)]
pub struct Lab {
    daemon: RefCell<Option<Peer>>,
    daemons: Cell<u32>,
    number: u32,
    namespaces: RefCell<Vec<(String, Namespace)>>,
    directory: TempDir,
}

impl Default for Lab {
    fn default() -> Self {
        Self::new()
    }
}

impl Lab {
    /// A lab with a namespace for the switch, and no switch yet.
    ///
    /// # Panics
    /// Without root.
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the end-to-end tests make network namespaces and need root: run them with `sudo -E cargo test -p vswitch-tests`"
        );
        sweep();
        let directory = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", std::process::id()))
            .tempdir()
            .expect("a directory can be made");
        let lab = Self {
            daemon: RefCell::new(None),
            daemons: Cell::new(0),
            number: COUNT.fetch_add(1, Ordering::Relaxed),
            namespaces: RefCell::new(Vec::new()),
            directory,
        };
        lab.namespace("switch");
        lab
    }

    /// The namespace `name` of this lab, made when it is first asked for.
    pub fn namespace(&self, name: &str) -> Namespace {
        let mut namespaces = self.namespaces.borrow_mut();
        if let Some((_, known)) = namespaces.iter().find(|(known, _)| known == name) {
            return known.clone();
        }
        let full = format!("{PREFIX}{}-{}-{name}", std::process::id(), self.number);
        let namespace = Namespace::new(full, self.directory.path());
        namespaces.push((name.to_owned(), namespace.clone()));
        namespace
    }

    /// The switch's own namespace.
    pub fn host(&self) -> Namespace {
        self.namespace("switch")
    }

    /// A namespace whose stack sends nothing by itself.
    pub fn quiet(&self, name: &str) -> Namespace {
        let namespace = self.namespace(name);
        namespace.quiet();
        namespace
    }

    /// Joins two namespaces by a veth pair, both ends up.
    pub fn veth(&self, (near, near_device): (&Namespace, &str), (far, far_device): (&Namespace, &str)) {
        run(
            "ip",
            &[
                "-netns",
                near.name(),
                "link",
                "add",
                near_device,
                "type",
                "veth",
                "peer",
                "name",
                far_device,
                "netns",
                far.name(),
            ],
        )
        .ok();
        near.up(near_device);
        far.up(far_device);
    }

    /// A path in the lab's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file in the lab's directory.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("the lab's directory can be written to");
        path
    }

    /// Starts the switch with a configuration, and waits until it answers.
    ///
    /// # Panics
    /// If it ends instead.
    pub fn start(&self, config: &str) {
        self.write("switch.yaml", config);
        self.launch();
    }

    /// Starts the switch again, with the files as they are.
    pub fn launch(&self) {
        let mut daemon = self.spawn_daemon("state", "ctl.sock", METRICS_PORT);
        wait_for("the daemon answers on its socket", BOUND, || {
            if let Some(status) = daemon.ended() {
                panic!("vswitchd ended with {status}:\n{}", daemon.output());
            }
            UnixStream::connect(self.path("ctl.sock")).ok()?;
            self.try_ctl(&["-o", "json", "show"]).success().then_some(())
        });
        *self.daemon.borrow_mut() = Some(daemon);
    }

    /// Starts a daemon on the lab's configuration file and waits for nothing.
    pub fn spawn_daemon(&self, state: &str, socket: &str, metrics: u16) -> Peer {
        let number = self.daemons.get();
        self.daemons.set(number + 1);
        let program = binary("vswitchd");
        let metrics = format!("127.0.0.1:{metrics}");
        let command = [
            program.as_os_str(),
            "--config".as_ref(),
            self.path("switch.yaml").as_os_str(),
            "--state".as_ref(),
            self.path(state).as_os_str(),
            "--socket".as_ref(),
            self.path(socket).as_os_str(),
            "--metrics".as_ref(),
            metrics.as_ref(),
        ]
        .map(ToOwned::to_owned);
        self.host().spawn(&format!("vswitchd-{number}"), &command)
    }

    /// Process id of the daemon.
    ///
    /// # Panics
    /// If none runs.
    pub fn pid(&self) -> u32 {
        self.daemon.borrow().as_ref().expect("a daemon runs").pid()
    }

    /// What the daemon has logged.
    pub fn log(&self) -> String {
        self.daemon
            .borrow()
            .as_ref()
            .map(Peer::output)
            .unwrap_or_default()
    }

    /// Ends the daemon at once (`kill -9`).
    pub fn kill(&self) {
        // Dropping it kills it.
        self.daemon.borrow_mut().take().expect("a daemon runs");
    }

    /// Asks the daemon to end, and waits until it has.
    ///
    /// # Panics
    /// If it does not, or fails.
    pub fn stop(&self) {
        let mut daemon = self.daemon.borrow_mut().take().expect("a daemon runs");
        daemon.signal(Signal::SIGTERM);
        daemon.finish(BOUND);
    }

    /// Runs `vswitchctl`.
    pub fn try_ctl(&self, arguments: &[&str]) -> Output {
        self.ctl_with_input(arguments, "")
    }

    /// Runs `vswitchctl` with something on standard input.
    pub fn ctl_with_input(&self, arguments: &[&str], input: &str) -> Output {
        let (program, arguments) = self.ctl_command(arguments);
        run_with_input(&program, &arguments, input.as_bytes())
    }

    /// Program and arguments that run `vswitchctl` on this lab's daemon.
    pub fn ctl_command(&self, arguments: &[&str]) -> (String, Vec<String>) {
        let socket = self.path("ctl.sock").to_string_lossy().into_owned();
        let mut all = vec!["--socket".to_owned(), socket];
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        (binary("vswitchctl").to_string_lossy().into_owned(), all)
    }

    /// Runs `vswitchctl` beside the test.
    pub fn spawn_ctl(&self, log: &str, arguments: &[&str]) -> Peer {
        let (program, arguments) = self.ctl_command(arguments);
        Peer::spawn(&program, &arguments, &self.path(&format!("{log}.log")))
    }

    /// Output of a `vswitchctl` command that has to succeed.
    pub fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).ok()
    }

    /// The JSON that a `vswitchctl` command prints.
    ///
    /// # Panics
    /// If it fails or prints anything else.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ctl(&[&["-o", "json"], arguments].concat());
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{arguments:?} prints no JSON ({error}):\n{text}"))
    }

    /// Applies a configuration.
    pub fn try_apply(&self, config: &str) -> Output {
        self.ctl_with_input(&["apply", "-f", "-"], config)
    }

    /// Applies a configuration that has to be accepted.
    pub fn apply(&self, config: &str) {
        self.try_apply(config).ok();
    }

    /// Counters of all ports.
    pub fn stats(&self) -> Stats {
        Stats::read(&self.json(&["port", "stats"]))
    }

    /// Waits until the counters added since `before` satisfy `condition`, and gives them.
    pub fn stats_until(
        &self,
        what: &str,
        before: &Stats,
        mut condition: impl FnMut(&Stats) -> bool,
    ) -> Stats {
        let mut last = Stats::default();
        let start = std::time::Instant::now();
        while start.elapsed() < BOUND {
            last = self.stats().since(before);
            if condition(&last) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("waited {BOUND:?} in vain: {what}; counters since: {last:#?}");
    }

    /// The text of a scrape.
    ///
    /// # Panics
    /// If `/metrics` does not answer.
    pub fn scrape(&self) -> String {
        self.host()
            .run(|| http_get(METRICS_PORT, "/metrics"))
            .unwrap_or_else(|error| panic!("{error}"))
    }

    /// The samples of a scrape.
    pub fn metrics(&self) -> Metrics {
        Metrics::read(&self.scrape())
    }

    /// The row of a port in `port list`.
    ///
    /// # Panics
    /// If there is none.
    pub fn port(&self, name: &str) -> Value {
        let rows = self.json(&["port", "list"]);
        let row = rows
            .as_array()
            .and_then(|rows| rows.iter().find(|row| row["name"] == name));
        row.unwrap_or_else(|| panic!("no port `{name}` in {rows:#}"))
            .clone()
    }

    /// Waits until a port is up.
    pub fn wait_up(&self, port: &str) {
        wait_until(&format!("port `{port}` is up"), BOUND, || {
            self.port(port)["state"] == "up"
        });
    }

    /// Waits until all ports are up.
    pub fn wait_all_up(&self) {
        wait_until("all ports are up", BOUND, || {
            let rows = self.json(&["port", "list"]);
            rows.as_array()
                .is_some_and(|rows| rows.iter().all(|row| row["state"] == "up"))
        });
    }

    /// Waits until a port is down, and gives the reason.
    pub fn wait_down(&self, port: &str) -> String {
        wait_for(&format!("port `{port}` is down"), BOUND, || {
            let row = self.port(port);
            (row["state"] == "down").then(|| row["reason"].as_str().unwrap_or_default().to_owned())
        })
    }

    /// The port behind which the MAC table has an address (as text), in a VLAN if that is given.
    pub fn mac_port(&self, mac: &str, vlan: Option<u16>) -> Option<String> {
        let rows = self.json(&["mac", "list"]);
        let mut rows = rows.as_array().expect("`mac list` prints an array").iter();
        let row = rows.find(|row| row["mac"] == mac && vlan.is_none_or(|vlan| row["vlan"] == vlan))?;
        Some(row["port"].as_str().expect("a row has its port").to_owned())
    }

    /// Generation in force.
    pub fn generation(&self) -> u64 {
        self.json(&["show"])["generation"]
            .as_u64()
            .expect("`show` has the generation")
    }

    /// Prints all there is to know, for a test that fails.
    fn dump(&self) {
        println!("\n===== state of the lab =====");
        let print = |output: &Output| println!("{output}\n");
        if self.daemon.borrow().is_some() {
            for command in [
                &["show"][..],
                &["-o", "json", "port", "stats"],
                &["mac", "list"],
                &["config"],
                &["events"],
            ] {
                print(&self.try_ctl(command));
            }
        }
        for number in 0..self.daemons.get() {
            let log = fs::read_to_string(self.path(&format!("vswitchd-{number}.err"))).unwrap_or_default();
            let from = log.lines().count().saturating_sub(60);
            println!("--- end of the log of daemon {number}");
            log.lines().skip(from).for_each(|line| println!("{line}"));
        }
        for (name, namespace) in self.namespaces.borrow().iter() {
            println!("--- namespace {name}");
            print(&namespace.exec(&["ip", "-details", "-statistics", "link"]));
            print(&namespace.exec(&["ip", "-brief", "address"]));
        }
        println!("===== end of the state =====");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dump();
        }
        if let Some(daemon) = self.daemon.borrow_mut().take() {
            daemon.signal(Signal::SIGTERM);
            // Dropping it kills it, where it would not end by itself.
            let mut daemon = daemon;
            for _ in 0..100 {
                if daemon.ended().is_some() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// Removes the namespaces and directories of test processes that are no more.
fn sweep() {
    static ONCE: OnceLock<()> = OnceLock::new();
    let left_in = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names
            .filter(|name| {
                let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('-'));
                owner.is_some_and(|(pid, _)| {
                    pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists()
                })
            })
            .collect()
    };
    ONCE.get_or_init(|| {
        for name in left_in(Path::new("/run/netns")) {
            run("ip", &["netns", "del", &name]);
        }
        for name in left_in(&std::env::temp_dir()) {
            // Another test program may sweep at the same time.
            let _ = fs::remove_dir_all(std::env::temp_dir().join(name));
        }
    });
}

/// A program of the project: from `VSWITCH_BIN_DIR`, or built beside the test program.
///
/// # Panics
/// If it is not there.
pub fn binary(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        if let Some(directory) = std::env::var_os("VSWITCH_BIN_DIR") {
            return directory.into();
        }
        // The test program is target/PROFILE/deps/NAME.
        let program = std::env::current_exe().expect("a program knows its path");
        let directory = program
            .ancestors()
            .nth(2)
            .expect("it lies in target/PROFILE/deps")
            .to_owned();
        let mut build = vec!["build", "--quiet", "--package", "control", "--bins"];
        if directory.ends_with("release") {
            build.push("--release");
        }
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let built = std::process::Command::new(cargo)
            .args(build)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .expect("cargo can be started");
        assert!(built.success(), "vswitchd and vswitchctl don't build");
        directory
    });
    let path = directory.join(name);
    assert!(
        path.exists(),
        "{} is not there: build it with `cargo build`, or set VSWITCH_BIN_DIR",
        path.display()
    );
    path
}
