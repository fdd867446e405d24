//! Whether a certificate shows who the peer is.
//!
//! A chain has one link: the node's certificate and a root of the [`TrustBundle`]. Accepted is what
//! [`authority`](super::authority) issues, and nothing near it: Ed25519 alone, one form of the
//! frame (a signature's spare bits would let one certificate have two hashes), the three
//! extensions that say what the key is for. Extensions that are not known are passed over, unless
//! they are critical. What a certificate cannot say, that its node was evicted, the roster says
//! ([`revocation`](super::revocation)).

use std::time::Duration;

use ed25519_dalek::{Signature, VerifyingKey};

use super::{
    Role,
    trust::{Root, RootDigest, TrustBundle},
    utc::utc,
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
        "the certificate has the critical extension {oid}, which this version does not know: update this node"
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
        "the certificate was issued by root {issuer}, which this cluster does not trust: it was retired, or this node does not know it yet; if the node was away while the root changed, join it again"
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
        "the certificate of node {node} expired on {} (this host's clock: {}): the node renews it as soon as it reaches a manager", utc(*.ended), utc(*.now)
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
        "the clock of this host, {}, differs from that of the manager which issued the certificate: it begins on {}; set the clock", utc(*.now), utc(*.begins)
    )]
    ClockBehind {
        /// When it begins.
        begins: Timestamp,
        /// This host's time.
        now: Timestamp,
    },
    /// The root itself is over, which managers prevent by replacing it years before.
    #[error(
        "the root {root} ended on {} and the clock of this host says {}: set the clock, or replace the root", utc(*.ended), utc(*.now)
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
        "the certificate of node {node} is valid until {}: it is renewed over a connection that it authenticates", utc(*.ends)
    )]
    NotExpired {
        /// Whose it is.
        node: NodeId,
        /// When it ends.
        ends: Timestamp,
    },
    /// Another node than the one that was called.
    #[error(
        "node {actual} answered where {expected} was called: an address has a new owner, or traffic is diverted"
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
    /// None of the roots that a manager showed is the one that the join token names.
    #[error(
        "the manager does not belong to the cluster of the join token: it shows no root with the digest {pin}; the token is of another cluster or older than the root, or the address is not the manager's"
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

/// Who shows `der`, if it is valid at `now`, [`CLOCK_TOLERANCE`] more or less. That the peer has the
/// key is for the TLS handshake to prove.
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

/// Who shows `der`, if it has expired and is good in every other way: a member of the roster may renew
/// it, and do nothing else. The roster must be asked.
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
    let manager = verify(der, &trust, now)?.expect_role(Role::Manager)?;
    Ok((trust, manager))
}

/// Whether the owner of the certificate's key signed `message`, as a TLS handshake does to prove that
/// it is the owner. Of the certificate nothing else is believed or refused here.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{
        BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
        ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, date_time_ymd,
    };

    use super::*;
    use crate::identity::{
        der::{Signer, Subject},
        node_key::NodeKey,
        testing::{CLUSTER, DAY, NOW, Pki, flipped, issue, mangled},
    };

    const MINUTE: Duration = Duration::from_secs(60);

    /// What is issued, to be changed.
    fn params(key: &NodeKey, role: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.not_before = date_time_ymd(2026, 5, 28);
        params.not_after = date_time_ymd(2026, 8, 28);
        params.distinguished_name = subject(&CLUSTER.to_string(), role, &key.node_id().to_string());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params
    }

    fn subject(cluster: &str, role: &str, node: &str) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, cluster);
        name.push(DnType::OrganizationalUnitName, role);
        name.push(DnType::CommonName, node);
        name
    }

    /// Signed by the cluster's authority, which would never issue it.
    fn sign(pki: &Pki, key: &NodeKey, params: &CertificateParams) -> Vec<u8> {
        let root = pki.authority.root();
        let secret = pki.authority.key();
        let signing = ed25519_dalek::SigningKey::from_bytes(secret.expose());
        let issuer = Issuer::from_ca_cert_der(&root.der().into(), Signer(&signing)).expect("root");
        let signed = params.signed_by(&Subject(&key.public()), &issuer);
        signed.expect("signs").der().to_vec()
    }

    fn refused(pki: &Pki, key: &NodeKey, params: &CertificateParams) -> CertificateError {
        verify(&sign(pki, key, params), &pki.trust, NOW).expect_err("never issued")
    }

    #[test]
    fn what_is_issued_is_accepted_and_says_who() {
        let pki = Pki::new(1);
        let key = pki.node_key(1);
        for role in Role::ALL {
            let identity = verify(&pki.issue(&key, role), &pki.trust, NOW).expect("issued");
            assert_eq!(identity.node, key.node_id());
            assert_eq!(identity.role, role);
            assert_eq!(identity.cluster, CLUSTER);
            assert_eq!(identity.key, key.public());
            assert_eq!(identity.issuer, pki.trust.issuer().digest());
        }
        // The changes of other tests are changes of something good.
        let der = sign(&pki, &key, &params(&key, "worker"));
        assert!(verify(&der, &pki.trust, NOW).is_ok());
    }

    #[test]
    fn every_flipped_bit_and_every_change_is_refused() {
        let pki = Pki::new(1);
        let der = pki.issue(&pki.node_key(1), Role::Worker);
        assert!(der.len() < 700, "{}", der.len());
        for (bit, changed) in flipped(&der) {
            assert!(verify(&changed, &pki.trust, NOW).is_err(), "bit {bit}");
        }
        for changed in mangled(&der, 1) {
            assert!(changed == der || verify(&changed, &pki.trust, NOW).is_err());
        }
        let long = vec![0x30; MAX_LEN + 1];
        assert_eq!(
            verify(&long, &pki.trust, NOW),
            Err(CertificateError::TooLong { len: long.len() })
        );
    }

    #[test]
    fn spare_bits_of_the_signature_are_refused() {
        let pki = Pki::new(1);
        let mut der = pki.issue(&pki.node_key(1), Role::Worker);
        let unused_bits = der.len() - 65;
        assert_eq!(der[unused_bits], 0);
        for unused in 1..8 {
            der[unused_bits] = unused;
            assert!(matches!(
                verify(&der, &pki.trust, NOW),
                Err(CertificateError::Form { .. })
            ));
        }
    }

    #[test]
    fn an_expired_certificate_is_told_from_a_clock_that_is_behind() {
        let pki = Pki::new(1);
        let key = pki.node_key(1);
        let der = pki.issue(&key, Role::Worker);
        let at = |now| verify(&der, &pki.trust, now);
        let (node, hour) = (key.node_id(), 60 * MINUTE);
        let (begins, ended) = (NOW.saturating_sub(hour), NOW.saturating_add(90 * DAY));

        // An hour that it was dated back, and five minutes.
        assert!(at(NOW.saturating_sub(65 * MINUTE)).is_ok());
        let now = NOW.saturating_sub(65 * MINUTE + Duration::from_millis(1));
        assert_eq!(at(now), Err(CertificateError::ClockBehind { begins, now }));
        let message = at(now).expect_err("early").to_string();
        assert!(message.contains("clock of this host"), "{message}");

        assert!(at(ended.saturating_add(5 * MINUTE)).is_ok());
        let now = ended.saturating_add(5 * MINUTE + Duration::from_millis(1));
        assert_eq!(at(now), Err(CertificateError::Expired { node, ended, now }));

        let now = NOW.saturating_add(3651 * DAY);
        assert!(matches!(at(now), Err(CertificateError::RootExpired { .. })));
    }

    #[test]
    fn only_expired_certificates_are_good_for_renewal() {
        let pki = Pki::new(1);
        let key = pki.node_key(1);
        let der = pki.issue(&key, Role::Worker);
        let at = |now| verify_for_renewal(&der, &pki.trust, now);
        let later = NOW.saturating_add(91 * DAY);
        assert_eq!(at(later).expect("expired").node, key.node_id());
        assert!(matches!(at(NOW), Err(CertificateError::NotExpired { .. })));
        let early = NOW.saturating_sub(DAY);
        assert!(matches!(
            at(early),
            Err(CertificateError::ClockBehind { .. })
        ));
        // Everything else is verified as ever.
        let foreign = Pki::of(ClusterId::from_bytes([2; 16]), 1);
        let foreign = foreign.issue(&key, Role::Worker);
        assert!(matches!(
            verify_for_renewal(&foreign, &pki.trust, later),
            Err(CertificateError::ForeignCluster { .. })
        ));
        for (bit, changed) in flipped(&der).filter(|(bit, _)| bit % 7 == 0) {
            let refused = verify_for_renewal(&changed, &pki.trust, later);
            assert!(refused.is_err(), "bit {bit}");
        }
    }

    #[test]
    fn another_cluster_and_a_forged_issuer_are_told_apart() {
        let (pki, key) = (Pki::new(1), Pki::new(1).node_key(1));
        let theirs = ClusterId::from_bytes([2; 16]);
        let foreign = Pki::of(theirs, 1).issue(&key, Role::Worker);
        assert_eq!(
            verify(&foreign, &pki.trust, NOW),
            Err(CertificateError::ForeignCluster {
                theirs,
                ours: CLUSTER
            })
        );
        // Another authority under the name of ours.
        let root = pki.authority.root();
        let forger = pki.node_key(2);
        let mut name = CertificateParams::default();
        name.distinguished_name = subject(
            &CLUSTER.to_string(),
            "authority",
            &NodeId::of(root.key()).to_string(),
        );
        let issuer = Issuer::new(name, Signer(forger.signing_key()));
        let forged = params(&key, "manager")
            .signed_by(&Subject(&key.public()), &issuer)
            .expect("signs");
        assert_eq!(
            verify(forged.der(), &pki.trust, NOW),
            Err(CertificateError::Signature {
                root: root.digest()
            })
        );
        // A node is no authority, whatever its certificate says of the issuer.
        let mut name = CertificateParams::default();
        name.distinguished_name = subject(
            &CLUSTER.to_string(),
            "worker",
            &forger.node_id().to_string(),
        );
        let issuer = Issuer::new(name, Signer(forger.signing_key()));
        let forged = params(&key, "manager")
            .signed_by(&Subject(&key.public()), &issuer)
            .expect("signs");
        assert!(matches!(
            verify(forged.der(), &pki.trust, NOW),
            Err(CertificateError::UnknownIssuer { .. })
        ));
    }

    #[test]
    fn the_node_id_must_be_the_hash_of_the_key() {
        let pki = Pki::new(1);
        let (key, other) = (pki.node_key(1), pki.node_key(2));
        assert_eq!(
            refused(&pki, &key, &params(&other, "worker")),
            CertificateError::NodeId {
                named: other.node_id(),
                actual: key.node_id()
            }
        );
    }

    #[test]
    fn a_subject_of_another_shape_is_refused() {
        let pki = Pki::new(1);
        let key = pki.node_key(1);
        let (cluster, node) = (CLUSTER.to_string(), key.node_id().to_string());
        let mut two_roles = subject(&cluster, "worker", &node);
        two_roles.push(DnType::CountryName, "manager");
        let mut without_role = DistinguishedName::new();
        without_role.push(DnType::OrganizationName, cluster.as_str());
        without_role.push(DnType::CommonName, node.as_str());
        let mut turned = DistinguishedName::new();
        turned.push(DnType::CommonName, node.as_str());
        turned.push(DnType::OrganizationalUnitName, "worker");
        turned.push(DnType::OrganizationName, cluster.as_str());
        for name in [
            subject(&cluster, "Worker", &node),
            subject(&cluster, "authority", &node),
            subject("", "worker", &node),
            subject(&cluster, "worker", ""),
            two_roles,
            without_role,
            turned,
            DistinguishedName::new(),
        ] {
            let mut params = params(&key, "worker");
            params.distinguished_name = name;
            assert!(matches!(
                refused(&pki, &key, &params),
                CertificateError::Form { .. }
            ));
        }
    }

    #[test]
    fn other_uses_than_tls_on_both_sides_are_refused() {
        let pki = Pki::new(1);
        let key = pki.node_key(1);
        type Change = fn(&mut CertificateParams);
        let changes: [Change; 9] = [
            |it| it.is_ca = IsCa::NoCa,
            |it| it.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)),
            |it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
            |it| it.key_usages = vec![],
            |it| it.key_usages.push(KeyUsagePurpose::KeyCertSign),
            |it| it.extended_key_usages = vec![],
            |it| it.extended_key_usages.truncate(1),
            |it| it.extended_key_usages.push(ExtendedKeyUsagePurpose::Any),
            |it| {
                it.extended_key_usages
                    .push(ExtendedKeyUsagePurpose::Other(vec![1, 2, 3]))
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut params = params(&key, "worker");
            change(&mut params);
            assert!(
                matches!(refused(&pki, &key, &params), CertificateError::Form { .. }),
                "{number}"
            );
        }
        // A root that issued itself a certificate with the extensions of a root.
        assert!(matches!(
            verify(pki.authority.root().der(), &pki.trust, NOW),
            Err(CertificateError::Form { what }) if what.contains("not a node's")
        ));
    }

    #[test]
    fn unknown_extensions_are_passed_over_unless_critical() {
        let pki = Pki::new(1);
        let key = pki.node_key(1);
        let mut params = params(&key, "worker");
        let mut extension = CustomExtension::from_oid_content(&[1, 3, 9, 7], vec![5, 0]);
        params.custom_extensions = vec![extension.clone()];
        assert!(verify(&sign(&pki, &key, &params), &pki.trust, NOW).is_ok());
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
        assert_eq!(
            refused(&pki, &key, &params),
            CertificateError::CriticalExtension {
                oid: "1.3.9.7".to_owned()
            }
        );
        // Known to the parser, and not looked at here.
        let mut constraint = CustomExtension::from_oid_content(&[2, 5, 29, 54], vec![2, 1, 0]);
        constraint.set_criticality(true);
        params.custom_extensions = vec![constraint];
        assert!(matches!(
            refused(&pki, &key, &params),
            CertificateError::CriticalExtension { oid } if oid == "2.5.29.54"
        ));
        // Key usage once more.
        params.custom_extensions = vec![CustomExtension::from_oid_content(
            &[2, 5, 29, 15],
            vec![3, 2, 2, 4],
        )];
        assert!(matches!(
            refused(&pki, &key, &params),
            CertificateError::Form { what } if what.contains("twice")
        ));
    }

    #[test]
    fn a_certificate_for_another_kind_of_key_is_refused() {
        let pki = Pki::new(1);
        let key = pki.node_key(1);
        let ecdsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
        let secret = pki.authority.key();
        let signing = ed25519_dalek::SigningKey::from_bytes(secret.expose());
        let root = pki.authority.root().der().into();
        let issuer = Issuer::from_ca_cert_der(&root, Signer(&signing)).expect("root");
        let signed = params(&key, "worker").signed_by(&ecdsa, &issuer);
        let refused = verify(signed.expect("signs").der(), &pki.trust, NOW);
        assert!(
            matches!(refused, Err(CertificateError::Form { what }) if what.contains("Ed25519"))
        );
        let self_signed = params(&key, "worker").self_signed(&ecdsa).expect("signs");
        assert!(matches!(
            verify(self_signed.der(), &pki.trust, NOW),
            Err(CertificateError::Form { .. })
        ));
    }

    #[test]
    fn a_joining_node_trusts_the_root_of_its_token_alone() {
        let pki = Pki::new(1);
        let (key, next) = (pki.node_key(1), pki.next_authority(2));
        let (old, new) = (pki.authority.root(), next.root());
        let roots = [old.der(), new.der()];
        let manager = issue(&next, &key, Role::Manager, NOW);
        let (trust, identity) =
            verify_pinned(&manager, roots, new.digest(), NOW).expect("the manager");
        assert_eq!(identity.node, key.node_id());
        assert_eq!(trust.roots(), std::slice::from_ref(new));

        // The manager has a certificate of the new root, the token names the old one.
        assert!(matches!(
            verify_pinned(&manager, roots, old.digest(), NOW),
            Err(CertificateError::UnknownIssuer { .. })
        ));
        let pin = RootDigest::of(b"another");
        assert_eq!(
            verify_pinned(&manager, roots, pin, NOW),
            Err(CertificateError::Pin { pin })
        );
        let worker = issue(&next, &key, Role::Worker, NOW);
        assert!(matches!(
            verify_pinned(&worker, roots, new.digest(), NOW),
            Err(CertificateError::OtherRole { .. })
        ));
        // The pinned bytes must be a root.
        let pin = RootDigest::of(&manager);
        assert!(verify_pinned(&manager, [manager.as_slice()], pin, NOW).is_err());
    }

    #[test]
    fn a_signature_shows_who_owns_a_certificate() {
        let pki = Pki::new(1);
        let (key, other) = (pki.node_key(1), pki.node_key(2));
        let der = pki.issue(&key, Role::Worker);
        let signed = |key: &NodeKey| key.sign(b"handshake").to_bytes();
        let verify = |signature: &[u8]| verify_possession(&der, b"handshake", signature);
        assert_eq!(verify(&signed(&key)), Ok(()));
        let refused = Err(CertificateError::Possession);
        assert_eq!(verify(&signed(&other)), refused);
        assert_eq!(verify(&signed(&key)[..63]), refused);
        assert_eq!(verify(&[]), refused);
    }

    #[test]
    fn the_caller_says_whom_it_expects() {
        let pki = Pki::new(1);
        let (key, other) = (pki.node_key(1), pki.node_key(2));
        let identity = pki.identity(&key);
        assert!(identity.clone().expect_node(key.node_id()).is_ok());
        assert!(identity.clone().expect_role(Role::Worker).is_ok());
        assert_eq!(
            identity.clone().expect_node(other.node_id()),
            Err(CertificateError::OtherNode {
                expected: other.node_id(),
                actual: key.node_id()
            })
        );
        assert!(identity.expect_role(Role::Manager).is_err());
    }

    proptest! {
        #[test]
        fn parse_noise(der in proptest::collection::vec(any::<u8>(), 0..700)) {
            let trust = Pki::new(1).trust;
            prop_assert!(verify(&der, &trust, NOW).is_err());
            prop_assert!(verify_for_renewal(&der, &trust, NOW).is_err());
        }

        #[test]
        fn noise_in_the_frame_of_a_certificate_is_refused(
            body in proptest::collection::vec(any::<u8>(), 0..120),
        ) {
            let trust = Pki::new(1).trust;
            let mut content = vec![0x30, body.len() as u8];
            content.extend(&body);
            content.extend([0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x41, 0]);
            content.extend([0; 64]);
            let mut der = match content.len() {
                len @ 0..0x80 => vec![0x30, len as u8],
                len => vec![0x30, 0x81, len as u8],
            };
            der.extend(content);
            prop_assert!(verify(&der, &trust, NOW).is_err());
        }

        #[test]
        fn parse_back(seed: u64, manager: bool, hours in 0..8760_u32) {
            let pki = Pki::new(1);
            let role = if manager { Role::Manager } else { Role::Worker };
            let (key, now) = (pki.node_key(seed), NOW.saturating_add(60 * MINUTE * hours));
            let identity = verify(&issue(&pki.authority, &key, role, now), &pki.trust, now);
            let identity = identity.expect("issued");
            prop_assert_eq!((identity.node, identity.role), (key.node_id(), role));
        }
    }
}
