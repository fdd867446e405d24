use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A join token, unlock key or backup key as text: zeroized when dropped, never printed by accident.
///
/// It is serialized as its text, for the socket alone.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    pub fn new(text: impl Into<Zeroizing<String>>) -> Self {
        Self(text.into())
    }

    /// The text for who must have it, and for nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretText {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl From<Zeroizing<String>> for SecretText {
    fn from(text: Zeroizing<String>) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// The sealed bytes of a backup, in JSON as base64 (RFC 4648 section 4).
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Blob(pub Vec<u8>);

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&data_encoding::BASE64.encode_display(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        data_encoding::BASE64
            .decode(text.as_bytes())
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_carried_and_not_printed() {
        let secret = SecretText::from("OVL1-W-hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "SecretText(…)");
        let json = serde_json::to_string(&secret).unwrap();
        assert_eq!(json, r#""OVL1-W-hunter2""#);
        assert_eq!(serde_json::from_str::<SecretText>(&json).unwrap(), secret);
    }

    #[test]
    fn bytes_are_carried_as_base64() {
        let blob = Blob(vec![0, 255, 16]);
        let json = serde_json::to_string(&blob).unwrap();
        assert_eq!(json, r#""AP8Q""#);
        assert_eq!(serde_json::from_str::<Blob>(&json).unwrap(), blob);
        assert!(serde_json::from_str::<Blob>(r#""A*""#).is_err());
        assert_eq!(format!("{blob:?}"), "Blob(3 bytes)");
    }
}
