//! Certificates as they are issued: the fields, in the one form that is accepted. Nothing here is
//! believed yet.
//!
//! The subject is `O = cluster id, OU = role, CN = node id`, as `openssl x509 -subject` shows it; a
//! root has `authority` for its role and the hash of its key, made like a node id, for its node.
//! There is no alternative name: a peer is known by its node id, and a certificate that no host
//! name fits cannot be taken for that of a web server.

use ed25519_dalek::{Signature, VerifyingKey};
use x509_parser::{
    certificate::TbsCertificate,
    extensions::ParsedExtension,
    oid_registry::{
        OID_SIG_ED25519, OID_X509_COMMON_NAME, OID_X509_ORGANIZATION_NAME,
        OID_X509_ORGANIZATIONAL_UNIT, Oid,
    },
    prelude::FromDer as _,
    time::ASN1Time,
    x509::{X509Name, X509Version},
};

use super::{
    Role,
    certificate::{CertificateError, MAX_LEN},
    der,
};
use crate::{
    id::{ClusterId, NodeId},
    time::Timestamp,
};

/// Role of a root in its subject.
pub(super) const AUTHORITY: &str = "authority";

/// Bits of the extension KeyUsage, from the left (RFC 5280 section 4.2.1.3).
const DIGITAL_SIGNATURE: u16 = 1 << 0;
const KEY_CERT_SIGN: u16 = 1 << 5;

/// What a certificate's key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Mutual TLS, on both sides.
    Node,
    /// Issuing certificates of nodes, and not of other authorities.
    Authority,
}

pub(super) struct X509<'a> {
    tbs: TbsCertificate<'a>,
    /// What the signature is over.
    body: &'a [u8],
    signature: Signature,
    subject: [&'a str; 3],
    purpose: Purpose,
    pub(super) key: VerifyingKey,
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

const fn form(what: &'static str) -> CertificateError {
    CertificateError::Form { what }
}

impl<'a> X509<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, CertificateError> {
        if der.len() > MAX_LEN {
            return Err(CertificateError::TooLong { len: der.len() });
        }
        let (body, signature) = der::split_signed(der).ok_or(form(
            "it is not one certificate in DER with an Ed25519 signature",
        ))?;
        let tbs = match TbsCertificate::from_der(body) {
            Ok(([], tbs)) => tbs,
            _ => return Err(form("its fields are no X.509 certificate in DER")),
        };
        if tbs.version != X509Version::V3 {
            return Err(form("it is not of X.509 version 3"));
        }
        if tbs.signature.algorithm != OID_SIG_ED25519 || tbs.signature.parameters.is_some() {
            return Err(form("it names another signature algorithm than Ed25519"));
        }
        if tbs.issuer_uid.is_some() || tbs.subject_uid.is_some() {
            return Err(form("it has unique identifiers, which are obsolete"));
        }
        let key = der::public_key(tbs.subject_pki.raw)
            .ok_or(form("its key is no Ed25519 key, or a weak one"))?;
        let subject =
            name(&tbs.subject).ok_or(form("its subject is not cluster id, role and node id"))?;
        let purpose = purpose(&tbs)?;
        Ok(Self {
            not_before: timestamp(&tbs.validity.not_before)?,
            not_after: timestamp(&tbs.validity.not_after)?,
            tbs,
            body,
            signature,
            subject,
            purpose,
            key,
        })
    }

    pub(super) fn cluster(&self) -> Result<ClusterId, CertificateError> {
        let [cluster, _, _] = self.subject;
        cluster
            .parse()
            .map_err(|_| form("its subject names no cluster id"))
    }

    pub(super) fn role(&self) -> Result<Role, CertificateError> {
        let [_, role, _] = self.subject;
        role.parse()
            .map_err(|_| form("its subject names no role of a node"))
    }

    pub(super) fn node(&self) -> Result<NodeId, CertificateError> {
        let [_, _, node] = self.subject;
        node.parse()
            .map_err(|_| form("its subject names no node id"))
    }

    /// The subject as it is encoded, by which others name their issuer.
    pub(super) fn raw_subject(&self) -> &'a [u8] {
        self.tbs.subject.as_raw()
    }

    pub(super) fn raw_issuer(&self) -> &'a [u8] {
        self.tbs.issuer.as_raw()
    }

    /// Hash of the issuer's key as the certificate names it.
    pub(super) fn issuer_key(&self) -> String {
        name(&self.tbs.issuer).map_or_else(
            || "of another kind".to_owned(),
            |[_, _, key]| {
                key.chars()
                    .take(32)
                    .flat_map(char::escape_default)
                    .collect()
            },
        )
    }

    pub(super) fn expect_purpose(&self, purpose: Purpose) -> Result<(), CertificateError> {
        match (purpose, self.purpose) {
            (Purpose::Node, Purpose::Node) => Ok(()),
            (Purpose::Authority, Purpose::Authority)
                if self.subject[1] == AUTHORITY
                    && self.raw_subject() == self.raw_issuer()
                    && self.node() == Ok(NodeId::of(&self.key)) =>
            {
                Ok(())
            }
            (Purpose::Node, Purpose::Authority) => Err(form("it is a root, not a node's")),
            (Purpose::Authority, _) => Err(form("it is a node's, not a root")),
        }
    }

    pub(super) fn is_signed_by(&self, key: &VerifyingKey) -> bool {
        key.verify_strict(self.body, &self.signature).is_ok()
    }
}

/// Organization, organizational unit and common name, if there are these and no others.
fn name<'a>(name: &X509Name<'a>) -> Option<[&'a str; 3]> {
    const ATTRIBUTES: [Oid<'static>; 3] = [
        OID_X509_ORGANIZATION_NAME,
        OID_X509_ORGANIZATIONAL_UNIT,
        OID_X509_COMMON_NAME,
    ];
    let mut texts = [""; 3];
    let mut relative = name.iter_rdn();
    for (text, oid) in texts.iter_mut().zip(&ATTRIBUTES) {
        let mut attributes = relative.next()?.iter();
        let attribute = attributes.next()?;
        if attribute.attr_type() != oid || attributes.next().is_some() {
            return None;
        }
        *text = attribute.as_str().ok()?;
    }
    relative.next().is_none().then_some(texts)
}

fn timestamp(time: &ASN1Time) -> Result<Timestamp, CertificateError> {
    u64::try_from(time.timestamp())
        .map(Timestamp::from_secs)
        .map_err(|_| form("it is dated before 1970"))
}

/// What the extensions allow, each at most once.
fn purpose(tbs: &TbsCertificate<'_>) -> Result<Purpose, CertificateError> {
    let (mut constraints, mut usage, mut extended) = (None, None, None);
    for extension in tbs.extensions() {
        let repeated = match extension.parsed_extension() {
            ParsedExtension::BasicConstraints(it) => constraints.replace(it).is_some(),
            ParsedExtension::KeyUsage(it) => usage.replace(it.flags).is_some(),
            ParsedExtension::ExtendedKeyUsage(it) => extended.replace(it).is_some(),
            ParsedExtension::ParseError { .. } => {
                return Err(form("one of its extensions is damaged"));
            }
            _ if extension.critical => {
                return Err(CertificateError::CriticalExtension {
                    oid: extension.oid.to_id_string(),
                });
            }
            _ => false,
        };
        if repeated {
            return Err(form("it has an extension twice"));
        }
    }
    let both_sides = extended.is_some_and(|it| {
        it.server_auth
            && it.client_auth
            && it.other.is_empty()
            && ![
                it.any,
                it.code_signing,
                it.email_protection,
                it.time_stamping,
                it.ocsp_signing,
            ]
            .contains(&true)
    });
    match (constraints, usage) {
        (Some(it), Some(DIGITAL_SIGNATURE)) if !it.ca && both_sides => Ok(Purpose::Node),
        (Some(it), Some(KEY_CERT_SIGN))
            if it.ca && it.path_len_constraint == Some(0) && extended.is_none() =>
        {
            Ok(Purpose::Authority)
        }
        _ => Err(form(
            "its extensions allow other uses than those of a node or a root",
        )),
    }
}
