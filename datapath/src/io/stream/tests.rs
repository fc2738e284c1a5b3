//! Queues of stream ports against a peer that the test itself is, without a worker: called when their readiness says so.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use switch_core::verdict::DropReason;

use super::framing::LONGEST;
use super::*;
use crate::Event;
use crate::events::Events;

/// How long something may take that happens at once.
const BOUND: Duration = Duration::from_secs(20);

struct World {
    events: Arc<Events>,
    queue: Box<dyn Queue>,
    pool: Pool,
    poller: Poller,
    received: Vec<Vec<u8>>,
    faults: usize,
}

impl World {
    fn new(socket: &Path, mode: SocketMode) -> Self {
        let events = Arc::new(Events::new(Box::new(|| {})));
        let spec = StreamSpec {
            socket: socket.to_owned(),
            mode,
        };
        let queue = open(&spec, PeerSink::new(&events)).unwrap().swap_remove(0);
        let poller = Poller::new(1).unwrap();
        poller.add(queue.readiness(), 0).unwrap();
        Self {
            events,
            queue,
            pool: Pool::new(3 * BATCH),
            poller,
            received: Vec::new(),
            faults: 0,
        }
    }

    /// Serves the owner each time it is ready, until the condition holds.
    fn serve_until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        while !condition(self) {
            assert!(begin.elapsed() < BOUND, "{what} does not happen");
            self.poller.wait(Some(Duration::from_millis(50))).unwrap();
            if self.poller.len() > 0 {
                self.serve();
            }
        }
    }

    fn serve(&mut self) {
        let mut batch = Vec::new();
        self.queue.receive(&mut self.pool, &mut batch).unwrap();
        assert!(batch.len() <= BATCH);
        for frame in batch {
            self.faults += usize::from(frame.fault.is_some());
            self.received.push(frame.bytes().to_vec());
            frame.release(&mut self.pool);
        }
    }

    /// The next word on the peer.
    fn peer(&mut self) -> Peer {
        let mut told = None;
        self.serve_until("the peer's coming or going", |world| {
            if let Some(Event::Peer { state, .. }) = world.events.take() {
                told = Some(state);
            }
            told.is_some()
        });
        told.unwrap()
    }

    fn absent(&mut self) -> String {
        match self.peer() {
            Peer::Absent(reason) => reason,
            Peer::Present(_) => panic!("the peer is there"),
        }
    }

    /// Sends frames; which of them went.
    fn send(&mut self, frames: &[Vec<u8>]) -> Vec<Result<(), DropReason>> {
        let mut outcomes = Vec::new();
        for frames in frames.chunks(BATCH) {
            let mut batch = Vec::new();
            let mut outgoing = Vec::new();
            for (index, bytes) in frames.iter().enumerate() {
                let mut chunk = self.pool.take().unwrap();
                chunk[HEADROOM..HEADROOM + bytes.len()].copy_from_slice(bytes);
                batch.push(Frame::new(chunk, HEADROOM, bytes.len()));
                outgoing.push(Outgoing {
                    frame: index as u16,
                    tag: None,
                    sole: false,
                    outcome: Ok(()),
                });
            }
            self.queue.transmit(&mut batch, &mut outgoing);
            outcomes.extend(
                outgoing
                    .iter()
                    .map(|item| item.outcome.map_err(|failure| failure.reason)),
            );
            batch.into_iter().for_each(|frame| frame.release(&mut self.pool));
        }
        outcomes
    }
}

/// A frame of so many octets that tells its number.
fn frame(number: usize, len: usize) -> Vec<u8> {
    let mut frame = vec![(number % 251) as u8; len];
    frame[..8].copy_from_slice(&(number as u64).to_be_bytes());
    frame
}

fn number(frame: &[u8]) -> usize {
    let number = u64::from_be_bytes(frame[..8].try_into().unwrap()) as usize;
    assert!(frame[8..].iter().all(|octet| *octet == (number % 251) as u8));
    number
}

fn on_wire(frames: &[Vec<u8>]) -> Vec<u8> {
    frames
        .iter()
        .flat_map(|frame| [&(frame.len() as u32).to_be_bytes()[..], frame].concat())
        .collect()
}

/// Reads one frame.
fn read_frame(stream: &mut UnixStream) -> Vec<u8> {
    let mut length = [0; LENGTH];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).unwrap();
    frame
}

/// A port that listens, and its peer.
fn connected(dir: &Path) -> (World, UnixStream) {
    let path = dir.join("vm.sock");
    let mut world = World::new(&path, SocketMode::Server);
    let peer = UnixStream::connect(&path).unwrap();
    peer.set_read_timeout(Some(BOUND)).unwrap();
    peer.set_write_timeout(Some(BOUND)).unwrap();
    assert_eq!(world.peer(), Peer::Present(String::new()));
    (world, peer)
}

#[test]
fn frames_go_both_ways_in_whatever_pieces_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, mut peer) = connected(dir.path());
    let frames: Vec<_> = [60, 1514, 9018, 14, 61]
        .iter()
        .enumerate()
        .map(|(n, len)| frame(n, *len))
        .collect();
    let wire = on_wire(&frames);
    for piece in wire.chunks(997) {
        peer.write_all(piece).unwrap();
        // Called for nothing, it does nothing.
        world.serve();
    }
    world.serve_until("all frames", |world| world.received.len() == frames.len());
    assert_eq!(world.received, frames);

    assert_eq!(world.send(&frames), [Ok(()); 5]);
    for frame in &frames {
        assert_eq!(read_frame(&mut peer), *frame);
    }
}

#[test]
fn more_frames_than_a_batch_are_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, mut peer) = connected(dir.path());
    let frames: Vec<_> = (0..1000).map(|n| frame(n, 60)).collect();
    peer.write_all(&on_wire(&frames)).unwrap();
    world.serve_until("all frames", |world| world.received.len() == frames.len());
    assert_eq!(world.received, frames);
    // Then it is quiet: an idle port costs nothing.
    world.poller.wait(Some(Duration::ZERO)).unwrap();
    assert_eq!(world.poller.len(), 0);
}

#[test]
fn a_frame_that_is_too_long_for_the_switch_costs_itself_only() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, mut peer) = connected(dir.path());
    let frames = [frame(0, LONGEST), frame(1, 60)];
    let wire = on_wire(&frames);
    let writer = std::thread::spawn(move || peer.write_all(&wire).map(|()| peer));
    world.serve_until("both frames", |world| world.received.len() == 2);
    assert_eq!(world.faults, 1);
    assert_eq!(world.received[0].len(), MAX_FRAME);
    assert_eq!(world.received[1], frames[1]);
    drop(writer.join().unwrap().unwrap());
}

#[test]
fn a_length_that_no_frame_has_ends_the_connection_and_the_next_may_come() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, mut peer) = connected(dir.path());
    for garbage in [&b"\0\0\0\0"[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 100_000]] {
        let good = frame(7, 60);
        peer.write_all(&on_wire(std::slice::from_ref(&good))).unwrap();
        // The switch may be quicker than our writing.
        let _ = peer.write_all(garbage);
        let reason = world.absent();
        assert!(reason.contains("announced a frame of"), "{reason}");
        assert_eq!(world.received.pop().as_ref(), Some(&good));
        assert_eq!(world.send(&[good]), [Err(DropReason::TxPortDown)]);
        peer = UnixStream::connect(dir.path().join("vm.sock")).unwrap();
        assert_eq!(world.peer(), Peer::Present(String::new()));
    }
}

#[test]
fn half_a_frame_is_forgotten_with_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, mut peer) = connected(dir.path());
    peer.write_all(&on_wire(&[frame(1, 100)])[..50]).unwrap();
    drop(peer);
    assert!(world.absent().contains("closed"));
    let mut peer = UnixStream::connect(dir.path().join("vm.sock")).unwrap();
    assert_eq!(world.peer(), Peer::Present(String::new()));
    let whole = frame(2, 100);
    peer.write_all(&on_wire(std::slice::from_ref(&whole))).unwrap();
    world.serve_until("the frame", |world| !world.received.is_empty());
    assert_eq!(world.received, [whole]);
}

/// Reads frames until `count` have come.
fn reader(mut peer: UnixStream, count: usize) -> std::thread::JoinHandle<Vec<usize>> {
    std::thread::spawn(move || (0..count).map(|_| number(&read_frame(&mut peer))).collect())
}

#[test]
fn who_reads_too_slowly_loses_whole_frames_and_no_parts_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, peer) = connected(dir.path());
    let mut went = Vec::new();
    let mut sent = 0;
    // Several rounds: full, emptied in part, full again.
    for _ in 0..3 {
        let mut lost = 0;
        while lost < 100 {
            let frames: Vec<_> = (sent..sent + 40).map(|n| frame(n, 100 + n % 9000)).collect();
            for outcome in world.send(&frames) {
                match outcome {
                    Ok(()) => went.push(sent),
                    Err(reason) => {
                        assert_eq!(reason, DropReason::TxQueueFull);
                        lost += 1;
                    }
                }
                sent += 1;
            }
        }
        let read = reader(peer.try_clone().unwrap(), went.len());
        // The rest of the frame that was cut goes when there is room, without another frame's coming.
        world.serve_until("all that went is read", |_| read.is_finished());
        assert_eq!(read.join().unwrap(), went);
        went.clear();
    }
    assert_eq!(world.events.take(), None);
}

#[test]
fn a_second_connection_is_turned_away_and_the_first_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (mut world, mut peer) = connected(dir.path());
    let mut second = UnixStream::connect(dir.path().join("vm.sock")).unwrap();
    second.set_nonblocking(true).unwrap();
    world.serve_until("its end", |_| matches!(second.read(&mut [0; 1]), Ok(0)));
    let kept = frame(3, 60);
    peer.write_all(&on_wire(std::slice::from_ref(&kept))).unwrap();
    world.serve_until("the frame", |world| !world.received.is_empty());
    assert_eq!(world.received, [kept]);
    assert_eq!(world.events.take(), None);
}

#[test]
fn a_client_finds_its_peer_whenever_that_comes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vm.sock");
    let mut world = World::new(&path, SocketMode::Client);
    assert!(world.absent().contains("there is no such socket"));
    for round in 0..2 {
        let listener = UnixListener::bind(&path).unwrap();
        assert_eq!(world.peer(), Peer::Present(String::new()));
        let (mut peer, _) = listener.accept().unwrap();
        let sent = frame(round, 60);
        peer.write_all(&on_wire(std::slice::from_ref(&sent))).unwrap();
        world.serve_until("the frame", |world| world.received.pop() == Some(sent.clone()));
        drop((listener, peer));
        assert!(world.absent().contains("closed"));
        let reason = world.absent();
        assert!(
            reason.ends_with(&format!("nobody listens on {}", path.display())),
            "{reason}"
        );
        std::fs::remove_file(&path).unwrap();
        assert!(world.absent().contains("there is no such socket"));
    }
}

#[test]
fn the_file_goes_with_the_port() {
    let dir = tempfile::tempdir().unwrap();
    let (world, _peer) = connected(dir.path());
    assert!(dir.path().join("vm.sock").exists());
    drop(world);
    assert!(!dir.path().join("vm.sock").exists());
}
