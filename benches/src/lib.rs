//! The switch beside its peers: the same traffic through each of them in turns, in one run, on the same cores.
//!
//! A [`peer::Peer`] joins two namespaces, `a` and `b`, each with a netdev `eth0`. A [`scenario`] sends its traffic through
//! every peer in each round (A B C, A B C, …), so that a machine that gets slower or faster does so for all.
//! What counts is the ratio, see [`report`]. `cargo xtask bench` builds everything and starts the `compare` binary in
//! namespaces of its own; the parts here rely on that, and take no care to undo what the namespaces take away.

pub mod distance;
pub mod load;
pub mod peer;
pub mod plot;
pub mod report;
pub mod scenario;
pub mod station;
pub mod traffic;
