//! What the owner wants, and what is: configuration, store, API, metrics, and the daemon that joins them to the datapath.

pub mod api;
pub mod cli;
pub mod config;
pub mod store;
pub mod summary;
