//! Keying material: zeroized when dropped, never printed.

use std::fmt;

use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 secret bytes: half of an epoch, the key of a manager's state, the secret of a token. It is
/// serialized as its bytes: only into what is itself encrypted (TLS, sealed state).
#[derive(Clone, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct Secret([u8; Self::LEN]);

impl Secret {
    pub const LEN: usize = 32;

    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Self([0; Self::LEN]);
        rng.fill_bytes(&mut secret.0);
        secret
    }

    /// The bytes for the key derivation or cipher that uses them, and for nothing else.
    pub const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// In constant time.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.0.as_slice(), other.0.as_slice()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// AES-256-GCM keying material of one ESP SA: 32-byte key ‖ 4-byte salt (RFC 4106 section 8.1).
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial(
    /// Boxed: what holds it is moved about, and each move would leave a copy behind. Without a key it is small.
    Box<[u8; Self::LEN]>,
);

impl KeyMaterial {
    pub const LEN: usize = 36;

    pub fn new(mut bytes: [u8; Self::LEN]) -> Self {
        let key = Self(Box::new(bytes));
        bytes.zeroize();
        key
    }

    /// The bytes for the system call that installs them, and for nothing else.
    pub fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMaterial(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_no_byte_of_the_key() {
        let printed = format!("{:?}", KeyMaterial::new([0xab; KeyMaterial::LEN]));
        assert_eq!(printed, "KeyMaterial(…)");
        let printed = format!("{:?}", Secret::new([0xab; Secret::LEN]));
        assert_eq!(printed, "Secret(…)");
    }
}
