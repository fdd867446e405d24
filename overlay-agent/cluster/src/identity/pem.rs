//! The text form of keys and certificates (RFC 7468): one label, base64 in lines of 64.

use data_encoding::BASE64;
use zeroize::Zeroizing;

/// Label of a private key in PKCS#8.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";
/// Label of a certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";

/// Base64 digits of a line.
const LINE: usize = 64;
/// Longest text that is read. A node's certificate has about 1000 bytes.
pub const MAX_LEN: usize = 16 * 1024;

/// Why a text is no PEM. The text is not quoted: it may be a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// The text is larger than any that this program writes.
    #[error("{len} bytes are too many for PEM: at most {MAX_LEN} are read")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not one block of the expected label, and nothing else.
    #[error(
        "no `-----BEGIN {label}-----` … `-----END {label}-----`: the file holds one such block and \
         nothing else"
    )]
    Frame {
        /// What was looked for.
        label: &'static str,
    },
    /// What is between the lines is no base64.
    #[error("what stands in the `{label}` block is no base64: the file is damaged")]
    Base64 {
        /// What was looked for.
        label: &'static str,
    },
}

/// `der` as text. It is zeroized when dropped, because it may be a key.
pub fn encode(label: &'static str, der: &[u8]) -> Zeroizing<String> {
    let digits = Zeroizing::new(BASE64.encode(der));
    // Enough for everything: a string that grows leaves copies behind.
    let mut text = Zeroizing::new(String::with_capacity(
        digits.len() + digits.len() / LINE + 2 * label.len() + 40,
    ));
    text.push_str("-----BEGIN ");
    text.push_str(label);
    text.push_str("-----\n");
    let mut rest = digits.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

/// The bytes of a text that is one block of this label.
pub fn decode(label: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, PemError> {
    if text.len() > MAX_LEN {
        return Err(PemError::TooLong { len: text.len() });
    }
    let frame = PemError::Frame { label };
    let inner = text
        .trim()
        .strip_prefix("-----BEGIN ")
        .and_then(|text| text.strip_prefix(label))
        .and_then(|text| text.strip_prefix("-----"))
        .and_then(|text| text.strip_suffix("-----"))
        .and_then(|text| text.strip_suffix(label))
        .and_then(|text| text.strip_suffix("-----END "))
        .ok_or(frame)?;
    let mut digits = Zeroizing::new(String::with_capacity(inner.len()));
    digits.extend(inner.chars().filter(|c| !c.is_ascii_whitespace()));
    BASE64
        .decode(digits.as_bytes())
        .map(Zeroizing::new)
        .map_err(|_| PemError::Base64 { label })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines_have_64_digits() {
        let text = encode(CERTIFICATE, &[0; 60]);
        let lines: Vec<_> = text.lines().map(str::len).collect();
        assert_eq!(lines, [27, 64, 16, 25]);
        assert!(text.ends_with("-----END CERTIFICATE-----\n"));
    }

    #[test]
    fn another_label_is_named() {
        let text = encode(CERTIFICATE, b"der");
        let error = decode(PRIVATE_KEY, &text).expect_err("no key");
        assert_eq!(error, PemError::Frame { label: PRIVATE_KEY });
        assert!(error.to_string().contains("BEGIN PRIVATE KEY"));
        assert!(decode(CERTIFICATE, &text.replace("ZGVy", "ZGV*")).is_err());
    }

    proptest! {
        #[test]
        fn parse_back(der in proptest::collection::vec(any::<u8>(), 0..400)) {
            let text = encode(PRIVATE_KEY, &der);
            let read = decode(PRIVATE_KEY, &text).expect("ours");
            prop_assert_eq!(read.as_slice(), der.as_slice());
        }

        #[test]
        fn parse_noise(text in ".{0,200}") {
            _ = decode(PRIVATE_KEY, &text);
            _ = decode(CERTIFICATE, &format!("-----BEGIN CERTIFICATE-----{text}-----END CERTIFICATE-----"));
        }
    }
}
