//! The devices behind ports: opened, watched, closed and opened again.
//!
//! A `device` port is attached while its netdev is there and set up; when the netdev goes, comes back or changes its
//! name, netlink says so and [`Daemon::reconcile`] follows. A TAP may live in a namespace that netlink doesn't see: it
//! is attached when it is opened, until a worker finds it broken. An open TAP keeps the namespace that it was made in alive
//! after its name was deleted, so the names are watched too ([`Daemon::names_changed`]). What cannot be opened is tried again after
//! [`delay`], which grows so that a device that flaps costs little; for a netdev that is not there nothing is tried,
//! because netlink tells when it comes. A port with a peer (`vhost-user`, `stream`) is open for as long as it is configured, and up while the
//! peer is there ([`Daemon::peer_told`]); whether and when to connect again is the datapath's affair.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use datapath::io::{self, OpenError, PacketSpec, Peer, PeerId, PeerSink, StreamSpec, TapSpec, VhostUserSpec};
use datapath::{Closing, Placement};
use switch_core::id::PortId;
use tokio::time::Instant;

use super::Daemon;
use crate::config::model::Driver;
use crate::config::validate::{Attachment, EffectivePort, EffectiveSwitch};
use crate::descriptors::{self, Reserve};
use crate::events::Kind;
use crate::links::{self, Links};

/// Where `ip netns` keeps the names of namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// The queues of a port that was opened.
pub type Queues = Vec<Box<dyn io::Queue>>;

/// A device that has failed again within this time has not recovered.
const STABLE: Duration = Duration::from_secs(10);

/// The longest time between two attempts to open a device.
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// The same for a TAP whose namespace is not there: looking costs little, and nobody tells when it comes.
const NETNS_DELAY: Duration = Duration::from_secs(4);

/// What to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceSpec {
    /// A TAP of the switch's own.
    Tap(TapSpec),
    /// An existing netdev.
    Packet(PacketSpec),
    /// The memory of a VM.
    VhostUser(VhostUserSpec),
    /// Frames on a Unix stream socket.
    Stream(StreamSpec),
}

/// What a port holds while it is open; no two ports may hold the same at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'a> {
    /// A netdev in a namespace (`None`: the daemon's).
    Netdev(Option<&'a str>, &'a str),
    /// A Unix socket.
    Socket(&'a Path),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netdev(_, name) => f.write_str(name),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

impl DeviceSpec {
    /// The device of a port.
    pub fn of(port: &EffectivePort, switch: &EffectiveSwitch, workers: usize) -> Self {
        // A queue for each worker that may serve the port.
        let workers = match port.workers.len() {
            0 => workers,
            pinned => pinned.min(workers),
        };
        match &port.attachment {
            Attachment::Tap {
                device,
                netns,
                persistent,
                offloads,
            } => Self::Tap(TapSpec {
                name: device.as_str().to_owned(),
                netns: netns.as_ref().map(|netns| netns.as_str().to_owned()),
                mtu: switch.mtu,
                mac: port.mac,
                persistent: *persistent,
                offloads: *offloads,
                queues: workers,
            }),
            Attachment::Device {
                device,
                driver,
                busy_poll,
                offloads,
            } => Self::Packet(PacketSpec {
                device: device.as_str().to_owned(),
                driver: match driver {
                    Driver::Auto => io::Driver::Auto,
                    Driver::AfXdp => io::Driver::AfXdp,
                    Driver::AfPacket => io::Driver::AfPacket,
                },
                offloads: *offloads,
                busy_poll: *busy_poll,
                queues: workers,
            }),
            Attachment::VhostUser { socket, mode, queues } => Self::VhostUser(VhostUserSpec {
                socket: socket.as_str().into(),
                mode: (*mode).into(),
                pairs: queues.get().into(),
                queues: workers.min(queues.get().into()),
                mtu: switch.mtu,
            }),
            Attachment::Stream { socket, mode } => Self::Stream(StreamSpec {
                socket: socket.as_str().into(),
                mode: (*mode).into(),
            }),
        }
    }

    /// What it holds while it is open.
    pub fn place(&self) -> Place<'_> {
        match self {
            Self::Tap(tap) => Place::Netdev(tap.netns.as_deref(), &tap.name),
            Self::Packet(packet) => Place::Netdev(None, &packet.device),
            Self::VhostUser(VhostUserSpec { socket, .. }) | Self::Stream(StreamSpec { socket, .. }) => {
                Place::Socket(socket)
            }
        }
    }

    /// The network namespace that the configuration names for it.
    fn netns(&self) -> Option<&str> {
        match self.place() {
            Place::Netdev(netns, _) => netns,
            Place::Socket(_) => None,
        }
    }

    /// The socket that we listen on.
    fn listens(&self) -> Option<&Path> {
        match self {
            Self::VhostUser(VhostUserSpec { socket, mode, .. })
            | Self::Stream(StreamSpec { socket, mode })
                if *mode == io::SocketMode::Server =>
            {
                Some(socket)
            }
            _ => None,
        }
    }

    /// Whether another process at the end of a socket has to be there.
    fn has_peer(&self) -> bool {
        matches!(self, Self::VhostUser(_) | Self::Stream(_))
    }
}

/// Which workers serve a port.
pub(super) fn placement(port: &EffectivePort) -> Placement {
    if port.workers.is_empty() {
        Placement::Automatic
    } else {
        Placement::Pinned(port.workers.clone())
    }
}

/// Why a port with a peer carries nothing before the datapath has told of that peer.
fn awaited(spec: &DeviceSpec) -> Option<String> {
    let (DeviceSpec::VhostUser(VhostUserSpec { socket, mode, .. })
    | DeviceSpec::Stream(StreamSpec { socket, mode, .. })) = spec
    else {
        return None;
    };
    Some(io::peer::awaited(socket, *mode))
}

/// Opens devices; the kernel's, but for tests.
pub trait Opener: Send {
    /// One queue or more. A port with a peer tells `peer` of it.
    fn open(&self, spec: &DeviceSpec, peer: PeerSink) -> Result<Queues, OpenError>;
}

/// Opens the kernel's devices.
#[derive(Clone, Debug, Default)]
pub struct Kernel {
    umems: io::Umems,
}

impl Opener for Kernel {
    fn open(&self, spec: &DeviceSpec, peer: PeerSink) -> Result<Queues, OpenError> {
        let _reserve = Reserve::take().map_err(|_| OpenError::Descriptors {
            device: spec.place().to_string(),
        })?;
        match spec {
            DeviceSpec::Tap(spec) => io::open_tap(spec),
            DeviceSpec::Packet(spec) => io::open_device(spec, &self.umems),
            DeviceSpec::VhostUser(spec) => io::open_vhost_user(spec, peer),
            DeviceSpec::Stream(spec) => io::open_stream(spec, peer),
        }
    }
}

/// How long to wait after so many failures in a row before opening again.
fn delay(failures: u32) -> Duration {
    if failures <= 1 {
        Duration::ZERO
    } else {
        Duration::from_secs(1 << (failures - 2).min(5)).min(LONGEST_DELAY)
    }
}

/// What is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Attached {
    /// Index of the netdev, where netlink sees it.
    index: Option<u32>,
    /// What its name led to when it was opened: the namespace of a TAP, which is alive as long as the TAP is open when the name was
    /// deleted; the socket that we listen on, which nobody reaches when its file was.
    named: Option<Identity>,
    /// Who tells of the peer, where there is one.
    peer: Option<PeerId>,
    since: Instant,
}

/// Device and inode of a namespace or of a socket.
type Identity = (u64, u64);

/// Where a namespace is that is named as `ip netns` does, or by an absolute path: that stands for itself when it is joined.
fn netns_path(netns: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(netns)
}

/// The namespace, or the socket that we listen on, that has its name now.
fn identity(spec: &DeviceSpec) -> Option<Identity> {
    let metadata = match (spec.netns(), spec.listens()) {
        (Some(netns), _) => fs::metadata(netns_path(netns)),
        (None, Some(socket)) => fs::symlink_metadata(socket),
        (None, None) => return None,
    };
    metadata.ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// What opening a TAP would say if its namespace is not there; for one that nobody has tried to open yet.
pub(super) fn missing_netns(spec: &TapSpec) -> Option<OpenError> {
    let netns = spec.netns.as_ref()?;
    let gone = fs::metadata(netns_path(netns)).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    gone.then(|| OpenError::MissingNetns {
        device: spec.name.clone(),
        netns: netns.clone(),
    })
}

/// The device of a port as it is now.
#[derive(Clone, Debug)]
pub struct Runtime {
    pub(super) spec: DeviceSpec,
    enabled: bool,
    attached: Option<Attached>,
    /// Why it carries nothing; `None`: it is up.
    trouble: Option<String>,
    failures: u32,
    retry_at: Option<Instant>,
    /// The netdev that was attached last, where netlink sees it.
    last_index: Option<u32>,
    /// How it is attached, in words; empty if there is but one way, or it is not.
    driver: String,
    /// Netlink has told of the TAP since it was opened; before, it has only just been made.
    told: bool,
}

impl Runtime {
    /// A port whose device is yet to be opened.
    pub(super) fn new(spec: DeviceSpec) -> Self {
        Self {
            spec,
            enabled: true,
            attached: None,
            trouble: None,
            failures: 0,
            retry_at: None,
            last_index: None,
            driver: String::new(),
            told: false,
        }
    }

    /// Whether frames can be sent to it.
    pub fn is_up(&self) -> bool {
        self.attached.is_some() && self.trouble.is_none()
    }

    /// Why it carries nothing, and what to do.
    pub fn reason(&self) -> Option<String> {
        if !self.enabled {
            return Some("disabled in the configuration (`enabled: false`)".to_owned());
        }
        self.trouble.clone()
    }

    /// How the device is attached, in words.
    pub fn driver(&self) -> Option<&str> {
        (self.attached.is_some() && !self.driver.is_empty()).then_some(&self.driver)
    }

    pub(super) fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }

    pub(super) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    fn refused(&mut self, error: &OpenError, now: Instant) {
        self.attached = None;
        self.trouble = Some(match error {
            OpenError::Descriptors { .. } => format!(
                "{error}; {} may be open, {} of them are kept for the API",
                descriptors::limit(),
                descriptors::RESERVED
            ),
            _ => error.to_string(),
        });
        self.failures = self.failures.saturating_add(1);
        // Netlink tells when a missing netdev comes. A first refusal is not tried again at once.
        let missing = matches!(
            (error, &self.spec),
            (OpenError::Missing { .. }, DeviceSpec::Packet(_))
        );
        let longest = match error {
            OpenError::MissingNetns { .. } => NETNS_DELAY,
            _ => LONGEST_DELAY,
        };
        self.retry_at = (!missing).then(|| now + delay(self.failures.saturating_add(1)).min(longest));
    }

    fn opened(&mut self, index: Option<u32>, peer: PeerId, now: Instant) {
        self.attached = Some(Attached {
            index,
            named: identity(&self.spec),
            peer: self.spec.has_peer().then_some(peer),
            since: now,
        });
        self.last_index = index;
        self.told = false;
        self.trouble = None;
        self.retry_at = None;
    }

    /// Takes the netdev for the attached one that was opened before netlink told of it.
    fn adopt(&mut self, links: &Links) {
        if let (DeviceSpec::Packet(spec), Some(attached)) = (&self.spec, &mut self.attached)
            && attached.index.is_none()
        {
            attached.index = links.named(&spec.device).map(|link| link.index);
            self.last_index = attached.index;
        }
    }

    /// Netlink has told of a netdev of this name.
    pub(super) fn tell(&mut self, name: &str) {
        self.told |= self.spec.place() == Place::Netdev(None, name);
    }

    /// Netlink has told of all netdevs.
    pub(super) fn tell_all(&mut self) {
        self.told = true;
    }
}

/// What a port needs.
#[derive(Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    Open,
    Close,
}

impl Daemon {
    /// What the port's netdev, as netlink sees it, asks for; and why the port carries nothing.
    fn judge(&self, runtime: &Runtime, now: Instant) -> (Need, Option<String>) {
        let due = runtime.retry_at.is_none_or(|at| at <= now);
        match &runtime.spec {
            DeviceSpec::Packet(spec) => {
                let name = &spec.device;
                let close = if runtime.attached.is_some() {
                    Need::Close
                } else {
                    Need::Nothing
                };
                match self.links.named(name) {
                    // Opened, and netlink is about to tell.
                    None if runtime.attached.is_some_and(|attached| attached.index.is_none()) => {
                        (Need::Nothing, None)
                    }
                    None => (
                        close,
                        Some(OpenError::Missing { device: name.clone() }.to_string()),
                    ),
                    Some(link) if !link.up => (close, link.trouble()),
                    Some(link) => match runtime.attached {
                        Some(attached) if attached.index == Some(link.index) => {
                            (Need::Nothing, link.trouble())
                        }
                        None if !due => (Need::Nothing, runtime.trouble.clone()),
                        _ => (Need::Open, link.trouble()),
                    },
                }
            }
            DeviceSpec::Tap(spec) => {
                if runtime.attached.is_none() {
                    let need = if due { Need::Open } else { Need::Nothing };
                    return (need, runtime.trouble.clone());
                }
                (Need::Nothing, self.tap_trouble(spec, runtime.told))
            }
            DeviceSpec::VhostUser(_) | DeviceSpec::Stream(_) => {
                let need = if runtime.attached.is_none() && due {
                    Need::Open
                } else {
                    Need::Nothing
                };
                (need, runtime.trouble.clone())
            }
        }
    }

    /// A TAP that is still in the daemon's namespace may be down, as every new one is; elsewhere it is its user's affair.
    fn tap_trouble(&self, spec: &TapSpec, told: bool) -> Option<String> {
        if spec.netns.is_some() {
            return None;
        }
        match self.links.named(&spec.name) {
            Some(link) if link.up => None,
            None if told => None,
            Some(_) | None => Some(links::down(&spec.name)),
        }
    }

    /// Opens the device of a port that is not attached. The queues are not the workers' yet.
    pub(super) fn open(&self, runtime: &mut Runtime, now: Instant) -> Option<Queues> {
        let link = match &runtime.spec {
            DeviceSpec::Packet(spec) => self.links.named(&spec.device).cloned(),
            DeviceSpec::Tap(_) | DeviceSpec::VhostUser(_) | DeviceSpec::Stream(_) => None,
        };
        if let (DeviceSpec::Packet(_), Some(link)) = (&runtime.spec, &link)
            && !link.up
        {
            runtime.trouble = link.trouble();
            return None;
        }
        // What is being closed in the background may be the same device.
        for (spec, closing) in &self.closing {
            if spec.place() == runtime.spec.place() {
                closing.wait();
            }
        }
        let sink = self.datapath.peer_sink();
        let peer = sink.id();
        match self.opener.open(&runtime.spec, sink) {
            Ok(queues) => {
                runtime.driver = queues
                    .first()
                    .map_or_else(String::new, |queue| queue.driver().to_owned());
                runtime.opened(link.as_ref().map(|link| link.index), peer, now);
                runtime.trouble = match &runtime.spec {
                    DeviceSpec::Packet(_) => link.and_then(|link| link.trouble()),
                    DeviceSpec::Tap(spec) => self.tap_trouble(spec, false),
                    // The datapath's word on the peer is an event that waits until this is done.
                    DeviceSpec::VhostUser(_) | DeviceSpec::Stream(_) => awaited(&runtime.spec),
                };
                Some(queues)
            }
            Err(error) => {
                runtime.refused(&error, now);
                None
            }
        }
    }

    /// Brings every port to the state that its device allows, and publishes if that changed anything.
    pub(super) fn reconcile(&mut self, now: Instant) {
        let mut attach = Vec::new();
        let mut changed = false;
        let names: Vec<String> = self.ports.keys().cloned().collect();
        for name in names {
            let Some(mut runtime) = self.ports.remove(&name) else {
                continue;
            };
            runtime.adopt(&self.links);
            let before = (runtime.is_up(), runtime.reason());
            let (need, trouble) = self.judge(&runtime, now);
            match need {
                Need::Nothing => {
                    runtime.trouble = trouble;
                    // An attempt that is due and not wanted any more must not keep its deadline.
                    runtime.retry_at = runtime.retry_at.filter(|at| *at > now);
                }
                Need::Close => {
                    self.detach(&name, &mut runtime);
                    runtime.trouble = trouble;
                    runtime.retry_at = None;
                    changed = true;
                }
                Need::Open => {
                    if runtime.attached.is_some() {
                        self.detach(&name, &mut runtime);
                        changed = true;
                    }
                    let last = runtime.last_index;
                    if let Some(queues) = self.open(&mut runtime, now) {
                        if runtime.last_index != last || runtime.last_index.is_none() {
                            self.forget_guest(&name);
                        }
                        self.host.take(&runtime.spec, &self.links);
                        attach.push((name.clone(), queues));
                    }
                }
            }
            let after = (runtime.is_up(), runtime.reason());
            self.ports.insert(name.clone(), runtime);
            if before != after {
                changed |= before.0 != after.0;
                self.tell_state(&name);
            }
        }
        if changed || !attach.is_empty() {
            self.publish(attach);
        }
        self.wake.notify_one();
    }

    /// The device is another one now, and so may its guest be.
    fn forget_guest(&self, name: &str) {
        if let Some(state) = self.registry.state(name) {
            state.reset();
        }
    }

    /// Follows namespaces and sockets that were deleted, or made anew under their name: their ports are opened again. A port whose
    /// peer is connected needs its socket's name no more, and keeps its peer.
    pub fn names_changed(&mut self) {
        let now = Instant::now();
        let names: Vec<String> = self.ports.keys().cloned().collect();
        for name in names {
            let Some(mut runtime) = self.ports.remove(&name) else {
                continue;
            };
            let listens = runtime.spec.listens().is_some();
            if runtime.spec.netns().is_some() || listens {
                let identity = identity(&runtime.spec);
                match runtime.attached {
                    Some(attached) if attached.named != identity && !(listens && runtime.is_up()) => {
                        self.detach(&name, &mut runtime);
                        runtime.trouble = Some(if listens {
                            "its socket was removed or replaced".to_owned()
                        } else {
                            "its network namespace was deleted".to_owned()
                        });
                        runtime.retry_at = None;
                    }
                    // What is to be there is, or what was in the way is not.
                    None if identity.is_some() != listens => runtime.retry_at = None,
                    _ => {}
                }
            }
            self.ports.insert(name, runtime);
        }
        self.reconcile(now);
    }

    /// Says in the event log how a port is.
    pub(super) fn tell_state(&self, name: &str) {
        let Some(runtime) = self.ports.get(name) else {
            return;
        };
        if runtime.is_up() {
            self.tell_of(Kind::PortUp, Some(name), format!("port {name} is up"));
        } else {
            let reason = runtime
                .reason()
                .unwrap_or_else(|| "its device is not open".to_owned());
            self.tell_of(
                Kind::PortDown,
                Some(name),
                format!("port {name} is down: {reason}"),
            );
        }
    }

    /// Takes the queues of ports that are no more away from the workers. They are closed in the background.
    pub(super) fn retire(&mut self, ports: &[PortId]) {
        self.closing.retain(|(_, closing)| !closing.is_done());
        let specs: Vec<Option<DeviceSpec>> = ports.iter().map(|port| self.open_specs.remove(port)).collect();
        let closings: Vec<Closing> = self.datapath.retire(ports);
        let both = specs.into_iter().zip(closings);
        self.closing
            .extend(both.filter_map(|(spec, closing)| Some((spec?, closing))));
    }

    /// Takes the queues of a port away from the workers.
    pub(super) fn detach(&mut self, name: &str, runtime: &mut Runtime) {
        runtime.attached = None;
        self.host.give_back(&runtime.spec);
        if let Some(id) = self.registry.port_id(name) {
            self.datapath.detach(id);
        }
    }

    /// The peer of a port came or went. True if that changes which ports are up.
    pub(super) fn peer_told(&mut self, peer: PeerId, state: Peer) -> bool {
        let port = self.ports.iter_mut().find(|(_, runtime)| {
            runtime
                .attached
                .is_some_and(|attached| attached.peer == Some(peer))
        });
        // One of a port that was closed meanwhile.
        let Some((name, runtime)) = port else { return false };
        let before = (runtime.is_up(), runtime.trouble.take());
        let present = matches!(state, Peer::Present(_));
        match state {
            Peer::Present(how) => runtime.driver = how,
            Peer::Absent(reason) => {
                runtime.driver.clear();
                runtime.trouble = Some(reason);
            }
        }
        let after = (runtime.is_up(), &runtime.trouble);
        let (changed, differs) = (before.0 != after.0, before.1 != *after.1);
        let name = name.clone();
        if present {
            self.forget_guest(&name);
        }
        if differs {
            self.tell_state(&name);
        }
        changed
    }

    /// A worker found the device of a port gone or broken.
    pub(super) fn port_failed(&mut self, id: PortId, errno: i32, now: Instant) {
        let name = self.port_name(id);
        let Some(mut runtime) = self.ports.remove(&name) else {
            return;
        };
        if let Some(attached) = runtime.attached {
            if now.duration_since(attached.since) > STABLE {
                runtime.failures = 0;
            }
            runtime.failures = runtime.failures.saturating_add(1);
            self.detach(&name, &mut runtime);
            runtime.trouble = Some(format!(
                "device {} failed: {}; it is opened again",
                runtime.spec.place(),
                std::io::Error::from_raw_os_error(errno)
            ));
            runtime.retry_at = Some(now + delay(runtime.failures));
        }
        self.ports.insert(name.clone(), runtime);
        self.tell_state(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_followed_at_once_and_then_ever_later() {
        let delays: Vec<u64> = (1..=8).map(|failures| delay(failures).as_secs()).collect();
        assert_eq!(delays, [0, 1, 2, 4, 8, 16, 30, 30]);
    }
}
