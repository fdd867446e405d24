//! Secrets as text that people copy: base32 (RFC 4648, without padding) in groups, and a checksum
//! that tells a mistake in copying from a secret that is wrong.

use data_encoding::BASE32_NOPAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Bytes of a checksum: one mistake in 2^40 is not noticed.
const CHECKSUM_LEN: usize = 5;

/// What is wrong with a group of digits. Nothing of it is quoted: it may be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DigitsError {
    /// Something is missing or was added.
    #[error("it has {found} characters instead of {expected}")]
    Length {
        /// Length in bytes.
        found: usize,
        /// What it should be.
        expected: usize,
    },
    /// A character of another alphabet.
    #[error("character {position} of it is none of A to Z and 2 to 7")]
    Digit {
        /// From 1 on.
        position: usize,
    },
    /// Digits that stand for more bits than there are bytes.
    #[error("its last character is another than it was written with")]
    SpareBits,
}

/// Appends the digits of `bytes`. The text has room for them, if they are secret: one that grows
/// leaves a copy behind.
pub(super) fn push(text: &mut String, bytes: &[u8]) {
    BASE32_NOPAD.encode_append(bytes, text);
}

/// The bytes that a group of digits stands for.
pub(super) fn digits<const N: usize>(text: &str) -> Result<Zeroizing<[u8; N]>, DigitsError> {
    let expected = BASE32_NOPAD.encode_len(N);
    if text.len() != expected {
        return Err(DigitsError::Length {
            found: text.len(),
            expected,
        });
    }
    if let Some(at) = text
        .bytes()
        .position(|digit| !matches!(digit, b'A'..=b'Z' | b'2'..=b'7'))
    {
        return Err(DigitsError::Digit { position: at + 1 });
    }
    let mut bytes = Zeroizing::new([0; N]);
    BASE32_NOPAD
        .decode_mut(text.as_bytes(), bytes.as_mut_slice())
        .map_err(|_| DigitsError::SpareBits)?;
    Ok(bytes)
}

/// Appends `-` and the checksum of what is there.
pub(super) fn push_checksum(text: &mut String) {
    let checksum = checksum(text);
    text.push('-');
    push(text, &checksum);
}

/// Whether `checksum` is that of `text`, the part before its `-`.
pub(super) fn checksum_fits(text: &str, written: &str) -> bool {
    digits::<CHECKSUM_LEN>(written).is_ok_and(|written| *written == checksum(text))
}

fn checksum(text: &str) -> [u8; CHECKSUM_LEN] {
    let hash: [u8; 32] = Sha256::new()
        .chain_update(b"overlay-cluster text checksum v1\0")
        .chain_update(text)
        .finalize()
        .into();
    let mut checksum = [0; CHECKSUM_LEN];
    checksum.copy_from_slice(&hash[..CHECKSUM_LEN]);
    checksum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mistakes_are_placed_and_not_quoted() {
        let length = DigitsError::Length {
            found: 3,
            expected: 8,
        };
        assert_eq!(digits::<5>("ABC"), Err(length));
        let digit = DigitsError::Digit { position: 8 };
        assert_eq!(digits::<5>("AAAAAAA1"), Err(digit));
        assert_eq!(digits::<5>("AAAAAAAa"), Err(digit));
        assert_eq!(digits::<4>("AAAAAAB"), Err(DigitsError::SpareBits));
        assert!(digits::<4>("AAAAAAA").is_ok());
    }

    proptest! {
        #[test]
        fn parse_back(bytes in any::<[u8; 32]>()) {
            let mut text = String::new();
            push(&mut text, &bytes);
            prop_assert_eq!(*digits::<32>(&text).unwrap(), bytes);
            push_checksum(&mut text);
            let (body, checksum) = text.split_at(text.len() - 9);
            prop_assert!(checksum_fits(body, &checksum[1..]));
        }

        #[test]
        fn parse_noise(text in ".{0,60}") {
            _ = digits::<32>(&text);
            _ = checksum_fits(&text, &text);
        }
    }
}
