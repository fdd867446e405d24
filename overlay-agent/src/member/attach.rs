//! The endpoints of this node: who may attach, and with which addresses. Addresses come from the
//! blocks that the log leased to the node, so attaching needs no round trip.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use overlay_cluster::{
    gossip::record::{MAX_ADDRESSES, MAX_NAME},
    log::{
        addresses::Family,
        command::Command,
        names::Labels,
        networks::{AttachRefusal, Network},
        pool::{Pool, PoolError},
        subnet::Subnet,
        view::View,
    },
    time::Instant,
};
use overlay_ebpf::abi::{MacAddr, Vni};

use crate::dataplane::desired::{LocalEndpoint, NetnsRef, Route};

/// How long a released address rests: until every node has heard that its endpoint is gone.
pub const REST: Duration = Duration::from_secs(60);

/// What somebody on this node asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Name of a network.
    pub network: String,
    /// A DNS label, unique in the network on this node.
    pub name: String,
    pub netns: NetnsRef,
    /// Name of the container's interface.
    pub interface: String,
    /// `None` is `02:42:` and the IPv4 address, or with IPv6 alone its last four bytes.
    pub mac: Option<MacAddr>,
    /// For families that are not named here, an address is chosen.
    pub addresses: Vec<IpAddr>,
    pub routes: Vec<Route>,
    pub labels: Labels,
    /// Whether an orchestrator asks.
    pub managed: bool,
}

/// Why an endpoint is not attached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The managers have none, or none that this node may host.
    #[error("no network {0} that this node may host: `overlay network ls` lists them")]
    UnknownNetwork(String),
    /// The network's rules.
    #[error(transparent)]
    Refused(#[from] AttachRefusal),
    /// No DNS label.
    #[error(
        "endpoint name `{0}` is no DNS label: use 1 to {MAX_NAME} letters, digits and hyphens, no hyphen first or last"
    )]
    Name(String),
    /// Names are unique per network and node.
    #[error(
        "this node has an endpoint {name} in network {network}: choose another name, or detach it"
    )]
    NameTaken { name: String, network: String },
    /// MACs are unique per network and node.
    #[error(
        "endpoint {holder} of this node has MAC address {mac} in network {network}: choose another"
    )]
    MacTaken {
        mac: MacAddr,
        network: String,
        holder: String,
    },
    /// A group address, or all zeros.
    #[error("{0} is no MAC address of a single interface: choose another")]
    BadMac(MacAddr),
    /// Two addresses of one family, or of a family that the network lacks.
    #[error(
        "network {network} gives one address of each of its families, and {address} is not one of those"
    )]
    Family { address: IpAddr, network: String },
    /// More than a record holds.
    #[error("{0} addresses are more than {MAX_ADDRESSES}")]
    TooMany(usize),
    /// The address that was asked for cannot be had.
    #[error(transparent)]
    Address(PoolError),
    /// The node needs another block, or that address: propose the command and try again.
    #[error("{reason}")]
    Lease {
        reason: PoolError,
        command: Box<Command>,
    },
}

/// An endpoint that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this node has no endpoint {name} in network {network}: `overlay endpoint ls` lists them")]
pub struct NoEndpoint {
    pub name: String,
    pub network: String,
}

/// The endpoints and the pools that their addresses are from.
#[derive(Debug, Default)]
pub struct Endpoints {
    pools: BTreeMap<(Vni, Family), Pool>,
    endpoints: BTreeMap<(Vni, String), LocalEndpoint>,
}

impl Endpoints {
    pub fn iter(&self) -> impl Iterator<Item = &LocalEndpoint> {
        self.endpoints.values()
    }

    pub fn to_vec(&self) -> Vec<LocalEndpoint> {
        self.iter().cloned().collect()
    }

    /// Takes over endpoints that an earlier agent of this node attached.
    pub fn adopt(&mut self, view: &View, endpoints: Vec<LocalEndpoint>) {
        for endpoint in endpoints {
            let key = (endpoint.vni, endpoint.name.clone());
            self.endpoints.insert(key, endpoint);
        }
        self.follow(view);
    }

    /// Follows the log: pools of its networks with the blocks of this node.
    pub fn follow(&mut self, view: &View) {
        let blocks = view.blocks();
        let known: BTreeSet<_> = view
            .networks
            .values()
            .flat_map(|network| network.subnets.keys().map(|family| (network.vni, *family)))
            .collect();
        self.pools.retain(|key, _| known.contains(key));
        for network in view.networks.values() {
            for (family, subnet) in &network.subnets {
                let pool = self
                    .pools
                    .entry((network.vni, *family))
                    .or_insert_with(|| Pool::new(subnet.clone(), REST));
                pool.set_blocks(blocks.get(&network.vni).into_iter().flatten().copied());
                for endpoint in self.endpoints.values() {
                    if endpoint.vni == network.vni {
                        for (address, _) in &endpoint.addresses {
                            // In use already, or of the other family.
                            let _known = pool.take(*address);
                        }
                    }
                }
            }
        }
    }

    /// Gives an endpoint its addresses. Refused, nothing is taken.
    pub fn attach(
        &mut self,
        view: &View,
        request: Request,
        now: Instant,
    ) -> Result<&LocalEndpoint, AttachError> {
        let network = view
            .networks
            .values()
            .find(|network| network.name.as_str() == request.network)
            .ok_or_else(|| AttachError::UnknownNetwork(request.network.clone()))?;
        network.may_attach(request.managed, &view.labels, &request.labels)?;
        self.check(network, &request)?;
        let mut given = Vec::new();
        match self.give(view, network, &request.addresses, now, &mut given) {
            Ok(()) => {}
            Err(error) => {
                self.take_back(network.vni, &given, now);
                return Err(error);
            }
        }
        let mac = request.mac.unwrap_or_else(|| default_mac(&given));
        if let Err(error) = self.check_mac(network, mac) {
            self.take_back(network.vni, &given, now);
            return Err(error);
        }
        let endpoint = LocalEndpoint {
            vni: network.vni,
            name: request.name.clone(),
            netns: request.netns,
            interface: request.interface,
            mac,
            addresses: given,
            routes: request.routes,
        };
        let key = (network.vni, request.name);
        Ok(self.endpoints.entry(key).or_insert(endpoint))
    }

    /// Takes an endpoint out. Its addresses rest.
    pub fn detach(
        &mut self,
        view: &View,
        network: &str,
        name: &str,
        now: Instant,
    ) -> Result<LocalEndpoint, NoEndpoint> {
        let vni = view
            .networks
            .values()
            .find(|known| known.name.as_str() == network)
            .map(|network| network.vni);
        let endpoint = vni.and_then(|vni| self.endpoints.remove(&(vni, name.to_owned())));
        let endpoint = endpoint.ok_or_else(|| NoEndpoint {
            name: name.to_owned(),
            network: network.to_owned(),
        })?;
        self.take_back(endpoint.vni, &endpoint.addresses, now);
        Ok(endpoint)
    }

    fn check(&self, network: &Network, request: &Request) -> Result<(), AttachError> {
        let name = request.name.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
        let label = (1..=MAX_NAME).contains(&name.len())
            && name.iter().all(inner)
            && name.first() != Some(&b'-')
            && name.last() != Some(&b'-');
        if !label {
            return Err(AttachError::Name(request.name.clone()));
        }
        if self
            .endpoints
            .contains_key(&(network.vni, request.name.clone()))
        {
            return Err(AttachError::NameTaken {
                name: request.name.clone(),
                network: request.network.clone(),
            });
        }
        if let Some(mac) = request.mac {
            self.check_mac(network, mac)?;
        }
        if request.addresses.len() > MAX_ADDRESSES {
            return Err(AttachError::TooMany(request.addresses.len()));
        }
        let mut families = BTreeSet::new();
        for address in &request.addresses {
            let family = Family::of(*address);
            if !network.subnets.contains_key(&family) || !families.insert(family) {
                return Err(AttachError::Family {
                    address: *address,
                    network: request.network.clone(),
                });
            }
        }
        Ok(())
    }

    fn check_mac(&self, network: &Network, mac: MacAddr) -> Result<(), AttachError> {
        if mac.is_multicast() || mac == MacAddr([0; 6]) {
            return Err(AttachError::BadMac(mac));
        }
        let holder = self
            .iter()
            .find(|endpoint| (endpoint.vni, endpoint.mac) == (network.vni, mac));
        match holder {
            None => Ok(()),
            Some(holder) => Err(AttachError::MacTaken {
                mac,
                network: network.name.to_string(),
                holder: holder.name.clone(),
            }),
        }
    }

    /// One address of each family of the network, IPv4 first, with the length of its subnet.
    fn give(
        &mut self,
        view: &View,
        network: &Network,
        wanted: &[IpAddr],
        now: Instant,
        given: &mut Vec<(IpAddr, u8)>,
    ) -> Result<(), AttachError> {
        for (family, subnet) in &network.subnets {
            let pool = self
                .pools
                .entry((network.vni, *family))
                .or_insert_with(|| Pool::new(subnet.clone(), REST));
            let named = wanted.iter().find(|ip| Family::of(**ip) == *family);
            let address = match named {
                Some(address) => pool.take(*address).map(|()| *address),
                None => pool.pick(now),
            };
            let address =
                address.map_err(|reason| lease(view, network, *family, subnet, reason))?;
            given.push((address, subnet.net().prefix_len()));
        }
        Ok(())
    }

    fn take_back(&mut self, vni: Vni, addresses: &[(IpAddr, u8)], now: Instant) {
        for (address, _) in addresses {
            if let Some(pool) = self.pools.get_mut(&(vni, Family::of(*address))) {
                pool.release(*address, now);
            }
        }
    }
}

/// What the managers can do about it.
fn lease(
    view: &View,
    network: &Network,
    family: Family,
    subnet: &Subnet,
    reason: PoolError,
) -> AttachError {
    let command = match &reason {
        PoolError::Empty { .. } => {
            let known = view.blocks().get(&network.vni).map_or(0, |blocks| {
                let of_family = |block: &&ipnet::IpNet| Family::of(block.addr()) == family;
                blocks.iter().filter(of_family).count()
            });
            Command::LeaseBlock {
                network: network.vni,
                node: view.node,
                family,
                known: u32::try_from(known).unwrap_or(u32::MAX),
            }
        }
        PoolError::NotOurs { address, .. } if subnet.is_usable(*address) => {
            Command::claim_address(network.vni, view.node, *address)
        }
        _ => return AttachError::Address(reason),
    };
    AttachError::Lease {
        reason,
        command: Box::new(command),
    }
}

fn default_mac(addresses: &[(IpAddr, u8)]) -> MacAddr {
    let last = |bytes: &[u8]| {
        let mut four = [0; 4];
        four.copy_from_slice(&bytes[bytes.len() - 4..]);
        four
    };
    let first = addresses.first().map(|(address, _)| match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(v6) => last(&v6.octets()),
    });
    MacAddr::from_ipv4(first.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use overlay_cluster::log::subnet::SubnetRequest;

    use super::*;
    use crate::plan::testing::{BLUE, ip, view, vni};

    const NOW: Instant = Instant::from_start(Duration::from_secs(1));

    fn request(name: &str) -> Request {
        Request {
            network: "net-4096".into(),
            name: name.into(),
            netns: NetnsRef::Name(name.into()),
            interface: "eth0".into(),
            mac: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            labels: Labels::default(),
            managed: false,
        }
    }

    fn endpoints(view: &View) -> Endpoints {
        let mut endpoints = Endpoints::default();
        endpoints.follow(view);
        endpoints
    }

    /// The view with an IPv6 subnet of which this node has no block.
    fn both() -> View {
        let mut view = view();
        let subnet = SubnetRequest {
            net: "fd00:9::/64".parse().unwrap(),
            gateway: None,
            range: None,
            block_prefix: None,
        };
        let network = view.networks.get_mut(&vni(BLUE)).unwrap();
        let subnet = Subnet::new(&subnet).unwrap();
        network.subnets.insert(Family::V6, subnet);
        view
    }

    #[test]
    fn an_endpoint_gets_an_address_of_this_nodes_block_and_the_mac_of_it() {
        let view = view();
        let mut all = endpoints(&view);
        let first = all.attach(&view, request("web-1"), NOW).unwrap().clone();
        let second = all.attach(&view, request("web-2"), NOW).unwrap().clone();
        let (address, length) = first.addresses[0];
        assert!(view.leased(&view.node, vni(BLUE), address));
        assert_eq!(length, 16);
        assert_ne!(first.addresses, second.addresses);
        match address {
            IpAddr::V4(v4) => assert_eq!(first.mac, MacAddr::from_ipv4(v4.octets())),
            IpAddr::V6(_) => panic!("{address}"),
        }
    }

    #[test]
    fn what_a_user_names_is_taken_or_refused_with_the_reason() {
        let view = view();
        let mut all = endpoints(&view);
        let with = |addresses: &[IpAddr]| Request {
            addresses: addresses.to_vec(),
            ..request("web-1")
        };
        let own = ip(BLUE, 1, 77);
        let error = |all: &mut Endpoints, request| all.attach(&view, request, NOW).unwrap_err();
        // Of another node's block: the managers say whose it is.
        let theirs = ip(BLUE, 2, 77);
        let AttachError::Lease { command, .. } = error(&mut all, with(&[theirs])) else {
            panic!("no lease");
        };
        assert_eq!(
            *command,
            Command::claim_address(vni(BLUE), view.node, theirs)
        );
        let gateway = [10, 0, 0, 1].into();
        assert!(matches!(
            error(&mut all, with(&[gateway])),
            AttachError::Address(PoolError::NotUsable { .. } | PoolError::NotOurs { .. })
        ));
        for wrong in [vec![own, ip(BLUE, 1, 78)], vec!["fd00::1".parse().unwrap()]] {
            assert!(matches!(
                error(&mut all, with(&wrong)),
                AttachError::Family { .. }
            ));
        }
        let attached = all.attach(&view, with(&[own]), NOW).unwrap();
        assert_eq!(attached.addresses, [(own, 16)]);
        let again = Request {
            name: "web-2".into(),
            ..with(&[own])
        };
        assert_eq!(
            error(&mut all, again),
            AttachError::Address(PoolError::InUse { address: own })
        );
    }

    #[test]
    fn names_and_macs_are_unique_in_a_network_and_sound() {
        let view = view();
        let mut all = endpoints(&view);
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let with_mac = |name: &str, mac| Request {
            mac: Some(mac),
            ..request(name)
        };
        all.attach(&view, with_mac("a", mac), NOW).unwrap();
        let message = |all: &mut Endpoints, request| {
            let error = all.attach(&view, request, NOW).unwrap_err();
            error.to_string()
        };
        assert!(message(&mut all, request("a")).contains("choose another name"));
        assert!(message(&mut all, with_mac("b", mac)).contains("endpoint a of this node"));
        let group = MacAddr([1, 0, 0, 0, 0, 9]);
        assert!(message(&mut all, with_mac("b", group)).contains("single interface"));
        for name in ["", "-a", "a-", "a.b", "ä", &"a".repeat(64)] {
            assert!(
                message(&mut all, request(name)).contains("DNS label"),
                "{name}"
            );
        }
        let mut elsewhere = with_mac("a", mac);
        elsewhere.network = "net-4097".into();
        all.attach(&view, elsewhere, NOW).unwrap();
        let mut unknown = request("b");
        unknown.network = "net-9".into();
        assert!(message(&mut all, unknown).contains("no network net-9"));
    }

    #[test]
    fn a_managed_network_refuses_who_does_not_manage() {
        let mut view = view();
        view.networks.get_mut(&vni(BLUE)).unwrap().attachable = false;
        let mut all = endpoints(&view);
        let error = all.attach(&view, request("a"), NOW).unwrap_err();
        assert!(error.to_string().contains("--attachable"), "{error}");
        let managed = Request {
            managed: true,
            ..request("a")
        };
        all.attach(&view, managed, NOW).unwrap();
    }

    #[test]
    fn a_family_without_a_block_asks_for_one_and_takes_nothing() {
        let view = both();
        let mut all = endpoints(&view);
        let AttachError::Lease { command, .. } = all.attach(&view, request("a"), NOW).unwrap_err()
        else {
            panic!("no lease");
        };
        let wanted = Command::LeaseBlock {
            network: vni(BLUE),
            node: view.node,
            family: Family::V6,
            known: 0,
        };
        assert_eq!(*command, wanted);
        assert_eq!(all.pools[&(vni(BLUE), Family::V4)].used(), 0);
    }

    #[test]
    fn a_detached_endpoints_address_rests_and_its_name_is_free() {
        let view = view();
        let mut all = endpoints(&view);
        let first = all.attach(&view, request("a"), NOW).unwrap().clone();
        assert_eq!(all.detach(&view, "net-4096", "a", NOW), Ok(first.clone()));
        assert!(all.detach(&view, "net-4096", "a", NOW).is_err());
        let second = all.attach(&view, request("a"), NOW).unwrap();
        assert_ne!(second.addresses, first.addresses);
    }

    #[test]
    fn endpoints_of_an_earlier_agent_keep_their_addresses() {
        let view = view();
        let mut before = endpoints(&view);
        let kept = before.attach(&view, request("a"), NOW).unwrap().clone();
        let mut after = Endpoints::default();
        after.adopt(&view, vec![kept.clone()]);
        assert_eq!(after.iter().collect::<Vec<_>>(), [&kept]);
        let next = after.attach(&view, request("b"), NOW).unwrap();
        assert_ne!(next.addresses, kept.addresses);
    }
}
