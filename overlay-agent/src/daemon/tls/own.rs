//! The certificate and key that this node shows.

use std::sync::{Arc, PoisonError, RwLock};

use overlay_cluster::{
    id::NodeId,
    identity::{
        certificate::{self, CertificateError},
        node_key::NodeKey,
    },
};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    pki_types::CertificateDer,
    server::{ClientHello, ResolvesServerCert},
    sign::{CertifiedKey, Signer, SigningKey},
};

use super::Members;

/// Why a certificate cannot be this node's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OwnError {
    /// No certificate.
    #[error("the certificate of this node cannot be used: {0}")]
    Certificate(#[from] CertificateError),
    /// Another node's.
    #[error(
        "the certificate is not of this node, {node}: restore both from one backup, or join again"
    )]
    OtherKey {
        /// This node.
        node: NodeId,
    },
}

/// This node's key, and the certificate of today: connections that begin later show a renewed one.
#[derive(Debug)]
pub struct Own {
    key: Arc<Key>,
    shown: RwLock<Arc<CertifiedKey>>,
}

impl Own {
    pub fn new(key: NodeKey, certificate: &[u8]) -> Result<Self, OwnError> {
        let key = Arc::new(Key(key));
        let shown = RwLock::new(Arc::new(key.clone().certified(certificate)?));
        Ok(Self { key, shown })
    }

    /// Shows this certificate from now on.
    pub fn renew(&self, certificate: &[u8]) -> Result<(), OwnError> {
        let certified = Arc::new(self.key.clone().certified(certificate)?);
        *self.shown.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    /// DER of the certificate that is shown now.
    pub fn certificate(&self) -> Vec<u8> {
        let shown = self.shown();
        shown
            .cert
            .first()
            .map(|der| der.to_vec())
            .unwrap_or_default()
    }

    fn shown(&self) -> Arc<CertifiedKey> {
        self.shown
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.shown())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The certificate followed by the trusted roots: a joining node looks for the one that its token
/// names.
#[derive(Debug)]
pub(super) struct WithRoots {
    pub(super) own: Arc<Own>,
    pub(super) members: Arc<dyn Members>,
}

impl ResolvesServerCert for WithRoots {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut shown = CertifiedKey::clone(&self.own.shown());
        let trust = self.members.trust();
        let roots = trust.roots().iter();
        shown
            .cert
            .extend(roots.map(|root| CertificateDer::from(root.der().to_vec())));
        Some(Arc::new(shown))
    }
}

/// The key as rustls asks for it. ring's own type is not zeroized.
#[derive(Debug, Clone)]
struct Key(NodeKey);

impl Key {
    fn certified(self: Arc<Self>, certificate: &[u8]) -> Result<CertifiedKey, OwnError> {
        if certificate::key(certificate)? != self.0.public() {
            return Err(OwnError::OtherKey {
                node: self.0.node_id(),
            });
        }
        let certificate = CertificateDer::from(certificate.to_vec());
        Ok(CertifiedKey::new(vec![certificate], self))
    }
}

impl SigningKey for Key {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ED25519)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        Ok(self.0.sign(message).to_bytes().to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}
