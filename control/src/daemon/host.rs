//! What the daemon changes on the host's own side of a `device` port, and how it is put back.
//!
//! The host's IPv6 stack would speak on the device in its own name (router solicitations, MLD, its link-local address),
//! in the middle of the guests' segment. So `disable_ipv6` of the netdev is set while the device is attached, unless
//! the administrator gave the netdev an IPv6 address of its own, which the kernel would forget. Frames from the
//! device to the host's stack are the datapath's affair (a filter on its socket's netdev, gone when the socket is closed),
//! and so is promiscuity, which the kernel undoes itself.
//!
//! The setting survives the process, so it is written down in the state directory before it is made: after a `kill -9`
//! the next start puts it back first. A netdev is known by its index, which another one may have after the machine has
//! started again; so the record names the boot (random(4), boot_id), and one of another boot counts for nothing: the setting
//! went with that boot's netdevs.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::ports::DeviceSpec;
use crate::links::Links;

/// Scope of link-local addresses in /proc/net/if_inet6.
const SCOPE_LINK: &str = "20";

/// A setting as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    index: u32,
    disable_ipv6: String,
}

/// What is written down.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    boot: String,
    found: BTreeMap<String, Found>,
}

/// The settings that were changed, by netdev.
#[derive(Debug)]
pub struct HostSettings {
    /// /proc, but for tests.
    proc: PathBuf,
    /// Where they are written down.
    record: PathBuf,
    /// Of this boot; empty where /proc doesn't tell.
    boot: String,
    found: BTreeMap<String, Found>,
}

impl HostSettings {
    /// Puts back what a daemon that was killed left behind, and starts anew.
    pub fn recover(state: &Path) -> Self {
        Self::recover_at(PathBuf::from("/proc"), state)
    }

    fn recover_at(proc: PathBuf, state: &Path) -> Self {
        let record = state.join("host-settings.json");
        let boot = fs::read_to_string(proc.join("sys/kernel/random/boot_id"))
            .map(|text| text.trim().to_owned())
            .unwrap_or_default();
        let found = fs::read(&record)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok())
            .filter(|record| !boot.is_empty() && record.boot == boot)
            .unwrap_or_default()
            .found;
        let mut settings = Self {
            proc,
            record,
            boot,
            found,
        };
        settings.restore_all();
        settings
    }

    fn sysctl(&self, device: &str) -> PathBuf {
        self.proc
            .join("sys/net/ipv6/conf")
            .join(device)
            .join("disable_ipv6")
    }

    /// Takes the host's IPv6 stack off a device that was attached.
    pub fn take(&mut self, spec: &DeviceSpec, links: &Links) {
        let DeviceSpec::Packet(spec) = spec else { return };
        let device = &spec.device;
        let Some(link) = links.named(device) else { return };
        let path = self.sysctl(device);
        let Ok(value) = fs::read_to_string(&path) else {
            return; // no IPv6 in this kernel
        };
        if value.trim() != "0" || self.found.contains_key(device) {
            return;
        }
        if self.has_own_address(link.index) {
            tracing::warn!(
                "{device} has an IPv6 address of the host's own, which is kept; the host goes on speaking IPv6 there"
            );
            return;
        }
        let found = Found {
            index: link.index,
            disable_ipv6: value.trim().to_owned(),
        };
        self.found.insert(device.clone(), found);
        if let Err(error) = self.write_down().and_then(|()| fs::write(&path, "1")) {
            tracing::warn!("the host's IPv6 stack stays on {device}: {error}");
            self.found.remove(device);
        }
    }

    /// Puts back what was found on a device that is not attached any more.
    pub fn give_back(&mut self, spec: &DeviceSpec) {
        let DeviceSpec::Packet(spec) = spec else { return };
        if let Some(found) = self.found.remove(&spec.device) {
            self.put_back(&spec.device, &found);
            if let Err(error) = self.write_down() {
                tracing::warn!("{}: {error}", self.record.display());
            }
        }
    }

    /// Puts everything back.
    pub fn restore_all(&mut self) {
        for (device, found) in std::mem::take(&mut self.found) {
            self.put_back(&device, &found);
        }
        if let Err(error) = fs::remove_file(&self.record)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{}: {error}", self.record.display());
        }
    }

    fn put_back(&self, device: &str, found: &Found) {
        // The netdev may have another name by now; its index stays. One that is gone took its settings along.
        let name = self.name_of(found.index).unwrap_or_else(|| device.to_owned());
        if let Err(error) = fs::write(self.sysctl(&name), &found.disable_ipv6)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("IPv6 of {name} cannot be put back as it was found: {error}");
        }
    }

    fn name_of(&self, index: u32) -> Option<String> {
        let class = Path::new("/sys/class/net");
        fs::read_dir(class).ok()?.flatten().find_map(|entry| {
            let text = fs::read_to_string(entry.path().join("ifindex")).ok()?;
            (text.trim() == index.to_string()).then(|| entry.file_name().to_string_lossy().into_owned())
        })
    }

    /// Whether the netdev has an IPv6 address that is not link-local.
    fn has_own_address(&self, index: u32) -> bool {
        let Ok(table) = fs::read_to_string(self.proc.join("net/if_inet6")) else {
            return false;
        };
        table.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let on = fields
                .next()
                .and_then(|field| u32::from_str_radix(field, 16).ok());
            on == Some(index) && fields.nth(1) != Some(SCOPE_LINK)
        })
    }

    fn write_down(&self) -> io::Result<()> {
        let record = Record {
            boot: self.boot.clone(),
            found: self.found.clone(),
        };
        let text = serde_json::to_vec(&record).map_err(io::Error::other)?;
        let new = self.record.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.record)
    }
}

#[cfg(test)]
mod tests {
    use datapath::io::PacketSpec;

    use super::*;
    use crate::links::{Change, Link};

    /// An index that no netdev of the test machine has.
    const INDEX: u32 = 0x7fff_fff1;

    fn spec(device: &str) -> DeviceSpec {
        DeviceSpec::Packet(PacketSpec {
            device: device.to_owned(),
            driver: datapath::io::Driver::AfPacket,
            offloads: true,
            busy_poll: false,
            queues: 1,
        })
    }

    fn world(addresses: &str) -> (tempfile::TempDir, Links) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sys/net/ipv6/conf/eth1")).unwrap();
        fs::create_dir_all(dir.path().join("net")).unwrap();
        fs::create_dir_all(dir.path().join("sys/kernel/random")).unwrap();
        fs::write(dir.path().join("sys/kernel/random/boot_id"), "boot 1\n").unwrap();
        fs::write(dir.path().join("net/if_inet6"), addresses).unwrap();
        fs::write(dir.path().join("sys/net/ipv6/conf/eth1/disable_ipv6"), "0\n").unwrap();
        let mut links = Links::default();
        links.apply(Change::New(Link {
            index: INDEX,
            name: "eth1".to_owned(),
            up: true,
            carrier: true,
            mtu: 1500,
            address: None,
            controller: None,
        }));
        (dir, links)
    }

    fn value(dir: &tempfile::TempDir) -> String {
        fs::read_to_string(dir.path().join("sys/net/ipv6/conf/eth1/disable_ipv6"))
            .unwrap()
            .trim()
            .to_owned()
    }

    #[test]
    fn what_was_found_comes_back_even_after_a_kill() {
        let (dir, links) = world("fe80000000000000505400fffe000001 7ffffff1 40 20 80 eth1\n");
        let mut settings = HostSettings::recover_at(dir.path().to_owned(), dir.path());
        settings.take(&spec("eth1"), &links);
        assert_eq!(value(&dir), "1");
        settings.give_back(&spec("eth1"));
        assert_eq!(value(&dir), "0");
        settings.take(&spec("eth1"), &links);
        assert_eq!(value(&dir), "1");
        std::mem::forget(settings);
        let _next = HostSettings::recover_at(dir.path().to_owned(), dir.path());
        assert_eq!(value(&dir), "0");
    }

    #[test]
    fn what_was_found_in_another_boot_counts_for_nothing() {
        let (dir, links) = world("");
        let mut settings = HostSettings::recover_at(dir.path().to_owned(), dir.path());
        settings.take(&spec("eth1"), &links);
        std::mem::forget(settings);
        fs::write(dir.path().join("sys/kernel/random/boot_id"), "boot 2\n").unwrap();
        let _next = HostSettings::recover_at(dir.path().to_owned(), dir.path());
        assert_eq!(value(&dir), "1", "it is another netdev's now");
        assert!(!dir.path().join("host-settings.json").exists());
    }

    #[test]
    fn an_address_of_the_hosts_own_is_not_taken() {
        let (dir, links) = world("20010db8000000000000000000000001 7ffffff1 40 00 80 eth1\n");
        let mut settings = HostSettings::recover_at(dir.path().to_owned(), dir.path());
        settings.take(&spec("eth1"), &links);
        assert_eq!(value(&dir), "0");
    }

    #[test]
    fn what_was_off_already_stays_off() {
        let (dir, links) = world("");
        fs::write(dir.path().join("sys/net/ipv6/conf/eth1/disable_ipv6"), "1\n").unwrap();
        let mut settings = HostSettings::recover_at(dir.path().to_owned(), dir.path());
        settings.take(&spec("eth1"), &links);
        settings.restore_all();
        assert_eq!(value(&dir), "1");
    }
}
