//! Everything of ours in the kernel.

use std::collections::BTreeMap;

use overlay_ebpf::abi::{Config, Endpoint, FloodTarget, Location, Peer};

use super::{
    addresses,
    bpf::{BpfError, Maps, MapsDigest, Pinned},
    endpoint_link, firewall,
    host::{Host, HostError, Programs},
    links, neighbours, sysctl,
};
use crate::dataplane::{
    desired::MapSizes,
    objects::{
        ConfigEntry, EndpointEntry, FloodEntry, HOP, MapEntries, Objects, PeerEntry, REENTRY, XFRM,
    },
};

/// What grows with the cluster and is as it is in `known` is not made anew.
pub async fn observe(host: &mut Host, known: &Objects) -> Result<Objects, HostError> {
    let devices = links::all(&host.rtnl).await?;
    host.devices = devices
        .values()
        .map(|device| (device.index, device.name.clone()))
        .collect();
    let saved = host.originals.read()?;
    let mut policies = host.xfrm.policies_beside(&known.policies).await?;
    let mut states = host.xfrm.states_beside(&known.states).await?;
    for before in &host.xfrm_before {
        // What both know is as the present settings see it.
        for (key, policy) in before.observe_policies().await? {
            policies.entry(key).or_insert(policy);
        }
        for (key, state) in before.observe_states().await? {
            states.entry(key).or_insert(state);
        }
    }
    let seen = std::mem::take(&mut host.seen);
    let mut objects = Objects {
        sysctls: sysctl::observe(saved.keys().map(String::as_str))?,
        firewall: observe_firewall(host).await?,
        links: links::ours(&devices)?,
        addresses: addresses::observe(&host.rtnl, &devices).await?,
        policies,
        states,
        neighbours: neighbours::observe(&host.rtnl).await?.into(),
        endpoints: endpoint_link::observe_beside(&devices, seen).await?,
        ..Objects::default()
    };
    if let Programs::Owned(bpf) = &mut host.programs {
        // Removes the pins of links whose device is gone, too.
        objects.attachments = bpf.observe_attachments()?;
    } else if let Some(pinned) = host.programs.pinned() {
        objects.attachments = pinned.observe_attachments()?;
    }
    if let Some(pinned) = host.programs.pinned() {
        objects.programs = Some(map_sizes(pinned, host.events_size));
        let index = |name: &str| devices.get(name).map_or(0, |device| device.index);
        let reentry_mac = devices
            .get(REENTRY)
            .and_then(|device| device.mac)
            .map_or([0; 6], |mac| mac.0);
        let own = OwnDevices {
            hop: index(HOP),
            reentry: index(REENTRY),
            xfrm: index(XFRM),
            reentry_mac,
        };
        objects.maps = entries(pinned.maps(), &known.maps, &host.devices, &own)?;
    }
    Ok(objects)
}

/// What the kernel changes without telling anybody: settings, programs on devices, map entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Untold {
    sysctls: BTreeMap<String, String>,
    attachments: std::collections::BTreeSet<crate::dataplane::objects::Attachment>,
    maps: Option<MapsDigest>,
}

/// Cheap enough to be looked at several times a second, to be compared with the last look. It may be
/// dropped every few milliseconds.
pub async fn untold(host: &Host) -> Result<Untold, HostError> {
    let saved = host.originals.read()?;
    let pinned = host.programs.pinned();
    Ok(Untold {
        sysctls: sysctl::observe(saved.keys().map(String::as_str))?,
        attachments: match pinned {
            Some(pinned) => pinned.watch_attachments().await?,
            None => Default::default(),
        },
        maps: pinned.map(Pinned::digest_maps).transpose()?,
    })
}

/// A host without `nft` has no firewall of ours.
async fn observe_firewall(
    host: &Host,
) -> Result<Option<crate::dataplane::objects::Firewall>, HostError> {
    let works = match host.features {
        Some(features) => features.nft,
        None => super::features::nft(),
    };
    if !works {
        return Ok(None);
    }
    match host.firewall.observe().await {
        // Removed since it was looked for.
        Err(firewall::Error::NftMissing) => Ok(None),
        observed => Ok(observed?),
    }
}

/// What `config` says of the overlay's own devices.
pub(super) struct OwnDevices {
    pub hop: u32,
    pub reentry: u32,
    pub xfrm: u32,
    pub reentry_mac: [u8; 6],
}

impl OwnDevices {
    pub(super) fn config(&self, entry: &ConfigEntry) -> Config {
        Config {
            abi_version: overlay_ebpf::abi::ABI_VERSION,
            flags: entry.flags,
            hop_ifindex: self.hop,
            reentry_ifindex: self.reentry,
            xfrm_ifindex: self.xfrm,
            node: entry.node,
            event_sample: entry.event_sample,
            mark: entry.mark,
            port: entry.port,
            reentry_mac: self.reentry_mac,
            esp_in_udp_port: entry.esp_in_udp_port,
            reserved: [0; 2],
        }
    }

    /// The entry, if it names the devices that are there now.
    fn entry(&self, config: &Config) -> Option<ConfigEntry> {
        let entry = ConfigEntry {
            node: config.node,
            flags: config.flags,
            event_sample: config.event_sample,
            mark: config.mark,
            port: config.port,
            esp_in_udp_port: config.esp_in_udp_port,
        };
        (self.config(&entry) == *config).then_some(entry)
    }
}

/// A device that is gone stands as `#` and its index, which is the name of no device of ours.
fn device_name(devices: &BTreeMap<u32, String>, index: u32) -> String {
    devices
        .get(&index)
        .cloned()
        .unwrap_or_else(|| format!("#{index}"))
}

fn entries(
    maps: &Maps,
    known: &MapEntries,
    devices: &BTreeMap<u32, String>,
    own: &OwnDevices,
) -> Result<MapEntries, BpfError> {
    let name = |index| device_name(devices, index);
    let peer = |value: Peer| PeerEntry {
        tx: value.tx,
        vtep: value.vtep,
        local_vtep: value.local_vtep,
        underlay_device: name(value.underlay_ifindex),
        underlay_mtu: value.underlay_mtu,
    };
    let endpoint = |value: Endpoint| match value.location {
        Location::Local => EndpointEntry::Local {
            device: name(value.ifindex),
        },
        Location::Remote => EndpointEntry::Remote { peer: value.peer },
    };
    let flooded = |value: FloodTarget| match value.location {
        Location::Local => FloodEntry::Local {
            device: name(value.ifindex),
        },
        Location::Remote => FloodEntry::Remote { peer: value.peer },
    };
    Ok(MapEntries {
        config: maps.config.get()?.and_then(|config| own.entry(&config)),
        networks: maps.networks.read()?,
        local_ports: maps
            .local_ports
            .read()?
            .into_iter()
            .map(|(key, value)| (name(key.ifindex), value))
            .collect(),
        endpoints: maps.endpoints.read_beside(&known.endpoints, endpoint)?,
        addresses: maps
            .addresses
            .read_beside(&known.addresses, |value| value)?,
        peers: maps.peers.read_beside(&known.peers, peer)?,
        vteps: maps.vteps.read_beside(&known.vteps, |value| value)?,
        memberships: maps
            .memberships
            .read_beside(&known.memberships, |value| value)?,
        flood_lists: maps.flood_lists.read_beside(&known.flood_lists, flooded)?,
        sas: maps.sas.read_beside(&known.sas, |value| value)?,
    })
}

/// The sizes of loaded maps. That of `events` cannot be read and is taken for `events`.
pub(super) fn map_sizes(pinned: &Pinned, events: u32) -> MapSizes {
    let maps = pinned.maps();
    MapSizes {
        networks: maps.networks.capacity(),
        local_ports: maps.local_ports.capacity(),
        endpoints: maps.endpoints.capacity(),
        addresses: maps.addresses.capacity(),
        peers: maps.vteps.capacity(),
        memberships: maps.memberships.capacity(),
        flood_lists: maps.flood_lists.capacity(),
        sas: maps.sas.capacity(),
        events,
    }
}
