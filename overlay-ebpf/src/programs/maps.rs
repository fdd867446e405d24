//! The maps, in the order a frame meets them. Sizes here are the smallest that load anywhere; the
//! agent sets the real ones.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, PerCpuHashMap, RingBuf},
    macros::btf_map,
};
use overlay_ebpf::abi::{
    ABI_VERSION, Address, AddressKey, Config, CounterKey, Endpoint, EndpointKey, FloodKey,
    FloodTarget, LocalPort, LocalPortKey, Membership, MembershipKey, Network, NetworkKey,
    PacketCount, Peer, PeerKey, PeerStats, SecurityAssociation, SecurityAssociationKey, Vtep,
    VtepKey,
};

/// Memory follows use, not size.
const ON_DEMAND: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map(name = "config")]
static CONFIG: Array<Config, 1> = Array::new();
#[btf_map(name = "local_ports")]
static LOCAL_PORTS: HashMap<LocalPortKey, LocalPort, 64, ON_DEMAND> = HashMap::new();
#[btf_map(name = "networks")]
static NETWORKS: HashMap<NetworkKey, Network, 64, ON_DEMAND> = HashMap::new();
#[btf_map(name = "addresses")]
static ADDRESSES: HashMap<AddressKey, Address, 64, ON_DEMAND> = HashMap::new();
#[btf_map(name = "endpoints")]
static ENDPOINTS: HashMap<EndpointKey, Endpoint, 64, ON_DEMAND> = HashMap::new();
#[btf_map(name = "peers")]
static PEERS: HashMap<PeerKey, Peer, 64, ON_DEMAND> = HashMap::new();
#[btf_map(name = "flood_lists")]
static FLOOD_LISTS: HashMap<FloodKey, FloodTarget, 64, ON_DEMAND> = HashMap::new();
#[btf_map(name = "sas")]
static SAS: HashMap<SecurityAssociationKey, SecurityAssociation, 64, ON_DEMAND> = HashMap::new();
#[btf_map(name = "vteps")]
static VTEPS: HashMap<VtepKey, Vtep, 64, ON_DEMAND> = HashMap::new();
#[btf_map(name = "memberships")]
static MEMBERSHIPS: HashMap<MembershipKey, Membership, 64, ON_DEMAND> = HashMap::new();
/// One entry per (reason, direction) that has occurred.
#[btf_map(name = "drops")]
static DROPS: PerCpuHashMap<CounterKey, PacketCount, 512> = PerCpuHashMap::new();
#[btf_map(name = "peer_stats")]
static PEER_STATS: PerCpuHashMap<PeerKey, PeerStats, 64, ON_DEMAND> = PerCpuHashMap::new();
/// Declared without a value type: libbpf refuses a ring buffer that has one.
#[btf_map(name = "events")]
pub static EVENTS: RingBuf<(), 4096> = RingBuf::new();

/// The configuration, if an agent of this ABI has written it.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG
        .get(0)
        .filter(|config| config.abi_version == ABI_VERSION)
}

macro_rules! lookup {
    ($(#[$doc:meta])* $name:ident, $map:ident, $key:ty => $value:ty) => {
        $(#[$doc])*
        #[inline(always)]
        pub fn $name(key: &$key) -> Option<&'static $value> {
            // SAFETY: programs only read the entry, within one run; a concurrent replacement can
            // show the old or the new entry, and `Peer::tx` is read with one load.
            unsafe { $map.get(key) }
        }
    };
}

lookup!(local_port, LOCAL_PORTS, LocalPortKey => LocalPort);
lookup!(network, NETWORKS, NetworkKey => Network);
lookup!(address, ADDRESSES, AddressKey => Address);
lookup!(endpoint, ENDPOINTS, EndpointKey => Endpoint);
lookup!(peer, PEERS, PeerKey => Peer);
lookup!(flood_target, FLOOD_LISTS, FloodKey => FloodTarget);
lookup!(security_association, SAS, SecurityAssociationKey => SecurityAssociation);
lookup!(vtep, VTEPS, VtepKey => Vtep);
lookup!(membership, MEMBERSHIPS, MembershipKey => Membership);

/// Counts a dropped packet.
#[inline(always)]
pub fn count_drop(key: &CounterKey, bytes: u64) {
    let count = match DROPS.get_ptr_mut(key) {
        Some(count) => count,
        None => {
            // Another CPU may have inserted meanwhile: either way the entry is there afterwards.
            let _ = DROPS.insert(
                key,
                PacketCount {
                    packets: 0,
                    bytes: 0,
                },
                0,
            );
            match DROPS.get_ptr_mut(key) {
                Some(count) => count,
                None => return,
            }
        }
    };
    // SAFETY: the pointer is to this CPU's value, and programs do not preempt each other on a CPU.
    unsafe {
        (*count).packets += 1;
        (*count).bytes += bytes;
    }
}

/// Counts a frame sent to a peer.
#[inline(always)]
pub fn count_tx(peer: u32, bytes: u32) {
    if let Some(stats) = PEER_STATS.get_ptr_mut(PeerKey { peer }) {
        // SAFETY: as in `count_drop`.
        unsafe {
            (*stats).tx_packets += 1;
            (*stats).tx_bytes += u64::from(bytes);
        }
    }
}

/// Counts a frame accepted from a peer.
#[inline(always)]
pub fn count_rx(peer: u32, bytes: u32) {
    if let Some(stats) = PEER_STATS.get_ptr_mut(PeerKey { peer }) {
        // SAFETY: as in `count_drop`.
        unsafe {
            (*stats).rx_packets += 1;
            (*stats).rx_bytes += u64::from(bytes);
        }
    }
}
