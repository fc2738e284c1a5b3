//! What the owner wants, and what is: configuration, store, API, metrics, and the daemon that joins them to the datapath.

pub mod api;
pub mod capture;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod descriptors;
pub mod events;
pub mod lacp;
pub mod links;
pub mod metrics;
pub mod run;
pub mod store;
pub mod summary;
pub mod teams;
pub mod trace;
