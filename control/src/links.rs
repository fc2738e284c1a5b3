//! The netdevs of the daemon's network namespace, as rtnetlink tells of them (rtnetlink(7)).
//!
//! [`Links`] is the table, [`Monitor`] what keeps it true: it subscribes first and reads the whole table afterwards,
//! so no change falls between, and reads it again when the kernel says that messages were lost. A netdev is known by
//! its index, which stays when it is renamed; ports ask by name. TAPs that were moved to another namespace are not
//! seen here.

use std::collections::HashMap;

use futures::StreamExt;
use futures::TryStreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup};
use switch_core::addr::MacAddr;

/// A netdev.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index, which a netdev keeps for life.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// The administrator has set it up.
    pub up: bool,
    /// Its carrier is there.
    pub carrier: bool,
    /// Longest payload of its frames, octets.
    pub mtu: u32,
    /// Its address, if it is an Ethernet device.
    pub address: Option<MacAddr>,
    /// The netdev that it is a port of: a bridge, a bond.
    pub controller: Option<u32>,
}

impl Link {
    /// `None` for a message without a name.
    fn from_message(message: &LinkMessage) -> Option<Self> {
        let name = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })?;
        let flags = message.header.flags;
        let mtu = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        let controller = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) => Some(*index).filter(|index| *index != 0),
            _ => None,
        });
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(octets) => octets.as_slice().try_into().ok().map(MacAddr),
            _ => None,
        });
        Some(Self {
            address,
            mtu: mtu.unwrap_or(u32::MAX),
            controller,
            index: message.header.index,
            name,
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
        })
    }

    /// Why the netdev carries no frames, and what to do about it; `None` if it does.
    pub fn trouble(&self) -> Option<String> {
        let name = &self.name;
        if !self.up {
            Some(down(name))
        } else if !self.carrier {
            Some(format!(
                "device {name} has no carrier; look at its cable or at its other end"
            ))
        } else {
            None
        }
    }
}

/// What to say of a netdev that nobody has set up.
pub fn down(name: &str) -> String {
    format!("device {name} is down; bring it up with: ip link set {name} up")
}

/// What became of the netdevs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A netdev is new, renamed, or in another state.
    New(Link),
    /// A netdev is gone from this namespace.
    Gone {
        /// Its index.
        index: u32,
    },
    /// The whole table, after messages were lost.
    All(Vec<Link>),
}

/// The table of netdevs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    by_index: HashMap<u32, Link>,
}

impl Links {
    /// The netdev that has this name now.
    pub fn named(&self, name: &str) -> Option<&Link> {
        self.by_index.values().find(|link| link.name == name)
    }

    /// The netdev of this index.
    pub fn of_index(&self, index: u32) -> Option<&Link> {
        self.by_index.get(&index)
    }

    /// Takes a change up; false if it changed nothing that is kept here.
    pub fn apply(&mut self, change: Change) -> bool {
        match change {
            Change::New(link) => {
                if self.by_index.get(&link.index) == Some(&link) {
                    return false;
                }
                // The name went over from a netdev whose own message is still to come.
                self.by_index
                    .retain(|index, old| *index == link.index || old.name != link.name);
                self.by_index.insert(link.index, link);
                true
            }
            Change::Gone { index } => self.by_index.remove(&index).is_some(),
            Change::All(links) => {
                let all = links.into_iter().map(|link| (link.index, link)).collect();
                let differs = self.by_index != all;
                self.by_index = all;
                differs
            }
        }
    }
}

/// rtnetlink cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// No socket.
    #[error("rtnetlink cannot be opened: {0}")]
    Open(#[source] std::io::Error),
    /// The kernel refused to list the netdevs.
    #[error("rtnetlink does not list the netdevs: {0}")]
    List(#[source] rtnetlink::Error),
}

/// The subscription to changes.
pub struct Monitor {
    handle: Handle,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    connection: tokio::task::JoinHandle<()>,
    /// Messages were lost, and the whole table is still to be read again.
    stale: bool,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Monitor {
    /// Subscribes, and reads the table.
    pub async fn start() -> Result<(Self, Links), LinkError> {
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(LinkError::Open)?;
        let monitor = Self {
            handle,
            messages,
            connection: tokio::spawn(connection),
            stale: false,
        };
        let mut links = Links::default();
        links.apply(monitor.list().await?);
        Ok((monitor, links))
    }

    async fn list(&self) -> Result<Change, LinkError> {
        // One by one: a message takes kilobytes, and a host may have thousands of netdevs.
        let messages = self.handle.link().get().execute();
        let links: Vec<Link> = messages
            .try_filter_map(async |message| Ok(Link::from_message(&message)))
            .try_collect()
            .await
            .map_err(LinkError::List)?;
        Ok(Change::All(links))
    }

    /// The next changes, as many as there are at once; none when the socket is gone. After an error the table is stale,
    /// and the next call reads it again.
    pub async fn next(&mut self) -> Result<Vec<Change>, LinkError> {
        let mut changes = Vec::new();
        while changes.is_empty() && !self.stale {
            let Some((message, _)) = self.messages.next().await else {
                return Ok(changes);
            };
            self.stale |= read(message, &mut changes);
            while let Ok((message, _)) = self.messages.try_recv() {
                self.stale |= read(message, &mut changes);
            }
        }
        if self.stale {
            changes.push(self.list().await?);
            self.stale = false;
        }
        Ok(changes)
    }
}

/// Takes a message's change; true if messages before it were lost.
fn read(message: NetlinkMessage<RouteNetlinkMessage>, changes: &mut Vec<Change>) -> bool {
    let (link, gone) = match message.payload {
        NetlinkPayload::Overrun(_) => return true,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => (link, false),
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) => (link, true),
        _ => return false,
    };
    // A bridge tells of its ports in the same words, under its own family.
    if link.header.interface_family == AddressFamily::Unspec {
        if gone {
            changes.push(Change::Gone {
                index: link.header.index,
            });
        } else {
            changes.extend(Link::from_message(&link).map(Change::New));
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, up: bool) -> Link {
        Link {
            index,
            name: name.to_owned(),
            up,
            carrier: up,
            mtu: 1500,
            address: None,
            controller: None,
        }
    }

    #[test]
    fn a_name_that_goes_over_belongs_to_its_new_owner() {
        let mut links = Links::default();
        assert!(links.apply(Change::New(link(1, "eth0", true))));
        assert!(!links.apply(Change::New(link(1, "eth0", true))));
        assert!(links.apply(Change::New(link(2, "eth0", false))));
        assert_eq!(links.named("eth0").unwrap().index, 2);
        assert!(links.apply(Change::New(link(1, "eth9", true))));
        assert_eq!(links.named("eth9").unwrap().index, 1);
        assert!(links.apply(Change::Gone { index: 2 }));
        assert!(!links.apply(Change::Gone { index: 2 }));
        assert!(links.named("eth0").is_none());
        assert!(links.apply(Change::All(vec![link(3, "eth3", true)])));
        assert!(links.named("eth9").is_none());
    }

    #[test]
    fn trouble_says_what_to_do() {
        assert_eq!(link(1, "eth1", true).trouble(), None);
        let down = link(1, "eth1", false).trouble().unwrap();
        assert_eq!(down, "device eth1 is down; bring it up with: ip link set eth1 up");
        let mut dark = link(1, "eth1", true);
        dark.carrier = false;
        assert!(dark.trouble().unwrap().contains("no carrier"));
    }

    #[tokio::test]
    async fn the_loopback_is_listed() {
        let (_monitor, links) = Monitor::start().await.unwrap();
        assert!(links.named("lo").is_some());
    }
}
