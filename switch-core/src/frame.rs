//! A frame under way, as the pipeline sees it: a borrowed header and metadata, never an owned copy.

use crate::id::PortId;
use crate::offload::Offload;
use crate::vid::Tag;

/// What the pipeline decides on.
#[derive(Clone, Copy, Debug)]
pub struct FrameView<'a> {
    /// The port it came from.
    pub port: PortId,
    /// The first octets of the frame: all of it, or at least [`FrameView::HEADER_LEN`] where the payload lies elsewhere
    /// (guest memory, which may change under us: its headers are copied once, decided on and sent as copied).
    pub header: &'a [u8],
    /// Octets of the whole frame, from the destination address to the end of the payload, without FCS.
    pub len: usize,
    /// Checksum and segmentation state.
    pub offload: Offload,
}

impl FrameView<'_> {
    /// How many octets of a longer frame [`FrameView::header`] holds at the least:
    /// Ethernet, two tags, IPv6 with extension headers and a TCP header with all its options.
    pub const HEADER_LEN: usize = 256;
}

/// One copy of a frame on its way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The port it leaves by.
    pub port: PortId,
    /// The outer tag it leaves with.
    pub tag: Option<Tag>,
}
