//! Join tokens, as the log keeps them: a hash per role. Their text, and the proof that who joins has
//! the secret, are made elsewhere.

use std::fmt;

use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;

use super::member::Role;
use crate::time::Timestamp;

/// Hash of a token's secret. Compared in constant time: how much of a guess is right stays unknown.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }
}

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

/// The token of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub hash: TokenHash,
    /// The first time at which it opens nothing; `None` is never.
    pub expires: Option<Timestamp>,
}

/// The tokens of both roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    pub const fn of(&self, role: Role) -> &Token {
        match role {
            Role::Worker => &self.worker,
            Role::Manager => &self.manager,
        }
    }

    /// The role that a token opens at `now`.
    pub fn role_of(&self, hash: &TokenHash, now: Timestamp) -> Result<Role, TokenRefusal> {
        // Both are compared, so that the time taken does not tell the role.
        let worker = self.worker.hash == *hash;
        let manager = self.manager.hash == *hash;
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
        if self.worker.hash == self.manager.hash {
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
        let used = token.hash == self.worker.hash || token.hash == self.manager.hash;
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

    fn hash(n: u8) -> TokenHash {
        TokenHash::new([n; 32])
    }

    #[test]
    fn a_token_opens_its_role_until_it_expires() {
        let tokens = Tokens {
            worker: Token {
                hash: hash(1),
                expires: Some(now(10)),
            },
            ..tokens(1)
        };
        assert_eq!(tokens.role_of(&hash(1), now(9)), Ok(Role::Worker));
        assert_eq!(
            tokens.role_of(&hash(1), now(10)),
            Err(TokenRefusal::Expired { role: Role::Worker })
        );
        assert_eq!(tokens.role_of(&hash(2), now(10)), Ok(Role::Manager));
        assert_eq!(tokens.role_of(&hash(3), now(0)), Err(TokenRefusal::Unknown));
    }

    #[test]
    fn a_rotated_token_is_void_at_once() {
        let mut tokens = tokens(1);
        let next = Token {
            hash: hash(9),
            expires: None,
        };
        tokens.rotate(Role::Manager, next, now(0)).expect("rotates");
        assert_eq!(tokens.role_of(&hash(2), now(0)), Err(TokenRefusal::Unknown));
        assert_eq!(tokens.role_of(&hash(9), now(0)), Ok(Role::Manager));
        assert_eq!(tokens.role_of(&hash(1), now(0)), Ok(Role::Worker));
    }

    #[test]
    fn a_rotation_brings_a_new_token_that_can_be_used() {
        let mut tokens = tokens(1);
        let next = |n, expires| Token {
            hash: hash(n),
            expires,
        };
        let role = Role::Worker;
        for used in [1, 2] {
            assert_eq!(
                tokens.rotate(role, next(used, None), now(0)),
                Err(TokenRefusal::NotNew { role })
            );
        }
        assert_eq!(
            tokens.rotate(role, next(3, Some(now(0))), now(0)),
            Err(TokenRefusal::Stillborn { role })
        );
    }

    #[test]
    fn a_hash_is_not_printed() {
        assert_eq!(format!("{:?}", hash(7)), "TokenHash(…)");
    }
}
