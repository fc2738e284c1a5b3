//! What a switch decides about a frame, and nothing else.
//!
//! This crate is pure: it does no I/O, starts no thread, reads no clock and holds no `unsafe` code.
//! A frame comes in as a borrowed header and a little metadata ([`frame`]), its way is the one function
//! [`pipeline::forward`] (in [`decisions::Decisions`] those of many frames), and what comes out is a list of hops or a [`verdict::DropReason`].
//! What the owner wants is compiled into an immutable [`snapshot::Snapshot`]; what the switch has learnt lives beside it,
//! in the [`fdb::Fdb`] of each switch and the [`security::PortState`] of each port, and survives a change of snapshot.
//!
//! Time is an argument everywhere ([`time::Timestamp`]), so that tests never sleep.

#![forbid(unsafe_code)]

pub mod addr;
pub mod announce;
pub mod decisions;
mod fast_path;
pub mod fdb;
pub mod flow;
pub mod frame;
pub mod id;
pub mod offload;
pub mod pipeline;
pub mod security;
pub mod snapshot;
pub mod team;
pub mod time;
pub mod verdict;
pub mod vid;
pub mod vlan;
pub mod wire;
