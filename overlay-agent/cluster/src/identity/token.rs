//! Join tokens: what an operator gives to a machine that shall join.
//!
//! `OVL1-W-<root>-<secret>-<checksum>`: version, role (`W`orker or `M`anager), SHA-256 of the root
//! certificate (52 characters), secret of 20 random bytes (32), checksum of all before it (8). By the root the joining
//! node knows the manager, by the secret the manager knows the node. There is one token for each role;
//! it is good until it expires, is used up, or is replaced. Managers keep its hash alone, so that
//! a copy of their state lets nobody join.
//!
//! A hash without salt and stretching is enough: nobody guesses 160 random bits.

use std::{fmt, str::FromStr, time::Duration};

use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{
    Role,
    text::{self, DigitsError},
    trust::{RootDigest, TrustBundle},
    utc::utc,
};
use crate::{id::ClusterId, time::Timestamp};

/// Length of a token's text in bytes.
pub const TEXT_LEN: usize = 101;

/// The part of a token that is known to nobody else. It is serialized as its bytes: only into what
/// is itself encrypted (the TLS connection of a join).
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

    /// What managers keep of it.
    pub fn hash(&self, cluster: ClusterId) -> TokenHash {
        let hash = Sha256::new()
            .chain_update(b"overlay-cluster join token v1\0")
            .chain_update(cluster.as_bytes())
            .chain_update(self.0)
            .finalize();
        TokenHash(hash.into())
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
        "this is no join token: one begins with OVL1-W- or OVL1-M-, without a space or a line end before it"
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
        "this join token has {found} groups instead of 5: it was cut off, or something was copied with it"
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

    /// The text that is given to the joining machine: it holds the secret, and is zeroized when dropped.
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

    /// What managers keep of the token: good from `now` on for `lifetime` or without end, for `uses`
    /// nodes or any number.
    pub fn record(
        &self,
        cluster: ClusterId,
        now: Timestamp,
        lifetime: Option<Duration>,
        uses: Option<u32>,
    ) -> TokenRecord {
        TokenRecord {
            hash: self.secret.hash(cluster),
            role: self.role,
            created: now,
            expires: lifetime.map(|lifetime| now.saturating_add(lifetime)),
            uses_left: uses,
        }
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

/// SHA-256 of a label, the cluster id and a token's secret. Whoever knows it does not know the secret.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TokenHash([u8; 32]);

/// In constant time.
impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

/// What managers know of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub hash: TokenHash,
    pub role: Role,
    pub created: Timestamp,
    /// Last moment at which it is good.
    pub expires: Option<Timestamp>,
    /// How many nodes may still join with it.
    pub uses_left: Option<u32>,
}

impl TokenRecord {
    fn usable(&self, now: Timestamp) -> Result<(), TokenRefused> {
        let role = self.role;
        if let Some(expired) = self.expires.filter(|expires| now > *expires) {
            return Err(TokenRefused::Expired { role, expired, now });
        }
        if self.uses_left == Some(0) {
            return Err(TokenRefused::UsedUp { role });
        }
        Ok(())
    }
}

/// Why a node may not join with the token that it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It names the root of another cluster, or a retired one.
    #[error(
        "the join token is of another cluster: it names root {root}, which is not trusted here; if this cluster's root was changed, `overlay token show` gives the token of today"
    )]
    ForeignCluster {
        /// The root in the token.
        root: RootDigest,
    },
    /// No token of this cluster has the secret.
    #[error(
        "the join token is wrong: it was replaced or revoked, or never given out; `overlay token show` gives the token of today"
    )]
    Wrong,
    /// The secret is that of the other role's token.
    #[error(
        "the join token is for a {actual}, and the node asks to join as a {claimed}: use the token as it was given out"
    )]
    OtherRole {
        /// What the secret is for.
        actual: Role,
        /// What the node asked for.
        claimed: Role,
    },
    /// It was good once.
    #[error("the {role} join token expired on {} (the managers' clock: {}): make a new one with `overlay token rotate {role}`", utc(*.expired), utc(*.now))]
    Expired {
        /// What it was for.
        role: Role,
        /// When it ended.
        expired: Timestamp,
        /// The time of the check.
        now: Timestamp,
    },
    /// As many nodes have joined with it as may.
    #[error("the {role} join token is used up: make a new one with `overlay token rotate {role}`")]
    UsedUp {
        /// What it was for.
        role: Role,
    },
}

/// The tokens of a cluster, one for each role: a part of the managers' replicated state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tokens {
    worker: Option<TokenRecord>,
    manager: Option<TokenRecord>,
}

impl Tokens {
    pub const fn get(&self, role: Role) -> Option<&TokenRecord> {
        match role {
            Role::Worker => self.worker.as_ref(),
            Role::Manager => self.manager.as_ref(),
        }
    }

    /// Puts a new token in the place of the one of its role, which is good for nothing from now on.
    pub const fn rotate(&mut self, record: TokenRecord) {
        *self.slot(record.role) = Some(record);
    }

    /// Lets nobody join in this role until there is a new token.
    pub const fn revoke(&mut self, role: Role) {
        *self.slot(role) = None;
    }

    /// Counts one node that joins. It is an entry of the log, and decides anew by the log's time: the token
    /// that a manager has [checked](TokenVerifier::check) may have been replaced or used up since.
    pub fn redeem(
        &mut self,
        role: Role,
        hash: &TokenHash,
        now: Timestamp,
    ) -> Result<(), TokenRefused> {
        self.find(role, hash)?.usable(now)?;
        if let Some(TokenRecord {
            uses_left: Some(uses),
            ..
        }) = self.slot(role)
        {
            *uses -= 1;
        }
        Ok(())
    }

    const fn slot(&mut self, role: Role) -> &mut Option<TokenRecord> {
        match role {
            Role::Worker => &mut self.worker,
            Role::Manager => &mut self.manager,
        }
    }

    /// The record with this hash. All are compared, whichever fits.
    fn find(&self, claimed: Role, hash: &TokenHash) -> Result<&TokenRecord, TokenRefused> {
        let [worker, manager] =
            Role::ALL.map(|role| self.get(role).filter(|record| record.hash == *hash));
        let record = worker.or(manager).ok_or(TokenRefused::Wrong)?;
        if record.role == claimed {
            Ok(record)
        } else {
            Err(TokenRefused::OtherRole {
                actual: record.role,
                claimed,
            })
        }
    }
}

/// What decides about tokens that joining nodes show.
#[derive(Debug, Clone, Copy)]
pub struct TokenVerifier<'a> {
    trust: &'a TrustBundle,
    tokens: &'a Tokens,
}

impl<'a> TokenVerifier<'a> {
    pub const fn new(trust: &'a TrustBundle, tokens: &'a Tokens) -> Self {
        Self { trust, tokens }
    }

    /// The record of the token that is shown, if a node may join with it now. The secret is compared in
    /// constant time, and nothing is said of a token to who does not have its secret.
    pub fn check(
        &self,
        presented: &JoinToken,
        now: Timestamp,
    ) -> Result<&'a TokenRecord, TokenRefused> {
        if self.trust.get(presented.root).is_none() {
            return Err(TokenRefused::ForeignCluster {
                root: presented.root,
            });
        }
        let hash = presented.secret.hash(self.trust.cluster());
        let record = self.tokens.find(presented.role, &hash)?;
        record.usable(now)?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::testing::{CLUSTER, DAY, NOW, Pki, flipped, mangled, rng};

    fn counting() -> JoinToken {
        JoinToken {
            role: Role::Worker,
            root: RootDigest::from_bytes(std::array::from_fn(|i| i as u8)),
            secret: TokenSecret::new(std::array::from_fn(|i| 0xa0 + i as u8)),
        }
    }

    struct Case {
        pki: Pki,
        tokens: Tokens,
        worker: JoinToken,
        manager: JoinToken,
    }

    impl Case {
        /// Tokens that are good for a day, the manager's for two nodes.
        fn new() -> Self {
            let pki = Pki::new(1);
            let root = pki.authority.root().digest();
            let worker = JoinToken::generate(Role::Worker, root, &mut rng(2));
            let manager = JoinToken::generate(Role::Manager, root, &mut rng(3));
            let mut tokens = Tokens::default();
            tokens.rotate(worker.record(CLUSTER, NOW, Some(DAY), None));
            tokens.rotate(manager.record(CLUSTER, NOW, Some(DAY), Some(2)));
            Self {
                pki,
                tokens,
                worker,
                manager,
            }
        }

        fn check(&self, token: &JoinToken, now: Timestamp) -> Result<Role, TokenRefused> {
            TokenVerifier::new(&self.pki.trust, &self.tokens)
                .check(token, now)
                .map(|record| record.role)
        }

        fn redeem(&mut self, token: &JoinToken) -> Result<(), TokenRefused> {
            self.tokens
                .redeem(token.role, &token.secret.hash(CLUSTER), NOW)
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
    fn the_hash_is_this_one() {
        let hash = counting().secret.hash(CLUSTER);
        assert_eq!(
            data_encoding::HEXLOWER.encode(&hash.0),
            "6f4657026b57ac028efd0e715129c13e734454d233c20d521da52c918553bc79"
        );
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

    #[test]
    fn the_tokens_of_today_are_accepted() {
        let case = Case::new();
        assert_eq!(case.check(&case.worker, NOW), Ok(Role::Worker));
        let last = NOW.saturating_add(DAY);
        assert_eq!(case.check(&case.manager, last), Ok(Role::Manager));
    }

    #[test]
    fn a_wrong_an_expired_and_a_foreign_token_are_told_apart() {
        let case = Case::new();
        let mut wrong = case.worker.clone();
        wrong.secret = TokenSecret::random(&mut rng(9));
        assert_eq!(case.check(&wrong, NOW), Err(TokenRefused::Wrong));

        let expired = NOW.saturating_add(DAY);
        let now = expired.saturating_add(Duration::from_millis(1));
        let role = Role::Worker;
        let error = TokenRefused::Expired { role, expired, now };
        assert_eq!(case.check(&case.worker, now), Err(error));
        assert!(error.to_string().contains("29 May 2026"), "{error}");
        // Who does not have the secret does not learn that the token has expired.
        assert_eq!(case.check(&wrong, now), Err(TokenRefused::Wrong));

        let mut foreign = case.worker.clone();
        foreign.root = Pki::new(8).authority.root().digest();
        let root = foreign.root;
        assert_eq!(
            case.check(&foreign, NOW),
            Err(TokenRefused::ForeignCluster { root })
        );
    }

    #[test]
    fn a_token_of_one_role_is_none_of_the_other() {
        let case = Case::new();
        let mut raised = case.worker.clone();
        raised.role = Role::Manager;
        assert_eq!(
            case.check(&raised, NOW),
            Err(TokenRefused::OtherRole {
                actual: Role::Worker,
                claimed: Role::Manager
            })
        );
    }

    #[test]
    fn a_token_is_used_up_and_not_used_again() {
        let mut case = Case::new();
        let (worker, manager) = (case.worker.clone(), case.manager.clone());
        for _ in 0..2 {
            assert_eq!(case.check(&manager, NOW), Ok(Role::Manager));
            assert_eq!(case.redeem(&manager), Ok(()));
        }
        let error = TokenRefused::UsedUp {
            role: Role::Manager,
        };
        assert_eq!(case.check(&manager, NOW), Err(error));
        assert_eq!(case.redeem(&manager), Err(error));
        for _ in 0..5 {
            assert_eq!(case.redeem(&worker), Ok(()));
        }
    }

    #[test]
    fn rotation_and_revocation_end_a_token() {
        let mut case = Case::new();
        let old = case.worker.clone();
        let new = JoinToken::generate(Role::Worker, old.root, &mut rng(5));
        case.tokens.rotate(new.record(CLUSTER, NOW, None, None));
        assert_eq!(case.check(&old, NOW), Err(TokenRefused::Wrong));
        assert_eq!(case.redeem(&old), Err(TokenRefused::Wrong));
        let never = Timestamp::from_millis(u64::MAX);
        assert_eq!(case.check(&new, never), Ok(Role::Worker));
        assert_eq!(case.check(&case.manager, NOW), Ok(Role::Manager));
        case.tokens.revoke(Role::Worker);
        assert_eq!(case.check(&new, NOW), Err(TokenRefused::Wrong));
        assert_eq!(case.tokens.get(Role::Worker), None);
    }

    #[test]
    fn a_secret_is_good_for_one_cluster() {
        let secret = TokenSecret::new([1; 20]);
        let other = ClusterId::from_bytes([2; 16]);
        assert_ne!(secret.hash(CLUSTER), secret.hash(other));
    }

    #[test]
    fn the_managers_state_has_no_secret() {
        let case = Case::new();
        let bytes = postcard::to_stdvec(&case.tokens).expect("encodes");
        for token in [&case.worker, &case.manager] {
            assert!(!bytes.windows(8).any(|it| it == &token.secret.0[..8]));
        }
        assert_eq!(postcard::from_bytes(&bytes), Ok(case.tokens));
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
