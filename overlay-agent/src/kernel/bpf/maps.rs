//! The maps that user space writes.

use std::{collections::BTreeMap, fmt};

use aya::maps::{Array, Map, MapData};
use overlay_ebpf::abi::{
    self, ABI_VERSION, Address, AddressKey, Config, Endpoint, EndpointKey, FloodKey, FloodTarget,
    LocalPort, LocalPortKey, Membership, MembershipKey, Network, NetworkKey, Peer, PeerKey,
    PeerStats, SecurityAssociation, SecurityAssociationKey, Vtep, VtepKey, map,
};

use super::{
    counters::PeerCounters,
    error::BpfError,
    map_spec,
    pin_root::PinRoot,
    table::{Table, TableDigest, from_array, to_array},
};
use crate::dataplane::{copy_on_write::CopyOnWrite, desired::MapSizes};

macro_rules! table {
    ($key:ty => $value:ty) => {
        Table<$key, $value, { size_of::<$key>() }, { size_of::<$value>() }>
    };
}

/// The maps by name.
#[derive(Debug)]
pub struct Maps {
    pub config: ConfigMap,
    pub local_ports: table!(LocalPortKey => LocalPort),
    pub networks: table!(NetworkKey => Network),
    pub addresses: table!(AddressKey => Address),
    pub endpoints: table!(EndpointKey => Endpoint),
    pub peers: PeerMap,
    pub flood_lists: table!(FloodKey => FloodTarget),
    pub sas: table!(SecurityAssociationKey => SecurityAssociation),
    pub vteps: table!(VtepKey => Vtep),
    pub memberships: table!(MembershipKey => Membership),
}

/// What stands for everything that the maps hold: equal where nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapsDigest {
    config: Option<Config>,
    tables: [TableDigest; 9],
}

/// What the maps hold, with device indices as they stand there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObservedMaps {
    /// `None` before the first apply.
    pub config: Option<Config>,
    pub local_ports: BTreeMap<LocalPortKey, LocalPort>,
    pub networks: BTreeMap<NetworkKey, Network>,
    pub addresses: BTreeMap<AddressKey, Address>,
    pub endpoints: BTreeMap<EndpointKey, Endpoint>,
    pub peers: BTreeMap<PeerKey, Peer>,
    pub flood_lists: BTreeMap<FloodKey, FloodTarget>,
    pub sas: BTreeMap<SecurityAssociationKey, SecurityAssociation>,
    pub vteps: BTreeMap<VtepKey, Vtep>,
    pub memberships: BTreeMap<MembershipKey, Membership>,
}

impl Maps {
    pub(super) fn open(pins: &PinRoot) -> Result<Self, BpfError> {
        fn table<K, V, const KS: usize, const VS: usize>(
            pins: &PinRoot,
            name: &'static str,
        ) -> Result<Table<K, V, KS, VS>, BpfError>
        where
            K: bytemuck::NoUninit + bytemuck::CheckedBitPattern + Ord,
            V: bytemuck::NoUninit + bytemuck::CheckedBitPattern,
        {
            let setting =
                map_spec::size(name, &MapSizes::default()).map_or("", |(setting, _)| setting);
            Table::new(name, setting, open_map(pins, name)?)
        }
        Ok(Self {
            config: ConfigMap::new(open_map(pins, map::CONFIG)?)?,
            local_ports: table(pins, map::LOCAL_PORTS)?,
            networks: table(pins, map::NETWORKS)?,
            addresses: table(pins, map::ADDRESSES)?,
            endpoints: table(pins, map::ENDPOINTS)?,
            peers: PeerMap {
                // A frame in flight could go to another member of the cluster, which drops it; on an
                // encrypted network under that member's own SA. And a new epoch replaces them all.
                peers: table(pins, map::PEERS)?.harmless(),
                counters: PeerCounters::open(pins)?,
            },
            flood_lists: table(pins, map::FLOOD_LISTS)?,
            sas: table(pins, map::SAS)?,
            vteps: table(pins, map::VTEPS)?,
            memberships: table(pins, map::MEMBERSHIPS)?,
        })
    }

    /// Reads them all.
    pub fn observe(&self) -> Result<ObservedMaps, BpfError> {
        Ok(ObservedMaps {
            config: self.config.get()?,
            local_ports: self.local_ports.read()?,
            networks: self.networks.read()?,
            addresses: self.addresses.read()?,
            endpoints: self.endpoints.read()?,
            peers: self.peers.peers.read()?,
            flood_lists: self.flood_lists.read()?,
            sas: self.sas.read()?,
            vteps: self.vteps.read()?,
            memberships: self.memberships.read()?,
        })
    }

    /// Reads them all, and keeps nothing of them.
    pub fn digest(&self) -> Result<MapsDigest, BpfError> {
        let Self {
            config,
            local_ports,
            networks,
            addresses,
            endpoints,
            peers,
            flood_lists,
            sas,
            vteps,
            memberships,
        } = self;
        Ok(MapsDigest {
            config: config.get()?,
            tables: [
                local_ports.digest()?,
                networks.digest()?,
                addresses.digest()?,
                endpoints.digest()?,
                peers.digest()?,
                flood_lists.digest()?,
                sas.digest()?,
                vteps.digest()?,
                memberships.digest()?,
            ],
        })
    }
}

/// Opens a pinned map.
pub(super) fn open_map(pins: &PinRoot, name: &'static str) -> Result<MapData, BpfError> {
    let path = pins.map(name);
    if !path.exists() {
        return Err(BpfError::NotPinned {
            kind: "map",
            name,
            path,
        });
    }
    MapData::from_pin(&path).map_err(|source| BpfError::Map {
        attempt: "open the pin of",
        map: name,
        source,
    })
}

/// `peers`. Each entry has its counters in `peer_stats`, which the programs do not create.
#[derive(Debug)]
pub struct PeerMap {
    peers: table!(PeerKey => Peer),
    counters: PeerCounters,
}

impl PeerMap {
    /// As [`Table::get`].
    pub fn get(&self, key: &PeerKey) -> Result<Option<Peer>, BpfError> {
        self.peers.get(key)
    }

    /// As [`Table::put`]. The counters of a new peer start at 0, those of a known one go on.
    pub fn put(&mut self, key: &PeerKey, peer: &Peer) -> Result<(), BpfError> {
        self.counters.create(key)?;
        self.peers.put(key, peer)
    }

    /// As [`Table::delete`]; the counters go as well.
    pub fn delete(&mut self, key: &PeerKey) -> Result<bool, BpfError> {
        let existed = self.peers.delete(key)?;
        self.counters.delete(key)?;
        Ok(existed)
    }

    /// As [`Table::read_beside`].
    pub fn read_beside<W: PartialEq>(
        &self,
        known: &CopyOnWrite<BTreeMap<PeerKey, W>>,
        of: impl Fn(Peer) -> W,
    ) -> Result<CopyOnWrite<BTreeMap<PeerKey, W>>, BpfError> {
        self.peers.read_beside(known, of)
    }

    /// As [`Table::digest`].
    pub fn digest(&self) -> Result<TableDigest, BpfError> {
        self.peers.digest()
    }

    pub(super) fn stats(&self) -> Result<BTreeMap<PeerKey, PeerStats>, BpfError> {
        self.counters.read()
    }
}

const CONFIG_SIZE: usize = size_of::<Config>();

/// `config`.
pub struct ConfigMap {
    map: Array<MapData, [u8; CONFIG_SIZE]>,
}

impl fmt::Debug for ConfigMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigMap").finish_non_exhaustive()
    }
}

impl ConfigMap {
    fn new(data: MapData) -> Result<Self, BpfError> {
        let map = Map::from_map_data(data)
            .and_then(Array::try_from)
            .map_err(|source| BpfError::Map {
                attempt: "open",
                map: map::CONFIG,
                source,
            })?;
        Ok(Self { map })
    }

    /// The configuration; `None` before the first apply.
    pub fn get(&self) -> Result<Option<Config>, BpfError> {
        let bytes = self.map.get(&0, 0).map_err(|source| BpfError::Map {
            attempt: "read",
            map: map::CONFIG,
            source,
        })?;
        let config: Config = from_array(map::CONFIG, "value", &[], &bytes)?;
        Ok((config.abi_version != 0).then_some(config))
    }

    /// Writes the configuration; `abi_version` is filled in.
    ///
    /// The kernel writes an array entry in place, word by word, and programs read it meanwhile. A
    /// change that would be wrong half-done closes the data plane for its length (microseconds).
    /// One that changes nothing writes nothing.
    pub fn put(&mut self, config: &Config) -> Result<(), BpfError> {
        let wanted = Config {
            abi_version: ABI_VERSION,
            ..*config
        };
        let closed = Config {
            abi_version: 0,
            ..wanted
        };
        match self.get()? {
            Some(found) if found == wanted => Ok(()),
            Some(found) if differs_in_one_word_each(&found, &wanted) => self.write(&wanted),
            Some(found) => {
                self.write(&Config {
                    abi_version: 0,
                    ..found
                })?;
                self.write(&closed)?;
                self.write(&wanted)
            }
            None => {
                self.write(&closed)?;
                self.write(&wanted)
            }
        }
    }

    fn write(&mut self, config: &Config) -> Result<(), BpfError> {
        self.map
            .set(0, to_array(config), 0)
            .map_err(|source| BpfError::Map {
                attempt: "write to",
                map: map::CONFIG,
                source,
            })
    }
}

/// Whether only fields changed whose new value is right beside the old value of any other.
fn differs_in_one_word_each(found: &Config, wanted: &Config) -> bool {
    Config {
        flags: wanted.flags,
        event_sample: wanted.event_sample,
        ..*found
    } == *wanted
}

const _: () = assert!(
    abi::map::ALL.len() == 13,
    "a new map needs a field in `Maps`"
);

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    #[test]
    fn only_flags_and_sampling_change_while_the_data_plane_is_open() {
        let found = Config {
            port: 4789,
            ..Config::zeroed()
        };
        let sampled = Config {
            event_sample: 1,
            flags: 2,
            ..found
        };
        assert!(differs_in_one_word_each(&found, &sampled));
        let moved = Config {
            port: 4790,
            ..sampled
        };
        assert!(!differs_in_one_word_each(&found, &moved));
    }
}
