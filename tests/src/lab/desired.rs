//! A node's data-plane file, as `overlay dataplane apply` reads it; free to be changed by a test.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::addressing::mac_text;

/// The desired data plane of a node, without keys.
#[derive(Debug, Clone)]
pub struct Desired {
    pub index: u32,
    pub name: String,
    pub vteps: Vec<IpAddr>,
    pub settings: Map<String, Value>,
    pub networks: Vec<Network>,
    pub peers: Vec<Peer>,
    pub endpoints: Vec<Endpoint>,
    pub remote_endpoints: Vec<RemoteEndpoint>,
}

#[derive(Debug, Clone)]
pub struct Network {
    pub name: String,
    pub vni: u32,
    pub encrypted: bool,
    pub replicate: bool,
    pub mtu: Option<u32>,
}

#[derive(Debug, Clone)]
pub struct Peer {
    pub index: u32,
    pub vtep: IpAddr,
    /// Beside those in which it hosts endpoints.
    pub networks: Vec<String>,
    pub transmit: Option<Transmit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    pub epoch: u32,
    pub slot: u8,
    pub lanes: u8,
}

#[derive(Debug, Clone)]
pub struct Endpoint {
    pub network: String,
    pub name: String,
    /// Name below `/run/netns`.
    pub netns: String,
    pub interface: String,
    pub mac: [u8; 6],
    /// With prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

#[derive(Debug, Clone)]
pub struct RemoteEndpoint {
    pub network: String,
    pub peer: u32,
    pub mac: [u8; 6],
    pub addresses: Vec<IpAddr>,
}

impl Desired {
    /// The file, with keys in the file `keys`.
    pub fn to_json(&self, keys: &str) -> Value {
        let networks: Vec<Value> = self.networks.iter().map(Network::to_json).collect();
        let peers: Vec<Value> = self.peers.iter().map(Peer::to_json).collect();
        let endpoints: Vec<Value> = self.endpoints.iter().map(Endpoint::to_json).collect();
        let remote: Vec<Value> = self
            .remote_endpoints
            .iter()
            .map(RemoteEndpoint::to_json)
            .collect();
        json!({
            "keys": keys,
            "node": { "index": self.index, "name": self.name, "vteps": self.vteps },
            "settings": self.settings,
            "networks": networks,
            "peers": peers,
            "endpoints": endpoints,
            "remote_endpoints": remote,
        })
    }
}

impl Network {
    fn to_json(&self) -> Value {
        let mut value = json!({
            "name": self.name,
            "vni": self.vni,
            "encrypted": self.encrypted,
            "replicate": self.replicate,
        });
        if let Some(mtu) = self.mtu {
            value["mtu"] = mtu.into();
        }
        value
    }
}

impl Peer {
    fn to_json(&self) -> Value {
        let mut value = json!({
            "index": self.index,
            "name": format!("node-{}", self.index),
            "vtep": self.vtep,
            "networks": self.networks,
        });
        if let Some(Transmit { epoch, slot, lanes }) = self.transmit {
            value["transmit"] = json!({ "epoch": epoch, "slot": slot, "lanes": lanes });
        }
        value
    }
}

impl Endpoint {
    fn to_json(&self) -> Value {
        let addresses: Vec<String> = self
            .addresses
            .iter()
            .map(|(ip, length)| format!("{ip}/{length}"))
            .collect();
        json!({
            "network": self.network,
            "name": self.name,
            "netns": self.netns,
            "interface": self.interface,
            "mac": mac_text(self.mac),
            "addresses": addresses,
        })
    }
}

impl RemoteEndpoint {
    fn to_json(&self) -> Value {
        json!({
            "network": self.network,
            "peer": self.peer,
            "mac": mac_text(self.mac),
            "addresses": self.addresses,
        })
    }
}
