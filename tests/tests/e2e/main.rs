//! End to end tests, one module per theme; see the crate's documentation and `tests/README.md`.

mod capture;
mod config;
mod device;
mod fdb;
mod harness;
mod hostile;
mod idle;
mod lacp;
mod metrics;
mod migration;
mod never;
mod ovs;
mod qemu;
mod reach;
mod security;
mod stream;
mod sum;
mod transfer;
mod uplinks;
mod vhost_hostile;
mod vhost_user;
mod vlan;
mod wires;
mod workers;
mod xdp;
