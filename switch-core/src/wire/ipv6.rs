//! IPv6 and its extension headers (RFC 8200; AH: RFC 4302).

use std::net::Ipv6Addr;

use super::checksum::{self, Sum};
use super::{ParseError, octets, protocol, u16_at};

mod field {
    pub const VERSION: usize = 0;
    pub const LENGTH: usize = 4;
    pub const NEXT: usize = 6;
    pub const HOP_LIMIT: usize = 7;
    pub const SOURCE: usize = 8;
    pub const DESTINATION: usize = 24;
    pub const END: usize = 40;
}

/// Octets of the fixed header.
pub const HEADER_LEN: usize = field::END;

/// An IPv6 packet, or its first octets.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<'a> {
    header: &'a [u8; HEADER_LEN],
    rest: &'a [u8],
}

impl<'a> Ipv6<'a> {
    /// Views the payload of a frame of the EtherType IPv6. The fixed header must be there, the payload need not.
    pub fn parse(data: &'a [u8]) -> Result<Self, ParseError> {
        let (header, rest) = data.split_first_chunk().ok_or(ParseError::Truncated)?;
        if header[field::VERSION] >> 4 != 6 {
            return Err(ParseError::Unsupported("an IPv6 header with another version"));
        }
        Ok(Self { header, rest })
    }

    /// Traffic class: DSCP and ECN.
    #[inline]
    pub const fn traffic_class(&self) -> u8 {
        self.header[0] << 4 | self.header[1] >> 4
    }

    /// Flow label, 20 bits.
    #[inline]
    pub const fn flow_label(&self) -> u32 {
        u32::from_be_bytes([0, self.header[1] & 0x0f, self.header[2], self.header[3]])
    }

    /// Octets after the fixed header, as the packet says itself; 0 in a jumbogram.
    #[inline]
    pub const fn payload_len(&self) -> u16 {
        u16_at(self.header, field::LENGTH)
    }

    /// The type of the first header after the fixed one.
    #[inline]
    pub const fn next_header(&self) -> u8 {
        self.header[field::NEXT]
    }

    /// Hop limit.
    #[inline]
    pub const fn hop_limit(&self) -> u8 {
        self.header[field::HOP_LIMIT]
    }

    /// Who says that he sent it.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        Ipv6Addr::from(super::array::<16, _>(self.header, field::SOURCE))
    }

    /// Whom it is for; with a routing header, whom next.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        Ipv6Addr::from(super::array::<16, _>(self.header, field::DESTINATION))
    }

    /// What follows the fixed header, extension headers included, without the padding of the frame, as far as it is there.
    /// Without a length all that follows is payload.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        let length = match usize::from(self.payload_len()) {
            0 => self.rest.len(),
            length => length,
        };
        self.rest.get(..length).unwrap_or(self.rest)
    }

    /// The transport header, behind the extension headers; `None` as in [`walk`].
    #[inline]
    pub fn upper(&self) -> Option<Upper> {
        walk(self.next_header(), self.payload())
    }

    /// The sum of the pseudo header for `length` octets of transport header and payload of `protocol`.
    #[inline]
    pub fn pseudo_header(&self, protocol: u8, length: u32) -> Sum {
        checksum::pseudo_v6(
            self.source().octets(),
            self.destination().octets(),
            protocol,
            length,
        )
    }
}

/// More extension headers than this are taken for an attack: the walk ends without a transport header.
pub const MAX_EXTENSIONS: usize = 8;

/// The fragment header (RFC 8200, section 4.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment {
    /// Offset of this fragment in octets.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
    /// The identification that the fragments of a packet share.
    pub identification: u32,
}

/// Where the extension headers end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Upper {
    /// The protocol of what follows.
    pub protocol: u8,
    /// Octets from the end of the fixed header to what follows.
    pub offset: usize,
    /// The fragment header, if there is one. What follows a fragment with an offset is not a header.
    pub fragment: Option<Fragment>,
}

/// Walks the extension headers of `payload`, the octets after the fixed header, whose first is of the type `next`.
///
/// `None` if they end outside of `payload` or are more than [`MAX_EXTENSIONS`]. The walk stops at a fragment with an offset,
/// at the first header that is no extension, and at ESP, behind which nothing can be read.
pub fn walk(next: u8, payload: &[u8]) -> Option<Upper> {
    let mut upper = Upper {
        protocol: next,
        offset: 0,
        fragment: None,
    };
    for _ in 0..=MAX_EXTENSIONS {
        let length = match upper.protocol {
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION_OPTIONS
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6 => {
                let [_, units] = octets(payload, upper.offset)?;
                (usize::from(units) + 1) * 8
            }
            protocol::AUTHENTICATION => {
                let [_, units] = octets(payload, upper.offset)?;
                (usize::from(units) + 2) * 4
            }
            protocol::FRAGMENT => {
                let [_, _, a, b, c, d, e, f] = octets(payload, upper.offset)?;
                let bits = u16::from_be_bytes([a, b]);
                upper.fragment = Some(Fragment {
                    offset: bits & !7,
                    more: bits & 1 != 0,
                    identification: u32::from_be_bytes([c, d, e, f]),
                });
                8
            }
            _ => return Some(upper),
        };
        let [next] = octets(payload, upper.offset)?;
        upper.protocol = next;
        upper.offset += length;
        if upper.offset > payload.len() {
            return None;
        }
        if upper.fragment.is_some_and(|fragment| fragment.offset != 0) {
            return Some(upper);
        }
    }
    None
}
