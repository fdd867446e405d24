//! The envelope around each gossip datagram.
//!
//! ```text
//!  0        1               5           9          25           41          49
//! +---------+---------------+-----------+----------+------------+-----------+------------------+
//! | version | incarnation   | number    | sender   | boot nonce | counter   | ciphertext ‖ tag |
//! |   (1)   |     (4)       |    (4)    |   (16)   |    (16)    |    (8)    |   (… ‖ 16)       |
//! +---------+---------------+-----------+----------+------------+-----------+------------------+
//! ```
//!
//! Integers are big-endian. The first 49 bytes go in clear and are the associated data.
//!
//! - key = HKDF-SHA256(ikm = the epoch's gossip secret, no salt, info = `"overlay gossip datagram v1"` ‖
//!   sender ‖ boot nonce), 32 bytes
//! - nonce = 4 zero bytes ‖ counter
//!
//! The boot nonce is made afresh by each start of an agent and the counter only advances, through
//! all epochs of that start, so no key meets a nonce twice. `vectors.txt` beside this file has examples.

mod header;
mod open;
mod replay;
mod seal;

pub use header::{BootNonce, EpochId, HEADER_LEN, Header, HeaderError};
pub use open::{MAX_EPOCHS, MAX_KEYS, OpenError, Opened, Opener, Senders};
pub use replay::Window;
pub use seal::{SealError, Sealer};

use aes_gcm::{Aes256Gcm, KeyInit as _};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::{id::NodeId, secret::Secret};

/// Largest datagram, header and tag included: it fits the smallest MTU of the underlay without
/// fragments, below IPv6 and UDP.
pub const MAX_DATAGRAM: usize = 1400;
pub const TAG_LEN: usize = 16;
/// Largest payload of one datagram.
pub const MAX_PAYLOAD: usize = MAX_DATAGRAM - HEADER_LEN - TAG_LEN;

const LABEL: &[u8] = b"overlay gossip datagram v1";

/// Key of all datagrams of one sender's start in one epoch.
fn datagram_key(secret: &Secret, sender: NodeId, boot: BootNonce) -> Box<Secret> {
    let mut key = Zeroizing::new([0; Secret::LEN]);
    Hkdf::<Sha256>::new(None, secret.expose())
        .expand_multi_info(&[LABEL, sender.as_bytes(), boot.as_bytes()], &mut *key)
        .expect("one block is no longer than 255 blocks");
    Box::new(Secret::new(*key))
}

fn cipher(key: &Secret) -> Aes256Gcm {
    Aes256Gcm::new(key.expose().into())
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

#[cfg(test)]
mod tests;
