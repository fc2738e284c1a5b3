//! Header views: what the octets of a frame mean.
//!
//! Each view borrows its octets, checks once that the fixed header fits ([`Truncated`] if not) and reads fields at constant
//! offsets afterwards, so that a getter is one load. The offsets stand in a `field` module at the head of each file and
//! nowhere else. Getters of a view never panic: whatever lies past the fixed header is reached by a method that returns
//! an `Option` or an empty slice. All multi-octet fields are big endian on the wire and native in Rust.
//!
//! [`layers::Layers`] finds the network and transport headers of a whole frame, through VLAN tags and IPv6 extension
//! headers, within fixed bounds.

pub mod checksum;
pub mod ipv6;
pub mod layers;

/// The octets end inside the header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the octets end inside the header")]
pub struct Truncated;

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
    /// Service VLAN tag (802.1ad).
    pub const QINQ: u16 = 0x88a8;
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
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
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
