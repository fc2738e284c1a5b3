//! Several workers: frames between them come in order, are all accounted for and starve nobody, while queues move, ports come and go, and
//! workers panic.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

use datapath::io::BATCH;
use datapath::{Datapath, Placement};
use support::channel::{Outside, PANIC, channel_queues, shared_queues};
use support::{frame, id, port, snapshot, start_workers, wait_until};
use switch_core::verdict::DropReason;
use switch_core::vlan::VlanPolicy;

/// A port for each station: station `n + 1` is behind port `n`.
fn publish(datapath: &Datapath, ports: u16) {
    let ports = (0..ports).map(|number| port(number, VlanPolicy::Unaware));
    datapath.publish(snapshot(1, ports.collect()));
}

/// Ports with a queue each, the first on the first worker and so on.
fn one_per_worker(datapath: &Datapath, ports: usize) -> Vec<Outside> {
    let outsides = (0..ports).map(|number| {
        let (queues, outside) = channel_queues(1);
        let placement = Placement::Pinned(vec![number % datapath.workers()]);
        datapath.attach_to(id(number as u16), queues, &placement);
        outside
    });
    let outsides = outsides.collect();
    publish(datapath, ports as u16);
    outsides
}

/// Each station says that it is there; takes what that sends to the ports.
fn introduce(outsides: &[Outside]) {
    for (number, outside) in outsides.iter().enumerate() {
        outside.send(0, [frame(0, number as u8 + 1)]);
        for other in (0..outsides.len()).filter(|other| *other != number) {
            assert_eq!(outsides[other].next().1, frame(0, number as u8 + 1));
        }
    }
}

/// A frame of a flow with a number in it.
fn numbered(destination: u8, source: u8, flow: u8, number: u32) -> Vec<u8> {
    let mut frame = frame(destination, source);
    frame[24..28].copy_from_slice(&number.to_be_bytes());
    frame[5] = destination;
    frame[28] = flow;
    frame
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[24..28].try_into().unwrap())
}

/// Received frames and copies, and sent and dropped ones.
fn sums(datapath: &Datapath, ports: usize) -> (u64, u64) {
    let copies: u64 = datapath
        .worker_stats()
        .iter()
        .map(|worker| worker.flood_copies)
        .sum();
    let stats: Vec<_> = (0..ports)
        .map(|port| datapath.port_stats(id(port as u16)))
        .collect();
    let received: u64 = stats.iter().map(|stats| stats.receive.packets).sum();
    let left = stats
        .iter()
        .map(|stats| stats.transmit.packets + stats.drops.iter().sum::<u64>());
    (received + copies, left.sum())
}

fn drops(datapath: &Datapath, port: u16, reason: DropReason) -> u64 {
    datapath.port_stats(id(port)).drops[reason.index()]
}

#[test]
fn frames_between_workers_come_in_order_and_add_up() {
    const ROUNDS: u32 = 200;
    const BURST: u32 = 20;
    for workers in 2..=4 {
        let datapath = start_workers(workers);
        // More ports than workers: some pairs share one.
        let ports = workers + 1;
        let outsides = one_per_worker(&datapath, ports);
        introduce(&outsides);
        let pairs = || (0..ports).flat_map(|from| (0..ports).map(move |to| (from, to)));
        let mut next: HashMap<(u8, u8), u32> = HashMap::new();
        for round in 0..ROUNDS {
            for (from, to) in pairs().filter(|(from, to)| from != to) {
                let numbers = round * BURST..(round + 1) * BURST;
                let frames = numbers.map(|number| numbered(to as u8 + 1, from as u8 + 1, 0, number));
                outsides[from].send(0, frames);
            }
            // A flood among them.
            outsides[0].send(0, [frame(0, 1)]);
            for (to, outside) in outsides.iter().enumerate() {
                let expected = BURST as usize * (ports - 1) + usize::from(to > 0);
                for _ in 0..expected {
                    let (_, frame) = outside.next();
                    if frame[0] == 0xff {
                        continue;
                    }
                    let next = next.entry((frame[11], frame[5])).or_default();
                    assert_eq!(number(&frame), *next, "{workers} workers");
                    *next += 1;
                }
            }
        }
        assert_eq!(next.len(), ports * (ports - 1));
        wait_until("the counters of the last frames", || {
            let (came, left) = sums(&datapath, ports);
            came == left
        });
        assert!(
            datapath
                .worker_stats()
                .iter()
                .all(|worker| worker.handed_over > 0)
        );
    }
}

#[test]
fn a_full_way_to_another_worker_is_a_drop_of_its_own_and_starves_nobody() {
    const SENT: usize = 3000;
    let datapath = start_workers(2);
    let outsides = one_per_worker(&datapath, 3);
    introduce(&outsides);
    let gate = outsides[1].gate.lock().unwrap();
    let burst = |from: usize| (from..from + 100).map(|number| numbered(2, 1, 0, number as u32));
    for from in (0..SENT).step_by(100) {
        outsides[0].send(0, burst(from));
    }
    wait_until("all was received", || {
        datapath.port_stats(id(0)).receive.packets == SENT as u64 + 1
    });
    wait_until("drops", || drops(&datapath, 1, DropReason::WorkerQueueFull) > 0);
    // Port 2 is on the first worker as port 0 is, whose buffers are lent as far as they may be.
    for _ in 0..100 {
        outsides[0].send(0, (0..BATCH as u32).map(|number| numbered(3, 1, 0, number)));
        for expected in 0..BATCH as u32 {
            assert_eq!(number(&outsides[2].next().1), expected);
        }
    }
    drop(gate);
    wait_until("what was on its way", || {
        let (came, left) = sums(&datapath, 3);
        came == left
    });
    let dropped = drops(&datapath, 1, DropReason::WorkerQueueFull);
    let arrived: Vec<u32> = outsides[1]
        .sent
        .try_iter()
        .map(|(_, frame)| number(&frame))
        .collect();
    assert_eq!(arrived.len() as u64 + dropped, SENT as u64);
    assert!(arrived.is_sorted_by(|a, b| a < b), "in order, with gaps");
    assert_eq!(drops(&datapath, 1, DropReason::NoBuffer), 0);
    // And on: everything has come back.
    for _ in 0..100 {
        outsides[0].send(0, burst(0));
        for expected in 0..100 {
            assert_eq!(number(&outsides[1].next().1), expected);
        }
    }
}

#[test]
fn a_queue_moves_under_traffic_without_loss_or_reordering() {
    const FRAMES: u32 = 30_000;
    const UNDER_WAY: u32 = 100;
    for (workers, arrived) in (2..=3).zip(&ARRIVED) {
        let datapath = start_workers(workers);
        let outsides = one_per_worker(&datapath, 3);
        introduce(&outsides);
        let (there, stop) = (&outsides, &AtomicBool::new(false));
        std::thread::scope(|scope| {
            let flows = [(0usize, 1usize), (1, 0), (2, 0), (1, 2)];
            for (flow, (from, to)) in flows.into_iter().enumerate() {
                scope.spawn(move || {
                    // At most so many under way, so that nothing has to be dropped: the test counts what arrives.
                    for sent in (0..FRAMES).step_by(UNDER_WAY as usize) {
                        let numbers = sent..sent + UNDER_WAY;
                        there[from].send(
                            0,
                            numbers.map(|number| numbered(to as u8 + 1, from as u8 + 1, flow as u8, number)),
                        );
                        wait_until("the burst", || arrived[flow].load(Relaxed) >= sent + UNDER_WAY);
                    }
                });
            }
            for outside in there {
                scope.spawn(move || {
                    while !stop.load(Relaxed) {
                        if let Ok((_, frame)) =
                            outside.sent.recv_timeout(std::time::Duration::from_millis(10))
                        {
                            let arrived = &arrived[usize::from(frame[28])];
                            assert_eq!(number(&frame), arrived.load(Relaxed), "flow {}", frame[28]);
                            arrived.store(number(&frame) + 1, Relaxed);
                        }
                    }
                });
            }
            let mut moves = 0;
            let start = std::time::Instant::now();
            while (0..4).any(|flow| arrived[flow].load(Relaxed) < FRAMES) {
                if start.elapsed().as_secs() > 60 {
                    stop.store(true, Relaxed);
                    panic!("the flows stand still at {arrived:?}");
                }
                for port in 0..3 {
                    let to = (moves + port) % workers;
                    datapath.place(id(port as u16), &Placement::Pinned(vec![to]));
                    assert_eq!(datapath.queue_stats(id(port as u16))[0].worker, to);
                }
                moves += 1;
            }
            stop.store(true, Relaxed);
            assert!(moves > 10, "{moves} moves");
        });
        let (came, left) = sums(&datapath, 3);
        assert_eq!(came, left);
        for port in 0..3 {
            assert_eq!(datapath.port_stats(id(port)).drops.iter().sum::<u64>(), 0);
        }
    }
}

/// Frames of each flow that have arrived, by number of workers.
static ARRIVED: [[AtomicU32; 4]; 2] = [const { [const { AtomicU32::new(0) }; 4] }; 2];

#[test]
fn a_queue_that_shares_memory_moves_while_it_is_awake() {
    let datapath = start_workers(2);
    let (queues, guest) = shared_queues(1);
    datapath.attach_to(id(0), queues, &Placement::Pinned(vec![0]));
    let (queues, station) = channel_queues(1);
    datapath.attach_to(id(1), queues, &Placement::Pinned(vec![0]));
    publish(&datapath, 2);
    let outsides = [guest, station];
    introduce(&outsides);
    let [guest, station] = &outsides;
    for round in 0..100 {
        let frames = |first: u32| (first..first + 8).map(|number| numbered(2, 1, 0, number));
        guest.send(0, frames(0));
        for expected in 0..8 {
            assert_eq!(number(&station.next().1), expected);
        }
        // It was just asked, and is asked again for a while.
        datapath.place(id(0), &Placement::Pinned(vec![(round + 1) % 2]));
    }
}

#[test]
fn a_port_with_several_queues_is_sent_to_by_all_and_each_flow_by_one() {
    let datapath = start_workers(4);
    let (queues, first) = channel_queues(1);
    datapath.attach_to(id(0), queues, &Placement::Pinned(vec![3]));
    // Two workers have a queue of it, one of them two.
    let (queues, many) = channel_queues(3);
    datapath.attach_to(id(1), queues, &Placement::Pinned(vec![0, 1, 0]));
    publish(&datapath, 2);
    // UDP of one station, from many of its ports.
    let flow = |source: u8, number: u8| {
        let mut frame = frame(0, 1);
        frame[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        frame[16..22].copy_from_slice(&[0, 50, 0, 0, 0, 0]);
        frame[23] = 17;
        frame[34..36].copy_from_slice(&[0, source]);
        frame[42] = number;
        frame
    };
    let rounds = |count: u8, seen: &mut HashMap<u8, usize>| {
        let mut next = HashMap::new();
        for number in 0..count {
            first.send(0, (1..=40).map(|source| flow(source, number)));
        }
        for _ in 0..u32::from(count) * 40 {
            let (queue, frame) = many.next();
            assert_eq!(
                *seen.entry(frame[35]).or_insert(queue),
                queue,
                "a flow has one queue"
            );
            let next = next.entry(frame[35]).or_insert(0);
            assert_eq!(frame[42], *next, "and is in order");
            *next += 1;
        }
        assert_eq!(next.len(), 40);
    };
    let mut seen = HashMap::new();
    rounds(6, &mut seen);
    for queue in 0..3 {
        assert!(seen.values().any(|used| *used == queue), "queue {queue} is used");
    }
    // A queue that takes none is left out; it looks when its readiness shows.
    many.takes[1].store(false, Relaxed);
    many.send(1, [frame(0, 2)]);
    first.next();
    let mut seen = HashMap::new();
    rounds(5, &mut seen);
    assert!(seen.values().all(|used| *used != 1));
    for queue in [0, 2] {
        many.takes[queue].store(false, Relaxed);
        many.send(queue, [frame(0, 2)]);
        first.next();
    }
    first.send(0, [frame(0, 1)]);
    wait_until("the drop", || drops(&datapath, 1, DropReason::TxPortDown) == 1);
}

#[test]
fn automatic_placement_uses_all_workers() {
    let datapath = start_workers(3);
    let mut outsides = Vec::new();
    for number in 0..6 {
        let (queues, outside) = channel_queues(1);
        datapath.attach(id(number), queues);
        outsides.push(outside);
    }
    let mut workers: Vec<usize> = (0..6)
        .map(|port| datapath.queue_stats(id(port))[0].worker)
        .collect();
    workers.sort_unstable();
    assert_eq!(workers, [0, 0, 1, 1, 2, 2]);
    let (queues, _outside) = channel_queues(3);
    datapath.attach(id(6), queues);
    let mut workers: Vec<usize> = datapath
        .queue_stats(id(6))
        .iter()
        .map(|queue| queue.worker)
        .collect();
    workers.sort_unstable();
    assert_eq!(workers, [0, 1, 2]);
    assert_eq!(datapath.rebalance(), None, "nobody is short of time");
}

#[test]
fn a_panic_of_the_sending_worker_gives_the_buffers_back() {
    let datapath = start_workers(2);
    let outsides = one_per_worker(&datapath, 2);
    introduce(&outsides);
    let mut deadly = frame(2, 1);
    deadly[20] = PANIC;
    for restarts in 1..=50 {
        outsides[0].send(0, std::iter::repeat_n(deadly.clone(), BATCH));
        wait_until("a restart", || datapath.worker_stats()[1].restarts >= restarts);
    }
    // The lane is as deep as ever and nothing is dropped for want of a buffer.
    wait_until("the last of the deadly frames", || {
        let before = datapath.worker_stats()[1].restarts;
        outsides[0].send(0, [numbered(2, 1, 0, 7)]);
        outsides[1]
            .sent
            .recv_timeout(std::time::Duration::from_secs(1))
            .is_ok()
            && datapath.worker_stats()[1].restarts == before
    });
    for _ in 0..200 {
        outsides[0].send(0, (0..100).map(|number| numbered(2, 1, 0, number)));
        for expected in 0..100 {
            assert_eq!(number(&outsides[1].next().1), expected);
        }
    }
    assert_eq!(drops(&datapath, 1, DropReason::NoBuffer), 0);
    assert_eq!(drops(&datapath, 1, DropReason::WorkerQueueFull), 0);
    assert_eq!(datapath.worker_stats()[0].restarts, 0);
}

/// A worker listens to new queues a few at a time; who asked for them has them all afterwards.
#[test]
fn many_ports_at_once_are_all_heard() {
    let datapath = start_workers(1);
    for ports in [2, 15, 16, 17, 32, 100] {
        let mut outsides: Vec<Outside> = Vec::new();
        for number in 0..ports {
            let (queues, outside) = channel_queues(1);
            datapath.attach(id(number), queues);
            outsides.push(outside);
        }
        publish(&datapath, ports);
        // Some go, and their slots to others, that come while the rest is perhaps still to be heard.
        let gone: Vec<_> = (0..ports).step_by(3).map(id).collect();
        gone.into_iter().for_each(|port| datapath.detach(port));
        for number in (0..ports).step_by(3) {
            let (queues, outside) = channel_queues(1);
            datapath.attach(id(number), queues);
            outsides[usize::from(number)] = outside;
        }
        for number in 1..ports {
            let source = number as u8;
            outsides[usize::from(number)].send(0, [frame(0xff, source)]);
            while outsides[0].next().1[11] != source {}
        }
        let all: Vec<_> = (0..ports).map(id).collect();
        all.into_iter().for_each(|port| datapath.detach(port));
        assert_eq!(datapath.worker_stats()[0].restarts, 0, "{ports} ports");
    }
}

#[test]
fn ports_come_and_go_while_others_work() {
    let datapath = start_workers(2);
    let outsides = one_per_worker(&datapath, 2);
    introduce(&outsides);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut rounds = 0;
            while !stop.load(Relaxed) {
                outsides[0].send(0, (0..100).map(|number| numbered(2, 1, 0, number)));
                // The others' floods come between.
                let own = std::iter::repeat_with(|| outsides[1].next().1).filter(|frame| frame[0] != 0xff);
                for (expected, frame) in (0..100).zip(own) {
                    assert_eq!(number(&frame), expected);
                }
                rounds += 1;
            }
            rounds
        });
        let mut closed = Vec::new();
        for generation in 0..50 {
            let mut guests = Vec::new();
            for number in 2..10 {
                let (queues, outside) = channel_queues(1 + generation % 3);
                datapath.attach(id(number), queues);
                guests.push(outside);
            }
            let all = (0..10).map(|number| port(number, VlanPolicy::Unaware)).collect();
            let before = datapath.snapshot();
            let with_tables = |ports: Vec<_>| {
                std::sync::Arc::new(switch_core::snapshot::Snapshot::new(
                    generation as u64,
                    before.switches().to_vec(),
                    ports,
                ))
            };
            datapath.publish(with_tables(all));
            guests[0].send(0, [frame(0, 50)]);
            guests[5].next();
            let left = (0..2).map(|number| port(number, VlanPolicy::Unaware)).collect();
            datapath.publish(with_tables(left));
            let gone: Vec<_> = (2..10).map(id).collect();
            let closings = datapath.retire(&gone);
            for port in gone {
                datapath.reset_stats(port);
                assert_eq!(datapath.port_stats(port), Default::default());
                assert!(datapath.queue_stats(port).is_empty());
            }
            closed.push((closings, guests));
            // The floods to the two that stay.
            while outsides[0].sent.try_recv().is_ok() {}
        }
        for (closings, guests) in closed {
            for (closing, guest) in closings.iter().zip(&guests) {
                closing.wait();
                assert!(closing.is_done() && guest.is_closed(0));
            }
        }
        stop.store(true, Relaxed);
        assert!(traffic.join().unwrap() > 0);
    });
}
