//! What the fuzzers of `fuzz/` feed, and the tests play with what they found: the two places where a guest or its hypervisor writes octets
//! that the switch reads by itself, the protocol of vhost-user and the rings in shared memory.
//!
//! Only in tests and under a fuzzer.

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::events::Events;
use crate::io::peer::{PeerSink, SocketMode, VhostUserSpec};
use crate::io::vhost_user;
use crate::sys::guest::{GuestMemory, Payload, Region};
use crate::sys::unix;
use crate::sys::vring::{Content, Header, Layout, Vring};

/// Where the guest believes its memory to be, and where its hypervisor has it.
const GUEST: u64 = 0x1_0000;
const USER: u64 = 0x7f00_0000_0000;
/// Octets of its memory.
const MEMORY: u64 = 0x1_0000;

/// Octets, read from the front; zeros behind their end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn take(&mut self, len: usize) -> Vec<u8> {
        (0..len.min(self.0.len())).map(|_| self.byte()).collect()
    }
}

/// A front-end that sends messages: any octets, or well-formed ones in any order, with descriptors of every kind.
pub fn protocol(octets: &[u8]) {
    let mut input = Input(octets);
    let Ok((near, far)) = UnixStream::pair() else {
        return;
    };
    let (Ok(memory), Ok(event), Ok(log)) = (unix::memory(MEMORY), unix::eventfd(), unix::memory(0x1000))
    else {
        return;
    };
    let Ok(null) = std::fs::File::open("/dev/null") else {
        return;
    };
    // A guest's frames in the rings that a well-formed SET_VRING_ADDR names, so that there is something to carry.
    let rings = input.take(64);
    memory.write_all_at(&rings, 0x1000).expect("it is our memory");
    far.set_nonblocking(true).expect("a socket can be");
    while !input.is_empty() {
        let (kind, request) = (input.byte(), input.byte());
        if kind == 0xff {
            let octets = input.take(usize::from(request));
            // Full, or closed by the other side: then what follows is lost.
            let _ = unix::send(&far, &octets, &[]);
            continue;
        }
        let ring = u64::from(input.byte() % 5);
        let body = if kind & 1 == 0 {
            well_formed(request, ring, &mut input)
        } else {
            let len = usize::from(input.byte());
            input.take(len)
        };
        let files: &[&std::fs::File] = match (kind >> 1) % 8 {
            0 | 1 => &[],
            2 => &[&memory],
            3 => &[&event],
            4 => &[&null],
            5 => &[&log],
            6 => &[&memory, &event],
            _ => &[&event; 40],
        };
        let flags = if kind & 0x80 == 0 { 1 } else { 9 };
        let mut octets = Vec::new();
        for word in [u32::from(request % 46), flags, body.len() as u32] {
            octets.extend(word.to_ne_bytes());
        }
        octets.extend(body);
        let _ = unix::send(&far, &octets, files);
    }
    far.shutdown(std::net::Shutdown::Write).expect("it stands");
    let spec = VhostUserSpec {
        socket: "fuzzed".into(),
        mode: SocketMode::Client,
        pairs: 2,
        queues: 1,
        mtu: 1500,
    };
    let events = Arc::new(Events::new(Box::new(|| {})));
    let why = vhost_user::serve_once(&spec, PeerSink::new(&events), near);
    assert!(!why.is_empty());
}

/// The body of a request as a good front-end has it.
fn well_formed(request: u8, ring: u64, input: &mut Input) -> Vec<u8> {
    let words = |words: &[u64]| {
        words
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect::<Vec<u8>>()
    };
    let state = |value: u64| words(&[ring | value << 32]);
    let at = USER + 0x1000 * ring;
    match request % 46 {
        2 => words(&[1 << 32 | 1 << 30 | u64::from(input.byte()) << 26]),
        16 => words(&[u64::from(input.word())]),
        5 => words(&[1, GUEST, MEMORY, USER, 0]),
        6 => words(&[0x1000, 0]),
        8 => state(1 << (input.byte() % 9)),
        9 => words(&[
            ring | u64::from(input.byte() & 1) << 32,
            at,
            at + 0x800,
            at + 0x400,
            0,
        ]),
        10 => state(input.byte().into()),
        11 => state(0),
        12..=14 => words(&[ring]),
        18 => state(u64::from(input.byte() & 1)),
        24 => [words(&[u64::from(input.byte()) | 12 << 32]), vec![0; 4 + 12]].concat(),
        37 | 38 => words(&[0, GUEST, MEMORY, USER, 0]),
        _ => Vec::new(),
    }
}

/// Rings whose every octet is the guest's, also while they are worked on.
///
/// # Panics
/// If an octet outside of the guest's memory changes.
pub fn ring(octets: &[u8]) {
    /// In front of the region and behind it the file has octets that are not the guest's.
    const GUARD: u64 = 0x1000;
    const MARK: [u8; GUARD as usize] = [0xa5; GUARD as usize];
    const DESCRIPTORS: u64 = 0;
    const AVAILABLE: u64 = 0x1000;
    const USED: u64 = 0x1800;
    const TABLE: u64 = 0x2000;
    const HEADER: Header = Header {
        front: 0,
        checksum_offset: 0,
    };
    let mut input = Input(octets);
    let Ok(file) = unix::memory(MEMORY + 2 * GUARD) else {
        return;
    };
    let write = |at: u64, octets: &[u8]| {
        let len = octets.len().min((MEMORY - at) as usize);
        file.write_all_at(&octets[..len], GUARD + at)
            .expect("it is our memory");
    };
    for at in [0, GUARD + MEMORY] {
        file.write_all_at(&MARK, at).expect("it is our memory");
    }
    let (flags, base) = (input.byte(), input.word());
    let size = 1u16 << (input.byte() % 7);
    for (table, count) in [(DESCRIPTORS, size.min(16)), (TABLE, 4)] {
        for number in 0..count {
            let (at, len, flags, next) = (input.word(), input.word(), input.byte(), input.byte());
            let at = if at == u16::MAX {
                u64::MAX - 100
            } else {
                GUEST + u64::from(at)
            };
            let mut octets = at.to_le_bytes().to_vec();
            octets.extend(u32::from(len).to_le_bytes());
            octets.extend(u16::from(flags & 7).to_le_bytes());
            octets.extend(u16::from(next).to_le_bytes());
            write(table + 16 * u64::from(number), &octets);
        }
    }
    let ahead = base.wrapping_add(input.byte().into());
    write(AVAILABLE + 2, &ahead.to_le_bytes());
    for number in 0..size {
        write(AVAILABLE + 4 + 2 * u64::from(number), &[input.byte(), 0]);
    }
    write(USED + 2, &base.to_le_bytes());
    let region = Region {
        guest: GUEST,
        user: USER,
        len: MEMORY,
        offset: GUARD,
        file: file.try_clone().expect("a process that fuzzes has descriptors"),
    };
    let memory = Arc::new(GuestMemory::map(&[region]).expect("the region is whole"));
    let layout = Layout {
        size,
        descriptors: USER + DESCRIPTORS,
        available: USER + AVAILABLE,
        used: USER + USED,
        base,
        event_index: flags & 1 != 0,
        mergeable: flags & 2 != 0,
        legacy: flags & 4 != 0,
    };
    let make = || Vring::new(Arc::clone(&memory), &layout, None);
    let (Some(mut from), Some(mut to)) = (make(), make()) else {
        panic!("the ring lies in the memory");
    };
    let mut chunk = vec![0; 2048];
    let mut payload = Payload::default();
    // Twice, so that both ways of finding a buffer are gone: among those looked up, and after them.
    let give = |to: &mut Vring, head: &[u8], payload: Option<&Payload>| {
        let content = Content {
            header: HEADER,
            head,
            payload,
        };
        to.give([((), content); 2], |(), _| {})
    };
    while !input.is_empty() {
        let result = match input.byte() % 6 {
            0 => from.fetch(usize::from(input.byte())).and_then(|count| {
                for index in 0..count {
                    payload.clear();
                    let room = usize::from(input.byte());
                    let taken = from.copy(index, &mut chunk[..room], Some(&mut payload))?;
                    assert!(taken.copied <= room && taken.copied <= taken.len);
                    give(&mut to, &chunk[..taken.copied], Some(&payload))?;
                }
                from.take(count);
                from.use_taken();
                to.publish();
                Ok(())
            }),
            1 => {
                let len = usize::from(input.word()) % chunk.len();
                give(&mut to, &chunk[..len], None)
            }
            2 => {
                to.prefetch(usize::from(input.byte()));
                to.publish();
                Ok(())
            }
            3 => {
                from.arm();
                Ok(())
            }
            4 => {
                from.disarm();
                Ok(())
            }
            _ => {
                // The guest is at it too.
                let (at, octets) = (u64::from(input.word()), input.take(2));
                write(at, &octets);
                Ok(())
            }
        };
        if result.is_err() {
            break;
        }
    }
    let mut guard = MARK;
    for at in [0, GUARD + MEMORY] {
        file.read_exact_at(&mut guard, at).expect("it is our memory");
        assert!(guard == MARK, "octets outside of the guest's memory have changed");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Plays what the fuzzer has kept.
    fn play(corpus: &str, target: fn(&[u8])) {
        let corpus = format!("{}/../fuzz/corpus/{corpus}", env!("CARGO_MANIFEST_DIR"));
        let mut count = 0;
        for file in std::fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{corpus}: {error}")) {
            target(&std::fs::read(file.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count > 0);
    }

    #[test]
    fn the_corpus_of_messages_is_survived() {
        play("vhost_user", protocol);
    }

    #[test]
    fn the_corpus_of_rings_is_survived() {
        play("vring", ring);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn any_messages_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..400)) {
            protocol(&octets);
        }

        #[test]
        fn any_rings_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..600)) {
            ring(&octets);
        }
    }
}
