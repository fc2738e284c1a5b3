//! AF_XDP sockets (Linux Documentation/networking/af_xdp.rst): frames in memory shared with the kernel (the UMEM), handed
//! over by descriptors in rings.
//!
//! - [`memory`]: the UMEM.
//! - [`ring`]: the two sides of a ring.
//! - [`socket`]: the socket, its options and its rings.
//!
//! One thread has a socket with all its rings. The kernel is the other side of each ring.

pub mod memory;
pub mod ring;
pub mod socket;
