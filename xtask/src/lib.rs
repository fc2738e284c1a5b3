//! The project's own tasks: `cargo xtask demo`, `test` and `bench`. The library part is shared with `benches`.
//!
//! Everything that a task sets up lives in namespaces of its own (network, mount, process), entered through
//! [`sandbox`]. When the last process in them ends, however it ends, the kernel takes all of it away: no device, route,
//! mount or process is left.

pub mod bench;
pub mod demo;
pub mod fuzz;
pub mod guests;
pub mod guide;
pub mod host;
pub mod packages;
pub mod sandbox;
pub mod steps;
pub mod test;
