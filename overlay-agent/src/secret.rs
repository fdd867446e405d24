//! Keying material: zeroized when dropped, never printed.

use std::fmt;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// AES-256-GCM keying material of one ESP SA: 32-byte key ‖ 4-byte salt (RFC 4106 section 8.1).
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct KeyMaterial([u8; Self::LEN]);

impl KeyMaterial {
    pub const LEN: usize = 36;

    pub fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
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
    }
}
