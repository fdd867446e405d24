//! The entries of the BPF maps.

use std::collections::BTreeMap;

use overlay_ebpf::abi::{self, MacAddr, NetworkFlags, Vni, VtepRole};

use super::{
    plan::{FloodTo, PeerPlan, Plan},
    same_or_new,
};
use crate::dataplane::{
    desired::{MapSizes, RemoteEndpoint},
    endpoint_name::host_device_name,
    objects::{EndpointEntry, FloodEntry, MapEntries, Objects, PeerEntry},
    step::mapped_bytes,
    validate::Invalid,
};

/// `known`: large maps that come out as they are there are the same ones.
pub fn compile(plan: &Plan<'_>, known: &MapEntries, objects: &mut Objects) {
    let maps = &mut objects.maps;
    networks(plan, maps);
    local_ports(plan, maps);
    let about = plan.desired.local_endpoints.len() + plan.desired.remote_endpoints.len();
    maps.endpoints = same_or_new(&known.endpoints, about, || endpoints(plan));
    maps.addresses = same_or_new(&known.addresses, about, || addresses(plan));
    memberships(plan, maps);
    flood_lists(plan, maps);
    vteps(plan, maps);
    for peer in plan.peers.values() {
        if let Some(entry) = peer_entry(peer) {
            let key = abi::PeerKey {
                peer: peer.peer.index.get(),
            };
            maps.peers.insert(key, entry);
        }
    }
}

fn networks(plan: &Plan<'_>, maps: &mut MapEntries) {
    for (vni, &mtu) in &plan.open {
        let network = &plan.desired.networks[vni];
        let mut flags = 0;
        if network.encrypted {
            flags |= NetworkFlags::ENCRYPTED;
        }
        if network.replicate {
            flags |= NetworkFlags::REPLICATE;
        }
        maps.networks.insert(
            abi::NetworkKey { vni: vni.get() },
            abi::Network { flags, mtu },
        );
    }
}

fn endpoint_key(vni: Vni, mac: MacAddr) -> abi::EndpointKey {
    abi::EndpointKey {
        vni: vni.get(),
        mac: mac.0,
        reserved: [0; 2],
    }
}

fn local_ports(plan: &Plan<'_>, maps: &mut MapEntries) {
    for endpoint in &plan.desired.local_endpoints {
        let port = abi::LocalPort {
            vni: endpoint.vni.get(),
            mac: endpoint.mac.0,
            reserved: [0; 2],
        };
        let device = host_device_name(endpoint.vni, endpoint.mac);
        maps.local_ports.insert(device, port);
    }
}

/// The remote endpoints that this node can send to.
fn reached<'a>(plan: &'a Plan<'_>) -> impl Iterator<Item = &'a RemoteEndpoint> {
    let all = plan.desired.remote_endpoints.iter();
    all.filter(|endpoint| plan.reaches(endpoint))
}

fn endpoints(plan: &Plan<'_>) -> impl Iterator<Item = (abi::EndpointKey, EndpointEntry)> {
    let local = plan.desired.local_endpoints.iter().map(|endpoint| {
        let device = host_device_name(endpoint.vni, endpoint.mac);
        let entry = EndpointEntry::Local { device };
        (endpoint_key(endpoint.vni, endpoint.mac), entry)
    });
    let remote = reached(plan).map(|endpoint| {
        let peer = endpoint.peer.get();
        let entry = EndpointEntry::Remote { peer };
        (endpoint_key(endpoint.vni, endpoint.mac), entry)
    });
    local.chain(remote)
}

fn addresses(plan: &Plan<'_>) -> impl Iterator<Item = (abi::AddressKey, abi::Address)> {
    let local = plan.desired.local_endpoints.iter().flat_map(|endpoint| {
        let addresses = endpoint.addresses.iter();
        addresses.map(|(ip, _)| (endpoint.vni, endpoint.mac, *ip))
    });
    let remote = reached(plan).flat_map(|endpoint| {
        let addresses = endpoint.addresses.iter();
        addresses.map(|ip| (endpoint.vni, endpoint.mac, *ip))
    });
    local.chain(remote).map(|(vni, mac, ip)| {
        let key = abi::AddressKey {
            vni: vni.get(),
            address: mapped_bytes(ip),
        };
        let address = abi::Address {
            mac: mac.0,
            reserved: [0; 2],
        };
        (key, address)
    })
}

fn memberships(plan: &Plan<'_>, maps: &mut MapEntries) {
    let mut counts: BTreeMap<abi::MembershipKey, u32> = BTreeMap::new();
    for endpoint in reached(plan) {
        let key = abi::MembershipKey {
            vni: endpoint.vni.get(),
            peer: endpoint.peer.get(),
        };
        *counts.entry(key).or_default() += 1;
    }
    let counts = counts.into_iter();
    maps.memberships = counts
        .map(|(key, endpoints)| (key, abi::Membership { endpoints }))
        .collect();
}

fn flood_lists(plan: &Plan<'_>, maps: &mut MapEntries) {
    for (vni, targets) in &plan.flood {
        for (position, target) in (0..).zip(targets) {
            let entry = match *target {
                FloodTo::Local(endpoint) => FloodEntry::Local {
                    device: host_device_name(endpoint.vni, endpoint.mac),
                },
                FloodTo::Peer(index) => FloodEntry::Remote { peer: index.get() },
            };
            let key = abi::FloodKey {
                vni: vni.get(),
                position,
            };
            maps.flood_lists.insert(key, entry);
        }
    }
}

fn vteps(plan: &Plan<'_>, maps: &mut MapEntries) {
    let own = plan.desired.node.index.get();
    let local = plan
        .desired
        .node
        .vteps
        .iter()
        .map(|&vtep| (vtep, VtepRole::Local, own));
    let remote = plan
        .peers
        .values()
        .map(|peer| (peer.peer.vtep, VtepRole::Remote, peer.peer.index.get()));
    for (ip, role, peer) in local.chain(remote) {
        maps.vteps.insert(
            abi::VtepKey {
                address: mapped_bytes(ip),
            },
            abi::Vtep { role, peer },
        );
    }
}

/// `None` without a route: the peer stays closed.
fn peer_entry(plan: &PeerPlan<'_>) -> Option<PeerEntry> {
    let route = plan.route?;
    let tx = match plan.peer.transmit {
        Some(transmit) if plan.may_transmit => abi::TxState {
            epoch: transmit.epoch.get(),
            slot: transmit.slot.get(),
            lanes: transmit.lanes,
            reserved: [0; 2],
        },
        _ => CLOSED,
    };
    Some(PeerEntry {
        tx,
        vtep: mapped_bytes(plan.peer.vtep),
        local_vtep: mapped_bytes(plan.local_vtep),
        underlay_device: route.device.clone(),
        underlay_mtu: route.mtu,
    })
}

/// No outbound SA is live: encrypted frames drop.
pub const CLOSED: abi::TxState = abi::TxState {
    epoch: 0,
    slot: 0,
    lanes: 0,
    reserved: [0; 2],
};

/// Maps that would not hold their entries.
pub fn overfull(maps: &MapEntries, sizes: &MapSizes) -> Vec<Invalid> {
    let used: BTreeMap<&str, (usize, u32)> = [
        ("networks", (maps.networks.len(), sizes.networks)),
        ("local_ports", (maps.local_ports.len(), sizes.local_ports)),
        ("endpoints", (maps.endpoints.len(), sizes.endpoints)),
        ("addresses", (maps.addresses.len(), sizes.addresses)),
        ("peers", (maps.peers.len(), sizes.peers)),
        // `vteps` and `peer_stats` have the size of `peers`.
        ("peers (map vteps)", (maps.vteps.len(), sizes.peers)),
        ("memberships", (maps.memberships.len(), sizes.memberships)),
        ("flood_lists", (maps.flood_lists.len(), sizes.flood_lists)),
        ("sas", (maps.sas.len(), sizes.sas)),
    ]
    .into();
    used.into_iter()
        .filter(|&(_, (used, size))| used > size as usize)
        .map(|(map, (used, size))| {
            Invalid::Setting(format!(
                "map {map} would need {used} entries and holds {size}: raise map_sizes.{}",
                map.split(' ').next().unwrap_or(map)
            ))
        })
        .collect()
}
