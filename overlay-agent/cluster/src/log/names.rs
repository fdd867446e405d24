//! Texts of the log that have a form: names of nodes and networks, labels, versions.
//!
//! Each is checked once, where it is made or decoded, so the state machine never meets another form.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// A text that has not the form it needs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not a DNS label (RFC 1123 section 2.1), which names nodes in DNS and in certificates.
    #[error(
        "`{0}` cannot name a node: use 1 to 63 of `a` to `z`, `0` to `9` and `-`, with no `-` at either end"
    )]
    NodeName(String),
    /// Not a name that `docker network create` takes.
    #[error(
        "`{0}` cannot name a network: use 1 to {max} of letters, digits, `_`, `.` and `-`, beginning with a letter or digit",
        max = NetworkName::MAX
    )]
    NetworkName(String),
    /// A label's key is a word.
    #[error(
        "`{0}` cannot be the key of a label: use 1 to {max} printable characters without spaces, `=` and `!`",
        max = Labels::MAX_KEY
    )]
    LabelKey(String),
    /// A label's value has no control characters.
    #[error(
        "the value of label `{0}` has more than {max} bytes or control characters: shorten it",
        max = Labels::MAX_VALUE
    )]
    LabelValue(String),
    /// An object has a bounded number of labels.
    #[error("{0} labels are more than {max}: leave some out", max = Labels::MAX)]
    TooManyLabels(usize),
    /// The version of a node's software is a short word.
    #[error("`{0}` is no version: use 1 to {max} printable characters", max = SoftwareVersion::MAX)]
    Version(String),
}

/// What an error quotes of a text that anyone may have made up.
pub(super) fn quoted(text: &str) -> String {
    text.chars()
        .take(80)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $error:ident, $is:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            pub fn new(text: impl Into<String>) -> Result<Self, TextError> {
                let text = text.into();
                if $is(&text) {
                    Ok(Self(text))
                } else {
                    Err(TextError::$error(quoted(&text)))
                }
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = TextError;

            fn try_from(text: String) -> Result<Self, TextError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = TextError;

            fn from_str(text: &str) -> Result<Self, TextError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`{}`", self.0)
            }
        }
    };
}

text! {
    /// Name of a node: a DNS label in lower case (RFC 1123 section 2.1).
    NodeName, NodeName, is_dns_label
}

text! {
    /// Name of a network: what `docker network create` takes, at most 128 bytes.
    NetworkName, NetworkName, is_network_name
}

text! {
    /// Version of a node's software, as `overlay --version` prints it.
    SoftwareVersion, Version, is_version
}

impl NetworkName {
    pub const MAX: usize = 128;
}

impl SoftwareVersion {
    pub const MAX: usize = 64;
}

fn is_dns_label(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_network_name(text: &str) -> bool {
    (1..=NetworkName::MAX).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && text.as_bytes()[0].is_ascii_alphanumeric()
}

fn is_version(text: &str) -> bool {
    (1..=SoftwareVersion::MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Labels of a node or network.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(
    try_from = "BTreeMap<String, String>",
    into = "BTreeMap<String, String>"
)]
pub struct Labels(BTreeMap<String, String>);

impl Labels {
    /// Labels of one object.
    pub const MAX: usize = 32;
    /// Bytes of a key.
    pub const MAX_KEY: usize = 64;
    /// Bytes of a value.
    pub const MAX_VALUE: usize = 128;

    pub fn new(labels: BTreeMap<String, String>) -> Result<Self, TextError> {
        if labels.len() > Self::MAX {
            return Err(TextError::TooManyLabels(labels.len()));
        }
        for (key, value) in &labels {
            check_label(key, value)?;
        }
        Ok(Self(labels))
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// Whether a label may have this key and value.
pub fn check_label(key: &str, value: &str) -> Result<(), TextError> {
    let is_key = (1..=Labels::MAX_KEY).contains(&key.len())
        && key
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'=' | b'!'));
    if !is_key {
        return Err(TextError::LabelKey(quoted(key)));
    }
    if value.len() > Labels::MAX_VALUE || value.chars().any(char::is_control) {
        return Err(TextError::LabelValue(quoted(key)));
    }
    Ok(())
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = TextError;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, TextError> {
        Self::new(labels)
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_dns_labels() {
        for name in ["a", "node-1", "0", &"x".repeat(63)] {
            assert!(NodeName::new(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a.b", "a_b", "é", &"x".repeat(64)] {
            let error = NodeName::new(name).expect_err(name).to_string();
            assert!(error.contains(&quoted(name)), "{error}");
        }
    }

    #[test]
    fn network_names_follow_docker() {
        for name in [
            "a",
            "my-multi-host-network",
            "A_b.c-d",
            "0",
            &"x".repeat(128),
        ] {
            assert!(NetworkName::new(name).is_ok(), "{name}");
        }
        for name in ["", "-a", "_a", ".a", "a b", "a/b", "é", &"x".repeat(129)] {
            assert!(NetworkName::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn labels_are_bounded_in_number_and_size() {
        let labels = |pairs: &[(&str, &str)]| {
            Labels::new(
                pairs
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            )
        };
        assert!(labels(&[("zone", "a b"), ("com.example/x", "")]).is_ok());
        assert!(labels(&[("", "a")]).is_err());
        assert!(labels(&[("a=b", "a")]).is_err());
        assert!(labels(&[("a!", "a")]).is_err());
        assert!(labels(&[("a", "\n")]).is_err());
        assert!(labels(&[("a", &"x".repeat(129))]).is_err());
        let many = (0..=Labels::MAX).map(|n| (n.to_string(), String::new()));
        assert_eq!(
            Labels::new(many.collect()),
            Err(TextError::TooManyLabels(Labels::MAX + 1))
        );
    }

    #[test]
    fn another_form_does_not_decode() {
        let bytes = postcard::to_stdvec("Not A Label").expect("encodes");
        assert!(postcard::from_bytes::<NodeName>(&bytes).is_err());
        let bytes = postcard::to_stdvec("web").expect("encodes");
        assert_eq!(postcard::from_bytes(&bytes), Ok(NodeName("web".into())));
    }
}
