//! A view of a small cluster for tests.

use std::{collections::BTreeMap, net::IpAddr};

use ed25519_dalek::SigningKey;
use ipnet::IpNet;
use overlay_cluster::{
    id::{ClusterId, EpochName, NodeId},
    identity::{
        authority::{Authority, Validity},
        trust::TrustBundle,
    },
    log::{
        addresses::Family,
        epochs::{Phase, RotationPolicy},
        member::{Availability, Contact, NodeKey, Role, Vteps},
        names::{Labels, NetworkName, NodeName, SoftwareVersion},
        networks::Network,
        settings::Settings,
        subnet::{Subnet, SubnetRequest},
        view::{EpochsView, Peer, Version, View},
    },
    time::Timestamp,
};
use overlay_ebpf::abi::{PeerIndex, Vni};
use rand::{SeedableRng as _, rngs::StdRng};

pub const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
pub const BLUE: u32 = 4096;
pub const GREEN: u32 = 4097;
pub const TIME: Timestamp = Timestamp::from_secs(1_800_000_000);

pub fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

pub fn key(n: u8) -> NodeKey {
    NodeKey::new(SigningKey::from_bytes(&[n; 32]).verifying_key().to_bytes()).unwrap()
}

pub fn id(n: u8) -> NodeId {
    key(n).id()
}

pub fn index(n: u8) -> PeerIndex {
    PeerIndex::new(n.into()).unwrap()
}

pub fn peer(n: u8) -> Peer {
    Peer {
        index: index(n),
        name: NodeName::new(format!("node-{n}")).unwrap(),
        key: key(n),
        role: Role::Worker,
        availability: Availability::Active,
        contact: Contact {
            vteps: Vteps {
                v4: Some([192, 0, 2, n].into()),
                v6: None,
            },
            control: ([192, 0, 2, n], 7946).into(),
            software: SoftwareVersion::new("0.1.0").unwrap(),
        },
        joined: TIME,
    }
}

pub fn network(number: u32, encrypted: bool) -> Network {
    let subnet = SubnetRequest {
        net: format!("10.{}.0.0/16", number - 4096).parse().unwrap(),
        gateway: None,
        range: None,
        block_prefix: None,
    };
    Network {
        name: NetworkName::new(format!("net-{number}")).unwrap(),
        vni: vni(number),
        encrypted,
        attachable: true,
        replicate: false,
        mtu: None,
        subnets: BTreeMap::from([(Family::V4, Subnet::new(&subnet).unwrap())]),
        rules: Vec::new(),
        labels: Labels::default(),
        created: TIME,
    }
}

/// What issues the certificates of the cluster.
pub fn authority() -> Authority {
    let rng = &mut StdRng::seed_from_u64(1);
    Authority::generate(CLUSTER, &Validity::default(), TIME, rng).unwrap()
}

/// What node 1 is told: five nodes, an encrypted network and a plain one.
pub fn view() -> View {
    let current = EpochName {
        incarnation: 0,
        number: 1,
        hash: [1; 8],
    };
    View {
        cluster: CLUSTER,
        version: Version {
            incarnation: 0,
            revision: 9,
        },
        time: TIME,
        trust: TrustBundle::new(authority().root().clone()),
        node: id(1),
        labels: Labels::default(),
        peers: (1..=5).map(|n| (id(n), peer(n))).collect(),
        networks: [network(BLUE, true), network(GREEN, false)]
            .into_iter()
            .map(|network| (network.vni, network))
            .collect(),
        leases: (1..=5).map(|n| (id(n), leases(n))).collect(),
        epochs: EpochsView {
            current,
            phase: Phase::Stable,
            kept: vec![current],
            rotated: TIME,
            policy: RotationPolicy::default(),
        },
        settings: Settings::default(),
    }
}

/// Address `host` of node `n`'s block, 10.x.n.0/24.
pub fn ip(number: u32, n: u8, host: u8) -> IpAddr {
    [10, u8::try_from(number - 4096).unwrap(), n, host].into()
}

/// Node `n` has 10.x.n.0/24 of both networks.
pub fn leases(n: u8) -> BTreeMap<Vni, Vec<IpNet>> {
    [BLUE, GREEN]
        .map(|number| (vni(number), vec![IpNet::new_assert(ip(number, n, 0), 24)]))
        .into()
}
