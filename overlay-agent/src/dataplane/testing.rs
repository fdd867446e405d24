//! Desired data planes at random, and a kernel in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_ebpf::abi::{Epoch, Lane, MacAddr, PeerIndex, Slot, Vni};
use proptest::prelude::*;

use super::{
    copy_on_write::CopyOnWrite, desired::*, guard, key_id::KeyId, objects::*, reconcile::Kernel,
    step::Step,
};
use crate::secret::KeyMaterial;

pub fn index(index: u32) -> PeerIndex {
    PeerIndex::new(index).unwrap()
}

pub fn vni(vni: u32) -> Vni {
    Vni::new(vni).unwrap()
}

pub fn network(number: u32, encrypted: bool) -> Network {
    Network {
        name: format!("net{number}"),
        vni: vni(number),
        encrypted,
        replicate: false,
        mtu: None,
        mtu_at_most: None,
    }
}

/// A key that is the same for the same SA and different for any other.
pub fn key(direction: Direction, peer: u32, slot: u8, lane: u8, variant: u8) -> KeyMaterial {
    let mut bytes = [0; KeyMaterial::LEN];
    bytes[..8].copy_from_slice(&[
        u8::from(direction == Direction::Out),
        peer.to_be_bytes()[2],
        peer.to_be_bytes()[3],
        slot,
        lane,
        variant,
        0x5a,
        0xa5,
    ]);
    KeyMaterial::new(bytes)
}

pub fn sa(direction: Direction, peer: u32, slot: u8, lane: u8, variant: u8) -> SecurityAssociation {
    SecurityAssociation {
        direction,
        epoch: Epoch::new(u32::from(slot)),
        slot: Slot::new(slot),
        lane: Lane::new(lane).unwrap(),
        sender_generation: 1,
        receiver_generation: 1,
        keying: Keying::Keyed(key(direction, peer, slot, lane, variant)),
    }
}

/// A peer with SAs for `slots` in both directions, which it is sent to in `transmit`.
pub fn peer(number: u32, slots: &[u8], lanes: u8, transmit: Option<u8>) -> Peer {
    let mut sas = Vec::new();
    for &slot in slots {
        for lane in 0..lanes {
            sas.push(sa(Direction::Out, number, slot, lane, 0));
            sas.push(sa(Direction::In, number, slot, lane, 0));
        }
    }
    Peer {
        index: index(number),
        name: format!("node{number}"),
        vtep: format!("192.0.2.{number}").parse().unwrap(),
        networks: BTreeSet::new(),
        transmit: transmit.map(|slot| Transmit {
            epoch: Epoch::new(u32::from(slot)),
            slot: Slot::new(slot),
            lanes,
        }),
        sas,
    }
}

pub fn local(number: u32, host: u8) -> LocalEndpoint {
    LocalEndpoint {
        vni: vni(number),
        name: format!("local{number}-{host}"),
        netns: NetnsRef::Name(format!("ns{host}")),
        interface: format!("eth{}", number - 4096),
        mac: MacAddr::from_ipv4([10, 0, 0, host]),
        addresses: vec![(format!("10.0.0.{host}").parse().unwrap(), 24)],
        routes: Vec::new(),
    }
}

/// A route of an endpoint of [`local`], to a destination of its network's own.
pub fn route(number: u32, via: Option<u8>) -> Route {
    let to = format!("10.{}.0.0", number - 4000).parse().unwrap();
    Route {
        to: (to, 16),
        via: via.map(|host| [10, 0, 0, host].into()),
    }
}

pub fn remote(number: u32, peer: u32, host: u8) -> RemoteEndpoint {
    RemoteEndpoint {
        vni: vni(number),
        peer: index(peer),
        mac: MacAddr::from_ipv4([10, 0, 1, host]),
        addresses: [format!("10.0.1.{host}").parse().unwrap()].into(),
    }
}

pub fn remotes(desired: &mut DataPlane) -> &mut Vec<RemoteEndpoint> {
    &mut desired.remote_endpoints
}

/// Node 1 with an encrypted and a plain network and two peers: 2 shares both, 3 the plain one.
pub fn example() -> DataPlane {
    DataPlane {
        node: Node {
            index: index(1),
            name: "node1".into(),
            vteps: vec!["192.0.2.1".parse().unwrap()],
        },
        settings: Settings::default(),
        networks: [network(4096, true), network(4097, false)]
            .map(|network| (network.vni, network))
            .into(),
        peers: [peer(2, &[0], 2, Some(0)), peer(3, &[], 0, None)]
            .map(|peer| (peer.index, peer))
            .into(),
        local_endpoints: vec![local(4096, 1), local(4097, 2)],
        remote_endpoints: CopyOnWrite::new(vec![
            remote(4096, 2, 1),
            remote(4097, 2, 2),
            remote(4097, 3, 3),
        ]),
    }
}

/// A host that can do everything, with routes to all peers of `desired`.
pub fn facts(desired: &DataPlane) -> UnderlayFacts {
    let route = |vtep: IpAddr| UnderlayRoute {
        device: "eth0".into(),
        next_hop: vtep,
        mtu: 1500,
    };
    UnderlayFacts {
        routes: desired
            .peers
            .values()
            .map(|peer| (peer.vtep, route(peer.vtep)))
            .collect(),
        devices: ["eth0".to_owned(), "eth1".to_owned()].into(),
        features: Features {
            tcx: true,
            decap_l3: true,
            redirect_peer: true,
            ipsec: true,
            ipv6: true,
            force_forwarding: false,
            nft: true,
        },
        vteps: desired
            .node
            .vteps
            .iter()
            .map(|&vtep| {
                let device = VtepDevice {
                    device: "eth0".into(),
                    mtu: 1500,
                };
                (vtep, device)
            })
            .collect(),
        accept_ra: ["eth0".to_owned()].into(),
        ..UnderlayFacts::default()
    }
}

prop_compose! {
    fn any_peer(number: u32)(
        slots in proptest::collection::btree_set(0_u8..3, 0..3),
        lanes in 1_u8..4,
        transmit in 0_usize..4,
        moved in any::<bool>(),
        networks in proptest::collection::btree_set(0_u32..3, 0..2),
        variant in prop_oneof![9 => Just(0_u8), 1 => Just(1)],
    ) -> (Peer, BTreeSet<u32>) {
        let slots: Vec<u8> = slots.into_iter().collect();
        let transmit = slots.get(transmit).copied();
        let mut peer = peer(number, &slots, lanes, transmit);
        if moved {
            peer.vtep = format!("192.0.2.{}", number + 100).parse().unwrap();
        }
        for sa in &mut peer.sas {
            sa.keying = Keying::Keyed(key(sa.direction, number, sa.slot.get(), sa.lane.get(), variant));
        }
        (peer, networks)
    }
}

prop_compose! {
    /// Any data plane that passes validation, small enough to overlap with another.
    pub fn any_data_plane()(
        networks in proptest::collection::btree_map(0_u32..3, any::<(bool, bool)>(), 0..4),
        peers in (
            proptest::option::of(any_peer(2)),
            proptest::option::of(any_peer(3)),
            proptest::option::of(any_peer(4)),
        ),
        locals in proptest::collection::btree_map(
            (0_u32..3, 1_u8..4),
            proptest::option::of(proptest::option::of(253_u8..255)),
            0..4,
        ),
        remotes in proptest::collection::btree_map((0_u32..3, 1_u8..5), 2_u32..5, 0..5),
        port in prop_oneof![9 => Just(4789_u16), 1 => Just(4790)],
        esp_in_udp_port in prop_oneof![3 => Just(None), 1 => Just(Some(4500))],
        if_id in prop_oneof![9 => Just(7_u32), 1 => Just(8)],
        shift in prop_oneof![9 => Just(16_u32), 1 => Just(8)],
    ) -> DataPlane {
        let mut desired = example();
        desired.settings.port = port;
        desired.settings.esp_in_udp_port = esp_in_udp_port;
        desired.settings.if_id = if_id;
        if shift != 16 {
            desired.settings.mark.shift = shift;
            desired.settings.mark.mask = 0x600f_ffff;
        }
        desired.networks = networks
            .into_iter()
            .map(|(number, (encrypted, replicate))| {
                let mut network = network(4096 + number, encrypted);
                network.replicate = replicate;
                (network.vni, network)
            })
            .collect();
        let known = |number: u32| desired.networks.contains_key(&vni(4096 + number));
        desired.peers = [peers.0, peers.1, peers.2]
            .into_iter()
            .flatten()
            .map(|(mut peer, networks)| {
                peer.networks = networks
                    .into_iter()
                    .filter(|&number| known(number))
                    .map(|number| vni(4096 + number))
                    .collect();
                (peer.index, peer)
            })
            .collect();
        desired.local_endpoints = locals
            .into_iter()
            .filter(|&((number, _), _)| known(number))
            .map(|((number, host), via)| {
                let mut local = local(4096 + number, host);
                local.routes.extend(via.map(|via| route(4096 + number, via)));
                local
            })
            .collect();
        let remotes = remotes
            .into_iter()
            .filter(|&((number, _), peer)| known(number) && desired.peers.contains_key(&index(peer)))
            .map(|((number, host), peer)| remote(4096 + number, peer, host));
        desired.remote_endpoints = remotes.collect();
        desired
    }
}

/// A kernel that holds objects and does what it is told, up to a point.
pub struct SimulatedKernel {
    pub objects: Objects,
    pub used: BTreeSet<KeyId>,
    pub facts: Option<UnderlayFacts>,
    /// Steps that fail, by number since the start.
    pub failing: BTreeSet<usize>,
    /// From this step on nothing is done: who asks for it has been killed.
    pub killed_at: usize,
    pub executed: usize,
    /// Keys by how often each was installed.
    pub installed: BTreeMap<KeyId, usize>,
    /// What held in every state so far does not count twice.
    pub log: Vec<Step>,
    /// Broken rules, with the step after which they were.
    pub violations: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[error("told to fail")]
pub struct ToldToFail;

impl SimulatedKernel {
    pub fn new() -> Self {
        Self {
            objects: Objects::default(),
            used: BTreeSet::new(),
            facts: None,
            failing: BTreeSet::new(),
            killed_at: usize::MAX,
            executed: 0,
            installed: BTreeMap::new(),
            log: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// A reboot: nothing is left but what is on disk.
    pub fn reboot(&mut self) {
        self.objects = Objects::default();
    }
}

impl Kernel for SimulatedKernel {
    type Error = ToldToFail;

    async fn facts(&mut self, desired: &DataPlane) -> Result<UnderlayFacts, ToldToFail> {
        Ok(self.facts.clone().unwrap_or_else(|| facts(desired)))
    }

    async fn observe(&mut self) -> Result<Objects, ToldToFail> {
        let mut observed = self.objects.clone();
        for state in observed.states.values_mut() {
            state.keying = Keying::Adopted;
        }
        Ok(observed)
    }

    fn used_keys(&mut self) -> Result<BTreeSet<KeyId>, ToldToFail> {
        Ok(self.used.clone())
    }

    async fn execute(&mut self, step: &Step) -> Result<(), ToldToFail> {
        let number = self.executed;
        self.executed += 1;
        if self.failing.contains(&number) || number >= self.killed_at {
            return Err(ToldToFail);
        }
        if let Step::AddState(_, state) = step
            && let Keying::Keyed(material) = &state.keying
        {
            self.used.insert(KeyId::of(material));
            *self.installed.entry(KeyId::of(material)).or_default() += 1;
        }
        // A network never turns plain while it is open, whatever else stands.
        if let Some(why) = guard::step_blocked(&self.objects, step) {
            self.violations.push(format!("{step}: {why}"));
        }
        let broken_before = guard::violations(&self.objects);
        self.objects.apply(step);
        for broken in guard::violations(&self.objects) {
            if !broken_before.contains(&broken) {
                self.violations.push(format!("after {step}: {broken}"));
            }
        }
        self.log.push(step.clone());
        Ok(())
    }
}
