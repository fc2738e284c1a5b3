//! Packets of pcap and pcapng: one of a file for `trace`, and the running stream of `capture`.

use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use pcap_file::pcap::PcapReader;
use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgParser, PcapNgReader};
use pcap_file::{DataLink, PcapError};

use super::error::CliError;

/// What a pcapng file begins with: the type of its section header block.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// No block of a capture is longer: a super-frame with its options.
const MAX_BLOCK: usize = 1 << 20;

/// Packet `number` (from 1) of a pcap or pcapng file of Ethernet frames.
pub(crate) fn read_packet(path: &Path, number: usize) -> Result<Vec<u8>, CliError> {
    let file_error = |source| CliError::File {
        action: "read",
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(file_error)?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .map_err(|_| CliError::Failed(format!("{} is too short for a pcap file", path.display())))?;
    let damaged =
        |error: PcapError| CliError::Failed(format!("{} is not a sound pcap file: {error}", path.display()));
    let foreign = |link: DataLink| {
        CliError::Failed(format!(
            "{} holds {link:?} packets; only Ethernet frames can be traced",
            path.display()
        ))
    };
    let mut seen = 0;
    if magic == PCAPNG_MAGIC {
        let mut reader = PcapNgReader::new(BufReader::new(file)).map_err(damaged)?;
        // The borrow of a block ends before the interfaces can be asked, so only what is needed is kept.
        while let Some(block) = reader.next_block() {
            let (interface, data) = match block.map_err(damaged)? {
                Block::EnhancedPacket(packet) => (packet.interface_id as usize, packet.data.into_owned()),
                Block::SimplePacket(packet) => {
                    let len = packet.data.len().min(packet.original_len as usize);
                    (0, packet.data[..len].to_vec())
                }
                Block::Packet(packet) => (usize::from(packet.interface_id), packet.data.into_owned()),
                _ => continue,
            };
            seen += 1;
            if seen == number {
                return match reader
                    .interfaces()
                    .get(interface)
                    .map(|interface| interface.linktype)
                {
                    Some(DataLink::ETHERNET) => Ok(data),
                    Some(other) => Err(foreign(other)),
                    None => Err(damaged(PcapError::InvalidInterfaceId(interface as u32))),
                };
            }
        }
    } else {
        let mut reader = PcapReader::new(BufReader::new(file)).map_err(damaged)?;
        let link = reader.header().datalink;
        if link != DataLink::ETHERNET {
            return Err(foreign(link));
        }
        while let Some(packet) = reader.next_packet() {
            let data = packet.map_err(damaged)?.data;
            seen += 1;
            if seen == number {
                return Ok(data.into_owned());
            }
        }
    }
    Err(CliError::Failed(format!(
        "{} holds {}; there is no packet {number}",
        path.display(),
        super::units::count(seen, "packet")
    )))
}

/// A frame of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Captured {
    /// Since 1970-01-01 00:00:00 UTC.
    pub(crate) time: Duration,
    /// Name of its port.
    pub(crate) port: String,
    /// Whether it went from the switch to the port.
    pub(crate) outbound: bool,
    /// The octets that were kept.
    pub(crate) data: Vec<u8>,
    /// Length on the wire.
    pub(crate) len: usize,
    /// What the switch remarked, such as the reason of a drop.
    pub(crate) comment: Option<String>,
    /// Frames left out before it, because the reader was too slow.
    pub(crate) lost: u64,
}

/// A piece of a capture's stream.
#[derive(Debug)]
pub(crate) struct Piece {
    /// Its octets as they came.
    pub(crate) raw: Vec<u8>,
    /// The frame in it, if it has one.
    pub(crate) frame: Option<Captured>,
}

/// Cuts a stream of pcapng into its blocks, whatever pieces it comes in.
#[derive(Default)]
pub(crate) struct Blocks {
    buffer: Vec<u8>,
    parser: Option<PcapNgParser>,
}

impl Blocks {
    /// Adds octets of the stream.
    pub(crate) fn push(&mut self, octets: &[u8]) {
        self.buffer.extend_from_slice(octets);
    }

    /// The next whole block; `None` until more octets are there.
    pub(crate) fn next(&mut self) -> Result<Option<Piece>, CliError> {
        let damaged =
            |error: PcapError| CliError::Failed(format!("the daemon's capture is no sound pcapng: {error}"));
        let (rest, frame) = match &mut self.parser {
            None => match PcapNgParser::new(&self.buffer) {
                Ok((rest, parser)) => {
                    let rest = rest.len();
                    self.parser = Some(parser);
                    (rest, None)
                }
                Err(PcapError::IncompleteBuffer) => return self.wait(),
                Err(error) => return Err(damaged(error)),
            },
            Some(parser) => {
                // Which interface a frame belongs to is known before it: blocks come in order.
                let described: Vec<Described> = parser.interfaces().iter().map(Described::from).collect();
                match parser.next_block(&self.buffer) {
                    Ok((rest, block)) => (rest.len(), frame_of(block, &described)),
                    Err(PcapError::IncompleteBuffer) => return self.wait(),
                    Err(error) => return Err(damaged(error)),
                }
            }
        };
        let raw = self.buffer.drain(..self.buffer.len() - rest).collect();
        Ok(Some(Piece { raw, frame }))
    }

    fn wait(&self) -> Result<Option<Piece>, CliError> {
        if self.buffer.len() > MAX_BLOCK {
            return Err(CliError::Failed(
                "the daemon's capture is no sound pcapng: a block without end".into(),
            ));
        }
        Ok(None)
    }
}

/// What a frame needs of its interface.
struct Described {
    name: String,
    /// Nanoseconds of one unit of its times.
    unit: u64,
}

impl From<&InterfaceDescriptionBlock<'_>> for Described {
    fn from(interface: &InterfaceDescriptionBlock<'_>) -> Self {
        let mut described = Self {
            name: "?".into(),
            unit: 1_000,
        };
        for option in &interface.options {
            match option {
                InterfaceDescriptionOption::IfName(name) => described.name = name.clone().into_owned(),
                // Decimal exponents only; the daemon writes no binary ones.
                InterfaceDescriptionOption::IfTsResol(exponent @ 0..=9) => {
                    described.unit = 10_u64.pow(u32::from(9 - exponent));
                }
                _ => {}
            }
        }
        described
    }
}

fn frame_of(block: Block<'_>, interfaces: &[Described]) -> Option<Captured> {
    let Block::EnhancedPacket(packet) = block else {
        return None;
    };
    let interface = interfaces.get(packet.interface_id as usize);
    // The parser takes every unit for a nanosecond.
    let units = u64::try_from(packet.timestamp.as_nanos()).unwrap_or(u64::MAX);
    let mut captured = Captured {
        time: Duration::from_nanos(units.saturating_mul(interface.map_or(1_000, |interface| interface.unit))),
        port: interface.map_or_else(|| "?".to_owned(), |interface| interface.name.clone()),
        outbound: false,
        len: packet.original_len as usize,
        data: packet.data.into_owned(),
        comment: None,
        lost: 0,
    };
    for option in &packet.options {
        match option {
            EnhancedPacketOption::Comment(text) => captured.comment = Some(text.clone().into_owned()),
            // Bits 0 and 1: 1 inbound, 2 outbound (draft-ietf-opsawg-pcapng, section 4.3.1).
            EnhancedPacketOption::Flags(flags) => captured.outbound = flags & 3 == 2,
            EnhancedPacketOption::DropCount(lost) => captured.lost = *lost,
            _ => {}
        }
    }
    Some(captured)
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use pcap_file::pcap::{PcapPacket, PcapWriter};
    use pcap_file::pcapng::PcapNgWriter;
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketBlock;

    use super::*;

    fn capture() -> Vec<u8> {
        let mut writer = PcapNgWriter::new(Vec::new()).unwrap();
        let interface = |name: &'static str| InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: 64,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfTsResol(9),
            ],
        };
        for (id, name) in ["vm1", "vm2"].into_iter().enumerate() {
            writer.write_pcapng_block(interface(name)).unwrap();
            writer
                .write_pcapng_block(EnhancedPacketBlock {
                    interface_id: id as u32,
                    timestamp: Duration::from_nanos(1_000_000_007),
                    original_len: 100 + id as u32,
                    data: Cow::Owned(vec![id as u8; 61]),
                    options: vec![
                        EnhancedPacketOption::Flags(1 + id as u32),
                        EnhancedPacketOption::Comment(Cow::Borrowed("drop: runt")),
                    ],
                })
                .unwrap();
        }
        writer.into_inner()
    }

    #[test]
    fn a_stream_in_any_pieces_gives_the_same_blocks() {
        let whole = capture();
        for size in [1, 7, 64, whole.len()] {
            let mut blocks = Blocks::default();
            let mut raw = Vec::new();
            let mut frames = Vec::new();
            for chunk in whole.chunks(size) {
                blocks.push(chunk);
                while let Some(piece) = blocks.next().unwrap() {
                    raw.extend(piece.raw);
                    frames.extend(piece.frame);
                }
            }
            assert_eq!(raw, whole);
            assert_eq!(frames.len(), 2);
            assert_eq!(frames[0].port, "vm1");
            assert_eq!(frames[0].time, Duration::from_nanos(1_000_000_007));
            assert!(!frames[0].outbound && frames[1].outbound);
            assert_eq!((frames[1].len, frames[1].data.len()), (101, 61));
            assert_eq!(frames[1].comment.as_deref(), Some("drop: runt"));
        }
    }

    #[test]
    fn octets_that_are_no_pcapng_are_an_error() {
        let mut blocks = Blocks::default();
        blocks.push(b"HTTP/1.1 500 Internal Server Error\r\n");
        assert!(blocks.next().is_err());
    }

    #[test]
    fn packets_of_files() {
        let dir = tempfile::tempdir().unwrap();
        let ng = dir.path().join("a.pcapng");
        std::fs::write(&ng, capture()).unwrap();
        assert_eq!(read_packet(&ng, 2).unwrap(), vec![1; 61]);
        let error = read_packet(&ng, 3).unwrap_err().to_string();
        assert!(
            error.ends_with("a.pcapng holds 2 packets; there is no packet 3"),
            "{error}"
        );

        let old = dir.path().join("a.pcap");
        let mut writer = PcapWriter::new(File::create(&old).unwrap()).unwrap();
        for octet in 0..3 {
            writer
                .write_packet(&PcapPacket::new(Duration::ZERO, 60, &[octet; 60]))
                .unwrap();
        }
        assert_eq!(read_packet(&old, 3).unwrap(), vec![2; 60]);

        let text = dir.path().join("a.txt");
        std::fs::write(&text, "not a capture, but long enough for a header").unwrap();
        assert!(
            read_packet(&text, 1)
                .unwrap_err()
                .to_string()
                .contains("not a sound pcap file")
        );
        assert!(
            read_packet(&dir.path().join("none"), 1)
                .unwrap_err()
                .to_string()
                .contains("can't read")
        );
    }
}
