//! Records: what a node says of itself, signed by it.
//!
//! On the wire and in anti-entropy alike:
//!
//! ```text
//! +-------------+--------------------+------------------------+
//! | version (1) | postcard(Record) … | Ed25519 signature (64) |
//! +-------------+--------------------+------------------------+
//! ```
//!
//! The signature is the owner's, over `"overlay gossip record v1"` ‖ cluster id ‖ all bytes before it: a
//! record of one cluster means nothing in another. There is one encoding of a record; bytes that
//! decode but would be written otherwise are refused, so that equal records have equal hashes.

mod body;
mod signed;

pub use body::{
    Addresses, Body, Content, Endpoint, Invalid, Key, MAX_ADDRESSES, MAX_NAME, MAX_SOFTWARE, Node,
    Record, Version,
};
pub use signed::{MAX_RECORD, RecordError, Signed};
