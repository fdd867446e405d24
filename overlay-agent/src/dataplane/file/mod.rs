//! The desired data plane as a file: TOML or JSON, without secrets.
//!
//! Keys stand in a file of their own ([`keys`]), which `keys` names.

pub mod keys;
mod of;
pub(crate) mod schema;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use overlay_ebpf::abi::{MacAddr, PeerIndex, Vni};

use self::{keys::KeyEntry, schema as s};
pub use self::{
    of::{Each, FileOf},
    schema::{File, MapSizes, Settings, XdpMode},
};
use super::desired::{
    DataPlane, Direction, Keying, LocalEndpoint, Network, Node, Peer, RemoteEndpoint, Route,
    SecurityAssociation,
};

/// Why a text is no desired data plane.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Never the text itself: it may be a keys file, or hold a key where none belongs.
    #[error("line {line}, column {column}: {}", without_keys(.message))]
    Syntax {
        line: usize,
        column: usize,
        message: String,
    },
    #[error("{what}: there is no network `{name}`: add it to networks")]
    UnknownNetwork { what: String, name: String },
    #[error("two networks are named `{0}`: rename one")]
    DuplicateNetworkName(String),
    #[error("networks `{first}` and `{second}` both have VNI {vni}: change one")]
    DuplicateVni {
        vni: Vni,
        first: String,
        second: String,
    },
    #[error("peers `{first}` and `{second}` both have index {index}: change one")]
    DuplicatePeer {
        index: PeerIndex,
        first: String,
        second: String,
    },
    #[error(
        "endpoint {0} has neither a MAC nor an IPv4 address to derive one from: add `mac` or an IPv4 address"
    )]
    NoMac(String),
    #[error(
        "endpoint {0}: a route to `default` without `via` is of no family: write 0.0.0.0/0 or ::/0, or add `via`"
    )]
    NoFamily(String),
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Toml,
    Json,
}

impl Format {
    /// By the extension, else by the first character.
    pub fn of(path: &std::path::Path, text: &str) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("json") => Self::Json,
            Some("toml") => Self::Toml,
            _ if text.trim_start().starts_with('{') => Self::Json,
            _ => Self::Toml,
        }
    }
}

/// What serde_json says, without the place, which it appends.
fn json_message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    message.strip_suffix(&place).unwrap_or(&message).to_owned()
}

/// A message of a parser, unless it quotes what could be a key.
fn without_keys(message: &str) -> &str {
    let digits = |c: char| c.is_ascii_hexdigit();
    let longest = message.split(|c| !digits(c)).map(str::len).max();
    if longest.is_some_and(|longest| longest > 32) {
        "a value that may be a key (it is not shown) stands where none belongs; keys go into a \
         file of their own, which `keys` names"
    } else {
        message
    }
}

impl File {
    pub fn parse(text: &str, format: Format) -> Result<Self, FileError> {
        match format {
            Format::Toml => toml::from_str(text).map_err(|error: toml::de::Error| {
                let at = error.span().map_or(0, |span| span.start.min(text.len()));
                let before = &text.as_bytes()[..at];
                let newlines = before.iter().filter(|&&byte| byte == b'\n').count();
                let line_start = before.iter().rposition(|&byte| byte == b'\n');
                FileError::Syntax {
                    line: newlines + 1,
                    column: at - line_start.map_or(0, |newline| newline + 1) + 1,
                    message: error.message().to_owned(),
                }
            }),
            Format::Json => serde_json::from_str(text).map_err(|error| FileError::Syntax {
                line: error.line(),
                column: error.column(),
                message: json_message(&error),
            }),
        }
    }

    /// The desired data plane with SAs for those of `keys` that are this node's.
    pub fn desired(&self, keys: &[KeyEntry]) -> Result<DataPlane, FileError> {
        let own = self.node.index.0;
        let (networks, names) = self.networks()?;
        let find = |name: &str, what: &dyn Fn() -> String| {
            names
                .get(name)
                .copied()
                .ok_or_else(|| FileError::UnknownNetwork {
                    what: what(),
                    name: name.to_owned(),
                })
        };
        let mut peers: BTreeMap<PeerIndex, Peer> = BTreeMap::new();
        for peer in &self.peers {
            let index = peer.index.0;
            let made = Peer {
                index,
                name: peer.name.clone(),
                vtep: peer.vtep,
                networks: peer
                    .networks
                    .iter()
                    .map(|name| find(name, &|| format!("peer {}", peer.name)))
                    .collect::<Result<_, _>>()?,
                transmit: peer.transmit.map(Into::into),
                sas: keys
                    .iter()
                    .filter_map(|entry| entry.security_association(own, index))
                    .collect(),
            };
            if let Some(first) = peers.insert(index, made) {
                return Err(FileError::DuplicatePeer {
                    index,
                    first: first.name,
                    second: peer.name.clone(),
                });
            }
        }
        let local_endpoints = self
            .endpoints
            .iter()
            .map(|endpoint| {
                let ips = endpoint.addresses.iter().map(|address| address.ip);
                Ok(LocalEndpoint {
                    vni: find(&endpoint.network, &|| format!("endpoint {}", endpoint.name))?,
                    name: endpoint.name.clone(),
                    netns: endpoint.netns.0.clone(),
                    interface: endpoint.interface.clone(),
                    mac: mac(endpoint.mac, ips)
                        .ok_or_else(|| FileError::NoMac(endpoint.name.clone()))?,
                    addresses: endpoint
                        .addresses
                        .iter()
                        .map(|address| (address.ip, address.prefix_length))
                        .collect(),
                    routes: endpoint
                        .routes
                        .iter()
                        .map(|route| {
                            self::route(route)
                                .ok_or_else(|| FileError::NoFamily(endpoint.name.clone()))
                        })
                        .collect::<Result<_, _>>()?,
                })
            })
            .collect::<Result<_, FileError>>()?;
        let remote_endpoints = self
            .remote_endpoints
            .iter()
            .map(|endpoint| {
                let what = || format!("remote endpoint on peer {}", endpoint.peer.0);
                Ok(RemoteEndpoint {
                    vni: find(&endpoint.network, &what)?,
                    peer: endpoint.peer.0,
                    mac: mac(endpoint.mac, endpoint.addresses.iter().copied())
                        .ok_or_else(|| FileError::NoMac(what()))?,
                    addresses: endpoint.addresses.iter().copied().collect(),
                })
            })
            .collect::<Result<Vec<_>, FileError>>()?;
        Ok(DataPlane {
            node: Node {
                index: own,
                name: self.node.name.clone(),
                vteps: self.node.vteps.clone(),
            },
            settings: self.settings.clone().into(),
            networks,
            peers,
            local_endpoints,
            remote_endpoints: remote_endpoints.into(),
        })
    }

    #[expect(clippy::type_complexity, reason = "two views of one list")]
    fn networks(&self) -> Result<(BTreeMap<Vni, Network>, BTreeMap<&str, Vni>), FileError> {
        let mut networks = BTreeMap::new();
        let mut names = BTreeMap::new();
        for network in &self.networks {
            let vni = network.vni.0;
            let made = Network {
                name: network.name.clone(),
                vni,
                encrypted: network.encrypted,
                replicate: network.replicate,
                mtu: network.mtu,
                mtu_at_most: network.mtu_at_most,
            };
            if let Some(first) = networks.insert(vni, made) {
                return Err(FileError::DuplicateVni {
                    vni,
                    first: first.name,
                    second: network.name.clone(),
                });
            }
            if names.insert(network.name.as_str(), vni).is_some() {
                return Err(FileError::DuplicateNetworkName(network.name.clone()));
            }
        }
        Ok((networks, names))
    }
}

/// The MAC given, else `02:42:` and the first IPv4 address.
fn mac(given: Option<s::Mac>, ips: impl Iterator<Item = IpAddr>) -> Option<MacAddr> {
    given.map(|mac| mac.0).or_else(|| {
        ips.filter_map(|ip| match ip {
            IpAddr::V4(v4) => Some(MacAddr::from_ipv4(v4.octets())),
            IpAddr::V6(_) => None,
        })
        .next()
    })
}

/// `None` if nothing tells the family.
fn route(route: &s::Route) -> Option<Route> {
    let to = match (route.to, route.via) {
        (s::Destination::Network(prefix), _) => (prefix.ip, prefix.prefix_length),
        (s::Destination::Default, Some(IpAddr::V4(_))) => (Ipv4Addr::UNSPECIFIED.into(), 0),
        (s::Destination::Default, Some(IpAddr::V6(_))) => (Ipv6Addr::UNSPECIFIED.into(), 0),
        (s::Destination::Default, None) => return None,
    };
    Some(Route { to, via: route.via })
}

impl KeyEntry {
    /// The SA of this key between the nodes `own` and `peer`, if it is one.
    fn security_association(&self, own: PeerIndex, peer: PeerIndex) -> Option<SecurityAssociation> {
        let direction = if (self.sender, self.receiver) == (own, peer) {
            Direction::Out
        } else if (self.sender, self.receiver) == (peer, own) {
            Direction::In
        } else {
            return None;
        };
        Some(SecurityAssociation {
            direction,
            epoch: self.epoch,
            slot: self.slot,
            lane: self.lane,
            sender_generation: 0,
            receiver_generation: 0,
            keying: Keying::Keyed(self.key.clone()),
        })
    }
}

#[cfg(test)]
mod tests;
