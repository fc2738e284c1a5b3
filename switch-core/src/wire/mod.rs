//! Header views: what the octets of a frame mean.
//!
//! Each view borrows its octets, checks once that the header fits and reads fields at constant
//! offsets afterwards, so that a getter is one load. The offsets stand in a `field` module at the head of each file and
//! nowhere else. Getters of a view never panic: whatever lies past the fixed header is reached by a method that returns
//! an `Option` or an empty slice. All multi-octet fields are big endian on the wire and native in Rust.
//!
//! [`layers::Layers`] finds the network and transport headers of a whole frame, through VLAN tags and IPv6 extension
//! headers, within fixed bounds.

pub mod arp;
pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod lacp;
pub mod layers;
mod summary;
pub mod tcp;
pub mod udp;
pub mod vlan;

pub use summary::{Summary, summary};

/// The octets are not the header that they were taken for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ParseError {
    /// They end before the header does.
    #[error("the octets end inside the header")]
    Truncated,
    /// They hold something else.
    #[error("{0}")]
    Unsupported(&'static str),
}

/// EtherTypes (IEEE 802 numbers, IANA).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// Reverse ARP, which hypervisors send to announce a moved guest.
    pub const RARP: u16 = 0x8035;
    /// Customer VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// Slow protocols: LACP and others (802.3, annex 57A).
    pub const SLOW: u16 = 0x8809;
    /// MAC control: pause and others (802.3, clause 31).
    pub const MAC_CONTROL: u16 = 0x8808;
    /// Port authentication (802.1X).
    pub const EAPOL: u16 = 0x888e;
    /// Service VLAN tag (802.1ad).
    pub const QINQ: u16 = 0x88a8;
    /// LLDP (802.1AB).
    pub const LLDP: u16 = 0x88cc;
    /// Values below are a length, and an LLC header follows (IEEE 802.3).
    pub const MINIMUM: u16 = 0x0600;
}

/// IP protocol numbers, which are also IPv6 next-header values (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE.
    pub const GRE: u8 = 47;
    /// Encapsulating security payload.
    pub const ESP: u8 = 50;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// Nothing follows.
    pub const NO_NEXT: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Mobility header.
    pub const MOBILITY: u8 = 135;
    /// Host identity protocol.
    pub const HIP: u8 = 139;
    /// Shim6.
    pub const SHIM6: u8 = 140;
}

/// The `N` octets at `at`, if they are there.
#[inline]
pub(crate) fn octets<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

/// The big-endian number at `at`, if it is there.
#[inline]
pub(crate) fn be16(data: &[u8], at: usize) -> Option<u16> {
    octets(data, at).map(u16::from_be_bytes)
}

/// The big-endian number at `at`, a constant below the end of a fixed header.
#[inline(always)]
pub(crate) const fn u16_at<const M: usize>(header: &[u8; M], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// The `N` octets at `at`, a constant below the end of a fixed header.
#[inline(always)]
pub(crate) fn array<const N: usize, const M: usize>(header: &[u8; M], at: usize) -> [u8; N] {
    let mut octets = [0; N];
    octets.copy_from_slice(&header[at..at + N]);
    octets
}

#[cfg(test)]
mod tests;
