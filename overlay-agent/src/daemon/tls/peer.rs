//! Whether the peer is let in.

use std::sync::Arc;

use overlay_cluster::{
    id::NodeId,
    identity::{
        Role,
        certificate::{self, CertificateError, Identity},
        revocation::{self, Admission, Refusal},
        trust::{RootDigest, TrustBundle},
    },
    time::Timestamp,
};
use rustls::{
    CertificateError as TlsCertificateError, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, PeerIncompatible, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{Members, Service, called};

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub identity: Identity,
    pub admission: Admission,
}

/// Why a peer is not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It shows none, or a bad certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Its certificate is good, and the roster does not want it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It shows no certificate.
    #[error("the peer shows no certificate")]
    Nobody,
    /// It was called by a name that is no node's.
    #[error("a node is called by its id, not as {name}")]
    Name {
        /// The name.
        name: String,
    },
    /// It is a member, and wants what managers alone have.
    #[error(
        "node {node} is no manager: its certificate or the roster says worker; one that was \
         promoted renews its certificate first"
    )]
    NotManager {
        /// The peer.
        node: NodeId,
    },
}

/// Who is at the other end of a connection whose handshake is done: a long one is asked again now
/// and then, because certificates expire and nodes are evicted.
pub fn peer(
    certificates: Option<&[CertificateDer<'_>]>,
    service: Service,
    members: &dyn Members,
    now: Timestamp,
) -> Result<Peer, PeerError> {
    let certificate = certificates
        .and_then(<[_]>::first)
        .ok_or(PeerError::Nobody)?;
    check(certificate, service, members, now)
}

/// The manager at the other end of a join, and the root by which it is known.
pub fn manager(
    certificates: Option<&[CertificateDer<'_>]>,
    root: RootDigest,
    now: Timestamp,
) -> Result<(TrustBundle, Identity), PeerError> {
    let (certificate, roots) = certificates
        .and_then(<[_]>::split_first)
        .ok_or(PeerError::Nobody)?;
    Ok(certificate::verify_pinned(
        certificate,
        roots.iter().map(AsRef::as_ref),
        root,
        now,
    )?)
}

fn check(
    certificate: &[u8],
    service: Service,
    members: &dyn Members,
    now: Timestamp,
) -> Result<Peer, PeerError> {
    let trust = members.trust();
    let identity = match service {
        Service::Member | Service::Raft => certificate::verify(certificate, &trust, now)?,
        Service::Renew => certificate::verify_for_renewal(certificate, &trust, now)?,
        Service::Join => return Err(PeerError::Nobody),
    };
    let admission = revocation::admit(&identity, &|node| members.standing(node))?;
    if service == Service::Raft && admission.role != Role::Manager {
        return Err(PeerError::NotManager {
            node: identity.node,
        });
    }
    Ok(Peer {
        identity,
        admission,
    })
}

pub(super) fn timestamp(now: UnixTime) -> Timestamp {
    Timestamp::from_secs(now.as_secs())
}

/// The client of a service for members.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) service: Service,
    pub(super) members: Arc<dyn Members>,
}

/// The server of a service for members: whoever the service lets in, it has a valid certificate
/// itself.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) members: Arc<dyn Members>,
}

/// The server of a join.
#[derive(Debug)]
pub(super) struct Pinned {
    pub(super) root: RootDigest,
}

impl Server {
    fn check(
        &self,
        certificate: &[u8],
        name: &ServerName<'_>,
        now: Timestamp,
    ) -> Result<(), PeerError> {
        let expected = called(name).ok_or_else(|| PeerError::Name {
            name: name.to_str().into_owned(),
        })?;
        let peer = check(certificate, Service::Member, &*self.members, now)?;
        peer.identity.expect_node(expected)?;
        Ok(())
    }
}

/// The error for a connection that this node began: in our words, for who reads the log or the
/// command's output here.
fn refuse_server(error: PeerError) -> Error {
    tracing::debug!(%error, "the node that was called is refused");
    Error::InvalidCertificate(other(error))
}

/// The error for a connection that the peer began: where TLS has an alert for it, the peer is told
/// why. Our words are in the log.
fn refuse_client(error: PeerError) -> Error {
    tracing::debug!(%error, "a calling node is refused");
    Error::InvalidCertificate(match error {
        PeerError::Certificate(CertificateError::Expired { .. }) => TlsCertificateError::Expired,
        PeerError::Certificate(CertificateError::ClockBehind { .. }) => {
            TlsCertificateError::NotValidYet
        }
        PeerError::Refused(Refusal::Evicted { .. }) => TlsCertificateError::Revoked,
        error => other(error),
    })
}

fn other(error: PeerError) -> TlsCertificateError {
    TlsCertificateError::Other(OtherError(Arc::new(error)))
}

fn verify_handshake(
    message: &[u8],
    certificate: &[u8],
    signed: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    if signed.scheme != SignatureScheme::ED25519 {
        return Err(PeerIncompatible::NoSignatureSchemesInCommon.into());
    }
    certificate::verify_possession(certificate, message, signed.signature())
        .map_err(|error| Error::InvalidCertificate(other(error.into())))?;
    Ok(HandshakeSignatureValid::assertion())
}

/// The part that all verifiers have in common: Ed25519 in TLS 1.3, and nothing in older versions.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(PeerIncompatible::ServerDoesNotSupportTls12Or13.into())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_handshake(message, certificate, signed)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::ED25519]
        }
    };
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(certificate, name, timestamp(now))
            .map_err(refuse_server)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        roots: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = roots.iter().map(AsRef::as_ref);
        certificate::verify_pinned(certificate, roots, self.root, timestamp(now))
            .map_err(|error| refuse_server(error.into()))?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

impl ClientCertVerifier for Client {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        check(certificate, self.service, &*self.members, timestamp(now)).map_err(refuse_client)?;
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}
