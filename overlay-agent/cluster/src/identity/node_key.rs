//! The key that a node is.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::pem::{self, PemError};
use crate::id::NodeId;

/// PKCS#8 of an Ed25519 key up to its 32 bytes (RFC 8410 section 7, version 1, without the public
/// key: rustls and OpenSSL read both, this one has a fixed form).
const PKCS8_HEADER: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// Length of a key in PKCS#8.
pub const PKCS8_LEN: usize = PKCS8_HEADER.len() + 32;

/// The Ed25519 key of a node: zeroized when dropped, printed as the node's id.
///
/// It signs three kinds of things that cannot be taken for each other: TLS 1.3 handshakes (64
/// spaces and a label, RFC 8446 section 4.4.3), certificate requests (DER), and signed records (a
/// label).
#[derive(Clone)]
pub struct NodeKey(SigningKey);

/// Why bytes or a text are no node key. Nothing of them is quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeKeyError {
    /// Not PEM.
    #[error("the node key cannot be read: {0}")]
    Pem(#[from] PemError),
    /// PEM or DER of something else.
    #[error(
        "the node key is no Ed25519 key in PKCS#8, version 1: {len} bytes where such a key has \
         {PKCS8_LEN}"
    )]
    Pkcs8 {
        /// Length of the DER in bytes.
        len: usize,
    },
}

impl NodeKey {
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(seed.as_mut_slice());
        Self(SigningKey::from_bytes(&seed))
    }

    pub fn node_id(&self) -> NodeId {
        NodeId::of(&self.public())
    }

    pub fn public(&self) -> VerifyingKey {
        self.0.verifying_key()
    }

    pub fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign(message)
    }

    /// For what gossip signs.
    pub const fn signing_key(&self) -> &SigningKey {
        &self.0
    }

    /// As rustls takes it.
    pub fn to_pkcs8(&self) -> Zeroizing<[u8; PKCS8_LEN]> {
        let mut der = Zeroizing::new([0; PKCS8_LEN]);
        der[..PKCS8_HEADER.len()].copy_from_slice(&PKCS8_HEADER);
        der[PKCS8_HEADER.len()..].copy_from_slice(self.0.as_bytes());
        der
    }

    pub fn from_pkcs8(der: &[u8]) -> Result<Self, NodeKeyError> {
        der.strip_prefix(&PKCS8_HEADER)
            .and_then(|seed| seed.try_into().ok())
            .map(|seed| Self(SigningKey::from_bytes(seed)))
            .ok_or(NodeKeyError::Pkcs8 { len: der.len() })
    }

    /// As it is kept on disk, readable by root alone.
    pub fn to_pem(&self) -> Zeroizing<String> {
        pem::encode(pem::PRIVATE_KEY, self.to_pkcs8().as_slice())
    }

    pub fn from_pem(text: &str) -> Result<Self, NodeKeyError> {
        Self::from_pkcs8(&pem::decode(pem::PRIVATE_KEY, text)?)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(of {})", self.node_id())
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    #[test]
    fn the_key_of_rfc_8410_is_read() {
        // Section 10.3.
        let text = "-----BEGIN PRIVATE KEY-----\n\
                    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                    -----END PRIVATE KEY-----\n";
        let key = NodeKey::from_pem(text).expect("a key");
        assert_eq!(
            HEXLOWER.encode(key.public().as_bytes()),
            "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"
        );
        assert_eq!(key.to_pem().as_str(), text);
    }

    #[test]
    fn rcgen_reads_it_as_ring_does() {
        let key = NodeKey::generate(&mut StdRng::seed_from_u64(1));
        let pair = rcgen::KeyPair::try_from(key.to_pkcs8().as_slice()).expect("a key");
        assert_eq!(
            rcgen::PublicKeyData::der_bytes(&pair),
            key.public().as_bytes()
        );
    }

    #[test]
    fn it_prints_its_node_and_no_byte_of_itself() {
        let key = NodeKey::from_pkcs8(&{
            let mut der = [0xab; PKCS8_LEN];
            der[..16].copy_from_slice(&PKCS8_HEADER);
            der
        })
        .expect("a key");
        assert_eq!(format!("{key:?}"), format!("NodeKey(of {})", key.node_id()));
        let error = NodeKey::from_pkcs8(&[0xab; 47]).expect_err("no key");
        assert!(!error.to_string().contains("171"), "{error}");
    }

    proptest! {
        #[test]
        fn parse_noise(
            der in proptest::collection::vec(any::<u8>(), 0..80),
            text in "-----BEGIN PRIVATE KEY-----[A-Za-z0-9+/=\n]{0,80}-----END PRIVATE KEY-----",
        ) {
            _ = NodeKey::from_pkcs8(&der);
            _ = NodeKey::from_pem(&text);
        }

        #[test]
        fn parse_back(seed in any::<u64>()) {
            let key = NodeKey::generate(&mut StdRng::seed_from_u64(seed));
            let read = NodeKey::from_pem(&key.to_pem()).expect("a key");
            prop_assert_eq!(read.public(), key.public());
            prop_assert_eq!(read.to_pkcs8(), key.to_pkcs8());
        }
    }
}
