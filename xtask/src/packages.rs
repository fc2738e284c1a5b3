//! The programs of others that tasks call, and the Debian packages that bring them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::host;
use crate::sandbox;

/// A program and the package that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Name of the program, or an absolute path of a file.
    pub program: &'static str,
    /// Name of the Debian 12 package.
    pub package: &'static str,
}

const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What the demo calls.
pub const DEMO: &[Tool] = &[
    tool("ip", "iproute2"),
    tool("iperf3", "iperf3"),
    tool("mount", "mount"),
    tool("nsenter", "util-linux"),
    tool("ping", "iputils-ping"),
    tool("unshare", "util-linux"),
];

/// What the demo with guests calls beyond the demo.
pub const GUESTS: &[Tool] = &[
    tool("busybox", "busybox-static"),
    tool("cpio", "cpio"),
    tool("qemu-system-x86_64", "qemu-system-x86"),
];

/// What the tests call beyond the demo.
pub const TEST: &[Tool] = &[
    tool("bridge", "iproute2"),
    tool("busybox", "busybox-static"),
    tool("c++", "g++"),
    tool("cpio", "cpio"),
    tool("ethtool", "ethtool"),
    tool("jq", "jq"),
    tool("ovs-vsctl", "openvswitch-switch"),
    tool("prometheus", "prometheus"),
    tool("promtool", "prometheus"),
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("socat", "socat"),
    tool("tcpdump", "tcpdump"),
    tool("tshark", "tshark"),
    tool("valgrind", "valgrind"),
];

/// What the benchmarks call beyond the demo.
pub const BENCH: &[Tool] = &[
    tool("dpdk-testpmd", "dpdk-dev"),
    tool("ethtool", "ethtool"),
    tool(OVS_DPDK, "openvswitch-switch-dpdk"),
    tool("ovs-vsctl", "openvswitch-switch"),
    tool("ovs-vswitchd", "openvswitch-switch"),
    tool("ovsdb-server", "openvswitch-switch"),
    tool("ovsdb-tool", "openvswitch-common"),
    tool("taskset", "util-linux"),
    tool("valgrind", "valgrind"),
    tool("vde_switch", "vde2"),
];

/// Open vSwitch with DPDK, which the package does not put into `PATH`.
pub const OVS_DPDK: &str = "/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk";

/// What the guide calls.
pub const GUIDE: &[Tool] = &[
    tool("curl", "curl"),
    tool("ip", "iproute2"),
    tool("jq", "jq"),
    tool("mount", "mount"),
    tool("ping", "iputils-ping"),
    tool("prometheus", "prometheus"),
    tool("promtool", "prometheus"),
    tool("python3", "python3"),
    tool("qemu-system-x86_64", "qemu-system-x86"),
    tool("sysctl", "procps"),
    tool("tshark", "tshark"),
    tool("unshare", "util-linux"),
];

/// What of `tools` is not on this machine.
pub fn missing(tools: &[Tool]) -> Vec<Tool> {
    let there = |tool: &Tool| {
        if tool.program.starts_with('/') {
            Path::new(tool.program).exists()
        } else {
            host::find_program(tool.program).is_some()
        }
    };
    tools.iter().filter(|tool| !there(tool)).copied().collect()
}

/// Makes sure that all of `tools` are there: as root on Debian installs them, else says what to do. What was done.
pub fn ensure(tools: &[Tool]) -> Result<String> {
    let absent = missing(tools);
    if absent.is_empty() {
        return Ok(format!("{} programs found", tools.len()));
    }
    let names: BTreeSet<&str> = absent.iter().map(|tool| tool.package).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let programs: Vec<&str> = absent.iter().map(|tool| tool.program).collect();
    let hint = format!(
        "missing: {}\ninstall with: {}apt-get install --no-install-recommends {}",
        programs.join(", "),
        if sandbox::is_root() { "" } else { "sudo " },
        names.join(" ")
    );
    if host::find_program("apt-get").is_none() {
        bail!("{hint}\n(these are the names of Debian packages; other systems call them alike)");
    }
    if !sandbox::is_root() {
        bail!("{hint}");
    }
    install(&names).context(hint)?;
    let still = missing(tools);
    if let Some(tool) = still.first() {
        bail!(
            "package {} is installed, but brought no `{}`",
            tool.package,
            tool.program
        );
    }
    Ok(format!("installed {}", names.join(" ")))
}

/// Installs Debian packages without starting the services that some of them bring.
fn install(packages: &[&str]) -> Result<()> {
    let _quiet = NoServices::set()?;
    let apt = |args: &[&str]| {
        let mut command = host::program("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
        host::run(&mut command, Duration::from_secs(900))
    };
    apt(&["-q", "update"])?;
    let mut args = vec!["-q", "-y", "install", "--no-install-recommends"];
    args.extend(packages);
    apt(&args)?;
    Ok(())
}

/// While it lives, packages do not start their services: `prometheus` and `openvswitch-switch` would.
struct NoServices(bool);

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn set() -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        if Path::new(POLICY).exists() {
            return Ok(Self(false));
        }
        std::fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        std::fs::set_permissions(POLICY, std::fs::Permissions::from_mode(0o755))?;
        Ok(Self(true))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.0 {
            // Nothing depends on its removal: it only keeps services from starting.
            let _ = std::fs::remove_file(POLICY);
        }
    }
}
