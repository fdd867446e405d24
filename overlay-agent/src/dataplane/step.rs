//! One change to the kernel, and what the kernel's objects are after it.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use overlay_ebpf::abi;

use super::{
    desired::MapSizes,
    objects::{
        Attachment, ConfigEntry, DeviceAddress, EndpointEntry, EndpointLink, Firewall, FloodEntry,
        HOP, Link, Neighbour, Objects, PeerEntry, Policy, PolicyAction, PolicyKey, REENTRY, State,
        StateKey, StateMode, XFRM,
    },
};

/// One change to the kernel. Each is repeatable: done twice, it leaves what it leaves done once.
///
/// What is large and rare is boxed: there are tens of thousands of the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Load the programs, create the maps with these sizes, pin both.
    LoadPrograms(MapSizes),
    UnloadPrograms,
    SetFirewall(Box<Firewall>),
    RemoveFirewall,
    /// Create the device, or repair it where others changed it.
    CreateLink(String, Link),
    DeleteLink(String),
    AddAddress(DeviceAddress),
    RemoveAddress(DeviceAddress),
    SetSysctl(String, String),
    /// Write back the value from before the first [`Step::SetSysctl`].
    RestoreSysctl(String),
    SetPolicy(PolicyKey, Policy),
    RemovePolicy(PolicyKey),
    /// Never of an SA that exists: an SA is never re-keyed in place.
    AddState(StateKey, State),
    RemoveState(StateKey),
    AddNeighbour(Neighbour),
    RemoveNeighbour(Neighbour),
    /// Create the pair, or repair it.
    CreateEndpoint(String, Box<EndpointLink>),
    RemoveEndpoint(String),
    Attach(Attachment),
    Detach(Attachment),
    Map(MapWrite),
}

/// A write of one map entry; `None` deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MapWrite {
    Config(Option<ConfigEntry>),
    Network(abi::NetworkKey, Option<abi::Network>),
    LocalPort(String, Option<abi::LocalPort>),
    Endpoint(abi::EndpointKey, Option<EndpointEntry>),
    Address(abi::AddressKey, Option<abi::Address>),
    Peer(abi::PeerKey, Option<PeerEntry>),
    Vtep(abi::VtepKey, Option<abi::Vtep>),
    Membership(abi::MembershipKey, Option<abi::Membership>),
    Flood(abi::FloodKey, Option<FloodEntry>),
    Sa(
        abi::SecurityAssociationKey,
        Option<abi::SecurityAssociation>,
    ),
}

/// The address of a 16-byte map field.
pub fn address_of(mapped: &[u8; 16]) -> IpAddr {
    IpAddr::from(*mapped).to_canonical()
}

/// The 16-byte map field of an address.
pub fn mapped_bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => abi::ids::mapped(v4.octets()),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Inserts, or removes on `None`.
fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

impl Objects {
    /// The objects after `step` has succeeded, with what the kernel does along with it: a device
    /// takes its attachments along, and `config` names devices by index, so it is stale once one of
    /// them is new.
    pub fn apply(&mut self, step: &Step) {
        match step.clone() {
            Step::LoadPrograms(sizes) => self.programs = Some(sizes),
            Step::UnloadPrograms => {
                self.programs = None;
                self.attachments.clear();
                self.maps = Default::default();
            }
            Step::SetFirewall(firewall) => self.firewall = Some(*firewall),
            Step::RemoveFirewall => self.firewall = None,
            Step::CreateLink(name, link) => {
                if [HOP, XFRM].contains(&name.as_str()) && !self.links.contains_key(&name) {
                    self.maps.config = None;
                }
                self.links.insert(name, link);
            }
            Step::DeleteLink(name) => {
                let link = self.links.remove(&name);
                let mut gone = vec![name];
                if let Some(Link::Veth { peer, .. }) = link {
                    gone.push(peer);
                }
                for device in &gone {
                    self.device_gone(device);
                }
            }
            Step::AddAddress(address) => {
                self.addresses.insert(address);
            }
            Step::RemoveAddress(address) => {
                self.addresses.remove(&address);
            }
            Step::SetSysctl(path, value) => put(&mut self.sysctls, path, Some(value)),
            Step::RestoreSysctl(path) => put(&mut self.sysctls, path, None),
            Step::SetPolicy(key, policy) => put(&mut self.policies, key, Some(policy)),
            Step::RemovePolicy(key) => put(&mut self.policies, key, None),
            Step::AddState(key, state) => put(&mut self.states, key, Some(state)),
            Step::RemoveState(key) => put(&mut self.states, key, None),
            Step::AddNeighbour(neighbour) => {
                self.neighbours.insert(neighbour);
            }
            Step::RemoveNeighbour(neighbour) => {
                self.neighbours.remove(&neighbour);
            }
            Step::CreateEndpoint(name, link) => put(&mut self.endpoints, name, Some(*link)),
            Step::RemoveEndpoint(name) => {
                self.device_gone(&name);
                self.endpoints.remove(&name);
            }
            Step::Attach(attachment) => {
                self.attachments.insert(attachment);
            }
            Step::Detach(attachment) => {
                self.attachments.remove(&attachment);
            }
            Step::Map(write) => self.maps.write(write),
        }
    }

    fn device_gone(&mut self, device: &str) {
        self.attachments.retain(|a| a.device != device);
        self.addresses.retain(|a| a.device != device);
        if [HOP, REENTRY, XFRM].contains(&device) {
            self.maps.config = None;
        }
    }
}

impl super::objects::MapEntries {
    fn write(&mut self, write: MapWrite) {
        match write {
            MapWrite::Config(value) => self.config = value,
            MapWrite::Network(key, value) => put(&mut self.networks, key, value),
            MapWrite::LocalPort(key, value) => put(&mut self.local_ports, key, value),
            MapWrite::Endpoint(key, value) => put(&mut self.endpoints, key, value),
            MapWrite::Address(key, value) => put(&mut self.addresses, key, value),
            MapWrite::Peer(key, value) => put(&mut self.peers, key, value),
            MapWrite::Vtep(key, value) => put(&mut self.vteps, key, value),
            MapWrite::Membership(key, value) => put(&mut self.memberships, key, value),
            MapWrite::Flood(key, value) => put(&mut self.flood_lists, key, value),
            MapWrite::Sa(key, value) => put(&mut self.sas, key, value),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LoadPrograms(_) => f.write_str("load programs and maps"),
            Self::UnloadPrograms => f.write_str("unload programs and maps"),
            Self::SetFirewall(_) => f.write_str("set firewall table inet overlay"),
            Self::RemoveFirewall => f.write_str("remove firewall table inet overlay"),
            Self::CreateLink(name, _) => write!(f, "create device {name}"),
            Self::DeleteLink(name) => write!(f, "delete device {name}"),
            Self::AddAddress(a) => {
                write!(f, "add {}/{} to {}", a.address, a.prefix_length, a.device)
            }
            Self::RemoveAddress(a) => {
                write!(
                    f,
                    "remove {}/{} from {}",
                    a.address, a.prefix_length, a.device
                )
            }
            Self::SetSysctl(path, value) => write!(f, "set sysctl {path} = {value}"),
            Self::RestoreSysctl(path) => write!(f, "restore sysctl {path}"),
            Self::SetPolicy(key, policy) => match policy.action {
                PolicyAction::Encrypt { spi, .. } => {
                    write!(f, "set policy {key} → SA {spi}")
                }
                _ => write!(f, "set block policy {key}"),
            },
            Self::RemovePolicy(key) => write!(f, "remove policy {key}"),
            Self::AddState(key, state) => write!(f, "install {} SA {key}", state.mode),
            Self::RemoveState(key) => write!(f, "delete SA {key}"),
            Self::AddNeighbour(n) => write!(f, "keep neighbour {} on {}", n.address, n.device),
            Self::RemoveNeighbour(n) => {
                write!(f, "release neighbour {} on {}", n.address, n.device)
            }
            Self::CreateEndpoint(name, link) => {
                write!(
                    f,
                    "create endpoint {name} ({} in its namespace)",
                    link.interface
                )
            }
            Self::RemoveEndpoint(name) => write!(f, "remove endpoint {name}"),
            Self::Attach(a) => write!(f, "attach {} to {}", a.program, a.device),
            Self::Detach(a) => write!(f, "detach {} from {}", a.program, a.device),
            Self::Map(write) => write.fmt(f),
        }
    }
}

impl fmt::Display for MapWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = |present: bool| if present { "write" } else { "delete" };
        match self {
            Self::Config(v) => write!(f, "{} config", verb(v.is_some())),
            Self::Network(k, v) => write!(f, "{} networks[{}]", verb(v.is_some()), k.vni),
            Self::LocalPort(k, v) => write!(f, "{} local_ports[{k}]", verb(v.is_some())),
            Self::Endpoint(k, v) => write!(
                f,
                "{} endpoints[{} {}]",
                verb(v.is_some()),
                k.vni,
                abi::MacAddr(k.mac)
            ),
            Self::Address(k, v) => write!(
                f,
                "{} addresses[{} {}]",
                verb(v.is_some()),
                k.vni,
                address_of(&k.address)
            ),
            Self::Peer(k, Some(v)) if v.tx.lanes > 0 => write!(
                f,
                "write peers[{}]: send in slot {} with {} lanes",
                k.peer, v.tx.slot, v.tx.lanes
            ),
            Self::Peer(k, Some(_)) => {
                write!(f, "write peers[{}]: no encrypted transmission", k.peer)
            }
            Self::Peer(k, None) => write!(f, "delete peers[{}]", k.peer),
            Self::Vtep(k, v) => {
                write!(f, "{} vteps[{}]", verb(v.is_some()), address_of(&k.address))
            }
            Self::Membership(k, v) => write!(
                f,
                "{} memberships[{} peer {}]",
                verb(v.is_some()),
                k.vni,
                k.peer
            ),
            Self::Flood(k, v) => write!(
                f,
                "{} flood_lists[{} {}]",
                verb(v.is_some()),
                k.vni,
                k.position
            ),
            Self::Sa(k, v) => write!(f, "{} sas[{:#010x}]", verb(v.is_some()), k.spi),
        }
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → ", self.source)?;
        match self.destination {
            Some(destination) => write!(f, "{destination}")?,
            None => f.write_str("any")?,
        }
        if let Some(port) = self.udp_port {
            write!(f, " udp {port}")?;
        }
        if self.mark_mask != 0 {
            write!(f, " mark {:#010x}/{:#010x}", self.mark, self.mark_mask)?;
        }
        Ok(())
    }
}

impl fmt::Display for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} → {}", self.spi, self.source, self.destination)
    }
}

impl fmt::Display for StateMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transport => "outbound",
            Self::Beet { .. } => "inbound",
            Self::Other => "foreign",
        })
    }
}

impl fmt::Display for super::objects::Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use super::objects::Program;
        f.write_str(match self {
            Program::EndpointTx => "endpoint_tx",
            Program::Reentry => "reentry",
            Program::UnderlayRxXdpNative => "underlay_rx_xdp (native)",
            Program::UnderlayRxXdpGeneric => "underlay_rx_xdp (generic)",
            Program::UnderlayRx => "underlay_rx",
            Program::DecryptedRx => "decrypted_rx",
            Program::UnderlayAudit => "underlay_audit",
            Program::UnderlayAuditL3 => "underlay_audit_l3",
            Program::Sink => "sink",
        })
    }
}
