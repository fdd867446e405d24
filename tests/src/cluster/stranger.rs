//! Somebody on the wire who speaks the nodes' TLS, whoever it is.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use overlay_agent::daemon::tls::Own;
use overlay_cluster::control::message::{self, Message};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};

/// For a server to answer, or to end the connection: longer than it takes itself.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a server answers to bytes that are said to one of its services, until it ends the connection: the
/// service as its protocol's name, so that it may be one that there is not. `shown` is the certificate of the caller, if it shows one. To be called in the caller's namespace.
pub fn ask(
    address: SocketAddr,
    protocol: &[u8],
    shown: Option<Arc<Own>>,
    said: &[u8],
) -> Result<Vec<u8>> {
    let provider = CryptoProvider {
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match shown {
        Some(own) => builder.with_client_cert_resolver(own),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    config.enable_sni = false;

    let tcp = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("connect to {address}"))?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    tcp.set_write_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from("anybody.invalid")?;
    let mut stream = StreamOwned::new(ClientConnection::new(Arc::new(config), name)?, tcp);
    stream.write_all(said).context("say something")?;
    // The server answers, and waits for more: that this is all ends it.
    stream.conn.send_close_notify();
    stream.flush().context("say something")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("hear an answer")?;
    Ok(answer)
}

/// A message as it is on a control connection: its length, and what it says.
pub fn frame(message: &impl Message) -> Result<Vec<u8>> {
    let body = message::encode(message)?;
    Ok([&u32::try_from(body.len())?.to_be_bytes()[..], &body[..]].concat())
}

/// Believes every server.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
