//! What the owner wants, from the text of a file to the snapshot that a worker reads.
//!
//! The way of a configuration: text → [`text::parse`] → [`model::Config`] (may be wrong) → [`model::Config::validate`] →
//! [`validate::ValidConfig`] (is right) → [`compile::compile`] → [`switch_core::snapshot::Snapshot`]. Each is a type of its own,
//! so a step cannot be left out. [`text::load`] does the first three at once and reports every error with its place.
//!
//! Everything here is pure but for the [`compile::Registry`], which keeps what must survive a change of configuration.

mod attachment;
pub mod compile;
mod de;
pub mod diff;
mod effective;
pub mod model;
pub mod path;
pub mod schema;
pub mod teaming;
pub mod text;
mod tree;
pub mod units;
pub mod validate;
mod vlans;

pub use compile::{Registry, compile};
pub use model::Config;
pub use validate::{ConfigError, ValidConfig};
