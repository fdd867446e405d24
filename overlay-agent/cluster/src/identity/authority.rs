//! The cluster's certificate authority: a root that signs itself, and the certificates of nodes.

use std::{fmt, time::Duration};

use ed25519_dalek::{SigningKey, VerifyingKey};
use rand::CryptoRng;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyUsagePurpose, SerialNumber, date_time_ymd,
};
use serde::{Deserialize, Serialize};

use super::{
    Role,
    certificate::{CLOCK_TOLERANCE, CertificateError},
    der::{Signer, Subject},
    trust::{Root, RootDigest},
    x509::AUTHORITY,
};
use crate::{
    id::{ClusterId, NodeId},
    secret::Secret,
    time::Timestamp,
};

/// Last second that a certificate can name: 9999-12-31 23:59:59 (RFC 5280 section 4.1.2.5).
const LAST_SECOND: u64 = 253_402_300_799;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long certificates are good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Validity {
    /// Of a node, from its issue on. It ends with the root at the latest.
    pub node: Duration,
    /// Of a root, from its creation on.
    pub root: Duration,
    /// How long before its issue a certificate begins: by so much, and the tolerance of whoever
    /// verifies it, the clock of another host may be behind the issuer's.
    pub backdate: Duration,
}

impl Default for Validity {
    fn default() -> Self {
        Self {
            node: 90 * DAY,
            root: 3650 * DAY,
            backdate: Duration::from_secs(60 * 60),
        }
    }
}

/// Why a certificate is not issued, or an authority not restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate would end before it begins, or after the year 9999.
    #[error(
        "a certificate from {} to {} cannot be issued: check the clock of this host and the \
         configured validity",
        .begins, .ends
    )]
    Validity {
        /// Its first moment.
        begins: Timestamp,
        /// Its last.
        ends: Timestamp,
    },
    /// The root is over, so nothing that it issues is good.
    #[error(
        "the root {root} ended on {} and this host's clock says {}: set the clock, or replace the \
         root",
        .ended, .now
    )]
    Ended {
        /// The root.
        root: RootDigest,
        /// When it ended.
        ended: Timestamp,
        /// This host's time.
        now: Timestamp,
    },
    /// The node is a member since a time that is still to come here.
    #[error(
        "the managers' log says that it is {}, and this host's clock {}: set the clock, or wait, if \
         the log's time is ahead because a clock was wrong",
        .joined, .now
    )]
    LogAhead {
        /// When the node joined, by the log.
        joined: Timestamp,
        /// This host's time.
        now: Timestamp,
    },
    /// The stored root is damaged.
    #[error("the stored root cannot be used: {0}")]
    Root(#[from] CertificateError),
    /// The stored key is that of another root.
    #[error(
        "the stored key of the authority is not that of root {root}: restore both from one backup"
    )]
    OtherKey {
        /// The root.
        root: RootDigest,
    },
    /// The encoder refused.
    #[error("the certificate cannot be encoded: {0}")]
    Encode(#[from] rcgen::Error),
}

/// A root with its key: what issues certificates. The key is zeroized when dropped. It is serialized
/// with its key: only into what is itself encrypted (TLS between managers, their sealed state).
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Authority {
    key: SigningKey,
    root: Root,
}

impl Authority {
    /// A new root for a new cluster, or to follow an older one.
    pub fn generate(
        cluster: ClusterId,
        validity: &Validity,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, AuthorityError> {
        let key = SigningKey::from_bytes(Secret::random(rng).expose());
        let mut params = params(
            name(cluster, AUTHORITY, NodeId::of(&key.verifying_key())),
            now.saturating_sub(validity.backdate),
            now.saturating_add(validity.root),
            rng,
        )?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let der = params.self_signed(&Signer(&key))?;
        let root = Root::from_der(der.der())?;
        Ok(Self { key, root })
    }

    /// The authority whose key and root were kept.
    pub fn restore(key: &Secret, root: Root) -> Result<Self, AuthorityError> {
        let key = SigningKey::from_bytes(key.expose());
        if key.verifying_key() != *root.key() {
            return Err(AuthorityError::OtherKey {
                root: root.digest(),
            });
        }
        Ok(Self { key, root })
    }

    pub const fn root(&self) -> &Root {
        &self.root
    }

    /// The key, for the managers' sealed state and for nothing else.
    pub fn key(&self) -> Secret {
        Secret::new(self.key.to_bytes())
    }

    /// DER of a certificate for the node that has this key. That it has it, and may have the role,
    /// is for the caller to know: from a request ([`csr`](super::csr)) and a token or the roster.
    pub fn issue(
        &self,
        node: &VerifyingKey,
        role: Role,
        validity: &Validity,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, AuthorityError> {
        self.issue_since(Timestamp::from_millis(0), node, role, validity, now, rng)
    }

    /// The same for a member since `joined`: the certificate does not begin before
    /// [`member_since`], so that it can be told from those of an earlier membership.
    pub fn issue_since(
        &self,
        joined: Timestamp,
        node: &VerifyingKey,
        role: Role,
        validity: &Validity,
        now: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<u8>, AuthorityError> {
        let since = member_since(joined);
        if since > now.saturating_add(CLOCK_TOLERANCE) {
            return Err(AuthorityError::LogAhead { joined, now });
        }
        let ended = self.root.not_after();
        if now >= ended {
            return Err(AuthorityError::Ended {
                root: self.root.digest(),
                ended,
                now,
            });
        }
        let cluster = self.root.cluster();
        let mut params = params(
            name(cluster, role.name(), NodeId::of(node)),
            now.saturating_sub(validity.backdate)
                .max(since)
                .max(self.root.not_before()),
            now.saturating_add(validity.node).min(ended),
            rng,
        )?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let mut root = CertificateParams::default();
        root.distinguished_name = name(cluster, AUTHORITY, NodeId::of(self.root.key()));
        let issuer = Issuer::new(root, Signer(&self.key));
        Ok(params.signed_by(&Subject(node), &issuer)?.der().to_vec())
    }
}

/// The earliest beginning of a certificate that is issued to a node which joined at `joined`. The clock
/// of the managers' log, by which it joined, may be ahead of that of the manager that issues, and of
/// others. In whole seconds, as certificates have them.
pub fn member_since(joined: Timestamp) -> Timestamp {
    Timestamp::from_secs(joined.saturating_sub(CLOCK_TOLERANCE).as_secs())
}

/// A certificate that begins earlier is of a membership before, and void. The first manager's is issued
/// before its cluster is in any log, so that it begins a little earlier than [`member_since`].
pub fn void_before(joined: Timestamp) -> Timestamp {
    member_since(joined).saturating_sub(CLOCK_TOLERANCE)
}

/// The key is that of the root, so equal roots have equal keys.
impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.root == other.root
    }
}

impl Eq for Authority {}

/// An authority as it is stored and sent between managers.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// DER.
    root: Vec<u8>,
    key: Secret,
}

impl From<Authority> for Stored {
    fn from(authority: Authority) -> Self {
        Self {
            key: authority.key(),
            root: authority.root.der().to_vec(),
        }
    }
}

impl TryFrom<Stored> for Authority {
    type Error = AuthorityError;

    fn try_from(stored: Stored) -> Result<Self, AuthorityError> {
        Self::restore(&stored.key, Root::from_der(&stored.root)?)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({:?})", self.root)
    }
}

/// The subject: see [`super::x509`].
fn name(cluster: ClusterId, role: &str, node: NodeId) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, cluster.to_string());
    name.push(DnType::OrganizationalUnitName, role);
    name.push(DnType::CommonName, node.to_string());
    name
}

/// Name, times and a serial number of 16 random bytes (RFC 5280 section 4.1.2.2).
fn params(
    name: DistinguishedName,
    begins: Timestamp,
    ends: Timestamp,
    rng: &mut impl CryptoRng,
) -> Result<CertificateParams, AuthorityError> {
    let (first, last) = (begins.as_secs(), ends.as_secs());
    if first >= last || last > LAST_SECOND {
        return Err(AuthorityError::Validity { begins, ends });
    }
    let mut serial = [0; 16];
    rng.fill_bytes(&mut serial);
    // Positive, and of one length: DER would drop a leading zero.
    serial[0] = serial[0] & 0x7f | 0x40;
    let epoch = date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.not_before = epoch + Duration::from_secs(first);
    params.not_after = epoch + Duration::from_secs(last);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = name;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::{FromDer as _, X509Certificate};

    use super::*;
    use crate::identity::{
        certificate::verify,
        testing::{CLUSTER, NOW, Pki, issue, rng},
    };

    #[test]
    fn the_subject_names_cluster_role_and_node() {
        let pki = Pki::new(1);
        let key = pki.node_key(1);
        let der = pki.issue(&key, Role::Manager);
        let (_, certificate) = X509Certificate::from_der(&der).expect("X.509");
        assert_eq!(
            certificate.subject().to_string(),
            format!("O={CLUSTER}, OU=manager, CN={}", key.node_id())
        );
        let issuer = NodeId::of(pki.authority.root().key());
        assert_eq!(
            certificate.issuer().to_string(),
            format!("O={CLUSTER}, OU=authority, CN={issuer}")
        );
        // Another implementation agrees with the signature.
        let root = pki.authority.root().der();
        let (_, root) = X509Certificate::from_der(root).expect("X.509");
        certificate
            .verify_signature(Some(root.public_key()))
            .expect("signed");
        root.verify_signature(None).expect("signed");
    }

    #[test]
    fn certificates_are_valid_for_90_days_and_roots_for_10_years() {
        let pki = Pki::new(1);
        let hour = Duration::from_secs(60 * 60);
        let identity = pki.identity(&pki.node_key(1));
        // The root begins no earlier.
        assert_eq!(identity.not_before, NOW.saturating_sub(hour));
        assert_eq!(identity.not_after, NOW.saturating_add(90 * DAY));
        let root = pki.authority.root();
        assert_eq!(root.not_before(), NOW.saturating_sub(hour));
        assert_eq!(root.not_after(), NOW.saturating_add(3650 * DAY));
    }

    #[test]
    fn no_certificate_outlives_or_precedes_its_root() {
        let pki = Pki::new(1);
        let root = pki.authority.root();
        let late = root.not_after().saturating_sub(DAY);
        let der = issue(&pki.authority, &pki.node_key(1), Role::Worker, late);
        let identity = verify(&der, &pki.trust, late).expect("issued");
        assert_eq!(identity.not_after, root.not_after());

        let early = NOW.saturating_sub(Duration::from_secs(60));
        let der = issue(&pki.authority, &pki.node_key(1), Role::Worker, early);
        let identity = verify(&der, &pki.trust, early).expect("issued");
        assert_eq!(identity.not_before, root.not_before());

        let now = root.not_after();
        let ended = pki.authority.issue(
            &pki.node_key(1).public(),
            Role::Worker,
            &Validity::default(),
            now,
            &mut rng(1),
        );
        assert!(matches!(ended, Err(AuthorityError::Ended { .. })));
    }

    #[test]
    fn a_certificate_begins_with_the_membership_at_the_earliest() {
        let pki = Pki::new(1);
        let key = pki.node_key(1);
        let issue = |joined, now| {
            let validity = Validity::default();
            let (key, role) = (key.public(), Role::Worker);
            pki.authority
                .issue_since(joined, &key, role, &validity, now, &mut rng(1))
                .map(|der| verify(&der, &pki.trust, now).expect("issued").not_before)
        };
        let now = NOW.saturating_add(DAY);
        assert_eq!(issue(now, now), Ok(member_since(now)));
        assert_eq!(issue(NOW, now), Ok(now.saturating_sub(DAY / 24)));
        // The log may be ahead of this clock, within what verifiers tolerate.
        let ahead = now.saturating_add(2 * CLOCK_TOLERANCE);
        assert_eq!(issue(ahead, now), Ok(member_since(ahead)));
        let joined = ahead.saturating_add(Duration::from_secs(1));
        assert_eq!(
            issue(joined, now),
            Err(AuthorityError::LogAhead { joined, now })
        );
    }

    #[test]
    fn an_authority_is_written_with_its_key_and_read_only_with_the_right_one() {
        let pki = Pki::new(1);
        let bytes = postcard::to_stdvec(&pki.authority).expect("encodes");
        let read: Authority = postcard::from_bytes(&bytes).expect("decodes");
        assert_eq!(read, pki.authority);
        assert_eq!(read.key(), pki.authority.key());
        let mut other = bytes;
        let last = other.len() - 1;
        other[last] ^= 1;
        assert!(postcard::from_bytes::<Authority>(&other).is_err());
    }

    #[test]
    fn roots_may_outlive_the_two_digit_years_of_utc_time() {
        // RFC 5280 section 4.1.2.5: years from 2050 on are written in another type.
        let now = Timestamp::from_secs(2_500_000_000);
        let authority =
            Authority::generate(CLUSTER, &Validity::default(), now, &mut rng(1)).expect("issues");
        let ends = now.saturating_add(3650 * DAY);
        assert_eq!(authority.root().not_after(), ends);
    }

    #[test]
    fn times_that_a_certificate_cannot_name_are_refused() {
        let generate = |validity: Validity, now| {
            Authority::generate(CLUSTER, &validity, now, &mut rng(1)).map(|_| ())
        };
        let usual = Validity::default();
        let never = Validity {
            root: Duration::ZERO,
            backdate: Duration::ZERO,
            ..usual
        };
        let forever = Validity {
            root: Duration::MAX,
            ..usual
        };
        for (validity, now) in [
            (never, NOW),
            (forever, NOW),
            (usual, Timestamp::from_millis(u64::MAX)),
            (usual, Timestamp::from_secs(LAST_SECOND)),
        ] {
            assert!(matches!(
                generate(validity, now),
                Err(AuthorityError::Validity { .. })
            ));
        }
        assert_eq!(generate(usual, Timestamp::from_millis(0)), Ok(()));
    }

    #[test]
    fn an_authority_is_restored_from_its_key_and_root() {
        let pki = Pki::new(1);
        let (key, root) = (pki.authority.key(), pki.authority.root().clone());
        let restored = Authority::restore(&key, root.clone()).expect("restored");
        let der = issue(&restored, &pki.node_key(1), Role::Worker, NOW);
        assert!(verify(&der, &pki.trust, NOW).is_ok());
        let other = Pki::new(2).authority.key();
        assert!(matches!(
            Authority::restore(&other, root.clone()),
            Err(AuthorityError::OtherKey { root: it }) if it == root.digest()
        ));
        let printed = format!("{restored:?}");
        assert_eq!(
            printed,
            format!("Authority(Root({} of cluster {CLUSTER}))", root.digest())
        );
    }

    #[test]
    fn no_two_certificates_have_one_serial_number() {
        let pki = Pki::new(1);
        let key = pki.node_key(1);
        let serials: std::collections::HashSet<_> = (0..50)
            .map(|seed| {
                let der = pki
                    .authority
                    .issue(
                        &key.public(),
                        Role::Worker,
                        &Validity::default(),
                        NOW,
                        &mut rng(seed),
                    )
                    .expect("issues");
                let (_, certificate) = X509Certificate::from_der(&der).expect("X.509");
                assert_eq!(certificate.raw_serial().len(), 16);
                certificate.raw_serial().to_vec()
            })
            .collect();
        assert_eq!(serials.len(), 50);
    }
}
