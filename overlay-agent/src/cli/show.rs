use std::collections::BTreeMap;

use overlay_ebpf::abi::{MacAddr, NetworkFlags, SaDirection};
use serde::Serialize;

use super::{Failure, Format, Outcome, table};
use crate::{
    dataplane::{
        desired::{DataPlane, Settings},
        key_id::KeyId,
        objects::{EndpointEntry, Objects, StateMode},
        reconcile::{self, Kernel as _},
        step::address_of,
    },
    kernel::{
        drops::{self as kernel_drops, KernelDrop},
        host::{Directories, Host},
        xfrm::Usage,
    },
    state::last_desired::LastDesired,
};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Everything there is to see. No secret is in it: the kernel tells keys to nobody here.
#[derive(Debug, Serialize)]
struct View {
    loaded: bool,
    networks: Vec<Network>,
    peers: Vec<Peer>,
    security_associations: Vec<Sa>,
    endpoints: Vec<Endpoint>,
    attachments: Vec<Attachment>,
    /// By the programs.
    drops: Vec<Drop>,
    /// By XFRM and the firewall.
    kernel_drops: Vec<KernelDrop>,
    /// Steps that would make the kernel equal to what was applied last; `None` without a last apply.
    differences: Option<Vec<String>>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Network {
    vni: u32,
    name: Option<String>,
    encrypted: bool,
    replicate: bool,
    mtu: Option<u32>,
    /// In the kernel.
    open: bool,
}

#[derive(Debug, Serialize)]
struct Peer {
    index: u32,
    name: Option<String>,
    vtep: String,
    device: Option<String>,
    path_mtu: Option<u32>,
    epoch: u32,
    slot: u8,
    /// 0: encrypted networks to the peer are closed.
    lanes: u8,
    tx_packets: u64,
    tx_bytes: u64,
    rx_packets: u64,
    rx_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Sa {
    spi: String,
    direction: &'static str,
    source: String,
    destination: String,
    peer: Option<u32>,
    epoch: Option<u32>,
    slot: u8,
    lane: u8,
    /// Names the key, reveals nothing of it.
    key_id: Option<String>,
    packets: u64,
    bytes: u64,
    replayed: u32,
    outside_window: u32,
    integrity_failed: u32,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    vni: u32,
    mac: String,
    addresses: Vec<String>,
    /// `local` with the device, or the peer.
    location: String,
    altered: Option<String>,
}

#[derive(Debug, Serialize)]
struct Attachment {
    program: String,
    device: String,
}

#[derive(Debug, Serialize)]
struct Drop {
    reason: &'static str,
    direction: &'static str,
    text: &'static str,
    packets: u64,
    bytes: u64,
}

pub async fn run(directories: Directories, arguments: &Arguments) -> Result<Outcome, Failure> {
    let last = LastDesired::read(&directories.run)?;
    let desired = last.as_ref().map(LastDesired::desired).transpose()?;
    let settings = match &last {
        Some(last) => last.settings(),
        None => vec![Settings::default()],
    };
    let mut host = Host::open(directories, &settings[0], &settings)?;
    let view = view(&mut host, desired.as_ref()).await?;
    match arguments.format {
        Format::Json => println!("{}", serde_json::to_string_pretty(&view)?),
        Format::Table => print!("{}", render(&view)),
    }
    let equal = view.differences.as_ref().is_none_or(Vec::is_empty);
    Ok(if equal && view.problems.is_empty() {
        Outcome::Good
    } else {
        Outcome::Problem
    })
}

async fn view(host: &mut Host, desired: Option<&DataPlane>) -> Result<View, Failure> {
    let observed = host.observe().await?;
    let usage = host.xfrm().state_usage().await?;
    let (mut differences, mut problems) = (None, Vec::new());
    if let Some(desired) = desired {
        let facts = host.facts(desired).await?;
        let used = host.used_keys()?;
        match reconcile::plan(desired, &facts, &observed, &used) {
            Ok(plan) => {
                differences = Some(plan.steps.iter().map(ToString::to_string).collect());
                problems = plan.problems.iter().map(ToString::to_string).collect();
            }
            Err(errors) => problems = errors.iter().map(ToString::to_string).collect(),
        }
    }
    let (stats, drops) = match host.pinned() {
        Some(pinned) => (pinned.peer_stats()?, pinned.drops()?),
        None => Default::default(),
    };
    let peers = observed
        .maps
        .peers
        .iter()
        .map(|(key, entry)| {
            let stats = stats.get(key).copied().unwrap_or_default();
            Peer {
                index: key.peer,
                name: desired
                    .and_then(|desired| desired.peers.values().find(|p| p.index.get() == key.peer))
                    .map(|peer| peer.name.clone()),
                vtep: address_of(&entry.vtep).to_string(),
                device: Some(entry.underlay_device.clone()),
                path_mtu: Some(entry.underlay_mtu),
                epoch: entry.tx.epoch,
                slot: entry.tx.slot,
                lanes: entry.tx.lanes,
                tx_packets: stats.tx_packets,
                tx_bytes: stats.tx_bytes,
                rx_packets: stats.rx_packets,
                rx_bytes: stats.rx_bytes,
            }
        })
        .collect();
    Ok(View {
        loaded: observed.programs.is_some(),
        networks: networks(&observed, desired),
        peers,
        security_associations: security_associations(&observed, &usage),
        endpoints: endpoints(&observed),
        attachments: observed
            .attachments
            .iter()
            .map(|attachment| Attachment {
                program: attachment.program.to_string(),
                device: attachment.device.clone(),
            })
            .collect(),
        drops: drops
            .into_iter()
            .filter(|(_, count)| count.packets > 0)
            .map(|((reason, direction), count)| Drop {
                reason: reason.name(),
                direction: direction.name(),
                text: reason.text(),
                packets: count.packets,
                bytes: count.bytes,
            })
            .collect(),
        kernel_drops: kernel_drops::read().await?,
        differences,
        problems,
    })
}

fn networks(observed: &Objects, desired: Option<&DataPlane>) -> Vec<Network> {
    let mut networks: BTreeMap<u32, Network> = observed
        .maps
        .networks
        .iter()
        .map(|(key, value)| {
            let network = Network {
                vni: key.vni,
                name: None,
                encrypted: value.flags & NetworkFlags::ENCRYPTED != 0,
                replicate: value.flags & NetworkFlags::REPLICATE != 0,
                mtu: Some(value.mtu),
                open: true,
            };
            (key.vni, network)
        })
        .collect();
    for wanted in desired.into_iter().flat_map(|d| d.networks.values()) {
        networks
            .entry(wanted.vni.get())
            .or_insert_with(|| Network {
                vni: wanted.vni.get(),
                name: None,
                encrypted: wanted.encrypted,
                replicate: wanted.replicate,
                mtu: None,
                open: false,
            })
            .name = Some(wanted.name.clone());
    }
    networks.into_values().collect()
}

fn security_associations(
    observed: &Objects,
    usage: &BTreeMap<crate::dataplane::objects::StateKey, Usage>,
) -> Vec<Sa> {
    observed
        .states
        .iter()
        .map(|(key, state)| {
            let direction = match state.mode {
                StateMode::Transport => SaDirection::Out,
                StateMode::Beet { .. } | StateMode::Other => SaDirection::In,
            };
            // A sender uses one SPI to all its peers: the far address tells them apart.
            let entry = observed.maps.sas.iter().find(|(map_key, value)| {
                let remote = match direction {
                    SaDirection::Out => key.destination,
                    SaDirection::In => key.source,
                };
                let vtep = overlay_ebpf::abi::VtepKey {
                    address: crate::dataplane::step::mapped_bytes(remote),
                };
                map_key.spi == key.spi.get()
                    && value.direction == direction
                    && observed
                        .maps
                        .vteps
                        .get(&vtep)
                        .is_some_and(|vtep| vtep.peer == value.peer)
            });
            let value = entry.map(|(_, value)| value);
            let used = usage.get(key);
            Sa {
                spi: key.spi.to_string(),
                direction: match direction {
                    SaDirection::Out => "out",
                    SaDirection::In => "in",
                },
                source: key.source.to_string(),
                destination: key.destination.to_string(),
                peer: value.map(|value| value.peer),
                epoch: value.map(|value| value.epoch),
                slot: key.spi.slot().get(),
                lane: key.spi.lane().get(),
                key_id: value.map(|value| KeyId(value.key_id).to_string()),
                packets: used.map_or(0, |used| used.packets),
                bytes: used.map_or(0, |used| used.bytes),
                replayed: used.map_or(0, |used| used.replayed),
                outside_window: used.map_or(0, |used| used.outside_window),
                integrity_failed: used.map_or(0, |used| used.integrity_failed),
            }
        })
        .collect()
}

fn endpoints(observed: &Objects) -> Vec<Endpoint> {
    observed
        .maps
        .endpoints
        .iter()
        .map(|(key, entry)| Endpoint {
            vni: key.vni,
            mac: MacAddr(key.mac).to_string(),
            addresses: observed
                .maps
                .addresses
                .iter()
                .filter(|(address, value)| address.vni == key.vni && value.mac == key.mac)
                .map(|(address, _)| address_of(&address.address).to_string())
                .collect(),
            location: match entry {
                EndpointEntry::Local { device } => format!("local {device}"),
                EndpointEntry::Remote { peer } => format!("peer {peer}"),
            },
            altered: match entry {
                EndpointEntry::Local { device } => match observed.endpoints.get(device) {
                    Some(link) => link.altered.clone(),
                    None => Some("its device is gone".into()),
                },
                EndpointEntry::Remote { .. } => None,
            },
        })
        .collect()
}

fn optional(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "–".into(), |value| value.to_string())
}

fn render(view: &View) -> String {
    let mut text = String::new();
    if !view.loaded {
        text.push_str("The programs are not loaded.\n\n");
    }
    text += &table::render(
        "Networks",
        ["VNI", "NAME", "ENCRYPTED", "REPLICATE", "MTU", "STATE"],
        &rows(&view.networks, |n| {
            [
                n.vni.to_string(),
                optional(n.name.clone()),
                yes(n.encrypted),
                yes(n.replicate),
                optional(n.mtu),
                if n.open { "open" } else { "closed" }.into(),
            ]
        }),
    );
    text += &table::render(
        "Peers",
        [
            "INDEX", "NAME", "VTEP", "DEVICE", "PATH MTU", "EPOCH", "SLOT", "LANES", "TX", "RX",
        ],
        &rows(&view.peers, |p| {
            [
                p.index.to_string(),
                optional(p.name.clone()),
                p.vtep.clone(),
                optional(p.device.clone()),
                optional(p.path_mtu),
                p.epoch.to_string(),
                p.slot.to_string(),
                if p.lanes == 0 {
                    "closed".into()
                } else {
                    p.lanes.to_string()
                },
                format!("{} ({} B)", p.tx_packets, p.tx_bytes),
                format!("{} ({} B)", p.rx_packets, p.rx_bytes),
            ]
        }),
    );
    text += &table::render(
        "Security associations",
        [
            "SPI",
            "DIR",
            "PATH",
            "PEER",
            "EPOCH",
            "SLOT",
            "LANE",
            "KEY",
            "PACKETS",
            "BYTES",
            "REPLAYED",
            "WINDOW",
            "INTEGRITY",
        ],
        &rows(&view.security_associations, |sa| {
            [
                sa.spi.clone(),
                sa.direction.into(),
                format!("{} → {}", sa.source, sa.destination),
                optional(sa.peer),
                optional(sa.epoch),
                sa.slot.to_string(),
                sa.lane.to_string(),
                optional(sa.key_id.clone()),
                sa.packets.to_string(),
                sa.bytes.to_string(),
                sa.replayed.to_string(),
                sa.outside_window.to_string(),
                sa.integrity_failed.to_string(),
            ]
        }),
    );
    text += &table::render(
        "Endpoints",
        ["VNI", "MAC", "ADDRESSES", "LOCATION", "ALTERED"],
        &rows(&view.endpoints, |e| {
            [
                e.vni.to_string(),
                e.mac.clone(),
                e.addresses.join(" "),
                e.location.clone(),
                optional(e.altered.clone()),
            ]
        }),
    );
    text += &table::render(
        "Programs",
        ["PROGRAM", "DEVICE"],
        &rows(&view.attachments, |a| [a.program.clone(), a.device.clone()]),
    );
    text += &table::render(
        "Drops",
        ["REASON", "WHERE", "PACKETS", "BYTES", "MEANING"],
        &rows(&view.drops, |d| {
            [
                d.reason.into(),
                d.direction.into(),
                d.packets.to_string(),
                d.bytes.to_string(),
                d.text.into(),
            ]
        }),
    );
    text += &table::render(
        "Drops by XFRM and the firewall",
        ["COUNTER", "PACKETS", "BYTES", "MEANING"],
        &rows(&view.kernel_drops, |d| {
            [
                d.counter.clone(),
                optional(d.packets),
                optional(d.bytes),
                d.text.into(),
            ]
        }),
    );
    match &view.differences {
        None => text.push_str("No data plane was applied from a file.\n"),
        Some(steps) if steps.is_empty() => {
            text.push_str("The kernel holds what was applied.\n");
        }
        Some(steps) => {
            text.push_str("To be as applied, the kernel would need to:\n");
            for step in steps {
                text += &format!("  {step}\n");
            }
        }
    }
    for problem in &view.problems {
        text += &format!("{problem}\n");
    }
    text
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

fn rows<T, const N: usize>(items: &[T], row: impl Fn(&T) -> [String; N]) -> Vec<[String; N]> {
    items.iter().map(row).collect()
}
