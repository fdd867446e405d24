//! Join tokens: what an operator gives to a machine that shall join.
//!
//! `OVL1-W-<root>-<secret>-<checksum>`: version, role (`W`orker or `M`anager), SHA-256 of the root
//! certificate (52 characters), secret of 20 random bytes (32), checksum of all before it (8). By
//! the root the joining node knows the manager, by the secret the manager knows the node. Managers
//! keep the secret in their log ([`log::tokens`](crate::log::tokens)); a command names it by its
//! hash.

use std::{fmt, str::FromStr};

use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    Role,
    text::{self, DigitsError},
    trust::RootDigest,
};
use crate::id::ClusterId;

/// Length of a token's text in bytes.
pub const TEXT_LEN: usize = 101;

/// The part of a token that is known to nobody else. It is serialized as its bytes: only into what
/// is itself encrypted (TLS, the sealed state of a manager).
#[derive(Clone, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
pub struct TokenSecret([u8; Self::LEN]);

impl TokenSecret {
    pub const LEN: usize = 20;

    pub const fn new(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut secret = Self([0; Self::LEN]);
        rng.fill_bytes(&mut secret.0);
        secret
    }

    pub(super) const fn expose(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// In constant time.
impl PartialEq for TokenSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenSecret {}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(…)")
    }
}

/// SHA-256 of a label, the cluster id and a token's secret: who knows it does not know the secret. A
/// hash without salt and stretching is enough, for nobody guesses 160 random bits.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct TokenHash([u8; Self::LEN]);

impl TokenHash {
    pub const LEN: usize = 32;

    pub const fn new(hash: [u8; Self::LEN]) -> Self {
        Self(hash)
    }

    pub fn of(secret: &TokenSecret, cluster: ClusterId) -> Self {
        let hash = Sha256::new()
            .chain_update(b"overlay-cluster join token v1\0")
            .chain_update(cluster.as_bytes())
            .chain_update(secret.expose())
            .finalize();
        Self(hash.into())
    }
}

/// In constant time: how much of a guess is right stays unknown.
impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for TokenHash {}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

/// A token in the hands of who may join with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// What the node becomes.
    pub role: Role,
    /// The root that the manager must show.
    pub root: RootDigest,
    pub secret: TokenSecret,
}

/// Why a text is no join token. The text is not quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Something else altogether.
    #[error(
        "this is no join token: one begins with OVL1-W- or OVL1-M-, without a space or a line end \
         before it"
    )]
    NotAToken,
    /// Of a later version.
    #[error("this join token is of version {version}, and this program knows version 1: update it")]
    Version {
        /// The version that it names.
        version: u16,
    },
    /// Another letter for the role.
    #[error("the role of this join token is neither W nor M: copy the token again")]
    Role,
    /// Too few or too many groups.
    #[error(
        "this join token has {found} groups instead of 5: it was cut off, or something was copied \
         with it"
    )]
    Groups {
        /// How many there are.
        found: usize,
    },
    /// The digest of the root was miscopied.
    #[error("the third group of this join token is damaged, {0}: copy the token again")]
    Root(DigitsError),
    /// The secret was miscopied.
    #[error("the fourth group of this join token is damaged, {0}: copy the token again")]
    Secret(DigitsError),
    /// The groups do not fit together.
    #[error("the checksum of this join token does not fit: copy the token again")]
    Checksum,
}

impl JoinToken {
    pub fn generate(role: Role, root: RootDigest, rng: &mut impl CryptoRng) -> Self {
        Self {
            role,
            root,
            secret: TokenSecret::random(rng),
        }
    }

    /// As a command of the managers' log names it.
    pub fn hash(&self, cluster: ClusterId) -> TokenHash {
        TokenHash::of(&self.secret, cluster)
    }

    /// The text that is given to the joining machine: it holds the secret, and is zeroized when
    /// dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
        text.push_str("OVL1-");
        text.push(self.role.letter());
        text.push('-');
        text::push(&mut text, self.root.as_bytes());
        text.push('-');
        text::push(&mut text, &self.secret.0);
        text::push_checksum(&mut text);
        text
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (version, rest) = text
            .strip_prefix("OVL")
            .and_then(|text| text.split_once('-'))
            .ok_or(TokenError::NotAToken)?;
        if version != "1" {
            // Up to three digits, so that what is printed is no part of a secret.
            return Err(match version.parse() {
                Ok(version @ 2..1000) => TokenError::Version { version },
                _ => TokenError::NotAToken,
            });
        }
        let mut groups = rest.split('-');
        let (Some(role), Some(root), Some(secret), Some(checksum), None) = (
            groups.next(),
            groups.next(),
            groups.next(),
            groups.next(),
            groups.next(),
        ) else {
            return Err(TokenError::Groups {
                found: 1 + rest.split('-').count(),
            });
        };
        let role = Role::ALL
            .into_iter()
            .find(|it| role.chars().eq([it.letter()]))
            .ok_or(TokenError::Role)?;
        let root = RootDigest::from_bytes(*text::digits(root).map_err(TokenError::Root)?);
        let secret = TokenSecret::new(*text::digits(secret).map_err(TokenError::Secret)?);
        let body = &text[..text.len() - checksum.len() - 1];
        if !text::checksum_fits(body, checksum) {
            return Err(TokenError::Checksum);
        }
        Ok(Self { role, root, secret })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::testing::{flipped, mangled, rng};

    fn counting() -> JoinToken {
        JoinToken {
            role: Role::Worker,
            root: RootDigest::from_bytes(std::array::from_fn(|i| i as u8)),
            secret: TokenSecret::new(std::array::from_fn(|i| 0xa0 + i as u8)),
        }
    }

    #[test]
    fn the_format_is_this_one() {
        let text = "OVL1-W-AAAQEAYEAUDAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPQ-UCQ2FI5EUWTKPKFJVKV2ZLNOV6YLDMVT-JLSG4UT3";
        assert_eq!(counting().to_text().as_str(), text);
        assert_eq!(text.len(), TEXT_LEN);
        assert_eq!(text.parse(), Ok(counting()));
    }

    #[test]
    fn mistakes_in_copying_are_named_and_nothing_is_quoted() {
        let token = counting();
        let text = token.to_text();
        let (body, checksum) = text.split_at(TEXT_LEN - 9);
        let cases = [
            (String::new(), TokenError::NotAToken),
            (text.to_lowercase(), TokenError::NotAToken),
            (format!(" {}", *text), TokenError::NotAToken),
            (text.replace("OVL1", "OVL"), TokenError::NotAToken),
            (text.replace("OVL1", "OVL1234"), TokenError::NotAToken),
            (
                text.replace("OVL1", "OVL2"),
                TokenError::Version { version: 2 },
            ),
            (text.replace("-W-", "-w-"), TokenError::Role),
            (text.replace("-W-", "-WM-"), TokenError::Role),
            (text.replace("-W-", "-M-"), TokenError::Checksum),
            (body.to_owned(), TokenError::Groups { found: 4 }),
            (format!("{}-", *text), TokenError::Groups { found: 6 }),
            (
                text.replace("-AAAQ", "-AAQ"),
                TokenError::Root(DigitsError::Length {
                    found: 51,
                    expected: 52,
                }),
            ),
            (
                text.replace("-UCQ2", "-UCQ1"),
                TokenError::Secret(DigitsError::Digit { position: 4 }),
            ),
            (text.replace("-UCQ2", "-UCQ3"), TokenError::Checksum),
            (format!("{body}{}", &checksum[..8]), TokenError::Checksum),
        ];
        for (text, expected) in cases {
            let error = text.parse::<JoinToken>().expect_err("damaged");
            assert_eq!(error, expected);
            let message = error.to_string();
            assert!(!message.contains("FI5EUWTKPK"), "{message}");
        }
    }

    #[test]
    fn it_prints_no_secret() {
        let printed = format!("{:?}", counting());
        assert!(printed.contains("TokenSecret(…)"), "{printed}");
        assert!(
            !printed.contains("160") && !printed.contains("a0a1"),
            "{printed}"
        );
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let text = counting().to_text();
        let read = |bytes: &[u8]| {
            str::from_utf8(bytes).is_ok_and(|text| text.parse::<JoinToken>().is_ok())
        };
        for (bit, changed) in flipped(text.as_bytes()) {
            assert!(!read(&changed), "bit {bit}");
        }
        for changed in mangled(text.as_bytes(), 1) {
            assert!(changed == text.as_bytes() || !read(&changed));
        }
    }

    proptest! {
        #[test]
        fn parse_back(seed in any::<u64>(), manager: bool, root in any::<[u8; 32]>()) {
            let role = if manager { Role::Manager } else { Role::Worker };
            let token = JoinToken::generate(role, RootDigest::from_bytes(root), &mut rng(seed));
            let text = token.to_text();
            prop_assert_eq!(text.len(), TEXT_LEN);
            prop_assert_eq!(text.parse(), Ok(token.clone()));
            let bytes = postcard::to_stdvec(&token).expect("encodes");
            prop_assert_eq!(postcard::from_bytes(&bytes), Ok(token));
        }

        #[test]
        fn parse_noise(text in ".{0,120}", groups in "OVL1(-[A-Z2-7WM]{0,53}){0,6}") {
            prop_assert!(text.parse::<JoinToken>().is_err());
            prop_assert!(groups.parse::<JoinToken>().is_err());
        }
    }
}
