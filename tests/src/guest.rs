//! A real guest: QEMU (in software, so that it runs anywhere) with Debian's kernel for clouds and a small initramfs,
//! its virtio-net device on a TAP that QEMU itself opens, as every hypervisor does, or on any other of QEMU's backends.
//!
//! Kernel and initramfs are made once, from Debian packages, in the build directory. The guest is driven by a shell on
//! its serial line.

use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use switch_core::addr::MacAddr;

use crate::lab::Lab;
use crate::netns::Namespace;
use crate::process::{Peer, run};
use crate::wait::{wait_for, wait_until};

/// Modules that the guest's network device needs, in the order in which they load.
const MODULES: [&str; 8] = [
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
];

/// How long the guest may take to start, and for one command: it runs in software, perhaps beside other tests.
const BOUND: Duration = Duration::from_secs(90);

/// What the guest says when its shell takes commands.
const READY: &str = "guest is ready";

/// Memory of a guest, MiB. Its file can be shared, as vhost-user wants it.
const MEMORY: u32 = 192;

/// First process of the guest: loads the drivers and gives a shell.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mkdir -p /proc /sys /tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
for module in $(cat /modules/order); do insmod /modules/$module.ko || echo cannot load $module; done
stty -echo
ip link set lo up
for i in 1 2 3 4 5 6 7 8 9; do test -e /sys/class/net/eth0 || sleep 1; done
test -e /sys/class/net/eth0 || { lsmod; dmesg; }
echo guest is ready
# No interactive shell: it would prompt, and lose input when it switches the line between editing and running.
while read -r line; do eval \"$line\" </dev/null 2>&1; done
";

/// Which offloads QEMU gives to the guest's network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// Checksums, TSO, in both directions.
    On,
    /// None.
    Off,
}

/// A running guest. It ends when dropped.
#[derive(Debug)]
pub struct Guest {
    qemu: Peer,
    output: Arc<Mutex<Vec<u8>>>,
    monitor: PathBuf,
}

/// The hypervisor's side of a vhost-user port.
#[derive(Clone, Debug)]
pub struct VhostUser {
    /// Path of the socket.
    pub socket: PathBuf,
    /// QEMU listens on it, or else connects to it.
    pub listens: bool,
    /// Pairs of queues.
    pub pairs: usize,
}

impl Guest {
    /// Starts a guest whose network device is on the TAP `tap`, which QEMU makes in `host`, and waits for its shell.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(lab: &Lab, host: &Namespace, tap: &str, mac: MacAddr, offloads: Offloads) -> Self {
        let script = lab.write("tap-up", "#!/bin/sh\nexec ip link set \"$1\" up\n");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the lab's files are ours");
        let netdev = format!(
            "tap,ifname={tap},script={},downscript=no,vhost=off",
            script.display()
        );
        Self::start_on(lab, host, &netdev, mac, offloads)
    }

    /// Starts a guest whose network device is on this backend (the value of QEMU's `-netdev`, less the id), and waits for its
    /// shell.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_on(lab: &Lab, host: &Namespace, netdev: &str, mac: MacAddr, offloads: Offloads) -> Self {
        let mut guest = Self::boot(lab, host, netdev, mac, offloads, &["-no-reboot"]);
        guest.wait_for(READY);
        guest
    }

    /// Starts a guest whose network device is a vhost-user port, and waits for its shell.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start_vhost_user(
        lab: &Lab,
        host: &Namespace,
        port: &VhostUser,
        mac: MacAddr,
        offloads: Offloads,
    ) -> Self {
        let mut guest = Self::boot_vhost_user(lab, host, port, mac, offloads, &[]);
        guest.wait_for(READY);
        guest
    }

    /// Starts a guest that waits for the state of another one, which [`Guest::migrate`] sends to `state`.
    ///
    /// # Panics
    /// If QEMU cannot be started.
    pub fn await_migration(
        lab: &Lab,
        host: &Namespace,
        port: &VhostUser,
        mac: MacAddr,
        offloads: Offloads,
        state: &Path,
    ) -> Self {
        let state = format!("unix:{}", state.display());
        Self::boot_vhost_user(lab, host, port, mac, offloads, &["-incoming", &state])
    }

    fn boot_vhost_user(
        lab: &Lab,
        host: &Namespace,
        port: &VhostUser,
        mac: MacAddr,
        offloads: Offloads,
        more: &[&str],
    ) -> Self {
        let chardev = format!(
            "socket,id=port,path={},{}",
            port.socket.display(),
            if port.listens {
                "server=on,wait=off"
            } else {
                "reconnect=1"
            }
        );
        // A driver uses as many pairs by itself as it has processors.
        let (pairs, processors) = (port.pairs, port.pairs.to_string());
        let netdev = format!("vhost-user,chardev=port,queues={pairs}");
        let more = [&["-chardev", &chardev, "-smp", &processors], more].concat();
        let mut device = String::from(",vectors=0");
        if pairs > 1 {
            device.push_str(",mq=on");
        }
        Self::boot_device(lab, host, &netdev, &device, mac, offloads, &more)
    }

    fn boot(
        lab: &Lab,
        host: &Namespace,
        netdev: &str,
        mac: MacAddr,
        offloads: Offloads,
        more: &[&str],
    ) -> Self {
        Self::boot_device(lab, host, netdev, "", mac, offloads, more)
    }

    fn boot_device(
        lab: &Lab,
        host: &Namespace,
        netdev: &str,
        properties: &str,
        mac: MacAddr,
        offloads: Offloads,
        more: &[&str],
    ) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let image = image();
        let mut device = format!("virtio-net-pci,netdev=net0,mac={mac},romfile={properties}");
        if offloads == Offloads::Off {
            for feature in [
                "csum",
                "guest_csum",
                "gso",
                "guest_tso4",
                "guest_tso6",
                "guest_ecn",
                "guest_ufo",
                "host_tso4",
                "host_tso6",
                "host_ecn",
                "host_ufo",
            ] {
                device.push_str(&format!(",{feature}=off"));
            }
        }
        let netdev = format!("{netdev},id=net0");
        let memory = format!("memory-backend-memfd,id=memory,size={MEMORY}M,share=on");
        let size = MEMORY.to_string();
        let monitor = lab.path(&format!("monitor-{number}"));
        let monitor_at = format!("unix:{},server=on,wait=off", monitor.display());
        let mut command: Vec<OsString> = [
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-m",
            &size,
            "-object",
            &memory,
            "-machine",
            "memory-backend=memory",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-serial",
            "stdio",
            "-monitor",
            &monitor_at,
            "-append",
            "console=ttyS0 quiet panic=-1",
        ]
        .map(OsString::from)
        .into();
        command.extend(more.iter().map(OsString::from));
        command.extend(["-netdev", &netdev, "-device", &device, "-kernel"].map(OsString::from));
        command.extend([
            image.join("vmlinuz").into(),
            "-initrd".into(),
            image.join("initramfs").into(),
        ]);
        let log = lab.path(&format!("qemu-{number}-{mac}.log"));
        let mut qemu = Peer::spawn_with("ip", &host.in_here(&command), &log, |command| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        });
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut serial = qemu.child().stdout.take().expect("standard output is a pipe");
        let shared = Arc::clone(&output);
        // Ends with QEMU, which closes the pipe.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(len @ 1..) = serial.read(&mut buffer) {
                shared.lock().expect("no holder panics").extend(&buffer[..len]);
            }
        });
        Self {
            qemu,
            output,
            monitor,
        }
    }

    /// Gives a command to QEMU's monitor (HMP); what it answers.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn monitor(&self, command: &str) -> String {
        const PROMPT: &str = "(qemu) ";
        let mut stream = wait_for("QEMU has its monitor", BOUND, || {
            UnixStream::connect(&self.monitor).ok()
        });
        stream
            .set_read_timeout(Some(BOUND))
            .expect("the bound is not zero");
        let mut answer = String::new();
        let mut read_to_prompt = |stream: &mut UnixStream| {
            answer.clear();
            let mut buffer = [0; 4096];
            while !answer.ends_with(PROMPT) {
                let len = stream.read(&mut buffer).expect("the monitor answers");
                assert!(len > 0, "the monitor has closed:\n{answer}");
                answer.push_str(&String::from_utf8_lossy(&buffer[..len]));
            }
            answer.clone()
        };
        read_to_prompt(&mut stream);
        stream
            .write_all(format!("{command}\n").as_bytes())
            .expect("the monitor reads");
        read_to_prompt(&mut stream)
    }

    /// What the guest has written to its console since it was last listened to.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().expect("no holder panics")).into_owned()
    }

    /// Presses the guest's reset button; [`Guest::wait_ready`] awaits its shell.
    pub fn reset(&self) {
        self.output.lock().expect("no holder panics").clear();
        self.monitor("system_reset");
    }

    /// Waits until a guest that starts again has its shell.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn wait_ready(&mut self) {
        self.wait_for(READY);
    }

    /// Sends the guest's state to another QEMU, which goes on with it ([`Guest::await_migration`]).
    ///
    /// # Panics
    /// If it fails.
    pub fn migrate(&self, state: &Path) {
        wait_until("the other QEMU listens", BOUND, || state.exists());
        let answer = self.monitor(&format!("migrate -d unix:{}", state.display()));
        assert!(!answer.contains("Error"), "{answer}");
        wait_for("the guest has migrated", BOUND, || {
            let status = self.monitor("info migrate");
            assert!(!status.contains("failed"), "{status}");
            status.contains("completed").then_some(())
        });
    }

    /// Writes a command to the guest's shell; its output, and whether it succeeded.
    ///
    /// # Panics
    /// If it does not end.
    pub fn try_sh(&mut self, command: &str) -> (String, bool) {
        self.begin(command);
        self.end()
    }

    /// [`Guest::try_sh`] of a command that has to succeed.
    ///
    /// # Panics
    /// If it fails.
    pub fn sh(&mut self, command: &str) -> String {
        let (output, success) = self.try_sh(command);
        assert!(success, "the guest's `{command}` failed:\n{output}");
        output
    }

    /// Starts a command; [`Guest::end`] awaits it.
    pub fn begin(&mut self, command: &str) {
        self.output.lock().expect("no holder panics").clear();
        let line = format!("{command}; echo =END=$?\n");
        let stdin = self
            .qemu
            .child()
            .stdin
            .as_mut()
            .expect("standard input is a pipe");
        stdin.write_all(line.as_bytes()).expect("the guest runs");
        stdin.flush().expect("the guest runs");
    }

    /// Awaits the command begun last; its output, and whether it succeeded.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(&mut self) -> (String, bool) {
        let all = self.wait_for("=END=");
        let all = if all.ends_with("=END=") {
            self.wait_for("\n")
        } else {
            all
        };
        let (output, status) = all.split_once("=END=").expect("it was waited for");
        (output.replace('\r', ""), status.trim().starts_with('0'))
    }

    /// Ends the guest at once, as a crash of its hypervisor does.
    pub fn kill(self) {
        drop(self);
    }

    fn wait_for(&mut self, text: &str) -> String {
        let (qemu, output) = (&mut self.qemu, &self.output);
        wait_for(&format!("the guest writes `{text}`"), BOUND, || {
            let so_far = String::from_utf8_lossy(&output.lock().expect("no holder panics")).into_owned();
            // A whole line, so that what follows the text on it is there too.
            let found = so_far.find(text).is_some_and(|at| so_far[at..].contains('\n'));
            if !found && let Some(status) = qemu.ended() {
                panic!("QEMU ended with {status}: {}\n{so_far}", qemu.output());
            }
            found.then_some(so_far)
        })
    }
}

/// The directory with `vmlinuz` and `initramfs`, made on first use.
///
/// # Panics
/// If it cannot be made.
pub fn image() -> &'static Path {
    static IMAGE: OnceLock<PathBuf> = OnceLock::new();
    IMAGE.get_or_init(|| {
        // A test program is target/PROFILE/deps/NAME, any other target/PROFILE/NAME.
        let program = std::env::current_exe().expect("a program knows its path");
        let directory = program.parent().expect("it lies in a directory");
        let profile = if directory.ends_with("deps") {
            directory.parent().expect("it lies in a profile's directory")
        } else {
            directory
        };
        let target = profile.parent().expect("it lies in target").to_owned();
        // Another recipe makes another image.
        let mut recipe = DefaultHasher::new();
        (MODULES, INIT).hash(&mut recipe);
        let image = target.join(format!("guest-{:016x}", recipe.finish()));
        if !image.join("initramfs").exists() {
            let work = target.join(format!("guest-for-{}", std::process::id()));
            make_image(&work);
            if fs::rename(&work, &image).is_err() {
                // Another test program was quicker.
                assert!(
                    image.join("initramfs").exists(),
                    "{} cannot be made",
                    image.display()
                );
                let _ = fs::remove_dir_all(&work);
            }
        }
        image
    })
}

fn make_image(work: &Path) {
    let sh = |line: &str| run("sh", &["-e", "-c", &format!("cd '{}'\n{line}", work.display())]).ok();
    fs::create_dir_all(work).expect("the build directory can be written to");
    // The package that the metapackage stands for, unpacked without being installed: no boot loader is touched.
    sh("package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \\(linux-image-[^ ]*\\).*/\\1/p' | head -n 1)
        apt-get download -o APT::Sandbox::User=root \"$package\" >&2
        dpkg-deb -x linux-image-*.deb package
        mv package/boot/vmlinuz-* vmlinuz
        mkdir -p root/bin root/modules root/dev
        cp \"$(command -v busybox)\" root/bin/busybox");
    let order: Vec<&str> = MODULES
        .iter()
        .map(|module| module.rsplit('/').next().unwrap_or(module))
        .collect();
    fs::write(work.join("root/modules/order"), order.join("\n"))
        .expect("the build directory can be written to");
    for module in MODULES {
        sh(&format!(
            "cp package/lib/modules/*/kernel/{module}.ko root/modules/"
        ));
    }
    fs::write(work.join("root/init"), INIT).expect("the build directory can be written to");
    sh("chmod 755 root/init
        (cd root; find . | cpio --quiet -o -H newc) | gzip -1 > initramfs
        rm -r package root linux-image-*.deb");
}
