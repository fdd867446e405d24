//! The X25519 key of one node, one epoch and one start of its agent.

use std::fmt;

use data_encoding::HEXLOWER;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use x25519_dalek::StaticSecret;

use crate::id::{EpochName, Generation};

/// The public half: 32 bytes, the u-coordinate in little-endian order (RFC 7748 section 5).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey([u8; Self::LEN]);

impl PublicKey {
    pub const LEN: usize = 32;

    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A key pair. Its secret half is in no format that could be written, and gone when this is dropped:
/// then nobody can compute the pair keys again that followed from it.
pub struct Ephemeral {
    pub(super) secret: StaticSecret,
    public: PublicKey,
}

impl Ephemeral {
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self::of(StaticSecret::random_from_rng(rng))
    }

    fn of(secret: StaticSecret) -> Self {
        let public = PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes());
        Self { secret, public }
    }

    #[cfg(test)]
    pub(super) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self::of(StaticSecret::from(bytes))
    }

    pub const fn public(&self) -> PublicKey {
        self.public
    }
}

impl fmt::Debug for Ephemeral {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ephemeral({})", self.public)
    }
}

/// What a node says to all of its ephemeral key: the body of a signed gossip record. The envelope
/// names the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EphemeralRecord {
    pub epoch: EpochName,
    pub generation: Generation,
    pub public: PublicKey,
    /// Lanes that the node wants with each peer, 1 to 16; a pair has the larger number of its two.
    pub lanes: u8,
}

/// Bytes that are no [`EphemeralRecord`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The first byte names a version that this release does not read.
    #[error("ephemeral record of version {0}: this release reads version {version}; upgrade the older node", version = EphemeralRecord::VERSION)]
    Version(u8),
    /// Nothing, or bytes that do not follow the encoding.
    #[error("malformed ephemeral record: {0}")]
    Malformed(#[from] postcard::Error),
    /// More follows after the record.
    #[error("{0} bytes follow an ephemeral record")]
    Trailing(usize),
    /// A pair has 1 to 16 lanes.
    #[error("an ephemeral record asks for {0} lanes: 1 to 16 are possible")]
    Lanes(u8),
}

impl EphemeralRecord {
    pub const VERSION: u8 = 1;

    /// Version byte, then postcard.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        bytes.extend(postcard::to_stdvec(self).expect("fixed fields encode"));
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let (version, body) = bytes
            .split_first()
            .ok_or(postcard::Error::DeserializeUnexpectedEnd)?;
        if *version != Self::VERSION {
            return Err(RecordError::Version(*version));
        }
        let (record, rest) = postcard::take_from_bytes::<Self>(body)?;
        if !rest.is_empty() {
            return Err(RecordError::Trailing(rest.len()));
        }
        if !(1..=16).contains(&record.lanes) {
            return Err(RecordError::Lanes(record.lanes));
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn every_key_is_another() {
        let mut rng = StdRng::seed_from_u64(1);
        assert_ne!(
            Ephemeral::random(&mut rng).public(),
            Ephemeral::random(&mut rng).public()
        );
    }

    #[test]
    fn debug_prints_the_public_half_alone() {
        let key = Ephemeral::from_bytes([0xab; 32]);
        let printed = format!("{key:?}");
        assert_eq!(printed, format!("Ephemeral({})", key.public()));
        assert!(!printed.contains("abab"));
    }

    proptest! {
        #[test]
        fn records_are_read_as_they_are_written(
            incarnation: u32, number: u32, hash: [u8; 8], generation: u64, public: [u8; 32], lanes in 1..=16u8,
        ) {
            let record = EphemeralRecord {
                epoch: EpochName { incarnation, number, hash },
                generation: Generation(generation),
                public: PublicKey::from_bytes(public),
                lanes,
            };
            let bytes = record.to_bytes();
            prop_assert_eq!(EphemeralRecord::from_bytes(&bytes), Ok(record));
            for len in 0..bytes.len() {
                prop_assert!(EphemeralRecord::from_bytes(&bytes[..len]).is_err());
            }
        }

        #[test]
        fn noise_is_refused_or_read_without_panic(bytes: Vec<u8>) {
            let _ = EphemeralRecord::from_bytes(&bytes);
        }
    }

    #[test]
    fn another_version_is_named() {
        assert_eq!(
            EphemeralRecord::from_bytes(&[9, 0]),
            Err(RecordError::Version(9))
        );
    }
}
