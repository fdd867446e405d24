//! Join tokens, as the log keeps them: a secret per role, so that every manager can show them at any
//! time. A command names a token by the hash of its secret. Their text is made elsewhere
//! ([`crate::identity::token`]).

use std::time::Duration;

use rand::CryptoRng;
use serde::{Deserialize, Serialize};

use super::member::Role;
pub use crate::identity::token::{TokenHash, TokenSecret};
use crate::{id::ClusterId, time::Timestamp};

/// The token of a role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub secret: TokenSecret,
    /// The first time at which it opens nothing; `None` is never.
    pub expires: Option<Timestamp>,
}

impl Token {
    /// A new token, good for `lifetime` from `now` on, or without end.
    pub fn random(now: Timestamp, lifetime: Option<Duration>, rng: &mut impl CryptoRng) -> Self {
        Self {
            secret: TokenSecret::random(rng),
            expires: lifetime.map(|lifetime| now.saturating_add(lifetime)),
        }
    }

    pub fn hash(&self, cluster: ClusterId) -> TokenHash {
        TokenHash::of(&self.secret, cluster)
    }
}

/// The tokens of both roles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    pub worker: Token,
    pub manager: Token,
}

/// Why a token opens nothing, or cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TokenRefusal {
    /// Not a token of this cluster, or no longer.
    #[error(
        "the join token is not valid, or was rotated: `overlay token show` on a manager prints the present one"
    )]
    Unknown,
    /// It was right once.
    #[error(
        "the {role} token has expired: rotate it with `overlay token rotate` on a manager and use the new one"
    )]
    Expired { role: Role },
    /// A rotation to what was there is none.
    #[error("the new {role} token is one that is in use: make a random one")]
    NotNew { role: Role },
    /// The two roles must be told apart.
    #[error("worker and manager token are the same: make two random ones")]
    Same,
    /// A token that nobody can use.
    #[error("the new {role} token has expired already: give it more time")]
    Stillborn { role: Role },
}

impl Tokens {
    /// Two new tokens of one lifetime.
    pub fn random(now: Timestamp, lifetime: Option<Duration>, rng: &mut impl CryptoRng) -> Self {
        Self {
            worker: Token::random(now, lifetime, rng),
            manager: Token::random(now, lifetime, rng),
        }
    }

    /// New tokens in the place of these, good for as long. One that has expired is replaced by one that
    /// expires at once: whoever let it expire wants nobody to join.
    pub fn renewed(&self, now: Timestamp, rng: &mut impl CryptoRng) -> Self {
        let soon = now.saturating_add(Duration::from_secs(60));
        let mut renew = |token: &Token| Token {
            secret: TokenSecret::random(rng),
            expires: token.expires.map(|expires| expires.max(soon)),
        };
        Self {
            worker: renew(&self.worker),
            manager: renew(&self.manager),
        }
    }

    pub const fn of(&self, role: Role) -> &Token {
        match role {
            Role::Worker => &self.worker,
            Role::Manager => &self.manager,
        }
    }

    /// The role that a token of `cluster` opens at `now`.
    pub fn role_of(
        &self,
        cluster: ClusterId,
        hash: &TokenHash,
        now: Timestamp,
    ) -> Result<Role, TokenRefusal> {
        // Both are compared, so that the time taken does not tell the role.
        let worker = self.worker.hash(cluster) == *hash;
        let manager = self.manager.hash(cluster) == *hash;
        let role = match (worker, manager) {
            (true, _) => Role::Worker,
            (false, true) => Role::Manager,
            (false, false) => return Err(TokenRefusal::Unknown),
        };
        match self.of(role).expires {
            Some(expires) if now >= expires => Err(TokenRefusal::Expired { role }),
            Some(_) | None => Ok(role),
        }
    }

    /// Whether these are two tokens of use at `now`.
    pub fn check(&self, now: Timestamp) -> Result<(), TokenRefusal> {
        if self.worker.secret == self.manager.secret {
            return Err(TokenRefusal::Same);
        }
        for role in [Role::Worker, Role::Manager] {
            if self.of(role).expires.is_some_and(|expires| now >= expires) {
                return Err(TokenRefusal::Stillborn { role });
            }
        }
        Ok(())
    }

    /// Whether `next` may replace all tokens: each is new.
    pub fn check_replace(&self, next: &Self, now: Timestamp) -> Result<(), TokenRefusal> {
        next.check(now)?;
        for role in [Role::Worker, Role::Manager] {
            self.check_new(role, next.of(role))?;
        }
        Ok(())
    }

    /// Replaces the token of one role; the old one is void at once.
    pub fn rotate(&mut self, role: Role, token: Token, now: Timestamp) -> Result<(), TokenRefusal> {
        self.check_new(role, &token)?;
        if token.expires.is_some_and(|expires| now >= expires) {
            return Err(TokenRefusal::Stillborn { role });
        }
        match role {
            Role::Worker => self.worker = token,
            Role::Manager => self.manager = token,
        }
        Ok(())
    }

    fn check_new(&self, role: Role, token: &Token) -> Result<(), TokenRefusal> {
        let used = token.secret == self.worker.secret || token.secret == self.manager.secret;
        if used {
            Err(TokenRefusal::NotNew { role })
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::samples::{now, tokens};

    const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);

    fn token(n: u8, expires: Option<Timestamp>) -> Token {
        Token {
            secret: TokenSecret::new([n; TokenSecret::LEN]),
            expires,
        }
    }

    fn role_of(tokens: &Tokens, n: u8, at: u64) -> Result<Role, TokenRefusal> {
        tokens.role_of(CLUSTER, &token(n, None).hash(CLUSTER), now(at))
    }

    #[test]
    fn a_token_opens_its_role_until_it_expires() {
        let tokens = Tokens {
            worker: token(1, Some(now(10))),
            ..tokens(1)
        };
        assert_eq!(role_of(&tokens, 1, 9), Ok(Role::Worker));
        let expired = TokenRefusal::Expired { role: Role::Worker };
        assert_eq!(role_of(&tokens, 1, 10), Err(expired));
        assert_eq!(role_of(&tokens, 2, 10), Ok(Role::Manager));
        assert_eq!(role_of(&tokens, 3, 0), Err(TokenRefusal::Unknown));
    }

    #[test]
    fn a_secret_opens_its_own_cluster_alone() {
        let hash = token(1, None).hash(ClusterId::from_bytes([8; 16]));
        let role = tokens(1).role_of(CLUSTER, &hash, now(0));
        assert_eq!(role, Err(TokenRefusal::Unknown));
    }

    #[test]
    fn a_rotated_token_is_void_at_once() {
        let mut tokens = tokens(1);
        let next = token(9, None);
        tokens.rotate(Role::Manager, next, now(0)).expect("rotates");
        assert_eq!(role_of(&tokens, 2, 0), Err(TokenRefusal::Unknown));
        assert_eq!(role_of(&tokens, 9, 0), Ok(Role::Manager));
        assert_eq!(role_of(&tokens, 1, 0), Ok(Role::Worker));
    }

    #[test]
    fn a_rotation_brings_a_new_token_that_can_be_used() {
        let mut tokens = tokens(1);
        let role = Role::Worker;
        for used in [1, 2] {
            assert_eq!(
                tokens.rotate(role, token(used, None), now(0)),
                Err(TokenRefusal::NotNew { role })
            );
        }
        assert_eq!(
            tokens.rotate(role, token(3, Some(now(0))), now(0)),
            Err(TokenRefusal::Stillborn { role })
        );
    }

    #[test]
    fn renewed_tokens_are_new_and_good_for_as_long() {
        use rand::{SeedableRng as _, rngs::StdRng};

        let mut tokens = tokens(1);
        tokens.worker.expires = Some(now(1000));
        let rng = &mut StdRng::seed_from_u64(1);
        let next = tokens.renewed(now(10), rng);
        assert_eq!(tokens.check_replace(&next, now(10)), Ok(()));
        assert_eq!(next.worker.expires, Some(now(1000)));
        assert_eq!(next.manager.expires, None);
        let late = tokens.renewed(now(2000), rng);
        assert_eq!(tokens.check_replace(&late, now(2001)), Ok(()));
        assert_eq!(late.worker.expires, Some(now(2060)));
    }

    #[test]
    fn neither_secret_nor_hash_is_printed() {
        let token = token(7, None);
        let printed = format!("{token:?} {:?}", token.hash(CLUSTER));
        assert_eq!(
            printed,
            "Token { secret: TokenSecret(…), expires: None } TokenHash(…)"
        );
    }
}
