//! Data sent between two stations by their kernels' own TCP and UDP, and compared octet by octet.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::frame::Random;
use crate::netns::Namespace;

/// How long one transfer may stand still.
const STALL: Duration = Duration::from_secs(20);

/// Sends `len` random octets over TCP from one station to the other's `address`; they have to arrive as they were sent.
///
/// # Panics
/// If they don't.
pub fn tcp(from: &Namespace, to: &Namespace, address: IpAddr, len: usize) {
    let data = Random::new(len as u64).octets(len);
    let (ready, is_ready) = mpsc::channel();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            to.run(|| {
                let listener = TcpListener::bind((address, 0)).expect("the station has the address");
                ready
                    .send(listener.local_addr().expect("a socket has an address"))
                    .expect("the sender waits");
                let (mut stream, _) = accept(&listener);
                stream
                    .set_read_timeout(Some(STALL))
                    .expect("the bound is not zero");
                let mut got = Vec::with_capacity(len);
                let end = stream.read_to_end(&mut got);
                (got, end)
            })
        });
        let server = is_ready.recv_timeout(STALL).expect("the receiver listens");
        from.run(|| {
            let mut stream = TcpStream::connect_timeout(&server, STALL)
                .unwrap_or_else(|error| panic!("TCP to {server} from {}: {error}", from.name()));
            stream
                .set_write_timeout(Some(STALL))
                .expect("the bound is not zero");
            stream
                .write_all(&data)
                .unwrap_or_else(|error| panic!("TCP to {server} stops after {:?}: {error}", start.elapsed()));
            stream.shutdown(Shutdown::Write).expect("the connection stands");
            // The receiver closes when it has everything.
            let _ = stream.read(&mut [0]);
        });
        let (got, end) = receiver
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let Err(error) = end {
            panic!(
                "TCP to {server} stops after {} of {len} octets: {error}",
                got.len()
            );
        }
        assert_same(&data, &got);
    });
}

/// A listener's first connection, with a bound on the time.
fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener
        .set_nonblocking(true)
        .expect("a socket can be non-blocking");
    let accepted = crate::wait::wait_for("a connection comes", STALL, || listener.accept().ok());
    accepted
        .0
        .set_nonblocking(false)
        .expect("a socket can be blocking");
    accepted
}

fn assert_same(sent: &[u8], got: &[u8]) {
    assert_eq!(sent.len(), got.len(), "octets are missing or too many");
    if let Some(at) = sent.iter().zip(got).position(|(a, b)| a != b) {
        panic!(
            "octet {at} of {} is {:#04x} and was sent as {:#04x}",
            sent.len(),
            got[at],
            sent[at]
        );
    }
}

/// How datagrams are given to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagrams {
    /// One by one.
    Single,
    /// Many in one call, to be cut at the end of their way (`UDP_SEGMENT`).
    Segmented,
}

/// Sends `count` numbered datagrams of `size` octets, a window at a time; each has to arrive once, as it was sent.
///
/// # Panics
/// If one does not.
pub fn udp(from: &Namespace, to: &Namespace, address: IpAddr, count: usize, size: usize, how: Datagrams) {
    /// Datagrams under way at once: fewer than any queue on the way holds.
    const WINDOW: usize = 32;
    assert!(size >= 8, "a datagram holds its number");
    let server = to.run(|| UdpSocket::bind((address, 0)).expect("the station has the address"));
    let target = server.local_addr().expect("a socket has an address");
    let any: IpAddr = if address.is_ipv4() {
        [0; 4].into()
    } else {
        [0u16; 8].into()
    };
    let client = from.run(|| UdpSocket::bind((any, 0)).expect("a socket can be bound"));
    client
        .connect(target)
        .unwrap_or_else(|error| panic!("UDP to {target}: {error}"));
    server
        .set_read_timeout(Some(STALL))
        .expect("the bound is not zero");
    if how == Datagrams::Segmented {
        setsockopt(
            &client,
            sockopt::UdpGsoSegment,
            &i32::try_from(size).expect("a datagram is small"),
        )
        .expect("the kernel has UDP_SEGMENT");
    }
    let datagram = |number: usize| {
        let mut octets = Random::new(number as u64).octets(size);
        octets[..8].copy_from_slice(&(number as u64).to_be_bytes());
        octets
    };
    for first in (0..count).step_by(WINDOW) {
        let window = first..count.min(first + WINDOW);
        match how {
            Datagrams::Single => {
                for number in window.clone() {
                    client
                        .send(&datagram(number))
                        .unwrap_or_else(|error| panic!("UDP to {target}: {error}"));
                }
            }
            Datagrams::Segmented => {
                let all: Vec<u8> = window.clone().flat_map(datagram).collect();
                client
                    .send(&all)
                    .unwrap_or_else(|error| panic!("segmented UDP to {target}: {error}"));
            }
        }
        let mut missing: Vec<usize> = window.collect();
        let mut buffer = vec![0; size + 1];
        while !missing.is_empty() {
            let len = server.recv(&mut buffer).unwrap_or_else(|error| {
                panic!("UDP to {target}: {missing:?} of {count} did not arrive: {error}")
            });
            assert_eq!(len, size, "a datagram has another length");
            let number = usize::try_from(u64::from_be_bytes(buffer[..8].try_into().expect("8 octets")));
            let number = number.expect("numbers are small");
            assert_same(&datagram(number), &buffer[..size]);
            let at = missing.iter().position(|m| *m == number);
            missing.swap_remove(
                at.unwrap_or_else(|| panic!("datagram {number} came twice, or out of its window")),
            );
        }
    }
}
