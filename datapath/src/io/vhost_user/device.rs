//! The device of a vhost-user port as its hypervisor sees it (QEMU docs/interop/vhost-user.rst): it answers the messages of one connection and hands
//! rings to the workers. On the port's own thread ([`super::thread`]); it goes with its connection.
//!
//! The rings go first, so a guest that comes back starts from nothing, and one whose switch came back goes on where its rings are.
//!
//! The protocol is the crate `vhost`'s. What arrives is believed no more than what a guest writes: indices are checked here, addresses by
//! [`GuestMemory`] and [`Vring`].

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::bounded;
use switch_core::offload::Capabilities;
use vhost::VhostUserMemoryRegionBase;
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserShMemConfig, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{Error, GpuBackend, Result, VhostUserBackendReqHandlerMut};

use super::Change;
use super::thread::Lane;
use crate::io::peer::{Peer, PeerSink, VhostUserSpec};
use crate::sys::dirty::DirtyLog;
use crate::sys::eventfd;
use crate::sys::guest::{GuestMemory, Region};
use crate::sys::vring::{Layout, MAX_SIZE, Vring};

/// How long a worker may take to let a ring go before the connection is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Feature bits (VirtIO 1.2, sections 5.1.3 and 6; vhost-user).
pub(super) mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
    pub const MQ: u64 = 1 << 22;
    /// `VHOST_F_LOG_ALL`
    pub const LOG_ALL: u64 = 1 << 26;
    pub const ANY_LAYOUT: u64 = 1 << 27;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;
    pub const IN_ORDER: u64 = 1 << 35;
    pub const GUEST_USO4: u64 = 1 << 54;
    pub const GUEST_USO6: u64 = 1 << 55;
    pub const HOST_USO: u64 = 1 << 56;
}

/// What the device offers. Not `VHOST_USER_PROTOCOL_F_RARP`: the crate refuses the message, and a guest with
/// GUEST_ANNOUNCE speaks for itself.
const OFFERED: u64 = feature::CSUM
    | feature::GUEST_CSUM
    | feature::MTU
    | feature::GUEST_TSO4
    | feature::GUEST_TSO6
    | feature::GUEST_ECN
    | feature::HOST_TSO4
    | feature::HOST_TSO6
    | feature::HOST_ECN
    | feature::MRG_RXBUF
    | feature::STATUS
    | feature::CTRL_VQ
    | feature::GUEST_ANNOUNCE
    | feature::MQ
    | feature::LOG_ALL
    | feature::ANY_LAYOUT
    | feature::INDIRECT_DESC
    | feature::EVENT_IDX
    | feature::PROTOCOL_FEATURES
    | feature::VERSION_1
    | feature::IN_ORDER
    | feature::GUEST_USO4
    | feature::GUEST_USO6
    | feature::HOST_USO;

/// One ring as far as the hypervisor has described it.
#[derive(Default)]
struct Ring {
    size: u16,
    addresses: Option<Addresses>,
    base: u16,
    /// The message about it has come; it may say that there is none.
    kick: Option<Option<File>>,
    call: Option<File>,
    enabled: bool,
    running: bool,
}

#[derive(Clone, Copy)]
struct Addresses {
    descriptors: u64,
    available: u64,
    used: u64,
    /// Where in the log writes to the used ring belong.
    log: Option<u64>,
}

pub(super) struct Device {
    lanes: Arc<[Lane]>,
    sink: PeerSink,
    mtu: u16,
    features: u64,
    regions: Vec<Region>,
    /// The regions, mapped.
    memory: Option<Arc<GuestMemory>>,
    log: Option<Arc<DirtyLog>>,
    rings: Vec<Ring>,
    /// What the sink was told last.
    present: bool,
    /// The guest could be reached at some time.
    pub(super) served: bool,
    /// The hypervisor may ask for an answer to each message.
    pub(super) replies: bool,
}

impl Device {
    pub(super) fn new(spec: &VhostUserSpec, lanes: Arc<[Lane]>, sink: PeerSink) -> Self {
        Self {
            lanes,
            sink,
            mtu: spec.mtu,
            features: 0,
            regions: Vec::new(),
            memory: None,
            log: None,
            rings: std::iter::repeat_with(Ring::default)
                .take(2 * spec.pairs)
                .collect(),
            present: false,
            served: false,
            replies: false,
        }
    }

    pub(super) fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    fn ring(&mut self, index: u32) -> Result<(usize, &mut Ring)> {
        let index = index as usize;
        let ring = self.rings.get_mut(index).ok_or(Error::InvalidParam)?;
        Ok((index, ring))
    }

    fn lane(&self, index: usize) -> &Lane {
        &self.lanes[index / 2 % self.lanes.len()]
    }

    fn capabilities(&self) -> Capabilities {
        let checksum = self.has(feature::GUEST_CSUM);
        Capabilities {
            checksum,
            tso4: checksum && self.has(feature::GUEST_TSO4),
            tso6: checksum && self.has(feature::GUEST_TSO6),
            uso: checksum && self.has(feature::GUEST_USO4) && self.has(feature::GUEST_USO6),
        }
    }

    /// Hands a ring to its worker if all is known about it.
    fn start(&mut self, index: usize) -> Result<()> {
        let ring = &self.rings[index];
        let (Some(memory), Some(addresses), Some(kick), false, true) = (
            &self.memory,
            ring.addresses,
            &ring.kick,
            ring.running,
            ring.enabled && ring.size > 0,
        ) else {
            return Ok(());
        };
        let duplicate = |file: &Option<File>| file.as_ref().map(File::try_clone).transpose();
        let (kick, call) = (duplicate(kick), duplicate(&ring.call));
        let (kick, call) = (
            kick.map_err(Error::ReqHandlerError)?,
            call.map_err(Error::ReqHandlerError)?,
        );
        let layout = Layout {
            size: ring.size,
            descriptors: addresses.descriptors,
            available: addresses.available,
            used: addresses.used,
            base: ring.base,
            event_index: self.has(feature::EVENT_IDX),
            mergeable: self.has(feature::MRG_RXBUF),
            legacy: !self.has(feature::MRG_RXBUF | feature::VERSION_1),
        };
        let mut ring = Vring::new(Arc::clone(memory), &layout, call).ok_or(Error::InvalidParam)?;
        if let Some(log) = &self.log
            && self.has(feature::LOG_ALL)
        {
            ring.log_writes(Arc::clone(log), addresses.log);
        }
        let change = Change::Start {
            index,
            ring: Box::new(ring),
            kick,
            capabilities: self.capabilities(),
        };
        if !self.lane(index).send(change) {
            return Err(Error::Disconnected);
        }
        self.rings[index].running = true;
        self.tell();
        Ok(())
    }

    /// Takes a ring back from its worker, and says so.
    fn stop(&mut self, index: usize) -> Result<()> {
        self.halt(index)?;
        self.tell();
        Ok(())
    }

    /// Takes a ring back from its worker; afterwards the worker touches neither it nor, if it was the last, the memory.
    fn halt(&mut self, index: usize) -> Result<()> {
        if !std::mem::take(&mut self.rings[index].running) {
            return Ok(());
        }
        let (reply, stopped) = bounded(1);
        if !self.lane(index).send(Change::Stop { index, reply }) {
            return Err(Error::Disconnected);
        }
        let ring = stopped
            .recv_timeout(PATIENCE)
            .map_err(|_| Error::BackendInternalError)?;
        if let Some(ring) = ring {
            self.rings[index].base = ring.base();
        }
        Ok(())
    }

    /// Takes all rings back. The caller says why.
    pub(super) fn stop_all(&mut self) {
        for index in 0..self.rings.len() {
            // Its queue is closed, or its worker is stuck; either way there is nothing more to be done about it.
            let _ = self.halt(index);
        }
    }

    /// Says whether the guest can be reached: both rings of a pair run.
    fn tell(&mut self) {
        let present = self
            .rings
            .chunks(2)
            .any(|pair| pair.iter().all(|ring| ring.running));
        if present != self.present {
            self.present = present;
            self.served |= present;
            self.sink.tell(if present {
                Peer::Present(self.describe())
            } else {
                Peer::Absent(
                    "the guest's network driver is not running (it starts, is being reset or has no driver)"
                        .to_owned(),
                )
            });
        }
    }

    /// What was agreed on with the guest's driver, in words.
    fn describe(&self) -> String {
        let receives = self.capabilities();
        let parts = [
            (self.has(feature::VERSION_1), "virtio 1", "legacy virtio"),
            (self.has(feature::CSUM), "checksums and super-frames out", ""),
            (receives.checksum, "checksums in", ""),
            (receives.tso4 || receives.tso6, "super-frames in", ""),
            (self.has(feature::MRG_RXBUF), "mergeable buffers", ""),
            (self.has(feature::MQ), "several queues", ""),
        ];
        let said = parts.map(|(agreed, yes, no)| if agreed { yes } else { no });
        let said: Vec<&str> = said.into_iter().filter(|part| !part.is_empty()).collect();
        said.join(", ")
    }

    /// The place of the region that a front-end speaks of: it is the one that has all but the offset, as the protocol says.
    fn region_like(&self, one: &VhostUserMemoryRegion) -> Option<usize> {
        let wanted = (one.guest_phys_addr, one.user_addr, one.memory_size);
        self.regions
            .iter()
            .position(|region| (region.guest, region.user, region.len) == wanted)
    }

    /// Maps the regions anew, under running rings.
    fn map_memory(&mut self) -> Result<()> {
        self.beneath_rings(|device| {
            // The old mappings go first: the two together may be more than there is room for.
            device.memory = None;
            if !device.regions.is_empty() {
                let memory = GuestMemory::map(&device.regions).map_err(Error::ReqHandlerError)?;
                device.memory = Some(Arc::new(memory));
            }
            Ok(())
        })
    }

    /// Changes what running rings rest on: they are taken back for it and run again after it.
    fn beneath_rings(&mut self, change: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let running: Vec<usize> = (0..self.rings.len())
            .filter(|index| self.rings[*index].running)
            .collect();
        // They run again at once: nothing to be told.
        for index in &running {
            self.halt(*index)?;
        }
        change(self)?;
        running.into_iter().try_for_each(|index| self.start(index))
    }
}

fn region(region: &VhostUserMemoryRegion, file: File) -> Region {
    Region {
        guest: region.guest_phys_addr,
        user: region.user_addr,
        len: region.memory_size,
        offset: region.mmap_offset,
        file,
    }
}

/// Checks what is said to be an eventfd.
fn adopt(file: Option<&File>) -> Result<()> {
    file.map_or(Ok(()), eventfd::adopt)
        .map_err(Error::ReqHandlerError)
}

fn unsupported<T>() -> Result<T> {
    Err(Error::InvalidOperation("not supported by this device"))
}

impl VhostUserBackendReqHandlerMut for Device {
    fn set_owner(&mut self) -> Result<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> Result<()> {
        self.stop_all();
        self.tell();
        Ok(())
    }

    fn reset_device(&mut self) -> Result<()> {
        self.stop_all();
        self.tell();
        self.features = 0;
        Ok(())
    }

    fn get_features(&mut self) -> Result<u64> {
        Ok(OFFERED)
    }

    fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !OFFERED != 0 {
            return Err(Error::InvalidParam);
        }
        let set = |device: &mut Self| {
            device.features = features;
            let enabled = !device.has(feature::PROTOCOL_FEATURES);
            for ring in &mut device.rings {
                ring.enabled |= enabled;
            }
            Ok(())
        };
        // A migration that begins or ends: the one feature that changes under running rings.
        if (self.features ^ features) & feature::LOG_ALL != 0 {
            self.beneath_rings(set)
        } else {
            set(self)
        }
    }

    fn set_mem_table(
        &mut self,
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        _: Option<bool>,
    ) -> Result<Option<Vec<VhostUserMemoryRegionBase>>> {
        self.regions = regions
            .iter()
            .zip(files)
            .map(|(one, file)| region(one, file))
            .collect();
        self.map_memory().map(|()| None)
    }

    fn set_vring_num(&mut self, index: u32, num: u32) -> Result<()> {
        let (_, ring) = self.ring(index)?;
        let size = u16::try_from(num).map_err(|_| Error::InvalidParam)?;
        if ring.running || size == 0 || size > MAX_SIZE || !size.is_power_of_two() {
            return Err(Error::InvalidParam);
        }
        ring.size = size;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        flags: VhostUserVringAddrFlags,
        descriptor: u64,
        used: u64,
        available: u64,
        log: u64,
    ) -> Result<()> {
        let (index, _) = self.ring(index)?;
        let running = self.rings[index].running;
        self.halt(index)?;
        self.rings[index].addresses = Some(Addresses {
            descriptors: descriptor,
            available,
            used,
            log: flags
                .contains(VhostUserVringAddrFlags::VHOST_VRING_F_LOG)
                .then_some(log),
        });
        if running { self.start(index) } else { Ok(()) }
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> Result<()> {
        let (_, ring) = self.ring(index)?;
        if ring.running {
            return Err(Error::InvalidParam);
        }
        ring.base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> Result<VhostUserVringState> {
        let (place, _) = self.ring(index)?;
        self.stop(place)?;
        let ring = &mut self.rings[place];
        ring.kick = None;
        ring.call = None;
        Ok(VhostUserVringState::new(index, ring.base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        let (index, _) = self.ring(index.into())?;
        adopt(fd.as_ref())?;
        self.halt(index)?;
        self.rings[index].kick = Some(fd);
        self.start(index)
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> Result<()> {
        adopt(fd.as_ref())?;
        let (index, ring) = self.ring(index.into())?;
        ring.call = fd;
        if ring.running {
            let call = ring.call.as_ref().map(File::try_clone).transpose();
            let call = call.map_err(Error::ReqHandlerError)?;
            if !self.lane(index).send(Change::Call { index, call }) {
                return Err(Error::Disconnected);
            }
        }
        Ok(())
    }

    fn set_vring_err(&mut self, index: u8, _: Option<File>) -> Result<()> {
        self.ring(index.into()).map(drop)
    }

    fn get_protocol_features(&mut self) -> Result<VhostUserProtocolFeatures> {
        Ok(VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::LOG_SHMFD
            | VhostUserProtocolFeatures::RESET_DEVICE)
    }

    fn set_protocol_features(&mut self, features: u64) -> Result<()> {
        if features & !self.get_protocol_features()?.bits() != 0 {
            return Err(Error::InvalidParam);
        }
        self.replies = features & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0;
        Ok(())
    }

    fn get_queue_num(&mut self) -> Result<u64> {
        Ok(self.rings.len() as u64 / 2)
    }

    fn set_vring_enable(&mut self, index: u32, enable: bool) -> Result<()> {
        let (index, ring) = self.ring(index)?;
        ring.enabled = enable;
        if enable {
            self.start(index)
        } else {
            self.stop(index)
        }
    }

    /// The configuration space (VirtIO 1.2, section 5.1.4): mac, status, max_virtqueue_pairs, mtu.
    fn get_config(&mut self, offset: u32, size: u32, _: VhostUserConfigFlags) -> Result<Vec<u8>> {
        const LINK_UP: u16 = 1;
        let mut space = vec![0; 6];
        space.extend(LINK_UP.to_le_bytes());
        space.extend((self.rings.len() as u16 / 2).to_le_bytes());
        space.extend(self.mtu.to_le_bytes());
        let mut part: Vec<u8> = space.into_iter().skip(offset as usize).collect();
        part.resize(size as usize, 0);
        Ok(part)
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> Result<()> {
        // The MAC address is the configuration's to say, the rest is for reading.
        unsupported()
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> Result<()> {
        unsupported()
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> Result<File> {
        unsupported()
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> Result<(VhostUserInflight, File)> {
        unsupported()
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> Result<()> {
        unsupported()
    }

    fn get_max_mem_slots(&mut self) -> Result<u64> {
        Ok(GuestMemory::MAX_REGIONS as u64)
    }

    fn add_mem_region(
        &mut self,
        one: &VhostUserSingleMemoryRegion,
        file: File,
        _: Option<bool>,
    ) -> Result<Option<VhostUserMemoryRegionBase>> {
        // QEMU adds each region once for each pair of queues, which is once too often.
        if let Some(place) = self.region_like(one) {
            self.regions.remove(place);
        }
        self.regions.push(region(one, file));
        self.map_memory().map(|()| None)
    }

    fn remove_mem_region(&mut self, one: &VhostUserSingleMemoryRegion) -> Result<()> {
        // As above: it may be gone already.
        let Some(place) = self.region_like(one) else {
            return Ok(());
        };
        self.regions.remove(place);
        self.map_memory()
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> Result<Option<File>> {
        unsupported()
    }

    fn check_device_state(&mut self) -> Result<()> {
        unsupported()
    }

    fn get_shmem_config(&mut self) -> Result<VhostUserShMemConfig> {
        unsupported()
    }

    fn set_log_base(&mut self, log: &VhostUserLog, file: File) -> Result<()> {
        let log = DirtyLog::map(&file, log.mmap_offset, log.mmap_size).map_err(Error::ReqHandlerError)?;
        self.beneath_rings(|device| {
            device.log = Some(Arc::new(log));
            Ok(())
        })
    }
}
