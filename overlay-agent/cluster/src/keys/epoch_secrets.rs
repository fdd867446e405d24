//! The two secrets of an epoch.

use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{id::EpochName, secret::Secret};

/// Separates the name of an epoch from every other hash of its secrets.
const NAME_LABEL: &[u8] = b"overlay-cluster/epoch-name/v1";

/// The secrets of one epoch: independent, so that neither gives away the other. They are serialized
/// only into what is itself encrypted: TLS, and the sealed state of a manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochSecrets {
    /// G_e: keys of gossip datagrams follow from it.
    pub gossip: Secret,
    /// S_e: keys of SAs follow from it and from a pair's ephemeral keys.
    pub data: Secret,
}

/// Secrets that are not those of the epoch which they were offered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the secrets offered for epoch {expected:?} are those of {found:?}: pull them again from a manager of this cluster"
)]
pub struct WrongSecrets {
    pub expected: EpochName,
    pub found: EpochName,
}

impl EpochSecrets {
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self {
            gossip: Secret::random(rng),
            data: Secret::random(rng),
        }
    }

    /// The name of the epoch `number` with these secrets. Its hash is the first 8 bytes of
    /// `SHA-256(label ‖ G_e ‖ S_e)`: of 512 random bits it reveals nothing that could be searched.
    pub fn name(&self, incarnation: u32, number: u32) -> EpochName {
        let digest: [u8; 32] = Sha256::new()
            .chain_update(NAME_LABEL)
            .chain_update(self.gossip.expose())
            .chain_update(self.data.expose())
            .finalize()
            .into();
        let mut hash = [0; 8];
        hash.copy_from_slice(&digest[..8]);
        EpochName {
            incarnation,
            number,
            hash,
        }
    }

    /// Whether these are the secrets of the epoch `expected`.
    pub fn check(&self, expected: EpochName) -> Result<(), WrongSecrets> {
        let found = self.name(expected.incarnation, expected.number);
        if found == expected {
            Ok(())
        } else {
            Err(WrongSecrets { expected, found })
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn the_name_of_an_epoch_tells_secrets_of_one_number_apart() {
        let mut rng = StdRng::seed_from_u64(1);
        let (ours, others) = (
            EpochSecrets::random(&mut rng),
            EpochSecrets::random(&mut rng),
        );
        let name = ours.name(0, 7);
        assert_eq!(ours.check(name), Ok(()));
        assert_eq!(
            others.check(name),
            Err(WrongSecrets {
                expected: name,
                found: others.name(0, 7)
            })
        );
    }

    #[test]
    fn the_name_depends_on_both_secrets() {
        let secrets = |gossip, data| EpochSecrets {
            gossip: Secret::new([gossip; 32]),
            data: Secret::new([data; 32]),
        };
        let name = secrets(1, 2).name(0, 1);
        assert_ne!(secrets(1, 3).name(0, 1), name);
        assert_ne!(secrets(3, 2).name(0, 1), name);
        assert_ne!(secrets(2, 1).name(0, 1), name);
    }

    #[test]
    fn secrets_are_read_as_they_are_written() {
        let secrets = EpochSecrets::random(&mut StdRng::seed_from_u64(2));
        let bytes = postcard::to_stdvec(&secrets).expect("encodes");
        assert_eq!(bytes.len(), 64);
        assert_eq!(postcard::from_bytes(&bytes), Ok(secrets));
    }

    #[test]
    fn debug_prints_no_byte_of_the_secrets() {
        let secrets = EpochSecrets {
            gossip: Secret::new([0xab; 32]),
            data: Secret::new([0xcd; 32]),
        };
        assert_eq!(
            format!("{secrets:?}"),
            "EpochSecrets { gossip: Secret(…), data: Secret(…) }"
        );
    }
}
