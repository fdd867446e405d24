//! Per-CPU counters, summed.

use std::collections::BTreeMap;

use aya::maps::{Map, MapData, MapError, PerCpuHashMap, PerCpuValues};
use overlay_ebpf::abi::{CounterKey, Direction, DropReason, PacketCount, PeerKey, PeerStats, map};

use super::{
    error::BpfError,
    maps::open_map,
    pin_root::PinRoot,
    table::{from_array, to_array},
};

const PEER_KEY: usize = size_of::<PeerKey>();
const PEER_STATS: usize = size_of::<PeerStats>();
const COUNTER_KEY: usize = size_of::<CounterKey>();
const PACKET_COUNT: usize = size_of::<PacketCount>();

/// `drops`: packets and bytes dropped since the data plane was loaded.
#[derive(Debug)]
pub(super) struct DropCounters {
    data: PerCpu<COUNTER_KEY, PACKET_COUNT>,
}

impl DropCounters {
    pub(super) fn open(pins: &PinRoot) -> Result<Self, BpfError> {
        PerCpu::open(pins, map::DROPS).map(|data| Self { data })
    }

    pub(super) fn read(&self) -> Result<BTreeMap<(DropReason, Direction), PacketCount>, BpfError> {
        let mut drops = BTreeMap::new();
        self.data.for_each(|key, values| {
            let counter: CounterKey = from_array(map::DROPS, "key", key, key)?;
            let mut sum = PacketCount::default();
            for value in values {
                let count: PacketCount = from_array(map::DROPS, "value", key, value)?;
                sum.packets += count.packets;
                sum.bytes += count.bytes;
            }
            drops.insert((counter.reason, counter.direction), sum);
            Ok(())
        })?;
        Ok(drops)
    }
}

/// `peer_stats`: frames and bytes exchanged with each peer.
#[derive(Debug)]
pub(super) struct PeerCounters {
    data: PerCpu<PEER_KEY, PEER_STATS>,
}

impl PeerCounters {
    pub(super) fn open(pins: &PinRoot) -> Result<Self, BpfError> {
        PerCpu::open(pins, map::PEER_STATS).map(|data| Self { data })
    }

    pub(super) fn read(&self) -> Result<BTreeMap<PeerKey, PeerStats>, BpfError> {
        let mut peers = BTreeMap::new();
        self.data.for_each(|key, values| {
            let peer: PeerKey = from_array(map::PEER_STATS, "key", key, key)?;
            let mut sum = PeerStats::default();
            for value in values {
                let stats: PeerStats = from_array(map::PEER_STATS, "value", key, value)?;
                sum.tx_packets += stats.tx_packets;
                sum.tx_bytes += stats.tx_bytes;
                sum.rx_packets += stats.rx_packets;
                sum.rx_bytes += stats.rx_bytes;
            }
            peers.insert(peer, sum);
            Ok(())
        })?;
        Ok(peers)
    }

    /// Makes sure that a peer is counted.
    pub(super) fn create(&mut self, key: &PeerKey) -> Result<(), BpfError> {
        self.data.create(to_array(key), "peers")
    }

    pub(super) fn delete(&mut self, key: &PeerKey) -> Result<(), BpfError> {
        self.data.delete(&to_array(key))
    }
}

/// A per-CPU hash over byte arrays.
struct PerCpu<const KS: usize, const VS: usize> {
    name: &'static str,
    capacity: u32,
    map: PerCpuHashMap<MapData, [u8; KS], [u8; VS]>,
}

impl<const KS: usize, const VS: usize> std::fmt::Debug for PerCpu<KS, VS> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PerCpu").field("name", &self.name).finish()
    }
}

impl<const KS: usize, const VS: usize> PerCpu<KS, VS> {
    fn open(pins: &PinRoot, name: &'static str) -> Result<Self, BpfError> {
        let failed = |source| BpfError::Map {
            attempt: "open",
            map: name,
            source,
        };
        let data = open_map(pins, name)?;
        let capacity = data.info().map_err(failed)?.max_entries();
        let map = Map::from_map_data(data)
            .and_then(PerCpuHashMap::try_from)
            .map_err(failed)?;
        Ok(Self {
            name,
            capacity,
            map,
        })
    }

    fn for_each(
        &self,
        mut visit: impl FnMut(&[u8; KS], &[[u8; VS]]) -> Result<(), BpfError>,
    ) -> Result<(), BpfError> {
        let limit = 4 * self.capacity as usize + 64;
        for (position, entry) in self.map.iter().enumerate() {
            if position >= limit {
                return Err(BpfError::Unsteady(self.name));
            }
            let (key, values) = entry.map_err(|source| self.failed("read", source))?;
            visit(&key, &values)?;
        }
        Ok(())
    }

    fn create(&mut self, key: [u8; KS], setting: &'static str) -> Result<(), BpfError> {
        /// Leave an entry that exists as it is (include/uapi/linux/bpf.h).
        const BPF_NOEXIST: u64 = 1;
        let cpus = aya::util::nr_cpus()
            .map_err(|(path, error)| BpfError::io("count the CPUs in", path)(error))?;
        let zero = PerCpuValues::try_from(vec![[0; VS]; cpus])
            .map_err(|source| self.failed("prepare a value for", source.into()))?;
        match self.map.insert(key, zero, BPF_NOEXIST) {
            Ok(()) => Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EEXIST) =>
            {
                Ok(())
            }
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::E2BIG) =>
            {
                Err(BpfError::MapFull {
                    map: self.name,
                    capacity: self.capacity,
                    setting,
                })
            }
            Err(source) => Err(self.failed("write to", source)),
        }
    }

    fn delete(&mut self, key: &[u8; KS]) -> Result<(), BpfError> {
        match self.map.remove(key) {
            Ok(()) => Ok(()),
            Err(MapError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
            {
                Ok(())
            }
            Err(source) => Err(self.failed("delete from", source)),
        }
    }

    fn failed(&self, attempt: &'static str, source: MapError) -> BpfError {
        BpfError::Map {
            attempt,
            map: self.name,
            source,
        }
    }
}
