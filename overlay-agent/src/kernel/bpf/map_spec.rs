//! What each map must look like: from the ABI types, the object, and the settings.

use aya::maps::MapInfo;
use aya_obj::{Object, generated::bpf_map_type};
use overlay_ebpf::abi::{self, map};

use super::error::BpfError;
use crate::dataplane::desired::MapSizes;

/// The shape of a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapSpec {
    pub(super) name: &'static str,
    pub(super) map_type: u32,
    pub(super) key_size: u32,
    pub(super) value_size: u32,
    pub(super) max_entries: u32,
    pub(super) flags: u32,
    /// Field of [`MapSizes`] that sets `max_entries`; `None` if the object does.
    pub(super) setting: Option<&'static str>,
}

/// What the ABI alone says of a map: type, key size, value size.
fn abi_shape(name: &str) -> (bpf_map_type, usize, usize) {
    use bpf_map_type::{
        BPF_MAP_TYPE_ARRAY as ARRAY, BPF_MAP_TYPE_HASH as HASH,
        BPF_MAP_TYPE_PERCPU_HASH as PERCPU_HASH, BPF_MAP_TYPE_RINGBUF as RINGBUF,
    };
    const fn hash<K, V>() -> (bpf_map_type, usize, usize) {
        (HASH, size_of::<K>(), size_of::<V>())
    }
    const fn per_cpu<K, V>() -> (bpf_map_type, usize, usize) {
        (PERCPU_HASH, size_of::<K>(), size_of::<V>())
    }
    match name {
        map::CONFIG => (ARRAY, size_of::<u32>(), size_of::<abi::Config>()),
        map::LOCAL_PORTS => hash::<abi::LocalPortKey, abi::LocalPort>(),
        map::NETWORKS => hash::<abi::NetworkKey, abi::Network>(),
        map::ADDRESSES => hash::<abi::AddressKey, abi::Address>(),
        map::ENDPOINTS => hash::<abi::EndpointKey, abi::Endpoint>(),
        map::PEERS => hash::<abi::PeerKey, abi::Peer>(),
        map::FLOOD_LISTS => hash::<abi::FloodKey, abi::FloodTarget>(),
        map::SAS => hash::<abi::SecurityAssociationKey, abi::SecurityAssociation>(),
        map::VTEPS => hash::<abi::VtepKey, abi::Vtep>(),
        map::MEMBERSHIPS => hash::<abi::MembershipKey, abi::Membership>(),
        map::DROPS => per_cpu::<abi::CounterKey, abi::PacketCount>(),
        map::PEER_STATS => per_cpu::<abi::PeerKey, abi::PeerStats>(),
        map::EVENTS => (RINGBUF, 0, 0),
        _ => unreachable!("{name} is not in map::ALL"),
    }
}

/// The setting for a map's size, and its value.
pub(super) fn size(name: &str, sizes: &MapSizes) -> Option<(&'static str, u32)> {
    Some(match name {
        map::NETWORKS => ("networks", sizes.networks),
        map::LOCAL_PORTS => ("local_ports", sizes.local_ports),
        map::ENDPOINTS => ("endpoints", sizes.endpoints),
        map::ADDRESSES => ("addresses", sizes.addresses),
        map::PEERS | map::VTEPS | map::PEER_STATS => ("peers", sizes.peers),
        map::MEMBERSHIPS => ("memberships", sizes.memberships),
        map::FLOOD_LISTS => ("flood_lists", sizes.flood_lists),
        map::SAS => ("sas", sizes.sas),
        map::EVENTS => ("events", ring_size(sizes.events)),
        _ => return None,
    })
}

/// The size that aya gives a ring buffer: a power of two of pages, as the kernel wants it.
fn ring_size(bytes: u32) -> u32 {
    let page = rustix::param::page_size() as u32;
    page.saturating_mul(bytes.div_ceil(page).next_power_of_two())
}

/// Reads the maps of an object, checks them against the ABI, and applies the sizes.
pub(super) fn specs(object: &Object, sizes: &MapSizes) -> Result<Vec<MapSpec>, BpfError> {
    map::ALL
        .into_iter()
        .map(|name| {
            let definition = object
                .maps
                .get(name)
                .ok_or(BpfError::Missing { kind: "map", name })?;
            let (map_type, key_size, value_size) = abi_shape(name);
            let size = size(name, sizes);
            let spec = MapSpec {
                name,
                map_type: map_type as u32,
                key_size: key_size as u32,
                value_size: value_size as u32,
                max_entries: size.map_or(definition.max_entries(), |(_, size)| size),
                flags: definition.map_flags(),
                setting: size.map(|(setting, _)| setting),
            };
            let found = [
                ("type", definition.map_type(), spec.map_type),
                ("key size", definition.key_size(), spec.key_size),
                ("value size", definition.value_size(), spec.value_size),
            ];
            for (property, found, wanted) in found {
                if found != wanted {
                    return Err(BpfError::ObjectMap {
                        map: name,
                        property,
                        found: show(property, found),
                        wanted: show(property, wanted),
                    });
                }
            }
            Ok(spec)
        })
        .collect()
}

impl MapSpec {
    /// Checks a map that is already in the kernel.
    pub(super) fn check(&self, info: &MapInfo) -> Result<(), BpfError> {
        let map_type = info.map_type().map_or(0, |map_type| map_type as u32);
        let properties = [
            ("type", map_type, self.map_type),
            ("key size", info.key_size(), self.key_size),
            ("value size", info.value_size(), self.value_size),
            ("max_entries", info.max_entries(), self.max_entries),
            ("flags", info.map_flags(), self.flags),
        ];
        for (property, found, wanted) in properties {
            if found != wanted {
                return Err(BpfError::MapMismatch {
                    map: self.name,
                    property,
                    found: show(property, found),
                    wanted: show(property, wanted),
                    remedy: match (property, self.setting) {
                        ("max_entries", Some(setting)) => {
                            format!("set `map_sizes.{setting}` to {found}")
                        }
                        _ => "use the agent that loaded it".to_owned(),
                    },
                });
            }
        }
        Ok(())
    }
}

fn show(property: &str, value: u32) -> String {
    match property {
        "type" => bpf_map_type::try_from(value)
            .map(|known| format!("{known:?}").replace("BPF_MAP_TYPE_", ""))
            .unwrap_or_else(|_| value.to_string()),
        "flags" => format!("{value:#x}"),
        _ => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_but_config_and_drops_has_a_size_setting() {
        let fixed: Vec<_> = map::ALL
            .into_iter()
            .filter(|name| size(name, &MapSizes::default()).is_none())
            .collect();
        assert_eq!(fixed, [map::CONFIG, map::DROPS]);
        for name in map::ALL {
            abi_shape(name);
        }
    }

    #[test]
    fn a_ring_buffer_has_a_power_of_two_of_pages() {
        let page = rustix::param::page_size() as u32;
        assert_eq!(ring_size(1), page);
        assert_eq!(ring_size(page), page);
        assert_eq!(ring_size(2 * page + 1), 4 * page);
    }

    #[test]
    fn properties_are_shown_as_bpftool_shows_them() {
        assert_eq!(show("type", 1), "HASH");
        assert_eq!(show("flags", 1), "0x1");
        assert_eq!(show("key size", 12), "12");
    }
}
