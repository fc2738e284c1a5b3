//! A capture as a stream of pcapng (draft-ietf-opsawg-pcapng): one interface per port, the direction in the flags
//! option of each packet, and on dropped frames a comment `drop: REASON — explanation`.
//!
//! The datapath hands frames out through a bounded buffer that nobody waits for, so the stream looks for them at
//! [`POLL`] while someone reads it; without a capture nothing polls. A reader too slow for the traffic loses frames,
//! which the next packet's drop count says.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use datapath::{Capture, Captured, Seen};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::{DataLink, Endianness, PcapResult};
use switch_core::id::PortId;

/// How often a running capture looks for frames.
pub const POLL: Duration = Duration::from_millis(20);

/// How many frames go into one piece of the stream.
const PIECE: usize = 256;

/// Bits 0-1 of `epb_flags`: the direction as the switch sees it.
const FLAG_INBOUND: u32 = 1;
const FLAG_OUTBOUND: u32 = 2;

/// Turns captured frames into pcapng.
pub struct Writer {
    out: PcapNgWriter<Vec<u8>>,
    /// Interface number by port; an interface is described when its port is first seen.
    interfaces: HashMap<PortId, u32>,
    snap_len: u32,
    lost: u64,
}

impl Writer {
    /// A writer whose output starts with the section header.
    pub fn new(snap_len: u32) -> PcapResult<Self> {
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(concat!(
                "vswitchd ",
                env!("CARGO_PKG_VERSION")
            )))],
            ..Default::default()
        };
        Ok(Self {
            out: PcapNgWriter::with_section_header(Vec::new(), section)?,
            interfaces: HashMap::new(),
            snap_len,
            lost: 0,
        })
    }

    /// Adds a frame. `name` says what the port is called; `lost` is the running total of the capture.
    pub fn frame(
        &mut self,
        frame: &Captured,
        name: impl FnOnce(PortId) -> String,
        lost: u64,
    ) -> PcapResult<()> {
        let interface_id = match self.interfaces.get(&frame.port) {
            Some(id) => *id,
            None => {
                // Interfaces are counted in 32 bits and ports in 16.
                let id = self.interfaces.len() as u32;
                self.out.write_pcapng_block(InterfaceDescriptionBlock {
                    linktype: DataLink::ETHERNET,
                    snaplen: self.snap_len,
                    options: vec![
                        InterfaceDescriptionOption::IfName(Cow::Owned(name(frame.port))),
                        // Nanoseconds.
                        InterfaceDescriptionOption::IfTsResol(9),
                    ],
                })?;
                self.interfaces.insert(frame.port, id);
                id
            }
        };
        let mut options = vec![EnhancedPacketOption::Flags(match frame.seen {
            Seen::Receive | Seen::Dropped(_) => FLAG_INBOUND,
            Seen::Transmit => FLAG_OUTBOUND,
        })];
        if let Seen::Dropped(reason) = frame.seen {
            let comment = format!("drop: {} — {}", reason.name(), reason.explain());
            options.push(EnhancedPacketOption::Comment(Cow::Owned(comment)));
        }
        if lost > self.lost {
            options.push(EnhancedPacketOption::DropCount(lost - self.lost));
            self.lost = lost;
        }
        self.out.write_pcapng_block(EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(frame.unix_nanos),
            original_len: frame.len,
            data: Cow::Borrowed(&frame.bytes),
            options,
        })?;
        Ok(())
    }

    /// What has been written since the last call.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(self.out.get_mut())
    }
}

/// The next piece of a running capture: waits until there is a frame, or forever where there is none.
pub async fn next_piece(
    capture: &Capture,
    writer: &mut Writer,
    name: &(dyn Fn(PortId) -> String + Send + Sync),
) -> PcapResult<Vec<u8>> {
    loop {
        let mut any = false;
        for _ in 0..PIECE {
            let Some(frame) = capture.try_recv() else { break };
            writer.frame(&frame, name, capture.lost())?;
            any = true;
        }
        let piece = writer.take();
        if any || !piece.is_empty() {
            return Ok(piece);
        }
        tokio::time::sleep(POLL).await;
    }
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};
    use switch_core::verdict::DropReason;

    use super::*;

    fn captured(port: u16, seen: Seen) -> Captured {
        Captured {
            unix_nanos: 1_700_000_000_123_456_789,
            port: PortId::new(port).unwrap(),
            seen,
            len: 1514,
            bytes: vec![7; 61].into(),
        }
    }

    #[test]
    fn a_reader_finds_names_directions_reasons_and_losses() {
        let mut writer = Writer::new(61).unwrap();
        let name = |port: PortId| format!("vm{}", port.get());
        writer.frame(&captured(3, Seen::Receive), name, 0).unwrap();
        writer.frame(&captured(4, Seen::Transmit), name, 0).unwrap();
        let drop = Seen::Dropped(DropReason::VlanNotAllowed);
        writer.frame(&captured(3, drop), name, 5).unwrap();
        let bytes = writer.take();

        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let mut names = Vec::new();
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            match block.unwrap().into_owned() {
                Block::InterfaceDescription(interface) => names.push(
                    interface
                        .options
                        .into_iter()
                        .find_map(|option| match option {
                            InterfaceDescriptionOption::IfName(name) => Some(name.into_owned()),
                            _ => None,
                        })
                        .unwrap(),
                ),
                Block::EnhancedPacket(packet) => packets.push(packet),
                _ => {}
            }
        }
        assert_eq!(names, ["vm3", "vm4"]);
        assert_eq!(
            packets.iter().map(|p| p.interface_id).collect::<Vec<_>>(),
            [0, 1, 0]
        );
        assert_eq!(packets[0].options, [EnhancedPacketOption::Flags(FLAG_INBOUND)]);
        assert_eq!(packets[1].options, [EnhancedPacketOption::Flags(FLAG_OUTBOUND)]);
        assert_eq!(
            packets[0].timestamp,
            Duration::from_nanos(1_700_000_000_123_456_789)
        );
        assert_eq!(packets[0].original_len, 1514);
        let comment = packets[2].options.iter().find_map(|option| match option {
            EnhancedPacketOption::Comment(text) => Some(text.as_ref()),
            _ => None,
        });
        assert!(comment.unwrap().starts_with("drop: vlan-not-allowed — "));
        assert!(packets[2].options.contains(&EnhancedPacketOption::DropCount(5)));
    }
}
