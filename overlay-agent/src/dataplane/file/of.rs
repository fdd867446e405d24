//! The file that says what a desired data plane says, but for its SAs.

use std::collections::BTreeMap;

use overlay_ebpf::abi::Vni;
use serde::{Serialize, Serializer, ser::SerializeStruct as _};

use super::schema::{
    Destination, Endpoint, Index, Mac, MapSizes, Mark, Netns, Network, Node, Number, Peer, Prefix,
    RemoteEndpoint, Route, Settings, Transmit, XdpMode,
};
use crate::dataplane::desired::{self, DataPlane};

/// A data plane that is written as its [`super::File`], entry by entry: there are tens of thousands.
#[derive(Debug, Clone, Copy)]
pub struct FileOf<'a>(pub &'a DataPlane);

impl Serialize for FileOf<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(desired) = self;
        let name = |vni: &Vni| name(&desired.networks, *vni);
        let node = Node {
            index: Index(desired.node.index),
            name: desired.node.name.clone(),
            vteps: desired.node.vteps.clone(),
        };
        let peers = desired.peers.values().map(|peer| Peer {
            index: Index(peer.index),
            name: peer.name.clone(),
            vtep: peer.vtep,
            networks: peer.networks.iter().map(name).collect(),
            transmit: peer.transmit.map(Into::into),
        });
        let endpoints = desired.local_endpoints.iter().map(|endpoint| Endpoint {
            network: name(&endpoint.vni),
            name: endpoint.name.clone(),
            netns: Netns(endpoint.netns.clone()),
            interface: endpoint.interface.clone(),
            mac: Some(Mac(endpoint.mac)),
            addresses: endpoint.addresses.iter().copied().map(prefix).collect(),
            routes: endpoint.routes.iter().copied().map(Into::into).collect(),
        });
        let remote_endpoints = desired
            .remote_endpoints
            .iter()
            .map(|endpoint| RemoteEndpoint {
                network: name(&endpoint.vni),
                peer: Index(endpoint.peer),
                mac: Some(Mac(endpoint.mac)),
                addresses: endpoint.addresses.to_vec(),
            });
        let mut file = serializer.serialize_struct("File", 6)?;
        file.serialize_field("node", &node)?;
        file.serialize_field("settings", &Settings::from(&desired.settings))?;
        let networks = desired.networks.values().map(Network::from);
        file.serialize_field("networks", &Each(networks))?;
        file.serialize_field("peers", &Each(peers))?;
        file.serialize_field("endpoints", &Each(endpoints))?;
        file.serialize_field("remote_endpoints", &Each(remote_endpoints))?;
        file.end()
    }
}

/// A list whose entries are made when they are written.
pub struct Each<I>(pub I);

impl<I: Iterator<Item: Serialize> + Clone> Serialize for Each<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.clone())
    }
}

/// A network that is not there has no name; the number is refused where the file is read.
fn name(networks: &BTreeMap<Vni, desired::Network>, vni: Vni) -> String {
    networks
        .get(&vni)
        .map_or_else(|| vni.to_string(), |network| network.name.clone())
}

pub fn prefix((ip, prefix_length): (std::net::IpAddr, u8)) -> Prefix {
    Prefix { ip, prefix_length }
}

impl From<desired::Route> for Route {
    fn from(route: desired::Route) -> Self {
        Self {
            to: Destination::Network(prefix(route.to)),
            via: route.via,
        }
    }
}

impl From<&desired::Network> for Network {
    fn from(network: &desired::Network) -> Self {
        Self {
            name: network.name.clone(),
            vni: Number(network.vni),
            encrypted: network.encrypted,
            replicate: network.replicate,
            mtu: network.mtu,
            mtu_at_most: network.mtu_at_most,
        }
    }
}

impl From<desired::Transmit> for Transmit {
    fn from(transmit: desired::Transmit) -> Self {
        Self {
            epoch: transmit.epoch.get(),
            slot: transmit.slot.get(),
            lanes: transmit.lanes,
        }
    }
}

impl From<&desired::Settings> for Settings {
    fn from(settings: &desired::Settings) -> Self {
        Self {
            port: settings.port,
            esp_in_udp_port: settings.esp_in_udp_port.unwrap_or(0),
            mark: Mark {
                value: settings.mark.value,
                mask: settings.mark.mask,
                shift: settings.mark.shift,
            },
            if_id: settings.if_id,
            reqid: settings.reqid,
            policy_priority: settings.policy_priority,
            block_priority: settings.block_priority,
            hard_byte_limit: settings.hard_byte_limit.unwrap_or(0),
            xdp: match settings.xdp {
                desired::XdpMode::Auto => XdpMode::Auto,
                desired::XdpMode::Native => XdpMode::Native,
                desired::XdpMode::Generic => XdpMode::Generic,
                desired::XdpMode::Off => XdpMode::Off,
            },
            event_sample: settings.event_sample,
            map_sizes: settings.map_sizes.into(),
        }
    }
}

impl From<desired::MapSizes> for MapSizes {
    fn from(sizes: desired::MapSizes) -> Self {
        let desired::MapSizes {
            networks,
            local_ports,
            endpoints,
            addresses,
            peers,
            memberships,
            flood_lists,
            sas,
            events,
        } = sizes;
        Self {
            networks,
            local_ports,
            endpoints,
            addresses,
            peers,
            memberships,
            flood_lists,
            sas,
            events,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dataplane::{file::File, testing::any_data_plane};

    proptest! {
        #[test]
        fn the_file_of_a_data_plane_says_what_it_says_but_for_its_sas(desired in any_data_plane()) {
            let text = serde_json::to_string(&FileOf(&desired)).unwrap();
            let file: File = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(&serde_json::to_string(&file).unwrap(), &text);
            let back = file.desired(&[]).unwrap();
            let mut without = desired;
            for peer in without.peers.values_mut() {
                peer.sas.clear();
            }
            prop_assert_eq!(back, without);
        }
    }
}
