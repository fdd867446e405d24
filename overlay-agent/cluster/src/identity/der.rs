//! DER of what is signed with Ed25519: certificates (RFC 5280) and certificate requests (RFC 2986)
//! are both `SEQUENCE { body, algorithm, BIT STRING signature }`, keys are in the forms of RFC
//! 8410.
//!
//! The frame around the body is not signed, so it is read by hand and in one form only: a root is
//! named by the hash of all its bytes, and a spare bit in the frame would give it a second name.

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

/// `AlgorithmIdentifier` of Ed25519, without parameters (RFC 8410 section 3).
const ALGORITHM: [u8; 7] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

/// Tag, length and number of unused bits of a signature's BIT STRING.
const SIGNATURE_HEADER: [u8; 3] = [0x03, 0x41, 0x00];

/// `SubjectPublicKeyInfo` up to the key.
const PUBLIC_KEY_HEADER: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
pub(super) const PUBLIC_KEY_LEN: usize = PUBLIC_KEY_HEADER.len() + 32;

/// Content of the one SEQUENCE that `der` is, its length in the shortest form (X.690 section 10.1).
fn sequence(der: &[u8]) -> Option<&[u8]> {
    let (len, content) = match der {
        [0x30, len @ 0..=0x7f, content @ ..] => (usize::from(*len), content),
        [0x30, 0x81, len @ 0x80..=0xff, content @ ..] => (usize::from(*len), content),
        [0x30, 0x82, high @ 1..=0xff, low, content @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), content)
        }
        _ => return None,
    };
    (content.len() == len).then_some(content)
}

/// Body and signature of a signed structure; `None` if it has any form but the one that is issued.
pub(super) fn split_signed(der: &[u8]) -> Option<(&[u8], Signature)> {
    let (rest, signature) = sequence(der)?.split_last_chunk::<64>()?;
    let rest = rest.strip_suffix(&SIGNATURE_HEADER)?;
    let body = rest.strip_suffix(&ALGORITHM)?;
    sequence(body)?;
    Some((body, Signature::from_bytes(signature)))
}

/// The key of a `SubjectPublicKeyInfo`; `None` if it is no Ed25519 key, or one of the few that
/// accept signatures that nobody made.
pub(super) fn public_key(info: &[u8]) -> Option<VerifyingKey> {
    let key = info.strip_prefix(&PUBLIC_KEY_HEADER)?.try_into().ok()?;
    VerifyingKey::from_bytes(key)
        .ok()
        .filter(|key| !key.is_weak())
}

/// Signs for rcgen without a copy of the key.
pub(super) struct Signer<'a>(pub(super) &'a SigningKey);

impl rcgen::PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        AsRef::<VerifyingKey>::as_ref(self.0).as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for Signer<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message).to_bytes().to_vec())
    }
}

/// A public key that rcgen certifies.
pub(super) struct Subject<'a>(pub(super) &'a VerifyingKey);

impl rcgen::PublicKeyData for Subject<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn public_key_info(key: &VerifyingKey) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(&Subject(key))
    }

    fn signed(body_content: usize) -> Vec<u8> {
        let wrap = |content: Vec<u8>| {
            let len = content.len();
            let mut der = match len {
                0..0x80 => vec![0x30, len as u8],
                0x80..0x100 => vec![0x30, 0x81, len as u8],
                _ => vec![0x30, 0x82, (len >> 8) as u8, len as u8],
            };
            der.extend(content);
            der
        };
        let mut content = wrap(vec![5; body_content]);
        content.extend(ALGORITHM);
        content.extend(SIGNATURE_HEADER);
        content.extend([7; 64]);
        wrap(content)
    }

    #[test]
    fn bodies_of_every_length_are_found() {
        for len in [0, 1, 40, 50, 51, 52, 127, 128, 200, 255, 256, 300, 1000] {
            let der = signed(len);
            let (body, signature) = split_signed(&der).expect("ours");
            assert!(body.len() >= len + 2 && body.ends_with(&vec![5; len]));
            assert_eq!(signature.to_bytes(), [7; 64]);
        }
    }

    #[test]
    fn every_other_frame_is_refused() {
        let der = signed(40);
        let (body, _) = split_signed(&der).expect("ours");
        let body_at = der.len() - 74 - body.len();
        // The content of the body and the signature are the signature's to protect.
        let frame = (0..body_at + 2).chain(der.len() - 74..der.len() - 64);
        for at in frame {
            for bit in 0..8 {
                let mut changed = der.clone();
                changed[at] ^= 1 << bit;
                assert!(split_signed(&changed).is_none(), "byte {at} bit {bit}");
            }
        }
        for cut in 0..der.len() {
            assert!(split_signed(&der[..cut]).is_none());
        }
        let mut longer = der.clone();
        longer.push(0);
        assert!(split_signed(&longer).is_none());
    }

    #[test]
    fn lengths_in_a_longer_form_are_refused() {
        assert!(sequence(&[0x30, 0x81, 1, 0]).is_none());
        assert!(sequence(&[0x30, 0x82, 0, 1, 0]).is_none());
        assert!(sequence(&[0x30, 0x80, 0, 0]).is_none());
        assert_eq!(sequence(&[0x30, 1, 9]), Some([9].as_slice()));
    }

    #[test]
    fn weak_keys_are_refused() {
        // The neutral element, for which a signature of zeros is good for every message.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        let key = VerifyingKey::from_bytes(&neutral).expect("on the curve");
        assert!(public_key(&public_key_info(&key)).is_none());
    }

    proptest! {
        #[test]
        fn parse_noise(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            _ = split_signed(&der);
            _ = public_key(&der);
        }

        #[test]
        fn parse_back(seed in any::<[u8; 32]>()) {
            let key = SigningKey::from_bytes(&seed).verifying_key();
            prop_assert_eq!(public_key(&public_key_info(&key)), Some(key));
        }
    }
}
