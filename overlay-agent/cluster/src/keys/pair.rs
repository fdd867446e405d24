//! Keys of the SAs between two nodes.
//!
//! ```text
//! ss  = X25519(x_i, X_j)                      RFC 7748 section 6.1; zero is refused
//! PRK = HKDF-Extract(salt = S_e, IKM = ss)    RFC 5869 section 2.2, SHA-256
//! OKM = HKDF-Expand(PRK, info, 36)            RFC 5869 section 2.3
//! ```
//!
//! `info` is 178 bytes, every field of fixed length, so two different SAs cannot have one encoding:
//!
//! | bytes | field |
//! |---|---|
//! | 24 | [`LABEL`] |
//! | 16 | cluster id |
//! | 16 | epoch: incarnation, number (big-endian `u32` each), hash of the secrets |
//! | 56 | sender: node id (16), generation (big-endian `u64`), X (32) |
//! | 56 | receiver: the same |
//! | 8 | session, big-endian |
//! | 1 | slot |
//! | 1 | lane |
//!
//! **Session.** Two nodes may make SAs several times within one epoch and one generation of each: they
//! share no encrypted network for a while, or a kernel loses an SA, or refuses it. Slots come round
//! again after 256, so they cannot tell these SAs apart. The receiver therefore numbers all that it
//! stages by one counter that only grows while its agent lives, and puts the number into the
//! acknowledgement: no OKM repeats within a generation of the receiver. The sender does not rely on
//! that: for each peer and epoch it keeps the largest number that it has used and takes only larger
//! ones (`rotation::peer`). It can forget the number together with its ephemeral key of that
//! epoch, without which no such OKM can be made again.

use hkdf::Hkdf;
use overlay_ebpf::abi::{Lane, Slot};
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Ephemeral, EpochSecrets, PublicKey};
use crate::{
    id::{ClusterId, EpochName, Generation, NodeId},
    secret::KeyMaterial,
};

/// First bytes of `info`: no other use of these PRKs has them.
pub const LABEL: &[u8; 24] = b"overlay-cluster/esp-sa/1";

const INFO_LEN: usize = LABEL.len() + 16 + 16 + 2 * Side::LEN + 8 + 1 + 1;

/// Why two nodes have no keys in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PairError {
    /// The peer's public key is of small order: the shared secret would be zero whatever our key
    /// is. No honest node has such a key (RFC 7748 section 6.1).
    #[error(
        "the ephemeral key {0} of the peer is of small order: it is broken or hostile, evict it"
    )]
    ZeroSharedSecret(PublicKey),
}

/// One end of an SA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    pub node: NodeId,
    pub generation: Generation,
    pub public: PublicKey,
}

impl Side {
    const LEN: usize = 16 + 8 + PublicKey::LEN;
}

/// All that tells one SA from another: the transcript of the derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaName {
    pub cluster: ClusterId,
    pub epoch: EpochName,
    pub sender: Side,
    pub receiver: Side,
    /// Number of this staging among all of the receiver's agent.
    pub session: u64,
    pub slot: Slot,
    pub lane: Lane,
}

impl SaName {
    fn info(&self) -> [u8; INFO_LEN] {
        let mut info = [0; INFO_LEN];
        let mut rest = info.as_mut_slice();
        let mut put = |bytes: &[u8]| {
            let (field, tail) = std::mem::take(&mut rest).split_at_mut(bytes.len());
            field.copy_from_slice(bytes);
            rest = tail;
        };
        put(LABEL);
        put(self.cluster.as_bytes());
        put(&self.epoch.incarnation.to_be_bytes());
        put(&self.epoch.number.to_be_bytes());
        put(&self.epoch.hash);
        for side in [&self.sender, &self.receiver] {
            put(side.node.as_bytes());
            put(&side.generation.0.to_be_bytes());
            put(side.public.as_bytes());
        }
        put(&self.session.to_be_bytes());
        put(&[self.slot.get(), self.lane.get()]);
        assert!(rest.is_empty(), "the fields fill the info");
        info
    }
}

/// PRK of two nodes in one epoch: the same on both, for both directions.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct PairSecret([u8; 32]);

impl PairSecret {
    pub fn new(
        secrets: &EpochSecrets,
        ours: &Ephemeral,
        theirs: PublicKey,
    ) -> Result<Self, PairError> {
        let shared = ours
            .secret
            .diffie_hellman(&x25519_dalek::PublicKey::from(*theirs.as_bytes()));
        if !shared.was_contributory() {
            return Err(PairError::ZeroSharedSecret(theirs));
        }
        let (prk, _) = Hkdf::<Sha256>::extract(Some(secrets.data.expose()), shared.as_bytes());
        let mut prk = Zeroizing::new(<[u8; 32]>::from(prk));
        let secret = Self(*prk);
        prk.zeroize();
        Ok(secret)
    }

    /// The keying material of one SA.
    pub fn key(&self, name: &SaName) -> KeyMaterial {
        let mut okm = Zeroizing::new([0; KeyMaterial::LEN]);
        Hkdf::<Sha256>::from_prk(&self.0)
            .expect("32 bytes are a SHA-256 PRK")
            .expand(&name.info(), okm.as_mut_slice())
            .expect("36 bytes are below 255 blocks");
        KeyMaterial::new(*okm)
    }
}

impl std::fmt::Debug for PairSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PairSecret(…)")
    }
}

#[cfg(test)]
mod tests;
