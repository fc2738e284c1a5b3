//! What happened: the last [`EventLog::KEPT`] events in memory, for `GET /v1/events` and those who follow it.
//!
//! A follower holds only a cursor into the ring. One that reads too slowly finds the oldest rows gone, is told how
//! many it missed, and never makes the daemon wait or keep more than the ring.
//!
//! Threads: any; the lock is held for a copy of a few rows at most and never across an `await`.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::api::model::EventRow;

/// A time as RFC 3339 with milliseconds, UTC.
pub fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// What an event is about; the words are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The daemon has started.
    Start,
    /// The daemon stops.
    Stop,
    /// A configuration was applied.
    Apply,
    /// A configuration was refused or could not be stored.
    ApplyFailed,
    /// An older configuration is in force again.
    Rollback,
    /// A configuration waits for its confirmation.
    ConfirmWanted,
    /// A configuration was confirmed.
    Confirmed,
    /// A port carries frames now.
    PortUp,
    /// A port carries none any more.
    PortDown,
    /// A MAC address moved to another port.
    MacMoved,
    /// A queue of a port is served by another worker from now on.
    QueueMoved,
    /// Sending to a port fails.
    SendFailed,
    /// A port's guest kept the switch waiting for its memory, and is left alone for a while.
    LeftAlone,
    /// The guest of a port that waited for it has announced itself.
    Activated,
    /// The state of a port was imported from another host.
    Imported,
    /// A team uses other uplinks.
    TeamChanged,
    /// Events were lost because there were too many.
    Lost,
}

impl Kind {
    /// The word in [`EventRow::kind`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Apply => "apply",
            Self::ApplyFailed => "apply-failed",
            Self::Rollback => "rollback",
            Self::ConfirmWanted => "confirm-wanted",
            Self::Confirmed => "confirmed",
            Self::PortUp => "port-up",
            Self::PortDown => "port-down",
            Self::MacMoved => "mac-moved",
            Self::QueueMoved => "queue-moved",
            Self::SendFailed => "send-failed",
            Self::Activated => "activated",
            Self::Imported => "imported",
            Self::TeamChanged => "team-changed",
            Self::LeftAlone => "left-alone",
            Self::Lost => "lost",
        }
    }
}

#[derive(Debug, Default)]
struct Ring {
    /// Number of the next event.
    next: u64,
    rows: VecDeque<(SystemTime, EventRow)>,
}

impl Ring {
    fn first(&self) -> u64 {
        self.next - self.rows.len() as u64
    }
}

/// The ring of events.
#[derive(Debug)]
pub struct EventLog {
    ring: Mutex<Ring>,
    /// Carries [`Ring::next`].
    grown: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            ring: Mutex::default(),
            grown: watch::Sender::new(0),
        }
    }
}

impl EventLog {
    /// How many events are kept.
    pub const KEPT: usize = 1000;

    /// Adds an event that happened now.
    pub fn push(&self, kind: Kind, port: Option<&str>, message: String) {
        self.push_at(SystemTime::now(), kind, port, message);
    }

    fn push_at(&self, time: SystemTime, kind: Kind, port: Option<&str>, message: String) {
        let row = EventRow {
            time: rfc3339(time),
            kind: kind.name().to_owned(),
            port: port.map(ToOwned::to_owned),
            message,
        };
        let next = {
            let mut ring = self.ring();
            if ring.rows.len() == Self::KEPT {
                ring.rows.pop_front();
            }
            ring.rows.push_back((time, row));
            ring.next += 1;
            ring.next
        };
        self.grown.send_replace(next);
    }

    /// Reads from the oldest kept event that is not older than `since`.
    pub fn follow(&self, since: Option<SystemTime>) -> Cursor {
        let ring = self.ring();
        let skip = since.map_or(0, |since| ring.rows.partition_point(|(time, _)| *time < since));
        Cursor {
            next: ring.first() + skip as u64,
            grown: self.grown.subscribe(),
        }
    }

    /// What came after the cursor, which moves on.
    pub fn take(&self, cursor: &mut Cursor) -> Vec<EventRow> {
        let ring = self.ring();
        let first = ring.first();
        let lost = first.saturating_sub(cursor.next);
        let skip = cursor.next.saturating_sub(first);
        cursor.next = ring.next;
        let notice = (lost > 0).then(|| EventRow {
            time: rfc3339(SystemTime::now()),
            kind: Kind::Lost.name().to_owned(),
            port: None,
            message: format!("{lost} events are missing here: they were overwritten before they were read"),
        });
        let rows = ring.rows.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX));
        notice
            .into_iter()
            .chain(rows.map(|(_, row)| row.clone()))
            .collect()
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A panic while the lock is held leaves the ring whole: each change is one push.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader's place in the ring.
#[derive(Debug)]
pub struct Cursor {
    next: u64,
    grown: watch::Receiver<u64>,
}

impl Cursor {
    /// Waits until there is something after the cursor.
    pub async fn changed(&mut self) {
        let next = self.next;
        if self.grown.wait_for(|count| *count > next).await.is_err() {
            // The log is gone with the daemon; there will be nothing more.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn push(log: &EventLog, second: u64) {
        let time = UNIX_EPOCH + Duration::from_secs(second);
        log.push_at(time, Kind::Apply, None, format!("event {second}"));
    }

    #[test]
    fn a_slow_reader_is_told_what_it_missed() {
        let log = EventLog::default();
        push(&log, 0);
        let mut cursor = log.follow(None);
        for second in 1..=EventLog::KEPT as u64 + 4 {
            push(&log, second);
        }
        let rows = log.take(&mut cursor);
        assert_eq!(rows.len(), EventLog::KEPT + 1);
        assert_eq!(rows[0].kind, "lost");
        assert!(rows[0].message.starts_with("5 events"), "{}", rows[0].message);
        assert_eq!(rows[1].message, "event 5");
        assert!(log.take(&mut cursor).is_empty());
    }

    #[test]
    fn since_skips_older_rows() {
        let log = EventLog::default();
        for second in 10..20 {
            push(&log, second);
        }
        let mut cursor = log.follow(Some(UNIX_EPOCH + Duration::from_secs(17)));
        let rows = log.take(&mut cursor);
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[0].time, "1970-01-01T00:00:17.000Z");
    }

    #[tokio::test]
    async fn a_follower_wakes_up() {
        let log = EventLog::default();
        let mut cursor = log.follow(None);
        push(&log, 1);
        cursor.changed().await;
        assert_eq!(log.take(&mut cursor).len(), 1);
    }
}
