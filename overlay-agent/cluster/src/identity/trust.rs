//! The roots that a cluster trusts.
//!
//! There is one, and for a time two when the root changes. A change has three steps, each of them
//! an entry of the managers' log:
//!
//! 1. [`TrustBundle::introduce`]: the new root is made known to all nodes; the old one still
//!    issues.
//! 2. [`TrustBundle::promote`]: the new one issues. Nodes renew within an hour or so of it
//!    ([`renewal`](super::renewal)). Join tokens name the root, so they are made anew here.
//! 3. [`TrustBundle::retire`]: once every node of the roster has a certificate of the new root, the
//!    old one is trusted no more.

use std::{fmt, str::FromStr};

use data_encoding::HEXLOWER;
use ed25519_dalek::VerifyingKey;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    certificate::CertificateError,
    x509::{Purpose, X509},
};
use crate::{id::ClusterId, time::Timestamp};

/// Roots that are trusted at a time: the old, the new, and one that was given up between them.
pub const MAX_ROOTS: usize = 3;

/// SHA-256 of a root's DER: what a join token names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RootDigest([u8; Self::LEN]);

impl RootDigest {
    pub const LEN: usize = 32;

    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }

    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

/// 64 hexadecimal digits, as `sha256sum` writes them.
impl fmt::Display for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HEXLOWER.encode_display(&self.0).fmt(f)
    }
}

impl fmt::Debug for RootDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no digest of a root: it has 64 hexadecimal digits")]
pub struct RootDigestError {
    text: String,
}

impl FromStr for RootDigest {
    type Err = RootDigestError;

    fn from_str(text: &str) -> Result<Self, RootDigestError> {
        HEXLOWER
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| RootDigestError {
                text: text.to_owned(),
            })
    }
}

/// A root certificate: of the right form, and signed by itself. Only the digest says whose it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Root {
    der: Vec<u8>,
    digest: RootDigest,
    /// Its name as it is encoded.
    subject: Vec<u8>,
    cluster: ClusterId,
    key: VerifyingKey,
    not_before: Timestamp,
    not_after: Timestamp,
}

impl Root {
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let certificate = X509::parse(der)?;
        certificate.expect_purpose(Purpose::Authority)?;
        let digest = RootDigest::of(der);
        if !certificate.is_signed_by(&certificate.key) {
            return Err(CertificateError::Signature { root: digest });
        }
        Ok(Self {
            der: der.to_vec(),
            digest,
            subject: certificate.raw_subject().to_vec(),
            cluster: certificate.cluster()?,
            key: certificate.key,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
        })
    }

    pub fn der(&self) -> &[u8] {
        &self.der
    }

    pub const fn digest(&self) -> RootDigest {
        self.digest
    }

    pub const fn cluster(&self) -> ClusterId {
        self.cluster
    }

    pub const fn key(&self) -> &VerifyingKey {
        &self.key
    }

    pub const fn not_before(&self) -> Timestamp {
        self.not_before
    }

    pub const fn not_after(&self) -> Timestamp {
        self.not_after
    }

    pub(super) fn is_issuer_of(&self, certificate: &X509<'_>) -> bool {
        certificate.raw_issuer() == self.subject
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({} of cluster {})", self.digest, self.cluster)
    }
}

/// Why the trusted roots are not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// As many roots are trusted as may be.
    #[error("{MAX_ROOTS} roots are trusted already: retire one first")]
    Full,
    /// A root of another cluster.
    #[error("the root {root} is of cluster {theirs}, not of {ours}")]
    ForeignRoot {
        /// The root.
        root: RootDigest,
        /// Its cluster.
        theirs: ClusterId,
        /// The cluster of the trusted roots.
        ours: ClusterId,
    },
    /// Not among the trusted roots.
    #[error("no root {root} is trusted here: introduce it first")]
    Unknown {
        /// The root.
        root: RootDigest,
    },
    /// The root that issues.
    #[error(
        "the root {root} issues the certificates of this cluster: promote another before it is \
         retired"
    )]
    Issues {
        /// The root.
        root: RootDigest,
    },
    /// A stored bundle with a root that is none.
    #[error("a stored root is damaged: {0}")]
    Root(#[from] CertificateError),
    /// A stored bundle without roots, or whose issuing root is not among them.
    #[error(
        "the stored roots are damaged: {roots} of them, and the one that issues is number {issuer}"
    )]
    Stored {
        /// How many there are.
        roots: usize,
        /// Index of the issuing one.
        issuer: usize,
    },
}

/// The trusted roots of one cluster, at least one, and which of them issues.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct TrustBundle {
    roots: Vec<Root>,
    issuer: usize,
    /// When the issuing root began to issue.
    promoted: Timestamp,
}

impl TrustBundle {
    /// The bundle of a new cluster, and of a node that joins one.
    pub fn new(root: Root) -> Self {
        Self {
            promoted: root.not_before,
            roots: vec![root],
            issuer: 0,
        }
    }

    pub fn cluster(&self) -> ClusterId {
        self.issuer().cluster
    }

    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// The root that issues.
    pub fn issuer(&self) -> &Root {
        &self.roots[self.issuer]
    }

    /// Since when it issues, by the clock of the managers' log.
    pub const fn promoted(&self) -> Timestamp {
        self.promoted
    }

    pub fn get(&self, root: RootDigest) -> Option<&Root> {
        self.roots.iter().find(|it| it.digest == root)
    }

    /// Trusts one more root. To do it again changes nothing.
    pub fn introduce(&mut self, root: Root) -> Result<(), TrustError> {
        if root.cluster != self.cluster() {
            return Err(TrustError::ForeignRoot {
                root: root.digest,
                theirs: root.cluster,
                ours: self.cluster(),
            });
        }
        if self.get(root.digest).is_some() {
            return Ok(());
        }
        if self.roots.len() == MAX_ROOTS {
            return Err(TrustError::Full);
        }
        self.roots.push(root);
        Ok(())
    }

    /// Lets a trusted root issue from now on. To do it again changes nothing.
    pub fn promote(&mut self, root: RootDigest, now: Timestamp) -> Result<(), TrustError> {
        let issuer = self.index(root)?;
        if issuer != self.issuer {
            self.issuer = issuer;
            self.promoted = now;
        }
        Ok(())
    }

    /// Trusts a root no more: certificates that it issued are refused from now on.
    pub fn retire(&mut self, root: RootDigest) -> Result<(), TrustError> {
        let index = self.index(root)?;
        if index == self.issuer {
            return Err(TrustError::Issues { root });
        }
        self.roots.remove(index);
        if index < self.issuer {
            self.issuer -= 1;
        }
        Ok(())
    }

    fn index(&self, root: RootDigest) -> Result<usize, TrustError> {
        self.roots
            .iter()
            .position(|it| it.digest == root)
            .ok_or(TrustError::Unknown { root })
    }
}

/// A bundle as it is stored and sent.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    roots: Vec<Vec<u8>>,
    issuer: usize,
    promoted: Timestamp,
}

impl From<TrustBundle> for Stored {
    fn from(bundle: TrustBundle) -> Self {
        Self {
            roots: bundle.roots.into_iter().map(|root| root.der).collect(),
            issuer: bundle.issuer,
            promoted: bundle.promoted,
        }
    }
}

impl TryFrom<Stored> for TrustBundle {
    type Error = TrustError;

    fn try_from(stored: Stored) -> Result<Self, TrustError> {
        let Stored {
            roots,
            issuer,
            promoted,
        } = stored;
        if issuer >= roots.len() {
            return Err(TrustError::Stored {
                roots: roots.len(),
                issuer,
            });
        }
        let mut bundle = Self::new(Root::from_der(&roots[issuer])?);
        bundle.promoted = promoted;
        // In the stored order: a bundle that is read and written is the same bytes.
        let mut ordered = Vec::new();
        for der in &roots {
            let root = Root::from_der(der)?;
            bundle.introduce(root.clone())?;
            ordered.push(root);
        }
        if bundle.roots.len() != ordered.len() {
            return Err(TrustError::Stored {
                roots: ordered.len(),
                issuer,
            });
        }
        bundle.roots = ordered;
        bundle.issuer = issuer;
        Ok(bundle)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{
        Role,
        certificate::{self, verify},
        testing::{DAY, NOW, Pki, flipped, issue, mangled},
    };

    #[test]
    fn a_root_is_known_by_the_hash_of_its_bytes() {
        let root = Pki::new(1).authority.root().clone();
        assert_eq!(RootDigest::of(root.der()), root.digest());
        assert_eq!(root.digest().to_string().parse(), Ok(root.digest()));
        let error = "00".parse::<RootDigest>().expect_err("no digest");
        assert!(error.to_string().starts_with("`00` is no digest"));
    }

    #[test]
    fn every_flipped_bit_of_a_root_is_refused() {
        // Among them those of the number of unused bits in the signature, which most parsers pass
        // over: the same root would have another digest.
        let root = Pki::new(1).authority.root().clone();
        for (bit, changed) in flipped(root.der()) {
            assert!(Root::from_der(&changed).is_err(), "bit {bit}");
        }
        for changed in mangled(root.der(), 1) {
            assert!(changed == root.der() || Root::from_der(&changed).is_err());
        }
    }

    #[test]
    fn a_certificate_of_a_node_is_no_root() {
        let pki = Pki::new(1);
        let error = Root::from_der(&pki.issue(&pki.node_key(1), Role::Manager));
        assert!(
            matches!(error, Err(CertificateError::Form { what }) if what.contains("not a root"))
        );
    }

    #[test]
    fn certificates_of_both_roots_are_good_while_the_root_changes() {
        let mut pki = Pki::new(1);
        let (key, later) = (pki.node_key(1), NOW.saturating_add(DAY));
        let (old, next) = (pki.trust.issuer().clone(), pki.next_authority(2));
        let by_old = pki.issue(&key, Role::Worker);
        let by_next = issue(&next, &key, Role::Worker, later);
        let good = |trust: &TrustBundle, der: &[u8]| verify(der, trust, later).is_ok();
        assert!(good(&pki.trust, &by_old) && !good(&pki.trust, &by_next));
        assert!(matches!(
            verify(&by_next, &pki.trust, later),
            Err(CertificateError::UnknownIssuer { issuer }) if issuer.len() == 32
        ));

        let next = next.root().clone();
        pki.trust.introduce(next.clone()).expect("trusted");
        assert_eq!(pki.trust.issuer(), &old);
        assert!(good(&pki.trust, &by_old) && good(&pki.trust, &by_next));
        let premature = pki.trust.retire(old.digest());
        assert_eq!(premature, Err(TrustError::Issues { root: old.digest() }));

        pki.trust.promote(next.digest(), later).expect("known");
        assert_eq!((pki.trust.issuer(), pki.trust.promoted()), (&next, later));
        assert!(good(&pki.trust, &by_old) && good(&pki.trust, &by_next));

        let with_both = pki.trust.clone();
        pki.trust.retire(old.digest()).expect("retired");
        assert_eq!(pki.trust.issuer(), &next);
        assert!(!good(&pki.trust, &by_old) && good(&pki.trust, &by_next));
        // A node that slept through it is let back by a manager that still knows the old root.
        let much_later = NOW.saturating_add(100 * DAY);
        let renewal = |trust| certificate::verify_for_renewal(&by_old, trust, much_later);
        assert!(renewal(&pki.trust).is_err());
        assert_eq!(renewal(&with_both).expect("expired").node, key.node_id());
    }

    #[test]
    fn changes_are_made_once_and_within_bounds() {
        let mut pki = Pki::new(1);
        let first = pki.trust.issuer().digest();
        let roots: Vec<_> = (2..5)
            .map(|seed| pki.next_authority(seed).root().clone())
            .collect();
        let unknown = roots[0].digest();
        assert_eq!(
            pki.trust.promote(unknown, NOW),
            Err(TrustError::Unknown { root: unknown })
        );
        for root in &roots[..MAX_ROOTS - 1] {
            for _ in 0..2 {
                assert_eq!(pki.trust.introduce(root.clone()), Ok(()));
            }
        }
        assert_eq!(pki.trust.introduce(roots[2].clone()), Err(TrustError::Full));
        pki.trust
            .promote(first, NOW.saturating_add(DAY))
            .expect("known");
        assert_ne!(pki.trust.promoted(), NOW.saturating_add(DAY));

        let foreign = Pki::of(ClusterId::from_bytes([9; 16]), 1).authority;
        assert!(matches!(
            pki.trust.introduce(foreign.root().clone()),
            Err(TrustError::ForeignRoot { .. })
        ));
    }

    #[test]
    fn a_stored_bundle_must_be_whole() {
        let mut pki = Pki::new(1);
        let second = pki.next_authority(2).root().clone();
        pki.trust.introduce(second.clone()).expect("trusted");
        pki.trust.promote(second.digest(), NOW).expect("known");
        let stored = Stored::from(pki.trust.clone());
        assert_eq!(TrustBundle::try_from(stored.clone()), Ok(pki.trust.clone()));

        let change = |change: &dyn Fn(&mut Stored)| {
            let mut stored = stored.clone();
            change(&mut stored);
            TrustBundle::try_from(stored).expect_err("damaged")
        };
        let damaged = |roots, issuer| TrustError::Stored { roots, issuer };
        assert_eq!(change(&|it| it.roots.clear()), damaged(0, 1));
        assert_eq!(change(&|it| it.issuer = 2), damaged(2, 2));
        assert_eq!(
            change(&|it| it.roots[0] = it.roots[1].clone()),
            damaged(2, 1)
        );
        assert!(matches!(
            change(&|it| it.roots[0][10] ^= 1),
            TrustError::Root(_)
        ));
    }

    proptest! {
        #[test]
        fn parse_noise(der in proptest::collection::vec(any::<u8>(), 0..700)) {
            prop_assert!(Root::from_der(&der).is_err());
            _ = postcard::from_bytes::<TrustBundle>(&der);
        }

        #[test]
        fn parse_back(seeds in proptest::collection::vec(10..20_u64, 0..3), issuer in 0..3_usize) {
            let mut trust = Pki::new(1).trust;
            for seed in seeds {
                let root = Pki::new(seed).authority.root().clone();
                _ = trust.introduce(root);
            }
            let issuer = trust.roots()[issuer % trust.roots().len()].digest();
            trust.promote(issuer, NOW).expect("known");
            let bytes = postcard::to_stdvec(&trust).expect("encodes");
            prop_assert_eq!(postcard::from_bytes(&bytes), Ok(trust));
        }
    }

    #[test]
    fn roots_are_the_same_from_the_same_seed() {
        assert_eq!(Pki::new(1).trust, Pki::new(1).trust);
        assert_ne!(Pki::new(1).trust, Pki::new(2).trust);
    }
}
