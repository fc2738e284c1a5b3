//! MAC moves in the event log: a guest that makes an address flap must not wash everything else out of it.
//!
//! The first move of an address is told at once, what follows in one row per minute as long as it goes on. At most
//! [`WATCHED`] addresses are followed at a time; moves of others are told together, once per minute.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use switch_core::addr::MacAddr;
use switch_core::id::PortId;
use switch_core::vid::Vid;
use tokio::time::Instant;

use crate::config::validate::in_vlan;

/// How long the moves of an address are counted before they are told.
pub(super) const WINDOW: Duration = Duration::from_secs(60);

/// How many addresses are followed at a time.
pub(super) const WATCHED: usize = 16;

/// A move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) vid: Vid,
    pub(super) mac: MacAddr,
    pub(super) from: PortId,
    pub(super) to: PortId,
}

/// What moved: `52:54:00:00:00:01 in VLAN 100`.
impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.mac, in_vlan(self.vid))
    }
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// An address moved for the first time in a while.
    First(Move),
    /// It went on: so many moves, of which this was the last.
    More(Move, u64),
    /// So many moves of addresses that are not followed, of which this was the last.
    Others(Move, u64),
}

#[derive(Debug)]
struct Window {
    since: Instant,
    /// Moves after those that were told.
    count: u64,
    last: Move,
}

/// The addresses that have moved of late.
#[derive(Debug, Default)]
pub(super) struct MoveLog {
    watched: BTreeMap<(u16, u64), Window>,
    others: Option<Window>,
}

impl MoveLog {
    /// Takes a move; what is to be told of it at once.
    pub(super) fn moved(&mut self, now: Instant, moved: Move) -> Option<Told> {
        let key = (moved.vid.get(), moved.mac.to_u64());
        let full = self.watched.len() >= WATCHED;
        let window = match self.watched.get_mut(&key) {
            Some(window) => window,
            None if full => self.others.get_or_insert(Window {
                since: now,
                count: 0,
                last: moved,
            }),
            None => {
                let window = Window {
                    since: now,
                    count: 0,
                    last: moved,
                };
                self.watched.insert(key, window);
                return Some(Told::First(moved));
            }
        };
        window.count += 1;
        window.last = moved;
        None
    }

    /// When [`MoveLog::take_due`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let windows = self.watched.values().chain(&self.others);
        windows.map(|window| window.since + WINDOW).min()
    }

    /// What went on in the windows that have ended. An address that stays where it is is forgotten.
    pub(super) fn take_due(&mut self, now: Instant) -> Vec<Told> {
        let mut told = Vec::new();
        self.watched.retain(|_, window| {
            if window.since + WINDOW > now {
                return true;
            }
            let count = std::mem::take(&mut window.count);
            window.since = now;
            if count > 0 {
                told.push(Told::More(window.last, count));
            }
            count > 0
        });
        if let Some(others) = self.others.take_if(|others| others.since + WINDOW <= now) {
            told.push(Told::Others(others.last, others.count));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn a_move(mac: u8) -> Move {
        Move {
            vid: Vid::new(1).unwrap(),
            mac: MacAddr::from_u64(0x0200_0000_0000 + u64::from(mac)),
            from: PortId::new(1).unwrap(),
            to: PortId::new(2).unwrap(),
        }
    }

    #[test]
    fn an_address_that_flaps_is_one_row_a_minute() {
        let mut log = MoveLog::default();
        let start = Instant::now();
        assert_eq!(log.moved(start, a_move(1)), Some(Told::First(a_move(1))));
        for _ in 0..1000 {
            assert_eq!(log.moved(start, a_move(1)), None);
        }
        assert!(log.take_due(start).is_empty());
        assert_eq!(log.deadline(), Some(start + WINDOW));
        let later = start + WINDOW;
        assert_eq!(log.take_due(later), [Told::More(a_move(1), 1000)]);
        assert!(log.take_due(later + WINDOW).is_empty());
        assert_eq!(log.deadline(), None, "it is quiet again");
        assert_eq!(log.moved(later, a_move(1)), Some(Told::First(a_move(1))));
    }

    #[test]
    fn many_addresses_are_bounded() {
        let mut log = MoveLog::default();
        let start = Instant::now();
        let told = (0..=255).filter_map(|mac| log.moved(start, a_move(mac))).count();
        assert_eq!(told, WATCHED);
        let others = 256 - WATCHED as u64;
        assert_eq!(log.take_due(start + WINDOW), [Told::Others(a_move(255), others)]);
        assert_eq!(log.deadline(), None);
    }
}
