//! What the underlay looks like now.

use std::{collections::BTreeSet, fs, path::Path};

use super::{
    addresses, features,
    host::{Host, HostError},
    links::{self, LinkLayer},
    modules,
    netns::Netns,
    routes, sysctl, udp_sockets,
    xfrm::Severity,
};
use crate::dataplane::{
    desired::DataPlane,
    endpoint_name::host_device_name,
    objects::{Conflict, UnderlayFacts},
};

/// Drivers whose native XDP costs less than it saves: those of NICs. `virtio_net` needs spare queues
/// and gives up its own offloads, and a veth copies every frame.
const NATIVE_XDP: [&str; 12] = [
    "atlantic",
    "bnxt_en",
    "ena",
    "gve",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ixgbe",
    "mana",
    "mlx5_core",
    "nfp",
];

pub async fn gather(host: &mut Host, desired: &DataPlane) -> Result<UnderlayFacts, HostError> {
    let features = match host.features {
        Some(features) => features,
        None => {
            if host.load_modules {
                modules::load_wanted();
            }
            let features = features::probe(&desired.settings).await;
            host.features = Some(features);
            features
        }
    };
    let candidates = links::underlay_candidates(&host.rtnl).await?;
    let layer3 = candidates
        .values()
        .filter(|device| device.link_layer == LinkLayer::None)
        .map(|device| device.name.clone())
        .collect();
    let unreadable = candidates
        .values()
        .filter_map(|device| match device.link_layer {
            LinkLayer::Other(kind) => Some((device.name.clone(), kind.to_string())),
            LinkLayer::Ethernet | LinkLayer::None => None,
        })
        .collect();
    let devices: BTreeSet<String> = candidates.into_keys().collect();
    let mut facts = UnderlayFacts {
        features,
        rp_filter_all: number("net/ipv4/conf/all/rp_filter")?,
        accept_ra: accept_ra(host, &devices)?,
        disable_xfrm: disable_xfrm(&devices)?,
        native_xdp: devices
            .iter()
            .filter(|device| native_xdp(device))
            .cloned()
            .collect(),
        devices,
        layer3,
        unreadable,
        ..UnderlayFacts::default()
    };
    for &vtep in &desired.node.vteps {
        if let Some(device) = addresses::holder_of(&host.rtnl, vtep).await? {
            facts.vteps.insert(vtep, device);
        }
    }
    for peer in desired.peers.values() {
        let local = desired
            .node
            .vteps
            .iter()
            .find(|vtep| vtep.is_ipv4() == peer.vtep.is_ipv4());
        let Some(&local) = local.filter(|local| facts.vteps.contains_key(local)) else {
            continue;
        };
        match routes::resolve(&host.rtnl, peer.vtep, local).await {
            Ok(route) => {
                facts.routes.insert(peer.vtep, route);
            }
            Err(error) => tracing::warn!(peer = %peer.name, %error, "no route"),
        }
    }
    facts.gone = gone(host, desired).await?;
    if features.nft {
        facts.foreign_chains = host.firewall.foreign_chains().await?;
    }
    if desired.networks.values().any(|network| network.encrypted) {
        facts.conflicts = host
            .xfrm
            .foreign(&desired.node.vteps)
            .await?
            .into_iter()
            .map(|foreign| Conflict {
                opens: foreign.severity == Severity::Opens,
                object: foreign.object,
                effect: foreign.effect.to_owned(),
            })
            .collect();
    }
    if let Some(port) = desired.settings.esp_in_udp_port {
        facts.esp_in_udp_sockets =
            udp_sockets::bound_to(port).map_err(|source| HostError::UdpSockets { source })?;
    }
    Ok(facts)
}

/// As [`UnderlayFacts::gone`].
async fn gone(host: &Host, desired: &DataPlane) -> Result<BTreeSet<String>, HostError> {
    let without: Vec<String> = desired
        .local_endpoints
        .iter()
        .filter(|endpoint| Netns::open(&endpoint.netns).is_err())
        .map(|endpoint| host_device_name(endpoint.vni, endpoint.mac))
        .collect();
    if without.is_empty() {
        return Ok(BTreeSet::new());
    }
    let devices = links::all(&host.rtnl).await?;
    Ok(without
        .into_iter()
        .filter(|device| !devices.contains_key(device))
        .collect())
}

fn number(path: &str) -> Result<u8, HostError> {
    Ok(sysctl::read(path)?
        .and_then(|value| value.parse().ok())
        .unwrap_or(0))
}

/// The devices whose setting is there and not 0.
fn with_setting(
    devices: &BTreeSet<String>,
    path: impl Fn(&str) -> String,
) -> Result<BTreeSet<String>, HostError> {
    let mut found = BTreeSet::new();
    for device in devices {
        if number(&path(device))? > 0 {
            found.insert(device.clone());
        }
    }
    Ok(found)
}

/// A device accepts router advertisements at 1 unless it forwards, at 2 in any case
/// (`ipv6_accept_ra`, include/net/ipv6.h). Whether it forwards is what it did before we had all
/// devices forward.
fn accept_ra(host: &Host, devices: &BTreeSet<String>) -> Result<BTreeSet<String>, HostError> {
    let before = host.originals.overwritten(sysctl::IPV6_FORWARDING)?;
    let mut found = BTreeSet::new();
    for device in devices {
        let path = format!("net/ipv6/conf/{device}/forwarding");
        let inherited = || before.get("net/ipv6/conf/default/forwarding");
        let forwards = match before.get(&path).or_else(inherited) {
            Some(value) => value != "0",
            None => number(&path)? > 0,
        };
        let setting = number(&format!("net/ipv6/conf/{device}/accept_ra"))?;
        if setting == 2 || (setting == 1 && !forwards) {
            found.insert(device.clone());
        }
    }
    Ok(found)
}

/// For IPv4 the kernel asks the device and `all`; for IPv6 the device
/// (`IN_DEV_ORCONF(…, NOXFRM)`, `ip6_dst_alloc` with `disable_policy`).
fn disable_xfrm(devices: &BTreeSet<String>) -> Result<BTreeSet<String>, HostError> {
    if number("net/ipv4/conf/all/disable_xfrm")? > 0 {
        return Ok(devices.clone());
    }
    with_setting(devices, |device| {
        format!("net/ipv4/conf/{device}/disable_xfrm")
    })
}

fn native_xdp(device: &str) -> bool {
    let driver = Path::new("/sys/class/net")
        .join(device)
        .join("device/driver");
    fs::read_link(driver)
        .ok()
        .and_then(|driver| Some(driver.file_name()?.to_str()?.to_owned()))
        .is_some_and(|driver| NATIVE_XDP.contains(&driver.as_str()))
}
