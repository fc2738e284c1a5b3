//! vhost-user ports.

use super::{OpenError, PeerSink, Queue, VhostUserSpec};

/// Opens a vhost-user port.
pub fn open(spec: &VhostUserSpec, _peer: PeerSink) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    Err(OpenError::Unsupported {
        device: spec.socket.display().to_string(),
        what: "vhost-user",
        instead: "attach the VM by `stream:` (QEMU's `-netdev stream`) or by its TAP (`device:`)",
    })
}
