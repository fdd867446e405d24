//! The SAs that the kernel holds: those of the map `sas` whose XFRM state is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use overlay_cluster::{
    id::Generation,
    rotation::{AdoptedSa, Direction, SlotKey, Transmit, Usage},
};
use overlay_ebpf::abi::{
    Epoch, Lane, PeerIndex, SaDirection, SecurityAssociation, SecurityAssociationKey, Slot,
    VtepRole,
};

use super::Found;
use crate::{
    dataplane::{
        objects::{Objects, StateKey, StateMode},
        step::address_of,
    },
    kernel::xfrm,
    member::Held,
};

/// By what the kernel held when it was last left. `vteps` are those of peers, beside those that the
/// map `vteps` names.
pub fn held(left: &Objects, vteps: &BTreeMap<PeerIndex, IpAddr>) -> BTreeSet<Held> {
    let found = Lookup::new(left, vteps);
    left.maps
        .sas
        .iter()
        .filter_map(|(key, sa)| {
            found.state(key, sa)?;
            let sa = adopted(sa)?;
            Some((sa.0, slot_of(&sa.1), sa.1.lane))
        })
        .collect()
}

/// What an earlier agent left.
pub fn found(left: &Objects) -> Found {
    let lookup = Lookup::new(left, &BTreeMap::new());
    let mut found = Found::new();
    for (key, sa) in &left.maps.sas {
        if lookup.state(key, sa).is_some()
            && let Some((peer, sa)) = adopted(sa)
        {
            found.entry(peer).or_default().0.push(sa);
        }
    }
    for (key, entry) in &left.maps.peers {
        if let Ok(peer) = PeerIndex::new(key.peer)
            && let Some((_, transmit)) = found.get_mut(&peer)
            && entry.tx.lanes > 0
        {
            *transmit = Some(Transmit {
                epoch: Epoch::new(entry.tx.epoch),
                slot: Slot::new(entry.tx.slot),
                lanes: entry.tx.lanes,
            });
        }
    }
    found
}

/// What the SAs of each slot have carried: the sum of the bytes of its lanes, and the largest
/// sequence number.
pub fn usage(
    left: &Objects,
    used: &BTreeMap<StateKey, xfrm::Usage>,
) -> BTreeMap<(PeerIndex, SlotKey), Usage> {
    let lookup = Lookup::new(left, &BTreeMap::new());
    let mut out: BTreeMap<(PeerIndex, SlotKey), Usage> = BTreeMap::new();
    for (key, sa) in &left.maps.sas {
        let (Some(state), Some((peer, sa))) = (lookup.state(key, sa), adopted(sa)) else {
            continue;
        };
        let Some(used) = used.get(state) else {
            continue;
        };
        let slot = out.entry((peer, slot_of(&sa))).or_insert(Usage {
            sequence: 0,
            bytes: 0,
        });
        let sequence = match sa.direction {
            Direction::Out => used.sent_sequence,
            Direction::In => used.received_sequence,
        };
        slot.sequence = slot.sequence.max(sequence);
        slot.bytes = slot.bytes.saturating_add(used.bytes);
    }
    out
}

fn slot_of(sa: &AdoptedSa) -> SlotKey {
    SlotKey {
        direction: sa.direction,
        slot: sa.slot,
    }
}

/// An entry of the map; `None` of one that no agent wrote.
fn adopted(sa: &SecurityAssociation) -> Option<(PeerIndex, AdoptedSa)> {
    let adopted = AdoptedSa {
        direction: match sa.direction {
            SaDirection::Out => Direction::Out,
            SaDirection::In => Direction::In,
        },
        epoch: Epoch::new(sa.epoch),
        slot: Slot::new(sa.slot),
        lane: Lane::new(sa.lane).ok()?,
        sender_generation: Generation(sa.sender_generation),
        receiver_generation: Generation(sa.receiver_generation),
    };
    Some((PeerIndex::new(sa.peer).ok()?, adopted))
}

/// The states by SPI, and where each peer is.
struct Lookup<'a> {
    states: BTreeMap<u32, Vec<(&'a StateKey, StateMode)>>,
    vteps: BTreeMap<u32, BTreeSet<IpAddr>>,
}

impl<'a> Lookup<'a> {
    fn new(left: &'a Objects, known: &BTreeMap<PeerIndex, IpAddr>) -> Self {
        let mut states: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        for (key, state) in &left.states {
            states
                .entry(key.spi.get())
                .or_default()
                .push((key, state.mode));
        }
        let mut vteps: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
        for (key, vtep) in &left.maps.vteps {
            if vtep.role == VtepRole::Remote {
                let of_peer = vteps.entry(vtep.peer).or_default();
                of_peer.insert(address_of(&key.address));
            }
        }
        for (peer, vtep) in known {
            vteps.entry(peer.get()).or_default().insert(*vtep);
        }
        Self { states, vteps }
    }

    /// The state of an entry. A sender uses one SPI to all its peers, so an outbound one is told by
    /// where it leads; that of a peer whose address is not known counts, wherever it leads.
    fn state(
        &self,
        key: &SecurityAssociationKey,
        sa: &SecurityAssociation,
    ) -> Option<&'a StateKey> {
        let states = self.states.get(&key.spi)?;
        let vteps = self.vteps.get(&sa.peer);
        let is_it = |(state, mode): &&(&StateKey, StateMode)| match sa.direction {
            SaDirection::Out => {
                *mode == StateMode::Transport
                    && vteps.is_none_or(|vteps| vteps.contains(&state.destination))
            }
            SaDirection::In => {
                matches!(mode, StateMode::Beet { .. })
                    && vteps.is_none_or(|vteps| vteps.contains(&state.source))
            }
        };
        states.iter().find(is_it).map(|(state, _)| *state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataplane::{
        desired::DataPlane,
        reconcile::reconcile,
        testing::{SimulatedKernel, example},
    };

    fn applied(desired: &DataPlane) -> Objects {
        let mut kernel = SimulatedKernel::new();
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(reconcile(&mut kernel, desired, || false))
            .unwrap();
        kernel.objects
    }

    fn wanted(desired: &DataPlane) -> BTreeSet<Held> {
        let sas = |(peer, of): (&PeerIndex, &crate::dataplane::desired::Peer)| {
            let peer = *peer;
            let name = move |sa: &crate::dataplane::desired::SecurityAssociation| {
                let (direction, slot) = (sa.direction, sa.slot);
                (peer, SlotKey { direction, slot }, sa.lane)
            };
            of.sas.iter().map(name).collect::<Vec<_>>()
        };
        desired.peers.iter().flat_map(sas).collect()
    }

    #[test]
    fn what_was_installed_is_held_and_found_again_but_for_what_was_lost() {
        let desired = example();
        let mut objects = applied(&desired);
        let all = wanted(&desired);
        assert!(!all.is_empty());
        assert_eq!(held(&objects, &BTreeMap::new()), all);
        let again = found(&objects);
        for (peer, (sas, transmit)) in &again {
            assert_eq!(sas.len(), desired.peers[peer].sas.len());
            assert_eq!(*transmit, desired.peers[peer].transmit);
        }
        let lost = *objects.states.keys().next().unwrap();
        objects.states.remove(&lost);
        let still = held(&objects, &BTreeMap::new());
        assert_eq!(still.len(), all.len() - 1);
        assert!(still.is_subset(&all));
    }

    #[test]
    fn usage_is_of_slots() {
        let desired = example();
        let objects = applied(&desired);
        let used: BTreeMap<_, _> = objects
            .states
            .keys()
            .map(|key| {
                let used = xfrm::Usage {
                    bytes: 10,
                    sent_sequence: 3,
                    ..xfrm::Usage::default()
                };
                (*key, used)
            })
            .collect();
        let usage = usage(&objects, &used);
        for ((peer, slot), usage) in &usage {
            let sas = desired.peers[peer].sas.iter();
            let lanes = sas
                .filter(|sa| (sa.direction, sa.slot) == (slot.direction, slot.slot))
                .count();
            assert_eq!(usage.bytes, 10 * lanes as u64);
            let sent = if slot.direction == Direction::Out {
                3
            } else {
                0
            };
            assert_eq!(usage.sequence, sent);
        }
        assert!(usage.len() >= 2);
    }
}
