//! ARP and RARP for IPv4 over Ethernet (RFC 826, RFC 903, RFC 5227).

use std::net::Ipv4Addr;

use super::{ParseError, u16_at};
use crate::addr::MacAddr;

mod field {
    pub const SENDER_MAC: usize = 8;
    pub const SENDER_IP: usize = 14;
    pub const TARGET_MAC: usize = 18;
    pub const TARGET_IP: usize = 24;
    pub const OPERATION: usize = 6;
    pub const END: usize = 28;

    /// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
    pub const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
}

/// What an ARP or RARP packet wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// Who has the target's IP address?
    Request,
    /// The sender has.
    Reply,
    /// RARP: which IP address has the target?
    ReverseRequest,
    /// RARP: the target has this one.
    ReverseReply,
    /// Anything else.
    Other(u16),
}

/// An ARP packet.
#[derive(Clone, Copy, Debug)]
pub struct Arp<'a>(&'a [u8; field::END]);

impl<'a> Arp<'a> {
    /// Views the payload of a frame of the EtherType ARP or RARP; padding behind it is left out.
    pub fn parse(payload: &'a [u8]) -> Result<Self, ParseError> {
        let header: &[u8; field::END] = payload.first_chunk().ok_or(ParseError::Truncated)?;
        if header[..field::OPERATION] != field::KIND {
            return Err(ParseError::Unsupported("ARP for other than IPv4 over Ethernet"));
        }
        Ok(Self(header))
    }

    /// What it wants.
    #[inline]
    pub const fn operation(&self) -> Operation {
        match u16_at(self.0, field::OPERATION) {
            1 => Operation::Request,
            2 => Operation::Reply,
            3 => Operation::ReverseRequest,
            4 => Operation::ReverseReply,
            other => Operation::Other(other),
        }
    }

    /// The sender's hardware address (SHA).
    #[inline]
    pub fn sender_mac(&self) -> MacAddr {
        self.mac(field::SENDER_MAC)
    }

    /// The sender's protocol address (SPA); unspecified in a probe.
    #[inline]
    pub fn sender_ip(&self) -> Ipv4Addr {
        self.ip(field::SENDER_IP)
    }

    /// The target's hardware address (THA).
    #[inline]
    pub fn target_mac(&self) -> MacAddr {
        self.mac(field::TARGET_MAC)
    }

    /// The target's protocol address (TPA).
    #[inline]
    pub fn target_ip(&self) -> Ipv4Addr {
        self.ip(field::TARGET_IP)
    }

    /// A request or reply about the sender's own address (RFC 5227, section 3).
    #[inline]
    pub fn is_gratuitous(&self) -> bool {
        matches!(self.operation(), Operation::Request | Operation::Reply)
            && self.sender_ip() == self.target_ip()
    }

    /// A question whether an address is free (RFC 5227, section 2.1.1).
    #[inline]
    pub fn is_probe(&self) -> bool {
        self.operation() == Operation::Request && self.sender_ip().is_unspecified() && !self.is_gratuitous()
    }

    #[inline]
    fn mac(&self, at: usize) -> MacAddr {
        MacAddr(super::array(self.0, at))
    }

    #[inline]
    fn ip(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::from(super::array::<4, _>(self.0, at))
    }
}
