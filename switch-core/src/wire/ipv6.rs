//! IPv6 and its extension headers (RFC 8200; AH: RFC 4302).

use super::{octets, protocol};

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
