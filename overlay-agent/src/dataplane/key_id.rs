//! The name of a key: tells keys apart and reveals nothing of them.

use std::{fmt, str::FromStr};

use sha2::{Digest as _, Sha256};

use crate::secret::KeyMaterial;

/// First 8 bytes of SHA-256 over the keying material of an SA. The material is 36 uniformly random
/// bytes, so the hash gives no way back to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl KeyId {
    pub fn of(material: &KeyMaterial) -> Self {
        let mut id = [0; 8];
        id.copy_from_slice(&Sha256::digest(material.expose())[..8]);
        Self(id)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 16 hexadecimal digits.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a key id: 16 hexadecimal digits")]
pub struct ParseKeyIdError(String);

impl FromStr for KeyId {
    type Err = ParseKeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseKeyIdError(text.to_owned());
        if text.len() != 16 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(error());
        }
        u64::from_str_radix(text, 16)
            .map(|id| Self(id.to_be_bytes()))
            .map_err(|_| error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_id_is_the_head_of_the_hash_and_parses_back() {
        let id = KeyId::of(&KeyMaterial::new([0; KeyMaterial::LEN]));
        // printf '\0%.0s' {1..36} | sha256sum
        assert_eq!(id.to_string(), "6db65fd59fd356f6");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn key_id_refuses_what_is_not_sixteen_digits() {
        for text in [
            "",
            "+db65fd59fd356f6",
            "6db65fd59fd356f",
            "6db65fd59fd356f60",
            "é",
        ] {
            assert!(text.parse::<KeyId>().is_err(), "{text}");
        }
    }
}
