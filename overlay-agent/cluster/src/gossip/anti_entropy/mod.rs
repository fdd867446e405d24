//! Push and pull of records between two members, over mutual TLS: repairs whatever datagrams lost.
//!
//! One side asks, the other answers each message from its store alone and remembers nothing:
//!
//! ```text
//!   asks                                       answers
//!   Root     hash of everything            →
//!                                          ←   InSync, and it ends; or Buckets: 256 hashes
//!   Owners   digests, differing buckets    →
//!                                          ←   Differ: whose digests differ     (until all are asked)
//!   Versions what it has of those owners   →
//!                                          ←   Delta: records it lacks, and which ones to bring
//!   Versions those records, and further    →   …                               (until nothing is left)
//! ```
//!
//! Two equal stores cost two messages of a few bytes. A message has at most [`MAX_MESSAGE`] bytes; what
//! does not fit is asked for again from where it stopped. What was taken stays taken: an exchange
//! that breaks is resumed by the next one, which finds fewer differences.

mod answer;
mod ask;
mod message;

pub use answer::{Answer, answer};
pub use ask::{Ask, Learned};
pub use message::{MAX_DOWN, MAX_MESSAGE, SyncError};

#[cfg(test)]
mod tests;

/// A question that brings records, for tests of who lies.
#[cfg(test)]
pub(crate) fn brought(records: Vec<Vec<u8>>) -> Vec<u8> {
    message::encode(&message::Question::Versions {
        records,
        listings: Vec::new(),
    })
}
