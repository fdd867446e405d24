//! A manager's state at rest, sealed with AES-256-GCM.
//!
//! A sealed blob is `version (1) ‖ key id (8) ‖ session (16) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`.
//! All before the ciphertext is authenticated, and with it the cluster, the kind and the number of
//! what is sealed, so that one blob cannot be put in another's place. That an old blob was put back
//! in its own place is not noticed here.
//!
//! Nonces are random. That is safe for 2^32 seals under one AES key (NIST SP 800-38D section 8.3:
//! two equal nonces with a probability below 2^-32), and a count that must survive restarts could
//! be lost. So the AES key is that of a *session*: `HKDF-SHA256(key, label ‖ session)` with a
//! random session name. Each [`Sealer`] draws its own and another one before it has sealed 2^32
//! blobs; the key itself wears out with neither time nor restarts.

use std::fmt;

use aes_gcm::{
    Aes256Gcm, KeyInit as _,
    aead::{Aead as _, Payload},
};
use data_encoding::HEXLOWER;
use hkdf::Hkdf;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::{id::ClusterId, secret::Secret};

const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 8;
const SESSION_LEN: usize = 16;
const NONCE_LEN: usize = 12;
const TAG_LEN: usize = 16;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + SESSION_LEN + NONCE_LEN;

/// By how much a blob is longer than what is in it.
pub const OVERHEAD: usize = HEADER_LEN + TAG_LEN;

/// Seals under one AES key.
const SEALS_PER_SESSION: u64 = 1 << 32;

/// Kinds of what is sealed. The numbers are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SealKind {
    /// The data key itself, under an unlock key or a disk key.
    DataKey = 1,
    /// An entry of the managers' log, by its index.
    LogEntry = 2,
    /// A snapshot of the replicated state, by the index of its last entry.
    Snapshot = 3,
    /// The key of the cluster's authority, by the first 8 bytes of its root's digest.
    AuthorityKey = 4,
    /// The key of this node.
    NodeKey = 5,
    /// What the managers' consensus keeps beside the log: vote, last committed index, membership.
    Consensus = 6,
    /// A backup of the replicated state, by the time at which it was made.
    Backup = 7,
}

/// What is sealed: it is opened only as the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Subject {
    pub cluster: ClusterId,
    pub kind: SealKind,
    /// Which one of its kind.
    pub number: u64,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster,
            kind,
            number,
        } = self;
        write!(f, "{kind:?} {number} of cluster {cluster}")
    }
}

/// Name of a key: the first 8 bytes of a hash of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyId([u8; KEY_ID_LEN]);

impl KeyId {
    pub fn of(key: &Secret) -> Self {
        let hash: [u8; 32] = Sha256::new()
            .chain_update(b"overlay-cluster seal key id v1\0")
            .chain_update(key.expose())
            .finalize()
            .into();
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&hash[..KEY_ID_LEN]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a blob is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Cut off, or no blob.
    #[error("{len} bytes are no sealed state: it has at least {OVERHEAD}")]
    TooShort {
        /// Its length in bytes.
        len: usize,
    },
    /// Of a later version.
    #[error(
        "the state is sealed in version {version}, and this program knows version {VERSION}: \
         update it, or restore a backup"
    )]
    Version {
        /// The version that it names.
        version: u8,
    },
    /// Sealed with another key.
    #[error(
        "the state is sealed with key {sealed}, and the key given is {given}: give the other key"
    )]
    WrongKey {
        /// The key that it names.
        sealed: KeyId,
        /// The key that was tried.
        given: KeyId,
    },
    /// Changed since it was sealed, or sealed as something else.
    #[error(
        "what is stored as {subject} was damaged or exchanged since it was sealed: restore a \
         backup, or remove this manager and join it again"
    )]
    Damaged {
        /// What was looked for.
        subject: Subject,
    },
    /// More than the cipher takes.
    #[error("{len} bytes are too many to seal as {subject}")]
    TooLong {
        /// What was to be sealed.
        subject: Subject,
        /// Its length.
        len: usize,
    },
}

/// A key with which things are sealed and opened.
pub struct Sealer {
    key: Secret,
    id: KeyId,
    session: [u8; SESSION_LEN],
    cipher: Aes256Gcm,
    left: u64,
    per_session: u64,
}

impl Sealer {
    pub fn new(key: &Secret, rng: &mut impl CryptoRng) -> Self {
        Self::with_limit(key, SEALS_PER_SESSION, rng)
    }

    fn with_limit(key: &Secret, per_session: u64, rng: &mut impl CryptoRng) -> Self {
        let session = random(rng);
        Self {
            cipher: cipher(key, &session),
            id: KeyId::of(key),
            key: key.clone(),
            session,
            left: per_session,
            per_session,
        }
    }

    pub const fn key_id(&self) -> KeyId {
        self.id
    }

    /// `plain` as a blob, [`OVERHEAD`] bytes longer.
    pub fn seal(
        &mut self,
        subject: Subject,
        plain: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, SealError> {
        if self.left == 0 {
            self.session = random(rng);
            self.cipher = cipher(&self.key, &self.session);
            self.left = self.per_session;
        }
        self.left -= 1;
        let nonce: [u8; NONCE_LEN] = random(rng);
        let mut blob = Vec::with_capacity(plain.len() + OVERHEAD);
        blob.push(VERSION);
        blob.extend(self.id.0);
        blob.extend(self.session);
        blob.extend(nonce);
        let sealed = self
            .cipher
            .encrypt(
                &nonce.into(),
                Payload {
                    msg: plain,
                    aad: &associated(&blob, subject),
                },
            )
            .map_err(|_| SealError::TooLong {
                subject,
                len: plain.len(),
            })?;
        blob.extend(sealed);
        Ok(blob)
    }

    /// What is in a blob: see [`open`].
    pub fn open(&self, subject: Subject, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        open(&self.key, subject, blob)
    }
}

/// What is in a blob, if it was sealed with this key as `subject`.
pub fn open(key: &Secret, subject: Subject, blob: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let too_short = SealError::TooShort { len: blob.len() };
    if blob.len() < OVERHEAD {
        return Err(too_short);
    }
    let (header, sealed) = blob.split_at(HEADER_LEN);
    let (version, rest) = header.split_first().ok_or(too_short)?;
    let (key_id, rest) = rest.split_first_chunk().ok_or(too_short)?;
    let (session, nonce) = rest.split_first_chunk().ok_or(too_short)?;
    let nonce: &[u8; NONCE_LEN] = nonce.try_into().map_err(|_| too_short)?;
    if *version != VERSION {
        return Err(SealError::Version { version: *version });
    }
    let (sealed_with, given) = (KeyId(*key_id), KeyId::of(key));
    if sealed_with != given {
        return Err(SealError::WrongKey {
            sealed: sealed_with,
            given,
        });
    }
    let payload = Payload {
        msg: sealed,
        aad: &associated(header, subject),
    };
    cipher(key, session)
        .decrypt(&(*nonce).into(), payload)
        .map(Zeroizing::new)
        .map_err(|_| SealError::Damaged { subject })
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({})", self.id)
    }
}

fn random<const N: usize>(rng: &mut impl CryptoRng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

fn cipher(key: &Secret, session: &[u8; SESSION_LEN]) -> Aes256Gcm {
    let mut derived = Zeroizing::new([0; 32]);
    // Random keys need no salt (RFC 5869 section 3.3).
    Hkdf::<Sha256>::new(None, key.expose())
        .expand_multi_info(
            &[b"overlay-cluster seal session v1\0", session],
            derived.as_mut_slice(),
        )
        .expect("32 bytes are one block");
    Aes256Gcm::new(derived.as_slice().try_into().expect("32 bytes"))
}

/// What is authenticated beside the ciphertext: every part has a fixed length.
fn associated(header: &[u8], subject: Subject) -> Vec<u8> {
    let Subject {
        cluster,
        kind,
        number,
    } = subject;
    [
        b"overlay-cluster seal v1\0",
        header,
        cluster.as_bytes(),
        &[kind as u8],
        &number.to_be_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::identity::testing::{CLUSTER, flipped, mangled, rng};

    const ENTRY: Subject = Subject {
        cluster: CLUSTER,
        kind: SealKind::LogEntry,
        number: 7,
    };

    fn sealer(key: u8, seed: u64) -> Sealer {
        Sealer::new(&Secret::new([key; 32]), &mut rng(seed))
    }

    #[test]
    fn a_later_process_opens_what_an_earlier_one_sealed() {
        let blob = sealer(1, 1)
            .seal(ENTRY, b"state", &mut rng(2))
            .expect("seals");
        assert_eq!(blob.len(), b"state".len() + OVERHEAD);
        let opened = sealer(1, 3).open(ENTRY, &blob).expect("opens");
        assert_eq!(opened.as_slice(), b"state");
    }

    #[test]
    fn another_key_is_named() {
        let blob = sealer(1, 1)
            .seal(ENTRY, b"state", &mut rng(2))
            .expect("seals");
        let other = sealer(2, 1);
        let error = other.open(ENTRY, &blob).expect_err("another key");
        assert_eq!(
            error,
            SealError::WrongKey {
                sealed: sealer(1, 9).key_id(),
                given: other.key_id()
            }
        );
    }

    #[test]
    fn a_blob_is_opened_only_in_its_own_place() {
        let sealer = &mut sealer(1, 1);
        let blob = sealer.seal(ENTRY, b"state", &mut rng(2)).expect("seals");
        let elsewhere = [
            Subject { number: 8, ..ENTRY },
            Subject {
                kind: SealKind::Snapshot,
                ..ENTRY
            },
            Subject {
                cluster: ClusterId::from_bytes([2; 16]),
                ..ENTRY
            },
        ];
        for subject in elsewhere {
            assert_eq!(
                sealer.open(subject, &blob).expect_err("exchanged"),
                SealError::Damaged { subject }
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let sealer = &mut sealer(1, 1);
        let blob = sealer
            .seal(ENTRY, b"some state", &mut rng(2))
            .expect("seals");
        for (bit, changed) in flipped(&blob) {
            assert!(sealer.open(ENTRY, &changed).is_err(), "bit {bit}");
        }
        for changed in mangled(&blob, 1) {
            assert!(changed == blob || sealer.open(ENTRY, &changed).is_err());
        }
        for cut in 0..OVERHEAD {
            let error = sealer.open(ENTRY, &blob[..cut]).expect_err("cut");
            assert_eq!(error, SealError::TooShort { len: cut });
        }
    }

    #[test]
    fn the_aes_key_changes_before_it_wears_out() {
        let (key, rng) = (Secret::new([1; 32]), &mut rng(1));
        let mut sealer = Sealer::with_limit(&key, 3, rng);
        let blobs: Vec<_> = (0..10)
            .map(|_| sealer.seal(ENTRY, b"state", rng).expect("seals"))
            .collect();
        let sessions: HashSet<_> = blobs.iter().map(|blob| &blob[9..25]).collect();
        assert_eq!(sessions.len(), 4);
        let nonces: HashSet<_> = blobs.iter().map(|blob| &blob[25..37]).collect();
        assert_eq!(nonces.len(), 10);
        for blob in &blobs {
            assert!(sealer.open(ENTRY, blob).is_ok());
        }
    }

    #[test]
    fn it_prints_no_key() {
        let sealer = sealer(0xab, 1);
        assert_eq!(
            format!("{sealer:?}"),
            format!("Sealer({})", sealer.key_id())
        );
    }

    proptest! {
        #[test]
        fn parse_noise(blob in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(sealer(1, 1).open(ENTRY, &blob).is_err());
        }

        #[test]
        fn parse_back(plain in proptest::collection::vec(any::<u8>(), 0..200), number: u64, seed: u64) {
            let subject = Subject { number, ..ENTRY };
            let mut sealer = sealer(1, seed);
            let blob = sealer.seal(subject, &plain, &mut rng(seed)).expect("seals");
            let opened = sealer.open(subject, &blob).unwrap();
            prop_assert_eq!(opened.as_slice(), plain.as_slice());
        }
    }
}
