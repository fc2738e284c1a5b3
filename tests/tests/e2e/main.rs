//! End to end tests, one module per theme; see the crate's documentation and `tests/README.md`.

mod harness;
