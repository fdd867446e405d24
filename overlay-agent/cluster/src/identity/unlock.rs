//! The key of a manager's state, and what it is locked with.
//!
//! State is sealed with a *data key*, which never changes for a reason of keeping. The data key is
//! itself sealed: under the *unlock key*, which an operator keeps and types after a restart
//! (autolock), or under a *disk key* in a file beside it, which keeps nobody out who can read the
//! disk and lets the agent start by itself. To change the lock is to seal 32 bytes anew.

use std::{fmt, str::FromStr};

use rand::CryptoRng;
use zeroize::Zeroizing;

use super::{
    key_text::{self, KeyKind, KeyTextError},
    seal::{self, KeyId, OVERHEAD, SealError, SealKind, Sealer, Subject},
};
use crate::{id::ClusterId, secret::Secret};

/// What an operator unlocks a manager with: zeroized when dropped, never printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnlockKey(Secret);

/// What unlocks a manager without an operator, kept in a file that root alone can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskKey(Secret);

/// What the state is sealed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataKey(Secret);

impl UnlockKey {
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(Secret::random(rng))
    }

    /// `OVLKEY-1-<key>-<checksum>`: see [`key_text`].
    pub fn to_text(&self) -> Zeroizing<String> {
        key_text::write(KeyKind::Unlock, &self.0)
    }
}

impl FromStr for UnlockKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        key_text::read(KeyKind::Unlock, text).map(Self)
    }
}

impl DiskKey {
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(Secret::random(rng))
    }

    pub const fn new(key: Secret) -> Self {
        Self(key)
    }

    /// The key for the file that keeps it, and for nothing else.
    pub const fn secret(&self) -> &Secret {
        &self.0
    }
}

impl DataKey {
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self(Secret::random(rng))
    }

    /// What seals state, and opens it.
    pub fn sealer(&self, rng: &mut impl CryptoRng) -> Sealer {
        Sealer::new(&self.0, rng)
    }
}

/// What a data key is locked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Lock {
    /// With a key that is on this disk.
    Disk = 1,
    /// With a key that an operator has: autolock.
    Unlock = 2,
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "disk key",
            Self::Unlock => "unlock key",
        })
    }
}

/// A key for a lock.
#[derive(Debug, Clone, Copy)]
pub enum LockKey<'a> {
    Disk(&'a DiskKey),
    Unlock(&'a UnlockKey),
}

impl LockKey<'_> {
    pub const fn lock(&self) -> Lock {
        match self {
            Self::Disk(_) => Lock::Disk,
            Self::Unlock(_) => Lock::Unlock,
        }
    }

    const fn secret(&self) -> &Secret {
        match self {
            Self::Disk(DiskKey(key)) => key,
            Self::Unlock(UnlockKey(key)) => key,
        }
    }
}

/// Why the state stays locked. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnlockError {
    /// The other kind of key.
    #[error("the state is locked with {needed}, and the key given is {given}")]
    OtherLock {
        /// What it is locked with.
        needed: Lock,
        /// What was given.
        given: Lock,
    },
    /// A key of the right kind that is not the one.
    #[error(
        "the {lock} is wrong: the state is locked with {sealed}, this key is {given}; it was \
         changed, or it is that of another manager or cluster"
    )]
    WrongKey {
        /// The kind of key.
        lock: Lock,
        /// Name of the key that locks the state.
        sealed: KeyId,
        /// Name of the key that was given.
        given: KeyId,
    },
    /// Damaged on disk.
    #[error(
        "the file with the locked key is damaged: restore it from a backup, or remove this manager \
         and join it again"
    )]
    Damaged,
    /// Of a later version.
    #[error("the file with the locked key is of another version: update this program")]
    Version,
}

/// A data key as it is kept on disk: locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedKey {
    lock: Lock,
    blob: [u8; BLOB_LEN],
}

const BLOB_LEN: usize = Secret::LEN + OVERHEAD;

impl LockedKey {
    /// `version (1) ‖ lock (1) ‖ sealed data key`.
    pub const LEN: usize = 2 + BLOB_LEN;
    const VERSION: u8 = 1;

    /// Locks a data key.
    pub fn new(
        data: &DataKey,
        key: LockKey<'_>,
        cluster: ClusterId,
        rng: &mut impl CryptoRng,
    ) -> Self {
        let lock = key.lock();
        let blob = Sealer::new(key.secret(), rng)
            .seal(subject(lock, cluster), data.0.expose(), rng)
            .ok()
            .and_then(|blob| blob.try_into().ok())
            .expect("32 bytes are sealed as 85");
        Self { lock, blob }
    }

    /// What must be given to unlock it.
    pub const fn lock(&self) -> Lock {
        self.lock
    }

    pub fn unlock(&self, key: LockKey<'_>, cluster: ClusterId) -> Result<DataKey, UnlockError> {
        if key.lock() != self.lock {
            return Err(UnlockError::OtherLock {
                needed: self.lock,
                given: key.lock(),
            });
        }
        match seal::open(key.secret(), subject(self.lock, cluster), &self.blob) {
            Ok(plain) => plain
                .as_slice()
                .try_into()
                .map(|bytes| DataKey(Secret::new(bytes)))
                .map_err(|_| UnlockError::Damaged),
            Err(SealError::WrongKey { sealed, given }) => Err(UnlockError::WrongKey {
                lock: self.lock,
                sealed,
                given,
            }),
            Err(SealError::Version { .. }) => Err(UnlockError::Version),
            Err(_) => Err(UnlockError::Damaged),
        }
    }

    /// The same data key under another lock: a new unlock key, or autolock turned on or off. The
    /// state that it seals stays as it is. Whoever kept the old file and its key still has the data
    /// key.
    pub fn relock(
        &self,
        old: LockKey<'_>,
        new: LockKey<'_>,
        cluster: ClusterId,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, UnlockError> {
        let data = self.unlock(old, cluster)?;
        Ok(Self::new(&data, new, cluster, rng))
    }

    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[0] = Self::VERSION;
        bytes[1] = self.lock as u8;
        bytes[2..].copy_from_slice(&self.blob);
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, UnlockError> {
        let (&[version, lock], blob) = bytes.split_first_chunk().ok_or(UnlockError::Damaged)?;
        if version != Self::VERSION {
            return Err(UnlockError::Version);
        }
        let lock = [Lock::Disk, Lock::Unlock]
            .into_iter()
            .find(|it| *it as u8 == lock)
            .ok_or(UnlockError::Damaged)?;
        let blob = blob.try_into().map_err(|_| UnlockError::Damaged)?;
        Ok(Self { lock, blob })
    }
}

const fn subject(lock: Lock, cluster: ClusterId) -> Subject {
    Subject {
        cluster,
        kind: SealKind::DataKey,
        number: lock as u64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{
        testing::{CLUSTER, flipped, mangled, rng},
        text::DigitsError,
    };

    fn unlock_key(seed: u64) -> UnlockKey {
        UnlockKey::generate(&mut rng(seed))
    }

    fn data_key() -> DataKey {
        DataKey::generate(&mut rng(1))
    }

    #[test]
    fn the_format_is_this_one() {
        let key = UnlockKey(Secret::new(std::array::from_fn(|i| i as u8)));
        let text = "OVLKEY-1-AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPQ-632BC4T2";
        assert_eq!(key.to_text().as_str(), text);
        assert_eq!(text.len(), key_text::TEXT_LEN);
        assert_eq!(text.parse(), Ok(key));
    }

    #[test]
    fn mistakes_in_copying_are_named_and_nothing_is_quoted() {
        let text = unlock_key(1).to_text();
        let secret = &text[9..61];
        let kind = KeyKind::Unlock;
        let cases = [
            (String::new(), KeyTextError::NotAKey { kind }),
            (format!("\n{}", *text), KeyTextError::NotAKey { kind }),
            (text.replace("-1-", "-2-"), KeyTextError::Version { kind }),
            (
                text[..61].to_owned(),
                KeyTextError::Groups { kind, found: 3 },
            ),
            (
                format!("{}-A", *text),
                KeyTextError::Groups { kind, found: 5 },
            ),
            (
                text.replace(secret, &secret[1..]),
                KeyTextError::Key {
                    kind,
                    error: DigitsError::Length {
                        found: 51,
                        expected: 52,
                    },
                },
            ),
            (
                text.replace(
                    &secret[..1],
                    if secret.starts_with('A') { "B" } else { "A" },
                ),
                KeyTextError::Checksum { kind },
            ),
        ];
        for (changed, expected) in cases {
            let error = changed.parse::<UnlockKey>().expect_err("damaged");
            assert_eq!(error, expected);
            assert!(!error.to_string().contains(&secret[10..20]));
        }
        let printed = format!("{:?}", unlock_key(1));
        assert_eq!(printed, "UnlockKey(Secret(…))");
    }

    #[test]
    fn a_locked_key_is_unlocked_by_its_key_alone() {
        let (key, other) = (unlock_key(1), unlock_key(2));
        let disk = DiskKey::generate(&mut rng(3));
        let locked = LockedKey::new(&data_key(), LockKey::Unlock(&key), CLUSTER, &mut rng(4));
        assert_eq!(locked.lock(), Lock::Unlock);
        assert_eq!(
            locked.unlock(LockKey::Unlock(&key), CLUSTER),
            Ok(data_key())
        );
        let wrong = locked.unlock(LockKey::Unlock(&other), CLUSTER);
        let error = wrong.expect_err("another key");
        assert!(
            matches!(error, UnlockError::WrongKey { sealed, .. } if sealed == KeyId::of(&key.0)),
            "{error}"
        );
        assert_eq!(
            locked.unlock(LockKey::Disk(&disk), CLUSTER),
            Err(UnlockError::OtherLock {
                needed: Lock::Unlock,
                given: Lock::Disk
            })
        );
        // A key that happens to be the same is still not of this kind.
        let same = DiskKey::new(key.0.clone());
        assert!(locked.unlock(LockKey::Disk(&same), CLUSTER).is_err());
        let elsewhere = ClusterId::from_bytes([2; 16]);
        assert_eq!(
            locked.unlock(LockKey::Unlock(&key), elsewhere),
            Err(UnlockError::Damaged)
        );
    }

    #[test]
    fn the_lock_changes_and_the_state_does_not() {
        let rng = &mut rng(1);
        let disk = DiskKey::generate(rng);
        let data = DataKey::generate(rng);
        let subject = Subject {
            cluster: CLUSTER,
            kind: SealKind::Snapshot,
            number: 1,
        };
        let state = data
            .sealer(rng)
            .seal(subject, b"state", rng)
            .expect("seals");
        let opens = |locked: &LockedKey, key: LockKey<'_>| {
            let data = locked.unlock(key, CLUSTER).expect("unlocks");
            let sealer = data.sealer(&mut crate::identity::testing::rng(9));
            sealer.open(subject, &state).expect("opens").as_slice() == b"state"
        };
        let unlocked = LockedKey::new(&data, LockKey::Disk(&disk), CLUSTER, rng);
        assert!(opens(&unlocked, LockKey::Disk(&disk)));

        let (first, second) = (unlock_key(1), unlock_key(2));
        let by_first = LockKey::Unlock(&first);
        let by_second = LockKey::Unlock(&second);
        let autolock = unlocked
            .relock(LockKey::Disk(&disk), by_first, CLUSTER, rng)
            .expect("relocks");
        assert!(opens(&autolock, by_first));

        let before = autolock.clone();
        assert!(autolock.relock(by_second, by_second, CLUSTER, rng).is_err());
        assert_eq!(autolock, before);

        let changed = autolock
            .relock(by_first, by_second, CLUSTER, rng)
            .expect("relocks");
        assert!(opens(&changed, by_second));
        assert!(changed.unlock(by_first, CLUSTER).is_err());
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let key = unlock_key(1);
        let locked = LockedKey::new(&data_key(), LockKey::Unlock(&key), CLUSTER, &mut rng(4));
        let opens = |bytes: &[u8]| {
            LockedKey::from_bytes(bytes)
                .is_ok_and(|locked| locked.unlock(LockKey::Unlock(&key), CLUSTER).is_ok())
        };
        let bytes = locked.to_bytes();
        assert!(opens(&bytes));
        for (bit, changed) in flipped(&bytes) {
            assert!(!opens(&changed), "bit {bit}");
        }
        for changed in mangled(&bytes, 1) {
            assert!(changed == bytes || !opens(&changed));
        }
        let text = key.to_text();
        for (bit, changed) in flipped(text.as_bytes()) {
            let read =
                String::from_utf8(changed).is_ok_and(|text| text.parse::<UnlockKey>().is_ok());
            assert!(!read, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn parse_noise(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            text in "(OVLKEY-1-)?.{0,80}",
        ) {
            if let Ok(locked) = LockedKey::from_bytes(&bytes) {
                _ = locked.unlock(LockKey::Unlock(&unlock_key(1)), CLUSTER);
            }
            prop_assert!(text.parse::<UnlockKey>().is_err());
        }

        #[test]
        fn parse_back(seed: u64) {
            let key = unlock_key(seed);
            prop_assert_eq!(key.to_text().parse(), Ok(key.clone()));
            let locked = LockedKey::new(&data_key(), LockKey::Unlock(&key), CLUSTER, &mut rng(seed));
            prop_assert_eq!(LockedKey::from_bytes(&locked.to_bytes()), Ok(locked));
        }
    }
}
