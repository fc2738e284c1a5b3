//! Namespaces of a task's own: network, mount, process, and, for an ordinary user, user.
//!
//! A task that sets up devices starts itself again inside them. The new process is the first of its process namespace
//! and ends with its parent (`--kill-child`), and with it everything that it started; the namespaces, with all devices,
//! routes and mounts, go with the last process in them. So nothing is left behind, whatever happens.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use nix::unistd::Uid;

use crate::host;

/// Whether this process may do what root may.
pub fn is_root() -> bool {
    Uid::effective().is_root()
}

/// Whether TAPs can be made: /dev/net/tun is there and may be opened. On some machines only root may.
pub fn tap_possible() -> bool {
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .is_ok()
}

/// This program again, with other arguments, inside namespaces of its own.
pub fn reenter(args: impl IntoIterator<Item = OsString>) -> Result<Command> {
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    Ok(enter(&exe, args))
}

/// A program inside namespaces of its own.
pub fn enter(program: &Path, args: impl IntoIterator<Item = OsString>) -> Command {
    let mut command = host::program("unshare");
    if !is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--"])
        .arg(program)
        .args(args);
    command
}

/// Waits for a process made by [`enter`]. After a signal it has `grace` to clean up by itself.
pub fn wait(child: &mut Child, grace: Duration) -> Result<ExitStatus> {
    let mut deadline = None;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if host::interrupted() {
            let end = *deadline.get_or_insert_with(|| {
                signal_inner(child);
                std::time::Instant::now() + grace
            });
            if std::time::Instant::now() > end {
                host::stop(child);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Passes a signal on to the process inside: `unshare` itself ignores SIGINT and SIGTERM while it waits.
fn signal_inner(child: &Child) {
    let pid = child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    for inner in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // Fails only when it has ended already.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(inner), Signal::SIGTERM);
    }
}

/// To be called first inside: an empty /run, so that named network namespaces are private too, and a loopback that works.
pub fn prepare() -> Result<()> {
    host::sh("mount -t tmpfs none /run")?;
    fs::create_dir("/run/netns")?;
    host::sh("ip link set lo up")?;
    Ok(())
}

/// A /proc of the process namespace's own, which takes real root.
pub fn own_proc() -> Result<()> {
    host::sh("mount -t proc proc /proc").map(|_| ())
}

/// Makes a network namespace with a working loopback.
pub fn add_netns(name: &str) -> Result<()> {
    host::sh(&format!("ip netns add {name}"))?;
    host::sh_in(name, "ip link set lo up")?;
    Ok(())
}

/// This process's id outside, for `nsenter --target`. /proc is still the one of the process namespace outside.
pub fn outer_pid() -> Option<u32> {
    let link = fs::read_link("/proc/self").ok()?;
    link.to_str()?.parse().ok()
}
