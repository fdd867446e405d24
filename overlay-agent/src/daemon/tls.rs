//! TLS between the nodes of a cluster: 1.3 alone, Ed25519 certificates of the cluster's authority
//! on both sides, X25519, no resumption and no early data. Whom to let in is decided by
//! [`overlay_cluster::identity`]; here it is put in the terms of rustls.
//!
//! A node serves four [`Service`]s at one address, told apart by their ALPN protocol, which comes
//! in the clear before anybody is known: each has its own [`ServerConfig`], because each asks
//! something else of its client. A client names the node that it calls ([`server_name`]), and no
//! other may answer; the name is not sent.

mod own;
mod peer;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use overlay_cluster::{
    id::NodeId,
    identity::{
        revocation::Standing,
        trust::{RootDigest, TrustBundle},
    },
    time::Timestamp,
};
use rustls::{
    ClientConfig, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::{DnsName, ServerName},
    server::{ClientHello, NoServerSessionStorage},
    time_provider::TimeProvider,
    version::TLS13,
};

pub use self::{
    own::{Own, OwnError},
    peer::{Peer, PeerError, manager, peer},
};

/// What this node knows of its cluster now. It is asked anew in every handshake.
pub trait Members: fmt::Debug + Send + Sync {
    /// The roots that are trusted.
    fn trust(&self) -> Arc<TrustBundle>;
    /// What the roster says of a node.
    fn standing(&self, node: NodeId) -> Standing;
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Everything between members: both sides show valid certificates.
    Member,
    /// A node that joins: it has no certificate, and a token that names the root.
    Join,
    /// A member whose certificate has expired: it may renew it and do nothing else.
    Renew,
    /// Between managers: how they agree on their log.
    Raft,
}

impl Service {
    pub const ALL: [Self; 4] = [Self::Member, Self::Join, Self::Renew, Self::Raft];

    /// Name of its ALPN protocol.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Member => b"overlay-member/1",
            Self::Join => b"overlay-join/1",
            Self::Renew => b"overlay-renew/1",
            Self::Raft => b"overlay-raft/1",
        }
    }

    /// The service that a client asks for. A newer release offers it in the protocols of its own, too, which
    /// are passed over: one release back interoperates.
    pub fn asked_for(hello: &ClientHello<'_>) -> Result<Self, NotServed> {
        let offers: Vec<&[u8]> = hello.alpn().into_iter().flatten().collect();
        let mut served = Self::ALL
            .into_iter()
            .filter(|service| offers.contains(&service.alpn()));
        match (served.next(), served.next()) {
            (Some(service), None) => Ok(service),
            (Some(_), Some(_)) => Err(NotServed::Several),
            (None, _) => Err(NotServed::of(&offers)),
        }
    }
}

/// Why a client is given no [`Service`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotServed {
    /// It speaks TLS, and is no agent.
    #[error("the peer asks for no service of a node: it is another program")]
    Stranger,
    /// No agent does.
    #[error("the peer asks for several services at once: it is another program")]
    Several,
    /// An agent, and too far from this release.
    #[error(
        "the peer speaks {offered} and this release {own}: they are more than one release apart, update \
         the older one",
        own = text(Service::Member.alpn())
    )]
    OtherRelease {
        /// As it names what it speaks, shortened and escaped.
        offered: String,
    },
}

impl NotServed {
    /// Bytes of an offer that are quoted.
    const QUOTED: usize = 40;

    fn of(offers: &[&[u8]]) -> Self {
        let prefix = b"overlay-";
        match offers.iter().find(|offer| offer.starts_with(prefix)) {
            Some(offer) => Self::OtherRelease {
                offered: text(&offer[..offer.len().min(Self::QUOTED)]),
            },
            None => Self::Stranger,
        }
    }
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

/// What all connections of a node have in common.
#[derive(Debug, Clone)]
pub struct Tls {
    own: Arc<Own>,
    members: Arc<dyn Members>,
    clock: Arc<dyn TimeProvider>,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    pub fn new(own: Arc<Own>, members: Arc<dyn Members>, clock: Arc<dyn TimeProvider>) -> Self {
        Self {
            own,
            members,
            clock,
            provider: provider(),
        }
    }

    /// Whom this node believes.
    pub fn members(&self) -> &Arc<dyn Members> {
        &self.members
    }

    /// The clock of this host, if it can be read.
    pub fn now(&self) -> Option<Timestamp> {
        now(&*self.clock)
    }

    /// The server's side of a service.
    pub fn server(&self, service: Service) -> Result<ServerConfig, rustls::Error> {
        let builder = ServerConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(&[&TLS13])?;
        let members = self.members.clone();
        let own = self.own.clone();
        let mut config = match service {
            Service::Member | Service::Renew | Service::Raft => builder
                .with_client_cert_verifier(Arc::new(peer::Client { service, members }))
                .with_cert_resolver(own),
            Service::Join => builder
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(own::WithRoots { own, members })),
        };
        config.alpn_protocols = vec![service.alpn().to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(config)
    }

    /// The client's side of a service for members: any but [`Service::Join`]. The server is a member
    /// with a valid certificate, and the one that [`server_name`] names.
    pub fn client(&self, service: Service) -> Result<ClientConfig, rustls::Error> {
        let config = ClientConfig::builder_with_details(self.provider.clone(), self.clock.clone())
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(peer::Server {
                members: self.members.clone(),
            }))
            .with_client_cert_resolver(self.own.clone());
        Ok(finish(config, service))
    }
}

/// What a clock says, in the terms of certificates.
pub fn now(clock: &dyn TimeProvider) -> Option<Timestamp> {
    clock.current_time().map(peer::timestamp)
}

/// The client's side of a join: the server must be a manager whose certificate was issued by the
/// root that the token names. Who it was, [`manager`] says. Its name is that of no node: use
/// [`join_name`].
pub fn join_client(
    root: RootDigest,
    clock: Arc<dyn TimeProvider>,
) -> Result<ClientConfig, rustls::Error> {
    let config = ClientConfig::builder_with_details(provider(), clock)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(peer::Pinned { root }))
        .with_no_client_auth();
    Ok(finish(config, Service::Join))
}

fn finish(mut config: ClientConfig, service: Service) -> ClientConfig {
    config.alpn_protocols = vec![service.alpn().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    // Who is called is nobody's business on the way.
    config.enable_sni = false;
    config
}

/// ring, with X25519 alone: both sides are this program.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![ring::kx_group::X25519],
        ..ring::default_provider()
    })
}

/// Domain of the names under which nodes are called. No resolver is ever asked for one.
const DOMAIN: &str = ".node.overlay.internal";

/// The name under which a client calls a node.
pub fn server_name(node: NodeId) -> ServerName<'static> {
    name(format!("{node}{DOMAIN}"))
}

/// The name under which a joining node calls a manager that it does not know yet.
pub fn join_name() -> ServerName<'static> {
    name("manager.overlay.internal".to_owned())
}

fn name(text: String) -> ServerName<'static> {
    ServerName::DnsName(DnsName::try_from(text).expect("letters, digits and dots"))
}

/// The node that [`server_name`] stands for.
fn called(name: &ServerName<'_>) -> Option<NodeId> {
    match name {
        ServerName::DnsName(name) => name.as_ref().strip_suffix(DOMAIN)?.parse().ok(),
        _ => None,
    }
}
