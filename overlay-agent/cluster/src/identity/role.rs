//! What a node may do in its cluster.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Part of a node in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Carries traffic.
    Worker,
    /// Carries traffic, and decides with the other managers.
    Manager,
}

impl Role {
    pub const ALL: [Self; 2] = [Self::Worker, Self::Manager];

    /// As certificates and people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Manager => "manager",
        }
    }

    /// As join tokens write it.
    pub const fn letter(self) -> char {
        match self {
            Self::Worker => 'W',
            Self::Manager => 'M',
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no role: a node is a `worker` or a `manager`")]
pub struct RoleError {
    text: String,
}

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(text: &str) -> Result<Self, RoleError> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| RoleError {
                text: text.to_owned(),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_as_they_are_written() {
        for role in Role::ALL {
            assert_eq!(role.to_string().parse(), Ok(role));
        }
        for text in ["", "Worker", "authority", "manager "] {
            let error = text.parse::<Role>().expect_err("no role");
            assert!(error.to_string().starts_with(&format!("`{text}`")));
        }
    }
}
