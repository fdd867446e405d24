//! A model of one node's kernel and of the executor in front of it: SAs by slot, and what traffic
//! would meet. Traffic is continuous: every peer with a `transmit` is sent to at every instant.

use std::collections::{BTreeMap, BTreeSet};

use overlay_cluster::{
    rotation::{AdoptedSa, Direction, KernelEvent, Keying, PeerSas, SlotKey, Transmit},
    time::Instant,
};
use overlay_ebpf::abi::{Epoch, Lane, PeerIndex};

/// First bytes of a key: enough to tell keys apart.
pub type KeyName = u64;

/// The SAs of a slot.
#[derive(Debug, Clone)]
pub struct KernelSlot {
    pub epoch: Epoch,
    pub sender_generation: u64,
    pub receiver_generation: u64,
    /// By lane.
    pub keys: Vec<KeyName>,
    /// Outbound: when a packet was last sent in it, if it is not sent in now.
    pub last_sent: Option<Instant>,
}

/// One peer in the kernel.
#[derive(Debug, Default)]
pub struct KernelPeer {
    pub slots: BTreeMap<SlotKey, KernelSlot>,
    pub transmit: Option<Transmit>,
    /// Slots with which the executor has to do: installed, or refused and not cleaned up.
    pub attempted: BTreeSet<SlotKey>,
}

/// A change of a peer that traffic could notice.
#[derive(Debug)]
pub enum Change {
    /// Sent in from now on.
    Opened(Vec<KeyName>),
    /// Received no more.
    Closed(Vec<KeyName>),
    /// Gone at the sender, so long after the last packet was sent in it.
    Dropped(Vec<KeyName>, std::time::Duration),
}

#[derive(Debug, Default)]
pub struct Kernel {
    pub peers: BTreeMap<PeerIndex, KernelPeer>,
    /// The executor works on one thing at a time until then.
    pub busy: Instant,
}

impl Kernel {
    /// Slots of one direction and peer, at the most.
    pub const BOUND: usize = 4;

    /// Makes the SAs of a peer these. `refuse` says which new slots the kernel refuses.
    pub fn apply(
        &mut self,
        peer: PeerIndex,
        desired: PeerSas,
        now: Instant,
        mut refuse: impl FnMut() -> bool,
    ) -> (Vec<(SlotKey, KernelEvent)>, Vec<Change>) {
        let (mut events, mut changes) = (Vec::new(), Vec::new());
        let state = self.peers.entry(peer).or_default();
        let mut wanted = BTreeSet::new();
        let mut new: BTreeMap<SlotKey, KernelSlot> = BTreeMap::new();
        for sa in desired.sas {
            let key = SlotKey {
                direction: sa.direction,
                slot: sa.slot,
            };
            wanted.insert(key);
            if let Keying::Keyed(material) = sa.keying {
                assert!(
                    !state.slots.contains_key(&key),
                    "an SPI is given a new key while the kernel holds the old SA"
                );
                let slot = new.entry(key).or_insert_with(|| KernelSlot {
                    epoch: sa.epoch,
                    sender_generation: sa.sender_generation.0,
                    receiver_generation: sa.receiver_generation.0,
                    keys: Vec::new(),
                    last_sent: None,
                });
                assert_eq!(
                    slot.keys.len(),
                    usize::from(sa.lane.get()),
                    "lanes in order"
                );
                slot.keys.push(key_name(material.expose()));
            }
        }
        for (key, slot) in new {
            state.attempted.insert(key);
            if refuse() {
                events.push((key, KernelEvent::Failed));
            } else {
                state.slots.insert(key, slot);
                events.push((key, KernelEvent::Installed));
            }
        }
        let transmit = desired.transmit.filter(|transmit| {
            let key = SlotKey {
                direction: Direction::Out,
                slot: transmit.slot,
            };
            state
                .slots
                .get(&key)
                .is_some_and(|slot| slot.keys.len() >= usize::from(transmit.lanes))
        });
        if transmit != state.transmit {
            state.stop(now);
            state.transmit = transmit;
            if let Some(keys) = state.sent_in() {
                changes.push(Change::Opened(keys));
            }
        }
        let unwanted: Vec<_> = state
            .attempted
            .iter()
            .copied()
            .filter(|key| !wanted.contains(key))
            .collect();
        // Outbound first: the reverse of the order of installation.
        for key in unwanted.into_iter().rev() {
            state.attempted.remove(&key);
            if let Some(slot) = state.slots.remove(&key) {
                changes.extend(match (key.direction, slot.last_sent) {
                    (Direction::In, _) => Some(Change::Closed(slot.keys)),
                    (Direction::Out, Some(last)) => {
                        Some(Change::Dropped(slot.keys, now.since(last)))
                    }
                    (Direction::Out, None) => None,
                });
            }
            events.push((key, KernelEvent::Removed));
        }
        for direction in [Direction::In, Direction::Out] {
            let held = state.slots.keys().filter(|key| key.direction == direction);
            assert!(held.count() <= Self::BOUND, "SAs of a peer are bounded");
        }
        if state.attempted.is_empty() {
            self.peers.remove(&peer);
        }
        (events, changes)
    }

    /// Somebody flushes the SAs of a slot.
    pub fn lose(&mut self, peer: PeerIndex, key: SlotKey, now: Instant) {
        if let Some(state) = self.peers.get_mut(&peer) {
            if key.direction == Direction::Out
                && state
                    .transmit
                    .is_some_and(|transmit| transmit.slot == key.slot)
            {
                state.stop(now);
                state.transmit = None;
            }
            state.slots.remove(&key);
        }
    }

    /// What a new agent finds.
    pub fn adopted(&self) -> Vec<(PeerIndex, Vec<AdoptedSa>, Option<Transmit>)> {
        self.peers
            .iter()
            .map(|(peer, state)| {
                let sas = state.slots.iter().flat_map(|(key, slot)| {
                    (0..slot.keys.len()).map(|lane| AdoptedSa {
                        direction: key.direction,
                        epoch: slot.epoch,
                        slot: key.slot,
                        lane: Lane::new(lane as u8).expect("a lane"),
                        sender_generation: overlay_cluster::id::Generation(slot.sender_generation),
                        receiver_generation: overlay_cluster::id::Generation(
                            slot.receiver_generation,
                        ),
                    })
                });
                (*peer, sas.collect(), state.transmit)
            })
            .collect()
    }

    /// Whether a packet under this key would be opened.
    pub fn opens(&self, sender: PeerIndex, keys: &[KeyName]) -> bool {
        self.peers.get(&sender).is_some_and(|state| {
            state
                .slots
                .iter()
                .any(|(key, slot)| key.direction == Direction::In && slot.keys == keys)
        })
    }
}

impl KernelPeer {
    fn stop(&mut self, now: Instant) {
        if let Some(transmit) = self.transmit
            && let Some(slot) = self.slots.get_mut(&SlotKey {
                direction: Direction::Out,
                slot: transmit.slot,
            })
        {
            slot.last_sent = Some(now);
        }
    }

    /// Keys of the slot that is sent in.
    pub fn sent_in(&self) -> Option<Vec<KeyName>> {
        let key = SlotKey {
            direction: Direction::Out,
            slot: self.transmit?.slot,
        };
        Some(self.slots.get(&key)?.keys.clone())
    }
}

pub fn key_name(material: &[u8; 36]) -> KeyName {
    u64::from_le_bytes(*material.first_chunk().expect("36 bytes"))
}
