//! Network namespaces: each a machine of its own, as far as the network goes.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::process::{Output, Peer, run};
use crate::raw::Raw;

/// A network namespace, removed when its last handle goes.
#[derive(Clone, Debug)]
pub struct Namespace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    directory: PathBuf,
}

impl Drop for Inner {
    fn drop(&mut self) {
        run("ip", &["netns", "del", &self.name]);
    }
}

impl Namespace {
    /// Makes the namespace `name`; logs of its programs go to `directory`.
    pub(crate) fn new(name: String, directory: &Path) -> Self {
        run("ip", &["netns", "add", &name]).ok();
        let namespace = Self(Arc::new(Inner {
            name,
            directory: directory.to_owned(),
        }));
        // Addresses are usable at once, and no router changes them.
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0");
        namespace.sysctl("net.ipv6.conf.default.accept_ra", "0");
        namespace.ok(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    /// Its name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Runs `work` on a thread of its own inside the namespace.
    ///
    /// # Panics
    /// If the namespace is gone, or `work` panics.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(self.name());
        let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace of its own");
                work()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a program in it, to its end.
    pub fn exec<S: AsRef<OsStr>>(&self, command: &[S]) -> Output {
        run("ip", &self.in_here(command))
    }

    /// Runs a program in it that has to succeed.
    ///
    /// # Panics
    /// If it fails.
    pub fn ok<S: AsRef<OsStr>>(&self, command: &[S]) -> String {
        self.exec(command).ok()
    }

    /// Runs a line of shell in it that has to succeed.
    ///
    /// # Panics
    /// If it fails.
    pub fn sh(&self, line: &str) -> String {
        self.ok(&["sh", "-e", "-c", line])
    }

    /// Starts a program in it that runs beside the test, its output going to the file `log` of the lab.
    pub fn spawn<S: AsRef<OsStr>>(&self, log: &str, command: &[S]) -> Peer {
        Peer::spawn(
            "ip",
            &self.in_here(command),
            &self.0.directory.join(format!("{log}.log")),
        )
    }

    /// The arguments of `ip` that run `command` in here.
    pub fn in_here<'a, S: AsRef<OsStr>>(&'a self, command: &'a [S]) -> Vec<&'a OsStr> {
        let mut arguments: Vec<&OsStr> = vec!["netns".as_ref(), "exec".as_ref(), self.name().as_ref()];
        arguments.extend(command.iter().map(AsRef::as_ref));
        arguments
    }

    /// Sets a kernel parameter of the namespace.
    ///
    /// # Panics
    /// If the kernel has none of this name.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.run(|| std::fs::write(&path, value))
            .unwrap_or_else(|error| panic!("{key} = {value}: {error}"));
    }

    /// Gives a device an address with its prefix length, and sets it up.
    pub fn address(&self, device: &str, address: &str) {
        self.up(device);
        let mut command = vec!["ip", "address", "add", address, "dev", device];
        if address.contains(':') {
            command.push("nodad");
        }
        self.ok(&command);
    }

    /// Sets a device up.
    pub fn up(&self, device: &str) {
        self.ok(&["ip", "link", "set", device, "up"]);
    }

    /// Turns segmentation and checksum offload of a device on or off, in both directions.
    pub fn offloads(&self, device: &str, on: bool) {
        let to = if on { "on" } else { "off" };
        let features = ["tx", "sg", "tso", "gso", "gro"];
        let mut command = vec!["ethtool", "-K", device];
        for feature in features {
            command.extend([feature, to]);
        }
        self.ok(&command);
    }

    /// Keeps its stack from sending anything by itself on devices made from now on: no IPv6.
    pub fn quiet(&self) {
        self.sysctl("net.ipv6.conf.all.disable_ipv6", "1");
        self.sysctl("net.ipv6.conf.default.disable_ipv6", "1");
    }

    /// Opens a packet socket on a device.
    pub fn raw(&self, device: &str) -> Raw {
        self.run(|| Raw::open(device, false))
    }

    /// Opens a packet socket that takes and gives a `virtio_net_hdr` in front of each frame.
    pub fn raw_vnet(&self, device: &str) -> Raw {
        self.run(|| Raw::open(device, true))
    }

    /// What `ip -json -details -statistics link show` says of a device; `None` if there is none.
    pub fn link(&self, device: &str) -> Option<Value> {
        let output = self.exec(&[
            "ip",
            "-json",
            "-details",
            "-statistics",
            "link",
            "show",
            "dev",
            device,
        ]);
        if !output.success() {
            return None;
        }
        let list: Value = serde_json::from_str(&output.stdout).expect("ip prints JSON");
        list.get(0).cloned()
    }

    /// Sends echo requests; true if `count` of them were all answered.
    pub fn pings(&self, target: &str, count: u32) -> bool {
        let count = count.to_string();
        self.exec(&["ping", "-n", "-i", "0.05", "-W", "2", "-c", &count, target])
            .success()
    }
}
