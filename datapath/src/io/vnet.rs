//! The ten-octet `struct virtio_net_hdr` of TAP and AF_PACKET: [`Offload`]'s form without `num_buffers`.

use switch_core::offload::{Offload, OffloadError, VIRTIO_NET_HDR_LEN};
use switch_core::verdict::DropReason;

use crate::frame::Frame;
use crate::offload::mend_joined;
use crate::pool::{Chunk, HEADROOM};

/// Size of the short header.
pub(super) const LEN: usize = crate::sys::tun::VNET_HEADER_LEN;

/// Where a device writes the header, so that the frame behind it starts at [`HEADROOM`].
pub(super) const START: usize = HEADROOM - LEN;

/// The frame of `len` octets that a device wrote into `chunk`, behind its header at [`START`].
#[inline]
pub(super) fn frame(chunk: Chunk, len: usize) -> Frame {
    let mut header = [0; VIRTIO_NET_HDR_LEN];
    header[..LEN].copy_from_slice(&chunk[START..HEADROOM]);
    let mut frame = Frame::new(chunk, HEADROOM, len);
    let decoded = match Offload::decode(&header, frame.bytes(), frame.len()) {
        Err(OffloadError::GsoWithoutChecksum) => mend_joined(&header, frame.bytes_mut()),
        decoded => decoded,
    };
    match decoded {
        Ok(offload) => frame.offload = offload,
        Err(_) => frame.fault = Some(DropReason::BadOffload),
    }
    frame
}

/// Octets of a segment, as the header at the front of `data` says before it is checked; 0 without segmentation.
pub(super) fn segment_size(data: &[u8]) -> usize {
    match data.first_chunk::<LEN>() {
        Some(&[_, gso_type, _, _, a, b, ..]) if gso_type != 0 => u16::from_le_bytes([a, b]).into(),
        _ => 0,
    }
}

pub(super) fn encode(offload: &Offload) -> [u8; LEN] {
    let mut short = [0; LEN];
    short.copy_from_slice(&offload.encode()[..LEN]);
    short
}

#[cfg(test)]
mod tests {
    use switch_core::offload::{Checksum, Gso, GsoKind};

    use super::*;

    #[test]
    fn the_segment_size_is_found_before_the_header_is_checked() {
        let mut offload = Offload {
            checksum: Checksum::Partial {
                start: 34,
                offset: 16,
            },
            gso: None,
        };
        assert_eq!(segment_size(&encode(&offload)), 0);
        offload.gso = Some(Gso {
            kind: GsoKind::Tcp4,
            size: 1448,
            header_len: 54,
            ecn: true,
        });
        let header = encode(&offload);
        assert_eq!(segment_size(&header), 1448);
        assert_eq!(segment_size(&header[..LEN - 1]), 0);
    }
}
