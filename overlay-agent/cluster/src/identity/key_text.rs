//! Keys that an operator keeps, as text: `OVLKEY-1-<key>-<checksum>`, the key as 52 and the checksum
//! as 8 characters of base32.

use std::fmt;

use zeroize::Zeroizing;

use super::text::{self, DigitsError};
use crate::secret::Secret;

/// Length of a key's text in bytes.
pub const TEXT_LEN: usize = 70;

/// What a key is for. Its text begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// Unlocks a manager after a restart.
    Unlock,
    /// Opens a backup.
    Backup,
}

impl KeyKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Unlock => "OVLKEY-",
            Self::Backup => "OVLBAK-",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unlock => "unlock key",
            Self::Backup => "backup key",
        })
    }
}

/// Why a text is no key of a kind. The text is not quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyTextError {
    /// Something else altogether.
    #[error(
        "this is no {kind}: one begins with {}1-, without a space or a line end before it",
        .kind.prefix()
    )]
    NotAKey {
        /// What was to be read.
        kind: KeyKind,
    },
    /// Of a later version.
    #[error("this {kind} is of another version than 1: update this program")]
    Version {
        /// What was to be read.
        kind: KeyKind,
    },
    /// Too few or too many groups.
    #[error(
        "this {kind} has {found} groups instead of 4: it was cut off, or something was copied with \
         it"
    )]
    Groups {
        /// What was to be read.
        kind: KeyKind,
        /// How many there are.
        found: usize,
    },
    /// Miscopied.
    #[error("the third group of this {kind} is damaged, {error}: copy the key again")]
    Key {
        /// What was to be read.
        kind: KeyKind,
        /// Where.
        error: DigitsError,
    },
    /// The groups do not fit together.
    #[error("the checksum of this {kind} does not fit: copy the key again")]
    Checksum {
        /// What was to be read.
        kind: KeyKind,
    },
}

pub(super) fn write(kind: KeyKind, key: &Secret) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
    text.push_str(kind.prefix());
    text.push_str("1-");
    text::push(&mut text, key.expose());
    text::push_checksum(&mut text);
    text
}

pub(super) fn read(kind: KeyKind, text: &str) -> Result<Secret, KeyTextError> {
    let rest = text
        .strip_prefix(kind.prefix())
        .ok_or(KeyTextError::NotAKey { kind })?;
    let rest = rest
        .strip_prefix("1-")
        .ok_or(KeyTextError::Version { kind })?;
    let (digits, checksum) = rest
        .split_once('-')
        .filter(|(_, checksum)| !checksum.contains('-'))
        .ok_or_else(|| KeyTextError::Groups {
            kind,
            found: 2 + rest.split('-').count(),
        })?;
    let key = text::digits(digits).map_err(|error| KeyTextError::Key { kind, error })?;
    let body = &text[..text.len() - checksum.len() - 1];
    if !text::checksum_fits(body, checksum) {
        return Err(KeyTextError::Checksum { kind });
    }
    Ok(Secret::new(*key))
}
