//! What managers know of the join tokens that they gave out.
//!
//! There is one [token](super::token) for each role; it is good until it expires, is used up, or is
//! replaced. Managers keep its hash alone, so that a copy of their state lets nobody join. A hash
//! without salt and stretching is enough: nobody guesses 160 random bits.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{
    Role,
    token::{JoinToken, TokenSecret},
    trust::{RootDigest, TrustBundle},
};
use crate::{id::ClusterId, time::Timestamp};

/// SHA-256 of a label, the cluster id and a token's secret. Whoever knows it does not know the
/// secret.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub fn of(secret: &TokenSecret, cluster: ClusterId) -> Self {
        let hash = Sha256::new()
            .chain_update(b"overlay-cluster join token v1\0")
            .chain_update(cluster.as_bytes())
            .chain_update(secret.expose())
            .finalize();
        Self(hash.into())
    }

    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

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
    /// Good from `now` on for `lifetime` or without end, for `uses` nodes or any number.
    pub fn new(
        token: &JoinToken,
        cluster: ClusterId,
        now: Timestamp,
        lifetime: Option<Duration>,
        uses: Option<u32>,
    ) -> Self {
        Self {
            hash: TokenHash::of(&token.secret, cluster),
            role: token.role,
            created: now,
            expires: lifetime.map(|lifetime| now.saturating_add(lifetime)),
            uses_left: uses,
        }
    }

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
        "the join token is of another cluster: it names root {root}, which is not trusted here; if \
         this cluster's root was changed, `overlay token show` gives the token of today"
    )]
    ForeignCluster {
        /// The root in the token.
        root: RootDigest,
    },
    /// No token of this cluster has the secret.
    #[error(
        "the join token is wrong: it was replaced or revoked, or never given out; `overlay token \
         show` gives the token of today"
    )]
    Wrong,
    /// The secret is that of the other role's token.
    #[error(
        "the join token is for a {actual}, and the node asks to join as a {claimed}: use the token \
         as it was given out"
    )]
    OtherRole {
        /// What the secret is for.
        actual: Role,
        /// What the node asked for.
        claimed: Role,
    },
    /// It was good once.
    #[error(
        "the {role} join token expired on {} (the managers' clock: {}): make a new one with \
         `overlay token rotate {role}`",
        .expired, .now
    )]
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

    /// Counts one node that joins. It is an entry of the log, and decides anew by the log's time:
    /// the token that a manager has [checked](TokenVerifier::check) may have been replaced or used
    /// up since. A node that asks again because the answer was lost is in the roster already: the
    /// log does not count it twice.
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

    /// The record of the token that is shown, if a node may join with it now. The secret is
    /// compared in constant time, and nothing is said of a token to who does not have its secret.
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
        let hash = TokenHash::of(&presented.secret, self.trust.cluster());
        let record = self.tokens.find(presented.role, &hash)?;
        record.usable(now)?;
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{CLUSTER, DAY, NOW, Pki, rng};

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
            tokens.rotate(TokenRecord::new(&worker, CLUSTER, NOW, Some(DAY), None));
            tokens.rotate(TokenRecord::new(&manager, CLUSTER, NOW, Some(DAY), Some(2)));
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
                .redeem(token.role, &TokenHash::of(&token.secret, CLUSTER), NOW)
        }
    }

    #[test]
    fn the_hash_is_this_one() {
        let hash = TokenHash::of(
            &TokenSecret::new(std::array::from_fn(|i| 0xa0 + i as u8)),
            CLUSTER,
        );
        assert_eq!(
            data_encoding::HEXLOWER.encode(&hash.0),
            "6f4657026b57ac028efd0e715129c13e734454d233c20d521da52c918553bc79"
        );
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
        assert!(
            error.to_string().contains("2026-05-29T20:26:40Z"),
            "{error}"
        );
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
        case.tokens
            .rotate(TokenRecord::new(&new, CLUSTER, NOW, None, None));
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
        assert_ne!(
            TokenHash::of(&secret, CLUSTER),
            TokenHash::of(&secret, other)
        );
    }

    #[test]
    fn the_managers_state_has_no_secret() {
        let case = Case::new();
        let bytes = postcard::to_stdvec(&case.tokens).expect("encodes");
        for token in [&case.worker, &case.manager] {
            assert!(!bytes.windows(8).any(|it| it == &token.secret.expose()[..8]));
        }
        assert_eq!(postcard::from_bytes(&bytes), Ok(case.tokens));
    }
}
