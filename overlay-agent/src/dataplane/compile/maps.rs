//! The entries of the BPF maps.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use overlay_ebpf::abi::{self, MacAddr, NetworkFlags, Vni, VtepRole};

use super::plan::{FloodTo, PeerPlan, Plan};
use crate::dataplane::{
    desired::{LocalEndpoint, MapSizes},
    endpoint_name::host_device_name,
    objects::{EndpointEntry, FloodEntry, MapEntries, Objects, PeerEntry},
    step::mapped_bytes,
    validate::Invalid,
};

pub fn compile(plan: &Plan<'_>, objects: &mut Objects) {
    let maps = &mut objects.maps;
    networks(plan, maps);
    let mut endpoints = Endpoints::default();
    for endpoint in &plan.desired.local_endpoints {
        endpoints.local(endpoint, maps);
    }
    endpoints.remote(plan, maps);
    // Made at once, the trees are full; made entry by entry, they are half empty.
    maps.endpoints = Arc::new(endpoints.endpoints.into_iter().collect());
    maps.addresses = Arc::new(endpoints.addresses.into_iter().collect());
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

/// What there are tens of thousands of. The last entry of a key counts.
#[derive(Default)]
struct Endpoints {
    endpoints: Vec<(abi::EndpointKey, EndpointEntry)>,
    addresses: Vec<(abi::AddressKey, abi::Address)>,
}

impl Endpoints {
    fn local(&mut self, endpoint: &LocalEndpoint, maps: &mut MapEntries) {
        let device = host_device_name(endpoint.vni, endpoint.mac);
        maps.local_ports.insert(
            device.clone(),
            abi::LocalPort {
                vni: endpoint.vni.get(),
                mac: endpoint.mac.0,
                reserved: [0; 2],
            },
        );
        let entry = EndpointEntry::Local { device };
        let addresses = endpoint.addresses.iter().map(|&(ip, _)| ip);
        self.add(endpoint.vni, endpoint.mac, entry, addresses);
    }

    fn remote(&mut self, plan: &Plan<'_>, maps: &mut MapEntries) {
        let many = plan.desired.remote_endpoints.len();
        self.endpoints.reserve_exact(many);
        self.addresses.reserve_exact(many);
        for endpoint in plan.desired.remote_endpoints.iter() {
            if !plan.reaches(endpoint) {
                continue;
            }
            let (vni, peer) = (endpoint.vni, endpoint.peer.get());
            let entry = EndpointEntry::Remote { peer };
            let addresses = endpoint.addresses.iter().copied();
            self.add(vni, endpoint.mac, entry, addresses);
            let key = abi::MembershipKey {
                vni: vni.get(),
                peer,
            };
            maps.memberships
                .entry(key)
                .or_insert(abi::Membership { endpoints: 0 })
                .endpoints += 1;
        }
    }

    fn add(
        &mut self,
        vni: Vni,
        mac: MacAddr,
        entry: EndpointEntry,
        addresses: impl Iterator<Item = IpAddr>,
    ) {
        self.endpoints.push((endpoint_key(vni, mac), entry));
        self.addresses.extend(addresses.map(|ip| {
            let key = abi::AddressKey {
                vni: vni.get(),
                address: mapped_bytes(ip),
            };
            let address = abi::Address {
                mac: mac.0,
                reserved: [0; 2],
            };
            (key, address)
        }));
    }
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
