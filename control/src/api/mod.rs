//! The HTTP+JSON API on a Unix socket.

pub mod model;
