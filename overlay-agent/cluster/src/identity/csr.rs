//! The request of a node for its certificate: PKCS#10 (RFC 2986) with the node's key and nothing
//! else.
//!
//! Its signature proves that the sender has the key, or had the request of someone who has: it is
//! the same each time, and names no connection. All that it can get is a certificate for that key.
//! The node id is the hash of the key and the role comes from the join token or the roster, so
//! there is nothing to ask for: a request has no names and no attributes, and one that has any is
//! refused without being looked into.

use ed25519_dalek::VerifyingKey;
use rcgen::{CertificateParams, DistinguishedName};

use super::{
    authority::AuthorityError,
    der::{self, PUBLIC_KEY_LEN, Signer},
    node_key::NodeKey,
};
use crate::id::NodeId;

/// A request that its sender signed with the key in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateRequest {
    key: VerifyingKey,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not one request in DER with an Ed25519 signature.
    #[error("{len} bytes are no certificate request in DER with an Ed25519 signature")]
    Form {
        /// Length of what was sent.
        len: usize,
    },
    /// It asks for more than a key's certificate.
    #[error(
        "the certificate request is not of this program: it has an Ed25519 key, and neither names \
         nor attributes"
    )]
    Content,
    /// The key is one of the few for which anybody can sign, or no key.
    #[error("the key in the certificate request is none that can be trusted: make a new one")]
    Key,
    /// The sender does not have the key.
    #[error(
        "the certificate request is not signed by the key in it: its sender does not have that key"
    )]
    Signature,
}

/// Version 0 and the empty name, before the key.
const BEFORE_KEY: [u8; 5] = [0x02, 0x01, 0x00, 0x30, 0x00];
/// The empty set of attributes, after it.
const AFTER_KEY: [u8; 2] = [0xa0, 0x00];
/// Length of what is signed, after its two bytes of tag and length.
const CONTENT_LEN: usize = BEFORE_KEY.len() + PUBLIC_KEY_LEN + AFTER_KEY.len();

impl CertificateRequest {
    /// DER of the request of the node that has `key`.
    pub fn sign(key: &NodeKey) -> Result<Vec<u8>, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&Signer(key.signing_key()))?;
        Ok(request.der().to_vec())
    }

    pub fn parse(der: &[u8]) -> Result<Self, RequestError> {
        let (body, signature) =
            der::split_signed(der).ok_or(RequestError::Form { len: der.len() })?;
        let info = body
            .strip_prefix(&[0x30, CONTENT_LEN as u8])
            .and_then(|content| content.strip_prefix(&BEFORE_KEY))
            .and_then(|content| content.strip_suffix(&AFTER_KEY))
            .filter(|info| info.len() == PUBLIC_KEY_LEN)
            .ok_or(RequestError::Content)?;
        let key = der::public_key(info).ok_or(RequestError::Key)?;
        key.verify_strict(body, &signature)
            .map_err(|_| RequestError::Signature)?;
        Ok(Self { key })
    }

    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    pub fn node_id(&self) -> NodeId {
        NodeId::of(&self.key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::DnType;

    use super::*;
    use crate::identity::testing::{flipped, mangled, rng};

    fn key(seed: u64) -> NodeKey {
        NodeKey::generate(&mut rng(seed))
    }

    #[test]
    fn a_request_gives_the_key_and_the_node_of_its_sender() {
        let key = key(1);
        let der = CertificateRequest::sign(&key).expect("signs");
        let request = CertificateRequest::parse(&der).expect("ours");
        assert_eq!(request.key(), &key.public());
        assert_eq!(request.node_id(), key.node_id());
    }

    #[test]
    fn rcgen_reads_it_as_a_request() {
        let der = CertificateRequest::sign(&key(2)).expect("signs");
        let read = rcgen::CertificateSigningRequestParams::from_der(&der.into()).expect("PKCS#10");
        assert_eq!(read.params.distinguished_name, DistinguishedName::new());
    }

    #[test]
    fn names_and_attributes_are_refused_unread() {
        let key = key(3);
        let mut named = CertificateParams::default();
        named
            .distinguished_name
            .push(DnType::OrganizationalUnitName, "manager");
        let mut extended = CertificateParams::new(["manager.example".to_owned()]).expect("a name");
        extended.distinguished_name = DistinguishedName::new();
        for params in [named, extended] {
            let request = params
                .serialize_request(&Signer(key.signing_key()))
                .expect("signs");
            assert_eq!(
                CertificateRequest::parse(request.der()),
                Err(RequestError::Content)
            );
        }
    }

    #[test]
    fn the_key_of_another_is_refused() {
        let (own, other) = (key(4), key(5));
        let der = CertificateRequest::sign(&own).expect("signs");
        let at = der
            .windows(32)
            .position(|window| window == own.public().as_bytes())
            .expect("the key");
        let mut stolen = der;
        stolen[at..at + 32].copy_from_slice(other.public().as_bytes());
        assert_eq!(
            CertificateRequest::parse(&stolen),
            Err(RequestError::Signature)
        );
    }

    #[test]
    fn every_flipped_bit_and_every_change_is_refused() {
        let der = CertificateRequest::sign(&key(6)).expect("signs");
        for (bit, changed) in flipped(&der) {
            assert!(CertificateRequest::parse(&changed).is_err(), "bit {bit}");
        }
        for changed in mangled(&der, 7) {
            assert!(changed == der || CertificateRequest::parse(&changed).is_err());
        }
    }

    proptest! {
        #[test]
        fn parse_noise(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(CertificateRequest::parse(&der).is_err());
        }

        #[test]
        fn parse_back(seed in any::<u64>()) {
            let key = key(seed);
            let der = CertificateRequest::sign(&key).expect("signs");
            let request = CertificateRequest::parse(&der).expect("ours");
            prop_assert_eq!(request.key(), &key.public());
        }
    }
}
