//! Many nodes in one process, with virtual time and one seed.
//!
//! Real are the nodes: every datagram is sealed and opened, every record signed and verified. Simulated are
//! the clock, the network and the carriage of anti-entropy. Two runs with one seed are the same run.
//!
//! While it runs, [`World`] checks that each node holds only what its owner wrote, that nothing a
//! node saw deleted returns to it, and that memory stays within bounds; [`measure()`] takes the figures of
//! docs/benchmarks/gossip.md.

mod check;
mod link;
mod measure;
mod report;
mod world;

pub use link::Link;
pub use measure::measure;
pub use report::{Report, json, table};
pub use world::{Traffic, World};

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod tests;
