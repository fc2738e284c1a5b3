//! Stream ports.

use super::{OpenError, PeerSink, Queue, StreamSpec};

/// Opens a stream port.
pub fn open(spec: &StreamSpec, _peer: PeerSink) -> Result<Vec<Box<dyn Queue>>, OpenError> {
    Err(OpenError::Unsupported {
        device: spec.socket.display().to_string(),
        what: "stream",
        instead: "attach the VM by its TAP (`device:`)",
    })
}
