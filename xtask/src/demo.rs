//! `cargo xtask demo`: three machines on one switch, from the first start of the daemon to its stop.
//!
//! The part outside builds, looks for programs and makes a temporary directory; then it starts itself again in
//! namespaces of its own ([`crate::sandbox`]), where everything else happens.

use std::ffi::OsString;
use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::host::{self, Background, SHORT};
use crate::packages;
use crate::sandbox;
use crate::steps::{Steps, bits};

/// Directory with `vswitchd` and `vswitchctl` to use instead of building them.
pub const BIN_DIR: &str = "VSWITCH_BIN_DIR";

/// How long the first build may take.
const BUILD: Duration = Duration::from_secs(3600);

const METRICS: &str = "127.0.0.1:9731";

struct Machine {
    name: &'static str,
    group: &'static str,
    mac: &'static str,
    v4: &'static str,
    v6: &'static str,
}

const MACHINES: [Machine; 3] = [
    Machine {
        name: "vm1",
        group: "web",
        mac: "02:00:00:00:00:01",
        v4: "10.0.0.1",
        v6: "fd00::1",
    },
    Machine {
        name: "vm2",
        group: "web",
        mac: "02:00:00:00:00:02",
        v4: "10.0.0.2",
        v6: "fd00::2",
    },
    Machine {
        name: "vm3",
        group: "lab",
        mac: "02:00:00:00:00:03",
        v4: "10.0.0.3",
        v6: "fd00::3",
    },
];

/// What `vm1` pretends to be for a moment.
const FORGED: &str = "02:00:00:00:00:99";

/// The whole demo. True if every step passed.
pub fn run(keep: bool) -> Result<bool> {
    host::catch_signals()?;
    println!(
        "Three machines on one virtual switch: vm1 and vm2 in port group `web` (VLAN 100), vm3 in `lab` (VLAN 200)."
    );
    if sandbox::is_root() {
        println!("Everything happens in namespaces of its own; nothing of this machine is changed.\n");
    } else {
        println!("Running as an ordinary user: everything happens inside a user namespace.\n");
    }
    let mut steps = Steps::new();
    let Some(bin) = steps.value("build", binaries) else {
        return Ok(steps.finish("demo"));
    };
    if steps
        .step("programs", || packages::ensure(packages::DEMO))
        .is_none()
    {
        return Ok(steps.finish("demo"));
    }
    let dir = tempfile::Builder::new().prefix("vswitch-demo-").tempdir()?;
    let mut args: Vec<OsString> = vec!["demo-inside".into(), dir.path().into(), bin.into()];
    if keep {
        args.push("--keep".into());
    }
    let mut child = sandbox::reenter(args)?
        .spawn()
        .context("`unshare` cannot be run")?;
    let status = sandbox::wait(&mut child, Duration::from_secs(10))?;
    match read_summary(dir.path()) {
        Some((passed, failed)) => steps.add(passed, failed),
        None if host::interrupted() => steps.add(0, vec!["interrupted".into()]),
        None if status.code() == Some(1) && !sandbox::is_root() => {
            println!(
                "    An ordinary user may not make namespaces here. On Debian 12 and later this is allowed unless\n    \
                 `sysctl user.max_user_namespaces` is 0; on Ubuntu 24.04 and later set\n    \
                 `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`. Or run the demo as root."
            );
            steps.add(0, vec!["namespaces".into()]);
        }
        None => steps.add(0, vec![format!("namespaces ({status})")]),
    }
    steps.step("clean-up", || {
        let path = dir.path().to_path_buf();
        dir.close()?;
        ensure!(!path.exists(), "{} is still there", path.display());
        Ok("namespaces, devices and files are gone".into())
    });
    Ok(steps.finish("demo"))
}

/// Builds the daemon and the command, or takes those of [`BIN_DIR`]. The directory that they are in.
pub fn binaries() -> Result<(String, PathBuf)> {
    if let Some(dir) = std::env::var_os(BIN_DIR) {
        let dir = PathBuf::from(dir);
        for name in ["vswitchd", "vswitchctl"] {
            ensure!(
                dir.join(name).is_file(),
                "{BIN_DIR} is {}, which has no `{name}`",
                dir.display()
            );
        }
        return Ok((format!("taken from {}", dir.display()), dir));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--release",
            "--package",
            "control",
            "--bins",
            "--message-format",
            "json",
        ])
        .current_dir(host::root());
    // The first build takes minutes: whoever watches sees cargo's own progress.
    if std::io::stderr().is_terminal() {
        println!();
        command.stderr(Stdio::inherit());
    } else {
        command.stderr(Stdio::piped());
    }
    let out = host::output_of(&mut command, BUILD)?;
    ensure!(out.status.success(), "the build failed:\n{}", out.stderr.trim());
    let executable = out
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo named no program that it built")?;
    let dir = executable.parent().context("the program has no directory")?;
    Ok(("vswitchd and vswitchctl, optimised".into(), dir.to_path_buf()))
}

const SUMMARY: &str = "summary.json";

pub(crate) fn write_summary(dir: &Path, steps: &Steps) -> Result<()> {
    let summary = serde_json::json!({ "passed": steps.passed(), "failed": steps.failed() });
    fs::write(dir.join(SUMMARY), summary.to_string()).context("cannot write the summary")
}

pub(crate) fn read_summary(dir: &Path) -> Option<(usize, Vec<String>)> {
    let text = fs::read_to_string(dir.join(SUMMARY)).ok()?;
    let summary: Value = serde_json::from_str(&text).ok()?;
    let passed = summary["passed"].as_u64()?.try_into().ok()?;
    let failed = summary["failed"].as_array()?.iter().filter_map(Value::as_str);
    Some((passed, failed.map(str::to_owned).collect()))
}

/// The part inside the namespaces. True if every step passed.
pub fn inside(dir: &Path, bin: &Path, keep: bool) -> Result<bool> {
    host::catch_signals()?;
    let mut steps = Steps::new();
    let demo = Demo {
        dir,
        bin,
        taps: sandbox::tap_possible(),
    };
    demo.all(&mut steps, keep);
    write_summary(dir, &steps)?;
    Ok(steps.failed().is_empty())
}

struct Demo<'a> {
    dir: &'a Path,
    bin: &'a Path,
    /// Ports are TAPs that the switch makes; else veth pairs that it attaches.
    taps: bool,
}

impl Demo<'_> {
    fn all(&self, steps: &mut Steps, keep: bool) {
        // Nothing works without these; the others are independent of each other.
        if steps.step("namespaces", || self.namespaces()).is_none() {
            return;
        }
        let config = self.config();
        steps.show(&config);
        let Some(mut daemon) = steps.value("vswitchd", || self.start(&config)) else {
            return;
        };
        if steps.step("addresses", || self.addresses()).is_none() {
            return;
        }
        if let Some(tree) = steps.value("tree", || self.tree()) {
            steps.session("vswitchctl show", &tree);
        }
        let [vm1, vm2, vm3] = &MACHINES;
        steps.step("ping IPv4 vm1 → vm2", || ping(vm1.name, vm2.v4));
        steps.step("ping IPv6 vm1 → vm2", || ping(vm1.name, vm2.v6));
        steps.step("TCP vm1 → vm2", || self.tcp(vm1, vm2));
        steps.step("VLANs apart vm1 ↛ vm3", || self.apart(vm1, vm3));
        if let Some(macs) = steps.value("MAC table", || self.macs()) {
            steps.session("vswitchctl mac list", &macs);
        }
        steps.step("forged source dropped", || self.forged(vm1, vm2));
        if let Some((command, trace)) = steps.value("trace", || self.trace(vm1, vm2)) {
            steps.session(&command, &trace);
        }
        if let Some(lines) = steps.value("metrics", || self.metrics()) {
            steps.session(&format!("curl http://{METRICS}/metrics"), &lines);
        }
        if keep && !host::interrupted() {
            self.keep(steps);
        }
        steps.step("graceful stop", || self.stop(&mut daemon));
    }

    fn namespaces(&self) -> Result<String> {
        sandbox::prepare()?;
        for machine in &MACHINES {
            let Machine { name, mac, .. } = machine;
            sandbox::add_netns(name)?;
            if !self.taps {
                host::sh(&format!(
                    "ip link add port-{name} type veth peer name eth0 netns {name} address {mac}"
                ))?;
                host::sh(&format!("ip link set port-{name} addrgenmode none up"))?;
            }
        }
        Ok(if self.taps {
            "vm1, vm2, vm3; the switch will make their TAPs".into()
        } else {
            "vm1, vm2, vm3 with veths: /dev/net/tun may not be opened".into()
        })
    }

    fn config(&self) -> String {
        let mut text = String::from(
            "version: 1\nswitches:\n  vs0:\n    port-groups:\n      web: { vlan: 100 }\n      lab: { vlan: 200 }\n    ports:\n",
        );
        for Machine { name, group, mac, .. } in &MACHINES {
            let device = if self.taps {
                format!("tap: eth0, netns: {name}")
            } else {
                format!("device: port-{name}")
            };
            text.push_str(&format!(
                "      {name}: {{ port-group: {group}, {device}, mac: \"{mac}\" }}\n"
            ));
        }
        text
    }

    fn start(&self, config: &str) -> Result<(String, Background)> {
        let file = self.dir.join("switch.yaml");
        fs::write(&file, config)?;
        let begin = Instant::now();
        let mut command = Command::new(self.bin.join("vswitchd"));
        command
            .arg("--config")
            .arg(&file)
            .arg("--state")
            .arg(self.dir.join("state"))
            .arg("--socket")
            .arg(self.socket())
            .args(["--metrics", METRICS]);
        let mut daemon = Background::start(&mut command, &self.dir.join("vswitchd.log"))?;
        daemon.ready(SHORT, || {
            let ports = self.json(&["port", "list"]);
            Ok(ports.is_ok_and(|ports| ports.as_array().is_some_and(|rows| rows.len() == MACHINES.len())))
        })?;
        let ready = begin.elapsed().as_millis();
        Ok((
            format!("runs, configuration applied {ready} ms after its start"),
            daemon,
        ))
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("ctl.sock")
    }

    fn ctl(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(self.bin.join("vswitchctl"));
        command.arg("--socket").arg(self.socket()).args(args);
        host::run(&mut command, SHORT)
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let mut all = vec!["-o", "json"];
        all.extend(args);
        let text = self.ctl(&all)?;
        serde_json::from_str(&text).with_context(|| format!("`vswitchctl {}` gave no JSON", all.join(" ")))
    }

    fn addresses(&self) -> Result<String> {
        for Machine { name, v4, v6, .. } in &MACHINES {
            host::sh_in(name, &format!("ip address add {v4}/24 dev eth0"))?;
            host::sh_in(name, &format!("ip address add {v6}/64 dev eth0 nodad"))?;
            host::sh_in(name, "ip link set eth0 up")?;
        }
        Ok("all three in 10.0.0.0/24 and fd00::/64".into())
    }

    fn tree(&self) -> Result<(String, String)> {
        host::wait_until(SHORT, || {
            let ports = self.json(&["port", "list"])?;
            Ok(ports
                .as_array()
                .is_some_and(|rows| rows.iter().all(|row| row["state"] == "up")))
        })
        .with_context(|| {
            format!(
                "not all ports came up:\n{}",
                self.ctl(&["port", "list"]).unwrap_or_default()
            )
        })?;
        Ok(("all ports are up".into(), self.ctl(&["show"])?))
    }

    fn tcp(&self, from: &Machine, to: &Machine) -> Result<String> {
        let _server = Background::start(
            host::inside(to.name, "iperf3").args(["-s", "-1"]),
            &self.dir.join("iperf3.log"),
        )?;
        let mut result = String::new();
        host::wait_until(SHORT, || {
            let out = host::output(
                host::inside(from.name, "iperf3").args(["-c", to.v4, "-t", "2", "-J"]),
                SHORT,
            )?;
            let refused = out.stdout.contains("Connection refused");
            result = out.stdout;
            Ok(!refused)
        })?;
        let result: Value = serde_json::from_str(&result).context("iperf3 gave no JSON")?;
        let rate = result["end"]["sum_received"]["bits_per_second"].as_f64();
        let rate = rate.with_context(|| format!("iperf3: {}", result["error"]))?;
        ensure!(rate > 1e6, "only {}", bits(rate));
        Ok(bits(rate))
    }

    fn apart(&self, from: &Machine, to: &Machine) -> Result<String> {
        for address in [to.v4, to.v6] {
            let out = host::output(
                host::inside(from.name, "ping").args(["-c", "3", "-i", "0.2", "-W", "1", "-q", address]),
                SHORT,
            )?;
            ensure!(
                out.status.code() == Some(1) && out.stdout.contains(" 0 received"),
                "{address} should not answer:\n{}{}",
                out.stdout,
                out.stderr
            );
        }
        Ok("same subnet, other VLAN: no answer over IPv4 or IPv6".into())
    }

    fn macs(&self) -> Result<(String, String)> {
        let rows = self.json(&["mac", "list"])?;
        let rows = rows.as_array().context("not a list")?;
        for (machine, vlan) in MACHINES.iter().zip([100, 100, 200]) {
            let there = rows
                .iter()
                .any(|row| row["mac"] == machine.mac && row["port"] == machine.name && row["vlan"] == vlan);
            ensure!(
                there,
                "{} of {} in VLAN {vlan} is not learnt",
                machine.mac,
                machine.name
            );
        }
        Ok((
            format!("{} addresses learnt, each in its VLAN", rows.len()),
            self.ctl(&["mac", "list"])?,
        ))
    }

    /// The number of frames from a port dropped as `forged-transmit`.
    fn forged_drops(&self, port: &str) -> Result<u64> {
        let stats = self.json(&["port", "stats"])?;
        let rows = stats.as_array().context("`port stats` gave no list")?;
        let row = rows.iter().find(|row| row["name"] == port);
        let row = row.with_context(|| format!("`port stats` has no {port}"))?;
        Ok(row["drops"]["forged-transmit"].as_u64().unwrap_or(0))
    }

    /// Lets `from` take another MAC address for a moment.
    fn forged(&self, from: &Machine, to: &Machine) -> Result<String> {
        let set_mac = |mac: &str| -> Result<()> {
            host::sh_in(from.name, "ip link set eth0 down")?;
            host::sh_in(from.name, &format!("ip link set eth0 address {mac}"))?;
            host::sh_in(from.name, "ip link set eth0 up")?;
            Ok(())
        };
        let before = self.forged_drops(from.name)?;
        set_mac(FORGED)?;
        let out = host::output(
            host::inside(from.name, "ping").args(["-c", "2", "-i", "0.2", "-W", "1", "-q", to.v4]),
            SHORT,
        );
        let after = self.forged_drops(from.name);
        set_mac(from.mac)?;
        let (out, dropped) = (out?, after? - before);
        ensure!(
            out.stdout.contains(" 0 received"),
            "{} answered a forged sender",
            to.v4
        );
        ensure!(dropped > 0, "no frame was counted as `forged-transmit`");
        Ok(format!(
            "{} took {FORGED}: {dropped} frames dropped and counted",
            from.name
        ))
    }

    /// Asks what would happen to an ARP request with a forged source.
    fn trace(&self, from: &Machine, to: &Machine) -> Result<(String, (String, String))> {
        let command = ["trace", from.name, "arp", "who-has", to.v4, "from", FORGED];
        let report = self.json(&command)?;
        ensure!(
            report["verdict"] == "drop" && report["reason"] == "forged-transmit",
            "expected a drop as `forged-transmit`: {report}"
        );
        let text = self.ctl(&command)?;
        Ok((
            "says why: dropped as forged-transmit".into(),
            (format!("vswitchctl {}", command.join(" ")), text),
        ))
    }

    fn metrics(&self) -> Result<(String, String)> {
        let text = http_get(METRICS, "/metrics")?;
        let mut shown = Vec::new();
        for machine in &MACHINES {
            let mut lines = text.lines().filter(|line| {
                line.starts_with("vswitch_port_receive_bytes_total{")
                    && line.contains(&format!("\"{}\"", machine.name))
            });
            shown.push(lines.next().with_context(|| {
                format!(
                    "vswitch_port_receive_bytes_total of {} is missing:\n{text}",
                    machine.name
                )
            })?);
        }
        let drops = text
            .lines()
            .filter(|line| line.starts_with("vswitch_port_drops_total{") && line.contains("forged-transmit"))
            .find(|line| line.contains(&format!("\"{}\"", MACHINES[0].name)));
        shown.push(drops.with_context(|| format!("no metric counts the forged frames:\n{text}"))?);
        let samples = text.lines().filter(|line| !line.starts_with('#')).count();
        Ok((format!("{samples} samples, among them:"), shown.join("\n")))
    }

    fn keep(&self, steps: &Steps) {
        let pid = sandbox::outer_pid().map_or_else(|| "PID".to_owned(), |pid| pid.to_string());
        let user = if sandbox_is_user() {
            "--user --preserve-credentials "
        } else {
            ""
        };
        steps.show(&format!(
            "The switch keeps running until Ctrl-C. To look around, in another terminal:\n\n\
             nsenter --target {pid} {user}--net --mount          a shell in the switch's namespace, and there:\n\
             {ctl} --socket {socket} top\n\
             nsenter --net=/run/netns/vm1 ping 10.0.0.2",
            ctl = self.bin.join("vswitchctl").display(),
            socket = self.socket().display(),
        ));
        while !host::interrupted() {
            std::thread::sleep(Duration::from_millis(100));
        }
        host::signals_heard();
    }

    fn stop(&self, daemon: &mut Background) -> Result<String> {
        let status = daemon.terminate(Duration::from_secs(10));
        let status = status.context("it did not end within 10 s of SIGTERM")?;
        ensure!(status.success(), "it ended with {status}:\n{}", daemon.log());
        ensure!(!self.socket().exists(), "its socket is still there");
        if self.taps {
            for machine in &MACHINES {
                let out = host::output(
                    host::inside(machine.name, "ip").args(["link", "show", "eth0"]),
                    SHORT,
                )?;
                ensure!(
                    !out.status.success(),
                    "the TAP of {} is still there",
                    machine.name
                );
            }
            return Ok("SIGTERM: exit status 0, its TAPs and its socket are gone".into());
        }
        Ok("SIGTERM: exit status 0, its socket is gone".into())
    }
}

/// Whether this process is root only inside a user namespace.
fn sandbox_is_user() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.split_whitespace().nth(1) != Some("0"))
}

fn ping(from: &str, to: &str) -> Result<String> {
    let out = host::output(
        host::inside(from, "ping").args(["-c", "5", "-i", "0.2", "-W", "2", "-q", to]),
        SHORT,
    )?;
    let said = format!("{}{}", out.stdout, out.stderr);
    ensure!(
        out.status.success() && said.contains(" 5 received"),
        "{}",
        said.trim()
    );
    // rtt min/avg/max/mdev = 0.047/0.063/0.083/0.012 ms
    let average = said
        .split(" = ")
        .nth(1)
        .and_then(|figures| figures.split('/').nth(1));
    Ok(format!(
        "5 of 5 answered, {} ms on average",
        average.unwrap_or("?")
    ))
}

/// The body of an HTTP answer with status 200.
pub fn http_get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(SHORT))?;
    write!(
        stream,
        "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        bail!("{path} answered {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
