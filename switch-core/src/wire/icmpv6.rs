//! ICMPv6 (RFC 4443) and neighbour discovery (RFC 4861).
//!
//! A view tells what stands there. Whether a neighbour message is to be believed (hop limit 255, code 0, a right checksum,
//! addresses that fit: RFC 4861, sections 6.1, 7.1 and 8.1) is for policy to decide.

use std::net::Ipv6Addr;

use super::{ParseError, octets, u16_at};
use crate::addr::MacAddr;

mod field {
    pub const KIND: usize = 0;
    pub const CODE: usize = 1;
    pub const CHECKSUM: usize = 2;
    pub const END: usize = 4;

    /// After the first four octets.
    pub const IDENTIFIER: usize = 0;
    pub const SEQUENCE: usize = 2;
    pub const BODY: usize = 4;
    pub const NA_FLAGS: usize = 0;
    pub const RA_FLAGS: usize = 1;
    pub const RA_LIFETIME: usize = 2;
    pub const RA_OPTIONS: usize = 12;
    pub const TARGET: usize = 4;
    pub const NEIGHBOUR_OPTIONS: usize = 20;
    pub const REDIRECT_DESTINATION: usize = 20;
    pub const REDIRECT_OPTIONS: usize = 36;

    pub const ROUTER: u8 = 0x80;
    pub const SOLICITED: u8 = 0x40;
    pub const OVERRIDE: u8 = 0x20;
    pub const MANAGED: u8 = 0x80;
    pub const OTHER: u8 = 0x40;
}

/// Message types (IANA).
pub mod kind {
    /// Destination unreachable.
    pub const UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Multicast listener query.
    pub const MLD_QUERY: u8 = 130;
    /// Multicast listener report, version 1.
    pub const MLD_REPORT: u8 = 131;
    /// Multicast listener done.
    pub const MLD_DONE: u8 = 132;
    /// Router solicitation.
    pub const ROUTER_SOLICITATION: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERTISEMENT: u8 = 134;
    /// Neighbour solicitation.
    pub const NEIGHBOUR_SOLICITATION: u8 = 135;
    /// Neighbour advertisement.
    pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
    /// Multicast listener report, version 2.
    pub const MLD2_REPORT: u8 = 143;
}

/// An ICMPv6 message, or its first octets.
#[derive(Clone, Copy, Debug)]
pub struct Icmpv6<'a> {
    header: &'a [u8; field::END],
    body: &'a [u8],
}

impl<'a> Icmpv6<'a> {
    /// Views a message.
    #[inline]
    pub fn parse(data: &'a [u8]) -> Result<Self, ParseError> {
        let (header, body) = data.split_first_chunk().ok_or(ParseError::Truncated)?;
        Ok(Self { header, body })
    }

    /// The type; see [`kind`].
    #[inline]
    pub const fn kind(&self) -> u8 {
        self.header[field::KIND]
    }

    /// The code within the type.
    #[inline]
    pub const fn code(&self) -> u8 {
        self.header[field::CODE]
    }

    /// The checksum as it stands. It covers a pseudo header; see [`Ipv6::pseudo_header`](super::ipv6::Ipv6::pseudo_header).
    #[inline]
    pub const fn checksum(&self) -> u16 {
        u16_at(self.header, field::CHECKSUM)
    }

    /// Identifier and sequence number of an echo.
    #[inline]
    pub fn echo(&self) -> Option<(u16, u16)> {
        if !matches!(self.kind(), kind::ECHO_REQUEST | kind::ECHO_REPLY) {
            return None;
        }
        Some((
            super::be16(self.body, field::IDENTIFIER)?,
            super::be16(self.body, field::SEQUENCE)?,
        ))
    }

    /// The MTU of a packet that was too big.
    #[inline]
    pub fn mtu(&self) -> Option<u32> {
        (self.kind() == kind::TOO_BIG).then_some(())?;
        octets(self.body, 0).map(u32::from_be_bytes)
    }

    /// What follows the first eight octets: the data of an echo, the first octets of the packet that an error is about.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.body.get(field::BODY..).unwrap_or_default()
    }

    /// The message as one of neighbour discovery. `Ok(None)` if it is of another type.
    pub fn neighbour(&self) -> Result<Option<Neighbour<'a>>, ParseError> {
        let address = |at| {
            octets(self.body, at)
                .map(Ipv6Addr::from)
                .ok_or(ParseError::Truncated)
        };
        let options = |at| self.body.get(at..).map(Options).ok_or(ParseError::Truncated);
        Ok(Some(match self.kind() {
            kind::ROUTER_SOLICITATION => Neighbour::RouterSolicitation {
                options: options(field::BODY)?,
            },
            kind::ROUTER_ADVERTISEMENT => {
                let options = options(field::RA_OPTIONS)?;
                let flags = self.body[field::RA_FLAGS];
                Neighbour::RouterAdvertisement {
                    managed: flags & field::MANAGED != 0,
                    other: flags & field::OTHER != 0,
                    lifetime: super::be16(self.body, field::RA_LIFETIME).ok_or(ParseError::Truncated)?,
                    options,
                }
            }
            kind::NEIGHBOUR_SOLICITATION => Neighbour::Solicitation {
                target: address(field::TARGET)?,
                options: options(field::NEIGHBOUR_OPTIONS)?,
            },
            kind::NEIGHBOUR_ADVERTISEMENT => {
                let target = address(field::TARGET)?;
                let flags = self.body[field::NA_FLAGS];
                Neighbour::Advertisement {
                    router: flags & field::ROUTER != 0,
                    solicited: flags & field::SOLICITED != 0,
                    overriding: flags & field::OVERRIDE != 0,
                    target,
                    options: options(field::NEIGHBOUR_OPTIONS)?,
                }
            }
            kind::REDIRECT => Neighbour::Redirect {
                target: address(field::TARGET)?,
                destination: address(field::REDIRECT_DESTINATION)?,
                options: options(field::REDIRECT_OPTIONS)?,
            },
            _ => return Ok(None),
        }))
    }
}

/// A message of neighbour discovery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Neighbour<'a> {
    /// Is there a router?
    RouterSolicitation {
        /// Its options.
        options: Options<'a>,
    },
    /// Here is a router.
    RouterAdvertisement {
        /// Addresses are to be had by DHCPv6.
        managed: bool,
        /// Other configuration is to be had by DHCPv6.
        other: bool,
        /// Seconds as a default router.
        lifetime: u16,
        /// Its options.
        options: Options<'a>,
    },
    /// Who has this address?
    Solicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// Its options.
        options: Options<'a>,
    },
    /// The sender has this address.
    Advertisement {
        /// The sender is a router.
        router: bool,
        /// It was asked.
        solicited: bool,
        /// What was known before is to be replaced.
        overriding: bool,
        /// The address it has.
        target: Ipv6Addr,
        /// Its options.
        options: Options<'a>,
    },
    /// There is a better way.
    Redirect {
        /// The better next hop.
        target: Ipv6Addr,
        /// To this destination.
        destination: Ipv6Addr,
        /// Its options.
        options: Options<'a>,
    },
}

impl<'a> Neighbour<'a> {
    /// The options of the message.
    pub const fn options(&self) -> Options<'a> {
        match self {
            Self::RouterSolicitation { options }
            | Self::RouterAdvertisement { options, .. }
            | Self::Solicitation { options, .. }
            | Self::Advertisement { options, .. }
            | Self::Redirect { options, .. } => *options,
        }
    }
}

/// Option types (RFC 4861, section 4.6).
pub mod option {
    /// Source link-layer address.
    pub const SOURCE_LINK_LAYER: u8 = 1;
    /// Target link-layer address.
    pub const TARGET_LINK_LAYER: u8 = 2;
    /// Prefix information.
    pub const PREFIX: u8 = 3;
    /// Redirected header.
    pub const REDIRECTED: u8 = 4;
    /// MTU.
    pub const MTU: u8 = 5;
}

/// The options of a message of neighbour discovery; yields each option's type and what follows its length.
///
/// A length of zero or past the end yields one error and ends it: RFC 4861, section 4.6, has such a message discarded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options<'a>(&'a [u8]);

impl Options<'_> {
    /// The link-layer address in the option `kind`, the first one if there are several. `None` also if options before it
    /// are damaged.
    pub fn link_layer(self, kind: u8) -> Option<MacAddr> {
        self.map_while(Result::ok)
            .find(|(found, _)| *found == kind)
            .and_then(|(_, body)| octets(body, 0).map(MacAddr))
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<(u8, &'a [u8]), ParseError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = octets(self.0, 0).and_then(|[kind, units]: [u8; 2]| {
            let (option, rest) = self.0.split_at_checked(usize::from(units) * 8)?;
            Some((kind, option.get(2..)?, rest))
        });
        let (result, rest) = match split {
            Some((kind, body, rest)) => (Ok((kind, body)), rest),
            None => (Err(ParseError::Truncated), &[][..]),
        };
        self.0 = rest;
        Some(result)
    }
}
