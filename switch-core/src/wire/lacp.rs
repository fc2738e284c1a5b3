//! LACPDUs (IEEE 802.1AX-2014, clause 6.4.2): what two systems tell each other about the links of an aggregate.

use super::{ParseError, ethertype, u16_at};
use crate::addr::MacAddr;

mod field {
    pub const SUBTYPE: usize = 0;
    pub const ACTOR: usize = 2;
    pub const PARTNER: usize = 22;
    pub const COLLECTOR: usize = 42;
    pub const END: usize = 110;

    /// Within the information of actor or partner, behind type and length.
    pub const SYSTEM_PRIORITY: usize = 2;
    pub const SYSTEM: usize = 4;
    pub const KEY: usize = 10;
    pub const PORT_PRIORITY: usize = 12;
    pub const PORT: usize = 14;
    pub const STATE: usize = 16;
}

/// The group address of slow protocols.
pub const DESTINATION: MacAddr = MacAddr([0x01, 0x80, 0xc2, 0, 0, 2]);

/// Subtype of slow protocols, and version, of what is sent here.
const LACP: [u8; 2] = [1, 1];
/// Types and lengths of the information of actor, partner and collector.
const ACTOR: [u8; 2] = [1, 20];
const PARTNER: [u8; 2] = [2, 20];
const COLLECTOR: [u8; 2] = [3, 16];

/// The state of a link at one side: bits of one octet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State(pub u8);

impl State {
    /// It speaks by itself, not only when it is spoken to.
    pub const ACTIVE: Self = Self(1);
    /// It wants to hear once a second; else every 30 s.
    pub const SHORT_TIMEOUT: Self = Self(2);
    /// The link may be one of several.
    pub const AGGREGATION: Self = Self(4);
    /// The link is in the right aggregate.
    pub const SYNCHRONIZATION: Self = Self(8);
    /// Frames from the link are taken.
    pub const COLLECTING: Self = Self(16);
    /// Frames are sent by the link.
    pub const DISTRIBUTING: Self = Self(32);
    /// Nothing has been heard of the other side.
    pub const DEFAULTED: Self = Self(64);
    /// Nothing has been heard of the other side for a while.
    pub const EXPIRED: Self = Self(128);

    /// Whether all bits of another state are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the bits of another state set or not.
    #[must_use]
    pub const fn with(self, other: Self, set: bool) -> Self {
        if set {
            Self(self.0 | other.0)
        } else {
            Self(self.0 & !other.0)
        }
    }
}

/// One side of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Participant {
    /// Priority of the system; the lower number is the higher.
    pub system_priority: u16,
    /// The system.
    pub system: MacAddr,
    /// Which of its ports may be one aggregate.
    pub key: u16,
    /// Priority of the port.
    pub port_priority: u16,
    /// Number of the port.
    pub port: u16,
    /// Its state.
    pub state: State,
}

impl Participant {
    fn parse(octets: &[u8; field::END], at: usize) -> Self {
        let word = |field: usize| u16_at(octets, at + field);
        Self {
            system_priority: word(field::SYSTEM_PRIORITY),
            system: MacAddr(super::array(octets, at + field::SYSTEM)),
            key: word(field::KEY),
            port_priority: word(field::PORT_PRIORITY),
            port: word(field::PORT),
            state: State(octets[at + field::STATE]),
        }
    }

    fn write(&self, octets: &mut [u8; field::END], at: usize) {
        let mut put = |field: usize, value: &[u8]| {
            octets[at + field..at + field + value.len()].copy_from_slice(value);
        };
        put(field::SYSTEM_PRIORITY, &self.system_priority.to_be_bytes());
        put(field::SYSTEM, &self.system.0);
        put(field::KEY, &self.key.to_be_bytes());
        put(field::PORT_PRIORITY, &self.port_priority.to_be_bytes());
        put(field::PORT, &self.port.to_be_bytes());
        put(field::STATE, &[self.state.0]);
    }

    /// Whether it is the same port of the same system and the same aggregate, and may be aggregated or not as the other.
    pub fn is_same_link(&self, other: &Self) -> bool {
        let bit = |side: &Self| side.state.has(State::AGGREGATION);
        let of = |side: &Self| {
            let Self {
                system_priority,
                system,
                key,
                port_priority,
                port,
                state: _,
            } = *side;
            (system_priority, system, key, port_priority, port)
        };
        of(self) == of(other) && bit(self) == bit(other)
    }
}

/// What a system says of a link: of itself, and what it believes of the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lacpdu {
    /// The sender.
    pub actor: Participant,
    /// The other side, as the sender has last heard of it.
    pub partner: Participant,
}

impl Lacpdu {
    /// Reads the payload of a frame of the EtherType slow protocols.
    pub fn parse(payload: &[u8]) -> Result<Self, ParseError> {
        let octets: &[u8; field::END] = payload.first_chunk().ok_or(ParseError::Truncated)?;
        // 6.4.2.3: versions above the own are read as the own.
        if octets[field::SUBTYPE] != LACP[0] {
            return Err(ParseError::Unsupported("a slow protocol other than LACP"));
        }
        let tlv = |at: usize| [octets[at], octets[at + 1]];
        if tlv(field::ACTOR) != ACTOR || tlv(field::PARTNER) != PARTNER {
            return Err(ParseError::Unsupported(
                "an LACPDU whose information is not where it belongs",
            ));
        }
        Ok(Self {
            actor: Participant::parse(octets, field::ACTOR),
            partner: Participant::parse(octets, field::PARTNER),
        })
    }

    /// The whole frame, from a device with this address.
    pub fn to_frame(&self, source: MacAddr) -> Vec<u8> {
        let mut octets = [0; field::END];
        for (at, value) in [
            (field::SUBTYPE, LACP),
            (field::ACTOR, ACTOR),
            (field::PARTNER, PARTNER),
            (field::COLLECTOR, COLLECTOR),
        ] {
            octets[at..at + 2].copy_from_slice(&value);
        }
        self.actor.write(&mut octets, field::ACTOR);
        self.partner.write(&mut octets, field::PARTNER);
        [
            &DESTINATION.0[..],
            &source.0,
            &ethertype::SLOW.to_be_bytes(),
            &octets,
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(number: u8) -> Participant {
        Participant {
            system_priority: 0x8000 | u16::from(number),
            system: MacAddr([2, 0, 0, 0, 0, number]),
            key: 0x0100 | u16::from(number),
            port_priority: 0x7f00 | u16::from(number),
            port: 0x0200 | u16::from(number),
            state: State(0x3d),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let pdu = Lacpdu {
            actor: side(1),
            partner: side(2),
        };
        let frame = pdu.to_frame(MacAddr([2, 0, 0, 0, 0, 9]));
        assert_eq!(frame.len(), 124);
        assert_eq!(
            frame[..14],
            [1, 0x80, 0xc2, 0, 0, 2, 2, 0, 0, 0, 0, 9, 0x88, 0x09]
        );
        // Table 6-7 by hand.
        assert_eq!(frame[14..18], [1, 1, 1, 20]);
        assert_eq!(
            frame[18..34],
            [0x80, 1, 2, 0, 0, 0, 0, 1, 1, 1, 0x7f, 1, 2, 1, 0x3d, 0]
        );
        assert_eq!(frame[36..38], [2, 20]);
        assert_eq!(frame[56..58], [3, 16]);
        assert_eq!(Lacpdu::parse(&frame[14..]), Ok(pdu));
        for len in 0..110 {
            assert_eq!(Lacpdu::parse(&frame[14..14 + len]), Err(ParseError::Truncated));
        }
        for (at, value) in [(14, 2), (16, 2), (17, 19), (36, 1), (37, 0)] {
            let mut wrong = frame.clone();
            wrong[at] = value;
            assert!(Lacpdu::parse(&wrong[14..]).is_err());
        }
        // A later version says the same, and perhaps more.
        let mut later = frame.clone();
        later[15] = 2;
        later.extend([7; 20]);
        assert_eq!(Lacpdu::parse(&later[14..]), Ok(pdu));
    }

    #[test]
    fn bits_are_set_and_cleared() {
        let state = State::default()
            .with(State::ACTIVE, true)
            .with(State::EXPIRED, true);
        assert_eq!(state, State(0x81));
        assert!(state.has(State::ACTIVE) && !state.has(State::COLLECTING));
        assert_eq!(state.with(State::EXPIRED, false), State::ACTIVE);
    }
}
