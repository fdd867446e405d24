//! The fields of the file. Unknown ones are refused, with their line.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
    str::FromStr,
};

use overlay_ebpf::abi::{Epoch, MacAddr, MarkLayout, NoMacAddr, PeerIndex, Slot, Vni};
use serde::{Deserialize, Serialize};

use crate::dataplane::desired::{self, NetnsRef};

/// A desired data plane, as an operator writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// File with the keys, relative to this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<PathBuf>,
    pub node: Node,
    #[serde(default)]
    pub settings: Settings,
    #[serde(default)]
    pub networks: Vec<Network>,
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// On this node.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
    #[serde(default)]
    pub remote_endpoints: Vec<RemoteEndpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    pub index: Index,
    pub name: String,
    pub vteps: Vec<IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub port: u16,
    /// 0 is plain ESP.
    pub esp_in_udp_port: u16,
    pub mark: Mark,
    pub if_id: u32,
    pub reqid: u32,
    pub policy_priority: u32,
    pub block_priority: u32,
    /// 0 is unlimited.
    pub hard_byte_limit: u64,
    pub xdp: XdpMode,
    pub event_sample: u32,
    pub map_sizes: MapSizes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    pub value: u32,
    pub mask: u32,
    pub shift: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    Auto,
    Native,
    Generic,
    Off,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MapSizes {
    pub networks: u32,
    pub local_ports: u32,
    pub endpoints: u32,
    pub addresses: u32,
    pub peers: u32,
    pub memberships: u32,
    pub flood_lists: u32,
    pub sas: u32,
    pub events: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    pub name: String,
    pub vni: Number,
    /// What is not said is encrypted.
    #[serde(default = "yes")]
    pub encrypted: bool,
    #[serde(default)]
    pub replicate: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu_at_most: Option<u32>,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub index: Index,
    pub name: String,
    pub vtep: IpAddr,
    #[serde(default)]
    pub networks: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transmit: Option<Transmit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transmit {
    pub epoch: u32,
    pub slot: u8,
    pub lanes: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub network: String,
    pub name: String,
    pub netns: Netns,
    #[serde(default = "eth0")]
    pub interface: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    pub addresses: Vec<Prefix>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub to: Destination,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
}

fn eth0() -> String {
    "eth0".into()
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoteEndpoint {
    pub network: String,
    pub peer: Index,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    pub addresses: Vec<IpAddr>,
}

/// A node index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Index(pub PeerIndex);

impl TryFrom<u32> for Index {
    type Error = overlay_ebpf::abi::IdError;

    fn try_from(index: u32) -> Result<Self, Self::Error> {
        PeerIndex::new(index).map(Self)
    }
}

impl From<Index> for u32 {
    fn from(index: Index) -> Self {
        index.0.get()
    }
}

/// A VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Number(pub Vni);

impl TryFrom<u32> for Number {
    type Error = overlay_ebpf::abi::IdError;

    fn try_from(vni: u32) -> Result<Self, Self::Error> {
        Vni::new(vni).map(Self)
    }
}

impl From<Number> for u32 {
    fn from(vni: Number) -> Self {
        vni.0.get()
    }
}

/// `02:42:0a:00:00:01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub MacAddr);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse()
            .map(Self)
            .map_err(|error: NoMacAddr| format!("`{text}` is {error}"))
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.0.to_string()
    }
}

/// `10.0.0.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    pub ip: IpAddr,
    pub prefix_length: u8,
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let error =
            || format!("`{text}` is no address with prefix length: write it as 10.0.0.1/24");
        let (ip, length) = text.split_once('/').ok_or_else(error)?;
        let ip: IpAddr = ip.parse().map_err(|_| error())?;
        let prefix_length: u8 = length.parse().map_err(|_| error())?;
        let most = if ip.is_ipv4() {
            32
        } else {
            Ipv6Addr::BITS as u8
        };
        if prefix_length > most {
            return Err(format!(
                "prefix length {prefix_length} of `{text}` is above {most}"
            ));
        }
        Ok(Self { ip, prefix_length })
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> Self {
        format!("{}/{}", prefix.ip, prefix.prefix_length)
    }
}

/// `10.9.0.0/16`, or `default`: everything of the family of `via`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Destination {
    Default,
    Network(Prefix),
}

impl TryFrom<String> for Destination {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "default" => Ok(Self::Default),
            _ => text.try_into().map(Self::Network),
        }
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        match destination {
            Destination::Default => "default".into(),
            Destination::Network(prefix) => prefix.into(),
        }
    }
}

/// `NAME` (below /run/netns), `pid:123` (or `/proc/123/ns/net`), or an absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Netns(pub NetnsRef);

impl TryFrom<String> for Netns {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The namespace of a process by its path: the number is given to other processes all the same.
        let process = text
            .strip_prefix("/proc/")
            .and_then(|rest| rest.strip_suffix("/ns/net"))
            .filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()));
        if let Some(pid) = text.strip_prefix("pid:").or(process) {
            return match pid.parse() {
                Ok(pid) if pid > 0 => Ok(Self(NetnsRef::Pid(pid))),
                _ => Err(format!("`{pid}` is no process id")),
            };
        }
        if text.starts_with('/') {
            return Ok(Self(NetnsRef::Path(text.into())));
        }
        if text.is_empty() || text.contains('/') || text == "." || text == ".." {
            return Err(format!(
                "`{text}` is no network namespace: write a name below /run/netns, pid:NUMBER, or an absolute path"
            ));
        }
        Ok(Self(NetnsRef::Name(text)))
    }
}

impl From<Netns> for String {
    fn from(netns: Netns) -> Self {
        match netns.0 {
            NetnsRef::Name(name) => name,
            NetnsRef::Pid(pid) => format!("pid:{pid}"),
            NetnsRef::Path(path) => path.to_string_lossy().into_owned(),
        }
    }
}

impl From<Transmit> for desired::Transmit {
    fn from(transmit: Transmit) -> Self {
        Self {
            epoch: Epoch::new(transmit.epoch),
            slot: Slot::new(transmit.slot),
            lanes: transmit.lanes,
        }
    }
}

impl Default for Mark {
    fn default() -> Self {
        let MarkLayout { value, mask, shift } = MarkLayout::DEFAULT;
        Self { value, mask, shift }
    }
}

impl Default for Settings {
    fn default() -> Self {
        (&desired::Settings::default()).into()
    }
}

impl Default for MapSizes {
    fn default() -> Self {
        desired::MapSizes::default().into()
    }
}

impl From<XdpMode> for desired::XdpMode {
    fn from(mode: XdpMode) -> Self {
        match mode {
            XdpMode::Auto => Self::Auto,
            XdpMode::Native => Self::Native,
            XdpMode::Generic => Self::Generic,
            XdpMode::Off => Self::Off,
        }
    }
}

impl From<Settings> for desired::Settings {
    fn from(settings: Settings) -> Self {
        let MapSizes {
            networks,
            local_ports,
            endpoints,
            addresses,
            peers,
            memberships,
            flood_lists,
            sas,
            events,
        } = settings.map_sizes;
        let Mark { value, mask, shift } = settings.mark;
        Self {
            port: settings.port,
            esp_in_udp_port: (settings.esp_in_udp_port != 0).then_some(settings.esp_in_udp_port),
            mark: MarkLayout { value, mask, shift },
            if_id: settings.if_id,
            reqid: settings.reqid,
            policy_priority: settings.policy_priority,
            block_priority: settings.block_priority,
            hard_byte_limit: (settings.hard_byte_limit != 0).then_some(settings.hard_byte_limit),
            xdp: settings.xdp.into(),
            event_sample: settings.event_sample,
            map_sizes: desired::MapSizes {
                networks,
                local_ports,
                endpoints,
                addresses,
                peers,
                memberships,
                flood_lists,
                sas,
                events,
            },
        }
    }
}
