//! Whether a desired data plane makes sense in itself, before any look at the host.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use overlay_ebpf::abi::{Lane, MacAddr, PeerIndex, Slot, Vni};

use super::{
    desired::{
        DataPlane, Direction, Keying, LocalEndpoint, NetnsRef, Peer, RemoteEndpoint, Route,
        Settings,
    },
    key_id::KeyId,
    problem::{Problem, Subject},
};

/// An input that contradicts itself. Nothing of the data plane is applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    #[error("settings: {0}")]
    Setting(String),
    #[error("node {node}: {address} cannot be a VTEP: use a unicast address of an underlay device")]
    VtepAddress { node: String, address: IpAddr },
    #[error(
        "node: two VTEPs of one family, {first} and {second}: give at most one IPv4 and one IPv6 address"
    )]
    TwoVteps { first: IpAddr, second: IpAddr },
    #[error("peer {peer}: index {index} is this node's own: give every node an index of its own")]
    OwnIndex { peer: String, index: PeerIndex },
    #[error(
        "peer {peer}: VTEP {vtep} is also that of {other}: give every node an address of its own"
    )]
    DuplicateVtep {
        peer: String,
        vtep: IpAddr,
        other: String,
    },
    #[error(
        "peer {peer}: VTEP {vtep} is {family}, and this node has no {family} VTEP: add one to node.vteps"
    )]
    VtepFamily {
        peer: String,
        vtep: IpAddr,
        family: &'static str,
    },
    #[error("network {name}: VNI {vni} stands under key {key}: use one number")]
    NetworkKey { name: String, vni: Vni, key: Vni },
    #[error("peer {name}: index {index} stands under key {key}: use one number")]
    PeerKey {
        name: String,
        index: PeerIndex,
        key: PeerIndex,
    },
    #[error("two networks are named {name} (VNI {first} and {second}): rename one")]
    DuplicateNetworkName {
        name: String,
        first: Vni,
        second: Vni,
    },
    #[error("{what}: there is no network with VNI {vni}: add it to networks")]
    UnknownNetwork { what: String, vni: Vni },
    #[error("remote endpoint {mac} in VNI {vni}: there is no peer {peer}: add it to peers")]
    UnknownPeer {
        vni: Vni,
        mac: MacAddr,
        peer: PeerIndex,
    },
    #[error("network {vni}: MAC {mac} belongs to {first} and to {second}: change one")]
    DuplicateMac {
        vni: Vni,
        mac: MacAddr,
        first: String,
        second: String,
    },
    #[error("network {vni}: address {address} belongs to {first} and to {second}: change one")]
    DuplicateAddress {
        vni: Vni,
        address: IpAddr,
        first: String,
        second: String,
    },
    #[error(
        "{endpoint}: MAC {mac} is {what}: use a unicast MAC, for example 02:42: and the IPv4 address"
    )]
    EndpointMac {
        endpoint: String,
        mac: MacAddr,
        what: &'static str,
    },
    #[error(
        "{endpoint}: {address} cannot be an endpoint's address: use a unicast address of the network's subnet"
    )]
    EndpointAddress { endpoint: String, address: IpAddr },
    #[error("{endpoint}: prefix length {length} does not fit {address}: use at most {most}")]
    PrefixLength {
        endpoint: String,
        address: IpAddr,
        length: u8,
        most: u8,
    },
    #[error(
        "{endpoint}: `{interface}` is no interface name: 1 to 15 characters without `/` and spaces"
    )]
    InterfaceName { endpoint: String, interface: String },
    #[error(
        "endpoints {first} and {second} ask for the same interface {interface} in the same namespace: rename one"
    )]
    DuplicateInterface {
        first: String,
        second: String,
        interface: String,
    },
    #[error("{endpoint}: route to {route}: {why}")]
    Route {
        endpoint: String,
        route: Route,
        why: RouteFault,
    },
    #[error("{second} leads to {network}, and so does {first} in the same namespace: remove one")]
    DuplicateRoute {
        first: String,
        second: String,
        network: String,
    },
    #[error("peer {peer}: lanes = {lanes} is not in 1 to {most}", most = Lane::COUNT)]
    Lanes { peer: String, lanes: u8 },
    #[error(
        "peer {peer}: transmit names slot {slot} of epoch {epoch} with {lanes} lanes, but there is no outbound SA for lane {lane}: add its key to the keys file (`overlay dataplane keygen`) or lower lanes"
    )]
    TransmitWithoutSa {
        peer: String,
        slot: Slot,
        epoch: u32,
        lanes: u8,
        lane: u8,
    },
    #[error(
        "peer {peer}: slot {slot} lane {lane} has two {direction} SAs: they would share SPI; use a slot of its own for each epoch"
    )]
    DuplicateSa {
        peer: String,
        direction: &'static str,
        slot: Slot,
        lane: Lane,
    },
    #[error(
        "peer {peer}: {direction} slot {slot} is used by epochs {first} and {second}: use a slot of its own for each epoch"
    )]
    OverlappingSlots {
        peer: String,
        direction: &'static str,
        slot: Slot,
        first: u32,
        second: u32,
    },
    #[error(
        "key {key_id} stands for two SAs ({first}, {second}): a key used twice repeats nonces; make new keys with `overlay dataplane keygen`"
    )]
    KeyUsedTwice {
        key_id: KeyId,
        first: String,
        second: String,
    },
}

/// Why a container's route makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteFault {
    #[error("prefix length {length} is above {most}")]
    Length { length: u8, most: u8 },
    #[error("it has bits beyond the prefix length: write {address}/{length}")]
    HostBits { address: IpAddr, length: u8 },
    #[error("the next hop is of the other family: use one of the destination's")]
    Family,
    #[error("the endpoint has no {family} address to send from: add one to its addresses")]
    NoAddress { family: &'static str },
    #[error(
        "the next hop is in no network of the endpoint's addresses: use one that is, or leave `via` out if the destinations are on the link"
    )]
    OffLink,
    #[error("the next hop is the endpoint itself: use another endpoint of the network")]
    Itself,
}

/// Checks a desired data plane; all errors at once, so that one look suffices.
pub fn validate(desired: &DataPlane) -> Result<(), Vec<Invalid>> {
    let mut errors = Vec::new();
    settings(&desired.settings, &mut errors);
    node(desired, &mut errors);
    networks(desired, &mut errors);
    peers(desired, &mut errors);
    keys(desired, &mut errors);
    endpoints(desired, &mut errors);
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

fn settings(settings: &Settings, errors: &mut Vec<Invalid>) {
    let mut refuse = |text: String| errors.push(Invalid::Setting(text));
    let mark = settings.mark;
    if !mark.is_consistent() {
        refuse(format!(
            "mark value {:#010x}, mask {:#010x} and shift {} do not fit: the mask must cover the value \
             and the twelve bits from the shift on, the value must be clear of those and not 0, the \
             shift at most 20",
            mark.value, mark.mask, mark.shift
        ));
    }
    if settings.port == 0 {
        refuse("port = 0 is no port: use 4789 or another free UDP port".into());
    }
    if settings.esp_in_udp_port == Some(settings.port) {
        refuse(format!(
            "esp_in_udp_port = {0} is also port = {0}, on which VXLAN comes in: use 4500 or another UDP \
             port",
            settings.port
        ));
    }
    if settings.if_id == 0 {
        refuse("if_id = 0 means no interface to the kernel: use any other number".into());
    }
    if settings.reqid == 0 {
        refuse("reqid = 0 matches SAs of any owner: use any other number".into());
    }
    if settings.policy_priority >= settings.block_priority {
        refuse(format!(
            "policy_priority = {} must be below block_priority = {}: the kernel matches the smaller first",
            settings.policy_priority, settings.block_priority
        ));
    }
    let sizes = &settings.map_sizes;
    if sizes.events < 4096 || !sizes.events.is_power_of_two() {
        refuse(format!(
            "map_sizes.events = {} bytes must be a power of two, at least 4096 (a page)",
            sizes.events
        ));
    }
    for (name, size) in [
        ("networks", sizes.networks),
        ("local_ports", sizes.local_ports),
        ("endpoints", sizes.endpoints),
        ("addresses", sizes.addresses),
        ("peers", sizes.peers),
        ("memberships", sizes.memberships),
        ("flood_lists", sizes.flood_lists),
        ("sas", sizes.sas),
    ] {
        if size == 0 {
            refuse(format!(
                "map_sizes.{name} = 0: a map holds at least one entry"
            ));
        }
    }
}

fn is_unicast_vtep(address: IpAddr) -> bool {
    let special = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    !special
        && match address {
            IpAddr::V4(v4) => !v4.is_broadcast(),
            // Mapped addresses are how the maps write IPv4.
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none() && !v6.is_unicast_link_local(),
        }
}

/// Sender index of an SPI that reads like the first word of VXLAN.
const VXLAN_LIKE_INDEX: u32 = overlay_ebpf::packet::vxlan::FLAGS >> 12;

fn node(desired: &DataPlane, errors: &mut Vec<Invalid>) {
    let mut seen: BTreeMap<bool, IpAddr> = BTreeMap::new();
    if desired.settings.esp_in_udp_port.is_some() && desired.node.index.get() == VXLAN_LIKE_INDEX {
        errors.push(Invalid::Setting(format!(
            "esp_in_udp_port with node.index = {VXLAN_LIKE_INDEX}: underlay_audit could take an SPI of this \
             node for a VXLAN header; give the node another index"
        )));
    }
    for &vtep in &desired.node.vteps {
        if !is_unicast_vtep(vtep) {
            errors.push(Invalid::VtepAddress {
                node: desired.node.name.clone(),
                address: vtep,
            });
        }
        if let Some(first) = seen.insert(vtep.is_ipv4(), vtep) {
            errors.push(Invalid::TwoVteps {
                first,
                second: vtep,
            });
        }
    }
}

fn networks(desired: &DataPlane, errors: &mut Vec<Invalid>) {
    let mut names: BTreeMap<&str, Vni> = BTreeMap::new();
    for (&key, network) in &desired.networks {
        if key != network.vni {
            errors.push(Invalid::NetworkKey {
                name: network.name.clone(),
                vni: network.vni,
                key,
            });
        }
        if let Some(first) = names.insert(&network.name, network.vni) {
            errors.push(Invalid::DuplicateNetworkName {
                name: network.name.clone(),
                first,
                second: network.vni,
            });
        }
    }
}

fn peers(desired: &DataPlane, errors: &mut Vec<Invalid>) {
    let mut vteps: BTreeMap<IpAddr, &str> = desired
        .node
        .vteps
        .iter()
        .map(|&vtep| (vtep, "this node"))
        .collect();
    for (&key, peer) in &desired.peers {
        if key != peer.index {
            errors.push(Invalid::PeerKey {
                name: peer.name.clone(),
                index: peer.index,
                key,
            });
        }
        if peer.index == desired.node.index {
            errors.push(Invalid::OwnIndex {
                peer: peer.name.clone(),
                index: peer.index,
            });
        }
        if !is_unicast_vtep(peer.vtep) {
            errors.push(Invalid::VtepAddress {
                node: peer.name.clone(),
                address: peer.vtep,
            });
        }
        if let Some(other) = vteps.insert(peer.vtep, &peer.name) {
            errors.push(Invalid::DuplicateVtep {
                peer: peer.name.clone(),
                vtep: peer.vtep,
                other: other.to_owned(),
            });
        }
        let same_family = |vtep: &IpAddr| vtep.is_ipv4() == peer.vtep.is_ipv4();
        if !desired.node.vteps.iter().any(same_family) {
            errors.push(Invalid::VtepFamily {
                peer: peer.name.clone(),
                vtep: peer.vtep,
                family: if peer.vtep.is_ipv4() { "IPv4" } else { "IPv6" },
            });
        }
        for &vni in &peer.networks {
            if !desired.networks.contains_key(&vni) {
                errors.push(Invalid::UnknownNetwork {
                    what: format!("peer {}", peer.name),
                    vni,
                });
            }
        }
        slots(peer, errors);
    }
}

fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "inbound",
        Direction::Out => "outbound",
    }
}

fn slots(peer: &Peer, errors: &mut Vec<Invalid>) {
    let mut epochs: BTreeMap<(Direction, Slot), u32> = BTreeMap::new();
    let mut seen: BTreeSet<(Direction, Slot, Lane)> = BTreeSet::new();
    for sa in &peer.sas {
        let epoch = sa.epoch.get();
        let direction = direction_name(sa.direction);
        if !seen.insert((sa.direction, sa.slot, sa.lane)) {
            errors.push(Invalid::DuplicateSa {
                peer: peer.name.clone(),
                direction,
                slot: sa.slot,
                lane: sa.lane,
            });
        }
        let first = *epochs.entry((sa.direction, sa.slot)).or_insert(epoch);
        if first != epoch {
            errors.push(Invalid::OverlappingSlots {
                peer: peer.name.clone(),
                direction,
                slot: sa.slot,
                first,
                second: epoch,
            });
        }
    }
    let Some(transmit) = peer.transmit else {
        return;
    };
    if transmit.lanes == 0 || u32::from(transmit.lanes) > Lane::COUNT {
        errors.push(Invalid::Lanes {
            peer: peer.name.clone(),
            lanes: transmit.lanes,
        });
        return;
    }
    for lane in 0..transmit.lanes {
        let found = peer.sas.iter().any(|sa| {
            sa.direction == Direction::Out
                && sa.epoch == transmit.epoch
                && sa.slot == transmit.slot
                && sa.lane.get() == lane
        });
        if !found {
            errors.push(Invalid::TransmitWithoutSa {
                peer: peer.name.clone(),
                slot: transmit.slot,
                epoch: transmit.epoch.get(),
                lanes: transmit.lanes,
                lane,
            });
        }
    }
}

fn keys(desired: &DataPlane, errors: &mut Vec<Invalid>) {
    let mut seen: BTreeMap<KeyId, String> = BTreeMap::new();
    for peer in desired.peers.values() {
        for sa in &peer.sas {
            let Keying::Keyed(material) = &sa.keying else {
                continue;
            };
            let key_id = KeyId::of(material);
            let second = format!(
                "{} slot {} lane {} with {}",
                direction_name(sa.direction),
                sa.slot,
                sa.lane,
                peer.name
            );
            if let Some(first) = seen.insert(key_id, second.clone()) {
                errors.push(Invalid::KeyUsedTwice {
                    key_id,
                    first,
                    second,
                });
            }
        }
    }
}

/// An endpoint, named where something is wrong with it: there are tens of thousands.
#[derive(Clone, Copy)]
enum Who<'a> {
    Local(&'a LocalEndpoint),
    Remote(&'a RemoteEndpoint),
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(local) => write!(f, "endpoint {}", local.name),
            Self::Remote(remote) => {
                write!(f, "remote endpoint {} on peer {}", remote.mac, remote.peer)
            }
        }
    }
}

/// All endpoints, the local ones first.
fn everybody(desired: &DataPlane) -> impl Iterator<Item = Who<'_>> {
    let local = desired.local_endpoints.iter().map(Who::Local);
    local.chain(desired.remote_endpoints.iter().map(Who::Remote))
}

impl<'a> Who<'a> {
    /// By its place among [`everybody`].
    fn at(desired: &'a DataPlane, place: u32) -> Self {
        let local = &desired.local_endpoints;
        let place = place as usize;
        match local.get(place) {
            Some(local) => Self::Local(local),
            None => Self::Remote(&desired.remote_endpoints[place - local.len()]),
        }
    }

    fn mac(self) -> (Vni, MacAddr) {
        match self {
            Self::Local(local) => (local.vni, local.mac),
            Self::Remote(remote) => (remote.vni, remote.mac),
        }
    }

    fn addresses(self) -> impl Iterator<Item = (Vni, IpAddr)> {
        let (vni, local, remote) = match self {
            Self::Local(local) => (local.vni, Some(&local.addresses), None),
            Self::Remote(remote) => (remote.vni, None, Some(&remote.addresses)),
        };
        let local = local.into_iter().flatten().map(|&(address, _)| address);
        let remote = remote.into_iter().flat_map(|all| all.iter().copied());
        local.chain(remote).map(move |address| (vni, address))
    }
}

/// What more than one claims: each with the one before it, in the order of the keys and then of the claimants.
///
/// There are tens of thousands of claims, so they are a list of keys and places, sorted once in its own room.
fn twice<'a, K: Ord + Copy>(
    desired: &'a DataPlane,
    claims: impl Fn(Who<'a>, &mut dyn FnMut(K)),
) -> Vec<(K, Who<'a>, Who<'a>)> {
    let about = desired.local_endpoints.len() + desired.remote_endpoints.len();
    let mut all: Vec<(K, u32)> = Vec::with_capacity(about);
    for (place, who) in (0..).zip(everybody(desired)) {
        claims(who, &mut |key| all.push((key, place)));
    }
    all.sort_unstable();
    let pairs = all.windows(2).filter_map(|pair| match *pair {
        [(key, first), (other, second)] if key == other => Some((key, first, second)),
        _ => None,
    });
    let who = |place| Who::at(desired, place);
    pairs
        .map(|(key, first, second)| (key, who(first), who(second)))
        .collect()
}

/// MACs and addresses that nobody may have.
fn unusable(who: Who<'_>, errors: &mut Vec<Invalid>) {
    let (_, mac) = who.mac();
    let what = if mac.is_multicast() {
        Some("a group address")
    } else if mac.0 == [0; 6] {
        Some("all zero")
    } else {
        None
    };
    if let Some(what) = what {
        errors.push(Invalid::EndpointMac {
            endpoint: who.to_string(),
            mac,
            what,
        });
    }
    for (_, address) in who.addresses() {
        let unicast = match address {
            IpAddr::V4(v4) => !v4.is_broadcast(),
            IpAddr::V6(v6) => v6.to_ipv4_mapped().is_none(),
        };
        if !unicast || address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            errors.push(Invalid::EndpointAddress {
                endpoint: who.to_string(),
                address,
            });
        }
    }
}

fn duplicates(desired: &DataPlane, errors: &mut Vec<Invalid>) {
    let macs = twice(desired, |who, claim| claim(who.mac()));
    errors.extend(
        macs.into_iter()
            .map(|((vni, mac), first, second)| Invalid::DuplicateMac {
                vni,
                mac,
                first: first.to_string(),
                second: second.to_string(),
            }),
    );
    let addresses = twice(desired, |who, claim| who.addresses().for_each(claim));
    errors.extend(
        addresses.into_iter().map(
            |((vni, address), first, second)| Invalid::DuplicateAddress {
                vni,
                address,
                first: first.to_string(),
                second: second.to_string(),
            },
        ),
    );
}

fn endpoints(desired: &DataPlane, errors: &mut Vec<Invalid>) {
    let mut interfaces = BTreeMap::new();
    let mut destinations = connected(desired);
    for local in &desired.local_endpoints {
        let who = Who::Local(local);
        known_network(desired, local.vni, who, errors);
        unusable(who, errors);
        for &(address, length) in &local.addresses {
            let most = if address.is_ipv4() { 32 } else { 128 };
            if length > most {
                errors.push(Invalid::PrefixLength {
                    endpoint: who.to_string(),
                    address,
                    length,
                    most,
                });
            }
        }
        if !is_interface_name(&local.interface) {
            errors.push(Invalid::InterfaceName {
                endpoint: who.to_string(),
                interface: local.interface.clone(),
            });
        }
        if let Some(first) = interfaces.insert((&local.netns, &local.interface), &local.name) {
            errors.push(Invalid::DuplicateInterface {
                first: first.clone(),
                second: local.name.clone(),
                interface: local.interface.clone(),
            });
        }
        routes(local, &mut destinations, errors);
    }
    for remote in desired.remote_endpoints.iter() {
        let who = Who::Remote(remote);
        known_network(desired, remote.vni, who, errors);
        if !desired.peers.contains_key(&remote.peer) {
            errors.push(Invalid::UnknownPeer {
                vni: remote.vni,
                mac: remote.mac,
                peer: remote.peer,
            });
        }
        unusable(who, errors);
    }
    duplicates(desired, errors);
}

/// Networks that routes of a namespace lead to, each with what leads there.
type Destinations<'a> = BTreeMap<(&'a NetnsRef, (IpAddr, u8)), String>;

/// Routes that the kernel makes for the addresses.
fn connected(desired: &DataPlane) -> Destinations<'_> {
    let mut destinations = BTreeMap::new();
    for local in &desired.local_endpoints {
        for &(address, length) in &local.addresses {
            destinations
                .entry((&local.netns, (network_of(address, length), length)))
                .or_insert_with(|| {
                    format!("address {address}/{length} of endpoint {}", local.name)
                });
        }
    }
    destinations
}

fn routes<'a>(
    local: &'a LocalEndpoint,
    destinations: &mut Destinations<'a>,
    errors: &mut Vec<Invalid>,
) {
    for &route in &local.routes {
        let endpoint = format!("endpoint {}", local.name);
        if let Some(why) = route_fault(local, route) {
            errors.push(Invalid::Route {
                endpoint,
                route,
                why,
            });
            continue;
        }
        let second = format!("a route of {endpoint}");
        if let Some(first) = destinations.insert((&local.netns, route.to), second.clone()) {
            let (address, length) = route.to;
            errors.push(Invalid::DuplicateRoute {
                first,
                second,
                network: format!("{address}/{length}"),
            });
        }
    }
}

fn route_fault(local: &LocalEndpoint, Route { to, via }: Route) -> Option<RouteFault> {
    let (address, length) = to;
    let (family, most) = if address.is_ipv4() {
        ("IPv4", 32)
    } else {
        ("IPv6", 128)
    };
    if length > most {
        return Some(RouteFault::Length { length, most });
    }
    let network = network_of(address, length);
    if network != address {
        return Some(RouteFault::HostBits {
            address: network,
            length,
        });
    }
    if via.is_some_and(|via| via.is_ipv4() != address.is_ipv4()) {
        return Some(RouteFault::Family);
    }
    let mut own = local.addresses.iter();
    if !own.any(|(own, _)| own.is_ipv4() == address.is_ipv4()) {
        return Some(RouteFault::NoAddress { family });
    }
    let via = via?;
    let mut own = local.addresses.iter();
    if own.any(|&(own, _)| own == via) {
        return Some(RouteFault::Itself);
    }
    let on_link = local
        .addresses
        .iter()
        .any(|&(own, length)| network_of(own, length) == network_of(via, length));
    (!on_link).then_some(RouteFault::OffLink)
}

/// The address with the bits beyond the prefix length cleared; a length above the family's clears
/// none.
fn network_of(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let beyond = u32::MAX.checked_shr(length.into()).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & !beyond).into()
        }
        IpAddr::V6(v6) => {
            let beyond = u128::MAX.checked_shr(length.into()).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & !beyond).into()
        }
    }
}

fn known_network(desired: &DataPlane, vni: Vni, who: Who<'_>, errors: &mut Vec<Invalid>) {
    if !desired.networks.contains_key(&vni) {
        errors.push(Invalid::UnknownNetwork {
            what: who.to_string(),
            vni,
        });
    }
}

/// What the kernel takes for a device name (`dev_valid_name`, net/core/dev.c).
fn is_interface_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 15
        && name != "."
        && name != ".."
        && !name
            .chars()
            .any(|c| c == '/' || c == ':' || c.is_whitespace() || c.is_control())
}

/// Marks of other software that ours could be taken for. Warnings: the other software may be absent.
pub fn mark_warnings(settings: &Settings) -> Vec<Problem> {
    const DOCKER: u32 = 0x00d0_c4e3;
    let layout = settings.mark;
    let field = overlay_ebpf::abi::MarkLayout::SLOT_LANE_MASK << (layout.shift & 31);
    let mut clashes = Vec::new();
    if DOCKER & layout.mask & !field == layout.value {
        clashes.push("Docker's encrypted overlay (0xD0C4E3)");
    }
    if layout.mask & 0xc000 != 0 {
        clashes.push("kube-proxy (0x4000, 0x8000)");
    }
    if layout.mask & 0x0f00 != 0 {
        clashes.push("Cilium (0x0F00)");
    }
    clashes
        .into_iter()
        .map(|other| {
            Problem::warning(
                Subject::Node,
                format!(
                    "mark mask {:#010x} shares bits with {other}, which may change our marks",
                    layout.mask
                ),
                "use the default mark, or make sure that the other software does not run here",
            )
        })
        .collect()
}
