//! Names of clusters, nodes and epochs.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// A text that is not the identifier it was offered as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what}: it has 32 hexadecimal digits")]
pub struct IdError {
    what: &'static str,
    text: String,
}

/// A 16-byte identifier, 32 lower-case hexadecimal digits as text.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                HEXLOWER.encode_display(&self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                HEXLOWER
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| IdError {
                        what: $what,
                        text: text.to_owned(),
                    })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?
                        .parse()
                        .map_err(de::Error::custom)
                } else {
                    <[u8; 16]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

id! {
    /// A node: the first 16 bytes of the SHA-256 of its Ed25519 public key, so that who has the id
    /// can check the key, and nobody can choose another's.
    NodeId,
    "node id"
}

id! {
    /// A cluster: 16 random bytes of its first manager.
    ClusterId,
    "cluster id"
}

impl NodeId {
    pub fn of(key: &VerifyingKey) -> Self {
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(id)
    }
}

/// Name of an epoch. Two epochs of one number differ in their hash; managers that were restored from a
/// backup go on under the next incarnation, and nodes refuse older ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochName {
    /// Times the managers' state was restored.
    pub incarnation: u32,
    /// Advances by one with each rotation.
    pub number: u32,
    /// First 8 bytes of the SHA-256 of the epoch's secrets under a label of their own.
    pub hash: [u8; 8],
}

impl fmt::Display for EpochName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.incarnation {
            0 => write!(f, "{}", self.number),
            restored => write!(f, "{} (restored {restored} times)", self.number),
        }
    }
}

impl fmt::Debug for EpochName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hash = HEXLOWER.encode(&self.hash);
        write!(f, "{}.{}-{hash}", self.incarnation, self.number)
    }
}

/// Start of a node's agent: larger with every start. With the epoch it names an ephemeral key.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = NodeId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string(), "30313233343536373839616263646566");
        assert_eq!(id.to_string().parse(), Ok(id));
        let bytes = postcard::to_stdvec(&id).expect("encodes");
        assert_eq!(bytes.len(), 16);
        assert_eq!(postcard::from_bytes(&bytes), Ok(id));
    }

    #[test]
    fn other_text_is_refused_with_the_text() {
        for text in [
            "",
            "30",
            "3031323334353637383961626364656G",
            "é",
            "3031323334353637383961626364656600",
        ] {
            let error = text.parse::<NodeId>().expect_err("no id");
            assert!(
                error
                    .to_string()
                    .starts_with(&format!("`{text}` is no node id")),
                "{error}"
            );
        }
    }

    #[test]
    fn epochs_are_ordered_by_incarnation_then_number() {
        let name = |incarnation, number| EpochName {
            incarnation,
            number,
            hash: [9; 8],
        };
        assert!(name(0, 9) < name(1, 1));
        assert!(name(1, 1) < name(1, 2));
    }
}
