//! The form of commands, snapshots and views on wire and disk: a version byte, then postcard.

use serde::{Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

/// Bytes that are not what they were offered as.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No version byte.
    #[error("the {what} is empty: it was cut short, fetch it again")]
    Empty { what: &'static str },
    /// Written by software of another release.
    #[error(
        "the {what} has version {found}, and this release reads version {known}: run the same release on all managers"
    )]
    Version {
        what: &'static str,
        found: u8,
        known: u8,
    },
    /// More than is ever written.
    #[error("the {what} has {len} bytes, and {max} at the most are read: it is damaged or made up")]
    TooLong {
        what: &'static str,
        len: usize,
        max: usize,
    },
    /// Not what postcard writes for the type.
    #[error("the {what} is damaged ({reason}): fetch or restore it again")]
    Damaged {
        what: &'static str,
        reason: postcard::Error,
    },
    /// Bytes behind the end.
    #[error("the {what} is followed by {extra} bytes: it is damaged or made up")]
    Trailing { what: &'static str, extra: usize },
    /// It decodes, and cannot be.
    #[error("the {what} contradicts itself ({fault}): restore another backup")]
    Unsound { what: &'static str, fault: String },
}

/// `version` and the postcard form of `value`, in one allocation: a growing one would leave copies of
/// secrets behind.
pub fn encode(version: u8, value: &impl Serialize) -> Zeroizing<Vec<u8>> {
    let size = postcard::experimental::serialized_size(value)
        .unwrap_or_else(|error| unreachable!("types of the log have a postcard form: {error}"));
    let mut bytes = Zeroizing::new(vec![0; size + 1]);
    bytes[0] = version;
    match postcard::to_slice(value, &mut bytes[1..]) {
        Ok(_) => bytes,
        Err(error) => unreachable!("types of the log have a postcard form: {error}"),
    }
}

/// The value in `bytes`, of which all must be read.
pub fn decode<T: DeserializeOwned>(
    what: &'static str,
    version: u8,
    max: usize,
    bytes: &[u8],
) -> Result<T, DecodeError> {
    if bytes.len() > max {
        return Err(DecodeError::TooLong {
            what,
            len: bytes.len(),
            max,
        });
    }
    let Some((&found, body)) = bytes.split_first() else {
        return Err(DecodeError::Empty { what });
    };
    if found != version {
        return Err(DecodeError::Version {
            what,
            found,
            known: version,
        });
    }
    let (value, rest) =
        postcard::take_from_bytes(body).map_err(|reason| DecodeError::Damaged { what, reason })?;
    if !rest.is_empty() {
        return Err(DecodeError::Trailing {
            what,
            extra: rest.len(),
        });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_text(bytes: &[u8]) -> Result<String, DecodeError> {
        decode("text", 3, 8, bytes)
    }

    #[test]
    fn what_was_encoded_decodes() {
        let bytes = encode(3, &"web".to_owned());
        assert_eq!(bytes.as_slice(), [3, 3, b'w', b'e', b'b']);
        assert_eq!(decode_text(&bytes), Ok("web".into()));
    }

    #[test]
    fn other_bytes_are_refused_with_the_reason() {
        let what = "text";
        assert_eq!(decode_text(&[]), Err(DecodeError::Empty { what }));
        assert_eq!(
            decode_text(&[4, 0]),
            Err(DecodeError::Version {
                what,
                found: 4,
                known: 3
            })
        );
        assert_eq!(
            decode_text(&[3; 9]),
            Err(DecodeError::TooLong {
                what,
                len: 9,
                max: 8
            })
        );
        assert!(matches!(
            decode_text(&[3, 9]),
            Err(DecodeError::Damaged { .. })
        ));
        assert_eq!(
            decode_text(&[3, 0, 0]),
            Err(DecodeError::Trailing { what, extra: 1 })
        );
    }
}
