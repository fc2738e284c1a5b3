//! What it costs to find the headers of a frame: our views beside etherparse, in turns. Figures for docs/dependencies.md.

use std::hint::black_box;
use std::time::Instant;

use anyhow::Result;
use etherparse::{PacketBuilder, SlicedPacket};
use switch_core::wire::layers::Layers;
use vswitch_benches::report::median;

const FRAMES: u32 = 2_000_000;
const ROUNDS: usize = 9;

fn main() -> Result<()> {
    let mut frames: Vec<(&str, Vec<u8>)> = Vec::new();
    for (name, builder) in [
        (
            "TCP over IPv4",
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
        ),
        (
            "TCP over IPv4, tagged",
            PacketBuilder::ethernet2([2; 6], [4; 6])
                .single_vlan(etherparse::VlanId::try_new(100)?)
                .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64),
        ),
        (
            "TCP over IPv6",
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 64),
        ),
    ] {
        let mut frame = Vec::new();
        builder.tcp(40_000, 80, 1, 1024).write(&mut frame, &[0; 64])?;
        frames.push((name, frame));
    }
    for (name, frame) in &frames {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(time(|| Layers::find(black_box(frame)).is_some()));
            theirs.push(time(|| SlicedPacket::from_ethernet(black_box(frame)).is_ok()));
        }
        println!(
            "{name:<22}  our views {:5.1} ns   etherparse {:5.1} ns",
            median(&ours).unwrap_or(f64::NAN),
            median(&theirs).unwrap_or(f64::NAN)
        );
    }
    Ok(())
}

/// Nanoseconds of one call.
fn time(mut parse: impl FnMut() -> bool) -> f64 {
    let start = Instant::now();
    for _ in 0..FRAMES {
        black_box(parse());
    }
    start.elapsed().as_nanos() as f64 / f64::from(FRAMES)
}
