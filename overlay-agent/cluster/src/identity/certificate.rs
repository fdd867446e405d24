//! Whether a certificate shows who the peer is.
//!
//! A chain has one link: the node's certificate and a root of the [`TrustBundle`]. Accepted is what
//! [`authority`](super::authority) issues, and nothing near it: Ed25519 alone, one form of the
//! frame (a signature's spare bits would let one certificate have two hashes), the three
//! extensions that say what the key is for. Extensions that are not known are passed over, unless
//! they are critical. What a certificate cannot say, that its node was evicted, the roster says
//! ([`revocation`](super::revocation)).

#[cfg(test)]
mod tests;

use std::time::Duration;

use ed25519_dalek::{Signature, VerifyingKey};

use super::{
    Role,
    trust::{Root, RootDigest, TrustBundle},
    x509::{Purpose, X509},
};
use crate::{
    id::{ClusterId, NodeId},
    time::Timestamp,
};

/// Longest certificate that is read. Those that are issued have about 600 bytes.
pub const MAX_LEN: usize = 4096;

/// By how much the clocks of two hosts may differ before certificates are refused for it.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// Why a certificate is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Larger than any that is issued.
    #[error("a certificate of {len} bytes is not read: those of a cluster have at most {MAX_LEN}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// Not in the one form in which certificates are issued: another algorithm, other DER, another
    /// name, other extensions.
    #[error("no certificate of an overlay cluster: {what}")]
    Form {
        /// What is not as it is issued.
        what: &'static str,
    },
    /// An extension that must be understood and is not (RFC 5280 section 4.2).
    #[error(
        "the certificate has the critical extension {oid}, which this version does not know: \
         update this node"
    )]
    CriticalExtension {
        /// The extension's object identifier.
        oid: String,
    },
    /// Of another cluster.
    #[error("the certificate is of cluster {theirs}, this node of {ours}")]
    ForeignCluster {
        /// The cluster in the certificate. If no root is known for it, nothing proves it.
        theirs: ClusterId,
        /// The cluster of the trusted roots.
        ours: ClusterId,
    },
    /// Issued under this cluster's name by a root that is not, or no longer, trusted.
    #[error(
        "the certificate was issued by root {issuer}, which this cluster does not trust: it was \
         retired, or this node does not know it yet; if the node was away while the root changed, \
         join it again"
    )]
    UnknownIssuer {
        /// The issuer's key as the certificate names it.
        issuer: String,
    },
    /// It names a root that did not sign it.
    #[error(
        "the signature is not of root {root}, which the certificate names: it was forged or damaged"
    )]
    Signature {
        /// The root.
        root: RootDigest,
    },
    /// The node id is not the hash of the key.
    #[error("the certificate names node {named}, but its key is that of node {actual}")]
    NodeId {
        /// The node in the subject.
        named: NodeId,
        /// The node of the key.
        actual: NodeId,
    },
    /// Over.
    #[error(
        "the certificate of node {node} expired on {} and the clock of this host says {}: if that \
         is right, the node renews it as soon as it reaches a manager; if not, set the clock",
        .ended, .now
    )]
    Expired {
        /// Whose it is.
        node: NodeId,
        /// When it ended.
        ended: Timestamp,
        /// This host's time.
        now: Timestamp,
    },
    /// It begins in the future. Certificates begin before they are issued, so a clock is wrong.
    #[error(
        "the clock of this host, {}, differs from that of the manager which issued the \
         certificate: it begins on {}; set the clock",
        .now, .begins
    )]
    ClockBehind {
        /// When it begins.
        begins: Timestamp,
        /// This host's time.
        now: Timestamp,
    },
    /// The root itself is over, which managers prevent by replacing it years before.
    #[error(
        "the root {root} ended on {} and the clock of this host says {}: set the clock, or replace \
         the root",
        .ended, .now
    )]
    RootExpired {
        /// The root.
        root: RootDigest,
        /// When it ended.
        ended: Timestamp,
        /// This host's time.
        now: Timestamp,
    },
    /// Offered for the renewal of an expired certificate, and still valid.
    #[error(
        "the certificate of node {node} is valid until {}: it is renewed over a connection that it \
         authenticates",
        .ends
    )]
    NotExpired {
        /// Whose it is.
        node: NodeId,
        /// When it ends.
        ends: Timestamp,
    },
    /// Another node than the one that was called.
    #[error(
        "node {actual} answered where {expected} was called: an address has a new owner, or \
         traffic is diverted"
    )]
    OtherNode {
        /// Who was called.
        expected: NodeId,
        /// Who answered.
        actual: NodeId,
    },
    /// A worker where a manager is needed.
    #[error("node {node} is a {actual}, and only a {expected} does this")]
    OtherRole {
        /// The peer.
        node: NodeId,
        /// What it must be.
        expected: Role,
        /// What it is.
        actual: Role,
    },
    /// The peer shows a certificate and does not have its key.
    #[error("the peer does not have the key of the certificate that it shows: it is not the owner")]
    Possession,
    /// The manager belongs to the cluster of the join token, whose root has changed since.
    #[error(
        "the root {pin}, which the join token names, no longer issues the certificates of this \
         cluster's managers: ask for the token of today"
    )]
    OldPin {
        /// The digest in the token.
        pin: RootDigest,
    },
    /// None of the roots that a manager showed is the one that the join token names.
    #[error(
        "the manager does not belong to the cluster of the join token: it shows no root with the \
         digest {pin}; the token is of another cluster or older than the root, or the address is \
         not the manager's"
    )]
    Pin {
        /// The digest in the token.
        pin: RootDigest,
    },
}

/// What a certificate that was verified says of its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The hash of `key`.
    pub node: NodeId,
    /// As it was when the certificate was issued: the roster may say otherwise.
    pub role: Role,
    pub cluster: ClusterId,
    pub key: VerifyingKey,
    /// The root that issued it.
    pub issuer: RootDigest,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

impl Identity {
    /// Itself, if it is the node that was called.
    pub fn expect_node(self, expected: NodeId) -> Result<Self, CertificateError> {
        if self.node == expected {
            Ok(self)
        } else {
            Err(CertificateError::OtherNode {
                expected,
                actual: self.node,
            })
        }
    }

    /// Itself, if its certificate has this role.
    pub fn expect_role(self, expected: Role) -> Result<Self, CertificateError> {
        if self.role == expected {
            Ok(self)
        } else {
            Err(CertificateError::OtherRole {
                node: self.node,
                expected,
                actual: self.role,
            })
        }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        now > self.not_after.saturating_add(CLOCK_TOLERANCE)
    }
}

/// Who shows `der`, if it is valid at `now`, [`CLOCK_TOLERANCE`] more or less. That the peer has
/// the key is for the TLS handshake to prove.
pub fn verify(
    der: &[u8],
    trust: &TrustBundle,
    now: Timestamp,
) -> Result<Identity, CertificateError> {
    let identity = verify_issued(der, trust, now)?;
    if identity.is_over(now) {
        return Err(CertificateError::Expired {
            node: identity.node,
            ended: identity.not_after,
            now,
        });
    }
    Ok(identity)
}

/// Who shows `der`, if it has expired and is good in every other way: a member of the roster may
/// renew it, and do nothing else. The roster must be asked.
///
/// A node that slept through a change of root shows a certificate of a retired one. A manager that
/// wants it back without a token passes a bundle that still has that root.
pub fn verify_for_renewal(
    der: &[u8],
    trust: &TrustBundle,
    now: Timestamp,
) -> Result<Identity, CertificateError> {
    let identity = verify_issued(der, trust, now)?;
    if identity.is_over(now) {
        Ok(identity)
    } else {
        Err(CertificateError::NotExpired {
            node: identity.node,
            ends: identity.not_after,
        })
    }
}

/// The manager that a node joins: its certificate, and of the roots that it shows the one that the
/// node's token names. No other root is trusted, whatever it has signed.
///
/// `roots` are as they come from the peer; at most [`super::trust::MAX_ROOTS`] are looked at.
pub fn verify_pinned<'a>(
    der: &[u8],
    roots: impl IntoIterator<Item = &'a [u8]>,
    pin: RootDigest,
    now: Timestamp,
) -> Result<(TrustBundle, Identity), CertificateError> {
    let root = roots
        .into_iter()
        .take(super::trust::MAX_ROOTS)
        .find(|root| RootDigest::of(root) == pin)
        .ok_or(CertificateError::Pin { pin })?;
    let trust = TrustBundle::new(Root::from_der(root)?);
    let manager = match verify(der, &trust, now) {
        Err(CertificateError::UnknownIssuer { .. }) => Err(CertificateError::OldPin { pin }),
        verified => verified?.expect_role(Role::Manager),
    }?;
    Ok((trust, manager))
}

/// Whether the owner of the certificate's key signed `message`, as a TLS handshake does to prove
/// that it is the owner. Of the certificate nothing else is believed or refused here.
pub fn verify_possession(
    der: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), CertificateError> {
    let signature = Signature::from_slice(signature).map_err(|_| CertificateError::Possession)?;
    key(der)?
        .verify_strict(message, &signature)
        .map_err(|_| CertificateError::Possession)
}

/// The key in a certificate of which nothing else is believed.
pub fn key(der: &[u8]) -> Result<VerifyingKey, CertificateError> {
    X509::parse(der).map(|certificate| certificate.key)
}

/// Everything but the end of the certificate.
fn verify_issued(
    der: &[u8],
    trust: &TrustBundle,
    now: Timestamp,
) -> Result<Identity, CertificateError> {
    let certificate = X509::parse(der)?;
    let ours = trust.cluster();
    let theirs = certificate.cluster()?;
    if theirs != ours {
        return Err(CertificateError::ForeignCluster { theirs, ours });
    }
    let root = trust
        .roots()
        .iter()
        .find(|root| root.is_issuer_of(&certificate))
        .ok_or_else(|| CertificateError::UnknownIssuer {
            issuer: certificate.issuer_key(),
        })?;
    let digest = root.digest();
    if !certificate.is_signed_by(root.key()) {
        return Err(CertificateError::Signature { root: digest });
    }
    certificate.expect_purpose(Purpose::Node)?;
    let (named, actual) = (certificate.node()?, NodeId::of(&certificate.key));
    if named != actual {
        return Err(CertificateError::NodeId { named, actual });
    }
    let role = certificate.role()?;
    for begins in [root.not_before(), certificate.not_before] {
        if now.saturating_add(CLOCK_TOLERANCE) < begins {
            return Err(CertificateError::ClockBehind { begins, now });
        }
    }
    if now > root.not_after().saturating_add(CLOCK_TOLERANCE) {
        return Err(CertificateError::RootExpired {
            root: digest,
            ended: root.not_after(),
            now,
        });
    }
    Ok(Identity {
        node: actual,
        role,
        cluster: ours,
        key: certificate.key,
        issuer: digest,
        not_before: certificate.not_before,
        not_after: certificate.not_after,
    })
}
