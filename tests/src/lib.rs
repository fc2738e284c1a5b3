//! End to end: a real `vswitchd` between network namespaces, with the kernel's own stacks, real guests and real peers.
//!
//! Each test makes a [`lab::Lab`]: a directory, a network namespace for the switch, and one for each station. Nothing is made
//! in the machine's own namespace, and everything goes when the lab is dropped, also when the test panics; what a killed run
//! left is swept by the next. When a test fails, the lab prints the whole state of the switch and of the namespaces first.
//!
//! The switch is driven through `vswitchctl -o json`, `/metrics` and frames, as its users drive it.
//! Waits have a condition and a bound ([`wait`]); no test asserts how long something took.
//! The tests need root, and say so where they don't have it.

pub mod frame;
pub mod guest;
pub mod lab;
pub mod netns;
pub mod process;
pub mod raw;
pub mod stats;
pub mod transfer;
pub mod vhost;
pub mod wait;
