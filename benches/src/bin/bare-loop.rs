//! Copies frames between two TAPs, and nothing else: what a TAP costs that nobody can save.
//!
//! One thread reads up to 64 KiB from a TAP and writes it to the other as it is, `virtio_net_hdr` included, into one
//! buffer that stays in the cache; it asks the kernel for readiness only when neither TAP has a frame.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;

use anyhow::{Context, Result};
use datapath::io::TapSpec;
use datapath::io::tap::open_files;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vswitch_benches::peer::{MACS, NAMESPACES};

/// A super-frame of 64 KiB with its headers.
const LARGEST: usize = 65_536 + 256;

/// Frames from one TAP before the other gets its turn.
const TURN: usize = 64;

fn main() -> Result<()> {
    let [mut a, mut b] = [open(0)?, open(1)?];
    println!("ready");
    let mut buffer = vec![0; LARGEST];
    loop {
        let moved = forward(&mut a, &mut b, &mut buffer)? + forward(&mut b, &mut a, &mut buffer)?;
        if moved == 0 {
            let mut wanted = [&a, &b].map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN));
            match poll(&mut wanted, PollTimeout::NONE) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error).context("poll"),
            }
        }
    }
}

fn open(index: usize) -> Result<File> {
    let spec = TapSpec {
        name: "eth0".into(),
        netns: Some(NAMESPACES[index].into()),
        mtu: 1500,
        mac: MACS[index].parse().ok(),
        persistent: false,
        offloads: true,
        queues: 1,
    };
    let (file, _) = open_files(&spec)?.pop().context("no queue was opened")?;
    Ok(file)
}

/// Moves what waits, at most one turn. How many frames.
fn forward(from: &mut File, to: &mut File, buffer: &mut [u8]) -> io::Result<usize> {
    for moved in 0..TURN {
        let len = match from.read(buffer) {
            Ok(len) => len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(moved),
            Err(error) => return Err(error),
        };
        // A frame that the other side can't take (its queue is full, or it is down) is lost, as in any switch.
        let _ = to.write(&buffer[..len]);
    }
    Ok(TURN)
}
