//! The framing of QEMU's `-netdev stream` (and of passt): each frame behind its length, a 32-bit number in network byte order.
//!
//! [`Inbox`] finds the frames in whatever pieces a stream brings; a length that no frame has ends it. [`Outbox`] keeps the rest of a frame
//! that the socket took only a part of: it must go first, or everything behind it is misread.
//!
//! Pure: no socket is known here.

use crate::pool::{CHUNK, HEADROOM, MAX_FRAME};

/// Octets of a length.
pub const LENGTH: usize = 4;

/// The longest frame that is let pass on the wire, octets: `NET_BUFSIZE` of QEMU, which is more than a frame of the switch may have
/// ([`MAX_FRAME`]). A guest can make its hypervisor send so much, and must not lose the connection by it.
pub const LONGEST: usize = 4096 + 65536;

/// Octets that are read at once at most: a batch of usual frames, and some more than the longest one.
const BUFFER: usize = 128 * 1024;

const _: () = assert!(HEADROOM + MAX_FRAME <= CHUNK);
const _: () = assert!(BUFFER >= LENGTH + LONGEST && LONGEST >= MAX_FRAME);

/// A length that no frame has: what follows cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the other side announced a frame of {0} octets, and frames have 1 to {LONGEST}; does it speak QEMU's `-netdev stream`?"
)]
pub struct BadLength(pub u32);

/// What was read of a stream and not taken yet.
#[derive(Debug)]
pub struct Inbox {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER].into(),
            start: 0,
            end: 0,
        }
    }
}

impl Inbox {
    /// Forgets everything: another stream begins.
    pub fn clear(&mut self) {
        (self.start, self.end) = (0, 0);
    }

    /// Where to read to. Never empty once [`Inbox::peek`] has found no frame.
    pub fn room(&mut self) -> &mut [u8] {
        if self.start > 0 {
            // After all whole frames were taken, this is less than one.
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.end..]
    }

    /// Says that so many octets of [`Inbox::room`] were read to; more than it has count as all.
    pub fn filled(&mut self, octets: usize) {
        self.end = (self.end + octets).min(self.buffer.len());
    }

    /// The next frame, if all of it is there.
    ///
    /// # Errors
    /// The stream's next length is no frame's; it is of no more use.
    #[inline]
    pub fn peek(&self) -> Result<Option<&[u8]>, BadLength> {
        let waiting = &self.buffer[self.start..self.end];
        let Some((length, rest)) = waiting.split_first_chunk::<LENGTH>() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(*length);
        match usize::try_from(announced) {
            Ok(len @ 1..=LONGEST) => Ok(rest.get(..len)),
            _ => Err(BadLength(announced)),
        }
    }

    /// Takes the frame away that [`Inbox::peek`] has shown, of `len` octets.
    #[inline]
    pub fn take(&mut self, len: usize) {
        self.start = (self.start + LENGTH + len).min(self.end);
        if self.start == self.end {
            self.clear();
        }
    }

    /// Whether [`Inbox::peek`] has something to say.
    pub fn has_more(&self) -> bool {
        !matches!(self.peek(), Ok(None))
    }
}

/// The rest of a frame that the socket took only a part of.
#[derive(Debug, Default)]
pub struct Outbox {
    rest: Vec<u8>,
    sent: usize,
}

impl Outbox {
    /// Room for one frame, so that keeping it allocates nothing.
    pub fn with_room() -> Self {
        Self {
            rest: Vec::with_capacity(LENGTH + LONGEST),
            sent: 0,
        }
    }

    /// Forgets everything: another stream begins.
    pub fn clear(&mut self) {
        self.rest.clear();
        self.sent = 0;
    }

    /// What has to go before anything else.
    pub fn rest(&self) -> &[u8] {
        &self.rest[self.sent..]
    }

    /// Says that so many octets of [`Outbox::rest`] have gone.
    pub fn sent(&mut self, octets: usize) {
        self.sent = (self.sent + octets).min(self.rest.len());
        if self.sent == self.rest.len() {
            self.clear();
        }
    }

    /// Keeps the rest of a frame. Nothing else may be waiting.
    pub fn keep(&mut self, rest: &[u8]) {
        debug_assert!(self.rest().is_empty(), "the rest of another frame must go first");
        self.clear();
        self.rest.extend_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What is kept goes in order, whatever parts the socket takes.
        #[test]
        fn the_rest_of_a_frame_goes_whole(
            frame in proptest::collection::vec(any::<u8>(), 1..300),
            parts in proptest::collection::vec(0usize..50, 1..20),
        ) {
            let mut outbox = Outbox::with_room();
            outbox.keep(&frame);
            let mut gone = Vec::new();
            for part in parts.iter().chain(std::iter::once(&300)) {
                let part = (*part).min(outbox.rest().len());
                gone.extend_from_slice(&outbox.rest()[..part]);
                outbox.sent(part);
            }
            prop_assert_eq!(gone, frame);
            prop_assert!(outbox.rest().is_empty());
        }
    }

    #[test]
    fn a_bad_length_is_named() {
        assert_eq!(
            BadLength(0x4745_5420).to_string(),
            "the other side announced a frame of 1195725856 octets, and frames have 1 to 69632; does it speak QEMU's `-netdev stream`?"
        );
    }
}
