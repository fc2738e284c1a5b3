//! `cargo xtask demo --guests`: two real virtual machines on vhost-user ports of one switch, which talk, and go on when the switch is
//! killed and started again.
//!
//! The guests are those of the end-to-end tests (`vswitch_tests::guest`): QEMU in software, so that no KVM is needed, with Debian's kernel
//! and a busybox. As with the other demo, the part outside prepares and starts itself again in namespaces of its own.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use switch_core::addr::MacAddr;
use vswitch_tests::guest::{self, Guest, Offloads, VhostUser};
use vswitch_tests::lab::Lab;

use crate::demo::{BIN_DIR, binaries, read_summary, write_summary};
use crate::steps::Steps;
use crate::{host, packages, sandbox};

/// The guests: name of the port, last part of the addresses, and whether QEMU listens on the socket or the switch.
const GUESTS: [(&str, u8, bool); 2] = [("vm1", 1, true), ("vm2", 2, false)];

/// The whole demo. True if every step passed.
pub fn run() -> Result<bool> {
    host::catch_signals()?;
    println!("Two virtual machines on one switch, their memory shared with it (vhost-user).\n");
    let mut steps = Steps::new();
    let Some(bin) = steps.value("build", binaries) else {
        return Ok(steps.finish("demo"));
    };
    let ready = steps.step("programs", || {
        packages::ensure(&[packages::DEMO, packages::GUESTS].concat())
    });
    let image = ready.and_then(|_| steps.step("kernel of the guests", image));
    if image.is_none() {
        return Ok(steps.finish("demo"));
    }
    let dir = tempfile::Builder::new().prefix("vswitch-demo-").tempdir()?;
    let args: [OsString; 2] = ["demo-guests-inside".into(), dir.path().into()];
    let mut command = sandbox::reenter(args)?;
    let mut child = command.env(BIN_DIR, bin).spawn()?;
    let status = sandbox::wait(&mut child, Duration::from_secs(10))?;
    match read_summary(dir.path()) {
        Some((passed, failed)) => steps.add(passed, failed),
        None => steps.add(0, vec![format!("namespaces ({status})")]),
    }
    Ok(steps.finish("demo"))
}

fn image() -> Result<String> {
    caught(|| {
        let image = guest::image();
        format!("Debian's, with a busybox, in {}", image.display())
    })
}

/// The part inside the namespaces. True if every step passed.
pub fn inside(dir: &Path) -> Result<bool> {
    host::catch_signals()?;
    sandbox::prepare()?;
    // Panics of the tests' helpers become errors of steps, and are told as those.
    std::panic::set_hook(Box::new(|_| {}));
    let mut steps = Steps::new();
    show(&mut steps);
    write_summary(dir, &steps)?;
    Ok(steps.failed().is_empty())
}

fn show(steps: &mut Steps) {
    let lab = Lab::new();
    let ends = GUESTS.map(|(name, number, listens)| VhostUser {
        socket: lab.path(&format!("{name}.sock")),
        listens,
        pairs: if number == 1 { 1 } else { 2 },
    });
    let mac = |number: u8| MacAddr([2, 0, 0, 0, 0, number]);
    let mut config = String::from(
        "version: 1\nswitches:\n  vs0:\n    port-groups:\n      web: { vlan: 100 }\n    ports:\n",
    );
    for ((name, number, listens), end) in GUESTS.iter().zip(&ends) {
        config.push_str(&format!(
            "      {name}: {{ port-group: web, vhost-user: {}, mode: {}, mac: \"{}\" }}\n",
            end.socket.display(),
            if *listens { "client" } else { "server" },
            mac(*number)
        ));
    }
    steps.show(&config);
    let started = steps.step("vswitchd", || {
        caught(|| lab.start(&config))?;
        Ok("runs; its ports wait for the hypervisors".into())
    });
    if started.is_none() {
        return;
    }
    session(steps, &lab, "ports before", &["port", "list"]);
    let mut guests = Vec::new();
    for ((name, number, listens), end) in GUESTS.iter().zip(&ends) {
        let guest = steps.value(&format!("boot {name}"), || {
            let begin = Instant::now();
            let guest = caught(|| {
                let mut guest = Guest::start_vhost_user(&lab, &lab.host(), end, mac(*number), Offloads::On);
                guest.sh(&format!(
                    "echo 0 >/proc/sys/net/ipv6/conf/eth0/accept_dad; ip address add 10.0.0.{number}/24 dev eth0 && ip -6 address add fd00::{number}/64 dev eth0 && ip link set eth0 up"
                ));
                lab.wait_up(name);
                guest
            })?;
            let who = if *listens { "QEMU listens" } else { "the switch listens" };
            let text = format!(
                "{who}, {} pair(s) of queues, up after {:.1} s",
                end.pairs,
                begin.elapsed().as_secs_f64()
            );
            Ok((text, guest))
        });
        let Some(guest) = guest else { return };
        guests.push(guest);
    }
    let Ok([mut one, mut two]) = <[Guest; 2]>::try_from(guests) else {
        return;
    };
    session(steps, &lab, "ports", &["show"]);
    steps.step("ping IPv4 vm1 → vm2", || ping(&mut one, "10.0.0.2"));
    steps.step("ping IPv6 vm2 → vm1", || ping(&mut two, "fd00::1"));
    steps.step("TCP vm1 → vm2", || file(&mut one, "10.0.0.1", &mut two));
    steps.step("TCP vm2 → vm1", || file(&mut two, "10.0.0.2", &mut one));
    session(steps, &lab, "MAC table", &["mac", "list"]);
    steps.step("switch killed, started", || {
        let begin = Instant::now();
        caught(|| {
            lab.kill();
            lab.launch();
            lab.wait_all_up();
        })?;
        let time = begin.elapsed().as_millis();
        ping(&mut one, "10.0.0.2")?;
        Ok(format!("kill -9; both guests are back after {time} ms and talk"))
    });
    steps.step("guest killed", || {
        let reason = caught(|| {
            two.kill();
            lab.wait_down("vm2")
        })?;
        Ok(reason.chars().take(58).collect())
    });
    steps.step("graceful stop", || {
        caught(|| lab.stop())?;
        Ok("SIGTERM: exit status 0".into())
    });
}

/// What the end-to-end tests' helpers give, with their panics as errors.
fn caught<T>(action: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(action)).map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        anyhow!(text.unwrap_or_else(|| "a helper of the tests panicked".into()))
    })
}

fn session(steps: &mut Steps, lab: &Lab, name: &str, command: &[&str]) {
    let text = steps.value(name, || Ok(("as follows".into(), caught(|| lab.ctl(command))?)));
    if let Some(text) = text {
        steps.session(&format!("vswitchctl {}", command.join(" ")), &text);
    }
}

fn ping(from: &mut Guest, to: &str) -> Result<String> {
    let said = caught(|| from.sh(&format!("ping -c 5 -i 0.2 {to}")))?;
    ensure!(said.contains(" 5 packets received"), "{said}");
    // round-trip min/avg/max = 0.9/1.3/2.2 ms
    let average = said.split(" = ").nth(1).and_then(|times| times.split('/').nth(1));
    Ok(format!(
        "5 of 5 answered, {} ms on average",
        average.unwrap_or("?")
    ))
}

/// A file from one guest to the other over HTTP.
fn file(server: &mut Guest, address: &str, client: &mut Guest) -> Result<String> {
    const MIB: u32 = 8;
    let sum = |text: String| text.split_whitespace().next().unwrap_or_default().to_owned();
    caught(|| {
        server.sh(&format!(
            "mkdir -p /tmp/www && dd if=/dev/urandom of=/tmp/www/file bs=1M count={MIB} 2>/dev/null; httpd -p 80 -h /tmp/www"
        ));
        let sent = sum(server.sh("sha256sum /tmp/www/file"));
        client.sh(&format!("wget -q -O /tmp/got http://{address}/file"));
        (sent, sum(client.sh("sha256sum /tmp/got")))
    })
    .and_then(|(sent, got)| {
        ensure!(sent == got, "the file arrived as {got} and was {sent}");
        Ok(format!("{MIB} MiB over HTTP, SHA-256 {}… on both sides", &sent[..12]))
    })
}
