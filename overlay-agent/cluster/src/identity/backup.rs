//! A backup of the managers' state, as one file.
//!
//! `magic (8) ‖ version (1) ‖ cluster (16) ‖ made (8) ‖ length (8) ‖ sealed state`; numbers are
//! big-endian, times in milliseconds. The state is sealed ([`seal`](super::seal)) with a key that the
//! operator keeps, as what the header says it is: a changed header opens nothing.

use std::str::FromStr;

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::{
    key_text::{self, KeyKind, KeyTextError},
    seal::{self, KeyId, SealError, SealKind, Sealer, Subject},
};
use crate::{
    id::ClusterId,
    log::{snapshot, state::State, wire::DecodeError},
    secret::Secret,
    time::Timestamp,
};

const MAGIC: &[u8; 8] = b"OVLBACKU";
const VERSION: u8 = 1;
const HEADER_LEN: usize = MAGIC.len() + 1 + 16 + 8 + 8;

/// Bytes of a backup at the most.
pub const MAX_LEN: usize = HEADER_LEN + seal::OVERHEAD + snapshot::MAX_LEN;

/// What opens a backup: given to the operator once, zeroized when dropped, never printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupKey(Secret);

impl BackupKey {
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(Secret::random(rng))
    }

    /// `OVLBAK-1-<key>-<checksum>`: see [`key_text`].
    pub fn to_text(&self) -> Zeroizing<String> {
        key_text::write(KeyKind::Backup, &self.0)
    }
}

impl FromStr for BackupKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        key_text::read(KeyKind::Backup, text).map(Self)
    }
}

/// Why a backup is not made, or not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    /// There is nothing to keep.
    #[error("there is no cluster yet, so there is nothing to back up")]
    Empty,
    /// Something else.
    #[error("this is no backup of an overlay cluster: name the file that `overlay backup` wrote")]
    NotABackup,
    /// Of a later version.
    #[error(
        "the backup has version {version}, and this release reads version {VERSION}: restore it with \
         the release that wrote it, or a later one"
    )]
    Version {
        /// The version that it names.
        version: u8,
    },
    /// Not all of it.
    #[error(
        "the backup is cut off: {found} bytes of {expected} are there; copy it again, or take an \
         older one"
    )]
    CutOff {
        /// Bytes that are there.
        found: u64,
        /// Bytes that it had.
        expected: u64,
    },
    /// More than it.
    #[error("the backup is followed by {extra} bytes that are none of it: copy it again")]
    Trailing {
        /// How many.
        extra: u64,
    },
    /// Of another cluster than the one that is to be restored.
    #[error("the backup is of cluster {theirs}, and {ours} is to be restored: take one of that")]
    ForeignCluster {
        /// The backup's.
        theirs: ClusterId,
        /// The wanted one.
        ours: ClusterId,
    },
    /// Made with another key.
    #[error(
        "the backup key is wrong: this backup was made with key {sealed}, and the one given is \
         {given}; each backup has the key that was printed when it was made"
    )]
    WrongKey {
        /// Name of the key it was made with.
        sealed: KeyId,
        /// Name of the key that was given.
        given: KeyId,
    },
    /// Changed since.
    #[error("the backup was damaged or changed since it was made: copy it again, or take another")]
    Damaged,
    /// It opens, and cannot be.
    #[error("the state in the backup cannot be used: {0}")]
    State(#[from] DecodeError),
    /// More than the cipher takes.
    #[error("the state is too large for a backup: {0}")]
    TooLong(SealError),
}

/// A backup whose state is not opened yet: what it says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backup<'a> {
    /// Nothing proves it before [`Backup::open`].
    pub cluster: ClusterId,
    /// When it was made, by the clock of the manager.
    pub made: Timestamp,
    sealed: &'a [u8],
}

const fn subject(cluster: ClusterId, made: Timestamp) -> Subject {
    Subject {
        cluster,
        kind: SealKind::Backup,
        number: made.as_millis(),
    }
}

impl<'a> Backup<'a> {
    /// A backup of the state, as bytes.
    pub fn seal(
        state: &State,
        made: Timestamp,
        key: &BackupKey,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, BackupError> {
        let cluster = state.cluster().ok_or(BackupError::Empty)?.id();
        let sealed = Sealer::new(&key.0, rng)
            .seal(subject(cluster, made), &state.encode(), rng)
            .map_err(BackupError::TooLong)?;
        let mut bytes = Vec::with_capacity(HEADER_LEN + sealed.len());
        bytes.extend(MAGIC);
        bytes.push(VERSION);
        bytes.extend(cluster.as_bytes());
        bytes.extend(made.as_millis().to_be_bytes());
        bytes.extend((sealed.len() as u64).to_be_bytes());
        bytes.extend(sealed);
        Ok(bytes)
    }

    /// What `bytes` say that they are.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BackupError> {
        let cut_off = BackupError::CutOff {
            found: bytes.len() as u64,
            expected: (HEADER_LEN + seal::OVERHEAD) as u64,
        };
        let Some(rest) = bytes.strip_prefix(MAGIC) else {
            let begun = !bytes.is_empty() && MAGIC.starts_with(bytes);
            return Err(if begun {
                cut_off
            } else {
                BackupError::NotABackup
            });
        };
        let (version, rest) = rest.split_first().ok_or(cut_off.clone())?;
        if *version != VERSION {
            return Err(BackupError::Version { version: *version });
        }
        let (cluster, rest) = rest.split_first_chunk().ok_or(cut_off.clone())?;
        let (made, rest) = rest.split_first_chunk().ok_or(cut_off.clone())?;
        let (length, sealed) = rest.split_first_chunk().ok_or(cut_off)?;
        let (expected, found) = (u64::from_be_bytes(*length), sealed.len() as u64);
        if found < expected {
            return Err(BackupError::CutOff {
                found: bytes.len() as u64,
                expected: expected.saturating_add(HEADER_LEN as u64),
            });
        }
        if found > expected {
            return Err(BackupError::Trailing {
                extra: found - expected,
            });
        }
        Ok(Self {
            cluster: ClusterId::from_bytes(*cluster),
            made: Timestamp::from_millis(u64::from_be_bytes(*made)),
            sealed,
        })
    }

    /// The state, if the key is the backup's, and the cluster the one that is `wanted`, if any is.
    pub fn open(&self, key: &BackupKey, wanted: Option<ClusterId>) -> Result<State, BackupError> {
        let theirs = self.cluster;
        if let Some(ours) = wanted.filter(|ours| *ours != theirs) {
            return Err(BackupError::ForeignCluster { theirs, ours });
        }
        let plain = match seal::open(&key.0, subject(theirs, self.made), self.sealed) {
            Ok(plain) => plain,
            Err(SealError::WrongKey { sealed, given }) => {
                return Err(BackupError::WrongKey { sealed, given });
            }
            Err(_) => return Err(BackupError::Damaged),
        };
        let state = State::decode(&plain)?;
        match state.cluster() {
            Some(cluster) if cluster.id() == theirs => Ok(state),
            Some(_) | None => Err(BackupError::Damaged),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;
    use crate::log::samples::{CLUSTER, founded, join, now};

    fn key(seed: u64) -> BackupKey {
        BackupKey::generate(&mut StdRng::seed_from_u64(seed))
    }

    fn backup() -> (State, Vec<u8>) {
        let mut state = founded();
        join(&mut state, 2);
        let rng = &mut StdRng::seed_from_u64(9);
        let bytes = Backup::seal(&state, now(7), &key(1), rng).expect("seals");
        (state, bytes)
    }

    #[test]
    fn what_was_backed_up_is_what_is_restored() {
        let (state, bytes) = backup();
        let backup = Backup::parse(&bytes).expect("a backup");
        assert_eq!((backup.cluster, backup.made), (CLUSTER, now(7)));
        assert_eq!(backup.open(&key(1), Some(CLUSTER)), Ok(state.clone()));
        assert_eq!(backup.open(&key(1), None), Ok(state));
    }

    #[test]
    fn each_mistake_has_its_own_words() {
        let (_, bytes) = backup();
        let backup = Backup::parse(&bytes).expect("a backup");
        let wrong = backup.open(&key(2), None);
        assert!(matches!(wrong, Err(BackupError::WrongKey { .. })));
        let ours = ClusterId::from_bytes([9; 16]);
        assert_eq!(
            backup.open(&key(1), Some(ours)),
            Err(BackupError::ForeignCluster {
                theirs: CLUSTER,
                ours
            })
        );
        for len in 1..bytes.len() {
            let cut = Backup::parse(&bytes[..len]);
            assert!(matches!(cut, Err(BackupError::CutOff { .. })), "{len}");
        }
        assert_eq!(Backup::parse(b""), Err(BackupError::NotABackup));
        assert_eq!(Backup::parse(b"[settings]"), Err(BackupError::NotABackup));
        let longer = [bytes.as_slice(), b"\n"].concat();
        assert_eq!(
            Backup::parse(&longer),
            Err(BackupError::Trailing { extra: 1 })
        );
        let mut later = bytes;
        later[MAGIC.len()] = 2;
        assert_eq!(
            Backup::parse(&later),
            Err(BackupError::Version { version: 2 })
        );
        let rng = &mut StdRng::seed_from_u64(9);
        let empty = Backup::seal(&State::default(), now(7), &key(1), rng);
        assert_eq!(empty, Err(BackupError::Empty));
    }

    #[test]
    fn no_changed_bit_is_restored() {
        let (_, bytes) = backup();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let opened = Backup::parse(&changed).and_then(|backup| backup.open(&key(1), None));
            assert!(opened.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_key_is_written_and_read_and_is_no_unlock_key() {
        let key = key(1);
        let text = key.to_text();
        assert_eq!(text.len(), key_text::TEXT_LEN);
        assert_eq!(text.parse(), Ok(key.clone()));
        assert!(text.parse::<crate::identity::unlock::UnlockKey>().is_err());
        assert!(!format!("{key:?}").contains(&text[9..20]));
    }

    proptest! {
        #[test]
        fn parse_noise(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            for bytes in [tail.clone(), [MAGIC.as_slice(), &[VERSION], &tail].concat()] {
                if let Ok(backup) = Backup::parse(&bytes) {
                    prop_assert!(backup.open(&key(1), None).is_err());
                }
            }
        }
    }
}
