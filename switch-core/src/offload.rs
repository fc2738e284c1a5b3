//! What the sender left for hardware to do: checksum and segmentation state that travels with a frame.
//!
//! The form outside is `struct virtio_net_hdr_v1` (VirtIO 1.2, section 5.1.6.1), which TAP, AF_PACKET and vhost-user share.
//! [`Offload`] is that header, checked once against the frame when it comes in, so that nothing after it has to doubt it.

/// Where the frame stands with its transport checksum.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Checksum {
    /// As on a wire: the checksum field is whatever the sender put there, complete.
    #[default]
    Complete,
    /// The field holds the pseudo-header sum only; the sum over `start..` belongs at `start + offset`.
    /// Both count octets, `start` from the first octet of the frame in its present form (tags included).
    Partial {
        /// First octet to sum.
        start: u16,
        /// Distance of the checksum field from `start`.
        offset: u16,
    },
    /// The receiver already verified it.
    Verified,
}

/// How a super-frame is to be cut.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum GsoKind {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either (USO).
    Udp,
}

/// A super-frame's segmentation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Gso {
    /// Which protocol it is cut by.
    pub kind: GsoKind,
    /// Payload octets of each segment after the transport header; never 0.
    pub size: u16,
    /// Octets from the start of the frame to the end of its transport header, as found in the frame itself.
    pub header_len: u16,
    /// The first segment carries CWR (VIRTIO_NET_HDR_GSO_ECN).
    pub ecn: bool,
}

/// The offload state of a frame; the default is a plain frame as on a wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Offload {
    /// Checksum state.
    pub checksum: Checksum,
    /// Segmentation, if the frame is a super-frame.
    pub gso: Option<Gso>,
}

/// What a port can take; what it can't is done in software before.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Capabilities {
    /// Frames with [`Checksum::Partial`].
    pub checksum: bool,
    /// [`GsoKind::Tcp4`] super-frames.
    pub tso4: bool,
    /// [`GsoKind::Tcp6`] super-frames.
    pub tso6: bool,
    /// [`GsoKind::Udp`] super-frames.
    pub uso: bool,
}
