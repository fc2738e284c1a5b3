//! Front-ends of vhost-user that break the rules: each loses its own port, the reason is in the port list, everyone else's frames go on, and
//! a good front-end has the port back.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use switch_core::addr::MacAddr;
use vswitch_tests::frame::{Random, frame, mac};
use vswitch_tests::lab::Lab;
use vswitch_tests::vhost::{
    FROM_GUEST, FrontEnd, GUEST, INDIRECT, MEMORY, NEXT, SIZE, TO_GUEST, USER, WRITE, available, buffer,
    descriptors, eventfd, region, request, used,
};
use vswitch_tests::wait::{BOUND, wait_for, wait_until};

/// Two good front-ends and a bad one, and a switch that listens for them.
fn start(lab: &Lab) -> [PathBuf; 3] {
    let paths = ["a", "b", "bad"].map(|name| lab.path(&format!("{name}.sock")));
    let [a, b, bad] = paths.each_ref().map(|path| path.display());
    // One worker, so that who makes it wait makes all wait.
    lab.start(&format!(
        "version: 1
workers: {{ count: 1 }}
switches:
  vs0:
    port-groups:
      lan: {{}}
    ports:
      a: {{ port-group: lan, vhost-user: {}, mode: server, mac: \"{}\" }}
      b: {{ port-group: lan, vhost-user: {}, mode: server, mac: \"{}\" }}
      bad: {{ port-group: lan, vhost-user: {}, mode: server, mac: \"{}\" }}
",
        a,
        mac(1),
        b,
        mac(2),
        bad,
        mac(3)
    ));
    paths
}

/// A frame from one to the other; again where floods have filled the other's ring.
fn deliver(from: &mut FrontEnd, to: &mut FrontEnd, frame: &[u8], mark: u32) {
    wait_for("a frame arrives", BOUND, || {
        from.transmit(frame);
        (0..100).find_map(|_| {
            std::thread::yield_now();
            to.try_receive(mark)
        })
    });
    // Its own ring has room again too.
    from.try_receive(0);
}

/// Runs an attack while the good ones exchange frames; they have to get on.
fn beside_traffic(a: &mut FrontEnd, b: &mut FrontEnd, attack: impl FnOnce()) {
    /// Ends the traffic also when the attack panics.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (ended, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut mark = 0;
            while !ended.load(Ordering::Relaxed) || mark < 20 {
                mark += 2;
                deliver(a, b, &frame(mac(2), mac(1), &[], mark), mark);
                deliver(b, a, &frame(mac(1), mac(2), &[], mark + 1), mark + 1);
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let _end = End(&ended);
        attack();
        let so_far = rounds.load(Ordering::Relaxed);
        wait_until("the others' frames go on", BOUND, || {
            rounds.load(Ordering::Relaxed) > so_far + 1
        });
    });
}

/// A good front-end takes the port: frames from and to it arrive.
fn is_well(lab: &Lab, path: &Path) {
    let mut guest = FrontEnd::running(path);
    lab.wait_up("bad");
    guest.transmit(&frame(MacAddr::BROADCAST, mac(3), &[], 1));
    assert_eq!(lab.mac_port(&mac(3).to_string(), None).as_deref(), Some("bad"));
    drop(guest);
    assert!(lab.wait_down("bad").contains("closed"));
}

/// A way to break the rules, and what the port list says of it.
type Attack = (&'static str, fn(&Path) -> FrontEnd);

fn bad_descriptor(path: &Path, number: u16, at: u64, len: u32, flags: u16, next: u16) -> FrontEnd {
    let mut guest = FrontEnd::running(path);
    guest.offer(FROM_GUEST, number, at, len, flags, next);
    guest.kick(FROM_GUEST);
    guest
}

fn with_regions(path: &Path, regions: &[(u64, u64, u64, u64)]) -> FrontEnd {
    let guest = FrontEnd::connect(path);
    guest.negotiate();
    let regions: Vec<(Vec<u8>, RawFd)> = regions
        .iter()
        .map(|&(guest_at, len, user, offset)| (region(guest_at, len, user, offset), guest.file()))
        .collect();
    guest.share_as(&regions);
    guest
}

const ATTACKS: &[Attack] = &[
    ("outside of the guest's memory", |path| {
        bad_descriptor(path, 0, MEMORY, 100, 0, 0)
    }),
    ("outside of the guest's memory", |path| {
        bad_descriptor(path, 0, MEMORY - 10, 100, 0, 0)
    }),
    ("outside of the guest's memory", |path| {
        bad_descriptor(path, 0, 0u64.wrapping_sub(GUEST), u32::MAX, 0, 0)
    }),
    ("longer than the ring", |path| {
        bad_descriptor(path, 5, buffer(1, 0), 60, NEXT, 5)
    }),
    ("beyond the ring", |path| {
        bad_descriptor(path, 5, buffer(1, 0), 60, NEXT, SIZE)
    }),
    ("beyond the ring", |path| {
        let mut guest = FrontEnd::running(path);
        guest.announce(FROM_GUEST, SIZE);
        guest.kick(FROM_GUEST);
        guest
    }),
    ("wrong direction", |path| {
        bad_descriptor(path, 0, buffer(1, 0), 60, WRITE, 0)
    }),
    ("malformed", |path| {
        bad_descriptor(path, 0, buffer(1, 0), 17, INDIRECT, 0)
    }),
    ("malformed", |path| {
        bad_descriptor(path, 0, buffer(1, 0), 32, INDIRECT | NEXT, 1)
    }),
    ("runs ahead", |path| {
        let guest = FrontEnd::running(path);
        guest.set_available(FROM_GUEST, SIZE + 1);
        guest.kick(FROM_GUEST);
        guest
    }),
    ("taken away", |path| {
        let mut guest = FrontEnd::running(path);
        guest.transmit(&frame(MacAddr::BROADCAST, mac(3), &[], 1));
        guest.memory.set_len(0).expect("it is our memory");
        guest.kick(FROM_GUEST);
        guest
    }),
    ("taken away", |path| {
        let mut guest = FrontEnd::running(path);
        guest.transmit(&frame(MacAddr::BROADCAST, mac(3), &[], 1));
        // The buffers go, the rings stay.
        let number = 1;
        guest.offer(FROM_GUEST, number, buffer(FROM_GUEST, number), 2000, 0, 0);
        guest
            .memory
            .set_len(descriptors(FROM_GUEST) + 0x10000)
            .expect("it is our memory");
        guest.kick(FROM_GUEST);
        guest
    }),
    ("longer than its file", |path| {
        with_regions(path, &[(GUEST, MEMORY + 1, USER, 0)])
    }),
    ("longer than its file", |path| {
        with_regions(path, &[(GUEST, MEMORY, USER, 0x1000)])
    }),
    ("overlap", |path| {
        with_regions(
            path,
            &[
                (GUEST, 0x2000, USER, 0),
                (GUEST + 0x1000, 0x2000, USER + 0x10000, 0x2000),
            ],
        )
    }),
    ("overlap", |path| {
        with_regions(
            path,
            &[(GUEST, 0x2000, USER, 0), (GUEST + 0x10000, 0x2000, USER, 0x2000)],
        )
    }),
    ("broke the protocol", |path| {
        with_regions(path, &[(u64::MAX - 10, 0x2000, USER, 0)])
    }),
    ("no eventfd", |path| {
        let mut guest = FrontEnd::connect(path);
        guest.negotiate();
        guest.share();
        let (_reader, writer) = std::io::pipe().expect("a pipe can be made");
        guest.send(
            request::SET_VRING_CALL,
            &0u64.to_ne_bytes(),
            &[writer.as_raw_fd()],
        );
        guest.start(TO_GUEST);
        guest
    }),
    ("no eventfd", |path| {
        // Always readable, for ever.
        let guest = FrontEnd::connect(path);
        guest.negotiate();
        guest.share();
        let epoll = Epoll::new(EpollCreateFlags::empty()).expect("an epoll set can be made");
        let number = (FROM_GUEST as u64).to_ne_bytes();
        guest.send(request::SET_VRING_KICK, &number, &[epoll.0.as_raw_fd()]);
        guest
    }),
    ("a buffer is empty", |path| {
        bad_descriptor(path, 0, buffer(FROM_GUEST, 0), 0, NEXT, 1)
    }),
    ("may keep its readers waiting", |path| {
        let guest = FrontEnd::connect(path);
        guest.negotiate();
        // Who reads it waits for somebody else, as with FUSE.
        let file = fs::File::open("/proc/version").expect("all may read it");
        guest.share_as(&[(region(GUEST, 0x1000, USER, 0), file.as_raw_fd())]);
        guest
    }),
    ("broke the protocol", |path| {
        // Descriptors with a message that has none.
        let guest = FrontEnd::connect(path);
        assert!(guest.try_send(request::SET_OWNER, 1, &[], &[guest.file(); 5]));
        guest
    }),
    ("broke the protocol", |path| {
        let guest = FrontEnd::connect(path);
        guest.negotiate();
        guest.send_state(request::SET_VRING_NUM, 0, 3);
        guest
    }),
    ("broke the protocol", |path| {
        let guest = FrontEnd::connect(path);
        guest.negotiate();
        guest.send_state(request::SET_VRING_NUM, 0, 65536);
        guest
    }),
    ("broke the protocol", |path| {
        let guest = FrontEnd::connect(path);
        guest.negotiate();
        guest.send_state(request::SET_VRING_ENABLE, 1000, 1);
        guest
    }),
    ("broke the protocol", |path| {
        // Rings outside of the memory.
        let mut guest = with_regions(path, &[(GUEST, 0x1000, USER, 0)]);
        guest.start(TO_GUEST);
        guest
    }),
    ("broke the protocol", |path| {
        let guest = FrontEnd::connect(path);
        (&guest.stream)
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .expect("the switch reads");
        guest
    }),
    ("broke the protocol", |path| {
        // The body is shorter than it says.
        let guest = FrontEnd::connect(path);
        let words = [request::SET_FEATURES, 1, 8, 0].map(u32::to_ne_bytes).concat();
        guest.try_send_octets(&words, &[]);
        guest
    }),
    ("closed", |path| {
        let guest = FrontEnd::connect(path);
        guest.try_send_octets(&[1, 0, 0, 0, 1, 0], &[]);
        guest
            .stream
            .shutdown(std::net::Shutdown::Write)
            .expect("the connection stands");
        guest
    }),
];

/// What a process has of the system: descriptors, and kB of memory.
fn usage(pid: u32) -> (usize, u64) {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the daemon runs")
        .count();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the daemon runs");
    let memory = status.lines().find_map(|line| {
        line.strip_prefix("VmRSS:")?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    });
    (files, memory.expect("the kernel says how much"))
}

#[test]
fn a_front_end_that_breaks_the_rules_loses_its_port_only() {
    let lab = Lab::new();
    let [a, b, bad] = start(&lab);
    let (mut a, mut b) = (FrontEnd::running(&a), FrontEnd::running(&b));
    lab.wait_up("a");
    lab.wait_up("b");
    let pid = lab.pid();
    let mut before = (0, 0);
    for round in 0..3 {
        for (number, (reason, attack)) in ATTACKS.iter().enumerate() {
            beside_traffic(&mut a, &mut b, || {
                let guest = attack(&bad);
                let mut last = String::new();
                wait_for(
                    &format!("attack {number} is refused for: {reason}"),
                    BOUND,
                    || {
                        let row = lab.port("bad");
                        let now = row["reason"].as_str().unwrap_or_default().to_owned();
                        if now != last {
                            println!("{number}: {} {now}", row["state"]);
                            last = now;
                        }
                        (row["state"] == "down" && last.contains(reason)).then_some(())
                    },
                );
                drop(guest);
                if round == 0 {
                    is_well(&lab, &bad);
                }
            });
        }
        is_well(&lab, &bad);
        // The first round fills what is kept on purpose.
        if round == 0 {
            before = usage(pid);
        }
    }
    // What the commands of the test itself hold for a moment comes and goes.
    wait_until("no descriptors are left behind", BOUND, || {
        usage(pid).0 <= before.0
    });
    let after = usage(pid);
    println!("descriptors and kB of memory after the first round {before:?}, after two more {after:?}");
    assert!(
        after.1 < before.1 + 8192,
        "memory grows from {} kB to {} kB",
        before.1,
        after.1
    );
    survived(&lab, pid);
}

fn survived(lab: &Lab, pid: u32) {
    assert_eq!(lab.pid(), pid);
    let log = lab.log();
    assert!(
        !log.contains("panicked") && !log.contains("internal error"),
        "{log}"
    );
    assert!(log.lines().count() < 3000, "{} lines of log", log.lines().count());
    lab.stop();
}

#[test]
fn what_would_keep_a_worker_waiting_does_not() {
    let lab = Lab::new();
    let [a, b, bad] = start(&lab);
    let (mut a, mut b) = (FrontEnd::running(&a), FrontEnd::running(&b));
    let pid = lab.pid();

    // A counter that is full, of a descriptor whose writers wait.
    let guest = FrontEnd::running(&bad);
    lab.wait_up("bad");
    for call in &guest.calls {
        // Empties it, if it is not empty already.
        let _ = call.read();
        call.write(u64::MAX - 2).expect("there is room");
        fcntl(call, FcntlArg::F_SETFL(OFlag::empty())).expect("it is our eventfd");
    }
    a.transmit(&frame(MacAddr::BROADCAST, mac(1), &[], 1));
    beside_traffic(&mut a, &mut b, || {});
    drop(guest);
    lab.wait_down("bad");

    // Frames in thousands of parts, and buffers of thousands of parts for other's frames.
    let mut guest = FrontEnd::running(&bad);
    for (ring, flags) in [(TO_GUEST, WRITE), (FROM_GUEST, 0)] {
        let table = buffer(ring, 1);
        let mut octets = Vec::new();
        for part in 1..=1000u16 {
            octets.extend((GUEST + buffer(ring, 0)).to_le_bytes());
            octets.extend(1u32.to_le_bytes());
            let next = if part < 1000 { NEXT } else { 0 };
            octets.extend((flags | next).to_le_bytes());
            octets.extend(part.to_le_bytes());
        }
        guest.write(table, &octets);
        for number in 0..SIZE {
            guest.offer(ring, number, table, 16_000, INDIRECT, 0);
        }
        guest.kick(ring);
    }
    beside_traffic(&mut a, &mut b, || {});
    drop(guest);
    lab.wait_down("bad");
    is_well(&lab, &bad);
    survived(&lab, pid);
}

#[test]
fn a_guest_whose_memory_keeps_the_switch_waiting_is_left_alone() {
    /// Octets in which holes are punched: to punch them takes many times what is long for a call.
    const MORE: u64 = 256 << 20;
    let lab = Lab::new();
    let [a, b, bad] = start(&lab);
    let (mut a, mut b) = (FrontEnd::running(&a), FrontEnd::running(&b));
    let pid = lab.pid();
    let mut guest = FrontEnd::connect(&bad);
    guest.negotiate();
    guest.share_more(MORE);
    guest.start(TO_GUEST);
    guest.start(FROM_GUEST);
    lab.wait_up("bad");
    // A frame at the begin of what goes: the switch waits until all is gone.
    let mut sent = 0;
    wait_for("it is told that the port is left alone", 4 * BOUND, || {
        // Page by page, so that they go one by one too.
        for at in (MEMORY..MEMORY + MORE).step_by(4096) {
            guest.write(at, &[1]);
        }
        // Nobody can write to the file while holes are punched, so the switch is only told then.
        // Its front is where it always was, its rest where the holes will be: whoever sends it on would wait for that.
        if guest.used_index(FROM_GUEST) == sent {
            let (head, rest) = (2 * sent % SIZE, (2 * sent + 1) % SIZE);
            let (at, front) = (buffer(FROM_GUEST, 0), frame(mac(1), mac(3), &[], 9));
            guest.write(at, &[&[0; 12], front.as_slice()].concat());
            guest.describe(FROM_GUEST, rest, MEMORY, 1000, 0, 0);
            guest.offer(FROM_GUEST, head, at, 12 + front.len() as u32, NEXT, rest);
            sent += 1;
        }
        let memory = guest.memory.try_clone().expect("a descriptor can be had");
        let hole = std::thread::spawn(move || {
            let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            fallocate(memory, mode, MEMORY as i64, MORE as i64).expect("holes can be punched");
        });
        std::thread::sleep(Duration::from_millis(1));
        guest.kick(FROM_GUEST);
        hole.join().expect("holes can be punched");
        // What is for it meanwhile is dropped; the others have theirs.
        a.transmit(&frame(MacAddr::BROADCAST, mac(1), &[], 1));
        b.transmit(&frame(MacAddr::BROADCAST, mac(2), &[], 2));
        guest.try_receive(0);
        let events = lab.json(&["events"]);
        let told = events
            .as_array()?
            .iter()
            .find(|event| event["kind"] == "left-alone")?;
        println!("{}", told["message"]);
        assert_eq!(told["port"], "bad");
        let dropped = lab.stats().port("bad").drops.get("guest-slow").copied();
        dropped.filter(|frames| *frames > 0)
    });
    let events = lab.json(&["events"]);
    let events = events.as_array().expect("a list").iter();
    let left_alone: Vec<_> = events.filter(|event| event["kind"] == "left-alone").collect();
    assert!(
        left_alone.iter().all(|event| event["port"] == "bad"),
        "{left_alone:?}"
    );
    for port in ["a", "b"] {
        assert_eq!(lab.stats().port(port).drops.get("guest-slow"), None, "at {port}");
    }
    deliver(&mut a, &mut b, &frame(mac(2), mac(1), &[], 3), 3);
    drop(guest);
    lab.wait_down("bad");
    is_well(&lab, &bad);
    survived(&lab, pid);
}

#[test]
fn memory_that_changes_while_it_is_read_harms_nobody() {
    let lab = Lab::new();
    let [a, b, bad] = start(&lab);
    let (mut a, mut b) = (FrontEnd::running(&a), FrontEnd::running(&b));
    let pid = lab.pid();
    let mut random = Random::new(11);
    for _ in 0..20 {
        beside_traffic(&mut a, &mut b, || {
            let mut guest = FrontEnd::running(&bad);
            for number in 0..SIZE {
                let at = buffer(FROM_GUEST, number);
                // Broadcasts, so that the others' rings are written from this memory.
                guest.write(at + 12, &frame(MacAddr::BROADCAST, mac(3), &[], 5));
                guest.offer(FROM_GUEST, number, at, 1500, 0, 0);
            }
            guest.kick(FROM_GUEST);
            for _ in 0..3000 {
                let ring = random.below(2);
                let (start, len) = *random.pick(&[
                    (descriptors(ring), 16 * usize::from(SIZE)),
                    (available(ring), 6 + 2 * usize::from(SIZE)),
                    (used(ring), 6 + 8 * usize::from(SIZE)),
                    (buffer(FROM_GUEST, 0), 0x8000),
                ]);
                let octets = match random.below(3) {
                    0 => random.octets(8),
                    1 => (random.below(SIZE.into()) as u16).to_le_bytes().to_vec(),
                    _ => (GUEST + random.below(MEMORY as usize) as u64)
                        .to_le_bytes()
                        .to_vec(),
                };
                let at = start + random.below(len - octets.len()) as u64 / 2 * 2;
                guest.memory.write_all_at(&octets, at).expect("it is our memory");
                if random.below(50) == 0 {
                    guest.kick(FROM_GUEST);
                }
            }
        });
    }
    is_well(&lab, &bad);
    survived(&lab, pid);
}

#[test]
fn messages_of_any_kind_and_thousands_of_connections_leave_nothing_behind() {
    let lab = Lab::new();
    let [a, b, bad] = start(&lab);
    let (mut a, mut b) = (FrontEnd::running(&a), FrontEnd::running(&b));
    let pid = lab.pid();
    is_well(&lab, &bad);
    let mut random = Random::new(23);
    let mut before = (0, 0);
    for round in 0..3 {
        beside_traffic(&mut a, &mut b, || {
            for _ in 0..40 {
                let guest = FrontEnd::connect(&bad);
                if random.below(4) > 0 {
                    guest.negotiate();
                    guest.share();
                }
                let spare = eventfd();
                for _ in 0..20 {
                    let mut body = match random.below(3) {
                        0 => Vec::new(),
                        1 => [random.below(4) as u64, USER + 0x1000 * random.below(64) as u64]
                            .map(u64::to_ne_bytes)
                            .concat(),
                        _ => {
                            let len = 4 * random.below(30);
                            random.octets(len)
                        }
                    };
                    body.truncate(*random.pick(&[0, 8, 8, 8, 16, 40, 4096]));
                    let files: Vec<RawFd> = (0..*random.pick(&[0, 0, 1, 1, 2, 9, 40]))
                        .map(|_| *random.pick(&[guest.file(), spare.as_raw_fd()]))
                        .collect();
                    let request = random.below(request::LAST as usize + 2) as u32;
                    if !guest.try_send(request, *random.pick(&[1, 1, 1, 9, 5, 0]), &body, &files) {
                        break;
                    }
                }
            }
            for _ in 0..1000 {
                drop(FrontEnd::connect(&bad));
            }
        });
        // Behind all the others.
        let guest = FrontEnd::running(&bad);
        wait_until("the good one has its turn", 4 * BOUND, || {
            lab.port("bad")["state"] == "up"
        });
        drop(guest);
        lab.wait_down("bad");
        if round == 0 {
            before = usage(pid);
        }
    }
    // What the commands of the test itself hold for a moment comes and goes.
    wait_until("no descriptors are left behind", BOUND, || {
        usage(pid).0 <= before.0
    });
    let after = usage(pid);
    println!("descriptors and kB of memory after the first round {before:?}, after two more {after:?}");
    assert!(
        after.1 < before.1 + 8192,
        "memory grows from {} kB to {} kB",
        before.1,
        after.1
    );
    survived(&lab, pid);
}
