//! Who shares what with whom, over which route, and what has to stay closed.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use overlay_ebpf::{
    abi::{self, PeerIndex, Vni},
    packet::mtu::{Carrier, MIN_INNER_IPV6},
};

use crate::dataplane::{
    desired::{DataPlane, Network, Peer, RemoteEndpoint},
    mtu::{self, MtuError, Path},
    objects::{UnderlayFacts, UnderlayRoute},
    problem::{Problem, Subject},
};

/// The reading of a desired data plane that the objects follow from.
pub struct Plan<'a> {
    pub desired: &'a DataPlane,
    pub facts: &'a UnderlayFacts,
    pub peers: BTreeMap<PeerIndex, PeerPlan<'a>>,
    /// Open networks with their MTU. A desired network without an entry stays closed.
    pub open: BTreeMap<Vni, u32>,
    /// Targets of each replicating network: local endpoints, then peers.
    pub flood: BTreeMap<Vni, Vec<FloodTo<'a>>>,
    /// MTU for the endpoints of every network, closed ones too: a container keeps its interface while
    /// its network is closed.
    pub endpoint_mtu: BTreeMap<Vni, u32>,
    /// An encrypted network is desired and this kernel can do IPsec.
    pub ipsec: bool,
    /// An encrypted network is desired: the barriers stand even if it cannot open.
    pub encrypted_desired: bool,
}

/// A peer and how this node reaches it.
pub struct PeerPlan<'a> {
    pub peer: &'a Peer,
    /// This node's VTEP of the peer's family.
    pub local_vtep: IpAddr,
    pub route: Option<&'a UnderlayRoute>,
    /// Shares an encrypted network.
    pub encrypted: bool,
    /// Shares a plain network, and can be reached with its frames.
    pub plain: bool,
    /// May send encrypted frames as its `transmit` says; else a problem tells why not.
    pub may_transmit: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloodTo<'a> {
    Local(&'a crate::dataplane::desired::LocalEndpoint),
    Peer(PeerIndex),
}

impl<'a> Plan<'a> {
    pub fn new(
        desired: &'a DataPlane,
        facts: &'a UnderlayFacts,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let encrypted_desired = desired.networks.values().any(|network| network.encrypted);
        let mut plan = Self {
            desired,
            facts,
            peers: BTreeMap::new(),
            open: BTreeMap::new(),
            flood: BTreeMap::new(),
            endpoint_mtu: BTreeMap::new(),
            ipsec: encrypted_desired && facts.features.ipsec,
            encrypted_desired,
        };
        let shared = shared_networks(desired);
        for vtep in &desired.node.vteps {
            if !facts.vteps.contains_key(vtep) {
                problems.push(Problem::closes(
                    Subject::Node,
                    format!("VTEP {vtep} is on no device"),
                    format!("give the address to an underlay device (`ip address add {vtep}/… dev …`), or correct node.vteps"),
                ));
            }
        }
        for conflict in &facts.conflicts {
            let make = if conflict.opens {
                Problem::closes
            } else {
                Problem::warning
            };
            problems.push(make(
                Subject::Node,
                format!(
                    "XFRM of other software: {}: {}",
                    conflict.object, conflict.effect
                ),
                "remove it or change its priority and selector (`ip xfrm policy`, `ip xfrm state`)",
            ));
        }
        if let Some(port) = desired.settings.esp_in_udp_port
            && !facts.esp_in_udp_sockets.is_empty()
        {
            let sockets: Vec<String> = facts
                .esp_in_udp_sockets
                .iter()
                .map(|address| SocketAddr::new(*address, port).to_string())
                .collect();
            problems.push(Problem::warning(
                Subject::Node,
                format!(
                    "esp_in_udp_port = {port} is also that of other software ({}): ESP with SPIs of the overlay never reaches it",
                    sockets.join(", ")
                ),
                "set another esp_in_udp_port on every node, unless it is an IKE daemon that uses other SPIs",
            ));
        }
        if !facts.features.nft {
            problems.push(Problem::warning(
                Subject::Node,
                "the `nft` command is missing: local processes can inject into plain networks",
                "install nftables (Debian: `apt install nftables`)",
            ));
        }
        for (&index, peer) in &desired.peers {
            let networks = shared.get(&index);
            let peer_plan = plan.peer(peer, networks, problems);
            if let Some(peer_plan) = peer_plan {
                plan.peers.insert(index, peer_plan);
            }
        }
        for network in desired.networks.values() {
            plan.network(network, &shared, problems);
        }
        plan
    }

    fn peer(
        &self,
        peer: &'a Peer,
        networks: Option<&BTreeSet<Vni>>,
        problems: &mut Vec<Problem>,
    ) -> Option<PeerPlan<'a>> {
        let subject = || Subject::Peer(peer.index, peer.name.clone());
        // Validation has found one; without it the peer has no entry and stays closed.
        let local_vtep = *self
            .desired
            .node
            .vteps
            .iter()
            .find(|vtep| vtep.is_ipv4() == peer.vtep.is_ipv4())?;
        let shares = |encrypted: bool| {
            networks.is_some_and(|vnis| {
                vnis.iter()
                    .any(|vni| self.desired.networks[vni].encrypted == encrypted)
            })
        };
        let (encrypted, mut plain) = (shares(true), shares(false));
        let route = self
            .facts
            .routes
            .get(&peer.vtep)
            .filter(|_| self.facts.vteps.contains_key(&local_vtep));
        if self.facts.vteps.contains_key(&local_vtep) && route.is_none() && (encrypted || plain) {
            problems.push(Problem::closes(
                subject(),
                format!("no route to its VTEP {}", peer.vtep),
                format!(
                    "add a route (`ip route get {}` shows the kernel's answer)",
                    peer.vtep
                ),
            ));
        }
        if plain
            && let Some(route) = route
            && self.facts.lacks_ethernet(&route.device)
        {
            plain = false;
            problems.push(Problem::closes(
                subject(),
                format!(
                    "its route leads over {}, which carries no Ethernet frames: endpoints of unencrypted networks are not reached there",
                    route.device
                ),
                "encrypt the networks shared with it, or reach it over an Ethernet device",
            ));
        }
        let mut may_transmit = encrypted && self.facts.features.ipsec && route.is_some();
        if encrypted && self.facts.features.ipsec {
            for (reason, remedy) in self.encryption_obstacles(peer, local_vtep, route) {
                may_transmit = false;
                problems.push(Problem::closes(subject(), reason, remedy));
            }
        }
        Some(PeerPlan {
            peer,
            local_vtep,
            route,
            encrypted,
            plain,
            may_transmit,
        })
    }

    /// What of this host or of the input keeps encrypted frames from the peer.
    fn encryption_obstacles(
        &self,
        peer: &Peer,
        local_vtep: IpAddr,
        route: Option<&UnderlayRoute>,
    ) -> Vec<(String, String)> {
        let mut obstacles = Vec::new();
        if peer.transmit.is_none() {
            obstacles.push((
                "it has no transmit slot".to_owned(),
                "name a slot with outbound SAs in the peer's `transmit`".to_owned(),
            ));
        }
        if local_vtep.is_ipv4() && self.facts.rp_filter_all == 1 {
            obstacles.push((
                "net.ipv4.conf.all.rp_filter = 1 (strict) drops packets that re-enter through ovl-in: the kernel takes the larger of `all` and the device's own value".to_owned(),
                "keep strict filtering per device instead: `sysctl -w net.ipv4.conf.DEVICE.rp_filter=1` for each, then `sysctl -w net.ipv4.conf.all.rp_filter=0`; or use 2 (loose) for `all`".to_owned(),
            ));
        }
        if let Some(route) = route
            && self.facts.disable_xfrm.contains(&route.device)
        {
            obstacles.push((
                format!(
                    "disable_xfrm is set for {}: packets leave it past every IPsec policy",
                    route.device
                ),
                format!(
                    "`sysctl -w net.ipv4.conf.{0}.disable_xfrm=0 net.ipv4.conf.all.disable_xfrm=0`",
                    route.device
                ),
            ));
        }
        if let Some(route) = route
            && let Some(kind) = self.facts.unreadable.get(&route.device)
        {
            obstacles.push((
                format!(
                    "its route leads over {}, whose {kind} header underlay_audit cannot read: it lets nothing out there",
                    route.device
                ),
                "reach it over an Ethernet or IP device".to_owned(),
            ));
        }
        if let Some(route) = route
            && self.desired.settings.esp_in_udp_port.is_some()
            && self.facts.lacks_ethernet(&route.device)
        {
            obstacles.push((
                format!(
                    "esp_in_udp_port is set and {} has no Ethernet header: underlay_rx, which takes ESP out of UDP, cannot read its packets",
                    route.device
                ),
                "leave esp_in_udp_port out on every node, or route to the peer through an Ethernet device".to_owned(),
            ));
        }
        if !local_vtep.is_ipv4() && !self.facts.features.ipv6 {
            obstacles.push((
                "this kernel has no IPv6".to_owned(),
                "boot without ipv6.disable=1, or use IPv4 VTEPs".to_owned(),
            ));
        }
        obstacles
    }

    fn network(
        &mut self,
        network: &'a Network,
        shared: &BTreeMap<PeerIndex, BTreeSet<Vni>>,
        problems: &mut Vec<Problem>,
    ) {
        let subject = || Subject::Network(network.vni, network.name.clone());
        let mut close = |reason: String, remedy: &str| {
            problems.push(Problem::closes(subject(), reason, remedy));
        };
        let mtu = self
            .network_mtu(network, shared, network.mtu)
            .map(|mtu| match network.mtu {
                Some(_) => mtu,
                None => mtu.map(|mtu| mtu.min(network.mtu_at_most.unwrap_or(mtu))),
            });
        let usable = match mtu {
            Ok(usable) => usable,
            Err(_) => self.network_mtu(network, shared, None).ok().flatten(),
        };
        self.endpoint_mtu
            .insert(network.vni, usable.unwrap_or(MIN_INNER_IPV6));
        let mut open = true;
        if network.encrypted && !self.facts.features.ipsec {
            open = false;
            close(
                "it is encrypted and this kernel cannot do IPsec (ESP with AES-GCM, xfrm interfaces)".into(),
                "`overlay doctor` shows what is missing; load esp4, esp6 and xfrm_interface, or use a kernel that has them",
            );
        }
        if network.encrypted && !self.facts.features.nft {
            open = false;
            close(
                "it is encrypted and local processes cannot be kept from injecting: the `nft` command is missing".into(),
                "install nftables (Debian: `apt install nftables`)",
            );
        }
        if network.replicate {
            let targets = self.flood_targets(network.vni);
            if targets.len() > abi::network::FLOOD_TARGETS_MAX as usize {
                open = false;
                close(
                    format!(
                        "it replicates broadcast to {} targets, and at most {} are possible",
                        targets.len(),
                        abi::network::FLOOD_TARGETS_MAX
                    ),
                    "set replicate = false, or split the network",
                );
            } else {
                self.flood.insert(network.vni, targets);
            }
        }
        if network.encrypted && self.facts.conflicts.iter().any(|conflict| conflict.opens) {
            open = false;
            close(
                "it is encrypted and XFRM policies of other software would let it out in clear"
                    .into(),
                "remove them: they are named above",
            );
        }
        match mtu {
            Ok(Some(mtu)) => {
                if open {
                    self.open.insert(network.vni, mtu);
                }
            }
            Ok(None) => close(
                "its MTU is unknown: no path to a peer and no device with a VTEP of this node"
                    .into(),
                "give node.vteps an address of an underlay device",
            ),
            Err(error @ MtuError::ManualTooLarge { .. }) => close(
                error.to_string(),
                "leave mtu out to derive it, lower it, or raise the MTU of the underlay",
            ),
            Err(error @ MtuError::ManualTooSmall { .. }) => {
                close(error.to_string(), "leave mtu out to derive it, or raise it");
            }
            Err(error @ MtuError::PathTooSmall { .. }) => {
                close(error.to_string(), "raise the MTU of the underlay");
            }
        }
    }

    /// Over all peers that share the network; without any, over the devices of the VTEPs.
    fn network_mtu(
        &self,
        network: &Network,
        shared: &BTreeMap<PeerIndex, BTreeSet<Vni>>,
        manual: Option<u32>,
    ) -> Result<Option<u32>, MtuError> {
        let paths: Vec<Path<'_>> = self
            .peers
            .iter()
            .filter(|(index, _)| {
                shared
                    .get(index)
                    .is_some_and(|vnis| vnis.contains(&network.vni))
            })
            .filter_map(|(_, plan)| {
                Some(Path {
                    to: &plan.peer.name,
                    family: mtu::family(plan.peer.vtep),
                    outer_mtu: plan.route?.mtu,
                })
            })
            .collect();
        let devices = self.desired.node.vteps.iter().filter_map(|vtep| {
            let device = self.facts.vteps.get(vtep)?;
            Some(Path {
                to: &device.device,
                family: mtu::family(*vtep),
                outer_mtu: device.mtu,
            })
        });
        let port = self.desired.settings.esp_in_udp_port.unwrap_or(0);
        let carrier = Carrier::of(network.encrypted, port);
        if paths.is_empty() {
            mtu::network_mtu(devices, carrier, manual)
        } else {
            mtu::network_mtu(paths, carrier, manual)
        }
    }

    /// Whether the network of the endpoint can be carried to its peer.
    pub fn reaches(&self, endpoint: &RemoteEndpoint) -> bool {
        let network = &self.desired.networks[&endpoint.vni];
        let plan = self.peers.get(&endpoint.peer);
        network.encrypted || plan.is_none_or(|plan| plan.plain)
    }

    fn flood_targets(&self, vni: Vni) -> Vec<FloodTo<'a>> {
        let local = self
            .desired
            .local_endpoints
            .iter()
            .filter(|endpoint| endpoint.vni == vni)
            .map(FloodTo::Local);
        let peers: BTreeSet<PeerIndex> = self
            .desired
            .remote_endpoints
            .iter()
            .filter(|endpoint| endpoint.vni == vni && self.reaches(endpoint))
            .map(|endpoint| endpoint.peer)
            .collect();
        local.chain(peers.into_iter().map(FloodTo::Peer)).collect()
    }
}

/// The networks of each peer: those in which it hosts endpoints, and those it names.
fn shared_networks(desired: &DataPlane) -> BTreeMap<PeerIndex, BTreeSet<Vni>> {
    let mut shared: BTreeMap<PeerIndex, BTreeSet<Vni>> = desired
        .peers
        .values()
        .map(|peer| (peer.index, peer.networks.clone()))
        .collect();
    for endpoint in desired.remote_endpoints.iter() {
        shared
            .entry(endpoint.peer)
            .or_default()
            .insert(endpoint.vni);
    }
    shared
}
