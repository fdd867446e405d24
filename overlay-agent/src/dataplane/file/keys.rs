//! The keys file: secret, readable by root alone.
//!
//! Errors name a line and never quote it.

use std::fmt::{self, Write as _};

use overlay_ebpf::abi::{Epoch, Lane, PeerIndex, Slot};
use serde::{Deserialize, Deserializer, de};
use zeroize::{Zeroize as _, Zeroizing};

use crate::secret::KeyMaterial;

/// One key: of the SA that `sender` uses to `receiver`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyEntry {
    pub sender: PeerIndex,
    pub receiver: PeerIndex,
    pub epoch: Epoch,
    pub slot: Slot,
    pub lane: Lane,
    pub key: KeyMaterial,
}

/// A keys file that cannot be read as one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "line {line} is no valid part of a keys file: each [[key]] has sender, receiver, epoch, slot, lane (numbers) and key (72 hexadecimal digits), and nothing else; make one with `overlay dataplane keygen`"
)]
pub struct KeysError {
    pub line: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    key: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(deserialize_with = "node")]
    sender: PeerIndex,
    #[serde(deserialize_with = "node")]
    receiver: PeerIndex,
    epoch: u32,
    slot: u8,
    #[serde(deserialize_with = "lane")]
    lane: Lane,
    #[serde(deserialize_with = "material")]
    key: KeyMaterial,
}

fn node<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PeerIndex, D::Error> {
    PeerIndex::new(u32::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn lane<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Lane, D::Error> {
    Lane::new(u8::deserialize(deserializer)?).map_err(de::Error::custom)
}

fn material<'de, D: Deserializer<'de>>(deserializer: D) -> Result<KeyMaterial, D::Error> {
    struct Hex;
    impl de::Visitor<'_> for Hex {
        type Value = KeyMaterial;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("72 hexadecimal digits")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<KeyMaterial, E> {
            unhex(text).ok_or_else(|| E::custom("not 72 hexadecimal digits"))
        }

        fn visit_string<E: de::Error>(self, mut text: String) -> Result<KeyMaterial, E> {
            let result = self.visit_str(&text);
            text.zeroize();
            result
        }
    }
    deserializer.deserialize_str(Hex)
}

fn unhex(text: &str) -> Option<KeyMaterial> {
    if text.len() != 2 * KeyMaterial::LEN {
        return None;
    }
    let mut bytes = Zeroizing::new([0_u8; KeyMaterial::LEN]);
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16);
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(KeyMaterial::new(*bytes))
}

/// The keys of a file.
pub fn parse(text: &str) -> Result<Vec<KeyEntry>, KeysError> {
    let keys: Keys = toml::from_str(text).map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let newlines = text.as_bytes()[..at].iter().filter(|&&b| b == b'\n');
        KeysError {
            line: newlines.count() + 1,
        }
    })?;
    Ok(keys
        .key
        .into_iter()
        .map(|entry| KeyEntry {
            sender: entry.sender,
            receiver: entry.receiver,
            epoch: Epoch::new(entry.epoch),
            slot: Slot::new(entry.slot),
            lane: entry.lane,
            key: entry.key,
        })
        .collect())
}

/// The text of entries: what [`parse`] reads.
pub fn write(entries: &[KeyEntry]) -> Zeroizing<String> {
    // Growing would leave copies of keys behind.
    let mut text = Zeroizing::new(String::with_capacity(256 * entries.len()));
    for entry in entries {
        let _ = write!(
            text,
            "[[key]]\nsender = {}\nreceiver = {}\nepoch = {}\nslot = {}\nlane = {}\nkey = \"",
            entry.sender, entry.receiver, entry.epoch, entry.slot, entry.lane
        );
        for byte in entry.key.expose() {
            let _ = write!(text, "{byte:02x}");
        }
        text.push_str("\"\n\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(byte: u8) -> KeyEntry {
        KeyEntry {
            sender: PeerIndex::new(1).unwrap(),
            receiver: PeerIndex::new(PeerIndex::MAX).unwrap(),
            epoch: Epoch::new(u32::MAX),
            slot: Slot::new(255),
            lane: Lane::new(15).unwrap(),
            key: KeyMaterial::new([byte; KeyMaterial::LEN]),
        }
    }

    #[test]
    fn written_keys_parse_back() {
        let entries = [entry(0), entry(0xff)];
        let text = write(&entries);
        assert!(text.len() <= 256 * entries.len(), "{}", text.len());
        assert_eq!(parse(&text).unwrap(), entries);
    }

    #[test]
    fn errors_name_the_line_and_never_the_key() {
        let good = write(&[entry(0xab)]);
        for (from, to, line) in [
            ("lane = 15", "lane = 16", 6),
            ("abab\"", "ababa\"", 7),
            ("abab\"", "abxb\"", 7),
            ("abab\"", "abab", 7),
            ("epoch", "epok", 4),
            ("sender = 1\n", "sender = 0\n", 2),
        ] {
            let error = parse(&good.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.line, line, "{to}");
            assert!(!format!("{error} {error:?}").contains("abab"));
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(text in "\\PC*") {
            let _ = parse(&text);
        }

        #[test]
        fn noise_among_keys_never_panics(
            at in 0_usize..200,
            noise in "[\\[\\]\"=a-f0-9\n é]{0,8}",
        ) {
            let mut text = write(&[entry(1)]).to_string();
            let at = at.min(text.len());
            text.insert_str(at, &noise);
            let _ = parse(&text);
        }
    }
}
