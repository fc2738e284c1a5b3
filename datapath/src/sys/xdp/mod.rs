//! AF_XDP sockets (Linux Documentation/networking/af_xdp.rst): frames in memory shared with the kernel (the UMEM), handed
//! over by descriptors in rings.
//!
//! - [`memory`]: the UMEM.
//! - [`umem`]: a UMEM whose chunks go from frames to the kernel and back.
//! - [`program`]: the XDP program that hands received frames to the sockets.
//! - [`ring`]: the two sides of a ring.
//! - [`socket`]: the socket, its options and its rings.
//!
//! One thread has a socket with all its rings. The kernel is the other side of each ring.

pub mod memory;
pub mod program;
pub mod ring;
pub mod socket;
pub mod umem;
