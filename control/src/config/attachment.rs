//! What is behind a port: which of its keys say so, and which others go with them.

use std::fmt;

use serde_json::{Map, Value, json};

use super::model::{Driver, Port, SocketMode};
use super::path::Path;
use super::units::{NetdevName, Netns, QueuePairs, SocketPath};
use super::validate::ConfigError;

/// What is behind a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attachment {
    /// A TAP that the switch owns.
    Tap {
        /// Name of the netdev.
        device: NetdevName,
        /// Where it is made; `None`: the daemon's own namespace.
        netns: Option<Netns>,
        /// The netdev stays when the daemon ends.
        persistent: bool,
        /// Super-frames and partial checksums may be used.
        offloads: bool,
    },
    /// An existing netdev.
    Device {
        /// Name of the netdev.
        device: NetdevName,
        /// How it is attached.
        driver: Driver,
        /// It is polled in place of its interrupts.
        busy_poll: bool,
        /// Super-frames and partial checksums may be used.
        offloads: bool,
    },
    /// The memory of a VM.
    VhostUser {
        /// Path of the socket.
        socket: SocketPath,
        /// Who listens on it.
        mode: SocketMode,
        /// The most queue pairs that the VM may use.
        queues: QueuePairs,
    },
    /// Frames on a Unix stream socket.
    Stream {
        /// Path of the socket.
        socket: SocketPath,
        /// Who listens on it.
        mode: SocketMode,
    },
}

/// What only one port can have at a time.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Place {
    Netdev(Option<Netns>, NetdevName),
    Socket(SocketPath),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netdev(_, device) => write!(f, "the device `{device}`"),
            Self::Socket(socket) => write!(f, "the socket `{socket}`"),
        }
    }
}

/// The keys that say what is behind a port, each with what it does.
const KINDS: [(&str, &str); 4] = [
    ("tap", "`tap: NAME` makes a TAP that the switch owns"),
    ("device", "`device: NAME` attaches a netdev that exists"),
    (
        "vhost-user",
        "`vhost-user: PATH` shares memory with a VM through the socket of its hypervisor",
    ),
    (
        "stream",
        "`stream: PATH` is a socket for QEMU's `-netdev stream` or passt",
    ),
];

impl Attachment {
    /// The key of the file: `tap`, `device`, `vhost-user` or `stream`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tap { .. } => "tap",
            Self::Device { .. } => "device",
            Self::VhostUser { .. } => "vhost-user",
            Self::Stream { .. } => "stream",
        }
    }

    /// Name of the netdev, or path of the socket.
    pub fn device(&self) -> &str {
        match self {
            Self::Tap { device, .. } | Self::Device { device, .. } => device.as_str(),
            Self::VhostUser { socket, .. } | Self::Stream { socket, .. } => socket.as_str(),
        }
    }

    pub(super) fn place(&self) -> Place {
        match self {
            Self::Tap { device, netns, .. } => Place::Netdev(netns.clone(), device.clone()),
            Self::Device { device, .. } => Place::Netdev(None, device.clone()),
            Self::VhostUser { socket, .. } | Self::Stream { socket, .. } => Place::Socket(socket.clone()),
        }
    }

    /// In the file's words, nothing left out.
    pub(super) fn settings(&self) -> Map<String, Value> {
        let mut settings = Map::new();
        settings.insert(self.kind().into(), json!(self.device()));
        let mut insert = |key: &str, value: Value| settings.insert(key.into(), value);
        match self {
            Self::Tap {
                device: _,
                netns,
                persistent,
                offloads,
            } => {
                insert("netns", json!(netns));
                insert("persistent", json!(persistent));
                insert("offloads", json!(offloads));
            }
            Self::Device {
                device: _,
                driver,
                busy_poll,
                offloads,
            } => {
                insert("driver", json!(driver));
                insert("busy-poll", json!(busy_poll));
                insert("offloads", json!(offloads));
            }
            Self::VhostUser {
                socket: _,
                mode,
                queues,
            } => {
                insert("mode", json!(mode));
                insert("queues", json!(queues));
            }
            Self::Stream { socket: _, mode } => {
                insert("mode", json!(mode));
            }
        }
        settings
    }

    /// What the keys of a port say, or nothing if that is not one thing; keys that don't go with it are errors.
    pub(super) fn of(port: &Port, path: &Path, errors: &mut Vec<ConfigError>) -> Option<Self> {
        let given = [
            port.tap.is_some(),
            port.device.is_some(),
            port.vhost_user.is_some(),
            port.stream.is_some(),
        ];
        let mut kinds = KINDS
            .iter()
            .zip(given)
            .filter_map(|(kind, given)| given.then_some(kind));
        let (kind, other) = (kinds.next(), kinds.next());
        let Some((kind, does)) = kind else {
            let mut error = ConfigError::new(
                path.clone(),
                "`tap`, `device`, `vhost-user` or `stream` is missing",
            )
            .help(KINDS.map(|(_, does)| does).join(", "));
            for (key, _) in KINDS {
                error = error.depends(path.key(key));
            }
            errors.push(error);
            return None;
        };
        if let Some((other, also)) = other {
            errors.push(
                ConfigError::new(path.clone(), format!("`{kind}` and `{other}` exclude each other"))
                    .help(format!("{does}, {also}")),
            );
            return None;
        }
        for (key, given, with) in [
            ("netns", port.netns.is_some(), &["tap"][..]),
            ("persistent", port.persistent.is_some(), &["tap"]),
            ("driver", port.driver.is_some(), &["device"]),
            ("busy-poll", port.busy_poll.is_some(), &["device"]),
            ("offloads", port.offloads.is_some(), &["tap", "device"]),
            ("mode", port.mode.is_some(), &["vhost-user", "stream"]),
            ("queues", port.queues.is_some(), &["vhost-user"]),
        ] {
            if given && !with.contains(kind) {
                let owners: Vec<String> = with.iter().map(|owner| format!("`{owner}`")).collect();
                errors.push(
                    ConfigError::new(
                        path.key(key),
                        format!("`{key}` is for ports with {}", owners.join(" or ")),
                    )
                    .depends(path.key(kind)),
                );
            }
        }
        let offloads = port.offloads.unwrap_or(true);
        let tap = port.tap.clone().map(|device| Self::Tap {
            device,
            netns: port.netns.clone(),
            persistent: port.persistent.unwrap_or(false),
            offloads,
        });
        let device = || {
            port.device.clone().map(|device| Self::Device {
                device,
                driver: port.driver.unwrap_or_default(),
                busy_poll: port.busy_poll.unwrap_or(false),
                offloads,
            })
        };
        let vhost_user = || {
            port.vhost_user.clone().map(|socket| Self::VhostUser {
                socket,
                mode: port.mode.unwrap_or(SocketMode::Client),
                queues: port.queues.unwrap_or(QueuePairs::ALL),
            })
        };
        let stream = || {
            port.stream.clone().map(|socket| Self::Stream {
                socket,
                mode: port.mode.unwrap_or(SocketMode::Server),
            })
        };
        tap.or_else(device).or_else(vhost_user).or_else(stream)
    }
}
